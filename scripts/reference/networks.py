"""Small PyTorch networks for 16x16 digits, one for each family of architectures.

Every network takes `[N, 1, 16, 16]` (`Mlp` takes `[N, 256]`) and returns ten logits.
"""

from collections.abc import Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


def conv3(inputs: int, outputs: int, stride: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, **options)


# --- ResNet ------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; a strided 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet: three stages of `blocks` blocks (`blocks = 3` is ResNet-20)."""

    def __init__(self, width: int = 8, blocks: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(1, width), nn.BatchNorm2d(width)
        layers, inputs = [], width
        for stage in range(3):
            outputs = width << stage
            for block in range(blocks):
                layers.append(ResidualBlock(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


# --- NAS-Bench-201 -----------------------------------------------------------------------------


class ReluConvBn(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def cell_operation(name: str, channels: int) -> nn.Module:
    """One of the five operations of the search space."""
    match name:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return ReluConvBn(channels, channels, 1)
        case "nor_conv_3x3":
            return ReluConvBn(channels, channels, 3)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    raise ValueError(f"no operation {name} in NAS-Bench-201")


class Cell(nn.Module):
    """Four nodes; node j is the sum of an operation of every earlier node.

    `architecture` is `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.
    """

    def __init__(self, architecture: str, channels: int) -> None:
        super().__init__()
        nodes = [node.strip("|").split("|") for node in architecture.split("+")]
        self.nodes = nn.ModuleList(
            nn.ModuleList(cell_operation(edge.split("~")[0], channels) for edge in node) for node in nodes
        )

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for node in self.nodes:
            values.append(reduce(add, (op(v) for op, v in zip(node, values, strict=True))))
        return values[-1]


class Reduction(nn.Module):
    """The residual block between two stages."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a, self.conv_b = ReluConvBn(inputs, outputs, 3, 2), ReluConvBn(outputs, outputs, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class NasBench201(nn.Module):
    """A NAS-Bench-201 network of `cells` cells per stage, for images with `inputs` channels."""

    def __init__(self, architecture: str, channels: int = 8, cells: int = 1, inputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3(inputs, channels), nn.BatchNorm2d(channels))
        layers: list[nn.Module] = []
        for stage in range(3):
            width = channels << stage
            if stage:
                layers.append(Reduction(width // 2, width))
            layers += [Cell(architecture, width) for _ in range(cells)]
        self.cells = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.cells(self.stem(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


# --- Plain networks ----------------------------------------------------------------------------


class PlainCnn(nn.Sequential):
    """LeNet-like: biased convolutions, max pooling, several activations, no normalisation."""

    def __init__(self, width: int = 12) -> None:
        super().__init__(
            nn.Conv2d(1, width, 5, padding=2),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(width, 2 * width, 3, padding=2, dilation=2),
            nn.PReLU(2 * width),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2),
            nn.Softplus(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * width * 16, 48),
            nn.ELU(),
            nn.Linear(48, CLASSES),
        )


class Mlp(nn.Sequential):
    """A perceptron on `[N, 256]`."""

    def __init__(self, hidden: tuple[int, ...] = (64, 32), inputs: int = 256) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, CLASSES))


# --- MobileNet ---------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excite, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int = 3) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            SqueezeExcite(hidden, hidden // 4),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """MobileNetV3 in small.

    Hard swish halves small signals and so does squeeze-and-excite, so that convolutions start wide
    enough that gradients do not vanish while batch norm is still the identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3(1, 12), nn.BatchNorm2d(12), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(12, 16, 3, 2),
            InvertedResidual(16, 16, 5, 1),
            InvertedResidual(16, 24, 5, 2),
            InvertedResidual(24, 24, 3, 1),
            nn.Conv2d(24, 64, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(64, 48), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(48, CLASSES))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=1.8 / module.weight[0].numel() ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


# --- ConvNeXt ----------------------------------------------------------------------------------


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, then a layer-normalised, channels-last perceptron with layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `[N, C, H, W]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    def __init__(self, widths: tuple[int, int] = (24, 48)) -> None:
        super().__init__()
        first, second = widths
        self.stages = nn.Sequential(
            nn.Conv2d(1, first, 2, 2),
            ChannelNorm(first),
            ConvNextBlock(first),
            ConvNextBlock(first),
            ChannelNorm(first),
            nn.Conv2d(first, second, 2, 2),
            ConvNextBlock(second),
        )
        self.norm, self.head = nn.LayerNorm(second), nn.Linear(second, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(x).mean((2, 3))))


# --- Transformers ------------------------------------------------------------------------------


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer on `[N, T, D]`."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT: 4x4 patches, a class token, learned positions."""

    def __init__(self, width: int = 32, depth: int = 3, heads: int = 4, inputs: int = 1, size: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(inputs, width, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + (size // 4) ** 2, width) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 4 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(x.shape[0], -1, -1), tokens), 1) + self.positions
        return self.head(self.norm(self.layers(tokens)[:, 0]))


class TextClassifier(nn.Module):
    """A transformer encoder on token ids, with padding masked and a masked mean at the end."""

    def __init__(self, vocabulary: int = 60, length: int = 12, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm1, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 4)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions.weight
        present = attention_mask.to(x.dtype)
        query, key, value = (self.split(part(x)) for part in (self.query, self.key, self.value))
        weights = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = weights + (1 - present)[:, None, None] * -1e4
        mixed = (weights.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.output(mixed))
        x = self.norm2(x + self.mlp(x))
        pooled = (x * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        return self.head(pooled.tanh())


# --- DenseNet ----------------------------------------------------------------------------------


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1, BN, ReLU, 3x3; the output joins the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            conv3(2 * growth, growth),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


def dense_block(inputs: int, growth: int, layers: int) -> Iterator[nn.Module]:
    for layer in range(layers):
        yield DenseLayer(inputs + layer * growth, growth)


class DenseNet(nn.Module):
    def __init__(self, growth: int = 8, layers: int = 3) -> None:
        super().__init__()
        width = 2 * growth
        joined = width + layers * growth
        self.stem = conv3(1, width)
        self.block1 = nn.Sequential(*dense_block(width, growth, layers))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(joined), nn.ReLU(), nn.Conv2d(joined, width, 1, bias=False), nn.AvgPool2d(2)
        )
        self.block2 = nn.Sequential(*dense_block(width, growth, layers))
        self.norm, self.head = nn.BatchNorm2d(joined), nn.Linear(joined, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


# --- Encoder-decoder ---------------------------------------------------------------------------


class UNet(nn.Module):
    """A U-shaped network: group and instance norm, SiLU, Mish, transposed convolution, upsampling."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(3, width), nn.SiLU())
        self.down2 = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width, affine=True), nn.Mish()
        )
        self.bottom = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.GroupNorm(4, 2 * width), nn.SiLU())
        self.up = nn.ConvTranspose2d(2 * width, 2 * width, 4, 2, 1)
        self.merge = nn.Conv2d(4 * width, width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, width, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        middle = self.down2(fine)
        x = self.up(self.bottom(middle))
        x = F.silu(self.merge(torch.cat((x, middle), 1)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = torch.tanh(self.last(torch.cat((x, fine), 1)))
        return self.head(x.amax((2, 3)) + x.mean((2, 3)))


# --- Other ranks -------------------------------------------------------------------------------


class SequenceCnn(nn.Sequential):
    """1-D convolutions over `[N, 2, 32]`."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(2, 8, 5, padding=2, bias=False),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 16, 3, 2, 1),
            nn.SELU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 4),
        )


class VolumeCnn(nn.Sequential):
    """3-D convolutions over `[N, 1, 8, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm3d(6),
            nn.ReLU(),
            nn.AvgPool3d(2),
            nn.Conv3d(6, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.Sigmoid(),
            nn.MaxPool3d((2, 1, 1)),
            nn.Flatten(),
            nn.Linear(8 * 2 * 2 * 2, 4),
        )


class TinyCnn(nn.Module):
    """The smallest network with all common parts: Conv, BN, ReLU, pooling, a residual, Linear."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(1, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))
