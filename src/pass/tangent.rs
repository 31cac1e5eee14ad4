//! The neural tangent kernel.

use ndarray::{Array2, ArrayView2, s};

use super::memory::{Memory, Need};
use super::training::first_output;
use super::{
    Batch, GramKind, Grouping, Objective, PerSampleRequest, Product, Reduced, Roles, Selection,
    has_batch_norm, per_sample,
};
use crate::engine::{Compiled, Engine};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Output};
use crate::tensor::{DType, Tensor};
use crate::transform;

/// The input that chooses samples: lane `l` differentiates `Σᵢ e_li · Σ_k f_k(xᵢ)`.
const CHOICE: &str = "gradalign.choice";

/// As many rows of the Jacobian in a run as share one forward pass. More hardly gain anything.
const LANES: usize = 8;

/// Columns of the Jacobian that are multiplied at once, in float64.
const COLUMNS: usize = 1 << 14;

/// The neural tangent kernel `Θ` `[N, N]`, `Θ_ij = ⟨∂ Σ_k f_k(xᵢ)/∂θ, ∂ Σ_k f_k(x_j)/∂θ⟩` over the
/// parameters `θ` of `selection`, where all samples go through `model` together.
///
/// `model` has its batch normalisations decided (see [`transform::batch_norm`]) and its prediction
/// as first output. Under batch statistics each output depends on all samples, so that a row of the
/// Jacobian takes a backward pass over the whole batch. `memory` is a limit of the process in
/// bytes; without one, it is what the system has available.
///
/// # Errors
/// When the model cannot be differentiated, the engine fails, no parameter of `selection` has a
/// gradient, a gradient is not finite, or the whole batch does not fit into memory at once.
pub fn tangent_kernel(
    model: &Graph,
    roles: &Roles,
    selection: Selection,
    samples: &Batch,
    memory: Memory,
    engine: &dyn Engine,
) -> Result<Array2<f64>> {
    if !has_batch_norm(model) {
        return independent(model, roles, selection, samples, memory, engine);
    }
    let n = samples.len();
    let all: Vec<usize> = (0..n).collect();
    let one = jacobian(model, roles, selection, n)?;
    let width = one.shape(one.output("rows")?)[0];
    let (graph, lanes, compiled) = with_lanes(&one, n, width, memory, engine)?;
    let inputs = samples.input_rows(&all)?;
    let mut tensors = Vec::new();
    for (&input, tensor) in graph.inputs().iter().zip(&inputs) {
        tensors.push(tensor.reshape(graph.shape(input))?);
    }
    let mut session = engine.load(&compiled)?;
    drop(compiled);
    let mut rows = Array2::<f32>::zeros((n, width));
    for start in (0..n).step_by(lanes) {
        let end = n.min(start + lanes);
        tensors.push(choice(start..end, lanes, n)?);
        let outputs = session.run(&tensors)?;
        tensors.pop();
        let run = outputs.first().and_then(Tensor::as_f32);
        let run = run.and_then(|values| values.into_dimensionality::<ndarray::Ix2>().ok());
        let run = run.ok_or_else(|| Error::Score("the engine returned other rows".into()))?;
        rows.slice_mut(s![start..end, ..]).assign(&run.slice(s![..end - start, ..]));
    }
    if rows.iter().any(|v| !v.is_finite()) {
        return Err(Error::Score(
            "the gradient of a sample's outputs is not finite: check the model's weights and the \
             data's scale"
                .into(),
        ));
    }
    Ok(gram(&rows.view()))
}

/// The kernel of samples that do not depend on each other: no statistics are left to be decided.
fn independent(
    model: &Graph,
    roles: &Roles,
    selection: Selection,
    samples: &Batch,
    memory: Memory,
    engine: &dyn Engine,
) -> Result<Array2<f64>> {
    let request = PerSampleRequest {
        objective: Objective::OutputSum,
        grouping: Grouping::Whole,
        products: vec![Product::Gram(GramKind::Raw, selection)],
        memory,
    };
    let mut reduced = per_sample(model, roles, samples, &request, engine)?;
    match reduced.pop() {
        Some(Reduced::Grams(mut grams)) if grams.len() == 1 => Ok(grams.remove(0).gram),
        _ => Err(Error::Score("there is no sample to take a gradient of".into())),
    }
}

