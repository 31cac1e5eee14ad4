"""Runs programs and measures seconds and peak memory. Reports the machine and versions."""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

from reference.paths import ROOT

TARGET = ROOT / "target/bench"
MODELS, DATA, RESULTS = TARGET / "models", TARGET / "data", TARGET / "results"
SCRIPTS = ROOT / "scripts"


@dataclass(frozen=True)
class Programs:
    """The programs built by cargo."""

    gradalign: Path
    parts: Path


@dataclass(frozen=True)
class Finished:
    """The output of a process, its seconds from start to end, and its peak memory in bytes."""

    output: str
    seconds: float
    peak_memory: int


def arguments(parser: argparse.ArgumentParser, what: str, known: Collection[str], runs: int) -> argparse.Namespace:
    """Parses the arguments of a benchmark: a selection of `known`, and the number of runs."""
    parser.add_argument("names", nargs="*", metavar=what.upper(), help=f"some of {', '.join(known)}")
    parser.add_argument("--runs", type=int, default=runs, help=f"turns of each ({runs})")
    found = parser.parse_args()
    if unknown := sorted(set(found.names) - set(known)):
        parser.error(f"no {what} {', '.join(unknown)}")
    if found.runs < 1:
        parser.error("at least one run")
    return found


def build(folder: Path | None = None) -> Programs:
    """Builds the program and the benchmark of its parts, or takes them from `folder`. Returns their paths."""
    if folder:
        return Programs(folder / "gradalign", folder / "parts")
    command = ["cargo", "build", "--locked", "--release", "--bin", "gradalign", "--bench", "parts"]
    done = subprocess.run([*command, "--message-format", "json"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    found = {m["target"]["name"]: Path(m["executable"]) for m in messages if m.get("executable")}
    return Programs(found["gradalign"], found["parts"])


def run(command: list[str | Path], accepted: tuple[int, ...] = (0,), cwd: Path = ROOT) -> Finished:
    """Runs a process to its end. Fails unless its exit status is in `accepted`."""
    launcher = [sys.executable, "-I", "-S", SCRIPTS / "bench/launch.py"]
    done = subprocess.run([*launcher, *map(str, command)], cwd=cwd, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    if found["status"] not in accepted:
        raise SystemExit(f"exit status {found['status']}: {' '.join(map(str, command))}")
    return Finished(found["output"], found["seconds"], found["peak_memory"])


def parts(programs: Programs, model: Path, data: Path, *options: str) -> dict:
    """The times of the parts of one scoring."""
    command = [programs.parts, model, "--data", data, "--samples", "0", "--runs", "1", *options]
    (row,) = json.loads(run(command).output)["models"]
    return row


def score(programs: Programs, model: Path, data: Path, *options: str) -> tuple[Finished, dict]:
    """Runs the whole command. Returns the measurement and the row that it printed."""
    command = [programs.gradalign, "score", model, "--data", data, "--samples", "all", "--format", "json", "-q"]
    finished = run([*command, *options], accepted=(0, 1))
    (row,) = json.loads(finished.output)["models"]
    return finished, row


def environment(programs: Programs) -> dict:
    """Machine, versions and date."""
    info = Path("/proc/cpuinfo").read_text()
    entries = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    entries = {key.strip(): value.strip() for key, value in entries.items()}
    flags = [flag for flag in ("avx2", "fma", "avx512f", "amx_tile") if flag in entries.get("flags", "").split()]
    doctor = json.loads(run([programs.gradalign, "doctor", "--format", "json"], accepted=(0, 1, 2)).output)
    onnxruntime = next((e for e in doctor["engines"] if e["name"] == "onnxruntime"), {})
    libraries = ("torch", "torchvision", "opacus", "backpack-for-pytorch", "numpy")
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": date.today().isoformat(),
        "commit": head.stdout.strip() or None,
        "processor": entries.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": flags,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": gpu(),
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.get("version"),
            **{name: version(name) for name in libraries},
        },
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gpu() -> str | None:
    """The name of the first NVIDIA GPU."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)
