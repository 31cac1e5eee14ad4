//! Scores: one file each, declaring what it needs, how its value comes from that, and which way is
//! better.
//!
//! A metric knows neither engines nor files. It names the [pass](crate::pass) it reads, and turns
//! that pass's result into a number; metrics that name the same pass share it.

mod gradalign;
mod size;

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::ops::BatchNormMode;
use crate::pass::{ClassGram, GramKind};

/// What a metric reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The class-wise Gram matrices of per-sample gradients.
    ClassGram {
        /// The statistics that batch normalisation uses.
        batch_norm: BatchNormMode,
        /// Signs or gradients.
        kind: GramKind,
    },
    /// Nothing but the model's shapes.
    Static,
}

/// What a pass yields.
pub enum Evidence<'a> {
    /// Of [`Pass::ClassGram`]: the Gram matrix of each class.
    ClassGram(&'a [ClassGram]),
    /// Of [`Pass::Static`].
    Static(Size),
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// The statistics batch normalisation uses by default.
    pub batch_norm: Option<BatchNormMode>,
    /// The publication.
    pub source: &'static str,
}

/// The value of a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Higher is better. Not finite where the score is not defined, with a warning that says why.
    pub value: f64,
    /// What the user should know about it.
    pub warnings: Vec<String>,
}

/// A score.
pub trait Metric: fmt::Debug + Sync {
    /// Name, formula, direction, source.
    fn info(&self) -> Info;

    /// The pass that it reads. Errs when an option does not apply to this score.
    fn pass(&self, options: &Options) -> Result<Pass>;

    /// Its value. `parameters` is the number of trainable scalars of the model.
    fn value(&self, evidence: &Evidence, options: &Options, parameters: u64) -> Result<Value>;
}

/// All scores, in the order of the documentation.
pub fn all() -> &'static [&'static dyn Metric] {
    &[&gradalign::GradAlign1, &gradalign::GradAlign2, &size::Size::Parameters, &size::Size::Flops]
}

/// The scores called `names`, each once, in the order given; `all` stands for every score.
///
/// # Errors
/// When there is no such score, or no name at all.
pub fn select(names: &[&str]) -> Result<Vec<&'static dyn Metric>> {
    let mut chosen: Vec<&'static dyn Metric> = Vec::new();
    for name in names {
        let found: Vec<&'static dyn Metric> = match *name {
            "all" => all().to_vec(),
            name => all().iter().copied().filter(|m| m.info().name == name).collect(),
        };
        if found.is_empty() {
            let known: Vec<_> = all().iter().map(|m| m.info().name).collect();
            let known = known.join(", ");
            return Err(Error::Usage(format!("unknown score '{name}': choose from {known}, all")));
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
