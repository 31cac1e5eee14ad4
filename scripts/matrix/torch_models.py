"""Small, freshly initialised networks of PyTorch, torchvision, timm and Hugging Face's transformers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

CLASSES = 10
VOCABULARY = 61

Loss = Literal["cross-entropy", "token-cross-entropy", "mse"]


@dataclass(frozen=True)
class Architecture:
    """A network, and the shape and kind of its inputs for one sample: floats, or integers below a bound."""

    name: str
    library: str
    build: Callable[[], nn.Module]
    shapes: Sequence[tuple[int, ...]] = ((3, 32, 32),)
    integers: int | None = None
    loss: Loss = "cross-entropy"
    exporters: Sequence[str] = ("legacy", "dynamo")

    @property
    def inputs(self) -> list[str]:
        return ["input"] if len(self.shapes) == 1 else [f"input{i}" for i in range(len(self.shapes))]


REGISTRY: dict[str, Architecture] = {}


def add(name: str, library: str, build: Callable[[], nn.Module], **options: object) -> None:
    assert name not in REGISTRY, name
    REGISTRY[name] = Architecture(name, library, build, **options)  # type: ignore[arg-type]


class Field(nn.Module):
    """A network that returns one field of a record."""

    def __init__(self, module: nn.Module, field: str | int, *names: str, **fixed: object) -> None:
        super().__init__()
        self.module, self.field, self.names, self.fixed = module, field, names, fixed

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.names:
            result = self.module(**dict(zip(self.names, inputs, strict=True)), **self.fixed)
        else:
            result = self.module(*inputs, **self.fixed)
        return result[self.field]


class Pooled(nn.Module):
    """Features `[batch, positions, width]` of another network, averaged and classified."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(width, CLASSES)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(self.features(*inputs).mean(1))


# PyTorch alone


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(20, 48), nn.SELU(), nn.Linear(48, 32), nn.Softplus(), nn.Linear(32, CLASSES))


class Residual1d(nn.Module):
    """A temporal convolutional network: causal dilated convolutions with residual connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 16, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(4))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total = torch.zeros_like(x)
        for i, (block, skip) in enumerate(zip(self.blocks, self.skips, strict=True)):
            gate, value = block(nn.functional.pad(x, (2**i, 0))).chunk(2, 1)
            x = x + skip(torch.sigmoid(gate) * torch.tanh(value))
            total = total + x
        return self.head(total.mean(-1))


class Volume(nn.Sequential):
    """A 3-d convolutional network."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(8, 16, 3, padding=1, groups=2), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, CLASSES),
        )  # fmt: skip


class UNet(nn.Module):
    """Two levels down and up, transposed and bilinear, with skip connections; one class for each pixel."""

    def __init__(self) -> None:
        super().__init__()

        def double(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
            )  # fmt: skip

        self.down1, self.down2, self.bottom = double(3, 8), double(8, 16), double(16, 32)
        self.up2, self.right2 = nn.ConvTranspose2d(32, 16, 2, 2), double(32, 16)
        self.up1, self.right1 = nn.Upsample(scale_factor=2, mode="bilinear"), double(24, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        y = self.bottom(nn.functional.max_pool2d(two, 2))
        y = self.right2(torch.cat([two, self.up2(y)], 1))
        return self.head(self.right1(torch.cat([one, self.up1(y)], 1)))


class Recurrent(nn.Module):
    """Token embeddings through recurrent layers; the last state is classified."""

    def __init__(self, cell: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.layers = cell(12, 16, batch_first=True, **options)
        self.head = nn.Linear(32 if options.get("bidirectional") else 16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens))[0][:, -1])


