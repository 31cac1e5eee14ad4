//! NASWOT: how differently the samples activate the network's rectifiers.
//!
//! `ln det K` with `K = Σ_r (B_r B_rᵀ + (1 − B_r)(1 − B_r)ᵀ)`, where row `i` of `B_r` says which units of
//! rectifier `r` are active for sample `i`: have an input above 0.
//!
//! Mellor et al., "Neural Architecture Search without Training" (ICML 2021), section 3 and Eq. 2.
//! As in the published code, only rectifiers that the output depends on count, and one that the
//! model applies several times to one value counts as often.

use super::patterns::agreement;
use super::{Info, Metric, Options, Value, matrix, samples};
use crate::error::Result;
use crate::linalg::log_det_spd;
use crate::probe::Probe;

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
            source: "Mellor et al., ICML 2021, Eq. 2",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Ok(Probe::of_batch(samples(options), |network| {
            let kernel = agreement(network)?;
            let kernel = network.tensor(kernel);
            Ok(Box::new(move |results| {
                let kernel = matrix(results, kernel)?;
                let mut value = Value::from(log_det_spd(&kernel.view())?);
                if value.value == f64::NEG_INFINITY {
                    value.warnings.push(
                        "NASWOT's kernel is singular: two samples have the same activation \
                         pattern, or patterns are dependent"
                            .into(),
                    );
                }
                Ok(value)
            }))
        }))
    }
}
