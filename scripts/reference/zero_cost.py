"""The training-free scores other than GradAlign, from their definitions, by autograd in float64.

Three modes of batch norm: `running` and `sample` forward one sample after the other (with the stored
statistics, and with those of the sample's own positions); `batch` forwards all samples together with
their common statistics, and gradients flow through these.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from .gradients import gradient_matrix, rounding_noise, set_batch_norm
from .registry import Reference
from .sketch import splitmix64

Mode = Literal["running", "sample", "batch"]
Score = float | dict[str, float] | None

JACOB_EPSILON = 1e-5
ZEN_BATCH = 16
ZEN_STEP = 0.01


# --- Parameters --------------------------------------------------------------------------------


def weights(module: nn.Module) -> list[nn.Parameter]:
    """The kernels and matrices, one for each layer. The packed projection of an attention counts as one."""
    found = []
    for layer in module.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            found.append(layer.weight)
        elif isinstance(layer, nn.MultiheadAttention):
            found.append(layer.in_proj_weight)
    return found


def norm_scales(module: nn.Module) -> list[nn.Parameter]:
    """The scales of batch, instance, layer and group norms."""
    norms = (_NormBase, nn.LayerNorm, nn.GroupNorm)
    return [m.weight for m in module.modules() if isinstance(m, norms) and m.weight is not None]


# --- Forward passes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call of a watched function."""

    function: str
    arguments: tuple[Any, ...]
    output: Tensor

    @property
    def input(self) -> Tensor:
        return self.arguments[0]


@dataclass(frozen=True)
class Pass:
    """A forward pass: the logits of its samples, and the recorded calls of the watched functions."""

    logits: Tensor
    calls: list[Call]


def watch(owner: Any, function: str, calls: list[Call]) -> AbstractContextManager[Any]:
    """Records the arguments of all calls of `owner.function` in `calls` inside the context."""
    original = getattr(owner, function)

    def watched(*arguments: Any, **options: Any) -> Tensor:
        output = original(*arguments, **options)
        calls.append(Call(function, (*arguments, *options.values()), output))
        return output

    return mock.patch.object(owner, function, watched)


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x / 6 + 0.5).clamp(0, 1)


@contextmanager
def watching(*functions: str) -> Iterator[list[Call]]:
    """Records the calls of some functions of `torch.nn.functional` and of `Tensor.mean`, in order.

    Hard sigmoid and fused attention, which PyTorch cannot differentiate twice, are replaced.
    """
    calls: list[Call] = []
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(mock.patch.object(F, "hardsigmoid", hard_sigmoid))
        for function in functions:
            stack.enter_context(watch(Tensor if function == "mean" else F, function, calls))
        yield calls


def prepare(module: nn.Module, mode: Mode) -> nn.Module:
    """The module in float64 and without dropout, its batch norms in one of the modes."""
    module.double()
    set_batch_norm(module, "sample" if mode == "sample" else "running")
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and mode == "batch":
            norm.train()
    return module


def forward(module: nn.Module, inputs: Tensor, mode: Mode, *watched: str) -> list[Pass]:
    """One pass of the whole batch, or one pass per sample."""
    prepare(module, mode)
    passes = []
    for rows in [inputs] if mode == "batch" else inputs.split(1):
        with watching(*watched) as calls:
            passes.append(Pass(module(rows), calls))
    return passes


def batch(reference: Reference) -> Tensor:
    """All samples, in the order of the file."""
    (array,) = reference.inputs.values()
    return torch.from_numpy(array).double()


def all_logits(passes: list[Pass]) -> Tensor:
    return torch.cat([p.logits for p in passes])


def mean_loss(passes: list[Pass], labels: np.ndarray) -> Tensor:
    return F.cross_entropy(all_logits(passes), torch.from_numpy(labels))


def batch_loss(reference: Reference, mode: Mode) -> Tensor:
    """The mean cross-entropy of all samples."""
    return mean_loss(forward(reference.module, batch(reference), mode), reference.labels)


# --- Signs of gradients ------------------------------------------------------------------------


def gradsign(reference: Reference, mode: Mode) -> float:
    """Σ_p |Σ_i sign(g_ip)| over the weights; g_i is the gradient of one sample's own loss."""
    matrix = gradient_matrix(reference, mode)
    matrix[rounding_noise(matrix)] = 0
    counted = {id(w) for w in weights(reference.module)}
    columns = np.concatenate([np.full(p.numel(), id(p) in counted) for p in reference.parameters])
    return float(np.abs(np.sign(matrix[:, columns]).sum(axis=0)).sum())


def zico_samples(reference: Reference, mode: Mode) -> float | None:
    """Σ_l ln Σ_θ mean_i |g_iθ| / std_i g_iθ over the weights that vary; g_i as in `gradsign`."""
    matrix = gradient_matrix(reference, mode)
    matrix[rounding_noise(matrix)] = 0
    counted = {id(w) for w in weights(reference.module)}
    logarithms, start = [], 0
    for parameter in reference.parameters:
        columns = matrix[:, start : start + parameter.numel()]
        start += parameter.numel()
        means, deviations = np.abs(columns).mean(axis=0), columns.std(axis=0)
        varies = deviations > 1e-6 * means
        if id(parameter) in counted and varies.any():
            logarithms.append(math.log((means[varies] / deviations[varies]).sum()))
    return sum(logarithms) if logarithms else None


