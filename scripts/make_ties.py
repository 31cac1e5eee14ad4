"""Writes `fixtures/ties`: fresh networks whose parameters differ from the tensors in their files.

Each network is exported by PyTorch's TorchScript exporter, and by its dynamo exporter with and without
`optimize`; `ties.json` has the number of parameters that PyTorch counts, and the scores of its gradients in
float64, one sample at a time. The files keep only the metadata about parameters.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from reference.scores import gradalign_1, gradalign_2

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "ties"
SAMPLES, CLASSES = 8, 4
KEPT = ("fx_node", "rule_name", "graph_signature")


class Repeated(nn.Module):
    """One block applied three times: norm, linear layer, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.block, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + torch.tanh(self.block(self.norm(x)))
        return self.head(x.mean(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.scale = nn.LayerNorm(8), nn.Linear(8, 8), nn.Parameter(torch.full([8], 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale.view(1, 1, -1) * torch.tanh(self.linear(self.norm(x)))


class Copied(nn.Module):
    """Three blocks initialised as copies, like those of `nn.TransformerEncoder`, and layers initialised to zero."""

    def __init__(self) -> None:
        super().__init__()
        block = Block()
        self.stem, self.blocks = nn.Linear(6, 8), nn.ModuleList(copy.deepcopy(block) for _ in range(3))
        self.gate, self.groups, self.groups2, self.head = nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.GroupNorm(2, 8), nn.Linear(8, CLASSES)
        self.hidden = nn.Linear(8, 8)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = x + self.gate(x)
        x = torch.tanh(self.groups(x.transpose(1, 2)))
        x = torch.tanh(self.groups2(x)).mean(2)
        return self.head(torch.tanh(self.hidden(x)))


class Language(nn.Module):
    """A network whose output head is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(12, 8), nn.LayerNorm(8), nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.embedding(x)))).mean(1)


class Transposed(nn.Module):
    """A layer whose matrix, transposed in the source code, is that of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 7), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x).mean(1))
        return self.head(torch.tanh(nn.functional.linear(x, self.stem.weight.t())))


class Recurrent(nn.Module):
    """A recurrent layer with an initial state of zeros. Exporters fold its first step to a copy of the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(6, 7, batch_first=True), nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


class Buffered(nn.Module):
    """A network with a table and numbers that are not parameters, and a parameter with one element."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.scale = nn.Linear(6, 8), nn.Linear(8, CLASSES), nn.Parameter(torch.tensor(2.0))
        self.register_buffer("table", torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x - torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) + self.table)
        return self.head((self.scale * x).mean(1))


def plain(path: Path) -> None:
    """Removes all metadata that does not concern parameters."""
    model = onnx.load(path)
    for thing in [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info]:
        thing.doc_string = ""
        kept = [entry for entry in thing.metadata_props if entry.key.endswith(KEPT)]
        del thing.metadata_props[:]
        thing.metadata_props.extend(kept)
    del model.graph.value_info[:]
    onnx.save(model, path)


def export(module: nn.Module, name: str, example: Tensor, exporter: str) -> Path:
    path = FOLDER / f"{name}-{exporter}.onnx"
    names = {"input_names": ["x"], "output_names": ["logits"]}
    if exporter == "torchscript":
        torch.onnx.export(module, (example,), path, dynamo=False, opset_version=17, **names)
    else:
        torch.onnx.export(module, (example,), path, dynamo=True, external_data=False, optimize=exporter == "dynamo", verbose=False, **names)
    plain(path)
    return path


def gradients(module: nn.Module, x: Tensor, labels: np.ndarray) -> np.ndarray:
    module = copy.deepcopy(module).double()
    x = x.double() if x.is_floating_point() else x
    rows = []
    for i, label in enumerate(labels):
        loss = nn.functional.cross_entropy(module(x[i : i + 1]), torch.tensor([label]))
        found = torch.autograd.grad(loss, list(module.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]).numpy())
    return np.array(rows)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    labels = np.arange(SAMPLES, dtype=np.int64) % CLASSES
    numbers = torch.from_numpy(rng.standard_normal((SAMPLES, 5, 6)).astype(np.float32))
    tokens = torch.from_numpy(rng.integers(0, 12, (SAMPLES, 5)))
    references = []
    for name, make in (("repeated", Repeated), ("copied", Copied), ("language", Language), ("recurrent", Recurrent), ("transposed", Transposed), ("buffered", Buffered)):
        torch.manual_seed(0)
        module = make().eval()
        x = tokens if name == "language" else numbers
        data = FOLDER / f"{name}.npz"
        np.savez(data, x=x.numpy(), labels=labels)
        matrix = gradients(module, x, labels)
        # In a file of the TorchScript exporter, nothing distinguishes a buffer from a parameter.
        exporters = ["torchscript", "dynamo", "dynamo-plain"][name == "buffered" :]
        for exporter in exporters:
            references.append({
                "model": export(module, name, x[:1], exporter).name,
                "data": data.name,
                "parameters": sum(p.numel() for p in module.parameters()),
                "gradalign-1": gradalign_1(matrix, labels),
                "gradalign-2": gradalign_2(matrix, labels),
            })
    (FOLDER / "ties.json").write_text(json.dumps(references, indent=1) + "\n")


if __name__ == "__main__":
    main()
