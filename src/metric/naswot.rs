//! NASWOT: how differently the samples activate the network's rectifiers.
//!
//! `ln det K` with `K = Σ_r (B_r B_rᵀ + (1 − B_r)(1 − B_r)ᵀ)`, where row `i` of `B_r` says which units of
//! rectifier `r` are active for sample `i`: have an input above 0.
//!
//! Mellor et al., "Neural Architecture Search without Training" (ICML 2021), section 3 and Eq. 2.
//! As in the published code, only rectifiers that the output depends on count, and one that the
//! model applies several times to one value counts as often.

use super::patterns::{agreement, matrix};
use super::{Evidence, Info, Metric, Options, Pass, Treatment, Value, mismatched, samples};
use crate::error::Result;
use crate::graph;
use crate::linalg::log_det_spd;
use crate::ops::BatchNormMode;
use crate::pass::Network;

/// The log-determinant of the kernel of activation patterns.
#[derive(Clone, Copy, Debug)]
pub struct Naswot;

impl Metric for Naswot {
    fn info(&self) -> Info {
        Info {
            name: "naswot",
            formula: "ln det K, K_ij = number of rectifier units in which samples i and j agree",
            needs: "inputs",
            direction: "higher is better",
            batch_norm: Some(Treatment::Statistics(BatchNormMode::Batch)),
            source: "Mellor et al., ICML 2021, Eq. 2",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        Ok(samples(options))
    }

    fn outputs(&self, network: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        Ok(vec![agreement(network)?])
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        let Evidence::Outputs { tensors, .. } = evidence else { return Err(mismatched(self)) };
        let kernel = matrix(tensors).ok_or_else(|| mismatched(self))?;
        let mut value = Value::from(log_det_spd(&kernel.view())?);
        if value.value == f64::NEG_INFINITY {
            value.warnings.push(
                "NASWOT's kernel is singular: two samples have the same activation pattern, or \
                 patterns are dependent"
                    .into(),
            );
        }
        Ok(value)
    }
}
