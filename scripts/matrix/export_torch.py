"""Exports the networks of `torch_models.py` and computes their per-sample gradients in float64.

    python -m matrix.export_torch [--exporter legacy|dynamo] [NAME …]        (in scripts/)

A little noise is added to the parameters so that no two are equal: the checker finds a parameter in the file by
its values. Running statistics of batch norm are those of a random batch.
"""

import argparse
import contextlib
import copy
import io
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .case import SAMPLES, folder, save_facts, save_numbers, seed_of
from .torch_models import CLASSES, REGISTRY, VOCABULARY, Architecture

# Samples whose float32 gradients have a smaller error are not at a kink.
SMOOTH = 1e-5

# Networks that compute tensors only from parameters: exporters that fold constants store the result
# instead, which is another parametrisation with other gradients.
DERIVED = {
    "auto-encoder", "swin", "swin-v2", "hf-deberta-v2", "hf-swin", "hf-t5-encoder", "hf-wav2vec2", "timm-beit",
    "timm-convit", "timm-edgenext", "timm-nfnet", "timm-swin-v2-cr", "timm-coatnet", "timm-maxvit", "timm-levit",
    "timm-efficientformer", "timm-tiny-vit", "timm-vit-relative-positions", "hf-llama", "hf-mistral", "hf-qwen2",
    "hf-phi", "hf-gpt-neox", "hf-bloom", "hf-whisper-encoder", "maxvit",
}  # fmt: skip


class Whole(nn.Module):
    """The network that is exported. Only its own flag `training` decides what is folded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


def batch(entry: Architecture, size: int, generator: torch.Generator) -> list[Tensor]:
    if entry.integers is None:
        return [torch.randn(size, *shape, generator=generator) for shape in entry.shapes]
    return [torch.randint(2, entry.integers, (size, *shape), generator=generator) for shape in entry.shapes]


def prepare(entry: Architecture) -> nn.Module:
    torch.manual_seed(seed_of(entry.name))
    module = entry.build()
    generator = torch.Generator().manual_seed(1)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.std() if parameter.numel() > 1 else torch.tensor(0.0)
            noise = 0.05 * scale if scale > 1e-6 else torch.tensor(0.02)
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
        if norms:
            module.eval()
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            module(*batch(entry, 16, generator))
    return module.eval()


class Contiguous(torch.autograd.Function):
    """The identity, with a contiguous gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        return dy.contiguous()


def forget(module: nn.Module) -> None:
    """Clears the biases that attention layers cache between calls."""
    for part in module.modules():
        for kept in ("attention_bias_cache", "ab"):
            if isinstance(getattr(part, kept, None), dict):
                getattr(part, kept).clear()


def loss_of(entry: Architecture, result: Tensor, target: Tensor) -> Tensor:
    if entry.loss == "mse":
        return F.mse_loss(result, target)
    return F.cross_entropy(result.reshape(-1, result.shape[-1]), target.reshape(-1))


def gradients(entry: Architecture, module: nn.Module, inputs: list[Tensor], labels: Tensor, dtype: torch.dtype):
    """The losses, and for each parameter the gradients of all samples."""
    module = copy.deepcopy(module).to(dtype)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            # PyTorch 2.15 on a CPU: the gradient through an evaluated batch norm is wrong where the
            # cotangent is stored channels last, as finite differences show.
            norm.register_forward_hook(lambda _, __, y: Contiguous.apply(y))
    parameters = [p for p in module.parameters() if p.requires_grad]
    losses, rows = [], []
    for i in range(SAMPLES):
        forget(module)
        sample = [x[i : i + 1].to(dtype) if x.is_floating_point() else x[i : i + 1] for x in inputs]
        target = labels[i : i + 1]
        loss = loss_of(entry, module(*sample), target.to(dtype) if target.is_floating_point() else target)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        losses.append(loss.item())
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])
    return np.array(losses), [np.stack([r.double().numpy() for r in column]) for column in zip(*rows, strict=True)]


def relative(got: list[np.ndarray], truth: list[np.ndarray]) -> float:
    flat = [np.concatenate([g.reshape(SAMPLES, -1) for g in gs], 1) for gs in (got, truth)]
    return float((np.linalg.norm(flat[0] - flat[1], axis=1) / np.linalg.norm(flat[1], axis=1)).max())


