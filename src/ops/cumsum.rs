//! Running sums along an axis.

use ndarray::Axis;

use super::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// `yᵢ = Σ_{j ≤ i} xⱼ` along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CumSum {
    /// The axis summed along.
    pub axis: usize,
    /// Whether element `i` itself is left out of `yᵢ`.
    pub exclusive: bool,
    /// Whether the sum runs from the end.
    pub reverse: bool,
}

impl Rule for CumSum {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if self.axis >= x[0].rank() || x[0].dtype == DType::Bool {
            bail_shape!("no running sum of {} along axis {}", x[0], self.axis);
        }
        Ok(x[0].clone())
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let mut y = x[0].to_f64();
        for mut lane in y.lanes_mut(Axis(self.axis)) {
            let mut sum = 0.0;
            let mut step = |v: &mut f64| {
                let own = *v;
                *v = if self.exclusive { sum } else { sum + own };
                sum += own;
            };
            match self.reverse {
                true => lane.iter_mut().rev().for_each(&mut step),
                false => lane.iter_mut().for_each(&mut step),
            }
        }
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// The running sum of `δ` from the other end.
    fn vjp(&self, b: &mut Builder, _: &Site, dy: Value) -> Result<Cotangents> {
        Ok(vec![Some(b.push(CumSum { reverse: !self.reverse, ..*self }, &[dy])?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.push(CumSum { axis: self.axis + 1, ..*self }, &[lanes[0].value])
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::linear()
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    /// Sums of int64 are made in int32: not every runtime has others. What networks count is positions.
    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let (mut x, axis) = (e.name(x[0]), e.scalar(DType::I64, self.axis as f64));
        let flag = |on: bool| Attr::Int(i64::from(on));
        let attrs = [("exclusive", flag(self.exclusive)), ("reverse", flag(self.reverse))];
        if out.dtype != DType::I64 {
            return Ok(e.node("CumSum", &[&x, &axis], &attrs));
        }
        x = e.cast(&x, DType::I32);
        x = e.node("CumSum", &[&x, &axis], &attrs);
        Ok(e.cast(&x, DType::I64))
    }
}

impl Builder {
    /// The running sum along `axis`.
    pub fn cumsum(
        &mut self,
        x: Value,
        axis: usize,
        exclusive: bool,
        reverse: bool,
    ) -> Result<Value> {
        self.push(CumSum { axis, exclusive, reverse }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Case;

    #[test]
    fn every_form() {
        for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
            for axis in 0..2 {
                Case::new(format!("CumSum {axis} {exclusive} {reverse}"))
                    .input(&[3, 4], -1.0, 1.0)
                    .check(|b, x| b.cumsum(x[0], axis, exclusive, reverse));
            }
        }
    }
}
