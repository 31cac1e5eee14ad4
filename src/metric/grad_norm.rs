//! grad_norm: how large the gradient of each layer is.
//!
//! `Σ_l ‖∂L̄/∂W_l‖₂` over the weights of convolutions and linear layers: a sum of norms, not the norm
//! of the whole gradient.
//!
//! Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021), section 3.2.

use super::{Info, Metric, Options, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::probe::{Network, Probe};

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
            source: "Abdelfattah et al., ICLR 2021, section 3.2",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Ok(Probe::of_batch(samples(options), |network| {
            let terms = norms(network)?;
            let terms = network.tensor(terms);
            Ok(Box::new(move |results| Ok(total(results, terms)?.into())))
        }))
    }
}

/// The norm of each weight's gradient, `[weights]`.
fn norms(network: &mut Network) -> Result<graph::Value> {
    let mut norms = Vec::new();
    for (_, gradient) in super::loss_gradients(network)? {
        let b = network.builder();
        let square = b.mul(gradient, gradient)?;
        let sum = b.sum_all(square)?;
        norms.push(b.sqrt(sum)?);
    }
    network.stack(&norms)
}
