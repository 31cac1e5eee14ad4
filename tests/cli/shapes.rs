//! What the batch is, and what shape an output has: `inspect`, `score` and `grad` agree.

use std::fs::File;

use gradalign::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value as Dim};
use gradalign::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use ndarray::{Array2, Array3, arr1};
use ndarray_npy::NpzWriter;
use prost::Message as _;
use tempfile::TempDir;

use super::{engines, gradalign, inside, row, value};

const FLOAT: i32 = 1;

fn info(name: &str, kind: i32, dims: &[i64]) -> ValueInfoProto {
    // An open dimension is 0.
    let dim = |&d: &i64| Dimension {
        value: Some(if d == 0 { Dim::DimParam("batch".into()) } else { Dim::DimValue(d) }),
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(kind), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value });
    ValueInfoProto { name: Some(name.into()), r#type }
}

fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let start = name.len() as f32;
    let values = (0..dims.iter().product()).map(|i: i64| (start + 2.3 * i as f32).sin() / 2.0);
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(FLOAT),
        float_data: values.collect(),
        ..TensorProto::default()
    }
}

/// Writes a model of nodes such as `MatMul x w -> y`.
fn write(
    folder: &TempDir,
    name: &str,
    inputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    nodes: &[&str],
    outputs: Vec<ValueInfoProto>,
) -> String {
    let node = |line: &&str| {
        let (call, result) = line.split_once(" -> ").unwrap();
        let mut words = call.split(' ').map(str::to_owned);
        NodeProto {
            op_type: words.next(),
            input: words.collect(),
            output: vec![result.into()],
            ..NodeProto::default()
        }
    };
    let graph = GraphProto {
        name: Some("made by hand".into()),
        input: inputs,
        initializer: weights,
        node: nodes.iter().map(node).collect(),
        output: outputs,
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let (path, text) = inside(folder, name);
    std::fs::write(path, model.encode_to_vec()).unwrap();
    text
}

/// Whether the three commands take the model with `options`, which they must agree on.
#[track_caller]
fn taken(folder: &TempDir, model: &str, options: &str) -> bool {
    let inspected = gradalign(&format!("inspect {model} --format json {options}"));
    let inspected: serde_json::Value = serde_json::from_str(&inspected.out).unwrap();
    let (_, out) = inside(folder, "grad.onnx");
    let graph = gradalign(&format!("grad {model} -o {out} --batch 3 {options}")).code == 0;
    let scored = engines().into_iter().map(|engine| {
        let scored = format!("score {model} --data synthetic --samples 6 --engine {engine}");
        gradalign(&format!("{scored} {options}")).code == 0
    });
    let all: Vec<bool> = scored.chain([graph, inspected["scorable"] == true]).collect();
    assert!(all.iter().all(|taken| *taken == all[0]), "{model} {options}: {all:?} {inspected}");
    all[0]
}

#[test]
fn the_commands_agree_on_what_the_batch_is() {
    let folder = TempDir::new().unwrap();
    let head = || vec![weight("w", &[6, 3])];
    let logits = || vec![info("y", FLOAT, &[0, 3])];
    let fixed = write(
        &folder,
        "fixed.onnx",
        vec![info("x", FLOAT, &[4, 6])],
        head(),
        &["MatMul x w -> y"],
        logits(),
    );
    assert!(taken(&folder, &fixed, ""));
    let mixed = write(
        &folder,
        "mixed.onnx",
        vec![info("x", FLOAT, &[4, 6])],
        vec![weight("w", &[6, 3]), weight("rows", &[4, 3])],
        &["MatMul x w -> z", "Add z rows -> y"],
        logits(),
    );
    assert!(!taken(&folder, &mixed, ""));
    // All of the input is one sample.
    assert!(taken(&folder, &mixed, "--batch-axis x=none"));
    let setting = write(
        &folder,
        "setting.onnx",
        vec![info("x", FLOAT, &[0, 6]), info("sr", FLOAT, &[])],
        head(),
        &["Mul x sr -> z", "MatMul z w -> y"],
        logits(),
    );
    assert!(!taken(&folder, &setting, ""));
    assert!(taken(&folder, &setting, "--fix sr=2"));
    assert!(taken(&folder, &setting, "--batch-axis sr=none"));
    assert!(!taken(&folder, &setting, "--fix rate=2"));
    assert!(!taken(&folder, &setting, "--fix sr=2 --batch-axis sr=none"));
    let turned = write(
        &folder,
        "turned.onnx",
        vec![info("x", FLOAT, &[5, 1, 6])],
        head(),
        &["MatMul x w -> y"],
        vec![info("y", FLOAT, &[5, 1, 3])],
    );
    assert!(taken(&folder, &turned, "--batch-axis x=1"));
    assert!(!taken(&folder, &turned, "--batch-axis x=3"));
}

/// The data shows that an input has no batch axis, or has it elsewhere.
#[test]
fn samples_show_where_the_batch_is() {
    let folder = TempDir::new().unwrap();
    let model = write(
        &folder,
        "m.onnx",
        vec![info("x", FLOAT, &[5, 2, 6])],
        vec![weight("w", &[6, 3])],
        &["MatMul x w -> y"],
        vec![info("y", FLOAT, &[5, 2, 3])],
    );
    for (shape, note) in [((4, 5, 12), "no batch axis"), ((4, 5, 6), "axis 1 is taken")] {
        let (path, data) = inside(&folder, "data.npz");
        let mut npz = NpzWriter::new(File::create(path).unwrap());
        let values = Array3::from_shape_fn(shape, |(i, j, k)| ((i + 2 * j + 3 * k) as f32).sin());
        if shape.2 == 12 {
            npz.add_array("x", &values.into_shape_with_order((4, 5, 2, 6)).unwrap()).unwrap();
            npz.add_array("y", &Array3::<i64>::zeros((4, 5, 2))).unwrap();
        } else {
            npz.add_array("x", &values).unwrap();
            npz.add_array("y", &Array2::<i64>::zeros((4, 5))).unwrap();
        }
        npz.finish().unwrap();
        let loss = "--loss token-cross-entropy --format json";
        let report =
            gradalign(&format!("score {model} --data {data} --samples all {loss}")).json(0);
        let warnings = row(&report, "m.onnx")["warnings"].to_string();
        assert!(warnings.contains(note), "{warnings}");
    }
}

/// The signs of the gradients of a linear layer with one output are those of its input.
#[test]
fn a_model_of_one_output_has_every_score() {
    let folder = TempDir::new().unwrap();
    let model = write(
        &folder,
        "one.onnx",
        vec![info("x", FLOAT, &[0, 2])],
        vec![weight("w", &[2, 1]), weight("bias", &[1])],
        &["MatMul x w -> z", "Add z bias -> s", "Sigmoid s -> y"],
        vec![info("y", FLOAT, &[0, 1])],
    );
    let (path, data) = inside(&folder, "data.npz");
    let mut npz = NpzWriter::new(File::create(path).unwrap());
    let x = [[1.0f32, 2.0], [-1.0, 3.0], [2.0, 1.0], [-2.0, -1.0]];
    npz.add_array("x", &ndarray::arr2(&x)).unwrap();
    npz.add_array("y", &arr1(&[0i64, 0, 1, 1])).unwrap();
    npz.finish().unwrap();
    // The gradient is (σ − t)·x, whose signs are those of x, turned for t = 1: class 0 has (1, 1) and
    // (−1, 1), class 1 has (−1, −1) and (1, 1).
    for engine in engines() {
        let options = "--samples all --format json --metric gradalign-1,gradsign,grad-norm,fisher";
        let command = format!("score {model} --data {data} --engine {engine} {options}");
        let report = gradalign(&format!("{command} --no-params bias")).json(0);
        let row = row(&report, "one.onnx");
        assert_eq!(value(row, "gradalign-1"), (1.0 + 0.0) / 2.0);
        assert_eq!(value(row, "gradsign"), 0.0 + 2.0);
        assert!(value(row, "grad-norm") > 0.0 && value(row, "fisher") > 0.0);
        assert_eq!(row["output"], "y");
    }
}

/// An input called `labels` keeps its name in a written graph, and what ours is called is said; a name
/// that an output must have is refused. Both can be scored.
#[test]
fn names_that_ours_meet_are_told_apart() {
    let folder = TempDir::new().unwrap();
    for (name, code) in [("labels", 0), ("loss", 2)] {
        let model = write(
            &folder,
            "m.onnx",
            vec![info("x", FLOAT, &[0, 6]), info(name, FLOAT, &[0, 6])],
            vec![weight("w", &[6, 3])],
            &[&format!("Add x {name} -> z"), "MatMul z w -> y"],
            vec![info("y", FLOAT, &[0, 3])],
        );
        for engine in engines() {
            let command = format!("score {model} --data synthetic --samples 6 --engine {engine}");
            assert_eq!(gradalign(&command).code, 0, "{name}");
        }
        let (_, out) = inside(&folder, "grad.onnx");
        let run = gradalign(&format!("grad {model} -o {out} --batch 2"));
        assert_eq!(run.code, code, "{}", run.err);
        let said = if code == 0 { "'gradalign.labels'" } else { "rename the input" };
        assert!(run.err.contains(said), "{}", run.err);
    }
}
