"""GradAlign-I and -II by gradalign and by PyTorch, on the same weights and data: seconds and memory.

    pip install -r scripts/requirements/torch.txt -r scripts/requirements/bench.txt
    python3 scripts/bench_peers.py [--runs 5] [--resume] [NETWORK …]     the comparison
    python3 scripts/bench_peers.py --all                                 and then the other benchmarks

Each method computes both scores in a separate process. The methods take turns, so that other load on the
machine is spread over all of them. PyTorch's processes stay and are warmed up; gradalign starts anew each
time. A method whose scores differ from the loop's by more than one in a thousand has an error instead of a
time, and the exit status is 1. Results go to docs/performance.md and docs/performance.json. With `--resume`,
networks that are in target/bench/results are not measured again.
"""

import argparse
import json
import subprocess
import sys
import warnings
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.data import data_file
from bench.measure import DATA, MODELS, RESULTS, SCRIPTS, Programs, arguments, build, environment, parts, run, say, score
from bench.networks import NETWORKS, export
from bench.page import mebibytes, note, publish, seconds, table, times
from bench.peers import PEERS

TOLERANCE = 1e-3
# A method that has taken this many seconds in total takes no further turns.
PATIENCE = 30
OURS = "gradalign"
TITLES = {
    OURS: "gradalign",
    "loop": "PyTorch, loop over samples",
    "vmap": "torch.func, vmap(grad) of all samples",
    "vmap-class": "torch.func, vmap(grad) class by class",
    "opacus": "Opacus",
    "backpack": "BackPACK",
}
PARTS = ("import", "build", "session", "run")


# --- Measuring ---------------------------------------------------------------------------------


def peer_command(peer: str, name: str, mode: str, data: Path) -> list[str]:
    weights = MODELS / f"{name}.pt"
    options = ["--weights", str(weights), "--data", str(data), "--bn", mode]
    return [sys.executable, "-W", "ignore", "-m", "bench.peers", peer, name, *options]


class Worker:
    """A process that computes the scores once for each line that it receives."""

    def __init__(self, command: list[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*command, "--serve"], cwd=SCRIPTS, stdin=pipe, stdout=pipe, text=True)

    def compute(self) -> dict:
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended, status {self.process.wait()}"}

    def end(self) -> None:
        self.process.communicate()


def turn_of_gradalign(programs: Programs, model: Path, data: Path, mode: str) -> dict:
    """Runs the whole command, and the benchmark of its parts."""
    finished, row = score(programs, model, data, "--bn", mode)
    if row["error"]:
        return {"error": row["error"]["message"]}
    measured = parts(programs, model, data, "--bn", mode, "--again", "--forward")
    return {
        "command": finished.seconds,
        "seconds": measured["seconds"]["total"],
        "parts": measured["seconds"],
        "peak_memory": finished.peak_memory,
        "scores": {metric: found["value"] for metric, found in row["scores"].items()},
    }


def turn_of_script(command: list[str]) -> dict:
    """Runs a whole Python script that prints the scores."""
    finished = run(command, cwd=SCRIPTS)
    printed = json.loads(finished.output)
    return printed | {"command": finished.seconds, "peak_memory": finished.peak_memory}


def differs(found: dict, reference: dict) -> bool:
    """Whether a score differs from the reference."""

    def far(a: float | None, b: float | None) -> bool:
        return (a is None) != (b is None) if a is None or b is None else abs(a - b) > TOLERANCE * abs(b)

    return any(far(found[metric], value) for metric, value in reference.items())


def middle(turns: list[dict], key: str) -> float | None:
    values = [turn[key] for turn in turns if key in turn]
    return median(values) if values else None


def summary(turns: list[dict], reference: dict | None) -> dict:
    """The medians of a method's turns, or the reason why there are none."""
    failed = next((turn["error"] for turn in turns if "error" in turn), None)
    if failed:
        return {"error": failed}
    scores = turns[-1]["scores"]
    if reference is None or differs(scores, reference):
        return {"error": f"scores differ: {scores} against {reference}", "mismatch": True}
    row = {key: middle(turns, key) for key in ("command", "seconds", "gradients")}
    row = {key: value for key, value in row.items() if value is not None}
    row |= {"runs": len(turns), "scores": scores, "peak_memory": max(turn["peak_memory"] for turn in turns)}
    if "parts" in turns[0]:
        row["parts"] = {part: median(turn["parts"][part] for turn in turns) for part in turns[0]["parts"]}
    return row


