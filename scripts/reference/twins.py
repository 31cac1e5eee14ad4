"""PyTorch twins of the models exported by other frameworks.

A twin computes the file's logits from the file's input, and takes its weights from the file.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import CLASSES, Mlp
from .weights import Place

KERAS_EPSILON = 1e-3


def same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding `same`: the odd row and column go last."""
    sides = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides)


class KerasBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, KERAS_EPSILON)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, KERAS_EPSILON)
        if stride > 1:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(same_pad(x, 3, self.stride))))))
        return F.relu(y + (self.shortcut(F.avg_pool2d(x, 2)) if self.stride > 1 else x))


class KerasCnn(nn.Module):
    """`keras-cnn`: `[N, 16, 16, 1]`."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, KERAS_EPSILON)
        self.blocks = nn.Sequential(KerasBlock(width, width, 1), KerasBlock(width, 2 * width, 2))
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn(self.conv(x.permute(0, 3, 1, 2)))), 2)
        return self.head(self.blocks(x).mean((2, 3)))


def _keras_names() -> list[Place]:
    def conv(number: str) -> str:
        return f"functional_1/conv2d{number}/convolution/ReadVariableOp:0"

    def norm(number: str) -> list[str]:
        layer = f"functional_1/fused_batch_normalization{number}"
        return [f"{layer}/{part}ReadVariableOp{read}:0" for part in ("", "FusedBatchNormV3/") for read in ("", "_1")]

    return [
        conv("_1"),
        *norm("_1"),
        *(conv("_1_2"), *norm("_1_2"), conv("_2_1"), *norm("_2_1")),
        *(conv("_3_1"), *norm("_3_1"), conv("_4_1"), *norm("_4_1"), conv("_5_1")),
        "functional_1/dense_1/Cast/ReadVariableOp:0",
        "functional_1/dense_1/BiasAdd/ReadVariableOp:0",
    ]


class KerasSeparable(nn.Module):
    """`keras-separable`: `[N, 16, 16, 1]`."""

    def __init__(self, first: int = 32, second: int = 64) -> None:
        super().__init__()
        self.conv, self.norm1 = nn.Conv2d(1, first, 3, 2), nn.GroupNorm(8, first, KERAS_EPSILON)
        self.depth1 = nn.Conv2d(first, first, 3, padding=1, groups=first, bias=False)
        self.point1, self.norm2 = nn.Conv2d(first, second, 1), nn.LayerNorm(second, KERAS_EPSILON)
        self.depth2 = nn.Conv2d(second, second, 5, 2, groups=second, bias=False)
        self.point2 = nn.Conv2d(second, second, 1)
        self.hidden, self.head = nn.Linear(4 * second, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.conv(same_pad(x.permute(0, 3, 1, 2), 3, 2))))
        x = self.point1(self.depth1(x)).permute(0, 2, 3, 1)
        x = F.elu(self.norm2(x)).permute(0, 3, 1, 2)
        x = torch.tanh(self.point2(self.depth2(same_pad(x, 5, 2))))
        x = F.avg_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        return self.head(F.relu(self.hidden(x)))


# The converter renumbers folded constants at each run, so they are found by shape.
KERAS_SEPARABLE_NAMES = [
    "functional_1/conv2d_1/convolution/ReadVariableOp:0",
    "functional_1/conv2d_1/Squeeze:0",
    "functional_1/group_normalization_1/Reshape_1:0",
    "functional_1/group_normalization_1/Reshape_2:0",
    (32, 1, 3, 3),
    "functional_1/separable_conv2d_1/separable_conv2d/ReadVariableOp_1:0",
    "functional_1/separable_conv2d_1/Squeeze:0",
    "functional_1/layer_normalization_1/Reshape:0",
    (1, 64, 1, 1),
    (64, 1, 5, 5),
    "functional_1/separable_conv2d_1_2/separable_conv2d/ReadVariableOp_1:0",
    "functional_1/separable_conv2d_1_2/Squeeze:0",
    "functional_1/dense_1/Cast/ReadVariableOp:0",
    "functional_1/dense_1/BiasAdd/ReadVariableOp:0",
    "functional_1/dense_1_2/Cast/ReadVariableOp:0",
    "functional_1/dense_1_2/BiasAdd/ReadVariableOp:0",
]


class MixerBlock(nn.Module):
    def __init__(self, width: int, patches: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.token1, self.token2 = nn.Linear(patches, tokens), nn.Linear(tokens, patches)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.channel1, self.channel2 = nn.Linear(width, channels), nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.token2(F.gelu(self.token1(self.norm1(x).mT), approximate="tanh"))
        x = x + y.mT
        return x + self.channel2(F.gelu(self.channel1(self.norm2(x)), approximate="tanh"))


class JaxMixer(nn.Module):
    """`jax-mixer`: `[N, 16, 16, 1]`."""

    def __init__(self, width: int = 40, blocks: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.blocks = nn.Sequential(*(MixerBlock(width, 16, 32, 96) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x.permute(0, 3, 1, 2)).flatten(2).mT
        return self.head(self.norm(self.blocks(x)).mean(1))


class JaxCnn(nn.Module):
    """`jax-cnn`: `[N, 16, 16, 1]`."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.head = nn.Conv2d(width, 2 * width, 3, 2), nn.Linear(18 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.silu(self.norm1(self.conv1(x.permute(0, 3, 1, 2)))), 2)
        x = torch.tanh(self.conv3(F.relu(x + self.norm2(self.conv2(x)))))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


# A module, and the tensors of the file for its `state_dict`, in order.
TWINS: dict[str, tuple[Callable[[], nn.Module], list[Place]]] = {
    "keras-cnn": (KerasCnn, _keras_names()),
    "keras-separable": (KerasSeparable, KERAS_SEPARABLE_NAMES),
    "sklearn-mlp": (
        lambda: Mlp((96, 48)),
        [f"{kind}{n}" for n in ("", 1, 2) for kind in ("coefficient", "intercepts")],
    ),
    "jax-mixer": (JaxMixer, ["kernel_oih_0", *(f"const_{n}" for n in range(1, 42))]),
    "jax-cnn": (
        JaxCnn,
        [
            *("kernel_oih_0", "const_1", "const_2", "const_3", "const_4"),
            *("kernel_oih_1", "const_6", "const_7", "const_8", "const_9"),
            *("kernel_oih_2", "const_11", "const_12", "const_13"),
        ],
    ),
}
