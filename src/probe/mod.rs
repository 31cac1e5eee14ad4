//! What scores look at, as [`Probe`]s: a model's graph, a [`Network`] on a whole batch, or the gradients
//! of samples ([`SampleGradients`], [`PairGradients`]).
//!
//! A probe is shown a graph, adds values to it, and says how their tensors combine over several runs
//! ([`Combine`]). [`evaluate`] runs the graph on an engine, in runs as large as memory allows, and
//! gives the results to the probe's [`Reading`]. Probes that are shown the same share its graph.
//!
//! This room knows graphs, engines and samples, and no score.

mod combine;
mod evaluate;
mod gradients;
mod gram;
#[cfg(test)]
mod growth;
mod jacobian;
mod memory;
mod moments;
mod network;
mod plan;
mod runs;
mod sample_runs;
mod selection;
mod signs;
mod size;
#[cfg(test)]
mod tests;
mod view;

pub use combine::{Combine, Handle, Only, PerSample, Results, Run, Sum};
pub(crate) use evaluate::not_finite;
pub use evaluate::{Probe, Reading, Subject, evaluate};
pub use gradients::{Gradient, GradientForm, PairGradients, SampleGradients};
pub use gram::{ClassGram, GramKind, Grams};
#[cfg(feature = "workers")]
pub(crate) use memory::resident_of;
pub use memory::{Memory, peak_resident};
pub use moments::Moments;
pub use network::{LayerValues, Network};
pub(crate) use runs::STACK;
pub use sample_runs::Pairs;
pub use selection::{Roles, Selection};
pub use size::{flops, has_batch_norm, live_flops, live_parameters, parameters};
pub use view::{BatchView, Differentiated, Features, Inputs, Parameters, SampleView, Treatment};

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
