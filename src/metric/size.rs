//! The baselines that every score has to beat: parameters and multiply-adds.

use super::{Evidence, Info, Metric, Options, Pass, Value, mismatched};
use crate::error::Result;

/// The number of trainable scalars.
#[derive(Clone, Copy, Debug)]
pub struct Parameters;

impl Metric for Parameters {
    fn info(&self) -> Info {
        Info {
            name: "params",
            formula: "number of trainable scalars",
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
        match evidence {
            Evidence::Static(size) => Ok(exact(size.parameters)),
            Evidence::ClassGram(_) => Err(mismatched(self)),
        }
    }
}

/// Multiply-adds of the forward pass of one sample.
#[derive(Clone, Copy, Debug)]
pub struct Flops;

impl Metric for Flops {
    fn info(&self) -> Info {
        Info {
            name: "flops",
            formula: "multiply-adds of convolutions and matrix products, one sample's forward",
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
        match evidence {
            Evidence::Static(size) => Ok(exact(size.flops)),
            Evidence::ClassGram(_) => Err(mismatched(self)),
        }
    }
}

fn exact(count: u64) -> Value {
    Value { value: count as f64, warnings: Vec::new() }
}
