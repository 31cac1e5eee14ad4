//! Softmax and its logarithm over one axis.

use ndarray::Axis;

use super::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::Tensor;

/// `softmax(x)ᵢ = eˣⁱ / Σⱼ eˣʲ` over an axis, or its logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Softmax {
    /// The axis that sums to one.
    pub axis: usize,
    /// Whether the logarithm is taken.
    pub log: bool,
}

impl Rule for Softmax {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if self.axis >= x[0].rank() || !x[0].dtype.is_float() {
            bail_shape!("no softmax of {} over axis {}", x[0], self.axis);
        }
        Ok(x[0].clone())
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let axis = Axis(self.axis);
        let x = x[0].to_f64();
        let max = x.fold_axis(axis, f64::NEG_INFINITY, |&a, &b| a.max(b)).insert_axis(axis);
        let shifted = &x - &max;
        let sum = shifted.mapv(f64::exp).sum_axis(axis).insert_axis(axis);
        let y =
            if self.log { &shifted - &sum.mapv(f64::ln) } else { shifted.mapv(f64::exp) / &sum };
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// `y ∘ (δ − Σ δ∘y)`; for the logarithm `δ − eʸ Σ δ`.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let y = site.output;
        let dx = if self.log {
            let total = b.reduce_sum(dy, &[self.axis])?;
            // softmax(x) again rather than exp(y): shared with a softmax that is already there.
            let p = b.softmax(site.input(0), self.axis)?;
            let moved = b.mul(p, total)?;
            b.sub(dy, moved)?
        } else {
            let weighted = b.mul(dy, y)?;
            let total = b.reduce_sum(weighted, &[self.axis])?;
            let centred = b.sub(dy, total)?;
            b.mul(y, centred)?
        };
        Ok(vec![Some(dx)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.push(Softmax { axis: self.axis + 1, ..*self }, &[lanes[0].value])
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::None
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, _: &[bool]) -> bool {
        false
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        let op = if self.log { "LogSoftmax" } else { "Softmax" };
        Ok(e.node(op, &[&x], &[("axis", Attr::Int(self.axis as i64))]))
    }
}

impl Builder {
    /// Softmax over `axis`.
    pub fn softmax(&mut self, x: Value, axis: usize) -> Result<Value> {
        self.push(Softmax { axis, log: false }, &[x])
    }

    /// The logarithm of softmax over `axis`.
    pub fn log_softmax(&mut self, x: Value, axis: usize) -> Result<Value> {
        self.push(Softmax { axis, log: true }, &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn over_every_axis() {
        for log in [false, true] {
            for axis in 0..3 {
                Case::new(format!("Softmax {axis} {log}"))
                    .input(&[2, 3, 2], -2.0, 2.0)
                    .check(|b, x| b.push(Softmax { axis, log }, x));
            }
        }
    }
}