def compare(programs: Programs, name: str, mode: str, runs: int) -> dict:
    """Measures all methods on a network."""
    network = NETWORKS[name]
    model = export(name, MODELS, programs.gradalign)
    data = data_file(DATA, network.size, network.samples)
    workers = {peer: Worker(peer_command(peer, name, mode, data)) for peer in PEERS}
    script = peer_command("vmap-class", name, mode, data)
    ways = {
        OURS: lambda: turn_of_gradalign(programs, model, data, mode),
        "script": lambda: turn_of_script(script),
        **{peer: worker.compute for peer, worker in workers.items()},
    }
    turns: dict[str, list[dict]] = {way: [] for way in ways}
    spent = dict.fromkeys(ways, 0.0)
    try:
        for _ in range(runs):
            for way, turn in ways.items():
                if spent[way] > PATIENCE or any("error" in done for done in turns[way]):
                    continue
                start = perf_counter()
                turns[way].append(turn())
                spent[way] += perf_counter() - start
    finally:
        for worker in workers.values():
            worker.end()
    reference = next((turn["scores"] for turn in turns["loop"] if "scores" in turn), None)
    rows = {way: summary(done, reference) for way, done in turns.items()}
    say(f"{name}, {mode}: " + ", ".join(f"{way} {spent[way]:.0f} s" for way in ways))
    return {"network": name, "bn": mode, "samples": network.samples, "ways": rows}


# --- Writing -----------------------------------------------------------------------------------


def label(result: dict) -> list[str]:
    network = NETWORKS[result["network"]]
    mode = result["bn"] if network.batch_norm else "–"
    return [network.title, mode, str(result["samples"])]


def overview(results: list[dict]) -> str:
    rows = []
    for result in results:
        ways = result["ways"]
        ours, script = ways[OURS], ways["script"]
        peers = {peer: ways[peer] for peer in PEERS if "error" not in ways[peer]}
        if "error" in ours or "error" in script or not peers:
            rows.append([*label(result), *["error"] * 8])
            continue
        best = min(peers, key=lambda peer: peers[peer]["seconds"])
        rows.append(
            [
                *label(result),
                seconds(ours["command"]),
                seconds(script["command"]),
                times(script["command"] / ours["command"]),
                seconds(ours["seconds"]),
                f"{seconds(peers[best]['seconds'])} ({best})",
                times(peers[best]["seconds"] / ours["seconds"]),
                mebibytes(ours["peak_memory"]),
                mebibytes(script["peak_memory"]),
            ]
        )
    commands = ["command, s", "script, s", "ratio"]
    scorings = ["scoring, s", "fastest peer, s", "ratio"]
    memory = ["command, MiB", "script, MiB"]
    return table(["network", "batch norm", "samples", *commands, *scorings, *memory], rows, 2)


def details(results: list[dict]) -> str:
    rows = []
    for result in results:
        ours = result["ways"][OURS]
        for way in (OURS, *PEERS):
            row = result["ways"][way]
            head = [*label(result)[:2], TITLES[way]]
            if "error" in row:
                rows.append([*head, row["error"].replace("|", "/"), "", "", "", ""])
                continue
            ratio = times(row["seconds"] / ours["seconds"]) if "seconds" in ours else ""
            alone = seconds(row["gradients"]) if "gradients" in row else ""
            rows.append([*head, seconds(row["seconds"]), alone, ratio, mebibytes(row["peak_memory"]), str(row["runs"])])
    head = ["network", "batch norm", "way", "scores, s", "gradients alone, s", "ratio", "peak memory, MiB", "runs"]
    return table(head, rows, 3)


def pieces(results: list[dict]) -> str:
    rows = []
    for result in results:
        found = result["ways"][OURS].get("parts")
        if found:
            forwards = 3 * found["forward"]
            again = found.get("again")
            vmap = result["ways"]["vmap"].get("seconds")
            cells = [seconds(found[part]) for part in PARTS]
            cells += [seconds(again) if again else "", times(again / vmap) if again and vmap else ""]
            rows.append([*label(result), *cells, seconds(forwards), times(found["run"] / forwards)])
    head = [*PARTS, "run again", "again / vmap(grad)", "three forwards", "run / three forwards"]
    return table(["network", "batch norm", "samples", *head], rows, 2)


def render(results: list[dict], measured: dict) -> str:
    return "\n\n".join(
        [
            note(measured),
            "### Overview",
            overview(results),
            "### Every way",
            details(results),
            "### The parts of gradalign",
            pieces(results),
        ]
    )


# --- The command -------------------------------------------------------------------------------


def stored(name: str, mode: str) -> Path:
    return RESULTS / f"{name}-{mode}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resume", action="store_true", help="keep results that are there")
    parser.add_argument("--all", action="store_true", help="the other benchmarks as well")
    asked = arguments(parser, "network", NETWORKS, runs=5)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    programs = build()
    measured = environment(programs)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, mode in chain.from_iterable(((name, mode) for mode in NETWORKS[name].modes) for name in asked.names or NETWORKS):
        path = stored(name, mode)
        if not (asked.resume and path.exists()):
            result = compare(programs, name, mode, asked.runs)
            path.write_text(json.dumps(result, indent=1))
    # Include results of earlier runs, so that a single network can be measured again.
    files = [stored(name, mode) for name, network in NETWORKS.items() for mode in network.modes]
    results = [json.loads(path.read_text()) for path in files if path.exists()]
    publish("peers", {"environment": measured, "results": results}, render(results, measured))
    if asked.all:
        for script in ("bench_nasbench201.py", "bench_growth.py"):
            subprocess.run([sys.executable, SCRIPTS / script], check=True)
    wrong = [f"{r['network']} {r['bn']}: {way}" for r in results for way, row in r["ways"].items() if "mismatch" in row]
    if wrong:
        raise SystemExit("scores differ: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
