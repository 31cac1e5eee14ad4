//! grasp: how much removing weights would change the size of the gradient.
//!
//! `−Σ W ⊙ (H g)` over the weights of convolutions and linear layers, with the gradient
//! `g = ∂L̄/∂W` held constant and `H g = ∂⟨g, ∂L̄/∂W⟩/∂W`: a Hessian-vector product, by
//! differentiating the gradient.
//!
//! Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow" (ICLR 2020),
//! Eq. 8; with the sign and temperature 1 of Abdelfattah et al., "Zero-Cost Proxies for
//! Lightweight NAS" (ICLR 2021), whose code uses the whole batch for both derivatives.

use super::{Evidence, Info, Metric, Options, Pass, Treatment, Value, samples, total};
use crate::error::Result;
use crate::graph;
use crate::ops::BatchNormMode;
use crate::pass::Network;

/// The preserved gradient flow.
#[derive(Clone, Copy, Debug)]
pub struct Grasp;

impl Metric for Grasp {
    fn info(&self) -> Info {
        Info {
            name: "grasp",
            formula: "−Σ W ⊙ (H g), g = ∂L̄/∂W",
            needs: "inputs, labels, second derivatives of the mean loss",
            direction: "higher is better (the sum without its sign: lower)",
            batch_norm: Some(Treatment::Statistics(BatchNormMode::Batch)),
            source: "Wang et al., ICLR 2020, Eq. 8; Abdelfattah et al., ICLR 2021",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        Ok(samples(options))
    }

    fn outputs(&self, network: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        let gradients = super::loss_gradients(network)?;
        let mut squares = Vec::new();
        for &(_, gradient) in &gradients {
            let b = network.builder();
            let constant = b.detach(gradient)?;
            let product = b.mul(constant, gradient)?;
            squares.push(b.sum_all(product)?);
        }
        let squares = network.stack(&squares)?;
        let flow = network.builder().sum_all(squares)?;
        let mut sums = Vec::new();
        for (weight, curvature) in network.weight_gradients(flow)? {
            let b = network.builder();
            let product = b.mul(weight, curvature)?;
            sums.push(b.sum_all(product)?);
        }
        Ok(vec![network.stack(&sums)?])
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        // 0 − x, so that nothing at all is 0 and not −0.
        Ok((0.0 - total(self, evidence)?).into())
    }
}