class UnrolledGru(nn.Module):
    """A recurrent cell in a Python loop, which exporters unroll."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state)


class Translator(nn.Module):
    """PyTorch's own encoder-decoder transformer with learned positions, over two sequences of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, 32), nn.Embedding(VOCABULARY, 32)
        self.positions = nn.Parameter(torch.randn(8, 32))
        self.layers = nn.Transformer(32, 2, 1, 1, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.full((8, 8), float("-inf"), dtype=self.positions.dtype).triu(1)
        y = self.layers(self.source(source) + self.positions, self.target(target) + self.positions, tgt_mask=mask)
        return self.head(y)


class TwoTowers(nn.Module):
    """An image and a vector of measurements, joined by gating and an outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.PReLU(8), nn.MaxPool2d(4), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(12, 32), nn.Hardswish())
        self.gate, self.head = nn.Linear(32, 32), nn.Linear(1024, CLASSES)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        a, b = self.image(image), self.table(table)
        a = a * torch.sigmoid(self.gate(b))
        return self.head((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1))


class GraphNetwork(nn.Module):
    """Graph convolutions on a dense adjacency matrix that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        weights = edges.abs()
        weights = weights / weights.sum(-1, keepdim=True)
        x = torch.relu(weights @ self.first(nodes))
        x = torch.relu(weights @ self.second(x))
        return self.head(torch.logsumexp(x, 1))


class AutoEncoder(nn.Module):
    """Strided convolutions down, transposed ones up, with weight normalisation. The output is an image."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.encoder = nn.Sequential(norm(nn.Conv2d(3, 8, 4, 2, 1)), nn.ELU(), norm(nn.Conv2d(8, 16, 4, 2, 1)), nn.ELU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.GELU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class PixelShuffle(nn.Sequential):
    """Super-resolution: sub-pixel convolution."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))


class Tabular(nn.Module):
    """An FT-Transformer: every column of a table becomes a token."""

    def __init__(self, columns: int = 7, width: int = 24) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, width)), nn.Parameter(torch.randn(columns, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 48, 0.0, "gelu", batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(-1) * self.weight + self.bias
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.head(self.layers(tokens)[:, 0])


class Fourier(nn.Module):
    """Fixed random features, einsum, and a mixture of experts with dense gates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(8, 16))
        self.experts, self.bias = nn.Parameter(torch.randn(3, 32, CLASSES) / 6), nn.Parameter(torch.randn(3, CLASSES))
        self.gate = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        phase = x @ self.frequencies
        features = torch.cat([phase.sin(), phase.cos()], -1)
        results = torch.einsum("bi,eio->beo", features, self.experts) + self.bias
        return torch.einsum("be,beo->bo", self.gate(features).softmax(-1), results)


TOKENS = {"shapes": ((8,),), "integers": VOCABULARY}

add("mlp", "torch", Mlp, shapes=((20,),))
add("tcn-1d", "torch", Residual1d, shapes=((4, 40),))
add("cnn-3d", "torch", Volume, shapes=((1, 8, 8, 8),))
add("unet", "torch", UNet, loss="mse", shapes=((3, 16, 16),))
add("lstm", "torch", partial(Recurrent, nn.LSTM), **TOKENS)
add("lstm-bidirectional", "torch", partial(Recurrent, nn.LSTM, bidirectional=True, num_layers=2), **TOKENS)
add("gru", "torch", partial(Recurrent, nn.GRU), **TOKENS)
add("elman-rnn", "torch", partial(Recurrent, nn.RNN), **TOKENS)
add("gru-unrolled", "torch", UnrolledGru, shapes=((5, 6),))
add("transformer-seq2seq", "torch", Translator, shapes=((8,), (8,)), integers=VOCABULARY, loss="token-cross-entropy")
add("two-towers", "torch", TwoTowers, shapes=((3, 17, 17), (12,)))
add("graph-network", "torch", GraphNetwork, shapes=((6, 5), (6, 6)))
add("auto-encoder", "torch", AutoEncoder, loss="mse", shapes=((3, 16, 16),))
add("pixel-shuffle", "torch", PixelShuffle, loss="mse", shapes=((3, 8, 8),))
add("ft-transformer", "torch", Tabular, shapes=((7,),))
add("fourier-experts", "torch", Fourier, shapes=((8,),))


# torchvision: the classes behind its named models, with fewer and narrower layers


def vision(name: str, make: Callable[..., nn.Module], **options: object) -> None:
    add(name, "torchvision", make, **options)


def _tv_resnet(block: str, **options: object) -> nn.Module:
    from torchvision.models import resnet

    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=CLASSES, **options)


def _tv(path: str, *arguments: object, **options: object) -> nn.Module:
    import importlib

    import torchvision  # noqa: F401

    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"torchvision.models.{module}"), name)(*arguments, **options)


def _tv_vgg() -> nn.Module:
    from torchvision.models import vgg

    net = vgg.VGG(vgg.make_layers([8, "M", 16, "M", 32, 32, "M"], batch_norm=True), num_classes=CLASSES)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(2), nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return net


def _tv_alexnet() -> nn.Module:
    net = _tv("alexnet.AlexNet", CLASSES, 0.0)
    net.avgpool, net.classifier = nn.Identity(), nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    return net


def _tv_efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    stages = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        MBConvConfig(4, 3, 2, 8, 16, 1),
        MBConvConfig(4, 5, 2, 16, 24, 2),
    ]
    return EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.0, num_classes=CLASSES, last_channel=48)


def _tv_mobilenet_v3() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    stages = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 5, 40, 24, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 64, 24, False, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(stages, 64, num_classes=CLASSES, dropout=0.0)


def _tv_regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    return RegNet(BlockParams([1, 1, 1, 1], [16, 16, 32, 32], [8] * 4, [1.0] * 4, [2] * 4, 0.25), CLASSES, stem_width=8)


def _tv_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    settings = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 1), CNBlockConfig(48, None, 1)]
    return ConvNeXt(settings, num_classes=CLASSES)


def _tv_swin(version: int) -> nn.Module:
    from torchvision.models import swin_transformer as swin

    new = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2} if version == 2 else {}
    return swin.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES, **new)


def _tv_shufflenet() -> nn.Module:
    return _tv("shufflenetv2.ShuffleNetV2", [1, 2, 1], [8, 16, 32, 64, 64], num_classes=CLASSES)


def _tv_maxvit() -> nn.Module:
    return _tv(
        "maxvit.MaxVit", input_size=(32, 32), stem_channels=8, partition_size=4, block_channels=[16, 16],
        block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=CLASSES,
    )  # fmt: skip


def _tv_segmentation(head: str) -> nn.Module:
    from torchvision.models import _utils, resnet, segmentation

    backbone = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True], width_per_group=8)
    for stage in (backbone.layer3, backbone.layer4):
        stage[0].conv2.padding, stage[0].conv2.dilation = stage[0].conv2.dilation, stage[0].conv2.dilation
    features = _utils.IntermediateLayerGetter(backbone, {"layer2": "out"})
    if head == "fcn":
        return Field(segmentation.fcn.FCN(features, segmentation.fcn.FCNHead(512, 4)), "out")
    return Field(segmentation.deeplabv3.DeepLabV3(features, segmentation.deeplabv3.DeepLabHead(512, 4)), "out")


def _tv_video(block: str, conv: str, stem: str) -> nn.Module:
    from torchvision.models.video import resnet

    convs = [getattr(resnet, conv)] * 4
    net = resnet.VideoResNet(getattr(resnet, block), convs, [1, 1, 1, 1], getattr(resnet, stem), num_classes=CLASSES)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, CLASSES)
    return net


vision("alexnet", _tv_alexnet, shapes=((3, 64, 64),))
vision("vgg-bn", _tv_vgg)
vision("resnet-basic", partial(_tv_resnet, "BasicBlock"), exporters=("legacy",))
vision("resnext", partial(_tv_resnet, "Bottleneck", groups=4, width_per_group=4), exporters=("dynamo",))
vision("squeezenet", partial(_tv, "squeezenet.SqueezeNet", "1_1", CLASSES, 0.0), shapes=((3, 64, 64),))
vision("densenet", partial(_tv, "densenet.DenseNet", 8, (2, 2, 2), 16, num_classes=CLASSES))
vision("googlenet", partial(_tv, "googlenet.GoogLeNet", CLASSES, aux_logits=False, init_weights=False, dropout=0.0), shapes=((3, 64, 64),), exporters=("legacy",))
vision("mobilenet-v2", partial(_tv, "mobilenetv2.MobileNetV2", CLASSES, 0.1))
vision("mobilenet-v3", _tv_mobilenet_v3)
vision("mnasnet", partial(_tv, "mnasnet.MNASNet", 0.1, CLASSES, 0.0))
vision("shufflenet-v2", _tv_shufflenet)
vision("efficientnet", _tv_efficientnet)
vision("regnet", _tv_regnet)
vision("convnext", _tv_convnext)
vision("vit", partial(_tv, "vision_transformer.VisionTransformer", 32, 8, 2, 2, 32, 64, num_classes=CLASSES))
vision("swin", partial(_tv_swin, 1))
vision("swin-v2", partial(_tv_swin, 2))
vision("maxvit", _tv_maxvit)
vision("fcn-segmentation", partial(_tv_segmentation, "fcn"), loss="mse")
vision("deeplab-v3", partial(_tv_segmentation, "deeplab"), loss="mse", exporters=("dynamo",))
vision("r3d-video", partial(_tv_video, "BasicBlock", "Conv3DSimple", "BasicStem"), shapes=((3, 4, 16, 16),))
vision("r2plus1d-video", partial(_tv_video, "BasicBlock", "Conv2Plus1D", "R2Plus1dStem"), shapes=((3, 4, 16, 16),))


# timm


def _timm(name: str, **options: object) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


def timm(label: str, name: str, size: int = 64, **options: object) -> None:
    shown = {k: options.pop(k) for k in ("exporters", "loss") if k in options}
    add(f"timm-{label}", "timm", partial(_timm, name, **options), shapes=((3, size, size),), **shown)


def _timm_class(path: str, **options: object) -> nn.Module:
    import importlib

    name, cls = path.split(".")
    module = importlib.import_module(f"timm.models.{name}")
    # A string names a class of the same module.
    found = {k: [getattr(module, x) for x in v] if k == "token_mixers" else v for k, v in options.items()}
    found = {k: getattr(module, v) if isinstance(v, str) else v for k, v in found.items()}
    return getattr(module, cls)(num_classes=CLASSES, **found)


def timm_class(label: str, path: str, size: int = 64, **options: object) -> None:
    add(f"timm-{label}", "timm", partial(_timm_class, path, **options), shapes=((3, size, size),))


for tiny in ("resnet", "byobnet", "efficientnet", "efficientnet_gn", "efficientnet_ln", "efficientnet_evos", "convnext", "convnext2", "convnext3", "mambaout", "nfnet"):  # fmt: skip
    timm(tiny.replace("_", "-"), f"test_{tiny}")
timm("vit", "test_vit", img_size=64)
timm("vit-registers", "test_vit2", img_size=64)
timm("vit-gap", "test_vit3", img_size=64)
timm("vit-rope", "test_vit4", img_size=64)
timm("vit-relative-positions", "test_vit_relpos", img_size=64)
timm("coatnet", "test_coatnet", img_size=64)
timm("maxvit", "test_maxvit", img_size=64)
timm_class("mixer", "mlp_mixer.MlpMixer", img_size=64, patch_size=16, num_blocks=2, embed_dim=32)
timm_class("resmlp", "mlp_mixer.MlpMixer", img_size=64, patch_size=16, num_blocks=2, embed_dim=32, mlp_ratio=4, block_layer="ResBlock", norm_layer="Affine")
timm_class("gmlp", "mlp_mixer.MlpMixer", img_size=64, patch_size=16, num_blocks=2, embed_dim=32, mlp_ratio=6, block_layer="SpatialGatingBlock", mlp_layer="GatedMlp")
timm_class("poolformer", "metaformer.MetaFormer", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48), downsample_norm=None, mlp_bias=True, norm_layers="GroupNorm1", layer_scale_init_values=1e-2, res_scale_init_values=None, use_mlp_head=False)
timm_class("convmixer", "convmixer.ConvMixer", dim=32, depth=2, kernel_size=7, patch_size=7)
timm("cait", "cait_xxs24_224", img_size=64, depth=2, embed_dim=48, num_heads=4)
timm("deit-distilled", "deit_tiny_distilled_patch16_224", img_size=64, depth=2, embed_dim=48)
timm("beit", "beit_base_patch16_224", img_size=64, depth=2, embed_dim=48, num_heads=4)
timm("eva02", "eva02_tiny_patch14_224", size=56, img_size=56, depth=2, embed_dim=48, num_heads=4)
timm("xcit", "xcit_nano_12_p16_224", img_size=64, depth=2, embed_dim=48, num_heads=4)
timm("coat", "coat_lite_tiny", img_size=64, serial_depths=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32), num_heads=8)
timm("pvt-v2", "pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48), num_heads=(1, 2, 4, 4))
timm("twins", "twins_svt_small", img_size=64, depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48), num_heads=(1, 2, 4, 4), wss=(4, 4, 2, 2))
timm("crossvit", "crossvit_9_240", size=240, embed_dim=(32, 48), depth=((1, 1, 0), (1, 1, 0)), num_heads=(2, 2), mlp_ratio=(2, 2, 1))
timm("levit", "levit_128s", img_size=64, embed_dim=(32, 48, 64), key_dim=8, num_heads=(2, 3, 4), depth=(1, 1, 1))
timm("mobilevit", "mobilevit_xxs")
timm("mobilevit-v2", "mobilevitv2_050")
timm("efficientformer", "efficientformer_l1", size=224, depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48), exporters=("dynamo",))
timm("edgenext", "edgenext_xx_small", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))
timm("ghostnet", "ghostnet_050")
timm("hrnet", "hrnet_w18_small", exporters=("legacy",))
timm("dla", "dla46x_c")
timm("dpn", "dpn48b", k_sec=(1, 1, 1, 1))
timm("selective-kernel", "skresnet18", layers=(1, 1, 1, 1), channels=(16, 32, 48, 64))
timm("squeeze-excitation", "seresnet18", layers=(1, 1, 1, 1), channels=(16, 32, 48, 64))
timm("eca", "ecaresnet26t", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32))
timm("blur-pool", "resnetblur18", layers=(1, 1, 1, 1), channels=(16, 32, 48, 64))
timm("rexnet", "rexnet_100", width_mult=0.4, depth_mult=0.5)
timm("inception-next", "inception_next_tiny", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))
timm("visformer", "visformer_tiny", img_size=64, init_channels=8, embed_dim=48, depth=(1, 1, 1), num_heads=4)
timm("convit", "convit_tiny", img_size=64, depth=2, local_up_to_layer=1, embed_dim=12)
timm_class("focalnet", "focalnet.FocalNet", depths=(1, 1, 1, 1), embed_dim=16)
timm("davit", "davit_tiny", depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(2, 2, 2, 2))
timm("fastvit", "fastvit_t8", layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128))
timm("repvit", "repvit_m0_9", embed_dim=(16, 24, 32, 48), depth=(1, 1, 1, 1))
timm("tiny-vit", "tiny_vit_5m_224", depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(2, 2, 2, 2), window_sizes=(4, 4, 4, 2))
timm_class("caformer", "metaformer.MetaFormer", depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), token_mixers=("SepConv", "SepConv", "Attention", "Attention"))
timm("hiera", "hiera_tiny_224", img_size=64, stages=(1, 1, 1, 1), embed_dim=24)
timm("starnet", "starnet_s1", base_dim=12, depths=(1, 1, 1, 1))
timm("mobilenet-v4", "mobilenetv4_conv_small_035")
timm("tnt", "tnt_s_legacy_patch16_224", img_size=64, depth=2, embed_dim=32, inner_dim=8, num_heads_inner=2, num_heads_outer=2)
timm_class("volo", "volo.VOLO", img_size=64, layers=(1, 1, 1, 1), embed_dims=(24, 48, 48, 48), num_heads=(2, 4, 4, 4), mlp_ratio=2)
timm("swin-v2-cr", "swinv2_cr_tiny_224", img_size=64, depths=(1, 1), embed_dim=16, num_heads=(2, 2), window_size=4)


# Hugging Face's transformers


def _hf(model: str, config: str, field: str | int, *names: str, **options: object) -> nn.Module:
    import transformers

    fixed = {k: options.pop(k) for k in ("use_cache",) if k in options}
    made = getattr(transformers, config)(**options)
    made._attn_implementation = "eager"
    return Field(getattr(transformers, model)(made), field, *names, **fixed)


def hf(label: str, model: str, config: str, field: str, *names: str, inputs: dict | None = None, **options: object) -> None:
    inputs = dict(inputs or TOKENS)
    add(f"hf-{label}", "transformers", partial(_hf, model, config, field, *names, **options), **inputs)


TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 16}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = {"num_labels": CLASSES}
WORDS = {**TOKENS, "loss": "token-cross-entropy"}
PICTURE = {"shapes": ((3, 32, 32),)}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32, "patch_size": 8}  # fmt: skip

hf("bert", "BertForSequenceClassification", "BertConfig", "logits", "input_ids", **TEXT, **NO_DROPOUT, **LABELS)
hf("bert-masked-lm", "BertForMaskedLM", "BertConfig", "logits", "input_ids", inputs=WORDS, **TEXT, **NO_DROPOUT)
hf("roberta", "RobertaForSequenceClassification", "RobertaConfig", "logits", "input_ids", **TEXT | {"max_position_embeddings": 24}, **NO_DROPOUT, **LABELS)
hf("distilbert", "DistilBertForSequenceClassification", "DistilBertConfig", "logits", "input_ids", vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=16, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **LABELS)
hf("albert", "AlbertForSequenceClassification", "AlbertConfig", "logits", "input_ids", embedding_size=16, **TEXT, **NO_DROPOUT, **LABELS)
hf("electra", "ElectraForSequenceClassification", "ElectraConfig", "logits", "input_ids", embedding_size=16, **TEXT, **NO_DROPOUT, **LABELS)
hf("deberta-v2", "DebertaV2ForSequenceClassification", "DebertaV2Config", "logits", "input_ids", relative_attention=True, pos_att_type=["p2c", "c2p"], **TEXT, **NO_DROPOUT, **LABELS)
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
hf("gpt2", "GPT2LMHeadModel", "GPT2Config", "logits", "input_ids", inputs=WORDS, use_cache=False, **GPT2)
hf("gpt-neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, hidden_dropout=0.0, attention_dropout=0.0, **TEXT)
hf("llama", "LlamaForCausalLM", "LlamaConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, num_key_value_heads=1, **TEXT)
hf("mistral", "MistralForCausalLM", "MistralConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, num_key_value_heads=1, sliding_window=4, **TEXT)
hf("qwen2", "Qwen2ForCausalLM", "Qwen2Config", "logits", "input_ids", inputs=WORDS, use_cache=False, num_key_value_heads=1, tie_word_embeddings=True, **TEXT)
hf("phi", "PhiForCausalLM", "PhiConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, **TEXT)
hf("bloom", "BloomForCausalLM", "BloomConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2, hidden_dropout=0.0, attention_dropout=0.0)
hf("opt", "OPTForCausalLM", "OPTConfig", "logits", "input_ids", inputs=WORDS, use_cache=False, ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, attention_dropout=0.0, **TEXT)
hf("vit", "ViTForImageClassification", "ViTConfig", "logits", "pixel_values", inputs=PICTURE, **VISION, **NO_DROPOUT, **LABELS)
hf("deit", "DeiTForImageClassification", "DeiTConfig", "logits", "pixel_values", inputs=PICTURE, **VISION, **NO_DROPOUT, **LABELS)
hf("convnext-v2", "ConvNextV2ForImageClassification", "ConvNextV2Config", "logits", "pixel_values", inputs=PICTURE, hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, **LABELS)
hf("swin", "SwinForImageClassification", "SwinConfig", "logits", "pixel_values", inputs=PICTURE, image_size=32, patch_size=4, embed_dim=16, depths=[2], num_heads=[2], window_size=4, **NO_DROPOUT, **LABELS)
hf("segformer", "SegformerForImageClassification", "SegformerConfig", "logits", "pixel_values", inputs=PICTURE, depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 32, 32], num_attention_heads=[1, 1, 2, 2], classifier_dropout_prob=0.0, drop_path_rate=0.0, **NO_DROPOUT, **LABELS)


def _pooled_hf(*arguments: object, width: int = 32, **options: object) -> nn.Module:
    return Pooled(_hf(*arguments, **options), width)


add("hf-t5-encoder", "transformers", partial(_pooled_hf, "T5EncoderModel", "T5Config", 0, "input_ids", vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0), **TOKENS)
add("hf-whisper-encoder", "transformers", lambda: Pooled(_whisper(), 32), shapes=((8, 24),))
add("hf-clip-vision", "transformers", partial(_pooled_hf, "CLIPVisionModel", "CLIPVisionConfig", 0, "pixel_values", **VISION), **PICTURE)
add("hf-wav2vec2", "transformers", partial(_pooled_hf, "Wav2Vec2Model", "Wav2Vec2Config", 0, "input_values", conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, apply_spec_augment=False, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, **{k: v for k, v in TEXT.items() if k != "max_position_embeddings"}), shapes=((200,),))


def _whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(num_mel_bins=8, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, max_source_positions=12, dropout=0.0)
    config._attn_implementation = "eager"
    return Field(WhisperEncoder(config), 0)
