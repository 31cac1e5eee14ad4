//! synflow: how strongly the paths through the network connect its inputs with its outputs.
//!
//! `ln Σ |W ⊙ ∂R/∂W|` over the weights of convolutions and linear layers, where `R` is the sum of
//! the outputs for an input of ones, every parameter is replaced by its absolute value, and batch
//! normalisation by the identity. No data is looked at.
//!
//! Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
//! flow" (NeurIPS 2020), Eq. 2; summed over the network by Abdelfattah et al., "Zero-Cost Proxies
//! for Lightweight NAS" (ICLR 2021), Eq. 1.
//!
//! The sum grows geometrically with depth. Its logarithm ranks alike, and is reported; the
//! computation is [scaled](crate::transform::linearise) so that it stays inside float32.

use std::f64::consts::LN_2;

use super::snip::saliency;
use super::{Info, Metric, Options, Value, total};
use crate::error::Result;
use crate::ops::BatchNormMode;
use crate::probe::{BatchView, Inputs, Parameters, Probe};

/// The logarithm of the synaptic flow.
#[derive(Clone, Copy, Debug)]
pub struct Synflow;

impl Metric for Synflow {
    fn info(&self) -> Info {
        Info {
            name: "synflow",
            formula: "ln Σ |W ⊙ ∂R/∂W|, R = Σ outputs, parameters |θ|, input of ones",
            needs: "the model",
            direction: "higher is better",
            source: "Tanaka et al., NeurIPS 2020, Eq. 2; Abdelfattah et al., ICLR 2021, Eq. 1",
        }
    }

    fn probe(&self, _: &Options) -> Result<Probe<Value>> {
        let view = BatchView::new(Parameters::Magnitudes, Inputs::Ones, BatchNormMode::Running);
        Ok(Probe::of_batch(view, |network| {
            let outputs = network.outputs();
            let flow = network.builder().sum_all(outputs)?;
            let gradients = network.weight_gradients(flow)?;
            let terms = saliency(network, &gradients)?;
            let (terms, exponent) = (network.tensor(terms), network.exponent());
            Ok(Box::new(move |results| {
                let flow = total(results, terms)?;
                let mut value = Value::from(flow.ln() + f64::from(exponent) * LN_2);
                if flow == 0.0 {
                    value.warnings.push(
                        "no flow: no weight lies on a path from the input to the output, or all on \
                         some layer are zero, so that synflow's logarithm is −∞"
                            .into(),
                    );
                }
                Ok(value)
            }))
        }))
    }
}
