//! Sums in which rounding noise is zero.

use ndarray::Axis;

use super::{Cotangents, Derivative, Lane, Rule, Site, Unary};
use crate::emit::{Dialect, Emitter, is_mapped};
use crate::error::{Error, Result, bail_shape};
use crate::graph::{Builder, Fact, Value};
use crate::tensor::Tensor;

/// `Σ x` over `axes`, which keep length 1; 0 where the terms cancel to rounding noise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanSum {
    /// The axes summed over, in ascending order.
    pub axes: Vec<usize>,
}

impl CleanSum {
    /// A sum that is not larger than this share of the sum of the terms' magnitudes counts as zero:
    /// it is zero in exact arithmetic (the gradient of a bias that a following normalisation or
    /// softmax takes out again) and rounding noise in float32.
    pub(crate) const CANCELLED: f64 = 4e-6;
}

impl Rule for CleanSum {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let fits = x[0].dtype.is_float() && self.axes.iter().all(|&i| i < x[0].rank());
        if !fits {
            bail_shape!("no sum of {} over {:?}", x[0], self.axes);
        }
        let mut shape = x[0].shape.clone();
        for &axis in &self.axes {
            shape[axis] = 1;
        }
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let terms = x[0].to_f64();
        let (mut sum, mut size) = (terms.clone(), terms.mapv(f64::abs));
        for &axis in &self.axes {
            sum = sum.sum_axis(Axis(axis)).insert_axis(Axis(axis));
            size = size.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
        sum.zip_mut_with(&size, |sum, size| {
            if sum.abs() <= Self::CANCELLED * size {
                *sum = 0.0;
            }
        });
        Ok(Tensor::from_f64(sum, out.dtype))
    }

    fn derivative(&self) -> Derivative {
        Derivative::Unsupported("noise is taken out of gradients after everything else")
    }

    fn vjp(&self, _: &mut Builder, _: &Site, _: Value) -> Result<Cotangents> {
        Err(Error::NotDifferentiable(format!("CleanSum: {:?}", self.derivative())))
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.clean_sum(lanes[0].value, &self.axes.iter().map(|i| i + 1).collect::<Vec<_>>())
    }

    fn decompose(&self, b: &mut Builder, x: &[Value], dialect: Dialect) -> Result<Option<Value>> {
        let x = x[0];
        if dialect == Dialect::Fused && is_mapped(b.fact(x), &self.axes) {
            return Ok(None);
        }
        let sum = b.reduce_sum(x, &self.axes)?;
        let magnitudes = b.unary(Unary::Abs, x)?;
        let scale = b.reduce_sum(magnitudes, &self.axes)?;
        let floor = b.scale(scale, Self::CANCELLED)?;
        let size = b.unary(Unary::Abs, sum)?;
        let cancelled = b.less_or_equal(size, floor)?;
        let zero = b.scalar_like(sum, 0.0);
        b.select(cancelled, zero, sum).map(Some)
    }

    fn emit(&self, _: &mut Emitter, _: &[Value], _: &Fact) -> Result<String> {
        Err(Error::Shape("a clean sum is taken apart before emission".into()))
    }
}

impl Builder {
    /// The sum of `x` over `axes`, which keep length 1, with rounding noise as zero.
    pub(crate) fn clean_sum(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.push(CleanSum { axes: axes.to_vec() }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Case;

    #[test]
    fn sums_over_each_kind_of_axes() {
        for axes in [&[0][..], &[1], &[2, 3], &[0, 2], &[1, 2, 3], &[3]] {
            Case::new(format!("CleanSum {axes:?}"))
                .input(&[2, 3, 1, 4], 0.5, 1.5)
                .check_forward(|b, x| b.clean_sum(x[0], axes));
            Case::new(format!("CleanSum of a product {axes:?}"))
                .input(&[2, 3, 1, 4], 0.5, 1.5)
                .input(&[2, 3, 1, 4], 0.5, 1.5)
                .check_forward(|b, x| {
                    let product = b.mul(x[0], x[1])?;
                    b.clean_sum(product, axes)
                });
        }
    }
}
