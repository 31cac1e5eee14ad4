"""Writes the PyTorch models with the TorchScript-based and the dynamo-based exporter."""

import warnings
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule
from torch import Tensor, nn

from reference.paths import MODELS
from reference.registry import TORCH_MODELS, TorchModel

TOLERANCE = 1e-5


def export_legacy(module: nn.Module, example: Tensor, path: Path, opset: int, dynamic: bool) -> None:
    """Exports with the TorchScript-based exporter, keeping all batch norms and parameters.

    In inference mode this exporter stores equal tensors only once, so that all batch norms of a fresh
    network would share their scales and shifts. Only the flag of the outermost module decides.
    """
    module.training = True
    torch.onnx.export(
        module,
        (example,),
        path,
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None,
    )
    module.training = False


def export_dynamo(module: nn.Module, example: Tensor, path: Path, opset: int, dynamic: bool) -> None:
    """Exports with the dynamo-based exporter: constants are folded, batch norm is not, equal tensors are not merged."""
    program = torch.onnx.export(
        module,
        (example.expand(2, *example.shape[1:]) if dynamic else example,),
        dynamo=True,
        opset_version=opset,
        optimize=False,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},) if dynamic else None,
        verbose=False,
    )
    tidy(program.model)
    ir.save(program.model, path)


def tidy(model: ir.Model) -> None:
    """Folds shape arithmetic, and removes unused parts and source locations. Parameters are kept."""
    parameters = set(model.graph.initializers.values())

    def should_fold(node: ir.Node) -> bool | None:
        return False if node.op_type != "Shape" and parameters.intersection(node.inputs) else None

    passes.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
    RewritePass([remove_optional_bias_from_conv_rule])(model)
    remove_unused_nodes(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)


def check(module: nn.Module, example: Tensor, path: Path) -> float:
    """The largest difference between PyTorch's logits and those of the file in onnxruntime."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    return float(abs(module(example).detach().numpy() - logits).max())


def export(name: str, entry: TorchModel) -> None:
    module = entry.build().eval()
    example = torch.rand(1, *entry.shape, generator=torch.Generator().manual_seed(1))
    path = MODELS / f"{name}.onnx"
    write = export_dynamo if entry.exporter == "dynamo" else export_legacy
    write(module, example, path, entry.opset, entry.dynamic)
    difference = check(module, example, path)
    count = sum(p.numel() for p in module.parameters())
    print(f"{name}: {count} parameters, {path.stat().st_size} bytes, |logits - onnxruntime's| = {difference:.1e}")
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: onnxruntime disagrees with PyTorch")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name, entry in TORCH_MODELS.items():
        export(name, entry)


if __name__ == "__main__":
    main()
