//! Scores, one file each: a [probe](crate::probe) of the network, the number that is read off its
//! results, and which way is better.
//!
//! A metric knows neither engines nor files. Metrics whose probes are shown the same share its graph
//! and its runs.

mod fisher;
mod grad_norm;
mod gradalign;
mod gradsign;
mod grasp;
mod jacob_cov;
mod naswot;
mod patterns;
mod size;
mod snip;
mod synflow;
mod te_nas;
#[cfg(test)]
mod tests;
mod zen;
mod zico;

use std::fmt;

use ndarray::Array2;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph;
use crate::ops::BatchNormMode;
use crate::probe::{BatchView, GramKind, Handle, Network, Probe, Results};
use crate::tensor::Tensor;

pub use te_nas::RegionInputs;
pub use zen::ZenForm;

/// Sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The number of trainable scalars.
    pub parameters: u64,
    /// The number of those that are live: see [`live`](crate::transform::live).
    pub live_parameters: u64,
    /// Multiply-adds of the forward pass of one sample.
    pub flops: u64,
}

/// Choices that change what the scores mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The statistics batch normalisation uses; `None` for each score's own default.
    pub batch_norm: Option<BatchNormMode>,
    /// What GradAlign's Gram matrices are made of.
    pub gram: GramKind,
    /// Divide GradAlign-I by the number of parameters.
    pub normalize: bool,
    /// Leave the pairs of a sample with itself out of GradAlign-I.
    pub off_diagonal: bool,
    /// Added to the diagonal of GradAlign-II's Gram matrices.
    pub ridge: f64,
    /// The variances that Zen-NAS multiplies with.
    pub zen: ZenForm,
    /// The node whose result Zen-NAS takes for the features; `None` to find them.
    pub features: Option<String>,
    /// What TE-NAS counts linear regions on.
    pub regions: RegionInputs,
    /// How many samples TE-NAS's kernel is over, at most.
    pub ntk_samples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            batch_norm: None,
            gram: GramKind::default(),
            normalize: false,
            off_diagonal: false,
            ridge: 0.0,
            zen: ZenForm::default(),
            features: None,
            regions: RegionInputs::default(),
            ntk_samples: te_nas::SAMPLES,
        }
    }
}

/// How a score describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Info {
    /// The name used in options and reports.
    pub name: &'static str,
    /// Its formula in a line.
    pub formula: &'static str,
    /// What it is computed from.
    pub needs: &'static str,
    /// Which way its publication has it, where the reported sign is turned.
    pub direction: &'static str,
    /// The publication.
    pub source: &'static str,
}

/// The value of a score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Value {
    /// Higher is better. Not finite where the score is not defined, with a warning that says why.
    pub value: f64,
    /// What the user should know about it.
    pub warnings: Vec<String>,
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value { value, warnings: Vec::new() }
    }
}

/// A score.
pub trait Metric: fmt::Debug + Sync {
    /// Name, formula, direction, source.
    fn info(&self) -> Info;

    /// The scores that this one is the sum of; none for a score of its own. In a ranked set, the
    /// sum is that of their ranks.
    fn parts(&self) -> &'static [&'static dyn Metric] {
        &[]
    }

    /// What it looks at, and how its value is read off that; of a sum, that of the first part.
    ///
    /// # Errors
    /// When an option does not apply to this score.
    fn probe(&self, options: &Options) -> Result<Probe<Value>>;
}

/// All scores, in the order of the documentation.
pub fn all() -> &'static [&'static dyn Metric] {
    &[
        &gradalign::GradAlign1,
        &gradalign::GradAlign2,
        &gradsign::GradSign,
        &naswot::Naswot,
        &te_nas::TeNas,
        &te_nas::Conditioning,
        &te_nas::Regions,
        &zen::Zen,
        &zico::ZicoSamples,
        &grad_norm::GradNorm,
        &snip::Snip,
        &grasp::Grasp,
        &synflow::Synflow,
        &fisher::Fisher,
        &jacob_cov::JacobCov,
        &size::Count::Parameters,
        &size::Count::Flops,
        &size::Count::LiveParameters,
        &size::Count::LiveFlops,
    ]
}

/// The scores that the GradAlign paper compares.
const PAPER: [&str; 12] = [
    "gradalign-1",
    "gradalign-2",
    "gradsign",
    "naswot",
    "te-nas",
    "zen",
    "grad-norm",
    "snip",
    "grasp",
    "synflow",
    "fisher",
    "jacob-cov",
];

/// The scores called `names`, each once, in the order given. Publications write some with
/// underscores, which is as good as hyphens. `all` stands for every score, and
/// `paper` for the two of the GradAlign paper and the ten that it compares them with.
///
/// # Errors
/// When there is no such score, or no name at all.
pub fn select(names: &[&str]) -> Result<Vec<&'static dyn Metric>> {
    let mut chosen: Vec<&'static dyn Metric> = Vec::new();
    for name in names {
        let hyphened = name.replace('_', "-");
        let matches = |metric: &&dyn Metric| match hyphened.as_str() {
            "all" => true,
            "paper" => PAPER.contains(&metric.info().name),
            name => metric.info().name == name,
        };
        let found: Vec<&'static dyn Metric> = all().iter().copied().filter(matches).collect();
        if found.is_empty() {
            let known: Vec<_> = all().iter().map(|m| m.info().name).collect();
            let known = known.join(", ");
            return Err(Error::Usage(format!(
                "unknown score '{name}': choose from {known}, paper, all"
            )));
        }
        for metric in found {
            if chosen.iter().all(|c| c.info().name != metric.info().name) {
                chosen.push(metric);
            }
        }
    }
    if chosen.is_empty() {
        return Err(Error::Usage("no score was asked for".into()));
    }
    Ok(chosen)
}

/// The samples, under the statistics asked for; batch statistics by default.
fn samples(options: &Options) -> BatchView {
    BatchView::samples(options.batch_norm.unwrap_or(BatchNormMode::Batch))
}

/// The sum of the elements of a result.
fn total(results: &Results, terms: Handle<Tensor>) -> Result<f64> {
    Ok(results.get(terms)?.to_f64().sum())
}

/// A result as a matrix.
fn matrix(results: &Results, matrix: Handle<Tensor>) -> Result<Array2<f64>> {
    let matrix = results.get(matrix)?.to_f64().into_dimensionality();
    matrix.map_err(|error| Error::Shape(error.to_string()))
}

/// The weights with the gradients of the mean loss; a warning where there are none.
fn loss_gradients(network: &mut Network) -> Result<Vec<(graph::Value, graph::Value)>> {
    let loss = network.mean_loss()?;
    let gradients = network.weight_gradients(loss)?;
    if gradients.is_empty() {
        network.warn(
            "the loss depends on no weight of a convolution or linear layer: scores made of \
             their gradients are 0"
                .into(),
        );
    }
    Ok(gradients)
}
