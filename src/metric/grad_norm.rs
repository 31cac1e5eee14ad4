//! grad_norm: how large the gradient of each layer is.
//!
//! `Σ_l ‖∂L̄/∂W_l‖₂` over the weights of convolutions and linear layers: a sum of norms, not the norm
//! of the whole gradient.
//!
//! Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021), section 3.2.

use super::{Evidence, Info, Metric, Options, Pass, Treatment, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::ops::BatchNormMode;
use crate::pass::Network;

/// The summed norms of the layers' gradients.
#[derive(Clone, Copy, Debug)]
pub struct GradNorm;

impl Metric for GradNorm {
    fn info(&self) -> Info {
        Info {
            name: "grad-norm",
            formula: "Σ_l ‖∂L̄/∂W_l‖₂",
            needs: "inputs, labels, gradient of the mean loss",
            direction: "higher is better",
            batch_norm: Some(Treatment::Statistics(BatchNormMode::Batch)),
            source: "Abdelfattah et al., ICLR 2021, section 3.2",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        Ok(samples(options))
    }

    fn outputs(&self, network: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        let mut norms = Vec::new();
        for (_, gradient) in super::loss_gradients(network)? {
            let b = network.builder();
            let square = b.mul(gradient, gradient)?;
            let sum = b.sum_all(square)?;
            norms.push(b.sqrt(sum)?);
        }
        Ok(vec![network.stack(&norms)?])
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        Ok(total(self, evidence)?.into())
    }
}
