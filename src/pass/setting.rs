//! With which parameters and inputs a network is looked at.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::Batch;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::{BatchNormMode, Float};
use crate::tensor::Tensor;
use crate::transform::{self, Init};

/// Keeps the draws of inputs apart from those of parameters, which have the same seed.
const INPUT_STREAMS: u64 = 1 << 32;

/// A network with the parameters and inputs that a score looks at it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// The parameters given, on the samples.
    Samples {
        /// The statistics of batch normalisation.
        batch_norm: BatchNormMode,
    },
    /// The parameters given, on as many standard normal inputs as there are samples.
    Gaussian {
        /// The statistics of batch normalisation.
        batch_norm: BatchNormMode,
    },
    /// Parameters drawn from N(0, 1), with biases 0, on standard normal inputs `x` and on
    /// `x + alpha·ε` with standard normal `ε`: two forward passes, each with the statistics of its
    /// batch. Values have a further leading axis of length two.
    Perturbed {
        /// How many inputs.
        lanes: usize,
        /// How much is added.
        alpha: Float,
    },
    /// The absolute values of the parameters, without batch normalisation, on one input of ones:
    /// see [`transform::linearise`].
    Positive,
}

impl Setting {
    /// The statistics of batch normalisation; `None` where there is none.
    pub fn batch_norm(self) -> Option<BatchNormMode> {
        match self {
            Setting::Samples { batch_norm } | Setting::Gaussian { batch_norm } => Some(batch_norm),
            Setting::Perturbed { .. } => Some(BatchNormMode::Batch),
            Setting::Positive => None,
        }
    }

    /// Whether parameters or inputs are drawn afresh at each repeat.
    pub fn draws(self) -> bool {
        matches!(self, Setting::Gaussian { .. } | Setting::Perturbed { .. })
    }

    /// `model` with the parameters that it is looked at with, drawn by `seed` where any are.
    ///
    /// # Errors
    /// As [`transform::initialise`].
    pub fn parameters(self, model: &Graph, seed: u64) -> Result<Graph> {
        match self {
            Setting::Perturbed { .. } => transform::initialise(model, Init::Normal, seed),
            _ => Ok(model.clone()),
        }
    }

    /// The tensors that `model` is run on: one for each of its inputs, and the targets for
    /// [`Setting::Samples`]. Only floating-point inputs are drawn or set to one; token ids and
    /// masks are those of the samples, or one.
    ///
    /// # Errors
    /// When there are no samples.
    pub fn inputs(self, model: &Graph, samples: &Batch, seed: u64) -> Result<Vec<Tensor>> {
        if let Setting::Samples { .. } = self {
            return Ok(samples.inputs.iter().chain([&samples.targets]).cloned().collect());
        }
        let draw = |input: usize, shape: &[usize], offset: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(INPUT_STREAMS + 2 * input as u64 + offset);
            let len = shape.iter().product();
            Tensor::f32(shape, StandardNormal.sample_iter(&mut rng).take(len).collect())
        };
        let inputs = model.inputs().iter().zip(&samples.inputs).enumerate();
        inputs
            .map(|(i, (&input, given))| {
                let fact = model.fact(input);
                let lanes = match self {
                    Setting::Perturbed { lanes, .. } => lanes,
                    Setting::Positive => 1,
                    _ => samples.len(),
                };
                let shape = [&[lanes], given.shape().get(1..).unwrap_or_default()].concat();
                if self == Setting::Positive {
                    return Ok(Tensor::full(fact.dtype, &shape, 1.0));
                }
                let own = if fact.dtype.is_float() {
                    draw(i, &shape, 0)?.cast(fact.dtype)
                } else {
                    let rows: Vec<usize> = (0..lanes).map(|i| i % samples.len().max(1)).collect();
                    super::rows(given, &rows)?
                };
                let Setting::Perturbed { alpha, .. } = self else { return Ok(own) };
                let moved = if fact.dtype.is_float() {
                    let noise = draw(i, &shape, 1)?.to_f64() * alpha.get();
                    Tensor::from_f64(own.to_f64() + noise, fact.dtype)
                } else {
                    own.clone()
                };
                let both =
                    ndarray::stack(ndarray::Axis(0), &[own.to_f64().view(), moved.to_f64().view()])
                        .map_err(|e| Error::Shape(e.to_string()))?;
                Ok(Tensor::from_f64(both, fact.dtype))
            })
            .collect()
    }
}
