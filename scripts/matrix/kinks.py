"""Shows whether a network's error is a kink: which units of a ReLU rounding turns on or off.

    python -m matrix.kinks NAME …        (in scripts/, after export_torch and with a built binary)

PyTorch's gradients are computed in float64 twice: normally, and with each ReLU's units on where
they are on in ONNX Runtime's float32. If the error disappears, its cause was a unit on the other side of
zero. This works only for networks whose ReLUs are all modules, exported by the TorchScript-based exporter.
"""

import argparse
import copy

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .case import SAMPLES, folder
from .check import ROOT, call, match, run_graph, stored
from .export_torch import Contiguous, _BatchNorm, loss_of, prepare
from .torch_models import REGISTRY


class Switch:
    """The units that are on, in the order of the ReLU calls, and those that would not be."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks, self.next, self.flipped = masks, 0, []

    def relu(self, x: Tensor) -> Tensor:
        on = torch.from_numpy(self.masks[self.next] > 0)
        differ = on != (x > 0)
        if differ.any():
            size, mean = x[differ].abs().max().item(), x.abs().mean().item()
            self.flipped.append(f"{int(differ.sum())} in ReLU {self.next} of at most {size:.1e}, where the mean is {mean:.1e}")
        self.next += 1
        return torch.where(on, x, torch.zeros_like(x))


class Switched(nn.Module):
    """A ReLU whose units are set by the switch of its network."""

    def __init__(self, network: "list[Switch]") -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network[0].relu(x) if self.network else F.relu(x)


def replace(module: nn.Module, switch: "list[Switch]") -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, Switched(switch))
        else:
            replace(child, switch)
    if isinstance(module, _BatchNorm):
        module.register_forward_hook(lambda _, __, y: Contiguous.apply(y))


def states(path: str, inputs: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """The result of each ReLU of a file in float32."""
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(names, feed) for feed in inputs]


def show(name: str) -> None:
    entry, path = REGISTRY[name], folder(name, "legacy")
    data, truth = dict(np.load(path / "data.npz")), dict(np.load(path / "gradients.npz"))
    graph = path / "training.onnx"
    binary = ROOT / "target/release/gradalign"
    call([binary, "grad", path / "model.onnx", "-o", graph, "--batch", SAMPLES, "--per-sample", "--loss", entry.loss])
    got = {n.removeprefix("grad."): g for n, g in run_graph(graph, data).items() if n.startswith("grad.")}
    graph.unlink()
    weights = {n: w for n, w in stored(path / "model.onnx").items() if n in got}
    ours = [got[home].transpose(0, *(1 + axes.index(a) for a in range(len(axes)))) for [(home, axes)] in match(truth, weights).values()]
    samples = [{n: data[n][i : i + 1] for n in entry.inputs} for i in range(SAMPLES)]
    switch: list[Switch] = []
    module = copy.deepcopy(prepare(entry)).double()
    replace(module, switch)
    parameters = [p for p in module.parameters() if p.requires_grad]
    for i, masks in enumerate(states(path / "model.onnx", samples)):
        errors = []
        for forced in (False, True):
            switch[:] = [Switch(masks)] if forced else []
            inputs = [torch.from_numpy(x).double() for x in samples[i].values()]
            loss = loss_of(entry, module(*inputs), torch.from_numpy(data["labels"][i : i + 1]))
            want = torch.autograd.grad(loss, parameters)
            squares = [(float(((g.numpy() - o[i].reshape(g.shape)) ** 2).sum()), float((g**2).sum())) for g, o in zip(want, ours, strict=True)]
            errors.append(np.sqrt(sum(d for d, _ in squares) / sum(n for _, n in squares)))
        print(f"{name}, sample {i}: error {errors[0]:.1e}, with float32's units {errors[1]:.1e}; {'; '.join(switch[0].flipped) or 'no unit differs'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        show(name)


if __name__ == "__main__":
    main()