/// A graph of the model's inputs `[n, 1, …]` and, last, [`CHOICE`] `[n]`, with the output `rows`
/// `[width]`: the gradients, one after the other.
fn jacobian(model: &Graph, roles: &Roles, selection: Selection, n: usize) -> Result<Graph> {
    let output = Output { name: "outputs".into(), value: first_output(model)? };
    let model = model.with_outputs(vec![output]);
    let inputs = model.inputs().to_vec();
    let batch = transform::vmap(&model, n, &inputs)?;
    let outputs = batch.output("outputs")?;
    let mut b = Builder::new(batch);
    let width = b.fact(outputs).len() / n;
    let outputs = b.reshape(outputs, &[n, width])?;
    let sums = b.reduce_sum(outputs, &[1])?;
    let sums = b.reshape(sums, &[n])?;
    let choice = b.input(CHOICE, Fact::new(b.dtype(sums), [n]));
    let chosen = b.mul(sums, choice)?;
    let total = b.sum_all(chosen)?;
    let wrt: Vec<_> = {
        let parameters = b.graph().parameters();
        parameters.filter(|(_, p)| roles.is_in(selection, &p.name)).map(|(v, _)| v).collect()
    };
    let (graph, cotangents) = transform::grad(b.graph(), total, &wrt)?;
    let mut b = Builder::new(graph);
    let mut parts = Vec::new();
    for gradient in cotangents.into_iter().flatten() {
        let len = b.fact(gradient).len();
        let flat = b.reshape(gradient, &[len])?;
        parts.push(b.cast(flat, DType::F32)?);
    }
    if parts.is_empty() {
        return Err(Error::Score(format!(
            "{selection} have no gradient: does the output depend on any of them?"
        )));
    }
    let rows = b.concat(&parts, 0)?;
    let output = Output { name: "rows".into(), value: rows };
    Ok(b.finish().with_outputs(vec![output]))
}

/// The graph for as many choices at once as memory allows, up to [`LANES`].
fn with_lanes(
    one: &Graph,
    n: usize,
    width: usize,
    memory: Memory,
    engine: &dyn Engine,
) -> Result<(Graph, usize, Compiled)> {
    let choice = one.input(CHOICE);
    let batched: Vec<_> = choice.into_iter().collect();
    // All rows, and some columns of them in float64 to be multiplied.
    let stored = n * width * DType::F32.size() + n * width.min(COLUMNS) * DType::F64.size();
    let mut lanes = LANES.min(n);
    loop {
        let graph = transform::vmap(one, lanes, &batched)?;
        let compiled = engine.compile(&graph)?;
        let need = Need::of(&compiled, 1);
        // The rows of a run are copied out of the engine.
        let copied = lanes * width * DType::F32.size();
        let need = Need { more: (stored + copied) as u64, ..need };
        match memory.check(need, "the gradients of all samples") {
            Ok(()) => return Ok((graph, lanes, compiled)),
            Err(error) if lanes == 1 => return Err(error),
            Err(_) => lanes = lanes.div_ceil(2),
        }
    }
}

/// Rows of the unit matrix; those beyond the range are zero.
fn choice(rows: std::ops::Range<usize>, lanes: usize, n: usize) -> Result<Tensor> {
    let mut values = vec![0.0; lanes * n];
    for (lane, row) in rows.enumerate() {
        values[lane * n + row] = 1.0;
    }
    Tensor::f32(&[lanes, n], values)
}

