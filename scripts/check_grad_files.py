"""Checks the training graphs that `gradalign grad` writes against PyTorch in float64.

    python scripts/check_grad_files.py [--binary target/release/gradalign] [--bn running] [MODEL …]

For every model and for both forms (`--per-sample` and `--mean`) the graph is run by onnxruntime on
four samples. The error of a gradient is ‖g − g_ref‖ / ‖g_ref‖ by parameter and sample. A norm
below 1e-6 of the largest parameter gradient is replaced by that value. Elements that are zero in exact
arithmetic are compared with the largest parameter gradient instead.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from reference.extra import EXTRA_REFERENCES
from reference.gradients import has_batch_norm, rounding_noise, sample_gradients
from reference.paths import ROOT
from reference.registry import SHIPPED, Reference, shipped

SAMPLES = 4
TOLERANCE = 1e-4
FLOOR = 1e-6
FORMS = ("per-sample", "mean")


@dataclass(frozen=True)
class Outcome:
    """The largest relative errors of gradients, losses, and elements that should be zero."""

    gradient: float
    loss: float
    zero: float
    worst: str

    @property
    def good(self) -> bool:
        return max(self.gradient, self.loss, self.zero) <= TOLERANCE


def run_graph(reference: Reference, arguments: list[str], form: str) -> dict[str, np.ndarray]:
    """Writes the training graph with the binary and runs it with onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.onnx"
        command = [*arguments, "-o", str(path), "--batch", str(SAMPLES), f"--{form}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    slots = [slot.name for slot in session.get_inputs() if slot.name != "labels"]
    feed = {"labels": reference.labels[:SAMPLES]}
    if len(slots) == 1:
        feed[slots[0]] = next(iter(reference.inputs.values()))[:SAMPLES]
    else:
        feed |= {name: reference.inputs[name][:SAMPLES] for name in slots}
    names = [slot.name for slot in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def expected(reference: Reference, mode: str, form: str) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Losses `[rows]`, gradients `[rows, shape…]` and masks of the noise in them; one row for `mean`."""
    losses, samples = zip(*sample_gradients(reference, mode, SAMPLES), strict=True)
    rows = np.stack([np.concatenate([g.ravel() for g in gs]) for gs in samples])
    loss = np.array(losses)
    noise = rounding_noise(rows)
    if form == "mean":
        loss, rows, noise = loss.mean(keepdims=True), rows.mean(axis=0, keepdims=True), noise.all(axis=0, keepdims=True)
    sizes = np.cumsum([int(np.prod(b.shape)) for b in reference.bindings])[:-1]
    return loss, np.split(rows, sizes, axis=1), np.split(noise, sizes, axis=1)


def compare(reference: Reference, outputs: dict[str, np.ndarray], mode: str, form: str) -> Outcome:
    """Compares all outputs of a training graph with PyTorch's values."""
    names = {f"grad.{b.initializer}" for b in reference.bindings}
    if unknown := {n for n in outputs if n.startswith("grad.")} - names:
        raise RuntimeError(f"gradients of what is no parameter: {sorted(unknown)[:3]}")
    losses, gradients, noise = expected(reference, mode, form)
    rows = len(losses)
    largest = np.max([np.linalg.norm(g, axis=1) for g in gradients], axis=0)
    errors, zeros = {}, [0.0]
    for binding, truth, mask in zip(reference.bindings, gradients, noise, strict=True):
        output = outputs.get(f"grad.{binding.initializer}")
        if output is None:
            raise RuntimeError(f"no gradient of {binding.initializer}")
        shape = binding.shape if form == "mean" else (rows, *binding.shape)
        if output.shape != shape:
            raise RuntimeError(f"grad.{binding.initializer} has the shape {output.shape}, not {shape}")
        got = output.reshape(rows, -1).astype(np.float64)
        difference = np.linalg.norm(np.where(mask, 0, got - truth), axis=1)
        norm = np.linalg.norm(np.where(mask, 0, truth), axis=1)
        errors[binding.initializer] = float((difference / np.maximum(norm, FLOOR * largest)).max())
        zeros.append(float((np.linalg.norm(np.where(mask, got, 0), axis=1) / largest).max()))
    loss = float(np.abs(outputs["loss"].reshape(rows) / losses - 1).max())
    worst = max(errors, key=errors.__getitem__)
    return Outcome(errors[worst], loss, max(zeros), worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names without .onnx; default: all with references")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/gradalign")
    parser.add_argument("--bn", nargs="+", choices=("running", "sample"), default=["running", "sample"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    print(f"{'model':<22}{'bn':<9}{'form':<12}{'gradients':>11}{'loss':>11}{'zeros':>11}  worst parameter")
    for name in options.models or [*SHIPPED, *EXTRA_REFERENCES]:
        reference = EXTRA_REFERENCES[name]() if name in EXTRA_REFERENCES else shipped(name)
        for mode in options.bn if has_batch_norm(reference.module) else ["running"]:
            for form in FORMS:
                label = f"{name:<22}{mode:<9}{form:<12}"
                command = [str(options.binary), "grad", str(reference.path), "--bn", mode]
                try:
                    outcome = compare(reference, run_graph(reference, command, form), mode, form)
                except Exception as error:  # a model that fails must not affect the others
                    failed += 1
                    print(f"{label}failed: {error}", flush=True)
                    continue
                failed += not outcome.good
                figures = f"{outcome.gradient:>11.1e}{outcome.loss:>11.1e}{outcome.zero:>11.1e}"
                print(f"{label}{figures}  {outcome.worst}{'' if outcome.good else '  <-- too large'}", flush=True)
    if failed:
        sys.exit(f"{failed} of the checks failed")


if __name__ == "__main__":
    main()
