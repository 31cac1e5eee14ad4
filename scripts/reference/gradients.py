"""Per-sample gradients by a loop over single samples, in float64."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .registry import Reference

BatchNormMode = Literal["running", "sample"]

# An entry below this fraction of the sample's largest one is rounding noise.
NOISE = 1e-14


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, _BatchNorm) for m in module.modules())


def set_batch_norm(module: nn.Module, mode: BatchNormMode) -> None:
    """Sets evaluation mode, with batch norm by the stored statistics or by those of the single sample given.

    With `sample` the statistics are over the positions of that sample. If it has a single position,
    the stored ones are used. The stored statistics never change.
    """

    def by_sample(norm: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        (x,) = arguments
        norm.training = x.numel() > x.shape[1]

    module.eval()
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm._forward_pre_hooks.clear()
            norm.momentum = 0.0
            if mode == "sample":
                norm.register_forward_pre_hook(by_sample)


def sample_gradients(
    reference: Reference, mode: BatchNormMode, samples: int | None = None
) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Yields the loss and the gradients of each sample, in the file's layout."""
    module = reference.module.double()
    set_batch_norm(module, mode)
    for row in range(len(reference.labels) if samples is None else samples):
        arguments = [torch.from_numpy(array[row : row + 1]) for array in reference.inputs.values()]
        logits = module(*(a.double() if a.is_floating_point() else a for a in arguments))
        loss = F.cross_entropy(logits, torch.from_numpy(reference.labels[row : row + 1]))
        gradients = torch.autograd.grad(loss, reference.parameters)
        yield loss.item(), [b.to_file(g.numpy()) for b, g in zip(reference.bindings, gradients, strict=True)]


def gradient_matrix(reference: Reference, mode: BatchNormMode) -> np.ndarray:
    """All gradients of all samples, `[samples, parameters]`, in the order of the bindings."""
    return np.stack([np.concatenate([g.ravel() for g in gs]) for _, gs in sample_gradients(reference, mode)])


def rounding_noise(matrix: np.ndarray) -> np.ndarray:
    """The entries that are zero in exact arithmetic but need not be in floating point: a mask.

    Some are noise in every sample: a bias in front of a normalisation, the bias of an attention's keys.
    Others depend on the sample: if a ReLU is active everywhere between a batch norm by the sample's
    statistics and a global average, the average is a constant.
    """
    small = np.abs(matrix) < NOISE * np.abs(matrix).max(axis=1, keepdims=True)
    noise = small & (matrix != 0)
    return noise | (small.all(axis=0) & noise.any(axis=0))


def named_ranges(reference: Reference, columns: np.ndarray) -> dict[str, list[list[int]]]:
    """A selection of the matrix's columns as half-open ranges of each parameter's row-major elements."""
    ranges: dict[str, list[list[int]]] = {}
    start = 0
    for binding in reference.bindings:
        size = int(np.prod(binding.shape))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], columns[start : start + size].astype(int), [0]))))
        if len(edges):
            ranges[binding.initializer] = edges.reshape(-1, 2).tolist()
        start += size
    return ranges
