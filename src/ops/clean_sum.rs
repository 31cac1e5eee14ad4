//! Sums in which rounding noise is zero.

use ndarray::Axis;

use super::{Binary, Cotangents, Derivative, Lane, Primitive, Rule, Site, Unary};
use crate::emit::{Attr, Dialect, Emitter};
use crate::error::{Error, Result, bail_shape};
use crate::graph::{Builder, Fact, Value};
use crate::ops::Op;
use crate::tensor::{DType, Tensor};

/// A sum smaller than this share of the sum of the terms' magnitudes counts as zero: it is zero in
/// exact arithmetic (the gradient of a bias that a following normalisation or softmax takes out
/// again) and rounding noise in float32.
const CANCELLED: f64 = 4e-6;

/// `Σ a` or `Σ a·b` over `axes`, which keep length 1; 0 where the terms cancel to rounding noise.
/// Operands: `a`, and maybe `b` of the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CleanSum {
    /// The axes summed over, in ascending order.
    pub axes: Vec<usize>,
}

impl CleanSum {
    /// The shape as `[outer, length, inner]` with the middle axis summed over, if there is one.
    fn blocks(&self, shape: &[usize]) -> Option<[usize; 3]> {
        // Axes of length 1 may count as summed over or not.
        let summed: Vec<usize> = self.axes.iter().copied().filter(|&i| shape[i] != 1).collect();
        let (first, last) = (*summed.first()?, *summed.last()?);
        let kept = (first..=last).any(|i| shape[i] != 1 && !summed.contains(&i));
        let product = |range: &[usize]| range.iter().product::<usize>();
        let blocks =
            [product(&shape[..first]), product(&shape[first..=last]), product(&shape[last + 1..])];
        (!kept).then_some(blocks)
    }

    fn has_kernel(&self, x: &Fact) -> bool {
        x.dtype == DType::F32 && self.blocks(&x.shape).is_some()
    }
}

impl Rule for CleanSum {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let fits = (1..=2).contains(&x.len())
            && x[0].dtype.is_float()
            && x.iter().all(|f| *f == x[0])
            && self.axes.iter().all(|&i| i < x[0].rank());
        if !fits {
            bail_shape!("no sum of {x:?} over {:?}", self.axes);
        }
        let mut shape = x[0].shape.clone();
        for &axis in &self.axes {
            shape[axis] = 1;
        }
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let mut terms = x[0].to_f64();
        if let Some(factors) = x.get(1) {
            terms *= &factors.to_f64();
        }
        let (mut sum, mut size) = (terms.clone(), terms.mapv(f64::abs));
        for &axis in &self.axes {
            sum = sum.sum_axis(Axis(axis)).insert_axis(Axis(axis));
            size = size.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
        sum.zip_mut_with(&size, |sum, size| {
            if sum.abs() <= CANCELLED * size {
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

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let operands = lanes.iter().map(|l| l.spread(b, n)).collect::<Result<Vec<_>>>()?;
        b.push(CleanSum { axes: self.axes.iter().map(|i| i + 1).collect() }, &operands)
    }

    fn decompose(&self, b: &mut Builder, x: &[Value], dialect: Dialect) -> Result<Option<Value>> {
        if dialect == Dialect::Fused && self.has_kernel(b.fact(x[0])) {
            return Ok(None);
        }
        let terms = match x {
            [a, factors] => b.mul(*a, *factors)?,
            _ => x[0],
        };
        let sum = b.reduce_sum(terms, &self.axes)?;
        let magnitudes = b.unary(Unary::Abs, terms)?;
        let scale = b.reduce_sum(magnitudes, &self.axes)?;
        let floor = b.scale(scale, CANCELLED)?;
        let size = b.unary(Unary::Abs, sum)?;
        let cancelled = b.less_or_equal(size, floor)?;
        let zero = b.scalar_like(sum, 0.0);
        b.select(cancelled, zero, sum).map(Some)
    }

    fn emit(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> Result<String> {
        let Some(blocks) = self.blocks(&e.fact(x[0]).shape) else {
            return Err(Error::Shape("a clean sum is taken apart before emission".into()));
        };
        let names: Vec<String> = x.iter().map(|&v| e.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let attrs = [
            ("blocks", Attr::from(blocks.as_slice())),
            ("shape", Attr::from(out.shape.as_slice())),
            ("cancelled", Attr::Float(CANCELLED as f32)),
        ];
        Ok(e.kernel("CleanSum", &names, 1, &attrs).swap_remove(0))
    }
}

impl Builder {
    /// The sum of `x` over `axes`, which keep length 1, with rounding noise as zero; the factors
    /// of a product are multiplied on the way.
    pub(crate) fn clean_sum(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        let node = self.graph().node(x);
        let factors = match (&node.op, node.inputs.as_slice()) {
            (Op::Apply(Primitive::Binary(Binary::Mul)), &[a, b])
                if self.fact(a) == &node.fact && self.fact(b) == &node.fact =>
            {
                Some([a, b])
            }
            _ => None,
        };
        let op = CleanSum { axes: axes.to_vec() };
        match factors {
            Some(factors) => self.push(op, &factors),
            None => self.push(op, &[x]),
        }
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
