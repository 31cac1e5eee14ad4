"""Writes tests/data/op_gradients.json: ONNX nodes, inputs, and PyTorch's results and gradients.

    python scripts/make_op_gradients.py

Needs onnx, numpy and torch. Each case is one operator in one
configuration, with all its floating-point operands as inputs, a cotangent for each result, and the
gradients of the operands that PyTorch computes in float64. tests/gradients.rs compares them.
"""

import json
import pathlib

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

CASES = []
RNG = np.random.default_rng(7)


def rand(*shape, low=-1.0, high=1.0):
    return torch.tensor(RNG.uniform(low, high, shape).astype(np.float32).astype(np.float64))


def distinct(*shape):
    n = int(np.prod(shape))
    grid = (2 * np.arange(n) + 1) / n - 1
    return torch.tensor(RNG.permutation(grid).reshape(shape).astype(np.float32).astype(np.float64))


def array(t):
    a = np.asarray(t.detach())
    return {"shape": list(a.shape), "data": [float(f"{v:.6g}") for v in a.ravel().tolist()]}


def case(op, f, *operands, opset=23, domain="", outputs=1, unused=0, name="", **attributes):
    """A node and the function that it computes. An operand is a float64 tensor (an input), an array
    (an initializer) or None. `f` takes the tensors and returns the results. The node has
    `outputs` results, of which the last `unused` are omitted."""
    names, tensors, stored = [], {}, []
    for i, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, torch.Tensor):
            names.append(f"x{i}")
            tensors[f"x{i}"] = operand.clone().requires_grad_()
        else:
            names.append(f"s{i}")
            stored.append(numpy_helper.from_array(np.asarray(operand), f"s{i}"))
    results = f(*tensors.values())
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    ys = [f"y{i}" for i in range(outputs)]
    cotangents = [rand(*y.shape) for y in results]
    gradients = torch.autograd.grad(
        sum((y * r).sum() for y, r in zip(results, cotangents)), list(tensors.values())
    )
    node = helper.make_node(op, names, ys + [""] * unused, domain=domain, **attributes)
    info = lambda k, shape: helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [node], op, [info(k, v.shape) for k, v in tensors.items()],
        [info(y, v.shape) for y, v in zip(ys, results)], stored,
    )
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 10
    label = name or " ".join(f"{k}={v}" for k, v in attributes.items())
    CASES.append(
        {
            "name": f"{op} {label}".strip(),
            "model": model.SerializeToString().hex(),
            "inputs": {k: array(v) for k, v in tensors.items()},
            "outputs": {k: array(v) for k, v in zip(ys, results)},
            "cotangents": {k: array(v) for k, v in zip(ys, cotangents)},
            "gradients": {k: array(v) for k, v in zip(tensors, gradients)},
        }
    )


def blocks(w, order, size):
    """Reorders the gates of `w` along its first axis."""
    return torch.cat([w[i * size:(i + 1) * size] for i in order])


