//! fisher: how much removing whole channels would change the loss, to second order.
//!
//! `Σ_l Σ_k (numel(W_l)/K_l) · ½ mean_i (Σ_pos a_ik · ∂L̄/∂a_ik)²`, where `a` are the outputs of a
//! convolution or linear layer with its bias, `k` its `K_l` channels, and `pos` their positions.
//!
//! Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression on a
//! Budget" (ICLR 2020), Eq. 2. The code of Abdelfattah et al., "Zero-Cost Proxies for Lightweight
//! NAS" (ICLR 2021), gives each element of a filter the value of its channel before summing; so
//! does this, and a layer counts in proportion to its number of inputs. There `L̄` is the mean over
//! the batch, whose `1/N` enters squared.

use super::{Info, Metric, Options, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::probe::{Network, Probe};

/// The summed Fisher information of the layers' channels.
#[derive(Clone, Copy, Debug)]
pub struct Fisher;

impl Metric for Fisher {
    fn info(&self) -> Info {
        Info {
            name: "fisher",
            formula: "Σ_l Σ_k (numel(W_l)/K_l) · ½ mean_i (Σ_pos a_ik · ∂L̄/∂a_ik)²",
            needs: "inputs, labels, activations and their gradients of the mean loss",
            direction: "higher is better",
            source: "Turner et al., ICLR 2020, Eq. 2; Abdelfattah et al., ICLR 2021",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Ok(Probe::of_batch(samples(options), |network| {
            let terms = terms(network)?;
            let terms = network.tensor(terms);
            Ok(Box::new(move |results| Ok(total(results, terms)?.into())))
        }))
    }
}

/// The information of each layer, `[layers]`.
fn terms(network: &mut Network) -> Result<graph::Value> {
    let loss = network.mean_loss()?;
    let layers = network.layers().to_vec();
    let products: Vec<_> = layers.iter().map(|layer| layer.product).collect();
    let gradients = network.gradient(loss, &products)?;
    let lanes = network.lanes();
    let mut terms = Vec::new();
    for (layer, gradient) in layers.iter().zip(gradients) {
        let Some(gradient) = gradient else { continue };
        let b = network.builder();
        let shape = b.shape(layer.activation);
        let gradient = b.reshape(gradient, &shape)?;
        let product = b.mul(layer.activation, gradient)?;
        let positions: Vec<usize> =
            (1..shape.len()).filter(|&axis| axis != layer.channel_axis).collect();
        let by_channel = b.reduce_sum(product, &positions)?;
        let square = b.mul(by_channel, by_channel)?;
        let sum = b.sum_all(square)?;
        let channels = shape[layer.channel_axis];
        let factor = layer.size as f64 / channels as f64 / (2 * lanes) as f64;
        terms.push(b.scale(sum, factor)?);
    }
    network.stack(&terms)
}
