"""Matches the initializers of an ONNX file with the parameters of a PyTorch module, including layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

# An initializer, by its name or by a unique shape.
Place = str | tuple[int, ...]


@dataclass(frozen=True)
class Binding:
    """A parameter under its name in the file.

    The file's array is that of the parameter with its axes permuted by `axes`, reshaped to `shape`.
    """

    parameter: str
    initializer: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """An array of the parameter's shape (its value or its gradient) in the file's layout."""
        return array.transpose(self.axes).reshape(self.shape)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """All constants of a file by name, including copies by Identity nodes.

    An exporter may store equal tensors once and copy the stored one by `Identity` under the name of
    each of the others.
    """
    graph = onnx.load(path).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def layout(parameter: np.ndarray, stored: np.ndarray) -> tuple[int, ...] | None:
    """The permutation of the axes of `parameter` under which it equals `stored`, if there is one."""
    if parameter.size != stored.size or stored.dtype != parameter.dtype:
        return None
    for axes in permutations(range(parameter.ndim)):
        if np.array_equal(parameter.transpose(axes).ravel(), stored.ravel()):
            return axes
    return None


def bind(module: nn.Module, weights: Mapping[str, np.ndarray]) -> list[Binding]:
    """Finds every parameter of `module` in a file: by its name if that fits, else by its values."""
    taken: dict[str, Binding] = {}
    for by_name in (True, False):
        for name, parameter in module.named_parameters():
            if name in taken:
                continue
            value = parameter.detach().float().numpy()
            free = [n for n in weights if n not in {b.initializer for b in taken.values()}]
            found = [
                Binding(name, candidate, axes, weights[candidate].shape)
                for candidate in free
                if (name == candidate or not by_name) and (axes := layout(value, weights[candidate])) is not None
            ]
            if len(found) > 1:
                raise LookupError(f"{name} could be any of {[b.initializer for b in found]}")
            if found:
                taken[name] = found[0]
            elif not by_name:
                raise LookupError(f"no initializer has the values of {name} {value.shape}")
    return [taken[name] for name, _ in module.named_parameters()]


def resolve(weights: Mapping[str, np.ndarray], places: Sequence[Place]) -> list[str]:
    """The names of the initializers for `places`."""
    names: list[str] = []
    for place in places:
        if isinstance(place, tuple):
            (place,) = [n for n, w in weights.items() if w.shape == place and n not in places]
        names.append(place)
    return names


def load(
    module: nn.Module, weights: Mapping[str, np.ndarray], places: Sequence[Place], transposed: bool = True
) -> list[Binding]:
    """Fills `module` (parameters and running statistics, in order) from the arrays of a file.

    Other frameworks store the matrix of a linear layer `transposed`: `[inputs, outputs]`.
    """
    linear = {id(m.weight) for m in module.modules() if transposed and isinstance(m, nn.Linear)}
    state = {n: t for n, t in module.state_dict(keep_vars=True).items() if t.is_floating_point()}
    bindings = []
    for (parameter, tensor), name in zip(state.items(), resolve(weights, places), strict=True):
        axes = (1, 0) if id(tensor) in linear else tuple(range(tensor.ndim))
        stored = weights[name].T if id(tensor) in linear else weights[name]
        tensor.data = torch.tensor(stored).reshape(tensor.shape)
        if isinstance(tensor, nn.Parameter):
            bindings.append(Binding(parameter, name, axes, weights[name].shape))
    return bindings
