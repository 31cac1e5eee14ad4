//! Operators against PyTorch: `scripts/make_op_gradients.py` writes nodes, inputs, cotangents, and
//! the results and gradients that PyTorch computes for them in float64.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use gradalign::error::Result;
use gradalign::graph::{Builder, Fact, Graph, Output, Value, eval};
use gradalign::import::{Given, lower};
use gradalign::onnx::read;
use gradalign::ops::Op;
use gradalign::tensor::Tensor;
use gradalign::transform::{grad, widen};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    model: String,
    inputs: BTreeMap<String, Array>,
    outputs: BTreeMap<String, Array>,
    cotangents: BTreeMap<String, Array>,
    gradients: BTreeMap<String, Array>,
}

#[derive(serde::Deserialize)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    fn tensor(&self) -> Tensor {
        Tensor::f64(&self.shape, self.data.clone()).unwrap()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// The operator in float64, with the gradients of its inputs as further outputs.
fn with_gradients(case: &Case) -> Result<Graph> {
    let model = read(&bytes(&case.model), &case.name)?;
    let given = case.inputs.iter().map(|(name, array)| {
        let fact = Fact::new(gradalign::tensor::DType::F32, array.shape.clone());
        (name.clone(), Given::Open(fact))
    });
    let graph = widen(&lower(&model, &given.collect())?)?;
    let mut b = Builder::new(graph.clone());
    let mut sum = None;
    for output in graph.outputs() {
        let r = b.input(format!("r {}", output.name), graph.fact(output.value).clone());
        let product = b.mul(output.value, r)?;
        let term = b.sum_all(product)?;
        sum = Some(match sum {
            Some(sum) => b.add(sum, term)?,
            None => term,
        });
    }
    let inputs: Vec<Value> = graph.inputs().to_vec();
    let (extended, cotangents) = grad(&b.finish(), sum.unwrap(), &inputs)?;
    let mut b = Builder::new(extended);
    let mut outputs = graph.outputs().to_vec();
    for (&input, cotangent) in inputs.iter().zip(cotangents) {
        let value = match cotangent {
            Some(value) => value,
            None => b.zeros(graph.fact(input))?,
        };
        outputs.push(Output { name: format!("d {}", graph.name(input).unwrap()), value });
    }
    Ok(b.finish().with_outputs(outputs))
}

fn check(case: &Case) -> Result<(), String> {
    let graph = with_gradients(case).map_err(|e| e.to_string())?;
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .map(|&v| {
            let Op::Input(name) = &graph.node(v).op else { panic!("{} is no input", case.name) };
            match name.strip_prefix("r ") {
                Some(name) => case.cotangents[name].tensor(),
                None => case.inputs[&**name].tensor(),
            }
        })
        .collect();
    let got = eval(&graph, &inputs).map_err(|e| e.to_string())?;
    let mut compared = 0;
    for (output, got) in graph.outputs().iter().zip(&got) {
        let want = match output.name.strip_prefix("d ") {
            Some(name) => &case.gradients[name],
            None => &case.outputs[&output.name],
        };
        let want = want.tensor();
        if got.shape() != want.shape() {
            let (have, need) = (got.shape(), want.shape());
            return Err(format!("{}: {have:?}, not {need:?}", output.name));
        }
        let (got, want) = (got.to_f64(), want.to_f64());
        let off = (&got - &want)
            .iter()
            .fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) });
        let scale = want.iter().fold(0.1, |m: f64, v| m.max(v.abs()));
        // The operands are given to six digits; constants inside of operators are float32.
        if off > 1e-4 * scale {
            return Err(format!("{}: off by {off}: {got}, not {want}", output.name));
        }
        compared += 1;
    }
    match compared == case.outputs.len() + case.gradients.len() {
        true => Ok(()),
        false => Err(format!("{compared} results compared")),
    }
}

#[test]
fn operators_have_the_gradients_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/op_gradients.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|why| format!("{}: {why}", case.name)))
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
