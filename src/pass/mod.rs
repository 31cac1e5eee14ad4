//! What scores are computed from: [`per_sample`] gradients, a [`Network`] on a whole batch, the
//! [`tangent_kernel`], or the shapes alone.
//!
//! A pass turns a model into a graph that an engine runs over the samples, with the reductions
//! inside the graph. It knows graphs, engines and samples, and nothing of the scores made of its
//! results.

#[cfg(test)]
mod growth;
mod memory;
mod network;
mod per_sample;
mod plan;
mod runs;
mod selection;
mod setting;
mod size;
mod tangent;
mod training;

pub use memory::{Memory, peak_resident};
pub use network::{LayerValues, Network};
pub use per_sample::{
    ClassGram, GramKind, Grouping, PerSampleRequest, Product, Reduced, per_sample,
};
pub(crate) use runs::STACK;
pub use selection::{Roles, Selection};
pub use setting::Setting;
pub use size::{flops, has_batch_norm, parameters};
pub use tangent::tangent_kernel;
pub use training::{Objective, Reduction, TrainingGraph, training_graph};

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

    /// At most `n` of the samples, evenly spaced.
    ///
    /// # Errors
    /// When inputs, targets and classes do not have the same number of rows.
    pub fn thinned(&self, n: usize) -> Result<Batch> {
        if n >= self.len() {
            return Ok(self.clone());
        }
        let indices: Vec<usize> = (0..n).map(|i| i * self.len() / n).collect();
        let classes = indices.iter().map(|&i| self.classes[i]).collect();
        let targets = rows(&self.targets, &indices)?;
        Ok(Batch { inputs: self.input_rows(&indices)?, targets, classes })
    }

    /// The rows `indices` of all inputs.
    pub(crate) fn input_rows(&self, indices: &[usize]) -> Result<Vec<Tensor>> {
        self.inputs.iter().map(|t| rows(t, indices)).collect()
    }
}

fn rows(tensor: &Tensor, indices: &[usize]) -> Result<Tensor> {
    let n = tensor.shape().first().copied().unwrap_or(0);
    if indices.iter().any(|&i| i >= n) {
        return Err(Error::Data(format!("a sample beyond the {n} given was asked for")));
    }
    Ok(map_same!(tensor, a => a.select(ndarray::Axis(0), indices)))
}