/// Inner products of the rows, in float64.
fn gram(rows: &ArrayView2<f32>) -> Array2<f64> {
    let mut total = Array2::zeros((rows.nrows(), rows.nrows()));
    for columns in rows.axis_chunks_iter(ndarray::Axis(1), COLUMNS) {
        let columns = columns.mapv(f64::from);
        total += &columns.dot(&columns.t());
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineChoice, EngineOptions, all_for_tests, open};
    use crate::graph::eval;
    use crate::ops::{BatchNorm, BatchNormMode};

    const SAMPLES: usize = 11;

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 + seed) % 101) as f32 / 50.0 - 1.0;
        Tensor::f32(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
    }

    /// A linear layer, batch normalisation with a trained scale, a ReLU and another layer.
    fn model() -> Graph {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 4]));
        let w = b.parameter("w", values(&[4, 5], 3));
        let v = b.parameter("v", values(&[5, 2], 11));
        let scale = b.parameter("scale", values(&[5], 71));
        let zeros = b.constant(Tensor::full(DType::F32, &[5], 0.0));
        let ones = b.constant(Tensor::full(DType::F32, &[5], 1.0));
        let y = b.matmul(x, w).unwrap();
        let norm = BatchNorm { epsilon: 1e-5.into(), mode: BatchNormMode::Running };
        let y = b.push(norm, &[y, scale, zeros, zeros, ones]).unwrap();
        let y = b.relu(y).unwrap();
        let y = b.matmul(y, v).unwrap();
        b.output("logits", y);
        b.finish()
    }

    fn batch() -> Batch {
        Batch {
            inputs: vec![values(&[SAMPLES, 4], 29)],
            targets: Tensor::index(vec![0; SAMPLES]),
            classes: vec![0; SAMPLES],
        }
    }

    /// The derivative of each sample's outputs along each parameter by central differences of the
    /// whole batch.
    fn differences(model: &Graph, selected: &[&str]) -> Array2<f64> {
        let step = 1e-3;
        let sums = |parameter: &str, index: usize, by: f64| -> Vec<f64> {
            let mut moved = model.clone();
            for node in &mut moved.nodes {
                if let crate::ops::Op::Parameter(p) = &mut node.op
                    && *p.name == *parameter
                {
                    let mut values = p.tensor.to_f64();
                    values.as_slice_mut().unwrap()[index] += by;
                    p.tensor = Tensor::from_f64(values, DType::F32);
                }
            }
            let inputs = moved.inputs().to_vec();
            let batched = transform::vmap(&moved, SAMPLES, &inputs).unwrap();
            let x = batch().inputs[0].reshape(&[SAMPLES, 1, 4]).unwrap();
            let y = eval(&batched, &[x]).unwrap()[0].to_f64();
            y.outer_iter().map(|row| row.sum()).collect()
        };
        let mut columns = Vec::new();
        for (_, parameter) in model.parameters() {
            if !selected.contains(&&*parameter.name) {
                continue;
            }
            for i in 0..parameter.tensor.len() {
                let (up, down) = (sums(&parameter.name, i, step), sums(&parameter.name, i, -step));
                columns.extend(up.iter().zip(&down).map(|(u, d)| (u - d) / (2.0 * step)));
            }
        }
        let width = columns.len() / SAMPLES;
        Array2::from_shape_vec((width, SAMPLES), columns).unwrap().reversed_axes()
    }

    #[test]
    fn it_is_the_gram_matrix_of_the_coupled_gradients() {
        let model = model();
        let (decided, _) = transform::batch_norm(&model, BatchNormMode::Batch).unwrap();
        let roles = Roles::of(&model);
        for (selection, names) in [
            (Selection::Weights, &["w", "v"][..]),
            (Selection::WeightsAndScales, &["w", "v", "scale"]),
        ] {
            let rows = differences(&decided, names);
            let expected = rows.dot(&rows.t());
            let scale = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
            for engine in all_for_tests() {
                let kernel = tangent_kernel(
                    &decided,
                    &roles,
                    selection,
                    &batch(),
                    Memory::default(),
                    &*engine,
                )
                .unwrap();
                for (value, expected) in kernel.iter().zip(&expected) {
                    assert!((value - expected).abs() < 2e-3 * scale, "{value} {expected}");
                }
            }
        }
    }

    #[test]
    fn little_memory_takes_fewer_lanes_and_then_is_refused() {
        let model = model();
        let (decided, _) = transform::batch_norm(&model, BatchNormMode::Batch).unwrap();
        let one = jacobian(&decided, &Roles::of(&model), Selection::Weights, SAMPLES).unwrap();
        let engine = open(EngineChoice::Tract, &EngineOptions::default()).unwrap();
        let ample = with_lanes(&one, SAMPLES, 30, Memory::up_to(64 << 30), &*engine).unwrap();
        assert_eq!(ample.1, LANES);
        assert!(matches!(
            with_lanes(&one, SAMPLES, 30, Memory::up_to(1), &*engine),
            Err(Error::Memory(_))
        ));
    }
}
