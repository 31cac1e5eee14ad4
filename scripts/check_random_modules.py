"""Checks random PyTorch modules, by both exporters and on both engines, against PyTorch's float64 gradients.

    python3 scripts/check_random_modules.py [--count 500] [--first 0] [--binary target/release/gradalign] [-v]

For each seed, a network is drawn (randoms/modules.py), exported (exporter, its options, opset 11 to 23 and the
batch axis depend on the seed), and compared with PyTorch:

- the number of parameters;
- `gradalign grad --per-sample`, run by onnxruntime: losses, and the Gram matrix ⟨g_i, g_j⟩ of the samples'
  gradients, relative to ‖g_i‖·‖g_j‖, which does not depend on the names and layouts of parameters;
- `gradalign score` on ONNX Runtime and on tract: GradAlign-I. A sign is certain if a relative change of all
  parameters by 1e-6 does not change it, and the value is in the range of float32. The score must lie between
  the smallest and the largest value that the other signs allow, which are equal for most networks. A gradient
  that is zero in exact arithmetic is recognised: in float64 it is below 1e-13 of the largest one, and the
  small change gives an unrelated number.

A network that fails a check is `wrong`, unless gradalign warned that the file is another network than the
module (`warned`), refused it (`refused`), or the reason is known and stated below (`explained`). Networks
whose gradients are unstable even in float64 are `skipped`. Every network that is not good is printed with
details. The exit status is 1 if any is wrong.
"""

import argparse
import collections
import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor
from torch.nn import functional as F

from randoms.modules import VOCABULARY, Drawn, draw
from randoms.tails import accurate_tails
from reference.paths import ROOT

WORK = ROOT / "target" / "randoms"
SAMPLES = 6
TOLERANCE = 1e-4
# An element below this fraction of the sample's largest gradient element is zero in exact arithmetic.
ZERO = 1e-13
CHANGE = 1e-6
# Smaller numbers are not normal numbers in float32.
LEAST = 1e-36
# A network whose gradients change by more than this under a change of CHANGE is too unstable for float32.
UNSTABLE = 1e-2
# Why the networks of some seeds are not good, with PyTorch 2.15: limits of float32.
EQUAL_VALUES = "a sample whose values are all equal in front of a normalisation: the mean is rounded, the centred values are 0"
SHRINK = "x − tanh(x) close to 0, as the file has it: the difference cancels"
EXPLAINED = {
    113: EQUAL_VALUES,
    151: "terms of both signs cancel to 0 by chance, and tract adds them up in another order",
    194: SHRINK,
    196: "an attention that a weight times 100 saturates: a few signs turn with a change of some 1e-6",
    201: "the scale in front of a normalisation: only its ε leaves a gradient, 1e-8 of the others",
    202: EQUAL_VALUES,
    396: "a mean over positions behind a group norm of channels whose mean is 0: not seen through the group norm's reshape",
    428: "the slope of a norm by the shift of an instance normalisation, which is a sum of centred values",
}
# Warnings that the file holds another network than the module.
TELLS = re.compile(r"folded|merged|shared by|tied|equal|transpose", re.IGNORECASE)


@dataclass
class Outcome:
    verdict: str
    why: list[str] = field(default_factory=list)


def targets(drawn: Drawn, logits: Tensor, generator: torch.Generator) -> Tensor:
    if drawn.loss == "cross-entropy":
        return torch.arange(SAMPLES) % 2
    if drawn.loss == "token-cross-entropy":
        return torch.randint(0, logits.shape[-1], logits.shape[:-1], generator=generator)
    if drawn.loss == "bce":
        return torch.randint(0, 2, logits.shape, generator=generator).float()
    return torch.randn(logits.shape, generator=generator)


def loss_of(drawn: Drawn, logits: Tensor, target: Tensor) -> Tensor:
    match drawn.loss:
        case "cross-entropy":
            return F.cross_entropy(logits, target)
        case "token-cross-entropy":
            return F.cross_entropy(logits.flatten(0, -2), target.flatten())
        case "bce":
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
    return F.mse_loss(logits, target.to(logits.dtype))


