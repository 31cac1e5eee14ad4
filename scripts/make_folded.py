"""Writes `fixtures/folded`: one small network with batch norms folded by each tool that does so, and
the same network written by the same tools without folding.

Run it in an environment with `requirements/folded.txt`.

There must be a warning for `folded-TOOL.onnx` and none for `kept-TOOL.onnx`. PyTorch's metadata is kept,
except for stack traces, which contain local paths.
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
import onnxsim
import onnxslim
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "folded"
LEFT_OUT = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node", "namespace")


def network() -> nn.Module:
    """Two convolutions with batch norm, of which the first has no bias, and a classifier."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval()


def write(model: onnx.ModelProto, name: str) -> None:
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if entry.key not in LEFT_OUT]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, FOLDER / f"{name}.onnx")


def exported(path: Path, **options) -> onnx.ModelProto:
    torch.onnx.export(network(), (torch.zeros(1, 1, 8, 8),), path, verbose=False, **options)
    return onnx.load(path)


def optimised(source: Path, path: Path, level: ort.GraphOptimizationLevel) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kept, other = Path(folder) / "kept.onnx", Path(folder) / "other.onnx"
        write(exported(other, dynamo=True), "folded-dynamo")
        write(exported(other, dynamo=True, optimize=False), "kept-dynamo")
        write(exported(other, dynamo=False), "folded-torchscript")
        preserve = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
        write(exported(kept, dynamo=False, **preserve), "kept-torchscript")
        levels = ort.GraphOptimizationLevel
        write(optimised(kept, other, levels.ORT_ENABLE_BASIC), "folded-onnxruntime-basic")
        write(optimised(kept, other, levels.ORT_ENABLE_EXTENDED), "folded-onnxruntime-extended")
        write(optimised(kept, other, levels.ORT_DISABLE_ALL), "kept-onnxruntime")
        write(onnxsim.simplify(onnx.load(kept))[0], "folded-onnxsim")
        write(onnxslim.slim(onnx.load(kept)), "folded-onnxslim")


if __name__ == "__main__":
    main()
