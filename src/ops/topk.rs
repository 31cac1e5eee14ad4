//! Where the largest elements along an axis stand.

use ndarray::Axis;

use super::{Attr, Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// The int64 indices along an axis of its `count` largest (or smallest) elements, in order; of
/// equal elements the first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many elements are taken.
    pub count: usize,
    /// Whether the largest are taken, not the smallest.
    pub largest: bool,
}

impl Rule for TopK {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let mut shape = x[0].shape.clone();
        match shape.get_mut(self.axis) {
            Some(size) if *size >= self.count && x[0].dtype != DType::Bool => *size = self.count,
            _ => bail_shape!("no {} largest elements of {} along {}", self.count, x[0], self.axis),
        }
        Ok(Fact::new(DType::I64, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let x = x[0].to_f64();
        let mut y = ndarray::ArrayD::<i64>::zeros(out.shape.as_slice());
        let axis = Axis(self.axis);
        for (from, mut to) in x.lanes(axis).into_iter().zip(y.lanes_mut(axis)) {
            let mut order: Vec<usize> = (0..from.len()).collect();
            // The sort is stable.
            match self.largest {
                true => order.sort_by(|&a, &b| from[b].total_cmp(&from[a])),
                false => order.sort_by(|&a, &b| from[a].total_cmp(&from[b])),
            }
            to.iter_mut().zip(order).for_each(|(to, at)| *to = at as i64);
        }
        Ok(y.into())
    }

    fn derivative(&self) -> Derivative {
        Derivative::Zero
    }

    fn vjp(&self, _: &mut Builder, _: &Site, _: Value) -> Result<Cotangents> {
        Ok(vec![None])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.push(TopK { axis: self.axis + 1, ..*self }, &[lanes[0].value])
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Each(&[0.0])
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, _: &[bool]) -> bool {
        false
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (x, count) = (e.name(x[0]), e.i64s_of(&[self.count]));
        let attrs = [
            ("axis", Attr::Int(self.axis as i64)),
            ("largest", Attr::Int(i64::from(self.largest))),
            ("sorted", Attr::Int(1)),
        ];
        Ok(e.nodes("TopK", &[&x, &count], 2, &attrs).swap_remove(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn places_of_the_largest() {
        for (axis, largest) in [(0, true), (1, true), (1, false), (2, false)] {
            Case::new(format!("TopK {axis} {largest}"))
                .distinct(&[3, 4, 3])
                .check_forward(|b, x| b.push(TopK { axis, count: 2, largest }, &[x[0]]));
        }
    }
}
