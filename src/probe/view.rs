//! What a probe is shown: with which parameters, on which inputs, and with which statistics of batch
//! normalisation a network is run.

use std::fmt;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use super::Batch;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::{BatchNormMode, Float};
use crate::tensor::Tensor;
use crate::transform::{self, Init, Loss};

/// Keeps the draws of inputs apart from those of parameters, which have the same seed.
const INPUT_STREAMS: u64 = 1 << 32;

/// How a network normalises batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// By these statistics.
    Statistics(BatchNormMode),
    /// Not at all: batch normalisation is the identity.
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

/// The parameters of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parameters {
    /// Those of the model.
    Given,
    /// Drawn anew, by the seed of the repeat.
    Drawn(Init),
    /// The absolute values of the model's, without batch normalisation and scaled so that the outputs
    /// stay inside float32: see [`transform::linearise`].
    Magnitudes,
}

/// The inputs of a network. Only floating-point inputs are drawn or set to one; token ids and masks
/// are those of the samples, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inputs {
    /// The samples.
    Samples,
    /// As many standard normal inputs as there are samples.
    Gaussian,
    /// `count` standard normal inputs `x`, and `x + alpha·ε` with standard normal `ε`: two forward
    /// passes, each with the batch statistics of its own. Values have a further leading axis of
    /// length two.
    Perturbed {
        /// The number of inputs.
        count: usize,
        /// The factor of the perturbation.
        alpha: Float,
    },
    /// One input of ones.
    Ones,
}

/// The node whose result is taken for a network's features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Features {
    /// What the head reads: see [`transform::features`].
    Found,
    /// The result of the node of this name.
    Named(String),
}

/// A network on a whole batch, which a probe adds values to. Probes with equal views share its graph
/// and its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchView {
    pub(super) parameters: Parameters,
    pub(super) inputs: Inputs,
    pub(super) batch_norm: BatchNormMode,
    pub(super) features: Option<Features>,
}

impl BatchView {
    /// The model's parameters on the samples, with their targets.
    pub fn samples(batch_norm: BatchNormMode) -> Self {
        let (parameters, inputs) = (Parameters::Given, Inputs::Samples);
        BatchView { parameters, inputs, batch_norm, features: None }
    }

    /// Parameters and inputs other than the model's and the samples.
    pub fn new(parameters: Parameters, inputs: Inputs, batch_norm: BatchNormMode) -> Self {
        BatchView { parameters, inputs, batch_norm, features: None }
    }

    /// The same with the features in front of the head: see [`Network::features`].
    ///
    /// [`Network::features`]: super::Network::features
    #[must_use]
    pub fn with_features(self, features: Features) -> Self {
        BatchView { features: Some(features), ..self }
    }

    /// How batches are normalised.
    pub fn treatment(&self) -> Treatment {
        match self.parameters {
            Parameters::Magnitudes => Treatment::Removed,
            Parameters::Given | Parameters::Drawn(_) => Treatment::Statistics(self.batch_norm),
        }
    }

    /// Whether parameters or inputs are drawn anew at each repeat.
    pub fn draws(&self) -> bool {
        matches!(self.parameters, Parameters::Drawn(_))
            || matches!(self.inputs, Inputs::Gaussian | Inputs::Perturbed { .. })
    }

    /// The same for a model without batch normalisation: views that differ in its statistics only are
    /// one.
    #[must_use]
    pub(super) fn without_batch_norm(self) -> Self {
        match self.inputs {
            Inputs::Samples | Inputs::Gaussian => {
                BatchView { batch_norm: BatchNormMode::Running, ..self }
            }
            Inputs::Perturbed { .. } | Inputs::Ones => self,
        }
    }

    /// The number of inputs that the network is run on.
    pub(super) fn lanes(&self, samples: &Batch) -> usize {
        match self.inputs {
            Inputs::Samples | Inputs::Gaussian => samples.len(),
            Inputs::Perturbed { count, .. } => count,
            Inputs::Ones => 1,
        }
    }

