//! Training graphs: forward, loss and backward in one.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Output, Value};
use crate::ops::Op;
use crate::transform::{self, Loss};

/// How the samples of a batch are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Each sample has its own loss and gradient: `vmap(grad(loss ∘ model))`.
    PerSample,
    /// The gradient of the mean loss: `grad(mean ∘ vmap(loss ∘ model))`.
    Mean,
}

/// The scalar that is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// The loss of a sample.
    Loss(Loss),
    /// The sum of the model's outputs for a sample; no labels are read.
    OutputSum,
}

impl From<Loss> for Objective {
    fn from(loss: Loss) -> Self {
        Objective::Loss(loss)
    }
}

impl Objective {
    /// Extends a model graph by the objective, as [`transform::loss`] does.
    fn append(self, model: &Graph) -> Result<(Graph, Value)> {
        match self {
            Objective::Loss(loss) => transform::loss(model, loss),
            Objective::OutputSum => {
                let output = first_output(model)?;
                let mut b = Builder::new(model.clone());
                let sum = b.sum_all(output)?;
                Ok((b.finish(), sum))
            }
        }
    }
}

/// A model's prediction.
pub(super) fn first_output(model: &Graph) -> Result<Value> {
    let output = model.outputs().first();
    Ok(output.ok_or_else(|| Error::InvalidModel("the model has no output".into()))?.value)
}

/// A model with its loss and gradients.
pub struct TrainingGraph {
    /// Inputs: those of the model with their batch axis of length `n`, then `labels`. Outputs:
    /// `loss` and one `grad.<parameter>` for each parameter.
    pub graph: Graph,
    /// The parameters in order, as `(name, number of elements)`.
    pub parameters: Vec<(String, usize)>,
}

/// The training graph of `model` for `n` samples. `loss` is `[n]` and `grad.<parameter>` is
/// `[n, shape…]` per sample; for the mean they are a scalar and `[shape…]`. A parameter that the
/// loss does not depend on has a gradient of zeros.
///
/// # Errors
/// When the model cannot be differentiated or its output does not suit the loss.
pub fn training_graph(
    model: &Graph,
    objective: impl Into<Objective>,
    n: usize,
    reduction: Reduction,
) -> Result<TrainingGraph> {
    let (graph, value) = objective.into().append(model)?;
    let parameters: Vec<(Value, String, Fact)> =
        graph.parameters().map(|(v, p)| (v, p.name.to_string(), graph.fact(v).clone())).collect();
    let sizes = parameters.iter().map(|(_, name, fact)| (name.clone(), fact.len())).collect();
    let graph = match reduction {
        Reduction::PerSample => {
            let with_gradients = append_gradients(&graph, value, &parameters)?;
            let inputs = with_gradients.inputs().to_vec();
            transform::vmap(&with_gradients, n, &inputs)?
        }
        Reduction::Mean => {
            let output = Output { name: "loss".into(), value };
            // Parameters are found again by name: pruning renumbers values.
            let lone = graph.with_outputs(vec![output]);
            let inputs = lone.inputs().to_vec();
            let batch = transform::vmap(&lone, n, &inputs)?;
            let losses = batch.output("loss")?;
            let mut b = Builder::new(batch);
            let total = b.sum_all(losses)?;
            let mean = b.scale(total, 1.0 / n as f64)?;
            let batch = b.finish();
            let found: HashMap<&str, Value> =
                batch.parameters().map(|(v, p)| (&*p.name, v)).collect();
            let used: Vec<(Value, String, Fact)> = parameters
                .into_iter()
                .map(|(_, name, fact)| {
                    (found.get(name.as_str()).copied().unwrap_or(mean), name, fact)
                })
                .collect();
            append_gradients(&batch, mean, &used)?
        }
    };
    Ok(TrainingGraph { graph: with_flat_inputs(&graph, n)?, parameters: sizes })
}

/// `graph` with the outputs `loss` and `grad.<parameter>`. A value that stands for a parameter the
/// loss does not depend on (the loss itself) yields zeros.
fn append_gradients(
    graph: &Graph,
    loss: Value,
    parameters: &[(Value, String, Fact)],
) -> Result<Graph> {
    let wrt: Vec<Value> = parameters.iter().map(|p| p.0).collect();
    let (graph, cotangents) = transform::grad(graph, loss, &wrt)?;
    let mut b = Builder::new(graph);
    let mut outputs = vec![Output { name: "loss".into(), value: loss }];
    for ((value, name, fact), cotangent) in parameters.iter().zip(cotangents) {
        let value = match cotangent {
            Some(cotangent) if *value != loss => cotangent,
            _ => b.zeros(fact)?,
        };
        outputs.push(Output { name: format!("grad.{name}"), value });
    }
    Ok(b.finish().with_outputs(outputs))
}

/// A graph under `vmap` takes `[n, 1, …]`; this one takes `[n, …]`, as users hold batches.
fn with_flat_inputs(graph: &Graph, n: usize) -> Result<Graph> {
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, _| {
        let Op::Input(name) = &node.op else { return Ok(None) };
        match node.fact.shape.as_slice() {
            [lanes, 1, rest @ ..] if *lanes == n => {
                let shape = [&[n], rest].concat();
                let input = b.input(name.clone(), Fact::new(node.fact.dtype, shape));
                b.reshape(input, &node.fact.shape).map(Some)
            }
            _ => Ok(None),
        }
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(b.finish())
}