def recurrent():
    steps, batch, inputs, hidden = 4, 2, 3, 2
    # The order of the gates is i f g o and r z n in PyTorch, i o f c and z r h in ONNX.
    layers = {
        "LSTM": (torch.nn.LSTM, 4, [0, 2, 3, 1]),
        "GRU": (torch.nn.GRU, 3, [1, 0, 2]),
        "RNN": (torch.nn.RNN, 1, [0]),
    }
    for op, (layer, gates, order) in layers.items():
        for direction in ("forward", "bidirectional"):
            n = 2 if direction == "bidirectional" else 1
            module = layer(inputs, hidden, bidirectional=n == 2).double()

            def run(x, w, r, b, h, c=None):
                own = {}
                for d, suffix in zip(range(n), ("", "_reverse")):
                    own[f"weight_ih_l0{suffix}"] = blocks(w[d], order, hidden)
                    own[f"weight_hh_l0{suffix}"] = blocks(r[d], order, hidden)
                    own[f"bias_ih_l0{suffix}"] = blocks(b[d][: gates * hidden], order, hidden)
                    own[f"bias_hh_l0{suffix}"] = blocks(b[d][gates * hidden :], order, hidden)
                state = (h, c) if c is not None else h
                y, last = torch.func.functional_call(module, own, (x, state))
                y = y.reshape(steps, batch, n, hidden).transpose(1, 2)
                return (y, *last) if c is not None else (y, last)

            operands = [
                rand(steps, batch, inputs), rand(n, gates * hidden, inputs),
                rand(n, gates * hidden, hidden), rand(n, 2 * gates * hidden), None,
                rand(n, batch, hidden),
            ]
            extra = {"linear_before_reset": 1} if op == "GRU" else {}
            if op == "LSTM":
                operands.append(rand(n, batch, hidden))
            case(op, run, *operands, opset=22, outputs=3 if op == "LSTM" else 2,
                 hidden_size=hidden, direction=direction, **extra)

    def cell(x, w, r, b, p):
        """An LSTM backwards in time, with peepholes and bounded gates."""
        h = c = torch.zeros(batch, hidden, dtype=torch.float64)
        states = []
        pi, po, pf = p[0].split(hidden)
        clip = lambda v: v.clamp(-0.5, 0.5)
        for t in reversed(range(steps)):
            g = x[t] @ w[0].T + h @ r[0].T + b[0][: 4 * hidden] + b[0][4 * hidden :]
            i, o, f, n = g.split(hidden, dim=1)
            i, f = torch.sigmoid(clip(i + pi * c)), torch.sigmoid(clip(f + pf * c))
            c = f * c + i * torch.tanh(clip(n))
            h = torch.sigmoid(clip(o + po * c)) * torch.tanh(c)
            states.insert(0, h)
        return torch.stack(states)[:, None]

    case("LSTM", cell, rand(steps, batch, inputs), rand(1, 4 * hidden, inputs),
         rand(1, 4 * hidden, hidden), rand(1, 8 * hidden), None, None, None, rand(1, 3 * hidden),
         opset=22, hidden_size=hidden, direction="reverse", clip=0.5, name="peepholes and clip")

    def gru(x, w, r, b):
        """A GRU whose reset gate is applied before the product, over sequences of lengths 4 and 2."""
        h = torch.zeros(batch, hidden, dtype=torch.float64)
        wb, rb = b[0].split(3 * hidden)
        ys = []
        alive = lambda t: torch.tensor([[t < 4], [t < 2]])
        for t in range(steps):
            wx = x[t] @ w[0].T + wb
            z, q, n = wx.split(hidden, dim=1)
            rz, rq, rn = r[0].split(hidden)
            bz, bq, bn = rb.split(hidden)
            z, q = torch.sigmoid(z + h @ rz.T + bz), torch.sigmoid(q + h @ rq.T + bq)
            n = torch.tanh(n + (q * h) @ rn.T + bn)
            new = (1 - z) * n + z * h
            ys.append(torch.where(alive(t), new, 0.0))
            h = torch.where(alive(t), new, h)
        return torch.stack(ys)[:, None], h[None]

    case("GRU", gru, rand(steps, batch, inputs), rand(1, 3 * hidden, inputs),
         rand(1, 3 * hidden, hidden), rand(1, 6 * hidden), np.array([4, 2], np.int32),
         opset=22, outputs=2, hidden_size=hidden, name="lengths")


