"""GradAlign-I and -II by PyTorch, as a separate process.

    cd scripts && python -m bench.peers PEER NETWORK --weights FILE.pt --data FILE.npz
                  [--bn MODE] [--device DEVICE] [--no-cudnn] [--serve]

prints a line of JSON: the scores, the seconds in total and for the gradients alone, and the peak memory.
With `--serve` it does so for each line that it reads, after one warm-up computation.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.networks import load

# Gradients `[samples, …]` by parameter, for all samples of one or more classes.
Gradients = list[Tensor]
# A function from images and labels to gradients.
Peer = Callable[[Tensor, Tensor], Gradients]


class Refused(Exception):
    """The reason why a library cannot compute the gradients."""


# --- The peers ---------------------------------------------------------------------------------


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def use_own_statistics(module: nn.Module) -> None:
    """Makes batch normalisation use the statistics of its input, which is a single sample here."""
    for norm in batch_norms(module):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None


def as_group_norm(module: nn.Module) -> None:
    """Replaces batch norms by group norms with one channel per group, which are the same function per sample."""
    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                group = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps)
                group.weight, group.bias = norm.weight, norm.bias
                setattr(parent, name, group)


def loop(module: nn.Module, mode: str) -> Peer:
    """`torch.autograd.grad` in a loop over samples."""
    if mode == "sample":
        use_own_statistics(module)
    parameters = list(module.parameters())

    def gradients(images: Tensor, labels: Tensor) -> Gradients:
        found = [parameter.new_empty(len(images), *parameter.shape) for parameter in parameters]
        for i in range(len(images)):
            loss = F.cross_entropy(module(images[i : i + 1]), labels[i : i + 1])
            for rows, gradient in zip(found, torch.autograd.grad(loss, parameters), strict=True):
                rows[i] = gradient
        return found

    return gradients


def functional(module: nn.Module, mode: str) -> Peer:
    """`torch.func`: `vmap(grad(loss))`."""
    if mode == "sample":
        use_own_statistics(module)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    buffers = dict(module.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, (parameters, buffers), (image[None],))
        return F.cross_entropy(logits, label[None])

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return lambda images, labels: list(batched(parameters, images, labels).values())


def opacus(module: nn.Module, mode: str) -> Peer:
    """Opacus' hooks. Layers without a rule fall back to `torch.func`."""
    from opacus import GradSampleModule

    if batch_norms(module):
        if mode == "running":
            raise Refused("hooks record in training mode only, where batch normalisation mixes samples")
        as_group_norm(module)
    hooked = GradSampleModule(module.train(), loss_reduction="sum", strict=False)

    def gradients(images: Tensor, labels: Tensor) -> Gradients:
        hooked.zero_grad(set_to_none=True)
        F.cross_entropy(hooked(images), labels, reduction="sum").backward()
        found = [parameter.grad_sample for parameter in hooked.parameters()]
        if any(not isinstance(gradient, Tensor) for gradient in found):
            raise Refused("some parameters get no per-sample gradient")
        for parameter in hooked.parameters():
            parameter.grad_sample = None
        return found

    return gradients


