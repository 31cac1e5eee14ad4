"""GradAlign-I and -II on a GPU, by gradalign and by PyTorch: seconds, and how far the scores are off.

    pip install -r scripts/requirements/torch.txt 'onnxruntime-gpu[cuda,cudnn]'
    python3 scripts/bench_gpu.py [--runs 3] [--resume] [--programs FOLDER] [NETWORK …]

Like scripts/bench_peers.py, for one CUDA device. Scores are compared with those of PyTorch's loop over
samples on the CPU: gradalign's must agree to one in a thousand, PyTorch's are shown with
their difference. `--programs` names a folder with `gradalign` and `parts`, for a machine without Rust.
Results go to docs/performance.md and docs/performance.json.
"""

import argparse
import json
import warnings
from pathlib import Path
from statistics import median

from bench.data import data_file
from bench.measure import DATA, MODELS, RESULTS, SCRIPTS, Programs, arguments, build, environment, parts, run, say, score
from bench.networks import NETWORKS, export
from bench.page import note, publish, seconds, table
from bench_peers import Worker, differs, label, peer_command

DEVICE = "cuda"
# PyTorch's methods, with the options that each adds to the command.
WAYS = {
    "vmap": ("vmap", []),
    "vmap-no-cudnn": ("vmap", ["--no-cudnn"]),
    "loop": ("loop", []),
}
# Networks measured with both batch-norm modes. The others use the stored statistics.
BOTH = ("nasbench201-residual-32", "nasbench201-residual")


def off(found: dict, reference: dict) -> float:
    """The relative difference of GradAlign-I."""
    expected = reference["gradalign-1"]
    return abs(found["gradalign-1"] - expected) / abs(expected)


def peers(name: str, mode: str, data: Path, runs: int) -> tuple[dict, dict]:
    """The scores of the loop on the CPU, and the results of PyTorch's methods on the GPU."""

    def start(peer: str, *options: str) -> Worker:
        return Worker([*peer_command(peer, name, mode, data), *options])

    workers = {way: start(peer, "--device", DEVICE, *options) for way, (peer, options) in WAYS.items()}
    reference = start("loop")
    try:
        computed = reference.compute()
        if "error" in computed:
            raise SystemExit(f"{name}, {mode}: no reference: {computed['error']}")
        expected = computed["scores"]
        turns: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way, worker in workers.items():
                turns[way].append(worker.compute())
    finally:
        for worker in (reference, *workers.values()):
            worker.end()
    rows = {}
    for way, done in turns.items():
        failed = next((turn["error"] for turn in done if "error" in turn), None)
        times = None if failed else median(turn["seconds"] for turn in done)
        rows[way] = {"error": failed} if failed else {"seconds": times, "off": off(done[-1]["scores"], expected)}
    return expected, rows


def ours(programs: Programs, model: Path, data: Path, mode: str, device: str, runs: int) -> dict:
    """The whole command, the parts, and the scores, on a device."""
    options = ["--bn", mode, "--device", device]
    commands = []
    for _ in range(runs):
        finished, row = score(programs, model, data, *options)
        if row["error"]:
            return {"error": row["error"]["message"]}
        commands.append(finished.seconds)
    turns = [parts(programs, model, data, *options) for _ in range(runs)]
    found = {part: median(turn["seconds"][part] for turn in turns) for part in turns[0]["seconds"]}
    scores = {metric: score["value"] for metric, score in row["scores"].items()}
    return {"command": median(commands), "parts": found, "scores": scores}


def compare(programs: Programs, name: str, mode: str, runs: int) -> dict:
    network = NETWORKS[name]
    model = export(name, MODELS, programs.gradalign)
    data = data_file(DATA, network.size, network.samples)
    expected, rows = peers(name, mode, data, runs)
    for device in (DEVICE, "cpu"):
        row = ours(programs, model, data, mode, device, runs)
        if "error" not in row:
            row["off"] = off(row["scores"], expected)
            if differs(row["scores"], expected):
                row = {"error": f"scores differ: {row['scores']} against {expected}"}
        rows[device] = row
    if name == "nasbench201-residual-32":
        script = [*peer_command("vmap", name, mode, data), "--device", DEVICE]
        rows["script"] = {"command": run(script, cwd=SCRIPTS).seconds}
    say(f"{name}, {mode}: {json.dumps(rows)}")
    return {"network": name, "bn": mode, "samples": network.samples, "ways": rows}


def cell(row: dict, *columns: str) -> list[str]:
    """The columns of a row, or the reason why there are none."""
    if "error" in row:
        return [row["error"].replace("|", "/"), *[""] * (len(columns) - 1)]
    values = {**row, **row.get("parts", {})}
    return [f"{values[column]:.0e}" if column == "off" else seconds(values[column]) for column in columns]


def render(results: list[dict], measured: dict) -> str:
    own = [
        [*label(r), *cell(r["ways"][DEVICE], "command", "total", "session", "run"), *cell(r["ways"]["cpu"], "command", "total")]
        for r in results
    ]
    head = ["command, s", "scoring, s", "session", "run", "processor: command, s", "scoring, s"]
    peers = [[*label(r), *(text for way in WAYS for text in cell(r["ways"][way], "seconds", "off"))] for r in results]
    scripts = [[*label(r), *cell(r["ways"]["script"], "command")] for r in results if "script" in r["ways"]]
    first = ["network", "batch norm", "samples"]
    tables = [
        note(measured),
        table([*first, *head], own, 2),
        "PyTorch on the same GPU, once warmed up:",
        table([*first, "vmap(grad), s", "off by", "without cuDNN, s", "off by", "loop, s", "off by"], peers, 2),
    ]
    if scripts:
        tables += ["A whole Python script with `vmap(grad)`, imports included:", table([*first, "s"], scripts, 2)]
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="keep results that are there")
    parser.add_argument("--programs", type=Path, help="folder with gradalign and parts; built where it is not given")
    asked = arguments(parser, "network", NETWORKS, runs=3)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    programs = build(asked.programs)
    measured = environment(programs)
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = asked.names or NETWORKS
    wanted = [(name, mode) for name in names for mode in (NETWORKS[name].modes if name in BOTH else ("running",))]
    results = []
    for name, mode in wanted:
        path = RESULTS / f"{name}-{mode}-{DEVICE}.json"
        if not (asked.resume and path.exists()):
            path.write_text(json.dumps(compare(programs, name, mode, asked.runs), indent=1))
        results.append(json.loads(path.read_text()))
        publish("gpu", {"environment": measured, "results": results}, render(results, measured))
    failed = [f"{r['network']} {r['bn']}: {r['ways'][d]['error']}" for r in results for d in (DEVICE, "cpu") if "error" in r["ways"][d]]
    if failed:
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
