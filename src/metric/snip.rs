//! snip: how much the loss changes when weights are removed, to first order.
//!
//! `Σ |W ⊙ ∂L̄/∂W|` over the weights of convolutions and linear layers.
//!
//! Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (ICLR 2019),
//! Eq. 3; summed over the network by Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS"
//! (ICLR 2021), Eq. 1.

use super::{Evidence, Info, Metric, Options, Pass, Treatment, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::ops::{BatchNormMode, Unary};
use crate::pass::Network;

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
            batch_norm: Some(Treatment::Statistics(BatchNormMode::Batch)),
            source: "Lee et al., ICLR 2019, Eq. 3; Abdelfattah et al., ICLR 2021, Eq. 1",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        Ok(samples(options))
    }

    fn outputs(&self, network: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        let gradients = super::loss_gradients(network)?;
        Ok(vec![saliency(network, &gradients)?])
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        Ok(total(self, evidence)?.into())
    }
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
