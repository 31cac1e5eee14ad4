"""Networks of search spaces in NumPy, written down once more and independently of gradalign.

A `Net` runs what it is told to, in float64, and counts. Every weight of a convolution or linear layer is
1/fan-in and every bias 0, so that the outputs are all equal and need no order of weights: the value is the
network's fingerprint. It depends on strides, padding, pooling, dilation, and on what is connected how.
"""

import hashlib
import json

import numpy as np

Array = np.ndarray


def image(size: int) -> Array:
    """`[3, size, size]` with x[c, h, w] = ((7h + 3w + 5c) mod 11) / 5 - 1."""
    c, h, w = np.meshgrid(np.arange(3), np.arange(size), np.arange(size), indexing="ij")
    return ((7 * h + 3 * w + 5 * c) % 11) / 5 - 1


def windows(x: Array, size: tuple[int, int], stride: tuple[int, int], dilation: int, fill: float) -> list[Array]:
    """For each place in a window, what lies there in all windows. Padded by half a window."""
    pads = [(k - 1) * dilation // 2 for k in size]
    padded = np.pad(x, ((0, 0), (pads[0],) * 2, (pads[1],) * 2), constant_values=fill)
    counts = [(padded.shape[a + 1] - (size[a] - 1) * dilation - 1) // stride[a] + 1 for a in (0, 1)]
    places = []
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * dilation, i * dilation + (counts[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation, j * dilation + (counts[1] - 1) * stride[1] + 1, stride[1])
            places.append(padded[:, rows, columns])
    return places


class Net:
    """Counts what it runs."""

    def __init__(self) -> None:
        self.parameters = 0
        self.macs = 0

    def conv(self, x: Array, out: int, size=1, stride=1, dilation=1, depthwise=False) -> Array:
        size, stride = (s if isinstance(s, tuple) else (s, s) for s in (size, stride))
        fan_in = size[0] * size[1] * (1 if depthwise else len(x))
        if not depthwise:
            x = x.sum(axis=0, keepdims=True)
        y = sum(windows(x, size, stride, dilation, 0.0)) / fan_in
        y = y if depthwise else np.repeat(y, out, axis=0)
        self.parameters += out * fan_in
        self.macs += y.size * fan_in
        return y

    def norm(self, x: Array) -> Array:
        self.parameters += 2 * len(x)
        return x / np.sqrt(1 + 1e-5)

    def cbr(self, x: Array, out: int, size=1, stride=1) -> Array:
        return relu(self.norm(self.conv(x, out, size, stride)))

    def rcb(self, x: Array, out: int, size=1, stride=1) -> Array:
        return self.norm(self.conv(relu(x), out, size, stride))

    def factorized_reduce(self, x: Array, out: int) -> Array:
        x = relu(x)
        shifted = np.pad(x, ((0, 0), (0, 1), (0, 1)))[:, 1:, 1:]
        return self.norm(np.concatenate([self.conv(x, out // 2, 1, 2), self.conv(shifted, out - out // 2, 1, 2)]))

    def head(self, x: Array, classes: int) -> float:
        self.parameters += (len(x) + 1) * classes
        self.macs += len(x) * classes
        return float(x.mean(axis=(1, 2)).sum() / len(x))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def average_pool(x: Array, size: int, stride: int) -> Array:
    return sum(windows(x, (size, size), (stride, stride), 1, 0.0)) / sum(
        windows(np.ones_like(x), (size, size), (stride, stride), 1, 0.0)
    )


def max_pool(x: Array, size: int, stride: int) -> Array:
    return np.maximum.reduce(windows(x, (size, size), (stride, stride), 1, -np.inf))


def cell_201(net: Net, x: Array, out: int, stride: int, ops: list[str]) -> Array:
    """Six operations, for the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2."""
    nodes, rest = [x], list(ops)
    for target in (1, 2, 3):
        total = 0.0
        for source in range(target):
            y, s, op = nodes[source], stride if source == 0 else 1, rest.pop(0)
            if op == "none":
                shape = y[:, ::s, ::s].shape
                total = total + np.zeros((out, *shape[1:]))
            elif op == "skip_connect" and s == 2:
                total = total + net.factorized_reduce(y, out)
            elif op == "skip_connect":
                total = total + (y if len(y) == out else net.norm(net.conv(y, out)))
            elif op == "avg_pool_3x3":
                total = total + average_pool(y, 3, s)
            else:
                total = total + net.rcb(y, out, int(op[-1]), s)
        nodes.append(total)
    return nodes[3]


def residual_201(net: Net, x: Array, out: int) -> Array:
    y = net.rcb(net.rcb(x, out, 3, 2), out, 3)
    return y + net.conv(average_pool(x, 2, 2), out)


def nasbench201(net: Net, arch: str, x: Array, _) -> Array:
    ops = [edge.split("~")[0] for edge in arch.replace("+", "").split("|") if edge]
    x = net.norm(net.conv(x, 16, 3))
    for width in (16, 32, 64):
        if width > 16:
            x = residual_201(net, x, width)
        for _ in range(5):
            x = cell_201(net, x, width, 1, ops)
    return relu(net.norm(x))


SIZE_CELL = ["nor_conv_3x3"] * 3 + ["skip_connect"] + ["nor_conv_3x3"] * 2


def natsbench_size(net: Net, arch: str, x: Array, _) -> Array:
    widths = [int(width) for width in arch.split(":")]
    x = net.norm(net.conv(x, widths[0], 3))
    for i, width in enumerate(widths):
        x = residual_201(net, x, width) if i % 2 else cell_201(net, x, width, 1, SIZE_CELL)
    return relu(net.norm(x))


def pruned(matrix: Array, ops: list[str]) -> tuple[Array, list[str]]:
    """Without the vertices that are not on a way from the input to the output."""
    count = len(ops)
    ways = sum(np.linalg.matrix_power(matrix, power) for power in range(count + 1))
    kept = [v for v in range(count) if ways[0, v] and ways[v, count - 1]]
    return matrix[np.ix_(kept, kept)], [ops[v] for v in kept]


def hash_101(matrix: Array, ops: list[str]) -> str:
    """What NAS-Bench-101 identifies a pruned cell by."""
    labels = {"input": -1, "output": -2, "conv3x3-bn-relu": 0, "conv1x1-bn-relu": 1, "maxpool3x3": 2}
    md5 = lambda text: hashlib.md5(text.encode()).hexdigest()
    count = len(ops)
    degrees = zip(matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist())
    hashes = [md5(str((out, into, labels[op]))) for (out, into), op in zip(degrees, ops)]
    for _ in range(count):
        into = [sorted(hashes[w] for w in range(count) if matrix[w, v]) for v in range(count)]
        out = [sorted(hashes[w] for w in range(count) if matrix[v, w]) for v in range(count)]
        hashes = [md5("".join(into[v]) + "|" + "".join(out[v]) + "|" + hashes[v]) for v in range(count)]
    return md5(str(sorted(hashes)))


def nasbench101(net: Net, arch: str, x: Array, stem: int) -> Array:
    cell = json.loads(arch)
    matrix, ops = pruned(np.array(cell["matrix"]), cell["ops"])
    last = len(ops) - 1
    x = net.cbr(x, stem, 3)
    for stack in range(3):
        x = max_pool(x, 2, 2) if stack else x
        for _ in range(3):
            out = stem << stack
            read = [v for v in range(1, last) if matrix[v, last]]
            width = {v: out // len(read) + (i < out % len(read)) for i, v in enumerate(read)}
            for v in range(last - 1, 0, -1):
                if v not in width:
                    width[v] = max(width[w] for w in range(v + 1, last) if matrix[v, w])
            results = {}
            for v in range(1, last):
                total = sum(results[w][: width[v]] for w in range(1, v) if matrix[w, v])
                if matrix[0, v]:
                    total = total + net.cbr(x, width[v])
                if ops[v] == "maxpool3x3":
                    results[v] = max_pool(total, 3, 1)
                else:
                    results[v] = net.cbr(total, width[v], int(ops[v][4]))
            y = np.concatenate([results[v] for v in read]) if read else 0
            x = y + net.cbr(x, out) if matrix[0, last] else y
    return x


def nds_op(net: Net, op: str, x: Array, stride: int) -> Array:
    width = len(x)
    if op == "none":
        return 0 * x[:, ::stride, ::stride]
    if op == "skip_connect":
        return x if stride == 1 else net.factorized_reduce(x, width)
    kind, size = op.rsplit("_", 1)
    size = int(size[0])
    if op in ("conv_3x1_1x3", "conv_7x1_1x7"):
        size = int(op[5])
        y = net.conv(relu(x), width, (1, size), (1, stride))
        return net.norm(net.conv(y, width, (size, 1), (stride, 1)))
    if kind == "avg_pool":
        return average_pool(x, size, stride)
    if kind == "max_pool":
        return max_pool(x, size, stride)
    if kind == "conv":
        return net.rcb(x, width, size, stride)
    for i in range(1 if kind == "dil_conv" else 2):
        y = net.conv(relu(x), width, size, stride if i == 0 else 1, 2 if "dil" in kind else 1, depthwise=True)
        x = net.norm(net.conv(y, width))
    return x


def nds(net: Net, arch: str, x: Array, _) -> Array:
    network = json.loads(arch)
    genotype, width, depth = network["genotype"], network["width"], network["depth"]
    last = net.norm(net.conv(x, 3 * width, 3))
    before, reduced = last, False
    for i in range(depth):
        reduces = i in (depth // 3, 2 * depth // 3)
        kind = "reduce" if reduces else "normal"
        width *= 2 if reduces else 1
        states = [net.factorized_reduce(before, width) if reduced else net.rcb(before, width), net.rcb(last, width)]
        edges = genotype[kind]
        for first, second in zip(edges[::2], edges[1::2]):
            states.append(
                sum(nds_op(net, op, states[s], 2 if reduces and s < 2 else 1) for op, s in (first, second))
            )
        y = np.concatenate([states[s] for s in genotype[f"{kind}_concat"]])
        before, last, reduced = last, y, reduces
    return last


def nasbench_macro(net: Net, arch: str, x: Array, _) -> Array:
    x = net.cbr(x, 32, 3)
    for i, kind in enumerate(arch):
        stride = 2 if i in (0, 2, 5) else 1
        out = len(x) * stride
        if kind == "0":
            x = x if stride == 1 else net.norm(net.conv(x, out, 1, stride))
            continue
        size, wider = {"1": (3, 3), "2": (5, 6)}[kind]
        y = net.cbr(x, wider * len(x))
        y = relu(net.norm(net.conv(y, len(y), size, stride, depthwise=True)))
        y = net.norm(net.conv(y, out))
        x = x + y if stride == 1 else y
    return net.cbr(x, 1280)


def transnas_stem(net: Net, x: Array) -> Array:
    return net.rcb(net.norm(net.conv(x, 32, 3, 2)), 64, 3, 2)


def transnas101_macro(net: Net, arch: str, x: Array, _) -> Array:
    x = transnas_stem(net, x)
    for layer in arch.split("-")[1]:
        out, stride = len(x) * (2 if layer in "24" else 1), 2 if layer in "34" else 1
        for s in (stride, 1):
            y = net.rcb(net.rcb(x, out, 3, s), out, 3)
            x = y + (x if s == 1 and len(x) == out else net.norm(net.conv(x, out, 1, s)))
    return x


def transnas101_micro(net: Net, arch: str, x: Array, _) -> Array:
    names = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"]
    ops = [names[int(digit)] for digit in arch.split("-")[2].replace("_", "")]
    x = transnas_stem(net, x)
    for layer in (4, 1, 4, 1, 4):
        x = cell_201(net, x, len(x) * (2 if layer == 4 else 1), 2 if layer == 4 else 1, ops)
        x = cell_201(net, x, len(x), 1, ops)
    return x


SPACES = {
    "nasbench201": nasbench201,
    "natsbench-size": natsbench_size,
    "nasbench101": nasbench101,
    "darts": nds,
    "nasnet": nds,
    "amoeba": nds,
    "enas": nds,
    "pnas": nds,
    "nasbench-macro": nasbench_macro,
    "transnas101-macro": transnas101_macro,
    "transnas101-micro": transnas101_micro,
}


def reference(space: str, arch: str, classes: int, size: int, stem: int) -> dict:
    """Parameters, multiply-adds and fingerprint of a network."""
    net = Net()
    features = SPACES[space](net, arch, image(size), stem)
    fingerprint = net.head(features, classes)
    return {"parameters": net.parameters, "macs": net.macs, "fingerprint": fingerprint}
