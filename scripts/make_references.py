"""Writes `fixtures/references/<model>.json`: PyTorch's results in float64 for every model.

    python scripts/make_references.py [MODEL …]

The layout of the files is described in `fixtures/README.md`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from reference.extra import EXTRA_REFERENCES
from reference.gradients import (
    BatchNormMode,
    gradient_matrix,
    has_batch_norm,
    named_ranges,
    rounding_noise,
    sample_gradients,
    set_batch_norm,
)
from reference.paths import REFERENCES, ROOT
from reference.registry import SHIPPED, Reference, shipped
from reference.scores import gradalign_1, gradalign_2
from reference.sketch import sketch

SAMPLES = 4
DIGITS = 9
AGREEMENT = 2e-5


def rounded(value: Any) -> Any:
    """Rounds all floats to nine significant digits, recursively."""
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case list():
            return [rounded(v) for v in value]
        case dict():
            return {k: rounded(v) for k, v in value.items()}
    return value


def summary(gradient: np.ndarray) -> dict[str, Any]:
    return {"norm": float(np.linalg.norm(gradient)), "sketch": sketch(gradient)}


def mode_reference(reference: Reference, mode: BatchNormMode) -> dict[str, Any]:
    """Losses, gradients and scores for one batch-norm mode."""
    losses, gradients = zip(*sample_gradients(reference, mode, SAMPLES), strict=True)
    matrix = gradient_matrix(reference, mode)
    noise = rounding_noise(matrix)
    matrix[noise] = 0
    zeros = noise.all(axis=0)
    parameters = {}
    for binding, samples in zip(reference.bindings, zip(*gradients, strict=True), strict=True):
        summaries = [summary(g) for g in samples]
        parameters[binding.initializer] = {
            "shape": list(binding.shape),
            "norm": [s["norm"] for s in summaries],
            "sketch": [s["sketch"] for s in summaries],
            "batch": summary(np.mean(samples, axis=0)),
        }
    return {
        "loss": list(losses),
        "batch_loss": float(np.mean(losses)),
        "gradalign-1": gradalign_1(matrix, reference.labels),
        "gradalign-2": gradalign_2(matrix, reference.labels),
        "structurally_zero": named_ranges(reference, zeros),
        "noisy_entries": int(noise[:, ~zeros].sum()),
        "gradients": parameters,
    }


def trains_batch_norm(path: Path) -> bool:
    """Whether batch norm in the file uses the statistics of its input."""
    nodes = onnx.load(path).graph.node
    return any(a.name == "training_mode" and a.i for node in nodes for a in node.attribute)


def check_forward(reference: Reference) -> None:
    """Checks that the file gives the module's class probabilities in onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(reference.path, options, providers=["CPUExecutionProvider"])
    module = reference.module.float()
    set_batch_norm(module, "sample" if trains_batch_norm(reference.path) else "running")
    for row in range(SAMPLES):
        arrays = [array[row : row + 1] for array in reference.inputs.values()]
        feed = {slot.name: array for slot, array in zip(session.get_inputs(), arrays, strict=True)}
        output = torch.from_numpy(session.run(None, feed)[-1])
        if not torch.allclose(output.sum(-1), torch.ones(1)) or (output < 0).any():
            output = output.softmax(-1)
        expected = module(*map(torch.from_numpy, arrays)).detach().softmax(-1)
        if (difference := (output - expected).abs().max().item()) > AGREEMENT:
            raise SystemExit(f"{reference.path.name}: file and module differ by {difference:.1e}")


def write(name: str, reference: Reference) -> None:
    check_forward(reference)
    modes: list[BatchNormMode] = ["running", "sample"] if has_batch_norm(reference.module) else ["running"]
    results = {mode: mode_reference(reference, mode) for mode in modes}
    content = {
        "model": reference.path.relative_to(ROOT).as_posix(),
        "data": reference.data.relative_to(ROOT).as_posix(),
        "parameters": sum(p.numel() for p in reference.parameters),
        "classes": len(np.unique(reference.labels)),
        "samples": len(reference.labels),
        "bn": results,
    }
    path = REFERENCES / f"{name}.json"
    path.write_text(json.dumps(rounded(content), separators=(",", ":")) + "\n")
    scores = {mode: [r[k] for k in ("gradalign-1", "gradalign-2", "noisy_entries")] for mode, r in results.items()}
    print(f"{name}: {content['parameters']} parameters, {path.stat().st_size} bytes, {scores}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    REFERENCES.mkdir(parents=True, exist_ok=True)
    chosen = sys.argv[1:] or [*SHIPPED, *EXTRA_REFERENCES]
    for name in chosen:
        write(name, EXTRA_REFERENCES[name]() if name in EXTRA_REFERENCES else shipped(name))


if __name__ == "__main__":
    main()
