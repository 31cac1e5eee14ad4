//! GradSign: how far the signs of the samples' gradients add up.
//!
//! `Σ_p |Σ_i sign(∂L(f(x_i), y_i)/∂θ_p)|` over the weights of convolutions and linear layers, with
//! each sample's gradient taken alone.
//!
//! Zhang and Jia, "GradSign: Model Performance Inference with Theoretical Insights" (ICLR 2022),
//! Algorithm 1. The published code leaves modules in training mode while it passes one sample at a
//! time, so that batch normalisation uses that sample's statistics: the default here.

use super::{Info, Metric, Options, Value};
use crate::error::{Error, Result};
use crate::ops::BatchNormMode;
use crate::probe::{Differentiated, Probe, SampleView, Selection};

/// The summed signs of per-sample gradients.
#[derive(Clone, Copy, Debug)]
pub struct GradSign;

impl Metric for GradSign {
    fn info(&self) -> Info {
        Info {
            name: "gradsign",
            formula: "Σ_p |Σ_i sign(g_i)_p|",
            needs: "inputs, labels, per-sample gradients of weights",
            direction: "higher is better",
            source: "Zhang and Jia, ICLR 2022, Algorithm 1",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Sample);
        if batch_norm == BatchNormMode::Batch {
            return Err(Error::Usage(
                "GradSign compares gradients of samples taken alone, which batch statistics \
                 couple: choose `bn` running or `bn` sample"
                    .into(),
            ));
        }
        let view = SampleView::new(Differentiated::Loss, batch_norm);
        Ok(Probe::of_samples(view, |gradients| {
            let sums = gradients.sign_sums(Selection::Weights)?;
            Ok(Box::new(move |results| Ok((*results.get(sums)?).into())))
        }))
    }
}
