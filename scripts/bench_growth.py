"""Measures how time and memory grow with samples, parameters and depth.

    python3 scripts/bench_growth.py [--runs 3] [samples|width|depth …]

Doubles one size at a time of a network like those of NAS-Bench-201. Each point is the median of
runs of the whole command in separate processes. Writes docs/performance.md and the pictures
docs/growth-time.svg and docs/growth-memory.svg.
"""

import argparse
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import torch
from torch import nn

from bench.data import data_file
from bench.measure import DATA, MODELS, RESULTS, Programs, arguments, build, environment, say, score
from bench.networks import RESIDUAL, nasbench201, write
from bench.page import mebibytes, note, publish, seconds, table
from bench.plot import Line, plot
from reference.paths import ROOT

SIZE = 32


@dataclass(frozen=True)
class Series:
    """A quantity that grows, its sizes, and the network and number of samples for each size."""

    title: str
    sizes: tuple[int, ...]
    network: Callable[[int], nn.Module]
    samples: Callable[[int], int]


SERIES = {
    "samples": Series(
        "samples (16 channels, 1 cell a stage)",
        (16, 32, 64, 128, 256, 512),
        lambda _: nasbench201(RESIDUAL, 16, 1),
        lambda size: size,
    ),
    "width": Series(
        "channels (1 cell a stage, 32 samples)",
        (8, 16, 32, 64, 128),
        lambda size: nasbench201(RESIDUAL, size, 1),
        lambda _: 32,
    ),
    "depth": Series(
        "cells a stage (16 channels, 32 samples)",
        (1, 2, 4, 8, 16),
        lambda size: nasbench201(RESIDUAL, 16, size),
        lambda _: 32,
    ),
}


def point(programs: Programs, name: str, size: int, runs: int) -> dict:
    """The medians at one size."""
    series = SERIES[name]
    torch.manual_seed(0)
    model = MODELS / f"growth-{name}-{size}.onnx"
    write(series.network(size), SIZE, model)
    data = data_file(DATA, SIZE, series.samples(size))
    done = [score(programs, model, data, "--metric", "gradalign-1,gradalign-2") for _ in range(runs)]
    failed = next((row["error"]["message"] for _, row in done if row["error"]), None)
    if failed:
        raise SystemExit(f"{model}: {failed}")
    say(f"{name} {size}: {median(finished.seconds for finished, _ in done):.2f} s")
    return {
        "size": size,
        "parameters": done[0][1]["parameters"],
        "seconds": median(finished.seconds for finished, _ in done),
        "peak_memory": median(finished.peak_memory for finished, _ in done),
    }


def exponent(points: list[dict], of: str, over: str) -> float:
    """The slope of a line fitted to the logarithms."""
    return linear_regression([math.log(p[over]) for p in points], [math.log(p[of]) for p in points]).slope


def exponents(name: str, points: list[dict]) -> list[list[str]]:
    """One row for the doubled quantity, and for width and depth another one for the parameters."""
    axes = {SERIES[name].title: "size"} | ({} if name == "samples" else {f"parameters, by {name}": "parameters"})
    rows = []
    for title, over in axes.items():
        steep = [points[-2], points[-1]]
        cells = [exponent(points, "seconds", over), exponent(steep, "seconds", over)]
        cells += [exponent(points, "peak_memory", over), exponent(steep, "peak_memory", over)]
        rows.append([title, f"{points[0][over]:,} … {points[-1][over]:,}", *(f"{cell:.2f}" for cell in cells)])
    return rows


def render(results: dict[str, list[dict]], measured: dict) -> str:
    slopes = [row for name, points in results.items() for row in exponents(name, points)]
    head = ["grows", "from … to", "exponent of time", "last step", "exponent of memory", "last step"]
    rows = [
        [SERIES[name].title, str(p["size"]), f"{p['parameters']:,}", seconds(p["seconds"]), mebibytes(p["peak_memory"])]
        for name, points in results.items()
        for p in points
    ]
    return "\n\n".join(
        [
            note(measured),
            "![Seconds against size, both logarithmic](growth-time.svg)",
            "![Peak memory against size, both logarithmic](growth-memory.svg)",
            table(head, slopes),
            table(["grows", "size", "parameters", "seconds", "peak memory, MiB"], rows),
        ]
    )


def draw(results: dict[str, list[dict]]) -> None:
    def lines(key: str, unit: float) -> list[Line]:
        return [
            Line(SERIES[name].title, [(p["size"], p[key] / unit) for p in points]) for name, points in results.items()
        ]

    pictures = {
        "growth-time.svg": ("Seconds of the whole command", lines("seconds", 1)),
        "growth-memory.svg": ("Peak memory in MiB", lines("peak_memory", 2**20)),
    }
    for name, (title, drawn) in pictures.items():
        (ROOT / "docs" / name).write_text(plot(title, drawn))


def stored(name: str) -> Path:
    return RESULTS / f"growth-{name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked = arguments(parser, "series", SERIES, runs=3)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    programs = build()
    measured = environment(programs)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in asked.names or SERIES:
        points = [point(programs, name, size, asked.runs) for size in SERIES[name].sizes]
        stored(name).write_text(json.dumps(points, indent=1))
    results = {name: json.loads(stored(name).read_text()) for name in SERIES if stored(name).exists()}
    draw(results)
    publish("growth", {"environment": measured, "results": results}, render(results, measured))


if __name__ == "__main__":
    main()
