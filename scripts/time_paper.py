"""Compares the time of `--metric paper` with that of the scores one by one, in seconds per model.

    cargo build --release && python3 scripts/time_paper.py [MODEL …] [-- OPTION …]

Each time is the median of five runs, as gradalign reports it: import, differentiation, sessions and
runs, without the start of the process. Arguments after `--` are passed to gradalign.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/gradalign"
MODELS = ["models/nasbench201-cell.onnx", "models/resnet20.onnx", "models/plain-cnn.onnx", "models/vit.onnx"]
DATA = ["--data", "fixtures/digits.npz"]
SCORES = [
    *("gradalign-1", "gradalign-2", "gradsign", "naswot", "te-nas", "zen"),
    *("grad-norm", "snip", "grasp", "synflow", "fisher", "jacob-cov"),
]
# These share the least with others: a pass over the batch for each row of a kernel, and second derivatives.
COSTLY = {"te-nas", "grasp"}
RUNS = 5


def seconds(models: list[str], metric: str, options: list[str]) -> list[float]:
    """The seconds that each model took."""
    command = [BINARY, "score", *models, "--metric", metric, "--format", "json", "--quiet", *DATA, *options]
    # Exit code 1: a model lacks a score. It is timed like any other.
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.returncode)
    return [row["seconds"] for row in json.loads(result.stdout)["models"]]


def row(name: str, values: list[float]) -> None:
    print(f"| {name} |", " | ".join(f"{value:.2f}" for value in values), "|", flush=True)


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    models, options = arguments[:split] or MODELS, arguments[split + 1 :]
    sets = {"all": SCORES, "all but te-nas and grasp": [score for score in SCORES if score not in COSTLY]}
    asked = [*SCORES, *(",".join(scores) for scores in sets.values())]
    # Alternate, so that other load on the machine is spread over all of them.
    runs = {metrics: [] for metrics in asked}
    for _ in range(RUNS):
        for metrics in asked:
            runs[metrics].append(seconds(models, metrics, options))
    times = {metrics: [median(each) for each in zip(*found, strict=True)] for metrics, found in runs.items()}
    names = [Path(model).stem for model in models]
    print("| score |", " | ".join(names), "|")
    print("|---|", "---:|" * len(names), sep="")
    for metric in SCORES:
        row(metric, times[metric])
    for title, scores in sets.items():
        apart = [sum(each) for each in zip(*(times[score] for score in scores), strict=True)]
        together = times[",".join(scores)]
        row(f"**{title}**, one by one", apart)
        row(f"**{title}**, together", together)
        row("ratio", [a / b for a, b in zip(together, apart, strict=True)])


if __name__ == "__main__":
    main()
