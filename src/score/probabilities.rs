//! Whether a model's outputs turn out to be probabilities where the loss expects logits.

use ndarray::Axis;

use super::Settings;
use crate::engine::Engine;
use crate::error::Result;
use crate::graph::Graph;
use crate::import::{Imported, bounds};
use crate::ops::BatchNormMode;
use crate::pass::{Batch, Network, Roles, Setting};
use crate::transform::Loss;

/// How many samples are looked at.
const SAMPLES: usize = 16;

/// How far float32 may be off.
const TOLERANCE: f64 = 1e-4;

/// A warning where the outputs look like probabilities on real samples though no activation was
/// recognised at the end of the model. What ends in a linear layer, as nearly all models do, is
/// known not to be probabilities; only others are run, once, on a few samples.
pub(super) fn taken_for_logits(
    imported: &Imported,
    batch: &Batch,
    loss: Loss,
    settings: &Settings,
    engine: &dyn Engine,
) -> Option<String> {
    let graph = &imported.graph;
    let output = graph.outputs().first()?.value;
    let bounds = bounds(graph, output);
    let is_open = imported.final_activation.is_none() && !settings.import.keep_activation;
    // The import has warned of those that are probabilities whatever the samples.
    if !is_open || !loss.is_of_logits() || bounds.low.is_infinite() || bounds.is_probability() {
        return None;
    }
    match look_like_probabilities(graph, batch, loss, settings, engine) {
        Ok(Some(sign)) => Some(format!(
            "the outputs '{}' {sign} on all samples looked at: they seem to be probabilities, which \
             are taken for logits here since the activation that makes them is not recognised; take \
             what goes into it, by --output NAME",
            imported.output
        )),
        Ok(None) => None,
        Err(error) => {
            tracing::debug!("the outputs could not be looked at: {error}");
            None
        }
    }
}

/// What shows that the outputs are probabilities, in words.
fn look_like_probabilities(
    graph: &Graph,
    batch: &Batch,
    loss: Loss,
    settings: &Settings,
    engine: &dyn Engine,
) -> Result<Option<&'static str>> {
    let batch = batch.thinned(SAMPLES)?;
    let setting = Setting::Samples { batch_norm: BatchNormMode::Running };
    let network = Network::new(graph, &Roles::of(graph), setting, loss, batch.len(), None)?;
    let inputs = setting.inputs(graph, &batch, settings.seed)?;
    let wanted = network.outputs();
    let Some(outputs) = network.run(&[wanted], &inputs, settings.memory, engine)?.pop() else {
        return Ok(None);
    };
    let outputs = outputs.to_f64();
    let within = |&v: &f64| (-TOLERANCE..=1.0 + TOLERANCE).contains(&v);
    if outputs.is_empty() || !outputs.iter().all(within) {
        return Ok(None);
    }
    // Positions have their classes last; otherwise the first axis of several elements, after that
    // of the samples, holds the classes.
    let axis = match loss {
        Loss::BinaryCrossEntropy => return Ok(Some("lie between 0 and 1")),
        Loss::TokenCrossEntropy => outputs.ndim().checked_sub(1),
        _ => (1..outputs.ndim()).find(|&i| outputs.shape()[i] > 1),
    };
    let sums = axis.map(|axis| outputs.sum_axis(Axis(axis)));
    let sums_to_one = |sum: &f64| (sum - 1.0).abs() <= TOLERANCE;
    let sum_to_one = sums.is_some_and(|sums| sums.iter().all(sums_to_one));
    Ok(sum_to_one.then_some("are positive and sum to 1"))
}
