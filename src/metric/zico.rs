//! ZiCo per sample: how steady the gradient of each weight is over the samples.
//!
//! `Σ_l ln Σ_θ mean_i |g_iθ| / std_i g_iθ` over the weights `θ` of each convolution and linear layer
//! `l`, where `g_i` is the gradient of sample `i` alone and `std` that of the population. A weight
//! whose gradient does not vary is left out, and so is a layer without any other.
//!
//! Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients" (ICLR 2023),
//! Eq. 15, whose gradients are those of two or more batches. Here each batch is one sample.

use super::{Info, Metric, Options, Value};
use crate::error::{Error, Result};
use crate::ops::BatchNormMode;
use crate::probe::{Differentiated, Moments, Probe, SampleView, Selection};

/// A deviation below this share of the mean magnitude is rounding noise.
const STEADY: f64 = 1e-6;

/// The summed inverse coefficients of variation.
#[derive(Clone, Copy, Debug)]
pub struct ZicoSamples;

impl Metric for ZicoSamples {
    fn info(&self) -> Info {
        Info {
            name: "zico-samples",
            formula: "Σ_l ln Σ_θ mean_i |g_iθ| / std_i g_iθ",
            needs: "inputs, labels, per-sample gradients of weights",
            direction: "higher is better",
            source: "Li et al., ICLR 2023, Eq. 15, with batches of one sample",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Running);
        let view = SampleView::new(Differentiated::Loss, batch_norm);
        Ok(Probe::of_samples(view, |gradients| {
            let weights = gradients.gradients(Selection::Weights)?;
            let moments = weights.iter().map(|weight| gradients.moments(weight));
            let moments = moments.collect::<Result<Vec<_>>>()?;
            Ok(Box::new(move |results| {
                let sums = moments.iter().map(|&layer| Ok(steadiness(results.get(layer)?)));
                let sums = sums.collect::<Result<Vec<f64>>>()?;
                let logarithms: Vec<f64> =
                    sums.into_iter().filter(|&sum| sum > 0.0).map(f64::ln).collect();
                match logarithms.as_slice() {
                    [] => Err(Error::Score("no gradient of a weight varies".into())),
                    logarithms => Ok(logarithms.iter().sum::<f64>().into()),
                }
            }))
        }))
    }
}

/// `Σ_θ mean_i |g_iθ| / std_i g_iθ` of a layer.
fn steadiness(layer: &Moments) -> f64 {
    let pairs = layer.mean_magnitude.iter().zip(layer.deviation());
    pairs.filter(|&(&mean, deviation)| deviation > STEADY * mean).map(|(m, d)| m / d).sum()
}
