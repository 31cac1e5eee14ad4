"""The models of the project as PyTorch modules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from . import networks
from .data import DIGITS_30, load_digits
from .paths import MODELS
from .twins import TWINS
from .weights import Binding, bind, load, read_weights

IMAGE = (1, 16, 16)
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"


@dataclass(frozen=True)
class TorchModel:
    """A network that PyTorch itself exports."""

    make: Callable[[], nn.Module]
    exporter: Literal["legacy", "dynamo"]
    opset: int
    dynamic: bool
    shape: tuple[int, ...] = IMAGE
    seed: int = 0

    def build(self) -> nn.Module:
        """The network with PyTorch's default initialisation and a fixed seed."""
        torch.manual_seed(self.seed)
        return self.make()


TORCH_MODELS = {
    "resnet20": TorchModel(networks.ResNet, "legacy", 17, dynamic=False),
    "densenet": TorchModel(networks.DenseNet, "legacy", 13, dynamic=True),
    "plain-cnn": TorchModel(networks.PlainCnn, "legacy", 11, dynamic=False),
    "mlp": TorchModel(networks.Mlp, "legacy", 9, dynamic=True, shape=(256,)),
    "nasbench201-cell": TorchModel(lambda: networks.NasBench201(CELL), "dynamo", 18, dynamic=True),
    "mobilenet": TorchModel(networks.MobileNet, "dynamo", 20, dynamic=False),
    "convnext": TorchModel(networks.ConvNext, "dynamo", 20, dynamic=False),
    "vit": TorchModel(networks.VisionTransformer, "dynamo", 18, dynamic=True),
    "unet": TorchModel(networks.UNet, "dynamo", 22, dynamic=False),
}

# Input of one sample, without the batch axis.
TWIN_SHAPES = {"sklearn-mlp": (256,)}
CHANNELS_LAST = (16, 16, 1)


@dataclass(frozen=True)
class Reference:
    """An ONNX file, the PyTorch module that computes the same, and the data it is scored on."""

    path: Path
    module: nn.Module
    bindings: list[Binding]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    data: Path

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        by_name = dict(self.module.named_parameters())
        return [by_name[binding.parameter] for binding in self.bindings]


def on_digits(path: Path, module: nn.Module, bindings: list[Binding], shape: tuple[int, ...]) -> Reference:
    digits = load_digits()
    return Reference(path, module, bindings, {"input": digits.inputs(shape)}, digits.labels, DIGITS_30)


def shipped(name: str) -> Reference:
    """The reference of a file in `models/`."""
    path = MODELS / f"{name}.onnx"
    weights = read_weights(path)
    if name in TORCH_MODELS:
        entry = TORCH_MODELS[name]
        module = entry.build()
        return on_digits(path, module, bind(module, weights), entry.shape)
    make, names = TWINS[name]
    module = make()
    return on_digits(path, module, load(module, weights, names), TWIN_SHAPES.get(name, CHANNELS_LAST))


SHIPPED = sorted([*TORCH_MODELS, *TWINS])
