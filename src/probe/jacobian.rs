//! Gradients of samples that depend on each other, as under batch statistics: rows of the Jacobian of
//! the whole batch.

use super::combine::{Results, Run, Watched};
use super::gradients::{Gradient, PairGradients, SampleGradients, Schedule};
use super::gram::ClassPositions;
use super::memory::Need;
use super::sample_runs::{Look, Samples, is_finite};
use super::size::parameters;
use crate::engine::{Compiled, Engine};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Output, Value};
use crate::tensor::Tensor;
use crate::transform::{self, Objective};

/// The input that chooses samples: lane `l` differentiates `Σᵢ e_li · oᵢ` for the objectives `oᵢ` of
/// the samples.
const CHOICE: &str = "gradalign.choice";

/// The most rows of the Jacobian in a run, which share one forward pass. More hardly gain anything.
const LANES: usize = 8;

/// The gradients of each sample's objective with respect to the parameters, where all samples go
/// through the model together. A row takes a backward pass over the whole batch.
pub(super) struct Jacobian {
    /// Inputs: those of the model `[n, 1, …]`, the targets of a loss `[n, …]`, and last [`CHOICE`]
    /// `[n]`. Outputs: the gradient of the chosen objective for each parameter that has one.
    graph: Graph,
    /// Each parameter's name and number of elements.
    parameters: Vec<(String, usize)>,
}

/// The graph for some rows at once.
struct Rows {
    lanes: usize,
    graph: Graph,
    compiled: Compiled,
    watched: Watched,
    counted: bool,
}

