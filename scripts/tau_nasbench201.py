"""Measures how well training-free scores rank networks of NAS-Bench-201: Kendall's tau with their accuracies.

    python3 scripts/tau_nasbench201.py --truth TRUTH.csv --data IMAGES.npz [--column accuracy]
                                       [--networks 300] [--samples 128] [--seed 0] [--svg FILE]

The networks are drawn from all 5⁶ of the space, at full size (16 channels, five cells per stage), with
PyTorch's default initialisation, and exported to target/bench/nasbench201, where they are kept.
You provide TRUTH.csv, a table with the columns `arch` (in the notation of the space) and an accuracy, and
IMAGES.npz, with labelled images of the data set. `gradalign rank` scores all networks.

Prints a Markdown table: Kendall's tau-b with a 95 % interval from 2,000 bootstrap samples of the
networks, and the accuracy of the network that the score ranks first. A network without a score counts
as last. `--svg` draws accuracy against the first score.
"""

import argparse
import csv
import json
import random
import warnings
from pathlib import Path

import numpy as np

from bench.measure import TARGET, build, run, say
from bench.page import table
from bench.scatter import scatter
from bench_nasbench201 import SPACE, architecture, export

METRICS = ("gradalign-1", "gradalign-2", "naswot", "params")
RESAMPLES = 2000
# Lower than every score.
LAST = -1e300


def accuracies(path: Path, column: str) -> dict[str, float]:
    with path.open(newline="") as file:
        return {row["arch"]: float(row[column]) for row in csv.DictReader(file)}


def tau_b(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of two lists, by all pairs."""
    above = np.triu_indices(len(x), 1)
    dx, dy = (np.sign(v[:, None] - v[None, :])[above] for v in (x, y))
    pairs = np.sqrt(np.count_nonzero(dx) * np.count_nonzero(dy))
    return float((dx * dy).sum() / pairs) if pairs else 0.0


def interval(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of tau-b over bootstrap samples."""
    draws = (rng.integers(len(x), size=len(x)) for _ in range(RESAMPLES))
    low, high = np.percentile([tau_b(x[i], y[i]) for i in draws], (2.5, 97.5))
    return float(low), float(high)


def scores(row: dict) -> list[float]:
    values = (row["scores"].get(name, {}).get("value") for name in METRICS)
    return [LAST if value is None else value for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--column", default="accuracy")
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--chance", type=float, default=10, help="accuracies up to this are left out of the picture")
    parser.add_argument("--again", action="store_true", help="take the scores of the last run")
    parser.add_argument("--build", type=Path, help="a folder with gradalign in it; default: cargo build")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    programs = build(arguments.build)
    truth = accuracies(arguments.truth, arguments.column)
    drawn = random.Random(arguments.seed).sample(range(SPACE), arguments.networks)
    models = [export(index) for index in drawn]
    say(f"{len(models)} networks exported")
    command = [programs.gradalign, "rank", *models, "--data", arguments.data, "--samples", arguments.samples]
    command += ["--metric", ",".join(METRICS), "--format", "json", "-q"]
    report = TARGET / "tau-nasbench201.json"
    if not arguments.again:
        report.write_text(run(command, accepted=(0, 1)).output)
    rows = {Path(row["model"]).stem: row for row in json.loads(report.read_text())["models"]}
    values = np.array([scores(rows[f"{index:05}"]) for index in drawn])
    accuracy = np.array([truth[architecture(index)] for index in drawn])
    lines = []
    for name, column in zip(METRICS, values.T, strict=True):
        low, high = interval(column, accuracy, np.random.default_rng(arguments.seed))
        first = accuracy[column == column.max()].mean()
        without = str(np.count_nonzero(column == LAST))
        tau = f"{tau_b(column, accuracy):.3f}"
        lines.append([f"`{name}`", tau, f"{low:.3f} … {high:.3f}", f"{first:.2f}", without])
    print(table(["score", "tau-b", "95 % interval", "accuracy of the first", "without a score"], lines))
    print(f"\nbest of the {len(drawn)}: {accuracy.max():.2f}, mean {accuracy.mean():.2f}")
    if arguments.svg:
        drawn_in = (values[:, 0] > LAST) & (accuracy > arguments.chance)
        points = list(zip(values[drawn_in, 0].tolist(), accuracy[drawn_in].tolist(), strict=True))
        title = f"{len(points)} networks of NAS-Bench-201"
        if left_out := len(drawn) - len(points):
            title += f" ({left_out} at chance are not drawn)"
        arguments.svg.write_text(scatter(title, "GradAlign-I at initialisation", "accuracy after training, %", points))


if __name__ == "__main__":
    main()
