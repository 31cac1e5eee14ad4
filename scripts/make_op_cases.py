"""Writes tests/data/op_cases.json: small ONNX models, inputs, and the results of ONNX Runtime.

    python scripts/make_op_cases.py

Needs onnx, onnxruntime and numpy. Each case is one operator in one configuration. The importer's
tests lower every model and compare the interpreter's results with these.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CASES = []
RNG = np.random.default_rng(0)


def rand(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def ints(*shape, low=-3, high=4):
    return RNG.integers(low, high, shape).astype(np.int64)


def i64(*values):
    return np.array(values, dtype=np.int64)


def f32(*values):
    return np.array(values, dtype=np.float32)


def run(name, nodes, inputs, stored, outputs, opset, functions=(), domains=()):
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in stored.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*d) for d in domains)]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    model.ir_version = 8 if opset <= 18 else 10
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = session.run(outputs, inputs)
    CASES.append(
        {
            "name": f"{name}, opset {opset}",
            "model": model.SerializeToString().hex(),
            "inputs": {k: tensor(v) for k, v in inputs.items()},
            "outputs": {k: tensor(np.asarray(v)) for k, v in zip(outputs, results)},
        }
    )


def tensor(a):
    values = a.astype(np.float64).ravel()
    text = [v if np.isfinite(v) else str(v) for v in (float(f"{v:.8g}") for v in values)]
    return {"dtype": str(a.dtype), "shape": list(a.shape), "data": text}


def case(op, *operands, opset=17, outputs=1, name="", domain="", **attributes):
    """One node. An operand is an array given at run time, a ("stored", array) pair, or None."""
    names, inputs, stored = [], {}, {}
    for i, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, tuple):
            names.append(f"s{i}")
            stored[f"s{i}"] = operand[1]
        else:
            names.append(f"x{i}")
            inputs[f"x{i}"] = operand
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    label = f"{op} {name}".strip() if name else f"{op} {attributes}" if attributes else op
    domains = [(domain, 1)] if domain else []
    run(label, [node], inputs, stored, results, opset, domains=domains)


def known(array):
    return ("stored", array)


def elementwise():
    x = rand(1, 2, 3)
    x[0, 0, 0] = 0.0
    for op in "Abs Atan Ceil Cos Cosh Erf Exp Floor Neg Relu Sigmoid Sign Sin Sinh Softplus".split():
        case(op, x)
    for op in "Softsign Tan Tanh Asinh".split():
        case(op, x)
    for op in "Acos Asin Atanh".split():
        case(op, rand(1, 4, low=-0.9, high=0.9))
    case("Acosh", rand(1, 4, low=1.1, high=3.0))
    for op in "Log Sqrt Reciprocal".split():
        case(op, rand(1, 4, low=0.3, high=3.0))
    case("Round", f32(-2.5, -1.5, -0.5, 0.5, 1.5, 2.4).reshape(1, 6))
    special = f32(1.0, np.inf, -np.inf, np.nan).reshape(1, 4)
    case("IsNaN", special)
    case("IsInf", special)
    case("IsInf", special, detect_negative=0)
    case("IsInf", special, detect_positive=0)
    case("Not", np.array([[True, False]]))
    for op in "Add Sub Mul Div".split():
        case(op, rand(1, 2, 3), rand(1, 2, 1, low=0.5), name="broadcast")
        case(op, ints(1, 2, 3, low=-9, high=9), ints(1, 1, 3, low=1, high=4), name="integers")
        case(op, rand(1, 2, 3), known(rand(3, low=0.5)), opset=7, name="with a stored row")
    case("Div", f32(-7, 7).reshape(1, 2).astype(np.int64), i64(2, -2).reshape(1, 2), name="truncates")
    case("Pow", rand(1, 3, low=0.5), known(f32(2.0).reshape(())))
    case("Pow", rand(1, 3, low=0.5), ints(1, 3), name="integer exponents")
    case("Pow", rand(1, 3), known(i64(3).reshape(())), name="cube")
    case("Mod", ints(1, 6, low=-7, high=8), i64(3, -3, 3, -3, 5, -5).reshape(1, 6))
    case("Mod", ints(1, 6, low=-7, high=8), i64(3, -3, 3, -3, 5, -5).reshape(1, 6), fmod=1)
    case("Mod", rand(1, 4), f32(0.7, -0.7, 0.3, 1.1).reshape(1, 4), fmod=1, name="floats")
    for op in "Equal Less Greater LessOrEqual GreaterOrEqual".split():
        case(op, f32(1, 2, 3).reshape(1, 3), f32(1, 3, 2).reshape(1, 3))
    case("Equal", np.array([[True, False]]), np.array([[True, True]]), name="booleans")
    for op in "And Or Xor".split():
        case(op, np.array([[True, True, False]]), np.array([[True, False, False]]))
    for op in "Sum Mean Max Min".split():
        case(op, rand(1, 2, 3), rand(1, 1, 3), rand(1, 2, 1))
        case(op, rand(1, 2), name="one operand")
    case("Max", ints(1, 3), ints(1, 3), name="integers")
    case("Where", np.array([[True, False]]), rand(1, 2), known(rand(1)))
    for to in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT32):
        case("Cast", f32(-1.7, 0.0, 2.5).reshape(1, 3), to=to)
    case("Cast", i64(300, -1, 5).reshape(1, 3), to=TensorProto.UINT8)
    case("Cast", i64(300, -129, 5).reshape(1, 3), to=TensorProto.INT8)
    case("Cast", np.array([[True, False]]), to=TensorProto.FLOAT)
    case("CastLike", f32(1.5, -2.5).reshape(1, 2), known(i64(0)))
    x = f32(-3, -1, 0, 0.5, 1, 3).reshape(1, 6)
    case("Clip", x, opset=7, min=-1.0, max=1.0)
    case("Clip", x, opset=7, min=0.0)
    case("Clip", x, known(f32(-1).reshape(())), known(f32(2).reshape(())))
    case("Clip", x, None, known(f32(2).reshape(())), name="no minimum")
    case("Clip", x, f32(-1).reshape(()), name="minimum at run time")
    case("Clip", ints(1, 5), known(i64(-1).reshape(())), known(i64(1).reshape(())), name="integers")


def activations():
    x = rand(1, 3, 4, low=-4.0, high=4.0)
    case("LeakyRelu", x, alpha=0.2)
    case("LeakyRelu", x)
    case("Elu", x, alpha=1.5)
    case("Celu", x, alpha=0.7)
    case("Selu", x)
    case("Selu", x, alpha=1.5, gamma=1.2)
    case("HardSigmoid", x)
    case("HardSigmoid", x, alpha=0.3, beta=0.4)
    case("HardSwish", x)
    case("Mish", x, opset=18)
    case("ThresholdedRelu", x, alpha=0.8)
    case("Shrink", x, lambd=0.9, bias=0.3)
    case("Gelu", x, opset=20)
    case("Gelu", x, opset=20, approximate="tanh")
    case("PRelu", x, known(rand(3, 1)))
    case("PRelu", x, known(rand(1)), name="one slope")
    case("Softmax", x)
    for axis in (0, 1, 2, -2):
        for opset in (11, 13):
            case("Softmax", x, opset=opset, axis=axis)
            case("LogSoftmax", x, opset=opset, axis=axis)
            case("Hardmax", x, opset=opset, axis=axis)
    case("Softmax", x, opset=9)
    case("Softmax", rand(1, 5, 1, 1), opset=9, axis=1, name="before unit axes")
    case("Gelu", x, domain="com.microsoft")
    case("FastGelu", x, known(rand(4)), domain="com.microsoft")
    case("BiasGelu", x, known(rand(4)), domain="com.microsoft")
    case("QuickGelu", x, domain="com.microsoft", alpha=1.702)


def shapes():
    x = rand(1, 2, 3, 4)
    case("Shape", x)
    case("Shape", x, start=1)
    case("Shape", x, start=-3, end=-1)
    case("Size", x)
    for target in ([1, -1], [0, 0, 12], [4, 3, 2, 1], [2, 0, -1]):
        if target != [2, 0, -1]:
            case("Reshape", x, known(i64(*target)), name=str(target))
    case("Reshape", rand(1, 0, 3), known(i64(0, 1)), allowzero=1, name="allowzero")
    for axis in (0, 1, 2, 4, -1):
        case("Flatten", x, axis=axis)
    y = rand(1, 1, 3, 1)
    case("Squeeze", y)
    case("Squeeze", y, known(i64(1, -1)))
    case("Squeeze", y, opset=11, axes=[1])
    case("Unsqueeze", x, known(i64(0, -1)))
    case("Unsqueeze", x, opset=11, axes=[2, 5])
    case("Transpose", x)
    case("Transpose", x, perm=[0, 2, 3, 1])
    case("Concat", rand(1, 2, 2), rand(1, 3, 2), known(rand(1, 1, 2)), axis=1)
    case("Concat", rand(1, 2, 2), rand(1, 2, 3), axis=-1)
    case("Expand", rand(1, 3, 1), known(i64(2, 1, 3, 4)))
    case("Expand", rand(1, 3, 1), known(i64(1, 4)), name="to fewer axes")
    case("Tile", rand(1, 2, 3), known(i64(1, 2, 3)))
    case("Tile", rand(1, 2, 3), known(i64(2, 1, 1)))
    case("Split", rand(1, 6), outputs=3, axis=1)
    case("Split", rand(1, 6), known(i64(1, 2, 3)), outputs=3, axis=1)
    case("Split", rand(1, 6), opset=11, outputs=2, axis=1, split=[2, 4])
    case("Split", rand(1, 7), opset=18, outputs=3, axis=1, num_outputs=3)
    image = rand(1, 8, 2, 3)
    case("DepthToSpace", image, blocksize=2)
    case("DepthToSpace", image, blocksize=2, mode="CRD")
    case("SpaceToDepth", rand(1, 2, 4, 6), blocksize=2)
    case("Identity", x)
    case("Dropout", x, outputs=2)
    case("ConstantOfShape", known(i64(2, 3)), value=numpy_helper.from_array(f32(1.5)))
    case("ConstantOfShape", known(i64(2)))
    case("Range", known(i64(2).reshape(())), known(i64(9).reshape(())), known(i64(3).reshape(())))
    case("Range", *(known(f32(v).reshape(())) for v in (1, -1, -0.5)), name="falling floats")
    case("EyeLike", rand(1, 4), k=1)
    case("NonZero", known(f32(0, 1, 0, 2).reshape(2, 2)))


def slices():
    x = rand(1, 5, 6)
    big = np.iinfo(np.int64).max
    case("Slice", x, opset=9, starts=[1, -4], ends=[4, 1000], axes=[1, 2])
    case("Slice", x, known(i64(1)), known(i64(big)), known(i64(1)))
    case("Slice", x, known(i64(0, 1)), known(i64(1, 4)), name="without axes")
    case("Slice", x, *map(known, (i64(0, 5), i64(5, 0), i64(1, 2), i64(2, -2))), name="steps")
    case("Slice", x, *map(known, (i64(-1), i64(-big), i64(-1), i64(-1))), name="reversed")
    case("Slice", x, *map(known, (i64(3), i64(1), i64(1))), name="empty")
    case("Slice", x, *map(known, (i64(-100), i64(2), i64(1))), name="clamped")
    for upper in (0, 1):
        for k in (-1, 0, 2):
            case("Trilu", rand(1, 4, 5), known(i64(k).reshape(())), upper=upper, name=f"{upper} {k}")
    pads = i64(0, 0, 1, 2, 0, 0, 2, 1)
    image = rand(1, 2, 4, 4)
    for mode in ("constant", "reflect", "edge", "wrap"):
        case("Pad", image, known(pads), mode=mode, opset=19)
    case("Pad", image, known(pads), known(f32(1.5).reshape(())), name="value")
    case("Pad", image, opset=9, pads=[0, 0, 1, 1, 0, 0, 0, 2], value=0.5)
    case("Pad", image, opset=9, pads=[0, 0, 1, 1, 0, 0, 0, 2], mode="reflect")
    case("Pad", image, known(i64(0, 0, -1, 1, 0, 0, 0, -2)), name="cropping")
    case("Pad", image, known(i64(1, 2)), None, known(i64(-1)), opset=18, name="axes")
    case("CenterCropPad", rand(1, 5, 4), known(i64(3, 7)), axes=[1, 2], opset=18)


def gathers():
    x = rand(1, 4, 3)
    case("Gather", x, known(i64(2, -1, 0)), axis=1)
    case("Gather", known(rand(5, 3)), ints(1, 4, low=-5, high=5), name="embedding")
    case("Gather", x, known(i64(1).reshape(())), axis=2, name="scalar index")
    case("Gather", x, known(i64(0, 2, 1, 1).reshape(2, 2)), axis=-1, name="matrix of indices")
    case("GatherElements", x, ints(1, 2, 3, low=-4, high=4), axis=1)
    case("GatherElements", x, ints(1, 4, 2, low=0, high=3), axis=2)
    case("GatherND", x, known(i64(0, 1, 0, 3).reshape(2, 2)))
    case("GatherND", x, known(i64(0, 1, 2, 0, -1, -1).reshape(2, 3)), name="elements")
    case("GatherND", rand(1, 3, 4), ints(1, 2, 1, low=0, high=3), batch_dims=1)
    case("OneHot", ints(1, 4, low=-2, high=7), known(i64(5)), known(f32(-1, 2)))
    case("OneHot", ints(1, 4, low=0, high=5), known(i64(5)), known(f32(0, 1)), axis=1)
    case("ScatterElements", x, ints(1, 1, 3, low=0, high=4), rand(1, 1, 3), axis=1)
    case("ScatterElements", x, known(i64(1, 1, 0).reshape(1, 1, 3)), rand(1, 1, 3), axis=1,
         reduction="add", opset=16)
    case("ScatterND", x, known(i64(0, 1, 0, 3).reshape(2, 2)), known(rand(2, 3)))
    case("ScatterND", x, known(i64(0, 1, 0, 1).reshape(2, 2)), known(rand(2, 3)), reduction="add")
    case("ReverseSequence", rand(1, 4, 2), known(i64(3)), batch_axis=0, time_axis=1)


def reductions():
    x = rand(1, 3, 4, low=0.2, high=2.0)
    names = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
    for name in names.split():
        op = f"Reduce{name}"
        case(op, x, opset=11, axes=[1])
        case(op, x, opset=11, axes=[-1, 0], keepdims=0)
        case(op, x, opset=11)
        case(op, x, known(i64(1, 2)), opset=18, keepdims=0, name="axes given as an operand")
        case(op, x, opset=18, noop_with_empty_axes=1)
    case("ReduceSum", x, known(i64(1)), opset=13, name="axes as an operand")
    case("ReduceProd", ints(1, 3, low=1), opset=13, name="integers")
    case("ReduceMax", np.array([[True, False]]), opset=20, name="booleans")
    for op in ("ArgMax", "ArgMin"):
        y = ints(1, 3, 5).astype(np.float32)
        case(op, y, axis=1)
        case(op, y, axis=-1, keepdims=0)
        case(op, y, axis=-1, select_last_index=1)
    case("CumSum", x, known(i64(1)))
    case("CumSum", x, known(i64(-1)), exclusive=1, reverse=1)


def linear():
    case("MatMul", rand(1, 3), known(rand(3, 4)))
    case("MatMul", rand(1, 2, 3), rand(1, 3, 2))
    case("MatMul", rand(1, 5, 2, 3), known(rand(3, 2)), name="broadcast")
    case("MatMul", known(rand(3)), rand(1, 3, 2), name="row")
    case("MatMul", rand(1, 2, 3), known(rand(3)), name="column")
    case("MatMul", known(rand(3)), known(rand(3)), name="row and column")
    case("Gemm", rand(1, 3), known(rand(3, 4)), known(rand(4)))
    case("Gemm", rand(1, 3), known(rand(4, 3)), known(rand(1)), transB=1, alpha=0.5, beta=2.0)
    case("Gemm", known(rand(3, 1)), known(rand(3, 4)), transA=1)
    case("FusedMatMul", rand(1, 2, 3), rand(1, 4, 3), transB=1, alpha=0.5, domain="com.microsoft")
    equations = [
        ("bij,bjk->bik", (1, 2, 3), (1, 3, 4)),
        ("bhid,bhjd->bhij", (1, 2, 3, 4), (1, 2, 5, 4)),
        ("bi,ij->bj", (1, 3), (3, 2)),
        ("bi,bj->bij", (1, 3), (1, 2)),
        ("bij->bji", (1, 2, 3)),
        ("bij->b", (1, 2, 3)),
        ("...ij,...jk->...ik", (1, 2, 2, 3), (1, 2, 3, 4)),
        ("bij,bjk", (1, 2, 3), (1, 3, 4)),
        ("bi,bi->", (1, 3), (1, 3)),
        ("bij,kj,kl->bil", (1, 2, 3), (4, 3), (4, 2)),
        ("b...c,cd->b...d", (1, 2, 3), (3, 5)),
        ("bqhd,bkhd->bhqk", (1, 3, 2, 4), (1, 5, 2, 4)),
        ("bi , ij -> bj", (1, 3), (3, 2)),
    ]
    for equation, *shapes_ in equations:
        operands = (rand(*s) if s[0] == 1 else known(rand(*s)) for s in shapes_)
        case("Einsum", *operands, equation=equation)


def convolutions():
    x = rand(1, 2, 7, 6)
    w = known(rand(3, 2, 3, 3))
    case("Conv", x, w)
    case("Conv", x, w, known(rand(3)), pads=[1, 1, 1, 1], strides=[2, 2])
    case("Conv", x, w, pads=[2, 0, 1, 1], dilations=[2, 1], strides=[1, 2])
    case("Conv", x, known(rand(4, 1, 3, 2)), known(rand(4)), group=2, kernel_shape=[3, 2])
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        case("Conv", x, w, auto_pad=auto_pad, strides=[2, 2])
        case("Conv", x, known(rand(3, 2, 2, 4)), auto_pad=auto_pad, strides=[1, 3])
    case("Conv", rand(1, 2, 9), known(rand(4, 2, 3)), pads=[1, 1], strides=[2], name="1d")
    case("Conv", rand(1, 2, 4, 5, 4), known(rand(2, 2, 2, 3, 2)), pads=[1, 0, 1, 0, 1, 0], name="3d")
    w = known(rand(2, 3, 3, 3))
    y = rand(1, 2, 4, 3)
    case("ConvTranspose", y, w)
    case("ConvTranspose", y, w, known(rand(3)), strides=[2, 2], pads=[1, 1, 1, 1])
    case("ConvTranspose", y, w, strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 0, 1])
    case("ConvTranspose", y, w, strides=[2, 2], output_shape=[8, 7])
    case("ConvTranspose", y, w, strides=[2, 2], output_shape=[8, 6], auto_pad="SAME_UPPER")
    case("ConvTranspose", y, w, strides=[2, 2], auto_pad="SAME_UPPER")
    case("ConvTranspose", y, w, strides=[2, 2], auto_pad="SAME_LOWER")
    case("ConvTranspose", y, w, strides=[1, 2], dilations=[2, 1], auto_pad="VALID")
    case("ConvTranspose", y, known(rand(2, 2, 3, 3)), group=2, strides=[2, 1])
    case("ConvTranspose", rand(1, 2, 5), known(rand(2, 3, 4)), strides=[3], name="1d")


def pools():
    x = rand(1, 2, 7, 6)
    case("MaxPool", x, kernel_shape=[3, 3])
    case("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 0])
    case("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    case("MaxPool", x, kernel_shape=[3, 3], strides=[3, 2], ceil_mode=1, pads=[1, 1, 1, 1])
    case("MaxPool", x, kernel_shape=[2, 3], dilations=[2, 2], strides=[1, 2], pads=[1, 1, 0, 1])
    for auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        case("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto_pad)
        case("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto_pad)
    case("MaxPool", rand(1, 2, 9), kernel_shape=[3], strides=[2], name="1d")
    case("MaxPool", rand(1, 1, 4, 4, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2], name="3d")
    case("MaxPool", -x * x - 1, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="negative values")
    for include in (0, 1):
        for ceil in (0, 1):
            case("AveragePool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1],
                 count_include_pad=include, ceil_mode=ceil)
            case("AveragePool", x, kernel_shape=[3, 3], strides=[3, 3], opset=19, pads=[0, 0, 1, 1],
                 count_include_pad=include, ceil_mode=ceil)
        case("AveragePool", x, kernel_shape=[2, 3], strides=[2, 1], dilations=[2, 1], opset=19,
             pads=[1, 1, 0, 1], count_include_pad=include)
    case("AveragePool", rand(1, 2, 9), kernel_shape=[4], strides=[2], pads=[1, 2], name="1d")
    case("AveragePool", rand(1, 1, 4, 4, 4), kernel_shape=[2, 3, 2], name="3d")
    case("GlobalAveragePool", x)
    case("GlobalMaxPool", x)
    case("GlobalLpPool", x)
    case("LpPool", x, kernel_shape=[2, 2], strides=[2, 2])
    case("LpPool", x, kernel_shape=[3, 2], p=3, pads=[1, 0, 1, 0])


def normalisations():
    x = rand(1, 4, 3, 2)
    row = lambda n=4: known(rand(n))
    variance = known(rand(4, low=0.5))
    case("BatchNormalization", x, row(), row(), row(), variance)
    case("BatchNormalization", x, row(), row(), row(), variance, opset=7, epsilon=1e-3, momentum=0.8)
    case("BatchNormalization", rand(1, 4), row(), row(), row(), variance, name="matrix")
    case("InstanceNormalization", x, row(), row(), epsilon=1e-3)
    case("GroupNormalization", x, known(rand(2)), known(rand(2)), opset=18, num_groups=2)
    case("GroupNormalization", x, row(), row(), opset=21, num_groups=2)
    case("LayerNormalization", x, known(rand(2)), known(rand(2)), outputs=3)
    case("LayerNormalization", x, known(rand(3, 2)), axis=2, epsilon=1e-3)
    case("LRN", rand(1, 5, 2, 2), size=3)
    case("LRN", rand(1, 6, 2, 2), size=5, alpha=0.5, beta=0.6, bias=1.5)
    case("LpNormalization", x, axis=1)
    case("LpNormalization", x, axis=-1, p=1)
    case("MeanVarianceNormalization", x)
    case("MeanVarianceNormalization", x, axes=[2, 3])
    case("SimplifiedLayerNormalization", rand(1, 3, 4), row(), axis=-1, epsilon=1e-6)
    a, b = rand(1, 3, 4), rand(1, 3, 4)
    case("SkipLayerNormalization", a, b, row(), row(), row(), domain="com.microsoft", epsilon=1e-5)
    case("SkipSimplifiedLayerNormalization", a, b, row(), domain="com.microsoft", epsilon=1e-5)


def resizes():
    x = rand(1, 2, 4, 5)
    none = known(f32())
    up, down = known(f32(1, 1, 2, 3)), known(f32(1, 1, 0.6, 0.8))
    case("Upsample", x, opset=7, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest")
    case("Upsample", x, up, opset=9, mode="nearest")
    case("Upsample", x, up, opset=9, mode="linear")
    case("Resize", x, known(f32(1, 1, 2, 1.5)), opset=10, mode="nearest")
    case("Resize", x, known(f32(1, 1, 2, 1.5)), opset=10, mode="linear")
    coordinates = "half_pixel pytorch_half_pixel align_corners asymmetric".split()
    for coordinate in coordinates:
        for scales in (up, down):
            for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
                case("Resize", x, none, scales, mode="nearest", nearest_mode=rounding,
                     coordinate_transformation_mode=coordinate)
            for mode in ("linear", "cubic"):
                case("Resize", x, none, scales, mode=mode,
                     coordinate_transformation_mode=coordinate)
        case("Resize", x, none, none, known(i64(1, 2, 3, 7)), mode="linear",
             coordinate_transformation_mode=coordinate, name=f"sizes {coordinate}")
    case("Resize", x, none, down, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)
    for mode in ("linear", "cubic"):
        for exclude in (0, 1):
            case("Resize", x, none, down, mode=mode, antialias=1, exclude_outside=exclude, opset=18)
    case("Resize", x, None, known(f32(0.5, 2)), mode="linear", axes=[2, 3], opset=18)
    case("Resize", x, None, None, known(i64(8, 8)), mode="nearest", axes=[2, 3], opset=18,
         keep_aspect_ratio_policy="not_larger")
    case("Resize", x, None, None, known(i64(8, 8)), mode="nearest", axes=[2, 3], opset=18,
         keep_aspect_ratio_policy="not_smaller")
    case("Resize", x, None, known(f32(0.6, 0.6)), mode="linear", axes=[2, 3], opset=19,
         coordinate_transformation_mode="half_pixel_symmetric")
    roi = known(f32(0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7))
    case("Resize", x, roi, None, known(i64(1, 2, 3, 3)), mode="linear",
         coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0)
    case("Resize", rand(1, 2, 6), None, known(f32(1, 1, 2.5)), mode="linear", name="1d")


def fused():
    """The operators that ONNX Runtime's optimiser writes."""
    ms = {"domain": "com.microsoft"}
    x = rand(1, 4, 6)
    w, b = known(rand(6, 18)), known(rand(18))
    case("Attention", x, w, b, num_heads=2, **ms)
    case("Attention", x, w, b, known(np.array([[1, 1, 0, 1]], np.int32)), num_heads=3, **ms)
    case("Attention", x, w, b, known(np.array([3], np.int32)), num_heads=2, scale=0.7, **ms)
    case("Attention", x, w, b, num_heads=2, unidirectional=1, **ms)
    case("Attention", x, known(rand(6, 16)), known(rand(16)), num_heads=2,
         qkv_hidden_sizes=[6, 6, 4], **ms)
    q, k, v = rand(1, 4, 6), rand(1, 5, 6), rand(1, 5, 6)
    case("MultiHeadAttention", q, k, v, b, num_heads=2, **ms)
    case("MultiHeadAttention", q, k, v, None, known(np.array([[1, 1, 1, 0, 1]], np.int32)),
         rand(1, 2, 4, 5), num_heads=2, name="masked and biased", **ms)
    ids = np.array([[1, 0, 2, 2]], np.int32)
    tables = [known(rand(3, 6)), known(rand(5, 6)), known(rand(2, 6)), known(rand(6)), known(rand(6))]
    case("EmbedLayerNormalization", ids, np.array([[0, 1, 1, 0]], np.int32), *tables, outputs=2,
         name="segments", **ms)
    case("EmbedLayerNormalization", ids, None, tables[0], tables[1], None, *tables[3:],
         known(np.array([[1, 1, 1, 0]], np.int32)), outputs=2, epsilon=1e-3, **ms)
    angles = rand(5, 2)
    case("RotaryEmbedding", rand(1, 3, 8), i64(0, 3, 1).reshape(1, 3), known(np.cos(angles)),
         known(np.sin(angles)), **ms)
    case("RotaryEmbedding", rand(1, 2, 3, 4), i64(0, 3, 1).reshape(1, 3), known(np.cos(angles)),
         known(np.sin(angles)), interleaved=1, **ms)
    case("FusedGemm", rand(1, 3), known(rand(3, 4)), known(rand(4)), activation="Relu", **ms)
    case("FusedConv", rand(1, 2, 4, 4), known(rand(3, 2, 2, 2)), known(rand(3)),
         activation="LeakyRelu", activation_params=[0.2], **ms)
    case("FusedConv", rand(1, 2, 4, 4), known(rand(3, 2, 2, 2)), known(rand(3)), rand(1, 3, 3, 3),
         activation="Relu", **ms)


