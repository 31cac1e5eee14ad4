"""The benchmark networks, initialised with a seed, for ten classes."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from export_torch import export_legacy
from reference.networks import CLASSES, Mlp, NasBench201, VisionTransformer

OPSET = 17


@dataclass(frozen=True)
class Network:
    """How to build a network, and the images to measure it on."""

    title: str
    make: Callable[[], nn.Module]
    size: int
    samples: int
    batch_norm: bool = True

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes of batch normalisation that differ for this network."""
        return ("running", "sample") if self.batch_norm else ("running",)


def nasbench201(architecture: str, channels: int = 16, cells: int = 5) -> nn.Module:
    return NasBench201(architecture, channels, cells, inputs=3)


def resnet18() -> nn.Module:
    """ResNet-18 with the stem for 32×32 images: a 3×3 convolution without stride and no pooling."""
    from torchvision import models

    network = models.resnet18(num_classes=CLASSES)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def resnet50() -> nn.Module:
    from torchvision import models

    return models.resnet50(num_classes=CLASSES)


def vgg16() -> nn.Module:
    """VGG-16 for 32×32 images, with its two layers of 4096 and without dropout."""
    from torchvision import models

    head = [nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES)]
    return nn.Sequential(models.vgg16(num_classes=CLASSES).features, nn.Flatten(), *head)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), Mlp((2048, 2048), 3 * 32 * 32))


def vit() -> nn.Module:
    """The dimensions of ViT-Tiny, on 65 tokens."""
    return VisionTransformer(192, 12, 3, inputs=3, size=32)


RESIDUAL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
# Each operation about as often as it occurs in the space: one in five.
AVERAGE = "|nor_conv_1x1~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"

NETWORKS = {
    "nasbench201-residual-32": Network("NAS-Bench-201, a residual cell", lambda: nasbench201(RESIDUAL), 32, 32),
    "nasbench201-residual": Network("NAS-Bench-201, a residual cell", lambda: nasbench201(RESIDUAL), 32, 128),
    "nasbench201-average": Network("NAS-Bench-201, an average cell", lambda: nasbench201(AVERAGE), 32, 128),
    "resnet18": Network("ResNet-18", resnet18, 32, 32),
    "resnet50": Network("ResNet-50", resnet50, 224, 8),
    "vgg16": Network("VGG-16", vgg16, 32, 32, batch_norm=False),
    "vit": Network("ViT-Tiny", vit, 32, 32, batch_norm=False),
    "mlp": Network("MLP, 3072-2048-2048-10", mlp, 32, 64, batch_norm=False),
}


def residual_block(block: nn.Module, x: Tensor) -> Tensor:
    """The forward pass of torchvision's blocks, with a sum that is not in place."""
    shortcut = x if block.downsample is None else block.downsample(x)
    y = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    if hasattr(block, "conv3"):
        y = block.bn3(block.conv3(block.relu(y)))
    return block.relu(y + shortcut)


def without_inplace(module: nn.Module) -> nn.Module:
    """The same network for the peers, whose hooks do not support in-place operations."""
    for child in module.modules():
        if isinstance(child, nn.ReLU):
            child.inplace = False
        if hasattr(child, "downsample"):
            child.forward = partial(residual_block, child)
    return module


def write(module: nn.Module, size: int, path: Path) -> None:
    """Exports a network without folding batch normalisation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    export_legacy(module.eval(), torch.zeros(1, 3, size, size), path, OPSET, dynamic=False)


def check(binary: Path, path: Path, module: nn.Module) -> None:
    """Fails unless the file has the parameters and batch normalisations of the network."""
    command = [binary, "inspect", path, "--format", "json"]
    network = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["network"]
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    elements = sum(torch.Size(parameter["shape"]).numel() for parameter in network["parameters"])
    found, expected = (network["batch_norms"], elements), (norms, sum(p.numel() for p in module.parameters()))
    if found != expected:
        raise SystemExit(f"{path}: (batch norms, parameters) are {found}, and {expected} in PyTorch")


def export(name: str, folder: Path, binary: Path) -> Path:
    """The ONNX file of a network, with its weights for PyTorch beside it. Written if missing."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        module = NETWORKS[name].make()
        write(module, NETWORKS[name].size, path)
        check(binary, path, module)
        torch.save(module.state_dict(), path.with_suffix(".pt"))
    return path


def load(name: str, weights: Path) -> nn.Module:
    """The network with its saved weights."""
    with torch.device("meta"):
        module = NETWORKS[name].make()
    module.load_state_dict(torch.load(weights, weights_only=True), assign=True)
    return without_inplace(module).eval()
