//! Zen-NAS: how much the features of a randomly drawn network move with its input.
//!
//! `ln Δ + Σ_BN ln √(mean_c σ²_c)` with `Δ = mean_b Σ |F(x_b) − F(x_b + α·ε_b)|`, where `F` are the
//! features before the head, all weights, the 16 inputs `x` and the perturbations `ε` are drawn from
//! N(0, 1), biases are 0, `α = 0.01`, and `σ²` are the variances that a batch normalisation divides by:
//! the second term puts back what it takes out.
//!
//! Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Deep Image Recognition" (ICCV 2021),
//! Algorithm 1.

use super::{Info, Metric, Options, Value};
use crate::error::{Error, Result};
use crate::graph::{self, Builder};
use crate::ops::{BatchNormMode, Unary};
use crate::probe::{BatchView, Features, Inputs, Network, Parameters, Probe};
use crate::tensor::Tensor;
use crate::transform::Init;

/// How many inputs are drawn.
const INPUTS: usize = 16;

/// How far they are moved.
const ALPHA: f64 = 0.01;

/// Which variances of a batch normalisation count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum ZenForm {
    /// Those of the batch of inputs, as in the paper's Algorithm 1.
    #[default]
    Paper,
    /// The running ones after both batches, `0.81 + 0.09·σ₁² + 0.1·σ₂²` with unbiased variances:
    /// what the published code reads.
    Reference,
}

/// The Gaussian complexity of the features.
#[derive(Clone, Copy, Debug)]
pub struct Zen;

impl Metric for Zen {
    fn info(&self) -> Info {
        Info {
            name: "zen",
            formula: "ln mean_b Σ|F(x_b) − F(x_b + 0.01·ε_b)| + Σ_BN ln √(mean_c σ²_c), all ~ N(0, 1)",
            needs: "the model, random inputs",
            direction: "higher is better",
            source: "Lin et al., ICCV 2021, Algorithm 1",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let inputs = Inputs::Perturbed { count: INPUTS, alpha: ALPHA.into() };
        let features = options.features.clone().map_or(Features::Found, Features::Named);
        let view = BatchView::new(Parameters::Drawn(Init::Normal), inputs, BatchNormMode::Batch);
        let form = options.zen;
        Ok(Probe::of_batch(view.with_features(features), move |network| {
            let (delta, variances) = movement(network, form)?;
            let delta = network.tensor(delta);
            let variances = variances.map(|variances| network.tensor(variances));
            Ok(Box::new(move |results| {
                let variances = variances.map(|variances| results.get(variances)).transpose()?;
                complexity(results.get(delta)?, variances).map(Value::from)
            }))
        }))
    }
}

/// `Δ` `[1]` and the mean variance of each batch normalisation `[k]`.
fn movement(network: &mut Network, form: ZenForm) -> Result<(graph::Value, Option<graph::Value>)> {
    if network.float_inputs().is_empty() {
        return Err(Error::Score(
            "the model has no input of floating-point numbers to perturb".into(),
        ));
    }
    let features = network
        .features()
        .ok_or_else(|| Error::Score("the model has no features before a head".into()))?;
    let (normalised, channels) = (network.normalised().to_vec(), network.normalised_channels());
    let lanes = network.lanes();
    let b = network.builder();
    let (first, second) =
        (b.slice_axis(features, 0, 0, 1, 1)?, b.slice_axis(features, 0, 1, 2, 1)?);
    let difference = b.sub(first, second)?;
    let size = b.unary(Unary::Abs, difference)?;
    let sum = b.sum_all(size)?;
    let delta = b.scale(sum, 1.0 / lanes as f64)?;
    let mut variances = Vec::new();
    for value in normalised {
        let first = mean_variance(b, value, 0, channels)?;
        variances.push(match form {
            ZenForm::Paper => first,
            ZenForm::Reference => {
                let shape = b.shape(value);
                let n: usize = shape[1..].iter().product::<usize>() / shape[channels];
                let unbiased = n as f64 / (n as f64 - 1.0);
                let second = mean_variance(b, value, 1, channels)?;
                let first = b.scale(first, 0.09 * unbiased)?;
                let second = b.scale(second, 0.1 * unbiased)?;
                let both = b.add(first, second)?;
                b.shift(both, 0.81)?
            }
        });
    }
    let delta = network.stack(&[delta])?;
    let variances = match variances.as_slice() {
        [] => None,
        variances => Some(network.stack(variances)?),
    };
    Ok((delta, variances))
}

/// The score, from `Δ` and the variances.
fn complexity(delta: &Tensor, variances: Option<&Tensor>) -> Result<f64> {
    let delta = delta.to_f64().sum();
    if delta == 0.0 {
        return Err(Error::Score(
            "the features do not move with the input: is the network connected?".into(),
        ));
    }
    let variances = variances.into_iter().flat_map(Tensor::to_f64);
    let value = delta.ln() + variances.map(|v| 0.5 * v.ln()).sum::<f64>();
    if !value.is_finite() {
        return Err(Error::Score(
            "with weights from N(0, 1) the features leave the range of float32, or a batch \
             normalisation sees no variance"
                .into(),
        ));
    }
    Ok(value)
}

/// The mean over the channels of the biased variance of batch `i` of `[2, lanes, 1, C, S…]`.
fn mean_variance(
    b: &mut Builder,
    value: graph::Value,
    i: usize,
    channels: usize,
) -> Result<graph::Value> {
    let batch = b.slice_axis(value, 0, i, i + 1, 1)?;
    let shape = b.shape(batch);
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| axis != channels).collect();
    let mean = b.reduce_mean(batch, &axes)?;
    let mut kept = vec![1; shape.len()];
    kept[channels] = shape[channels];
    let mean = b.reshape(mean, &kept)?;
    let centred = b.sub(batch, mean)?;
    let square = b.mul(centred, centred)?;
    let all: Vec<usize> = (0..shape.len()).collect();
    b.reduce_mean(square, &all)
}
