//! The baselines that every score has to beat: parameters and multiply-adds.

use super::{Info, Metric, Options, Value};
use crate::error::Result;
use crate::probe::{Probe, flops, live_flops, live_parameters, parameters};

/// A size of the model, taken as its score.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// The number of trainable scalars.
    Parameters,
    /// Multiply-adds of the forward pass of one sample.
    Flops,
    /// The number of trainable scalars that inputs meet on their way to the prediction.
    LiveParameters,
    /// Multiply-adds on that way.
    LiveFlops,
}

impl Metric for Count {
    fn info(&self) -> Info {
        let (name, formula) = match self {
            Count::Parameters => ("params", "number of trainable scalars"),
            Count::Flops => {
                ("flops", "multiply-adds of convolutions and matrix products, one sample's forward")
            }
            Count::LiveParameters => {
                ("params-live", "those of params that are on a path from the input to the output")
            }
            Count::LiveFlops => {
                ("flops-live", "those of flops that are on a path from the input to the output")
            }
        };
        Info {
            name,
            formula,
            needs: "the model",
            direction: "higher is better",
            source: "baseline",
        }
    }

    fn probe(&self, _: &Options) -> Result<Probe<Value>> {
        let size = match self {
            Count::Parameters => parameters,
            Count::Flops => flops,
            Count::LiveParameters => live_parameters,
            Count::LiveFlops => live_flops,
        };
        Ok(Probe::of_model(move |model| Ok((size(model) as f64).into())))
    }
}