impl Samples<'_> {
    /// Runs the values that `look` watches, for the gradients of all samples under the statistics of
    /// the batch.
    ///
    /// # Errors
    /// When the model cannot be differentiated, the engine fails, a gradient is not finite, or the
    /// whole batch does not fit into memory at once.
    pub fn run_coupled(&self, look: Look, engine: &dyn Engine) -> Result<Results> {
        let n = self.batch.len();
        let jacobian = self.jacobian()?;
        let Rows { lanes, graph, compiled, mut watched, counted } =
            self.rows(&jacobian, look, engine)?;
        if watched.values().is_empty() {
            return watched.finish();
        }
        let all: Vec<usize> = (0..n).collect();
        let inputs = match self.objective {
            Objective::Loss(_) => self.batch.rows(&all)?,
            Objective::OutputSum => self.batch.input_rows(&all)?,
        };
        let mut tensors = Vec::new();
        for (&input, tensor) in graph.inputs().iter().zip(&inputs) {
            tensors.push(tensor.reshape(graph.shape(input))?);
        }
        let mut session = engine.load(&compiled)?;
        drop(compiled);
        let given = tensors.len();
        let positions = ClassPositions::of(&self.batch.classes);
        for start in (0..n).step_by(lanes) {
            let end = n.min(start + lanes);
            let first: Vec<bool> = (0..lanes).map(|lane| start + lane < end).collect();
            tensors.push(choice(start..end, lanes, n)?);
            if counted {
                let weights = first.iter().map(|&first| f32::from(u8::from(first)));
                tensors.push(Tensor::f32(&[lanes], weights.collect())?);
            }
            let outputs = session.run(&tensors)?;
            tensors.truncate(given);
            if !outputs.iter().all(is_finite) {
                return Err(Error::Score(
                    "the gradient of a sample's outputs is not finite: check the model's weights \
                     and the data's scale"
                        .into(),
                ));
            }
            let groups = [(start..end).collect::<Vec<_>>()];
            let run = Run { size: lanes, groups: &groups, first: &first, positions: &positions };
            watched.add(&run, &outputs)?;
        }
        watched.finish()
    }

    fn jacobian(&self) -> Result<Jacobian> {
        let n = self.batch.len();
        let (model, objective) = self.objective.append(self.model)?;
        let output = Output { name: "objective".into(), value: objective };
        let model = model.with_outputs(vec![output]);
        let inputs = model.inputs().to_vec();
        let batch = transform::vmap(&model, n, &inputs)?.graph;
        let objectives = batch.output("objective")?;
        let mut b = Builder::new(batch);
        let choice = b.input(CHOICE, Fact::new(b.dtype(objectives), [n]));
        let chosen = b.mul(objectives, choice)?;
        let total = b.sum_all(chosen)?;
        let wrt: Vec<(Value, String, usize)> = {
            let parameters = b.graph().parameters();
            parameters.map(|(v, p)| (v, p.name.to_string(), p.tensor.len())).collect()
        };
        let values: Vec<Value> = wrt.iter().map(|(value, ..)| *value).collect();
        let (graph, cotangents) = transform::grad(b.graph(), total, &values)?;
        let (mut outputs, mut parameters) = (Vec::new(), Vec::new());
        for ((_, name, size), gradient) in wrt.into_iter().zip(cotangents) {
            let Some(value) = gradient else { continue };
            outputs.push(Output { name: format!("grad.{name}"), value });
            parameters.push((name, size));
        }
        Ok(Jacobian { graph: graph.with_outputs(outputs), parameters })
    }

    /// The graph for as many rows at once as memory allows, up to [`LANES`].
    fn rows(&self, jacobian: &Jacobian, look: Look, engine: &dyn Engine) -> Result<Rows> {
        let samples = self.batch.len();
        let mut lanes = LANES.min(samples);
        loop {
            let rows = self.rows_of(jacobian, lanes, look, engine)?;
            let need = Need { more: rows.watched.bytes(), ..Need::of(&rows.compiled, 1) };
            match self.memory.check(need, "the gradients of all samples") {
                Ok(()) => return Ok(rows),
                Err(error) if lanes == 1 => return Err(error),
                Err(_) => lanes = lanes.div_ceil(2),
            }
        }
    }

    fn rows_of(
        &self,
        jacobian: &Jacobian,
        lanes: usize,
        look: Look,
        engine: &dyn Engine,
    ) -> Result<Rows> {
        let choice: Vec<Value> = jacobian.graph.input(CHOICE).into_iter().collect();
        let graph = transform::vmap(&jacobian.graph, lanes, &choice)?.graph;
        let outputs: Vec<Value> = graph.outputs().iter().map(|output| output.value).collect();
        let mut b = Builder::new(graph);
        let mut gradients = Vec::new();
        for ((name, size), value) in jacobian.parameters.iter().zip(outputs) {
            if *size > 0 {
                gradients.push(Gradient::new(&mut b, name, value, *size)?);
            }
        }
        let schedule = Schedule::Rows { samples: self.batch.len(), lanes };
        let scene =
            SampleGradients::new(b, schedule, self.roles, gradients, parameters(self.model));
        let mut scene = PairGradients(scene);
        look(&mut scene);
        let (graph, watched, counted) = scene.0.finish();
        let values = watched.values().iter().enumerate();
        let outputs = values.map(|(i, &value)| Output { name: format!("gradalign.{i}"), value });
        let graph = graph.with_outputs(outputs.collect());
        let compiled = engine.compile(&graph)?;
        Ok(Rows { lanes, graph, compiled, watched, counted })
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

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::engine::{EngineChoice, EngineOptions, all_for_tests, open};
    use crate::graph::eval;
    use crate::ops::{BatchNorm, BatchNormMode};
    use crate::probe::{Batch, GramKind, Memory, Pairs, Roles, Selection};
    use crate::tensor::DType;

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
            let batched = transform::vmap(&moved, SAMPLES, &inputs).unwrap().graph;
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
        let decided = transform::batch_norm(&model, BatchNormMode::Batch).unwrap().0.graph;
        let roles = Roles::of(&model);
        for (selection, names) in [
            (Selection::Weights, &["w", "v"][..]),
            (Selection::WeightsAndScales, &["w", "v", "scale"]),
        ] {
            let rows = differences(&decided, names);
            let expected = rows.dot(&rows.t());
            let scale = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
            let batch = batch();
            let samples = samples(&decided, &roles, &batch, Memory::default());
            for engine in all_for_tests() {
                let mut asked = None;
                let mut look =
                    |g: &mut PairGradients| asked = g.grams(GramKind::Raw, selection).ok();
                let results = samples.run_coupled(&mut look, &*engine).unwrap();
                let kernel = &results.get(asked.unwrap()).unwrap()[0].gram;
                for (value, expected) in kernel.iter().zip(&expected) {
                    assert!((value - expected).abs() < 2e-3 * scale, "{value} {expected}");
                }
            }
        }
    }

    fn samples<'a>(
        model: &'a Graph,
        roles: &'a Roles,
        batch: &'a Batch,
        memory: Memory,
    ) -> Samples<'a> {
        Samples { model, roles, batch, objective: Objective::OutputSum, pairs: Pairs::All, memory }
    }

    /// The moments of the rows of the Jacobian, merged over runs, and its sums of signs.
    #[test]
    fn each_row_counts_once() {
        let model = model();
        let decided = transform::batch_norm(&model, BatchNormMode::Batch).unwrap().0.graph;
        let (roles, batch) = (Roles::of(&model), batch());
        let rows = differences(&decided, &["w"]);
        let samples = samples(&decided, &roles, &batch, Memory::default());
        for engine in all_for_tests() {
            let mut asked = None;
            let mut look = |g: &mut PairGradients| {
                let gradients = g.gradients(Selection::Weights).unwrap();
                let w = gradients.iter().find(|gradient| gradient.name == "w").unwrap();
                asked = Some((g.moments(w).unwrap(), g.sign_sums(Selection::Weights).unwrap()));
            };
            let results = samples.run_coupled(&mut look, &*engine).unwrap();
            let (moments, signs) = asked.unwrap();
            let moments = results.get(moments).unwrap();
            assert_eq!(moments.count, SAMPLES);
            let deviation = moments.deviation();
            for (p, column) in rows.columns().into_iter().enumerate() {
                let mean = column.sum() / SAMPLES as f64;
                let spread = column.mapv(|v| (v - mean).powi(2)).sum() / SAMPLES as f64;
                assert!((moments.mean[p] - mean).abs() < 1e-3, "{} {mean}", moments.mean[p]);
                assert!((deviation[p] - spread.sqrt()).abs() < 1e-3, "{} {spread}", deviation[p]);
            }
            let signs = *results.get(signs).unwrap();
            assert!(signs > 0.0 && signs <= (SAMPLES * 30) as f64 && signs.fract() == 0.0);
        }
    }

    #[test]
    fn little_memory_takes_fewer_lanes_and_then_is_refused() {
        let model = model();
        let decided = transform::batch_norm(&model, BatchNormMode::Batch).unwrap().0.graph;
        let (roles, batch) = (Roles::of(&model), batch());
        let lanes = |memory| {
            let samples = samples(&decided, &roles, &batch, memory);
            let jacobian = samples.jacobian().unwrap();
            let mut look = |gradients: &mut PairGradients| {
                gradients.grams(GramKind::Raw, Selection::Weights).unwrap();
            };
            let engine = open(EngineChoice::Tract, &EngineOptions::default()).unwrap();
            samples.rows(&jacobian, &mut look, &*engine).map(|rows| rows.lanes)
        };
        assert_eq!(lanes(Memory::up_to(64 << 30)).unwrap(), LANES);
        assert!(matches!(lanes(Memory::up_to(1)), Err(Error::Memory(_))));
    }
}