def backpack_(module: nn.Module, mode: str) -> Peer:
    """BackPACK's first-order extension `BatchGrad`."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    if mode == "sample":
        raise Refused("batch normalisation in training mode and norms of single samples have no rule")
    owners = [child for child in module.modules() if list(child.parameters(recurse=False))]
    known = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
    strange = sorted({type(child).__name__ for child in owners if not isinstance(child, known)})
    if strange:
        raise Refused(f"no rule for {', '.join(strange)}")
    module, loss = extend(module), extend(nn.CrossEntropyLoss(reduction="sum"))

    def gradients(images: Tensor, labels: Tensor) -> Gradients:
        module.zero_grad(set_to_none=True)
        with backpack(BatchGrad()):
            loss(module(images), labels).backward()
        found = [parameter.grad_batch for parameter in module.parameters()]
        for parameter in module.parameters():
            del parameter.grad_batch
        return found

    return gradients


# By name: how gradients are computed, and whether class by class or for all samples at once.
PEERS: dict[str, tuple[Callable[[nn.Module, str], Peer], bool]] = {
    "loop": (loop, True),
    "vmap": (functional, False),
    "vmap-class": (functional, True),
    "opacus": (opacus, False),
    "backpack": (backpack_, False),
}


# --- The scores --------------------------------------------------------------------------------


def class_slices(labels: np.ndarray) -> list[slice]:
    """The slices of the classes in sorted labels."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def grams(gradients: Gradients, classes: list[slice]) -> list[Tensor]:
    """The Gram matrix of the signs of each class. Inner products are exact integers in float32 at this size."""
    sizes = [c.stop - c.start for c in classes]
    totals = [gradients[0].new_zeros(size, size, dtype=torch.float64) for size in sizes]
    while gradients:
        signs = gradients.pop().flatten(1).sign_()
        for total, rows in zip(totals, classes, strict=True):
            total += signs[rows] @ signs[rows].T
    return totals


def scores(matrices: list[Tensor]) -> dict[str, float | None]:
    """Both scores. GradAlign-II is None if a Gram matrix is singular."""
    first = [(gram.sum() / len(gram) ** 2).item() for gram in matrices]
    second = [torch.linalg.slogdet(gram) for gram in matrices]
    regular = all(sign > 0 for sign, _ in second)
    logarithm = sum(value.item() for _, value in second) / len(second) if regular else None
    return {"gradalign-1": sum(first) / len(first), "gradalign-2": logarithm}


def now(device: torch.device) -> float:
    """The time after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def measure(peer: Peer, by_class: bool, images: Tensor, labels: np.ndarray) -> dict:
    """Measures one computation: the seconds in total and for the gradients, and the scores."""
    device = images.device
    start, spent = now(device), 0.0
    classes = class_slices(labels)
    targets = torch.from_numpy(labels).to(device)
    matrices: list[Tensor] = []
    for part in classes if by_class else [slice(0, len(labels))]:
        begun = now(device)
        gradients = peer(images[part], targets[part])
        spent += now(device) - begun
        matrices += grams(gradients, class_slices(labels[part]))
    result = scores(matrices)
    return {"seconds": now(device) - start, "gradients": spent, "scores": result}


def peak_memory() -> int:
    """The peak memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def computations(arguments: argparse.Namespace) -> Iterator[dict]:
    """One computation for each line that is read, or a single one."""
    # Full precision, like the loop on the CPU and gradalign.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.enabled = not arguments.no_cudnn
    with np.load(arguments.data) as arrays:
        images, labels = torch.from_numpy(arrays["images"]).to(arguments.device), arrays["labels"]
    make, by_class = PEERS[arguments.peer]
    peer = make(load(arguments.network, arguments.weights).to(arguments.device), arguments.bn)
    warm = not arguments.serve
    for _ in sys.stdin if arguments.serve else [None]:
        if not warm:
            measure(peer, by_class, images, labels)
            warm = True
        yield measure(peer, by_class, images, labels) | {"peak_memory": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("network")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bn", choices=("running", "sample"), default="running")
    parser.add_argument("--device", default="cpu", help="as PyTorch calls it")
    parser.add_argument("--no-cudnn", action="store_true", help="convolutions by PyTorch's own kernels")
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    try:
        # The fused attention has no batching rule for vmap.
        with sdpa_kernel(SDPBackend.MATH):
            for result in computations(arguments):
                print(json.dumps(result), flush=True)
    except Exception as error:  # noqa: BLE001 - whatever a library refuses with is the result
        reason = " ".join(str(error).split())[:120]
        print(json.dumps({"error": f"{type(error).__name__.lower()}: {reason}"}), flush=True)


if __name__ == "__main__":
    main()
