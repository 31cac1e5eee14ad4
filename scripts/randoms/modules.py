"""A random network for each seed: blocks of real networks in random order.

Besides the blocks, three features are drawn: ties (a layer applied several times, a head that is the
embedding's transpose), exact zeros (dead channels, rows of zeros, constant inputs) and magnitudes
(weights and inputs scaled by powers of ten).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 11
POSITIONS = 6
CLASSES = 4


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[[Tensor], Tensor], text: str) -> None:
        super().__init__()
        self.f, self.text = f, text

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)

    def extra_repr(self) -> str:
        return self.text


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Times(nn.Module):
    """One module, applied several times."""

    def __init__(self, inner: nn.Module, times: int) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.inner(x)
        return x


class Gate(nn.Module):
    """`x · sigmoid(linear(mean x))`, over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.linear(x.mean(dim=(2, 3)))
        return x * torch.sigmoid(gate)[:, :, None, None]


class Masked(nn.Module):
    """Sets some channels to zero."""

    def __init__(self, shape: list[int], rng: random.Random) -> None:
        super().__init__()
        keep = torch.ones(shape)
        for channel in range(0, shape[0], rng.choice((2, 3))):
            keep[channel] = 0
        self.register_buffer("keep", keep)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5, -1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(b, t, d))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], width: int) -> None:
        super().__init__()
        self.cell = cell(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


class TiedHead(nn.Module):
    """Logits of tokens by the embedding's own table."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.embedding.weight)


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, lambda: nn.GELU("tanh"),
    nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.LogSigmoid, nn.Tanhshrink,
]  # fmt: skip


@dataclass
class Drawn:
    """A network as its body up to the logits and its final activation, the shape of a sample, and the loss."""

    body: nn.Module
    end: nn.Module
    shape: list[int]
    loss: str
    integers: bool = False
    said: list[str] = field(default_factory=list)
    scale: float = 1.0

    def logits(self, x: Tensor) -> Tensor:
        return self.body(x)

    def whole(self) -> nn.Module:
        return nn.Sequential(self.body, self.end)


def function(rng: random.Random, channels_last: bool) -> nn.Module:
    """A function without parameters. A function along an axis is along the channels."""
    axis = -1 if channels_last else 1
    choices: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("normalize", lambda x: F.normalize(x, dim=axis)),
        ("standardise", lambda x: (x - x.mean(axis, keepdim=True)) / (x.std(axis, keepdim=True) + 0.1)),
        ("softmax", lambda x: torch.softmax(x, axis)),
        ("square root of a rectifier", lambda x: torch.sqrt(torch.relu(x) + 1e-3)),
        ("power", lambda x: torch.sign(x) * x.abs().clamp(min=1e-3) ** 1.5),
        ("exp", lambda x: torch.exp(-x.abs())),
        ("log1p", lambda x: torch.log1p(x.abs())),
        ("clamp", lambda x: x.clamp(-0.8, 0.8)),
        ("where", lambda x: torch.where(x > 0.1, x, 0.3 * x)),
        ("minimum", lambda x: torch.minimum(x, 0.5 - x)),
        ("sin", lambda x: torch.sin(3 * x)),
        ("times itself", lambda x: x * torch.tanh(x)),
    ]
    text, f = rng.choice(choices)
    return Apply(f, text)


def image_block(rng: random.Random, shape: list[int]) -> nn.Module:
    c, h, w = shape
    even = c % 2 == 0
    out = rng.choice((4, 6, 8))
    kind = rng.randrange(16)
    if kind < 4:
        kernel, stride = rng.choice((1, 3, 5)), rng.choice((1, 1, 2))
        groups = rng.choice((1, 2)) if even else 1
        mode = rng.choice(("zeros", "zeros", "reflect", "replicate", "circular"))
        pad = kernel // 2 if mode == "zeros" or min(h, w) > kernel // 2 else 0
        if min(h, w) + 2 * pad < kernel:
            kernel, pad = 1, 0
        mode = mode if pad else "zeros"
        return nn.Conv2d(c, out, kernel, stride, pad, groups=groups, bias=rng.random() < 0.6, padding_mode=mode)
    if kind == 4:
        return nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False), nn.Conv2d(c, out, 1))
    if kind == 5 and h <= 8:
        return nn.ConvTranspose2d(c, out, 2, 2)
    if kind in (6, 7):
        return nn.BatchNorm2d(c)
    if kind == 8:
        norms = [nn.InstanceNorm2d(c, affine=True) if h * w > 1 else nn.Identity(), nn.GroupNorm(2 if even else 1, c)]
        return rng.choice(norms)
    if kind == 9 and min(h, w) >= 2:
        return rng.choice((nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2)))
    if kind == 10:
        return Residual(nn.Sequential(nn.Conv2d(c, c, 3, padding=1), rng.choice(ACTIVATIONS)()))
    if kind == 11:
        return Gate(c)
    if kind == 12:
        return Masked([c, 1, 1], rng)
    if kind == 13:
        layer = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=rng.random() < 0.5), rng.choice((nn.ReLU, nn.Tanh))())
        return Times(layer, rng.choice((2, 3)))
    if kind == 14:
        return function(rng, channels_last=False)
    return rng.choice(ACTIVATIONS)()


def row_block(rng: random.Random, width: int, sequence: bool) -> nn.Module:
    """A block for `[batch, width]` or `[batch, positions, width]`."""
    kind = rng.randrange(12 if sequence else 9)
    out = rng.choice((4, 6, 8))
    if kind < 3:
        return nn.Linear(width, out, bias=rng.random() < 0.7)
    if kind == 3:
        return nn.LayerNorm(width)
    if kind == 4:
        return nn.Identity() if sequence else nn.BatchNorm1d(width)
    if kind == 5:
        return Residual(nn.Sequential(nn.Linear(width, 2 * width), rng.choice(ACTIVATIONS)(), nn.Linear(2 * width, width)))
    if kind == 6:
        return Times(nn.Sequential(nn.Linear(width, width, bias=rng.random() < 0.5), nn.Tanh()), rng.choice((2, 3)))
    if kind == 7:
        return function(rng, channels_last=True)
    if kind == 8:
        return Masked([width], rng)
    if kind == 9:
        return Attention(width, 2) if width % 2 == 0 else nn.LayerNorm(width)
    return Recurrent(rng.choice((nn.GRU, nn.LSTM, nn.RNN)), width)


def append(layers: list[nn.Module], make: Callable[[list[int]], nn.Module], x: Tensor) -> Tensor:
    """Appends a block if it keeps the values finite and in range. Returns the values after it."""
    block = make(list(x.shape[1:])).eval()
    with torch.no_grad():
        y = block(x)
    if not y.isfinite().all() or y.abs().max() > 1e6 or y.numel() == 0:
        return x
    layers.append(block)
    return y


def pooling(rng: random.Random, x: Tensor) -> nn.Module:
    choices = [
        Apply(lambda v: v.mean(dim=(2, 3)), "global average"),
        Apply(lambda v: v.amax(dim=(2, 3)), "global maximum"),
        Apply(lambda v: v.flatten(2).norm(dim=2), "global norm"),
    ]
    if x[0].numel() <= 256:
        choices.append(nn.Flatten())
    return rng.choice(choices)


def draw(seed: int) -> Drawn:
    """The network of a seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    start = rng.choice(("image", "image", "image", "rows", "positions", "tokens"))
    layers: list[nn.Module] = []
    said = [start]
    shape = {"image": [3, 8, 8], "rows": [7], "positions": [POSITIONS, 6], "tokens": [POSITIONS]}[start]
    integers = start == "tokens"
    x = torch.randint(0, VOCABULARY, (3, *shape)) if integers else torch.randn(3, *shape)
    embedding = None
    if integers:
        embedding = nn.Embedding(VOCABULARY, 6)
        layers.append(embedding)
        x = embedding(x)
    for _ in range(rng.randint(3, 8)):
        if x.dim() == 4:
            x = append(layers, lambda s: image_block(rng, s), x)
            if rng.random() < 0.1:
                x = append(layers, lambda s: Masked([s[0], 1, 1], rng), x)
        else:
            x = append(layers, lambda s: row_block(rng, s[-1], x.dim() == 3), x)
    kind = rng.choice(("classes", "classes", "classes", "one", "values", "map" if x.dim() == 4 else "classes"))
    if x.dim() == 3 and (integers or rng.random() < 0.3):
        kind = "token" if rng.random() < 0.6 else kind
    if kind == "map":
        layers.append(nn.Conv2d(x.shape[1], 1, 1))
    else:
        if x.dim() == 4:
            x = append(layers, lambda _: pooling(rng, x), x)
            x = x if x.dim() == 2 else append(layers, lambda _: nn.Flatten(), x)
        elif x.dim() == 3 and kind != "token":
            x = append(layers, lambda _: Apply(lambda v: v.mean(1), "mean of the positions"), x)
        for _ in range(rng.randint(0, 2)):
            if kind != "token":
                x = append(layers, lambda s: row_block(rng, s[-1], False), x)
        if kind == "token" and embedding is not None and x.shape[-1] != embedding.weight.shape[1]:
            x = append(layers, lambda s: nn.Linear(s[-1], embedding.weight.shape[1]), x)
        width = {"one": 1, "values": 3}.get(kind, CLASSES)
        tied = kind == "token" and embedding is not None and rng.random() < 0.7
        layers.append(TiedHead(embedding) if tied else nn.Linear(x.shape[-1], width))
        said += ["tied head"] if tied else []
    ends: list[tuple[str, nn.Module]] = [("", nn.Identity())] * 3
    if kind in ("classes", "token"):
        ends += [("softmax", nn.Softmax(-1)), ("log-softmax", nn.LogSoftmax(-1))]
    if kind in ("one", "map"):
        ends += [("sigmoid", nn.Sigmoid())]
    name, end = rng.choice(ends)
    loss = {"classes": "cross-entropy", "token": "token-cross-entropy", "values": "mse"}.get(kind, "bce")
    drawn = Drawn(nn.Sequential(*layers), end, shape, loss, integers, [*said, kind, name])
    disturb(drawn, rng)
    return drawn


def disturb(drawn: Drawn, rng: random.Random) -> None:
    """Draws magnitudes, exact zeros and batch-norm statistics."""
    parameters = list(drawn.body.parameters())
    with torch.no_grad():
        if rng.random() < 0.25:
            factor = 10.0 ** rng.choice((-3, -2, 1, 2))
            rng.choice(parameters).mul_(factor)
            drawn.said.append(f"a parameter times {factor:g}")
        if rng.random() < 0.2:
            parameter = rng.choice([p for p in parameters if p.dim() > 1])
            parameter[0] = 0
            drawn.said.append("a row of zeros")
        if rng.random() < 0.5:
            for norm in drawn.body.modules():
                if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
                    norm.running_mean.normal_(0, 0.3)
                    norm.running_var.uniform_(0.5, 2)
                    norm.weight.uniform_(0.5, 1.5)
                    norm.bias.normal_(0, 0.2)
            drawn.said.append("statistics drawn")
    if not drawn.integers and rng.random() < 0.2:
        drawn.scale = 10.0 ** rng.choice((-2, 1, 2))
        drawn.said.append(f"inputs times {drawn.scale:g}")
