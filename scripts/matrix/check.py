"""Compares gradalign with the frameworks on every exported case, and writes the table.

    python -m matrix.check [--binary target/release/gradalign] [NAME@EXPORTER …]        (in scripts/)

Needs numpy, onnx and onnxruntime. For each folder written by an exporter:

- `gradalign grad --batch 4 --per-sample` writes the training graph, onnxruntime runs it, and its
  gradients are compared with the framework's, in float64: ‖g − g_ref‖ / ‖g_ref‖ over all parameters,
  for the worst sample; and by parameter, where a norm below a thousandth of that of the whole gradient
  is replaced by that value.
- `gradalign score` scores the model on ONNX Runtime and on tract.

A parameter is found in the file by its values, with its axes in any order. It has one gradient: that
of a tensor that belongs to no other parameter. If several tensors hold its values, such as all biases of 0,
it is the one with the closest gradient. It is wrong if gradalign has two parameters where the
framework has one (`copies`), or one where the framework has two (`merged`).
"""

import argparse
import collections
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from .case import SAMPLES, WORK

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "models.md"
TOLERANCE = 1e-4
FLOOR = 1e-3
# Float32 gradients with a larger error are at a kink.
ROUGH = 1e-4
LIMIT = 300


class Failure(Exception):
    """A failure with a message."""


