//! Compares every operator, in many configurations, with the results of ONNX Runtime, which
//! `scripts/make_op_cases.py` writes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{ArrayD, IxDyn};

use super::importer::Importer;
use super::made::Made;
use super::{ImportOptions, import, scan};
use crate::error::Result;
use crate::graph::{Graph, eval};
use crate::onnx::{Model, read};
use crate::tensor::{DType, Tensor};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    model: String,
    inputs: BTreeMap<String, Array>,
    outputs: BTreeMap<String, Array>,
}

#[derive(serde::Deserialize)]
struct Array {
    dtype: String,
    shape: Vec<usize>,
    data: Vec<serde_json::Value>,
}

impl Array {
    fn values(&self) -> ArrayD<f64> {
        let number = |v: &serde_json::Value| match v {
            serde_json::Value::String(text) => text.parse().unwrap(),
            v => v.as_f64().unwrap(),
        };
        let values = self.data.iter().map(number).collect();
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).unwrap()
    }

    fn tensor(&self) -> Tensor {
        let dtype = match self.dtype.as_str() {
            "float16" | "float32" | "float64" => DType::F32,
            "int64" | "uint32" | "uint64" => DType::I64,
            "bool" => DType::Bool,
            _ => DType::I32,
        };
        Tensor::from_f64(self.values(), dtype)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// Lowers `output`, including its final activation.
fn lower(model: &Model, output: &str) -> Result<Graph> {
    scan::check(model, &[output])?;
    let options = ImportOptions::default();
    let mut importer = Importer::verbatim(model, &options)?;
    let value = importer.run(output)?;
    importer.b.output(output, value);
    Ok(importer.b.finish())
}

fn check(case: &Case) -> Result<(), String> {
    let model = read(&bytes(&case.model), &case.name).map_err(|e| e.to_string())?;
    for (output, want) in &case.outputs {
        let graph = lower(&model, output).map_err(|e| e.to_string())?;
        let inputs: Vec<Tensor> =
            graph.inputs().iter().map(|&v| case.inputs[graph.name(v).unwrap()].tensor()).collect();
        let got = eval(&graph, &inputs).map_err(|e| e.to_string())?.remove(0);
        let want = want.tensor();
        if (got.dtype(), got.shape()) != (want.dtype(), want.shape()) {
            return Err(format!(
                "{output}: {}{:?}, not {}{:?}",
                got.dtype(),
                got.shape(),
                want.dtype(),
                want.shape()
            ));
        }
        let (got, want) = (got.to_f64(), want.to_f64());
        let close = |a: f64, b: f64| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-5 * (1.0 + b.abs())
        };
        if !got.iter().zip(&want).all(|(&a, &b)| close(a, b)) {
            return Err(format!("{output}: {got}, not {want}"));
        }
    }
    Ok(())
}

/// Rectifiers are tagged by what they are in the model, and keep their tags in derived graphs.
#[test]
fn rectifiers_are_tagged() {
    use crate::graph::RectifierKind::{Leaky, Relu, Relu6};
    use crate::ops::BatchNormMode;
    use crate::transform::batch_norm;

    let found = |lines: &str| -> Vec<_> {
        let model = Made::new(&[0, 4])
            .weight("w", &[4, 4])
            .weight("slope", &[4])
            .scalar("zero", 0.0)
            .scalar("one", 1.0)
            .scalar("six", 6.0)
            .nodes("MatMul x w -> z")
            .nodes(lines)
            .output("y");
        let graph = import(&model, &ImportOptions::default()).unwrap().graph;
        let kinds = |graph: &Graph| {
            let found = graph.rectifiers();
            for rectifier in &found {
                assert_eq!(graph.shape(rectifier.input).last(), Some(&4));
            }
            found.iter().map(|r| (r.kind, r.copies)).collect::<Vec<_>>()
        };
        let decided = batch_norm(&graph, BatchNormMode::Running).unwrap().0.graph;
        assert_eq!(kinds(&decided), kinds(&graph), "{lines}: {decided}");
        kinds(&graph)
    };
    for (lines, expected) in [
        ("Relu z -> y", vec![(Relu, 1)]),
        ("Clip z zero -> y", vec![(Relu, 1)]),
        ("Clip z zero six -> y", vec![(Relu6, 1)]),
        ("LeakyRelu z -> y", vec![(Leaky, 1)]),
        ("PRelu z slope -> y", vec![(Leaky, 1)]),
        // A ramp, and ramps inside other activations, are none.
        ("Clip z zero one -> y", vec![]),
        ("HardSigmoid z -> y", vec![]),
        ("HardSwish z -> y", vec![]),
        ("Relu z -> a\nRelu a -> y", vec![(Relu, 1), (Relu, 1)]),
        // Two nodes on one value, and two on different ones.
        ("Relu z -> a\nRelu z -> b\nAdd a b -> y", vec![(Relu, 2)]),
        ("Relu z -> a\nNeg z -> n\nRelu n -> b\nAdd a b -> y", vec![(Relu, 1), (Relu, 1)]),
        ("Relu z -> a\nClip z zero six -> b\nAdd a b -> y", vec![(Relu, 1), (Relu6, 1)]),
        // The output does not depend on it.
        ("Relu z -> a\nNeg z -> y", vec![]),
    ] {
        assert_eq!(found(lines), expected, "{lines}");
    }
}

#[test]
fn operators_agree_with_onnx_runtime() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("OP_CASES")
        .map_or_else(|| root.join("tests/data/op_cases.json"), PathBuf::from);
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|why| format!("{}: {why}", case.name)))
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
