//! snip: how much the loss changes when weights are removed, to first order.
//!
//! `Σ |W ⊙ ∂L̄/∂W|` over the weights of convolutions and linear layers.
//!
//! Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (ICLR 2019),
//! Eq. 3; summed over the network by Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS"
//! (ICLR 2021), Eq. 1.

use super::{Info, Metric, Options, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::ops::Unary;
use crate::probe::{Network, Probe};

/// The summed connection sensitivities.
#[derive(Clone, Copy, Debug)]
pub struct Snip;

impl Metric for Snip {
    fn info(&self) -> Info {
        Info {
            name: "snip",
            formula: "Σ |W ⊙ ∂L̄/∂W|",
            needs: "inputs, labels, gradient of the mean loss",
            direction: "higher is better",
            source: "Lee et al., ICLR 2019, Eq. 3; Abdelfattah et al., ICLR 2021, Eq. 1",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Ok(Probe::of_batch(samples(options), |network| {
            let terms = saliencies(network)?;
            let terms = network.tensor(terms);
            Ok(Box::new(move |results| Ok(total(results, terms)?.into())))
        }))
    }
}

/// `Σ |W ⊙ ∂L̄/∂W|` of each weight, `[weights]`.
fn saliencies(network: &mut Network) -> Result<graph::Value> {
    let gradients = super::loss_gradients(network)?;
    saliency(network, &gradients)
}

/// `Σ |W ⊙ G|` of each weight with its gradient, side by side.
pub(super) fn saliency(
    network: &mut Network,
    gradients: &[(graph::Value, graph::Value)],
) -> Result<graph::Value> {
    let mut sums = Vec::new();
    for &(weight, gradient) in gradients {
        let b = network.builder();
        let product = b.mul(weight, gradient)?;
        let size = b.unary(Unary::Abs, product)?;
        sums.push(b.sum_all(size)?);
    }
    network.stack(&sums)
}
