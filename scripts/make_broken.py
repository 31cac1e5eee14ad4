"""Writes `fixtures/broken`: files that must be refused with a clear reason."""

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from reference.paths import BROKEN, EXTRA

IMAGE, LOGITS = [1, 1, 16, 16], [1, 10]
RNG = np.random.default_rng(3)


def tensor(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(0, 0.05, shape).astype(np.float32), name)


def model(nodes: list[onnx.NodeProto], initializers: list[TensorProto], kind: int = TensorProto.FLOAT) -> ModelProto:
    """A model from `input` to `logits`."""
    graph = helper.make_graph(
        nodes,
        "broken",
        [helper.make_tensor_value_info("input", kind, IMAGE)],
        [helper.make_tensor_value_info("logits", kind, LOGITS)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="fixtures")


def unsupported_op() -> ModelProto:
    """A valid model with an operator of an unknown domain."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], "flatten"),
        helper.make_node("Entangle", ["flat"], ["mixed"], "mystery", domain="com.example", strength=2.0),
        helper.make_node("Gemm", ["mixed", "weight"], ["logits"], "head"),
    ]
    return model(nodes, [tensor("weight", 256, 10)])


def quantised() -> ModelProto:
    """An int8 convolution between QuantizeLinear and DequantizeLinear."""
    scale = numpy_helper.from_array(np.float32(0.02), "scale")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    weight = numpy_helper.from_array(RNG.integers(-90, 90, (4, 1, 3, 3)).astype(np.int8), "weight")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], "quantise"),
        helper.make_node(
            "QLinearConv", ["q", "scale", "zero", "weight", "scale", "zero", "scale", "zero"], ["c"], "conv"
        ),
        helper.make_node("DequantizeLinear", ["c", "scale", "zero"], ["y"], "dequantise"),
        helper.make_node("Flatten", ["y"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], "head"),
    ]
    return model(nodes, [scale, zero, weight, tensor("head", 4 * 14 * 14, 10)])


def integer_only() -> ModelProto:
    """A model of integers, which has no gradients."""
    weight = numpy_helper.from_array(RNG.integers(-3, 4, (256, 10)), "weight")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"], "head"),
    ]
    return model(nodes, [weight], TensorProto.INT64)


def linear(weight: TensorProto) -> ModelProto:
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "weight"], ["logits"], "head"),
    ]
    return model(nodes, [weight])


def external(location: str) -> ModelProto:
    """A model whose weight is in an external file."""
    weight = tensor("weight", 256, 10)
    length = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    return linear(weight)


def no_parameters() -> ModelProto:
    """A model without any weight."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], "flatten"),
        helper.make_node("Slice", ["flat", "start", "end", "axis"], ["logits"], "slice"),
    ]
    bounds = [("start", 0), ("end", 10), ("axis", 1)]
    return model(nodes, [numpy_helper.from_array(np.array([v]), n) for n, v in bounds])


def many_problems() -> ModelProto:
    """A model with four nodes that cannot be imported, for four reasons. Three of them form a chain."""
    nodes = [
        helper.make_node("RandomNormalLike", ["input"], ["noise"], "noise"),
        helper.make_node("Add", ["input", "noise"], ["noisy"], "add"),
        helper.make_node("ReduceMax", ["input"], ["peak"], "peak", keepdims=0),
        helper.make_node("Cast", ["peak"], ["whole"], "whole", to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "zero"], ["size"], "size"),
        helper.make_node("Concat", ["one", "size"], ["shape"], "shape", axis=0),
        helper.make_node("Reshape", ["noisy", "shape"], ["flat"], "flatten"),
        helper.make_node("Entangle", ["flat"], ["mixed"], "mystery", domain="com.example"),
        helper.make_node("Gemm", ["mixed", "weight"], ["head"], "head"),
        helper.make_node("Conv", ["input", "kernel"], ["map"], "crop", pads=[-1, -1, -1, -1]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["row"], "row"),
        helper.make_node("Add", ["head", "row"], ["logits"], "sum"),
    ]
    bounds = [numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("one", 1))]
    proto = model(nodes, [tensor("weight", 256, 10), tensor("kernel", 10, 1, 3, 3), *bounds])
    for name, shape in (("noise", IMAGE), ("flat", [1, 256]), ("mixed", [1, 256]), ("map", [1, 10, 12, 12])):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return proto


def nan_weights() -> ModelProto:
    weight = numpy_helper.to_array(tensor("weight", 256, 10)).copy()
    weight[3, 4] = np.nan
    return linear(numpy_helper.from_array(weight, "weight"))


def main() -> None:
    BROKEN.mkdir(parents=True, exist_ok=True)
    whole = (EXTRA / "opset11.onnx").read_bytes()
    (BROKEN / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (BROKEN / "empty.onnx").write_bytes(b"")
    (BROKEN / "not-onnx.onnx").write_text("This is a text file, whatever its name says.\n")
    models = {
        "unsupported-op": unsupported_op(),
        "quantised": quantised(),
        "integer-only": integer_only(),
        "no-parameters": no_parameters(),
        "nan-weights": nan_weights(),
        "missing-external": external("missing.bin"),
        "escaping-external": external("../secret.bin"),
        "many-problems": many_problems(),
    }
    for name, proto in models.items():
        if not name.endswith("external"):
            onnx.checker.check_model(proto)
        (BROKEN / f"{name}.onnx").write_bytes(proto.SerializeToString())
    (BROKEN.parent / "secret.bin").write_bytes(bytes(4 * 256 * 10))  # the file outside the folder that escaping-external.onnx refers to


if __name__ == "__main__":
    main()
