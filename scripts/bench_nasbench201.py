"""Times `gradalign rank` on a hundred networks of NAS-Bench-201.

    python3 scripts/bench_nasbench201.py [--networks 100] [--samples 32] [--seed 0]

The networks are drawn from all 5⁶ of the space, at full size (16 channels, five cells per stage), and
exported to target/bench/nasbench201, where they are kept. The time is that of the whole command, by
default and one network at a time. It includes networks that cannot be scored, but not the exports. Results go
to docs/performance.md.
"""

import argparse
import json
import random
import warnings
from collections import Counter
from pathlib import Path

import torch

from bench.data import data_file
from bench.measure import DATA, TARGET, Programs, build, environment, run, say
from bench.networks import nasbench201, write
from bench.page import mebibytes, note, publish, seconds, table

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0,), (0, 1), (0, 1, 2))
SPACE = len(OPERATIONS) ** sum(map(len, EDGES))
SIZE = 32


def architecture(index: int) -> str:
    """The architecture whose operations are the base-5 digits of `index`, starting with the last edge."""
    nodes = []
    for sources in EDGES:
        edges = []
        for source in sources:
            index, digit = divmod(index, len(OPERATIONS))
            edges.append(f"{OPERATIONS[digit]}~{source}")
        nodes.append(f"|{'|'.join(edges)}|")
    return "+".join(nodes)


def export(index: int) -> Path:
    path = TARGET / "nasbench201" / f"{index:05}.onnx"
    if not path.exists():
        torch.manual_seed(index)
        write(nasbench201(architecture(index)), SIZE, path)
    return path


def rank(programs: Programs, models: list[Path], samples: int, jobs: int) -> dict:
    data = data_file(DATA, SIZE, samples)
    command = [programs.gradalign, "rank", *models, "--data", data, "--samples", "all", "--format", "json", "-q"]
    command += ["--jobs", jobs]
    finished = run(command, accepted=(0, 1))
    rows = json.loads(finished.output)["models"]
    times = {Path(row["model"]).stem: row["seconds"] for row in rows}
    slowest = max(times, key=times.__getitem__)
    return {
        "networks": len(models),
        "samples": samples,
        "seconds": finished.seconds,
        "mean": finished.seconds / len(models),
        "slowest": {"architecture": architecture(int(slowest)), "seconds": times[slowest]},
        "peak_memory": finished.peak_memory,
        "without": dict(Counter(filter(None, map(reason, rows))).most_common()),
        "times": times,
    }


def reason(row: dict) -> str | None:
    """The reason why a network lacks one or both scores."""
    if row["error"]:
        return f"no score: {row['error']['message']}"
    missing = [metric for metric, score in row["scores"].items() if score["value"] is None]
    if not missing:
        return None
    singular = [warning for warning in row["warnings"] if "is singular: " in warning]
    causes = sorted({warning.split("is singular: ")[1].split(";")[0] for warning in singular})
    return f"no {', '.join(missing)}: {'; '.join(causes or row['warnings'])}"


def render(results: dict, measured: dict) -> str:
    ways = [results, results["one_at_a_time"]]
    slowest = ways[1]["slowest"]
    architecture = slowest["architecture"].replace("|", r"\|")
    rows = [
        ["networks", *(str(way["networks"]) for way in ways)],
        ["seconds, all in all", *(f"{way['seconds']:.1f}" for way in ways)],
        ["seconds a network", *(seconds(way["mean"]) for way in ways)],
        [f"seconds of the slowest, `{architecture}`", "", seconds(slowest["seconds"])],
        ["peak memory, MiB", *(mebibytes(way["peak_memory"]) for way in ways)],
    ]
    without = [[why.replace("|", "/"), str(count)] for why, count in results["without"].items()]
    text = f"{note(measured)}\n\n{table(['', 'by default', 'one at a time'], rows)}"
    if without:
        text += f"\n\nNot every network has both scores. The times include all networks:\n\n{table(['reason', 'networks'], without)}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 1 <= arguments.networks <= SPACE:
        parser.error(f"from 1 to {SPACE} networks")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    programs = build()
    measured = environment(programs)
    drawn = random.Random(arguments.seed).sample(range(SPACE), arguments.networks)
    models = [export(index) for index in drawn]
    say(f"{len(models)} networks exported")
    results = rank(programs, models, arguments.samples, 0)
    results["one_at_a_time"] = rank(programs, models, arguments.samples, 1)
    say(f"{results['mean']:.2f} s a network, {results['one_at_a_time']['mean']:.2f} one at a time")
    publish("nasbench201", {"environment": measured, "results": results}, render(results, measured))


if __name__ == "__main__":
    main()