    /// `model` with the parameters of the view, drawn by `seed` where any are.
    ///
    /// # Errors
    /// As [`transform::initialise`].
    pub fn parameters_of(&self, model: &Graph, seed: u64) -> Result<Graph> {
        match self.parameters {
            Parameters::Drawn(init) => transform::initialise(model, init, seed),
            Parameters::Given | Parameters::Magnitudes => Ok(model.clone()),
        }
    }

    /// The tensors that `model` is run on: one for each of its inputs, and the targets with
    /// [`Inputs::Samples`].
    ///
    /// # Errors
    /// When there are no samples.
    pub fn tensors(&self, model: &Graph, samples: &Batch, seed: u64) -> Result<Vec<Tensor>> {
        if self.inputs == Inputs::Samples {
            return Ok(samples.inputs.iter().chain([&samples.targets]).cloned().collect());
        }
        let lanes = self.lanes(samples);
        let draw = |input: usize, shape: &[usize], offset: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(INPUT_STREAMS + 2 * input as u64 + offset);
            let len = shape.iter().product();
            Tensor::f32(shape, StandardNormal.sample_iter(&mut rng).take(len).collect())
        };
        let inputs = model.inputs().iter().zip(&samples.inputs).enumerate();
        inputs
            .map(|(i, (&input, given))| {
                let dtype = model.fact(input).dtype;
                let shape = [&[lanes], given.shape().get(1..).unwrap_or_default()].concat();
                if self.inputs == Inputs::Ones {
                    return Ok(Tensor::full(dtype, &shape, 1.0));
                }
                let own = if dtype.is_float() {
                    draw(i, &shape, 0)?.cast(dtype)
                } else {
                    let rows: Vec<usize> = (0..lanes).map(|i| i % samples.len().max(1)).collect();
                    super::rows(given, &rows)?
                };
                let Inputs::Perturbed { alpha, .. } = self.inputs else { return Ok(own) };
                let moved = if dtype.is_float() {
                    let noise = draw(i, &shape, 1)?.to_f64() * alpha.get();
                    Tensor::from_f64(own.to_f64() + noise, dtype)
                } else {
                    own.clone()
                };
                let both =
                    ndarray::stack(ndarray::Axis(0), &[own.to_f64().view(), moved.to_f64().view()])
                        .map_err(|e| Error::Shape(e.to_string()))?;
                Ok(Tensor::from_f64(both, dtype))
            })
            .collect()
    }
}

/// What the gradients of samples are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differentiated {
    /// The loss of the sample.
    Loss,
    /// The sum of the model's outputs for the sample; no labels are read.
    OutputSum,
}

impl Differentiated {
    /// The scalar that is differentiated, where `loss` is the loss.
    pub(super) fn objective(self, loss: Loss) -> transform::Objective {
        match self {
            Differentiated::Loss => loss.into(),
            Differentiated::OutputSum => transform::Objective::OutputSum,
        }
    }
}

/// The gradients of samples with respect to the model's parameters, one row for each sample. Probes
/// with equal views share their graph and its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleView {
    pub(super) of: Differentiated,
    pub(super) batch_norm: BatchNormMode,
    pub(super) samples: Option<usize>,
}

impl SampleView {
    /// The gradients of all samples. Under batch statistics the output of each sample depends on all
    /// of them, and so does its gradient; otherwise each sample is taken alone.
    pub fn new(of: Differentiated, batch_norm: BatchNormMode) -> Self {
        SampleView { of, batch_norm, samples: None }
    }

    /// The same of at most `samples` samples, evenly spaced.
    #[must_use]
    pub fn of_at_most(self, samples: usize) -> Self {
        SampleView { samples: Some(samples), ..self }
    }

    #[must_use]
    pub(super) fn without_batch_norm(self) -> Self {
        SampleView { batch_norm: BatchNormMode::Running, ..self }
    }
}