def recurrences():
    for op, gates, activations in (
        ("RNN", 1, ["Relu"]),
        ("GRU", 3, ["HardSigmoid", "Softsign"]),
        ("LSTM", 4, ["HardSigmoid", "ScaledTanh", "Affine"]),
    ):
        n = gates * 2
        stored = [known(rand(1, n, 2)), known(rand(1, n, 2)), known(rand(1, 2 * n))]
        outputs = 3 if op == "LSTM" else 2
        case(op, rand(1, 1, 2), *stored, hidden_size=2, outputs=outputs, name="one step")
        both = [known(rand(2, *a.shape[1:])) for _, a in stored]
        case(op, rand(1, 1, 2), *both, hidden_size=2, direction="bidirectional", outputs=outputs)
        alphas = {"ScaledTanh": 0.7, "HardSigmoid": 0.3, "Affine": 0.5}
        betas = {"ScaledTanh": 0.6, "HardSigmoid": 0.4, "Affine": 0.1}
        given = {
            key: [values[a] for a in activations if a in values]
            for key, values in (("activation_alpha", alphas), ("activation_beta", betas))
        }
        case(op, rand(1, 1, 2), *stored, hidden_size=2, outputs=outputs, activations=activations,
             **{key: values for key, values in given.items() if values})


def loops():
    """Control flow: bodies that read outer values, and a weight shared by all iterations."""
    node = helper.make_node
    value = helper.make_tensor_value_info
    any_float = helper.make_empty_tensor_value_info
    weight = numpy_helper.from_array(rand(3, 3), "weight")
    turn = helper.make_graph(
        [
            node("MatMul", ["state", "weight"], ["product"]),
            node("Add", ["product", "x"], ["next"]),
            node("ReduceSum", ["next"], ["sum"], keepdims=0),
            node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
            node("Add", ["sum", "number"], ["collected"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        "turn",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), any_float("state")],
        [value("go_on", TensorProto.BOOL, []), any_float("next"), any_float("collected")],
        [weight],
    )
    nodes = [
        node("Constant", [], ["count"], value_int=3),
        node("Loop", ["count", "", "x"], ["y", "all"], body=turn),
    ]
    run("Loop", nodes, {"x": rand(1, 3)}, {}, ["y", "all"], 17)
    counted = helper.make_graph(
        [
            node("Constant", [], ["limit"], value_int=2),
            node("Less", ["i", "limit"], ["go_on"]),
            node("Mul", ["state", "x"], ["next"]),
        ],
        "counted",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), any_float("state")],
        [value("go_on", TensorProto.BOOL, []), any_float("next")],
    )
    nodes = [node("Loop", ["", "", "x"], ["y"], body=counted)]
    run("Loop until a condition", nodes, {"x": rand(1, 3)}, {}, ["y"], 17)
    step = helper.make_graph(
        [node("Add", ["state", "element"], ["next"]), node("Identity", ["next"], ["shown"])],
        "step", [any_float("state"), any_float("element")], [any_float("next"), any_float("shown")],
    )
    for backwards in (0, 1):
        scan = node("Scan", ["start", "x"], ["y", "all"], body=step, num_scan_inputs=1,
                    scan_input_axes=[1], scan_output_axes=[-1], scan_output_directions=[backwards],
                    scan_input_directions=[backwards])
        run(f"Scan {backwards}", [scan], {"start": rand(1, 2), "x": rand(1, 3, 2)}, {}, ["y", "all"], 17)
    branch = lambda name, op: helper.make_graph([node(op, ["x"], [name])], name, [], [any_float(name)])
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Constant", [], ["zero"], value_float=0.0),
        node("Greater", ["sum", "zero"], ["flag"]),
        node("If", ["flag"], ["y"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Exp")),
    ]
    for sign in (1, -1):
        run(f"a branch that is not known, {sign}", nodes, {"x": sign * rand(1, 3, low=0.1)}, {}, ["y"], 17)


def structures():
    """Models of several nodes: constants, branches, functions, sequences."""
    node = helper.make_node
    x = {"x": rand(1, 2, 3)}
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Constant", [], ["one"], value_int=1),
        node("Gather", ["shape", "one"], ["n"]),
        node("Constant", [], ["axis"], value_ints=[0]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Constant", [], ["rest"], value_ints=[-1]),
        node("Concat", ["rest", "n1"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    run("arithmetic on shapes", nodes, x, {}, ["y"], 17)

    branch = lambda name, op: helper.make_graph(
        [node(op, ["x"], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
    )
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Size", ["shape"], ["rank"]),
        node("Constant", [], ["three"], value_int=3),
        node("Equal", ["rank", "three"], ["flag"]),
        node("If", ["flag"], ["y"], then_branch=branch("a", "Neg"), else_branch=branch("b", "Exp")),
    ]
    run("a branch that is known", nodes, x, {}, ["y"], 17)

    inner = helper.make_function(
        "local", "Leaky", ["v"], ["w"], [node("LeakyRelu", ["v"], ["w"])],
        [helper.make_opsetid("", 17)], ["alpha"],
    )
    reference = lambda name, to: helper.make_attribute_ref(
        name, onnx.AttributeProto.FLOAT, ref_attr_name=to
    )
    inner.node[0].attribute.append(reference("alpha", "alpha"))
    call = node("Leaky", ["u"], ["t"], domain="local")
    call.attribute.append(reference("alpha", "slope"))
    outer = helper.make_function(
        "local", "Block", ["a", "b"], ["c", "unused"],
        [node("Add", ["a", "b"], ["u"]), call, node("Neg", ["t"], ["c"]), node("Exp", ["t"], ["unused"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)], ["slope"],
    )
    nodes = [
        node("Block", ["x", "x"], ["h", ""], domain="local", slope=0.3),
        node("Block", ["h", "x"], ["y", ""], domain="local", slope=0.1),
    ]
    run("nested functions", nodes, x, {}, ["y"], 17, [inner, outer], [("local", 1)])

    nodes = [
        node("SplitToSequence", ["x"], ["parts"], axis=2),
        node("Constant", [], ["i"], value_int=-1),
        node("SequenceAt", ["parts", "i"], ["last"]),
        node("SequenceInsert", ["parts", "last"], ["more"]),
        node("ConcatFromSequence", ["more"], ["y"], axis=1),
        node("SequenceLength", ["more"], ["n"]),
    ]
    run("sequences", nodes, x, {}, ["y", "n"], 17)
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["pair"]),
        node("ConcatFromSequence", ["pair"], ["y"], axis=0, new_axis=1),
    ]
    run("stacked sequences", nodes, x, {}, ["y"], 17)
    ml = ("ai.onnx.ml", 3)
    features = {"x": rand(1, 3)}
    nodes = [node("Scaler", ["x"], ["y"], domain=ml[0], offset=[0.1, 0.2, 0.3], scale=[2.0, 1.0, 0.5])]
    run("Scaler", nodes, features, {}, ["y"], 17, domains=[ml])
    for norm in ("MAX", "L1", "L2"):
        nodes = [node("Normalizer", ["x"], ["y"], domain=ml[0], norm=norm)]
        run(f"Normalizer {norm}", nodes, {"x": rand(1, 3, low=0.1)}, {}, ["y"], 17, domains=[ml])
    nodes = [node("ArrayFeatureExtractor", ["x", "i"], ["y"], domain=ml[0])]
    run("ArrayFeatureExtractor", nodes, features, {"i": i64(2, 0)}, ["y"], 17, domains=[ml])


def linear_models():
    node, ml, features = helper.make_node, ("ai.onnx.ml", 3), {"x": rand(1, 3)}
    for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
        linear = {"coefficients": rand(9).tolist(), "intercepts": rand(3).tolist(),
                  "post_transform": transform, "domain": ml[0]}
        nodes = [node("LinearClassifier", ["x"], ["label", "y"], classlabels_ints=[0, 1, 2], **linear)]
        run(f"LinearClassifier {transform}", nodes, features, {}, ["y"], 17, domains=[ml])
    linear = {"coefficients": rand(6).tolist(), "targets": 2, "domain": ml[0]}
    run("LinearRegressor", [node("LinearRegressor", ["x"], ["y"], **linear)], features, {}, ["y"], 17,
        domains=[ml])
    case("Einsum", rand(1, 3, 3), equation="bii->bi")


for family in (elementwise, activations, shapes, slices, gathers, reductions, linear, convolutions,
               pools, normalisations, resizes, structures, fused, recurrences, loops, linear_models):
    family()
path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "op_cases.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
print(f"{len(CASES)} cases, {path.stat().st_size / 1024:.0f} KiB, onnx {onnx.__version__}, "
      f"onnxruntime {onnxruntime.__version__}")
