//! What scores are computed from: a model turned into a training graph, run over the samples in
//! micro-batches, with the reduction inside the graph.
//!
//! A pass knows graphs, engines and samples. It knows nothing of the scores made of its results.

mod gram;
mod memory;
mod plan;
mod size;
mod training;

pub use gram::{ClassGram, GramKind, GramRequest, class_grams};
pub use memory::{peak_bytes, peak_resident};
pub use size::{flops, has_batch_norm, parameters};
pub use training::{Reduction, TrainingGraph, training_graph};

use crate::error::{Error, Result};
use crate::tensor::{Tensor, map_same};

/// The samples that a model is scored on, fitted to its inputs.
#[derive(Clone, Debug)]
pub struct Batch {
    /// One tensor per model input, `[N, …]`: the leading axis takes the place of the batch axis.
    pub inputs: Vec<Tensor>,
    /// The targets of the loss, `[N, …]`.
    pub targets: Tensor,
    /// For each sample the class it belongs to; samples of one class are compared.
    pub classes: Vec<i64>,
}

impl Batch {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The rows `indices` of all inputs and of the targets, as a training graph takes them.
    pub(crate) fn rows(&self, indices: &[usize]) -> Result<Vec<Tensor>> {
        self.inputs.iter().chain([&self.targets]).map(|t| rows(t, indices)).collect()
    }
}

fn rows(tensor: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let n = tensor.shape().first().copied().unwrap_or(0);
    if indices.iter().any(|&i| i >= n) {
        return Err(Error::Data(format!("a sample beyond the {n} given was asked for")));
    }
    Ok(map_same!(tensor, a => a.select(ndarray::Axis(0), indices)))
}
