//! Sums of the signs of gradients over the samples.

use super::combine::{Combine, Run};
use super::gradients::{Gradient, GradientForm};
use crate::error::Result;
use crate::graph::{Builder, Value};
use crate::ops::Unary;
use crate::tensor::Tensor;

/// The sums over the counted lanes of the signs of `gradients`, `[elements]`; where one run has all
/// samples, the sums of their magnitudes, one for each gradient. NaN where a gradient is not finite.
pub(super) fn sums(
    b: &mut Builder,
    gradients: &[Gradient],
    counted: Value,
    one_run: bool,
) -> Result<Value> {
    let lanes = b.fact(counted).len();
    let mut parts = Vec::new();
    for gradient in gradients {
        // 0, or NaN where an element is not finite, whose sign is.
        let spoilt = match gradient.form {
            GradientForm::Rows(rows) => b.not_finite(rows, &[0, 1])?,
            GradientForm::Outer(x, d) => {
                let (x, d) = (b.not_finite(x, &[0, 1, 2])?, b.not_finite(d, &[0, 1, 2])?);
                b.add(x, d)?
            }
        };
        let sum = match gradient.form {
            GradientForm::Rows(rows) => {
                let signs = b.sign(rows)?;
                let weights = b.reshape(counted, &[1, lanes])?;
                b.matmul(weights, signs)?
            }
            GradientForm::Outer(x, d) => {
                let (x, d) = (b.sign(x)?, b.sign(d)?);
                let weights = b.reshape(counted, &[lanes, 1, 1])?;
                let x = b.mul(x, weights)?;
                let (width, height) = (b.fact(x).len() / lanes, b.fact(d).len() / lanes);
                let (x, d) = (b.reshape(x, &[lanes, width])?, b.reshape(d, &[lanes, height])?);
                b.matmul_t(x, d, true, false)?
            }
        };
        let sum = if one_run {
            let size = b.unary(Unary::Abs, sum)?;
            b.sum_all(size)?
        } else {
            sum
        };
        let len = b.fact(sum).len();
        let sum = b.reshape(sum, &[len])?;
        let spoilt = b.reshape(spoilt, &[1])?;
        parts.push(b.add(sum, spoilt)?);
    }
    b.concat(&parts, 0)
}

/// The sum of the magnitudes of a sum over the runs.
#[derive(Debug, Default)]
pub(super) struct Magnitude(super::combine::Sum);

impl Combine for Magnitude {
    type Output = f64;

    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        self.0.add(run, tensor)
    }

    fn finish(self) -> Result<f64> {
        Ok(self.0.finish()?.iter().map(|v| v.abs()).sum())
    }
}
