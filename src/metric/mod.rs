//! Scores: one file each, declaring what it needs, how its value comes from that, and which way is
//! better.
//!
//! A metric knows neither engines nor files. It names the [pass](crate::pass) it reads, builds on
//! it where that is a whole batch, and turns the result into a number. Metrics that name the same
//! pass share it; those that build on the same [`Setting`] share its graph and its run.

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

use std::fmt;

use ndarray::Array2;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::graph;
use crate::ops::BatchNormMode;
use crate::pass::{ClassGram, GramKind, Network, Product, Reduced, Setting};
use crate::tensor::Tensor;

pub use te_nas::RegionInputs;
pub use zen::ZenForm;

/// What a metric reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Nothing but the model's shapes.
    Static,
    /// The per-sample gradients of the loss, reduced.
    PerSample {
        /// The statistics that batch normalisation uses.
        batch_norm: BatchNormMode,
        /// The reduction.
        product: Product,
    },
    /// Values that [`Metric::outputs`] adds to a network on a whole batch.
    Batch(Setting),
    /// The neural tangent kernel of the weights and the scales of normalisations.
    TangentKernel {
        /// The statistics that batch normalisation uses.
        batch_norm: BatchNormMode,
        /// How many samples it is over, at most.
        samples: usize,
    },
}

impl Pass {
    /// What becomes of batch normalisation; `None` where that does not matter.
    pub fn treatment(self) -> Option<Treatment> {
        match self {
            Pass::Static => None,
            Pass::Batch(setting) => {
                Some(setting.batch_norm().map_or(Treatment::Removed, Treatment::Statistics))
            }
            Pass::PerSample { batch_norm, .. } | Pass::TangentKernel { batch_norm, .. } => {
                Some(Treatment::Statistics(batch_norm))
            }
        }
    }

    /// The same for a model without batch normalisation, where the statistics do not matter.
    #[must_use]
    pub fn without_batch_norm(self) -> Self {
        let batch_norm = BatchNormMode::Running;
        match self {
            Pass::Static => Pass::Static,
            Pass::PerSample { product, .. } => Pass::PerSample { batch_norm, product },
            Pass::Batch(setting) => Pass::Batch(match setting {
                Setting::Samples { .. } => Setting::Samples { batch_norm },
                Setting::Gaussian { .. } => Setting::Gaussian { batch_norm },
                other => other,
            }),
            Pass::TangentKernel { samples, .. } => Pass::TangentKernel { batch_norm, samples },
        }
    }

    /// Whether it draws parameters or inputs of its own, anew at each repeat.
    pub fn draws(self) -> bool {
        matches!(self, Pass::Batch(setting) if setting.draws())
    }
}

/// What a pass does with batch normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It normalises by these statistics.
    Statistics(BatchNormMode),
    /// It is the identity.
    Removed,
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Treatment::Statistics(mode) => mode.fmt(f),
            Treatment::Removed => f.write_str("removed"),
        }
    }
}

impl Serialize for Treatment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a pass yields.
#[derive(Clone, Copy, Debug)]
pub enum Evidence<'a> {
    /// Of [`Pass::Static`].
    Static(Size),
    /// Of [`Pass::PerSample`] with a Gram matrix: that of each class.
    ClassGrams(&'a [ClassGram]),
    /// Of [`Pass::PerSample`] with an alignment.
    Alignment(f64),
    /// Of [`Pass::Batch`]: the values asked for.
    Outputs {
        /// In the order of [`Metric::outputs`].
        tensors: &'a [Tensor],
        /// The values stand for `2^exponent` times themselves as far as they are proportional to
        /// the model's output.
        exponent: i32,
    },
    /// Of [`Pass::TangentKernel`]: `[N, N]`.
    Kernel(&'a Array2<f64>),
}

impl<'a> From<&'a Reduced> for Evidence<'a> {
    fn from(reduced: &'a Reduced) -> Self {
        match reduced {
            Reduced::Grams(grams) => Evidence::ClassGrams(grams),
            Reduced::Alignment(value) => Evidence::Alignment(*value),
        }
    }
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// The number of trainable scalars.
    pub parameters: u64,
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
    /// What becomes of batch normalisation by default.
    pub batch_norm: Option<Treatment>,
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

    /// The pass that it reads; of a sum, that of the first part. Errs when an option does not
    /// apply to this score.
    fn pass(&self, options: &Options) -> Result<Pass>;

    /// For [`Pass::Batch`]: adds to `network` what the score is computed from, and returns it.
    ///
    /// Errs when the model has nothing that the score could be computed from, or cannot be
    /// differentiated.
    fn outputs(&self, _: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        Ok(Vec::new())
    }

    /// Its value. `parameters` is the number of trainable scalars of the model.
    fn value(&self, evidence: &Evidence, options: &Options, parameters: u64) -> Result<Value>;
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
        &grad_norm::GradNorm,
        &snip::Snip,
        &grasp::Grasp,
        &synflow::Synflow,
        &fisher::Fisher,
        &jacob_cov::JacobCov,
        &size::Size::Parameters,
        &size::Size::Flops,
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

/// An error for evidence of another pass than the one a metric named.
fn mismatched(metric: &dyn Metric) -> Error {
    Error::Score(format!("{} was given the results of another pass", metric.info().name))
}

/// The samples, under the statistics asked for; batch statistics by default.
fn samples(options: &Options) -> Pass {
    let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Batch);
    Pass::Batch(Setting::Samples { batch_norm })
}

/// The sum of the elements of the only output.
fn total(metric: &dyn Metric, evidence: &Evidence) -> Result<f64> {
    match evidence {
        Evidence::Outputs { tensors: [terms], .. } => Ok(terms.to_f64().sum()),
        _ => Err(mismatched(metric)),
    }
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
