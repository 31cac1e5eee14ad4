//! `grad` and `vmap` on a graph made by hand: `cargo run --example transform`.
//!
//! The function is `f(w, x) = Σ tanh(w·x)`. Its gradient in `w` for five values of `x` at once is
//! `vmap(grad(f))`; the result is written as ONNX and run by an engine.

#![allow(clippy::print_stdout)]

use gradalign::engine::{EngineChoice, EngineOptions, open};
use gradalign::graph::{Builder, Fact, Output};
use gradalign::tensor::{DType, Tensor};
use gradalign::transform::{grad, vmap};

fn main() -> gradalign::Result<()> {
    let mut b = Builder::default();
    let w = b.input("w", Fact::new(DType::F32, [3]));
    let x = b.input("x", Fact::new(DType::F32, [3]));
    let product = b.mul(w, x)?;
    let y = b.tanh(product)?;
    let f = b.sum_all(y)?;

    let (graph, cotangents) = grad(&b.finish(), f, &[w])?;
    let dw = cotangents[0].ok_or_else(|| gradalign::Error::Usage("f depends on w".into()))?;
    let graph = graph.with_outputs(vec![Output { name: "dw".into(), value: dw }]);
    let x = graph.inputs()[1];
    let batched = vmap(&graph, 5, &[x])?.graph;

    let engine = open(EngineChoice::Auto, &EngineOptions::default())?;
    let mut session = engine.load(&engine.compile(&batched)?)?;
    let w = Tensor::f32(&[3], vec![0.5, -1.0, 2.0])?;
    let x = Tensor::f32(&[5, 3], (0..15).map(|i| i as f32 / 10.0).collect())?;
    let outputs = session.run(&[w, x])?;
    println!("df/dw for five x, shape {:?}:\n{:.4}", outputs[0].shape(), outputs[0].to_f64());
    Ok(())
}