def call(arguments: list[object]) -> str:
    """Returns the standard output of a command. Fails with the last line of its standard error."""
    try:
        done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"took longer than {LIMIT} s") from error
    if done.returncode and not done.stdout.startswith("{"):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Failure(lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout


def stored(path: Path) -> dict[str, np.ndarray]:
    """All floating-point constants of a file by name, including copies by Identity nodes."""
    model = onnx.load(path)
    graphs = [model.graph]
    weights: dict[str, np.ndarray] = {}
    for graph in graphs:
        tensors = [(t.name, t) for t in graph.initializer]
        for node in graph.node:
            tensors += [(node.output[0], a.t) for a in node.attribute if node.op_type == "Constant" and a.name == "value"]
            graphs += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        weights |= {n: numpy_helper.to_array(t) for n, t in tensors if t.data_type in (1, 10, 11, 16)}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        # Linear models have them in attributes; gradalign names them after the node's first result.
        lists = {a.name: np.array(a.floats, np.float32) for a in node.attribute if a.type == onnx.AttributeProto.FLOATS}
        if node.domain == "ai.onnx.ml" and "coefficients" in lists and "intercepts" in lists:
            rows = len(lists["intercepts"])
            weights[f"{node.output[0]}.coefficients"] = lists["coefficients"].reshape(rows, -1)
            weights[f"{node.output[0]}.intercepts"] = lists["intercepts"]
    return weights


def layout(value: np.ndarray, array: np.ndarray) -> tuple[int, ...] | None:
    """The permutation of the axes under which `value` equals `array`, if there is one."""
    long = tuple(d for d in array.shape if d != 1)
    orders = sorted(itertools.permutations(range(value.ndim)), key=lambda axes: axes != tuple(range(value.ndim)))
    for axes in orders:
        moved = value.transpose(axes)
        same = tuple(d for d in moved.shape if d != 1) == long or axes == tuple(range(value.ndim))
        if same and np.array_equal(moved.ravel(), array.ravel()):
            return axes
    return None


def match(truth: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[int, list[tuple[str, tuple[int, ...]]]]:
    """For each parameter, the tensors of the file that hold it, with the permutation of the axes."""
    by_values: dict[tuple, list[str]] = {}
    for name, array in weights.items():
        by_values.setdefault((array.size, np.sort(array.astype(np.float32), axis=None).tobytes()), []).append(name)
    found = {}
    for i in range(len(truth["names"])):
        value = truth[f"value.{i}"]
        names = by_values.get((value.size, np.sort(value, axis=None).tobytes()), [])
        pairs = [(n, layout(value, weights[n].astype(np.float32))) for n in names]
        found[i] = [(n, axes) for n, axes in pairs if axes is not None]
    return found


def rows_of(value: np.ndarray, array: np.ndarray) -> np.ndarray | None:
    """The indices in the matrix `value` of the rows of `array`: exporters fold the lookup of fixed positions."""
    if value.ndim != 2 or array.ndim < 2 or array.shape[-1] != value.shape[1] or not array.size:
        return None
    index = {row.tobytes(): i for i, row in enumerate(value)}
    rows = [index.get(row.tobytes()) for row in array.reshape(-1, value.shape[1])]
    return None if None in rows else np.array(rows)


def run_graph(path: Path, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {slot.name: data[slot.name].reshape(slot.shape) for slot in session.get_inputs()}
    names = [slot.name for slot in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def onnxruntime_refuses(folder: Path) -> str | None:
    """The reason why onnxruntime does not run the model either, if so."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        data = np.load(folder / "data.npz")
        session.run(None, {slot.name: data[slot.name][:1] for slot in session.get_inputs()})
    except Exception as error:
        return " ".join(str(error).replace(f"{folder}/", "").split())[:200]
    return None


def compare(folder: Path, binary: Path, loss: str) -> dict[str, object]:
    """Errors of the training graph's gradients."""
    graph = folder / "training.onnx"
    call([binary, "grad", folder / "model.onnx", "-o", graph, "--batch", SAMPLES, "--per-sample", "--loss", loss])
    data, truth = dict(np.load(folder / "data.npz")), dict(np.load(folder / "gradients.npz"))
    outputs = run_graph(graph, data)
    graph.unlink()
    got = {n.removeprefix("grad."): v.astype(np.float64) for n, v in outputs.items() if n.startswith("grad.")}
    weights = {n: w for n, w in stored(folder / "model.onnx").items() if n in got}
    # Parameters that the exporter merged or removed are named by its metadata.
    named = {str(name): truth[f"value.{i}"] for i, name in enumerate(truth["names"])}
    for name in got.keys() - weights.keys():
        value = named.get(name, named.get(name.rpartition("/")[2]))
        weights |= {name: value} if value is not None else {}
    homes = match(truth, weights)
    differences, norms, missing, looked_up, merged = [], [], [], [], []
    held = {home for places in homes.values() for home, _ in places}
    for i, name in enumerate(truth["names"]):
        want = truth[f"grad.{i}"]
        candidates = []
        for home, axes in homes[i]:
            there = (SAMPLES, *(want.shape[1 + a] for a in axes))
            back = (0, *(1 + axes.index(a) for a in range(want.ndim - 1)))
            if home in got:
                candidates.append((home, got[home].reshape(there).transpose(back)))
        if homes[i] and not candidates and want.any():
            merged.append(str(name))
        total = np.zeros_like(want)
        if candidates:
            home, total = min(candidates, key=lambda pair: np.linalg.norm(pair[1] - want))
            del got[home]
        for home, array in weights.items() if not homes[i] else ():
            if home in got and (rows := rows_of(truth[f"value.{i}"], array.astype(np.float32))) is not None:
                np.add.at(total, (slice(None), rows), got.pop(home).reshape(SAMPLES, len(rows), -1))
                homes[i].append((home, ()))
                looked_up.append(home)
        if not homes[i] and want.any():
            missing.append(str(name))
        differences.append(np.linalg.norm((total - want).reshape(SAMPLES, -1), axis=1))
        norms.append(np.linalg.norm(want.reshape(SAMPLES, -1), axis=1))
    if missing:
        kept = [i for i, name in enumerate(truth["names"]) if name not in missing]
        differences, norms = [differences[i] for i in kept], [norms[i] for i in kept]
        truth["names"] = truth["names"][kept]
    whole = np.linalg.norm(norms, axis=0)
    by_parameter = np.array(differences) / np.maximum(np.array(norms), FLOOR * whole)
    result: dict[str, object] = {
        "error": float((np.linalg.norm(differences, axis=0) / whole).max()),
        "parameter_error": float(by_parameter.max()),
        "worst": str(truth["names"][by_parameter.max(axis=1).argmax()]),
        "loss_error": float(np.abs(outputs["loss"].reshape(-1) / truth["loss"] - 1).max()),
    }
    result |= {"missing": missing} if missing else {}
    result |= {"looked_up": looked_up} if looked_up else {}
    copies = sorted(n for n in got if n in held and np.ptp(weights[n]) > 0)
    result |= {"copies": copies} if copies else {}
    result |= {"merged": merged} if merged else {}
    if extra := sorted(got.keys() - copies):
        result["extra"] = extra
    return result


def score(folder: Path, binary: Path, loss: str, engine: str) -> object:
    """The first score on an engine, or the reason why there is none."""
    command = [binary, "score", folder / "model.onnx", "--data", folder / "data.npz", "--samples", "all"]
    try:
        row = json.loads(call([*command, "--loss", loss, "--engine", engine, "--format", "json"]))["models"][0]
    except Failure as failure:
        return str(failure)
    if row["error"]:
        return row["error"]["message"]
    return [row["scores"][name]["value"] for name in ("gradalign-1", "gradalign-2")]


def check(folder: Path, binary: Path) -> dict[str, object]:
    facts = json.loads((folder / "case.json").read_text())
    result: dict[str, object] = dict(facts)
    if "failed" in facts:
        return result
    try:
        inspection = json.loads(call([binary, "inspect", folder / "model.onnx", "--format", "json"]))
        result["opset"] = inspection["opsets"].get("")
        if not inspection["scorable"]:
            if reason := onnxruntime_refuses(folder):
                result["failed"] = f"the file is not valid: {reason}"
                return result
            result["refused"] = inspection["error"]["message"]
            result["unsupported"] = sorted({p["op"] for p in inspection["unsupported"]})
            return result
        result |= compare(folder, binary, facts["loss"])
        result["scores"] = {engine: score(folder, binary, facts["loss"], engine) for engine in ("ort", "tract")}
    except Failure as failure:
        result["wrong"] = str(failure)
    except Exception as error:  # one case must not affect the others
        result["wrong"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return result


def agree(scores: dict[str, object]) -> bool:
    """Whether both engines give the same scores, up to signs of gradients that are nearly zero."""
    values = [scores[engine] for engine in ("ort", "tract")]
    if any(isinstance(v, str) or None in v for v in values):
        return False
    return math.isclose(values[0][0], values[1][0], rel_tol=0.01)


def verdict(result: dict[str, object]) -> str:
    """`good`, `refused`, `wrong`, or a verdict for which gradalign is not the cause.

    `export`: the exporter fails, or writes a file that ONNX Runtime refuses. `folded`: it stored tensors
    computed from parameters in their place; the gradients of all other parameters are good. `rough`: the
    framework's own gradients in float32 are inaccurate, too, because of a kink nearby.
    """
    if "failed" in result:
        return "export"
    if "refused" in result:
        return "refused"
    if "error" not in result or any(isinstance(s, str) for s in result["scores"].values()):
        return "wrong"
    if "copies" in result or "merged" in result:
        return "wrong"
    if "missing" in result:
        return "folded" if result["error"] <= TOLERANCE else "wrong"
    if result["error"] <= TOLERANCE:
        return "good"
    return "rough" if result.get("float32_error", 0) > ROUGH else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="NAME@EXPORTER", help="default: all without a good result")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/gradalign")
    parser.add_argument("--again", action="store_true", help="also those with a good result")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    folders = [WORK / case for case in options.cases] or sorted(p.parent for p in WORK.glob("*/case.json"))
    for folder in [] if options.table else folders:
        file = folder / "result.json"
        newer = file.exists() and file.stat().st_mtime >= (folder / "case.json").stat().st_mtime
        if newer and not options.again and verdict(json.loads(file.read_text())) in ("good", "export"):
            continue
        started = time.time()
        result = check(folder, options.binary)
        file.write_text(json.dumps(result, indent=1) + "\n")
        said = {k: result[k] for k in ("failed", "refused", "wrong", "error", "parameter_error", "float32_error", "missing", "copies", "merged", "extra", "scores") if k in result}
        print(f"{folder.name}: {verdict(result)} {said} {time.time() - started:.0f} s", flush=True)
    from .table import page

    results = [json.loads(p.read_text()) for p in sorted(WORK.glob("*/result.json"))]
    TABLE.write_text(page(results, verdict, agree))
    print(collections.Counter(map(verdict, results)))
    sys.exit(any(verdict(r) == "wrong" for r in results))


if __name__ == "__main__":
    main()