# --- Activation patterns -----------------------------------------------------------------------

RECTIFIERS = ("relu", "relu6", "hardtanh", "leaky_relu", "prelu")


def is_rectifier(call: Call) -> bool:
    """Whether a call is a rectifier. The only hard tanh that counts is ReLU6."""
    return call.function != "hardtanh" or call.arguments[1:3] == (0, 6)


def pattern(single: Pass) -> np.ndarray:
    """Whether each unit of the rectifiers that the logits depend on has a positive input, `[samples, units]`."""
    inputs = [call.input for call in single.calls if is_rectifier(call)]
    reached = torch.autograd.grad(single.logits.sum(), inputs, allow_unused=True) if inputs else []
    rows = len(single.logits)
    parts = [x.detach().reshape(rows, -1) > 0 for x, g in zip(inputs, reached, strict=True) if g is not None]
    return torch.cat([torch.zeros(rows, 0, dtype=torch.bool), *parts], 1).numpy()


def patterns(reference: Reference, mode: Mode) -> np.ndarray:
    """The joint patterns of all samples, `[samples, units]`."""
    passes = forward(reference.module, batch(reference), mode, *RECTIFIERS)
    return np.concatenate([pattern(single) for single in passes])


def naswot(reference: Reference, mode: Mode) -> float | None:
    """log det K with K = B Bᵀ + (1 − B)(1 − B)ᵀ, in exact integers up to the determinant."""
    on = patterns(reference, mode).astype(np.float64)
    sign, logarithm = np.linalg.slogdet(on @ on.T + (1 - on) @ (1 - on).T)
    return float(logarithm) if on.size and sign > 0 else None


def te_nas_regions(reference: Reference, mode: Mode) -> float | None:
    """The number of distinct patterns."""
    on = patterns(reference, mode)
    return float(len(np.unique(on, axis=0))) if on.size else None


# --- Kernel and Jacobian -----------------------------------------------------------------------


def te_nas_ntk(reference: Reference, mode: Mode) -> dict[str, float]:
    """Extreme eigenvalues of Θ_ij = ⟨∇ Σ_k f_k(x_i), ∇ Σ_k f_k(x_j)⟩ over weights and norm scales."""
    module = reference.module
    counted = [*weights(module), *norm_scales(module)]
    rows = []
    for single in forward(module, batch(reference), mode):
        for logits in single.logits:
            gradients = torch.autograd.grad(logits.sum(), counted, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in gradients]))
    jacobian = torch.stack(rows).numpy()
    eigenvalues = np.linalg.eigvalsh(jacobian @ jacobian.T)
    return {"min": float(eigenvalues[0]), "max": float(eigenvalues[-1])}


def jacob_cov(reference: Reference, mode: Mode) -> float | None:
    """−Σ_k [log(λ_k + ε) + 1/(λ_k + ε)], λ of the correlations of the rows ∂(Σ logits)/∂x_i."""
    inputs = batch(reference).requires_grad_()
    logits = all_logits(forward(reference.module, inputs, mode))
    (jacobian,) = torch.autograd.grad(logits.sum(), inputs)
    rows = jacobian.flatten(1).numpy()
    if (rows == rows[:, :1]).all(axis=1).any():
        return None
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(rows)).clip(min=0) + JACOB_EPSILON
    return float(-(np.log(eigenvalues) + 1 / eigenvalues).sum())


# --- Gradients of the mean loss ----------------------------------------------------------------


def grad_norm(reference: Reference, mode: Mode) -> float:
    """Σ_l ‖∂L/∂W_l‖₂."""
    gradients = torch.autograd.grad(batch_loss(reference, mode), weights(reference.module))
    return math.fsum(g.norm().item() for g in gradients)


def snip(reference: Reference, mode: Mode) -> float:
    """Σ |W ⊙ ∂L/∂W|."""
    counted = weights(reference.module)
    gradients = torch.autograd.grad(batch_loss(reference, mode), counted)
    return math.fsum((w * g).abs().sum().item() for w, g in zip(counted, gradients, strict=True))


def grasp(reference: Reference, mode: Mode) -> float:
    """−Σ W ⊙ (H g), the Hessian and the gradient over the weights alone."""
    counted = weights(reference.module)
    gradients = torch.autograd.grad(batch_loss(reference, mode), counted, create_graph=True)
    inner = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    products = torch.autograd.grad(inner, counted)
    return -math.fsum((w * h).sum().item() for w, h in zip(counted, products, strict=True))


LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def saliency(single: Pass, call: Call, gradient: Tensor) -> Tensor:
    """Activation times gradient, summed over the positions: `[samples, channels]`.

    In a pass of a single sample, positions may be on any axis. In a pass of a batch, samples come first.
    """
    product = call.output * gradient
    channels_last = product if call.function == "linear" else product.movedim(1, -1)
    return channels_last.reshape(len(single.logits), -1, channels_last.shape[-1]).sum(1)


