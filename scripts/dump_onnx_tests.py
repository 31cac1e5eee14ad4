"""Writes the tests of the Python package onnx to files, for tests/conformance.rs.

    python scripts/dump_onnx_tests.py FOLDER

Models of operator sets before 7 are converted to opset 13 if the package can do that.

Every test becomes FOLDER/KIND/NAME/ with model.onnx, and for each input and output input_0.pb,
output_0.pb…: a TensorProto; a folder of them for a sequence; an empty file for an omitted value;
or a .txt file that names another kind of value.
"""

import pathlib
import shutil
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter
from onnx.backend.test.loader import load_model_tests

warnings.filterwarnings("ignore")


def write(value, path):
    """Writes an input or output. `path` has no extension."""
    if isinstance(value, list):
        path.mkdir()
        for i, element in enumerate(value):
            write(element, path / str(i))
    elif value is None:
        path.with_name(path.name + ".pb").write_bytes(b"")
    elif isinstance(value, TensorProto):
        path.with_name(path.name + ".pb").write_bytes(value.SerializeToString())
    elif isinstance(value, (np.ndarray, np.generic)):
        tensor = numpy_helper.from_array(np.asarray(value))
        path.with_name(path.name + ".pb").write_bytes(tensor.SerializeToString())
    else:
        path.with_name(path.name + ".txt").write_text(f"a {type(value).__name__}\n")


def tensor(path, kind):
    """Reads an input or output of a test that the package stores as files."""
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return TensorProto.FromString(data)


def stored_values(folder, prefix, infos):
    return [tensor(folder / f"{prefix}_{i}.pb", info.type) for i, info in enumerate(infos)]


def modern(model):
    """The model in an operator set in which operators broadcast."""
    for target in (13, 8):
        try:
            if any(o.domain in ("", "ai.onnx") and o.version < 7 for o in model.opset_import):
                return version_converter.convert_version(model, target)
        except RuntimeError:
            continue
    return model


target = pathlib.Path(sys.argv[1])
count = 0
for kind in ("node", "simple", "pytorch-operator", "pytorch-converted"):
    for test in load_model_tests(kind=kind):
        folder = target / kind / test.name.removeprefix("test_")
        folder.mkdir(parents=True)
        if test.model_dir is None:
            model = test.model
            inputs, outputs = test.data_sets[0]
        else:
            source = pathlib.Path(test.model_dir)
            model = onnx.load(source / "model.onnx")
            graph = model.graph
            values = source / "test_data_set_0"
            given = len(list(values.glob("input_*.pb")))
            inputs = stored_values(values, "input", graph.input[:given])
            outputs = stored_values(values, "output", graph.output)
        (folder / "model.onnx").write_bytes(modern(model).SerializeToString())
        for prefix, each in (("input", inputs), ("output", outputs)):
            for i, value in enumerate(each):
                write(value, folder / f"{prefix}_{i}")
        count += 1
light = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
shutil.copytree(light, target / "light")
print(f"{count} tests and {len(list(light.glob('*.onnx')))} light models of onnx {onnx.__version__}")
