"""The output of every exporter for the checker: a folder with a model, its data, and its gradients.

This file imports only numpy, since each framework runs in a separate environment.

- `model.onnx` from the exporter;
- `data.npz`: the inputs under their names in the file, and `labels`;
- `gradients.npz`: for parameter i its value `value.i` (float32) and its per-sample gradients
  `grad.i` (float64), in the framework's layout, and the losses of the samples, `loss`;
- `case.json`: names and facts.

A case that the exporter cannot write has a `case.json` only, with the reason.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

WORK = Path(__file__).resolve().parents[2] / "target" / "matrix"

SAMPLES = 4
CLASSES = 10


def folder(name: str, exporter: str) -> Path:
    return WORK / f"{name}@{exporter}"


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def save_facts(path: Path, **facts: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "case.json").write_text(json.dumps(facts, indent=1) + "\n")


def save_numbers(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    parameters: Sequence[tuple[str, np.ndarray, np.ndarray]],
    losses: np.ndarray,
) -> None:
    """Saves data and gradients. A parameter is a name, a value and gradients `[samples, shape…]`."""
    np.savez_compressed(path / "data.npz", labels=labels, **inputs)
    arrays: dict[str, np.ndarray] = {"loss": losses, "names": np.array([name for name, _, _ in parameters])}
    for i, (_, value, gradients) in enumerate(parameters):
        arrays[f"value.{i}"] = np.asarray(value, np.float32)
        arrays[f"grad.{i}"] = np.asarray(gradients, np.float64)
    np.savez(path / "gradients.npz", **arrays)
