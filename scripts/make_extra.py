"""Writes `fixtures/extra`: one small file for each special feature of ONNX files, with data for some."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from reference import extra
from reference.networks import EncoderLayer
from reference.paths import EXTRA

SAMPLES, CLASSES = 24, 4
IMAGE = torch.zeros(1, 1, 16, 16)
PRESERVE, TRAINING = torch.onnx.TrainingMode.PRESERVE, torch.onnx.TrainingMode.TRAINING


def legacy(name: str, module: nn.Module, *example: Tensor, opset: int = 17, **options) -> Path:
    path = EXTRA / f"{name}.onnx"
    options = {"input_names": ["input"], "output_names": ["logits"], **options}
    torch.onnx.export(module, example, path, dynamo=False, opset_version=opset, **options)
    return path


def unmerged(name: str, module: nn.Module, *example: Tensor, **options) -> Path:
    """Exports without merging parameters or folding batch norm (see `export_torch.py`)."""
    module.eval()
    module.training = True
    return legacy(name, module, *example, training=PRESERVE, do_constant_folding=False, **options)


def labels(rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(SAMPLES) % CLASSES).astype(np.int64)


def text_data(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Token ids, about half of them from a range that depends on the class, with padding (0) at the end."""
    classes = labels(rng)
    ids = rng.integers(4, 60, (SAMPLES, 12))
    own = rng.integers(4, 18, (SAMPLES, 12)) + 14 * classes[:, None]
    ids = np.where(rng.random((SAMPLES, 12)) < 0.5, ids, own)
    mask = (np.arange(12) < rng.integers(5, 13, (SAMPLES, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": classes}


def noise_data(shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A pattern for each class plus noise."""
    classes = labels(rng)
    patterns = rng.standard_normal((CLASSES, *shape))
    x = patterns[classes] + rng.standard_normal((SAMPLES, *shape))
    return {"input": x.astype(np.float32), "labels": classes}


def write_own_data() -> None:
    """Writes a transformer on token ids, a 1-D and a 3-D network, each with its own data."""
    rng = np.random.default_rng(11)
    data = {
        "text-encoder": text_data(rng),
        "sequence-cnn": noise_data((2, 32), rng),
        "volume-cnn": noise_data((1, 8, 8, 8), rng),
    }
    for name, arrays in data.items():
        np.savez_compressed(EXTRA / f"{name}.npz", **arrays)
        names = [n for n in arrays if n != "labels"]
        example = [torch.from_numpy(arrays[n][:1]) for n in names]
        unmerged(name, extra.OWN_DATA[name](), *example, input_names=names)


def write_external() -> None:
    path = unmerged("external", extra.tiny(), IMAGE)
    options = {"all_tensors_to_one_file": True, "location": "external.bin", "size_threshold": 0}
    (EXTRA / "external.bin").unlink(missing_ok=True)
    onnx.save(onnx.load(path), path, save_as_external_data=True, **options)
    (EXTRA / "external.bin").chmod(0o644)


FUNCTIONS = """
<ir_version: 9, opset_import: ["" : 17, "layers" : 1]>
network (float[batch,1,16,16] input) => (float[batch,10] logits) {
    first = layers.ConvNorm <groups = 1> (input, conv1_weight, bn1_weight, bn1_bias, bn1_running_mean, bn1_running_var)
    active = layers.Rectify (first)
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (active)
    second = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pooled, conv2_weight, conv2_bias)
    normal = BatchNormalization <epsilon = 0.00001> (second, bn2_weight, bn2_bias, bn2_running_mean, bn2_running_var)
    logits = layers.Head (pooled, normal, fc_weight, fc_bias)
}
<domain: "layers", opset_import: ["" : 17]>
ConvNorm <groups> (x, weight, scale, shift, mean, variance) => (y) {
    z = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group: int = @groups> (x, weight)
    y = BatchNormalization <epsilon = 0.00001> (z, scale, shift, mean, variance)
}
<domain: "layers", opset_import: ["" : 17]>
Rectify <slope: float = 0.0> (x) => (y) {
    y = LeakyRelu <alpha: float = @slope> (x)
}
<domain: "layers", opset_import: ["" : 17, "layers" : 1]>
Head (a, b, weight, bias) => (logits) {
    z = Add (a, b)
    y = layers.Rectify <slope = 0.0> (z)
    pooled = GlobalAveragePool (y)
    flat = Flatten (pooled)
    logits = Gemm <transB = 1> (flat, weight, bias)
}
"""


def write_functions() -> None:
    """Writes the tiny network as nested local functions with attributes, some with default values."""
    model = onnx.parser.parse_model(FUNCTIONS)
    for name, tensor in extra.tiny().state_dict().items():
        if tensor.is_floating_point():
            model.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name.replace(".", "_")))
    onnx.save(model, EXTRA / "local-functions.onnx")


class Encoder(nn.Module):
    """Two transformer layers on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(EncoderLayer(16, 2, 32), EncoderLayer(16, 2, 32))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(x.squeeze(1)).mean(1)))


def write_dynamo_default() -> None:
    """Writes a file with the dynamo-based exporter's defaults: it merges equal tensors and folds batch norm."""
    for name, module in (("dynamo-shared", extra.seeded(Encoder)), ("dynamo-folded-bn", extra.tiny())):
        options = {"dynamo": True, "opset_version": 18, "external_data": False, "verbose": False}
        program = torch.onnx.export(module.eval(), (IMAGE,), **options)
        for node in program.model.graph:
            node.metadata_props.clear()
        program.save(EXTRA / f"{name}.onnx")


def write_opsets() -> None:
    path = unmerged("opset7", extra.tiny(), IMAGE, opset=7, keep_initializers_as_inputs=True)
    model = onnx.load(path)
    model.ir_version = 3
    onnx.save(model, path)
    for opset in (9, 11):
        unmerged(f"opset{opset}", extra.tiny(), IMAGE, opset=opset)
    newest = onnx.version_converter.convert_version(onnx.load(EXTRA / "opset11.onnx"), 22)
    newest.ir_version = 10
    onnx.save(newest, EXTRA / "opset22.onnx")


def check() -> None:
    """Checks that all files are valid and that onnxruntime opens them."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for path in sorted(EXTRA.glob("*.onnx")):
        onnx.checker.check_model(path, full_check=True)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        print(f"{path.name}: {path.stat().st_size} bytes")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    EXTRA.mkdir(parents=True, exist_ok=True)
    write_own_data()
    write_external()
    write_functions()
    write_dynamo_default()
    write_opsets()
    legacy("folded-bn", extra.tiny().eval(), IMAGE)
    legacy("shared-constants", extra.fresh().eval(), IMAGE, training=PRESERVE, do_constant_folding=False)
    legacy("training-bn", extra.tiny().train(), IMAGE, training=TRAINING, do_constant_folding=False)
    unmerged("log-softmax", extra.log_softmax(), torch.zeros(1, 256), dynamic_axes={"input": {0: "batch"}})
    check()


if __name__ == "__main__":
    main()
