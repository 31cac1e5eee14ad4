"""Compares gradients with those of onnx-ad, an independent tool that differentiates ONNX graphs.

    python check_onnx_ad.py [--binary ../target/release/gradalign] [MODEL …]        (in scripts/)

Needs onnx-ad, onnx, onnxruntime and numpy. onnx-ad's adjoint model of the network has the parameters as
inputs. Its seed is the derivative of the cross-entropy with respect to the network's output. Without
arguments it takes the models in `models/`, with the first samples of the digits.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, helper, numpy_helper
from onnx_ad import reverse

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 3
TOLERANCE = 1e-4


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    graph = session(model)
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, feed), strict=True))


def ours(binary: Path, path: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "training.onnx"
        command = [binary, "grad", path, "-o", out, "--batch", str(SAMPLES), "--per-sample", "--loss", "cross-entropy"]
        subprocess.run(command, check=True, capture_output=True)
        graph = session(out.read_bytes())
        feed = {slot.name: labels if slot.name == "labels" else images.reshape(slot.shape) for slot in graph.get_inputs()}
        results = run(out.read_bytes(), feed)
    return {name.removeprefix("grad."): g for name, g in results.items() if name.startswith("grad.")}


def with_inputs(model: ModelProto, parameters: set[str]) -> ModelProto:
    """The model at batch size 1, with its parameters as inputs."""
    graph = model.graph
    for i in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[i]
        if tensor.name in parameters:
            if all(tensor.name != slot.name for slot in graph.input):
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            del graph.initializer[i]
    for slot in [graph.input[0], *graph.output]:
        slot.type.tensor_type.shape.dim[0].dim_value = 1
    return onnx.shape_inference.infer_shapes(model)


def prediction(model: ModelProto) -> str:
    """The first floating-point output."""
    return next(o.name for o in model.graph.output if o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def seed(model: ModelProto, output: np.ndarray, label: int) -> np.ndarray:
    """The derivative of the sample's cross-entropy with respect to the output, probabilities or logits."""
    hot = np.zeros_like(output)
    hot[..., label] = 1
    producers = {name: node for node in model.graph.node for name in node.output}
    last = producers[prediction(model)]
    while last.op_type in ("Identity", "Reshape", "Squeeze", "Normalizer"):
        last = producers[last.input[0]]
    if last.op_type == "Softmax":
        return -hot / output
    exponentials = np.exp(output - output.max())
    return exponentials / exponentials.sum() - hot


def check(binary: Path, path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    got = ours(binary, path, images, labels)
    model = onnx.load(path)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = {name: stored[name] for name in got if name in stored}
    if len(weights) < len(got):
        raise ValueError(f"{sorted(set(got) - set(weights))[0]} is no initializer")
    model = with_inputs(model, set(weights))
    output = prediction(model)
    adjoint = reverse(model, inputs=list(weights), outputs=[output], layout="onnx")
    primal = model.SerializeToString()
    name, shape = model.graph.input[0].name, session(primal).get_inputs()[0].shape
    errors = []
    for i in range(SAMPLES):
        feed = {name: images[i].reshape(shape), **weights}
        y = run(primal, feed)[output]
        adjoints = run(adjoint.SerializeToString(), {**feed, f"adj_{output}": seed(model, y, labels[i])[..., None]})
        pairs = [(got[w][i].ravel().astype(float), adjoints[f"adj_{w}"].ravel().astype(float)) for w in weights]
        difference = sum(((a - b) ** 2).sum() for a, b in pairs)
        errors.append(np.sqrt(difference / sum((b**2).sum() for _, b in pairs)))
    return float(np.max(errors))  # NaN if one of them is NaN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/gradalign")
    options = parser.parse_args()
    data = np.load(ROOT / "fixtures/digits.npz")
    images, labels = data["images"][:SAMPLES].astype(np.float32) / 255, data["labels"][:SAMPLES].astype(np.int64)
    off = 0
    for path in options.models or sorted((ROOT / "models").glob("*.onnx")):
        try:
            error = check(options.binary, path, images, labels)
        except Exception as error_:  # onnx-ad refuses some models; compare the others
            print(f"{path.name}: not compared: {type(error_).__name__}: {' '.join(str(error_).split())[:160]}")
            continue
        off += not error <= TOLERANCE
        print(f"{path.name}: relative error {error:.1e}")
    sys.exit(off > 0)


if __name__ == "__main__":
    main()