def gradients(drawn: Drawn, body: torch.nn.Module, x: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[samples]` and gradients `[samples, parameters]` in float64."""
    parameters = list(body.parameters())
    x = x if drawn.integers else x.double()
    losses, rows = [], []
    for i in range(SAMPLES):
        with accurate_tails():
            loss = loss_of(drawn, body(x[i : i + 1]), target[i : i + 1])
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append(np.concatenate([np.zeros(p.numel()) if g is None else g.numpy().ravel() for p, g in zip(parameters, found)]))
        losses.append(loss.item())
    return np.array(losses), np.stack(rows)


def bounds(signs: np.ndarray, sure: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest GradAlign-I for arbitrary values of the uncertain signs."""
    low, high = [], []
    for label in np.unique(labels):
        rows = labels == label
        known, free = (signs * sure)[rows].sum(0), (~sure)[rows].sum(0)
        n = rows.sum() ** 2
        low.append((np.maximum(np.abs(known) - free, 0) ** 2).sum() / n)
        high.append(((np.abs(known) + free) ** 2).sum() / n)
    return float(np.mean(low)), float(np.mean(high))


def within(value: float, low: float, high: float) -> bool:
    return low * (1 - TOLERANCE) - 1e-9 <= value <= high * (1 + TOLERANCE) + 1e-9


def sure_signs(drawn: Drawn, body: torch.nn.Module, x: Tensor, target: Tensor, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The signs, with 0 for exact zeros, and a mask of those that no small change affects."""
    scale = np.abs(rows).max(1, keepdims=True)
    drawn_again = list(changed_gradients(drawn, body, x, target))
    small = np.abs(rows) <= ZERO * scale
    noise = np.max([np.abs(again - rows) for again in drawn_again], axis=0) > 0.3 * np.abs(rows)
    signs = np.where(small & noise, 0, np.sign(rows))
    turned = [np.sign(again) != signs for again in drawn_again]
    lost = (rows != 0) & (np.abs(rows) < LEAST)
    return signs, (small & noise) | ~(np.any(turned, axis=0) | lost)


def instability(drawn: Drawn, body: torch.nn.Module, x: Tensor, target: Tensor, rows: np.ndarray) -> float:
    """The largest relative change of a sample's gradient under a small change of all parameters."""
    norms = np.maximum(np.linalg.norm(rows, axis=1), LEAST)
    return max(float((np.linalg.norm(again - rows, axis=1) / norms).max()) for again in changed_gradients(drawn, body, x, target))


def changed_gradients(drawn: Drawn, body: torch.nn.Module, x: Tensor, target: Tensor) -> Iterator[np.ndarray]:
    """The gradients after small changes of all parameters."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        changed = copy.deepcopy(body)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1 + CHANGE * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        yield gradients(drawn, changed, x, target)[1]


def export(drawn: Drawn, x: Tensor, path: Path, seed: int) -> str:
    """Exports the network with options that depend on the seed. Returns a description of them."""
    exporter = ("TorchScript", "dynamo")[seed % 2]
    faithful = seed % 4 < 2
    fixed = (None, 1, None, SAMPLES)[seed // 4 % 4]
    example = x[: fixed or 2]
    whole = drawn.whole().eval()
    names = {"input_names": ["input"], "output_names": ["result"]}
    said = f"{exporter}, {'faithful' if faithful else 'default'}, batch {fixed or 'dynamic'}"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if exporter == "dynamo":
            opset = 18 + seed // 8 % 6
            torch.onnx.export(
                whole, (example,), path, dynamo=True, opset_version=opset, optimize=not faithful, external_data=False,
                dynamic_shapes=None if fixed else ({0: "batch"},), verbose=False, **names,
            )  # fmt: skip
        else:
            opset = 11 + seed // 8 % 7
            whole.training = faithful
            options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if faithful else {}
            axes = {} if fixed else {"dynamic_axes": {"input": {0: "batch"}, "result": {0: "batch"}}}
            torch.onnx.export(whole, (example,), path, dynamo=False, opset_version=opset, **names, **axes, **options)
    return f"{said}, opset {opset}"


def call(command: list[object]) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)


def scored(binary: Path, folder: Path, loss: str, engine: str) -> dict:
    command = [binary, "score", folder / "model.onnx", "--data", folder / "data.npz", "--samples", "all", "--loss", loss]
    done = call([*command, "--metric", "gradalign-1", "--engine", engine, "--format", "json"])
    try:
        return json.loads(done.stdout)["models"][0]
    except (ValueError, KeyError, IndexError):
        return {"error": {"message": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}, "warnings": []}


def training_graph(binary: Path, folder: Path, loss: str) -> dict[str, np.ndarray] | str:
    """The outputs of the training graph, or the reason why there are none."""
    graph = folder / "training.onnx"
    done = call([binary, "grad", folder / "model.onnx", "-o", graph, "--batch", SAMPLES, "--per-sample", "--loss", loss])
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    data = np.load(folder / "data.npz")
    feed = {slot.name: data[slot.name].reshape(slot.shape) for slot in session.get_inputs()}
    names = [slot.name for slot in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def check_graph(outputs: dict[str, np.ndarray], losses: np.ndarray, rows: np.ndarray) -> list[str]:
    got = [v.reshape(SAMPLES, -1).astype(np.float64) for n, v in outputs.items() if n.startswith("grad.")]
    flat = np.concatenate(got, 1) if got else np.zeros((SAMPLES, 1))
    want, have = rows @ rows.T, flat @ flat.T
    norms = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    error = float(np.nan_to_num(np.abs(have - want), nan=np.inf).max() / max(norms.max(), 1e-300))
    loss_error = float(np.max(np.abs(outputs["loss"].reshape(-1) - losses) / np.maximum(np.abs(losses), 1e-3)))
    said = [f"gradients are off by {error:.1e}"] if not error <= TOLERANCE else []
    return said + ([f"losses are off by {loss_error:.1e}"] if not loss_error <= TOLERANCE else [])


def check(seed: int, binary: Path) -> tuple[Outcome, str]:
    drawn = draw(seed)
    folder = WORK / f"{seed:05}"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    shape = (SAMPLES, *drawn.shape)
    x = torch.randint(0, VOCABULARY, shape, generator=generator) if drawn.integers else drawn.scale * torch.randn(shape, generator=generator)
    body = copy.deepcopy(drawn.body).double().eval()
    with torch.no_grad():
        logits = body(x if drawn.integers else x.double())
    target = targets(drawn, logits, generator)
    text = f"{', '.join(filter(None, drawn.said))}; {drawn.loss}"
    losses, rows = gradients(drawn, body, x, target)
    if not np.isfinite(rows).all() or not np.abs(rows).max():
        return Outcome("skipped", ["PyTorch has no finite gradient, or none at all"]), text
    if instability(drawn, body, x, target, rows) > UNSTABLE:
        return Outcome("skipped", ["PyTorch's gradients in float64 are not stable"]), text
    signs, sure = sure_signs(drawn, body, x, target, rows)
    labels = target.numpy() if drawn.loss == "cross-entropy" else np.zeros(SAMPLES, int)
    low, high = bounds(signs, sure, labels)
    np.savez(folder / "data.npz", input=x.numpy(), labels=target.numpy())
    try:
        text += f"; {export(drawn, x, folder / 'model.onnx', seed)}"
    except Exception as error:  # an export that fails must not affect the others
        return Outcome("export", [" ".join(f"{type(error).__name__}: {error}".split())[:120]]), text
    why, told, refused = [], [], []
    live = sum(p.numel() for p, g in zip(body.parameters(), np.split(rows, np.cumsum([p.numel() for p in body.parameters()])[:-1], 1)) if g.any())
    total = sum(p.numel() for p in body.parameters())
    for engine in ("ort", "tract"):
        row = scored(binary, folder, drawn.loss, engine)
        told += [w for w in row["warnings"] if TELLS.search(w)]
        if row["error"]:
            refused.append(f"{engine}: {row['error']['message'][:200]}")
            continue
        value = row["scores"]["gradalign-1"]["value"]
        if value is None or not within(value, low, high):
            why.append(f"{engine}: GradAlign-I is {value}, not {low:.6g} … {high:.6g}")
        if not live <= row["parameters"] <= total:
            why.append(f"{row['parameters']} parameters, not {total}")
    outputs = training_graph(binary, folder, drawn.loss)
    if isinstance(outputs, str):
        refused.append(f"grad: {outputs[:200]}")
    else:
        why += check_graph(outputs, losses, rows)
    why = list(dict.fromkeys(why))
    if refused:
        return Outcome("refused" if not why and len(refused) == 3 else "wrong", [*refused, *why]), text
    if why:
        if seed in EXPLAINED and not told:
            return Outcome("explained", [EXPLAINED[seed], *why]), text
        return Outcome("warned" if told else "wrong", [*why, *list(dict.fromkeys(told))[:2]]), text
    return Outcome("good"), text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/gradalign")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the good ones, too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    libraries = Path(ort.__file__).parent.glob("capi/libonnxruntime.so*")
    os.environ.setdefault("ORT_DYLIB_PATH", str(next(libraries, "")))
    found: collections.Counter[str] = collections.Counter()
    for seed in range(options.first, options.first + options.count):
        try:
            outcome, text = check(seed, options.binary)
        except Exception as error:  # one network must not affect the others
            outcome, text = Outcome("wrong", [" ".join(f"{type(error).__name__}: {error}".split())[:300]]), ""
        found[outcome.verdict] += 1
        if options.verbose or outcome.verdict != "good":
            print(f"{seed:05} {outcome.verdict}: {'; '.join(outcome.why)} [{text}]", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in found.most_common()))
    sys.exit(found["wrong"] > 0)


if __name__ == "__main__":
    main()
