//! The baselines that every score has to beat: parameters and multiply-adds.

use super::{Evidence, Info, Metric, Options, Pass, Value, mismatched};
use crate::error::Result;

/// A size of the model, taken as its score.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// The number of trainable scalars.
    Parameters,
    /// Multiply-adds of the forward pass of one sample.
    Flops,
}

impl Metric for Size {
    fn info(&self) -> Info {
        let (name, formula) = match self {
            Size::Parameters => ("params", "number of trainable scalars"),
            Size::Flops => {
                ("flops", "multiply-adds of convolutions and matrix products, one sample's forward")
            }
        };
        Info {
            name,
            formula,
            needs: "the model",
            direction: "higher is better",
            batch_norm: None,
            source: "baseline",
        }
    }

    fn pass(&self, _: &Options) -> Result<Pass> {
        Ok(Pass::Static)
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        let Evidence::Static(size) = evidence else { return Err(mismatched(self)) };
        let value = match self {
            Size::Parameters => size.parameters,
            Size::Flops => size.flops,
        };
        Ok(Value { value: value as f64, warnings: Vec::new() })
    }
}
