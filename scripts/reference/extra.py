"""The small files of `fixtures/extra` that have reference gradients."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from .networks import Mlp, SequenceCnn, TextClassifier, TinyCnn, VolumeCnn
from .paths import EXTRA
from .registry import IMAGE, Reference, on_digits
from .weights import bind, load, read_weights


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def tiny() -> nn.Module:
    """`TinyCnn` with batch-norm parameters and statistics that differ from one another."""
    module = seeded(TinyCnn)
    for norm in (module.bn1, module.bn2):
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.1, 0.1)
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


def fresh() -> nn.Module:
    return seeded(TinyCnn)


class FoldedCnn(TinyCnn):
    """`TinyCnn` without batch norm: both convolutions have a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1, self.bn2 = nn.Identity(), nn.Identity()


def text() -> nn.Module:
    return seeded(TextClassifier)


def sequence() -> nn.Module:
    return seeded(SequenceCnn)


def volume() -> nn.Module:
    return seeded(VolumeCnn)


def log_softmax() -> nn.Module:
    return nn.Sequential(*seeded(lambda: Mlp((16,))), nn.LogSoftmax(1))


TINY = ("external", "local-functions", "training-bn", "opset7", "opset9", "opset11", "opset22")
OWN_DATA = {"text-encoder": text, "sequence-cnn": sequence, "volume-cnn": volume}


def _file(name: str) -> Path:
    return EXTRA / f"{name}.onnx"


def _on_digits(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGE) -> Reference:
    module, weights = make(), read_weights(_file(name))
    # An export in training mode runs the module, which changes its running statistics.
    for buffer_name, buffer in module.named_buffers():
        if buffer_name in weights:
            buffer.copy_(torch.from_numpy(weights[buffer_name].copy()))
    return on_digits(_file(name), module, bind(module, weights), shape)


def _on_own_data(name: str, make: Callable[[], nn.Module]) -> Reference:
    module, data = make(), EXTRA / f"{name}.npz"
    with np.load(data) as arrays:
        inputs = dict(arrays)
    labels = inputs.pop("labels")
    return Reference(_file(name), module, bind(module, read_weights(_file(name))), inputs, labels, data)


def _folded() -> Reference:
    module, path = FoldedCnn(), _file("folded-bn")
    weights = read_weights(path)
    places = [name for node in onnx.load(path).graph.node for name in node.input if name in weights]
    return on_digits(path, module, load(module, weights, places, transposed=False), IMAGE)


EXTRA_REFERENCES: dict[str, Callable[[], Reference]] = {
    **{name: lambda name=name: _on_digits(name, tiny) for name in TINY},
    **{name: lambda name=name, make=make: _on_own_data(name, make) for name, make in OWN_DATA.items()},
    "shared-constants": lambda: _on_digits("shared-constants", fresh),
    "log-softmax": lambda: _on_digits("log-softmax", log_softmax, (256,)),
    "folded-bn": _folded,
}
