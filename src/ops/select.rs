//! Choosing between values, changing their dtype, and cutting the derivative.

use ndarray::{ArrayD, IxDyn, Zip};

use super::{
    Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer, align, broadcast,
};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// `condition ? a : b`, elementwise and broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Where;

impl Rule for Where {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if x[0].dtype != DType::Bool || x[1].dtype != x[2].dtype {
            bail_shape!("Where({}, {}, {}): dtypes do not fit", x[0].dtype, x[1].dtype, x[2].dtype);
        }
        let branches = broadcast(&x[1].shape, &x[2].shape)?;
        Ok(Fact::new(x[1].dtype, broadcast(&x[0].shape, &branches)?))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let shape = IxDyn(&out.shape);
        let spread = |v: ArrayD<f64>| v.broadcast(shape.clone()).map(|v| v.to_owned());
        if let (Some(c), Some(p), Some(q)) = (x[0].to_i64(), x[1].to_i64(), x[2].to_i64()) {
            let mut values = ArrayD::<i64>::zeros(shape.clone());
            let views =
                (c.broadcast(shape.clone()), p.broadcast(shape.clone()), q.broadcast(shape));
            if let (Some(c), Some(p), Some(q)) = views {
                Zip::from(&mut values).and(c).and(p).and(q).for_each(|o, &c, &p, &q| {
                    *o = if c != 0 { p } else { q };
                });
            }
            return Ok(Tensor::from_i64(values, out.dtype));
        }
        let views = (spread(x[0].to_f64()), spread(x[1].to_f64()), spread(x[2].to_f64()));
        let (Some(c), Some(mut p), Some(q)) = views else {
            bail_shape!("Where: operands do not broadcast to {:?}", out.shape);
        };
        Zip::from(&mut p).and(&c).and(&q).for_each(|p, &c, &q| {
            if c == 0.0 {
                *p = q;
            }
        });
        Ok(Tensor::from_f64(p, out.dtype))
    }

    /// `δ` where the operand was chosen, 0 elsewhere.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let zero = b.scalar_like(dy, 0.0);
        let mut cotangents = vec![None; 3];
        for i in [1, 2] {
            if site.wants(i) {
                let c = site.input(0);
                let d = if i == 1 { b.select(c, dy, zero)? } else { b.select(c, zero, dy)? };
                cotangents[i] = Some(b.unbroadcast(d, site.input(i))?);
            }
        }
        Ok(cotangents)
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let x = align(b, lanes)?;
        b.push(*self, &x)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Joint(1)
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        // Where the condition is false, the result is the last operand.
        zero[2] && (zero[0] || zero[1])
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (c, p, q) = (e.name(x[0]), e.name(x[1]), e.name(x[2]));
        Ok(e.node("Where", &[&c, &p, &q], &[]))
    }
}

/// A change of dtype. The derivative passes between floats and is zero into or out of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cast {
    /// The new dtype.
    pub to: DType,
}

impl Rule for Cast {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        Ok(Fact::new(self.to, x[0].shape.clone()))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        Ok(x[0].cast(self.to))
    }

    fn derivative(&self) -> Derivative {
        if self.to.is_float() { Derivative::Rule } else { Derivative::Zero }
    }

    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let from = b.dtype(site.input(0));
        Ok(vec![if from.is_float() { Some(b.cast(dy, from)?) } else { None }])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.cast(lanes[0].value, self.to)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], _: &Fact) -> Result<Option<Value>> {
        Ok((b.dtype(x[0]) == self.to).then_some(x[0]))
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        match self.to.is_float() {
            true => Homogeneity::linear(),
            false => Homogeneity::None,
        }
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        Ok(e.cast(&x, self.to))
    }
}

/// The identity with derivative zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Detach;

impl Rule for Detach {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        Ok(x[0].clone())
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        Ok(x[0].clone())
    }

    fn derivative(&self) -> Derivative {
        Derivative::Zero
    }

    fn vjp(&self, _: &mut Builder, _: &Site, _: Value) -> Result<Cotangents> {
        Ok(vec![None])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.push(*self, &[lanes[0].value])
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::linear()
    }

    fn moves(&self) -> bool {
        true
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    /// The name of the operand itself: nothing is computed.
    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        Ok(e.name(x[0]))
    }
}

impl Builder {
    /// `condition ? a : b`, elementwise and broadcast.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Result<Value> {
        self.push(Where, &[condition, a, b])
    }

    /// `x` as `dtype`.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Result<Value> {
        self.push(Cast { to: dtype }, &[x])
    }

    /// `x`, taken as constant by differentiation.
    pub fn detach(&mut self, x: Value) -> Result<Value> {
        self.push(Detach, &[x])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn selection_with_broadcasting() {
        Case::new("Where")
            .bools(&[2, 1, 3])
            .input(&[4, 1], -1.0, 1.0)
            .input(&[3], -1.0, 1.0)
            .check(|b, x| b.select(x[0], x[1], x[2]));
    }

    #[test]
    fn detached_values_have_no_derivative() {
        Case::new("x·detach(x)").input(&[3], 1.0, 2.0).check_forward(|b, x| {
            let constant = b.detach(x[0])?;
            b.mul(x[0], constant)
        });
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, []));
        let constant = b.detach(x).unwrap();
        let y = b.mul(x, constant).unwrap();
        let (graph, d) = crate::transform::grad(&b.finish(), y, &[x]).unwrap();
        let at = Tensor::full(DType::F64, &[], 3.0);
        let dx = crate::graph::eval_values(&graph, &[at], &[d[0].unwrap()]).unwrap();
        assert_eq!(dx[0].scalar(), Some(3.0));
    }
}
