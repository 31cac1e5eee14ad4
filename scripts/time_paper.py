"""What `--metric paper` costs against the scores one by one, in seconds a model.

    cargo build --release && python3 scripts/time_paper.py [MODEL …] [-- OPTION …]

Each time is the least of three runs, as gradalign reports it: import, differentiation, sessions and
runs, without the start of the process. What follows `--` goes to gradalign.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/gradalign"
MODELS = ["models/nasbench201-cell.onnx", "models/resnet20.onnx", "models/plain-cnn.onnx", "models/vit.onnx"]
DATA = ["--data", "fixtures/digits.npz"]
SCORES = [
    *("gradalign-1", "gradalign-2", "gradsign", "naswot", "te-nas", "zen"),
    *("grad-norm", "snip", "grasp", "synflow", "fisher", "jacob-cov"),
]
# What shares least: passes over the whole batch for each row of a kernel, and second derivatives.
COSTLY = {"te-nas", "grasp"}
RUNS = 3


def seconds(models: list[str], metric: str, options: list[str]) -> list[float]:
    """The seconds that each model took."""
    command = [BINARY, "score", *models, "--metric", metric, "--format", "json", "--quiet", *DATA, *options]
    runs = []
    for _ in range(RUNS):
        # Exit code 1: a score that a model does not have, which is timed like any other.
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
        if result.returncode not in (0, 1):
            raise SystemExit(result.returncode)
        runs.append([row["seconds"] for row in json.loads(result.stdout)["models"]])
    return [min(times) for times in zip(*runs, strict=True)]


def row(name: str, values: list[float]) -> None:
    print(f"| {name} |", " | ".join(f"{value:.2f}" for value in values), "|", flush=True)


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    models, options = arguments[:split] or MODELS, arguments[split + 1 :]
    columns = {metric: seconds(models, metric, options) for metric in SCORES}
    names = [Path(model).stem for model in models]
    print("| score |", " | ".join(names), "|")
    print("|---|", "---:|" * len(names), sep="")
    for metric, times in columns.items():
        row(metric, times)
    for title, chosen in (("all", SCORES), ("all but te-nas and grasp", [s for s in SCORES if s not in COSTLY])):
        apart = [sum(times) for times in zip(*(columns[metric] for metric in chosen), strict=True)]
        together = seconds(models, ",".join(chosen), options)
        row(f"**{title}**, one by one", apart)
        row(f"**{title}**, together", together)
        row("ratio", [a / b for a, b in zip(together, apart, strict=True)])


if __name__ == "__main__":
    main()
