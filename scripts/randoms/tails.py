"""Activation functions with accurate derivatives for large operands.

PyTorch computes tanh' from the result as 1 − tanh², and sigmoid' as s·(1 − s). In float64 the first is 0 beyond 19,
the second beyond 37, and GELU is 0 below −8; gradalign's are not. Under `accurate_tails` they are computed from
the operand, including those in the cells of recurrent layers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TANH = {torch.tanh, Tensor.tanh, F.tanh}
SIGMOID = {torch.sigmoid, Tensor.sigmoid, F.sigmoid}


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        e = torch.exp(-2 * x.abs())
        return dy * 4 * e / (1 + e) ** 2


class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        e = torch.exp(-x.abs())
        return dy * e / (1 + e) ** 2


def recurrent(kind: str, x: Tensor, weights: list[Tensor]) -> Tensor:
    """A recurrent layer with one direction on `[batch, positions, width]`, with an initial state of zeros."""
    w, r, b, rb = weights
    h = c = x.new_zeros(x.shape[0], r.shape[1])
    states = []
    for position in x.unbind(1):
        inner, outer = F.linear(position, w, b), F.linear(h, r, rb)
        if kind == "rnn_tanh":
            h = Tanh.apply(inner + outer)
        elif kind == "lstm":
            i, f, g, o = (inner + outer).chunk(4, 1)
            c = Sigmoid.apply(f) * c + Sigmoid.apply(i) * Tanh.apply(g)
            h = Sigmoid.apply(o) * Tanh.apply(c)
        else:
            (ir, iz, n), (hr, hz, hn) = inner.chunk(3, 1), outer.chunk(3, 1)
            z = Sigmoid.apply(iz + hz)
            h = (1 - z) * Tanh.apply(n + Sigmoid.apply(ir + hr) * hn) + z * h
        states.append(h)
    return torch.stack(states, 1)


def gelu(x: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        return x * Sigmoid.apply(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return x * torch.erfc(-x / math.sqrt(2)) / 2


class accurate_tails(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if func in TANH:
            return Tanh.apply(args[0])
        if func in SIGMOID:
            return Sigmoid.apply(args[0])
        if func is F.silu:
            return args[0] * Sigmoid.apply(args[0])
        if name == "gelu":
            return gelu(args[0], (kwargs or {}).get("approximate", "none"))
        if name in ("rnn_tanh", "lstm", "gru") and isinstance(args[2], (list, tuple)):
            x, weights = args[0], args[2]
            y = recurrent(name, x, weights)
            return (y, None, None) if name == "lstm" else (y, None)
        return func(*args, **(kwargs or {}))


def check() -> None:
    """Checks that they agree with PyTorch near 0 and are not 0 far from it."""
    torch.manual_seed(0)
    cells = [cell(4, 3, batch_first=True) for cell in (nn.RNN, nn.LSTM, nn.GRU)]
    for module in [*cells, nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")]:
        module = module.double()

        def slopes(scale: float) -> Tensor:
            x = (scale * torch.linspace(-1, 1, 40, dtype=torch.float64)).reshape(2, 5, 4).requires_grad_()
            y = module(x)
            (y[0] if isinstance(y, tuple) else y).sin().sum().backward()
            return x.grad

        wanted = slopes(1)
        with accurate_tails():
            assert torch.allclose(wanted, slopes(1), rtol=1e-12), module
            assert (slopes(20) != 0).all(), module


if __name__ == "__main__":
    check()