def attention():
    q, k, v = rand(1, 4, 3, 4), rand(1, 2, 5, 4), rand(1, 2, 5, 3)
    sdpa = F.scaled_dot_product_attention
    case("Attention", lambda q, k, v: sdpa(q, k, v, enable_gqa=True), q, k, v, name="grouped")
    case("Attention", lambda q, k, v, m: sdpa(q, k, v, m, enable_gqa=True), q, k, v, rand(3, 5),
         name="biased")
    x = rand(1, 2, 4, 4)
    case("Attention", lambda q, k, v: sdpa(q, k, v, is_causal=True, scale=0.3), x, rand(1, 2, 4, 4),
         rand(1, 2, 4, 4), is_causal=1, scale=0.3)
    mask = np.array([[True, False, True, True], [True, True, False, False]] * 2)
    case("Attention", lambda q, k, v: sdpa(q, k, v, torch.tensor(mask)), x, rand(1, 2, 4, 4),
         rand(1, 2, 4, 4), mask, name="masked")

    def capped(q, k, v):
        split = lambda t: t.reshape(1, 4, 2, 3).transpose(1, 2)
        q, k, v = split(q), split(k), split(v)
        logits = 2 * torch.tanh(q @ k.transpose(2, 3) / 3**0.5 / 2)
        return (logits.softmax(-1) @ v).transpose(1, 2).reshape(1, 4, 6)

    case("Attention", capped, rand(1, 4, 6), rand(1, 4, 6), rand(1, 4, 6), q_num_heads=2,
         kv_num_heads=2, softcap=2.0)

    def packed(x, w, b):
        q, k, v = (t.reshape(1, 4, 2, 3).transpose(1, 2) for t in (x @ w + b).split(6, dim=2))
        return sdpa(q, k, v, is_causal=True).transpose(1, 2).reshape(1, 4, 6)

    case("Attention", packed, rand(1, 4, 5), rand(5, 18), rand(18), opset=17,
         domain="com.microsoft", num_heads=2, unidirectional=1, mask_filter_value=-1e9)

    def multi(q, k, v, b):
        bq, bk, bv = b.split(6)
        split = lambda t: t.reshape(1, -1, 2, 3).transpose(1, 2)
        y = sdpa(split(q + bq), split(k + bk), split(v + bv))
        return y.transpose(1, 2).reshape(1, 4, 6)

    case("MultiHeadAttention", multi, rand(1, 4, 6), rand(1, 5, 6), rand(1, 5, 6), rand(18),
         opset=17, domain="com.microsoft", num_heads=2)

    def rotary(x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    case("RotaryEmbedding", lambda x, c, s: rotary(x, c[:, None], s[:, None]), rand(1, 2, 3, 4),
         rand(1, 3, 2), rand(1, 3, 2))

    ids, kinds = np.array([[1, 0, 2]], np.int32), np.array([[0, 1, 1]], np.int32)

    def embed(words, places, segments, gamma, beta):
        x = words[ids] + places[:3] + segments[kinds]
        return F.layer_norm(x, (4,), gamma, beta, 1e-5)

    case("EmbedLayerNormalization", embed, ids, kinds, rand(3, 4), rand(5, 4), rand(2, 4), rand(4),
         rand(4), opset=17, domain="com.microsoft", outputs=1, unused=1, epsilon=1e-5)


def sampling():
    modes = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
    for mode, torch_mode in modes.items():
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                run = lambda x, g: F.grid_sample(
                    x, g, torch_mode, padding, align_corners=bool(align))
                case("GridSample", run, rand(1, 2, 3, 4), rand(1, 2, 3, 2, low=-1.4, high=1.4),
                     mode=mode, padding_mode=padding, align_corners=align)
    case("GridSample", lambda x, g: F.grid_sample(x, g, align_corners=False), rand(1, 1, 3, 2, 3),
         rand(1, 2, 2, 1, 3), name="three axes")
    for align in (0, 1):
        case("AffineGrid", lambda t: F.affine_grid(t, [2, 1, 3, 4], align_corners=bool(align)),
             rand(2, 2, 3), np.array([2, 1, 3, 4]), align_corners=align)
    size = lambda x, mode, align: F.interpolate(
        x, (5, 7), mode=mode, align_corners=None if mode == "nearest" else align)
    for mode, name in (("linear", "bilinear"), ("cubic", "bicubic")):
        for align, coordinates in ((False, "half_pixel"), (True, "align_corners")):
            case("Resize", lambda x: size(x, name, align), rand(1, 2, 3, 4), None, None,
                 np.array([1, 2, 5, 7]), opset=19, mode=mode,
                 coordinate_transformation_mode=coordinates)


def others():
    x = rand(2, 3, 4)
    case("ReduceProd", lambda x: x.prod(1, keepdim=True), x, np.array([1]))
    case("ReduceLogSumExp", lambda x: x.logsumexp((0, 2), keepdim=True), x, np.array([0, 2]))
    case("ReduceLogSum", lambda x: x.sum(2, keepdim=True).log(), rand(2, 3, low=0.2).abs()[None],
         np.array([2]))
    case("ReduceL1", lambda x: x.abs().sum(2, keepdim=True), x, np.array([2]))
    case("ReduceL2", lambda x: x.norm(dim=1, keepdim=True), x, np.array([1]))
    case("ReduceSumSquare", lambda x: (x * x).sum(1, keepdim=True), x, np.array([1]))
    case("ReduceMax", lambda x: x.amax(1, keepdim=True), distinct(2, 3, 4), np.array([1]))
    case("CumSum", lambda x: x.cumsum(1), x, np.array(1))
    case("CumProd", lambda x: x.cumprod(2), x, np.array(2), opset=26)
    case("TopK", lambda x: x.topk(2, dim=1)[0], distinct(2, 4, 3), np.array([2]), unused=1, axis=1)
    case("TopK", lambda x: x.topk(3, largest=False)[0], distinct(2, 4), np.array([3]), unused=1,
         largest=0)
    index = RNG.permuted(np.tile(np.arange(3), (4, 1)), axis=1)
    case("GatherElements", lambda x: x.gather(1, torch.tensor(index)), rand(4, 5), index, axis=1)
    double = np.array([[0, 2, 0], [1, 1, 0]])
    for reduction, name in (("add", "sum"), ("mul", "prod"), ("max", "amax"), ("min", "amin")):
        run = lambda x, u: x.scatter_reduce(1, torch.tensor(double), u, name)
        data = distinct(2, 8)
        case("ScatterElements", run, data[:, :4], double, data[:, 4:7], axis=1, reduction=reduction)
    rows = np.array([[2], [0]])

    def put(x, u):
        return x.index_put((torch.tensor(rows[:, 0]),), u)

    case("ScatterND", put, rand(3, 4), rows, rand(2, 4))
    case("Einsum", lambda x: torch.einsum("bii->bi", x), rand(2, 3, 3), equation="bii->bi")
    case("Einsum", lambda x, y: torch.einsum("ijj,jk->ik", x, y), rand(2, 3, 3), rand(3, 2),
         equation="ijj,jk->ik")
    case("Col2Im", lambda x: F.fold(x, (4, 5), (2, 3), 1, 1, (1, 2)), rand(1, 12, 15),
         np.array([4, 5]), np.array([2, 3]), pads=[1, 1, 1, 1], strides=[1, 2])
    values, at = F.max_pool2d(rand(1, 2, 4, 4), 2, return_indices=True)
    images = at.numpy() + 16 * np.arange(2).reshape(1, 2, 1, 1)
    case("MaxUnpool", lambda x: F.max_unpool2d(x, at, 2), values, images, opset=22,
         kernel_shape=[2, 2], strides=[2, 2])
    case("LpPool", lambda x: F.lp_pool2d(x, 2, 2), rand(1, 2, 4, 4), opset=22, kernel_shape=[2, 2],
         strides=[2, 2])
    case("LpNormalization", lambda x: F.normalize(x, dim=1), x, opset=22, axis=1)
    case("RMSNormalization", lambda x, w: F.rms_norm(x, (4,), w, 1e-5), x, rand(4))
    case("LayerNormalization", lambda x, w, b: F.layer_norm(x, (3, 4), w, b), x, rand(3, 4),
         rand(3, 4), axis=1)
    case("GroupNormalization", lambda x, w, b: F.group_norm(x, 2, w, b), rand(1, 4, 3), rand(4),
         rand(4), opset=21, num_groups=2)
    case("InstanceNormalization", lambda x, w, b: F.instance_norm(x, weight=w, bias=b), rand(2, 3, 4), rand(3), rand(3), opset=22)
    case("MeanVarianceNormalization", lambda x: (x - x.mean((0, 2, 3), keepdim=True))
         / x.var((0, 2, 3), unbiased=False, keepdim=True).sqrt(), rand(2, 2, 2, 3), opset=13)
    case("DepthToSpace", lambda x: F.pixel_shuffle(x, 2), rand(1, 8, 2, 3), blocksize=2, mode="CRD")
    case("SpaceToDepth", lambda x: x.reshape(1, 2, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4)
         .reshape(1, 8, 2, 3), rand(1, 2, 4, 6), blocksize=2)
    case("Trilu", lambda x: x.triu(1), rand(3, 4), np.array(1))
    case("Tile", lambda x: x.repeat(2, 3), rand(2, 3), np.array([2, 3]))
    case("Pad", lambda x: F.pad(x, (2, 1), "reflect"), rand(1, 2, 4), np.array([0, 0, 2, 0, 0, 1]),
         mode="reflect")
    case("SwiGLU", lambda a, b: F.silu(a) * b, rand(2, 3), rand(2, 3), opset=28)
    case("FusedGemm", lambda a, b, c: F.leaky_relu(a @ b + c, 0.2), rand(2, 3), rand(3, 4), rand(4),
         opset=17, domain="com.microsoft", activation="LeakyRelu", activation_alpha=0.2)
    case("FusedConv", lambda x, w, b: F.conv2d(x, w, b).clamp(-0.2, 0.3), rand(1, 2, 4, 4),
         rand(3, 2, 2, 2), rand(3), opset=17, domain="com.microsoft", activation="Clip",
         activation_params=[-0.2, 0.3])
    w, b = rand(3, 4), rand(3)
    case("LinearRegressor", lambda x: x @ w.T + b, rand(2, 4), opset=17, domain="ai.onnx.ml",
         targets=3, coefficients=w.ravel().tolist(), intercepts=b.tolist(), name="3 targets")
    case("Mod", lambda x, y: torch.remainder(x, y), rand(2, 3, low=-4, high=4),
         rand(2, 3, low=0.5), opset=28)


def signals():
    real = torch.view_as_real
    case("DFT", lambda x: real(torch.fft.fft(x[..., 0], dim=1)), rand(1, 5, 2, 1), opset=17, axis=1)
    case("DFT", lambda x: real(torch.fft.rfft(x[..., 0], n=8, dim=2)), rand(1, 2, 6, 1),
         np.array(8), opset=20, onesided=1)
    case("DFT", lambda x: real(torch.fft.ifft(torch.view_as_complex(x), dim=1)), rand(1, 4, 2),
         opset=17, axis=1, inverse=1)
    for n in (6, 7):
        case("DFT", lambda x: torch.fft.irfft(torch.view_as_complex(x), n=n, dim=1)[..., None],
             rand(1, 4, 2), np.array(n), opset=20, inverse=1, onesided=1, name=f"to {n} reals")
    window = np.hanning(6).astype(np.float32)
    weights = torch.tensor(window.astype(np.float64))

    def stft(x):
        y = torch.stft(x[..., 0], 6, 3, window=weights, center=False, return_complex=True)
        return real(y.transpose(1, 2).contiguous())

    case("STFT", stft, rand(1, 18, 1), np.array(3), window, opset=17)


def zeros():
    """At exact zeros and ties, where a slope may be infinite."""
    x = rand(2, 3, 4)
    x[0, :, 1] = 0
    x[1, 1:, 2] = 0
    for axis in (1, 2):
        axes = np.array([axis])
        case("ReduceProd", lambda x: x.prod(axis, keepdim=True), x, axes, name=f"zeros {axis}")
        case("ReduceL2", lambda x: x.norm(dim=axis, keepdim=True), x, axes, name=f"zeros {axis}")
        case("ReduceMax", lambda x: x.amax(axis, keepdim=True), x.clamp(max=0), axes,
             name=f"ties {axis}")
    case("CumProd", lambda x: x.cumprod(2), x, np.array(2), opset=26, name="zeros")
    base, power = torch.tensor([0.0, 0, 0, 2]).double(), torch.tensor([0.0, 1, 2.5, 0]).double()
    case("Pow", torch.pow, base, power, name="zeros")
    case("Max", torch.maximum, x, torch.zeros_like(x), name="ties")
    case("Min", torch.minimum, x, torch.zeros_like(x), name="ties")
    images = rand(1, 2, 4, 4)
    images[0, 0, :2, :2] = 0
    case("LpPool", lambda x: F.lp_pool2d(x, 2, 2), images, opset=22, kernel_shape=[2, 2],
         strides=[2, 2], p=2, name="zeros")
    case("LpPool", lambda x: F.lp_pool2d(x, 3, 2), images.abs(), opset=22, kernel_shape=[2, 2],
         strides=[2, 2], p=3, name="zeros, p 3")
    case("GlobalLpPool", lambda x: x.norm(dim=(2, 3), keepdim=True), torch.zeros(1, 2, 2, 2).double(),
         opset=22, p=2, name="zeros")


torch.manual_seed(0)
for family in (recurrent, attention, sampling, others, signals, zeros):
    family()
path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "op_gradients.json"
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
print(f"{len(CASES)} cases, {path.stat().st_size / 1024:.0f} KiB, onnx {onnx.__version__}, "
      f"torch {torch.__version__}")
