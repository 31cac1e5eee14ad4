"""Writes larger torchvision networks at initialisation, for measuring time and memory.

    python scripts/export_large.py FOLDER

writes `resnet18-32.onnx`, `vgg11-32.onnx`, `vgg11-224.onnx` and `resnet50-224.onnx` (750 MB in all)
with unfolded batch norm and ten classes. Then, for example,

    gradalign -v score FOLDER/vgg11-224.onnx --data synthetic --samples 128 --memory 4GiB

scores one and prints the peak memory of the process.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision import models


def resnet18() -> nn.Module:
    """ResNet-18 with the stem for 32×32 images: a 3×3 convolution without stride and no pooling."""
    network = models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def vgg11() -> nn.Module:
    """VGG-11 for 32×32 images, with its two layers of 4096."""
    features = models.vgg11(num_classes=10).features
    head = [nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10)]
    return nn.Sequential(features, nn.Flatten(), *head)


NETWORKS = {
    "resnet18-32": (resnet18, 32),
    "vgg11-32": (vgg11, 32),
    "vgg11-224": (lambda: models.vgg11(num_classes=10), 224),
    "resnet50-224": (lambda: models.resnet50(num_classes=10), 224),
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, size) in NETWORKS.items():
        torch.manual_seed(0)
        torch.onnx.export(
            make().eval(),
            (torch.zeros(1, 3, size, size),),
            folder / f"{name}.onnx",
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
        )


if __name__ == "__main__":
    main()