def fisher(reference: Reference, mode: Mode) -> float:
    """Σ_l Σ_k (numel(W_l)/K_l) · ½ mean_i (Σ_positions a_ik · ∂L/∂a_ik)², a the layer's output."""
    passes = forward(reference.module, batch(reference), mode, *LAYERS)
    loss = mean_loss(passes, reference.labels)
    total = []
    for calls in zip(*(single.calls for single in passes), strict=True):
        gradients = torch.autograd.grad(loss, [call.output for call in calls], retain_graph=True)
        rows = torch.cat([saliency(*each) for each in zip(passes, calls, gradients, strict=True)])
        channels = rows.square().mean(0) / 2
        total.append(channels.sum().item() * calls[0].arguments[1].numel() / len(channels))
    return math.fsum(total)


# --- Without data ------------------------------------------------------------------------------


def identity(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def synflow(reference: Reference) -> float | None:
    """ln Σ |W ⊙ ∂R/∂W|: R sums the logits for an input of ones, every parameter positive, no batch norm."""
    module = copy.deepcopy(prepare(reference.module, "running"))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
    with mock.patch.object(F, "batch_norm", identity):
        (single,) = forward(module, torch.ones_like(batch(reference)[:1]), "running")
    counted = weights(module)
    gradients = torch.autograd.grad(single.logits.sum(), counted)
    total = math.fsum((w * g).abs().sum().item() for w, g in zip(counted, gradients, strict=True))
    return math.log(total) if total > 0 else None


def uniform(shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Element i is splitmix64(i + stream · 2³²) >> 40, scaled to [−1, 1): exact in float32."""
    counter = np.arange(math.prod(shape), dtype=np.uint64) + (np.uint64(stream) << np.uint64(32))
    return (splitmix64(counter) >> np.uint64(40)).astype(np.float64).reshape(shape) / 2**23 - 1


def is_global_pooling(call: Call) -> bool:
    """Whether a call is a mean over positions or tokens, or a pooling to one position."""
    return call.function == "mean" or (call.function == "adaptive_avg_pool2d" and call.arguments[1] == 1)


def feature_map(calls: list[Call]) -> Tensor:
    """The input of the last global pooling, or else of the last linear layer."""
    pooled = [call.input for call in calls if is_global_pooling(call)]
    return pooled[-1] if pooled else [call.input for call in calls if call.function == "linear"][-1]


ZEN_WATCHED = ("adaptive_avg_pool2d", "mean", "linear", "batch_norm")


def zen_pass(module: nn.Module, inputs: np.ndarray) -> tuple[Tensor, list[Tensor]]:
    """The feature map, and the input of each batch norm, in one pass with the statistics of the batch."""
    (single,) = forward(module, torch.from_numpy(inputs), "batch", *ZEN_WATCHED)
    return feature_map(single.calls), [call.input for call in single.calls if call.function == "batch_norm"]


def channel_variances(x: Tensor, unbiased: bool) -> Tensor:
    return x.transpose(0, 1).flatten(1).var(1, correction=int(unbiased))


def zen(reference: Reference) -> dict[str, float] | None:
    """log mean_b Σ |F(x_b) − F(x_b + 0.01 e_b)| + Σ_BN log √(mean_channels σ²), with the file's weights.

    `paper` has the batch variance of x as σ², `reference` the running variance after both passes.
    """
    shape = (ZEN_BATCH, *batch(reference).shape[1:])
    x, e = uniform(shape, 0), uniform(shape, 1)
    moved = (x + ZEN_STEP * e).astype(np.float32).astype(np.float64)
    (first, norms), (second, moved_norms) = (zen_pass(reference.module, inputs) for inputs in (x, moved))
    difference = (first - second).abs().flatten(1).sum(1).mean().item()
    if difference == 0:
        return None
    paper = [channel_variances(a, False).mean().item() for a in norms]
    blended = [
        (0.81 + 0.09 * channel_variances(a, True) + 0.1 * channel_variances(b, True)).mean().item()
        for a, b in zip(norms, moved_norms, strict=True)
    ]
    scales = {"paper": paper, "reference": blended}
    return {name: math.log(difference) + sum(math.log(v) / 2 for v in values) for name, values in scales.items()}


# Scores that depend on the batch-norm mode, with the modes for which they are defined.
BY_MODE: dict[str, tuple[Callable[[Reference, Mode], Score], tuple[Mode, ...]]] = {
    "gradsign": (gradsign, ("running", "sample")),
    "zico-samples": (zico_samples, ("running", "sample")),
    "naswot": (naswot, ("running", "sample", "batch")),
    "te-nas-regions": (te_nas_regions, ("running", "sample", "batch")),
    "te-nas-ntk": (te_nas_ntk, ("running", "sample", "batch")),
    "grad-norm": (grad_norm, ("running", "sample", "batch")),
    "snip": (snip, ("running", "sample", "batch")),
    "grasp": (grasp, ("running", "sample", "batch")),
    "fisher": (fisher, ("running", "sample", "batch")),
    "jacob-cov": (jacob_cov, ("running", "sample", "batch")),
}