def smooth_data(entry: Architecture, module: nn.Module):
    """Samples that are not at a kink, with their losses, gradients and the error in float32.

    At a kink (of a ReLU, between two maxima) rounding decides which side counts. In deep networks, some
    sample is usually at one, so the best of a few draws is used.
    """
    drawn = []
    for seed in range(2, 8):
        generator = torch.Generator().manual_seed(seed)
        inputs = batch(entry, SAMPLES, generator)
        if entry.loss == "mse":
            with torch.no_grad():
                result = module(*(x[:1] for x in inputs))
            labels = torch.randn(SAMPLES, *result.shape[1:], generator=generator)
        elif entry.loss == "token-cross-entropy":
            labels = torch.randint(0, VOCABULARY, (SAMPLES, *entry.shapes[0]), generator=generator)
        else:
            labels = torch.tensor([1, 3, 1, 3]) % CLASSES
        losses, truth = gradients(entry, module, inputs, labels, torch.float64)
        error = relative(gradients(entry, module, inputs, labels, torch.float32)[1], truth)
        drawn.append((error, inputs, labels, losses, truth))
        if error <= SMOOTH:
            break
    error, inputs, labels, losses, truth = min(drawn, key=lambda draw: draw[0])
    return inputs, labels, losses, truth, error


def write(entry: Architecture, module: nn.Module, inputs: list[Tensor], path: Path, exporter: str) -> str:
    """Writes the file. Returns the options of the exporter."""
    whole = Whole(module).eval()
    normed = any(isinstance(m, _BatchNorm) for m in module.modules())
    forget(module)
    kept = normed or entry.name in DERIVED
    names, example = entry.inputs, tuple(x[:1] for x in inputs)
    if exporter == "legacy":
        # Without folding if that would remove batch norms or parameters, else with the exporter's defaults.
        whole.training = kept
        options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if kept else {}
        torch.onnx.export(
            whole, example, path, dynamo=False, opset_version=17, input_names=names, output_names=["result"],
            dynamic_axes={name: {0: "batch"} for name in [*names, "result"]}, **options,
        )  # fmt: skip
        return "opset 17, dynamic batch" + (", unfolded" if kept else "")
    torch.onnx.export(
        whole, example, path, dynamo=True, input_names=names, output_names=["result"], optimize=not kept,
        external_data=False, verbose=False,
    )  # fmt: skip
    return "default opset, batch of 1" + (", not optimised" if kept else "")


def export(entry: Architecture, exporter: str) -> None:
    path = folder(entry.name, exporter)
    path.mkdir(parents=True, exist_ok=True)
    facts: dict[str, object] = {"name": entry.name, "library": entry.library, "exporter": f"torch.onnx ({exporter})", "loss": entry.loss}
    started = time.time()
    try:
        module = prepare(entry)
        inputs, labels, losses, truth, facts["float32_error"] = smooth_data(entry, module)
        facts["parameters"] = sum(p.numel() for p in module.parameters())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # graphs, by the screenful
            facts["options"] = write(entry, module, inputs, path / "model.onnx", exporter)
        named = [(n, p.detach().numpy()) for n, p in module.named_parameters() if p.requires_grad]
        parameters = [(n, v, g) for (n, v), g in zip(named, truth, strict=True)]
        save_numbers(path, {n: x.numpy() for n, x in zip(entry.inputs, inputs, strict=True)}, labels.numpy(), parameters, losses)
    except Exception as error:  # a network that cannot be exported must not affect the others
        facts["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    save_facts(path, **facts)
    said = facts.get("failed") or f"{facts['parameters']} parameters, {(path / 'model.onnx').stat().st_size} bytes"
    print(f"{entry.name} ({exporter}): {said}, {time.time() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--exporter", choices=("legacy", "dynamo"), action="append")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name in options.names or REGISTRY:
        for exporter in options.exporter or ("legacy", "dynamo"):
            if exporter not in REGISTRY[name].exporters:
                continue
            facts = folder(name, exporter) / "case.json"
            if options.again or not facts.exists() or "failed" in json.loads(facts.read_text()):
                export(REGISTRY[name], exporter)


if __name__ == "__main__":
    main()
