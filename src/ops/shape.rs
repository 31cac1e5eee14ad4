//! Changing the shape of a tensor but not its elements: reshape, transpose, broadcast.

use ndarray::IxDyn;

use super::{
    Builder, Cost, Cotangents, Graph, Homogeneity, Lane, Op, Primitive, Rule, Site, Writer,
};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{Tensor, map_same};

/// The same elements in row-major order under another shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reshape {
    /// The new shape.
    pub shape: Vec<usize>,
}

impl Rule for Reshape {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if x[0].len() != self.shape.iter().product::<usize>() {
            bail_shape!("cannot reshape {:?} to {:?}", x[0].shape, self.shape);
        }
        Ok(Fact::new(x[0].dtype, self.shape.clone()))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        x[0].reshape(&self.shape)
    }

    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let shape = b.shape(site.input(0));
        Ok(vec![Some(b.reshape(dy, &shape)?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let mut shape = vec![n];
        shape.extend(&self.shape);
        b.reshape(lanes[0].value, &shape)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], _: &Fact) -> Result<Option<Value>> {
        if b.shape(x[0]) == self.shape {
            return Ok(Some(x[0]));
        }
        match b.as_reshape(x[0]) {
            Some(inner) => b.reshape(inner, &self.shape).map(Some),
            None => Ok(None),
        }
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

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        Ok(e.reshape(&x, &self.shape))
    }
}

/// A permutation of the axes: axis `i` of the result is axis `perm[i]` of the operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transpose {
    /// For each axis of the result, the axis of the operand.
    pub perm: Vec<usize>,
}

impl Rule for Transpose {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x[0].rank()) {
            bail_shape!("{:?} does not permute the axes of {:?}", self.perm, x[0].shape);
        }
        let shape: Vec<usize> = self.perm.iter().map(|&i| x[0].shape[i]).collect();
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        Ok(map_same!(x[0], a => a.clone().permuted_axes(IxDyn(&self.perm))))
    }

    /// `δ` under the inverse permutation.
    fn vjp(&self, b: &mut Builder, _: &Site, dy: Value) -> Result<Cotangents> {
        let mut inverse = vec![0; self.perm.len()];
        for (i, &p) in self.perm.iter().enumerate() {
            inverse[p] = i;
        }
        Ok(vec![Some(b.transpose(dy, &inverse)?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let perm: Vec<usize> = std::iter::once(0).chain(self.perm.iter().map(|p| p + 1)).collect();
        b.transpose(lanes[0].value, &perm)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        if self.perm.iter().copied().eq(0..self.perm.len()) {
            return Ok(Some(x[0]));
        }
        let node = b.graph().node(x[0]);
        if let Op::Apply(Primitive::Transpose(first)) = &node.op {
            let source = node.inputs[0];
            let perm: Vec<usize> = self.perm.iter().map(|&i| first.perm[i]).collect();
            return b.transpose(source, &perm).map(Some);
        }
        // Where only unit axes move, the elements stay in order.
        let shape = b.shape(x[0]);
        let moved: Vec<usize> = self.perm.iter().copied().filter(|&i| shape[i] != 1).collect();
        if moved.is_sorted() {
            return b.reshape(x[0], &out.shape).map(Some);
        }
        Ok(None)
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

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        Ok(e.transpose(&x, &self.perm))
    }
}

/// Broadcasting to a shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expand {
    /// The shape broadcast to; the operand's must broadcast to exactly this.
    pub shape: Vec<usize>,
}

impl Rule for Expand {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if super::broadcast(&x[0].shape, &self.shape)? != self.shape {
            bail_shape!("cannot broadcast {:?} to {:?}", x[0].shape, self.shape);
        }
        Ok(Fact::new(x[0].dtype, self.shape.clone()))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        let failed = || Error::Shape(format!("cannot broadcast to {:?}", self.shape));
        Ok(map_same!(x[0], a => a.broadcast(IxDyn(&self.shape)).ok_or_else(failed)?.to_owned()))
    }

    /// `δ` summed over the broadcast axes.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        Ok(vec![Some(b.unbroadcast(dy, site.input(0))?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let mut shape = b.shape(lanes[0].value);
        let missing = self.shape.len() + 1 - shape.len();
        shape.splice(1..1, std::iter::repeat_n(1, missing));
        let x = b.reshape(lanes[0].value, &shape)?;
        let mut target = vec![n];
        target.extend(&self.shape);
        b.expand(x, &target)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], _: &Fact) -> Result<Option<Value>> {
        if b.shape(x[0]) == self.shape {
            return Ok(Some(x[0]));
        }
        let node = b.graph().node(x[0]);
        match &node.op {
            Op::Apply(Primitive::Expand(_)) => {
                let source = node.inputs[0];
                b.expand(source, &self.shape).map(Some)
            }
            _ => Ok(None),
        }
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

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (x, shape) = (e.name(x[0]), e.i64s_of(&self.shape));
        Ok(e.node("Expand", &[&x, &shape], &[]))
    }
}

impl Builder {
    /// The elements of `x` in row-major order under `shape`.
    pub fn reshape(&mut self, x: Value, shape: &[usize]) -> Result<Value> {
        self.push(Reshape { shape: shape.to_vec() }, &[x])
    }

    /// `x` with its axes permuted: axis `i` of the result is axis `perm[i]` of `x`.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value> {
        self.push(Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `x` broadcast to `shape`.
    pub fn expand(&mut self, x: Value, shape: &[usize]) -> Result<Value> {
        self.push(Expand { shape: shape.to_vec() }, &[x])
    }

    /// A tensor of zeros, by broadcasting a scalar where the shape is large.
    pub fn zeros(&mut self, fact: &Fact) -> Result<Value> {
        let zero = self.scalar(fact.dtype, 0.0);
        self.expand(zero, &fact.shape)
    }

    /// What `value` is a reshape of, if it is one.
    pub(crate) fn as_reshape(&self, value: Value) -> Option<Value> {
        let node = self.graph().node(value);
        matches!(node.op, Op::Apply(Primitive::Reshape(_))).then(|| node.inputs[0])
    }
}

impl Graph {
    /// The value that `value` holds in another shape. What reads a reshaped value may read this one
    /// instead, but never the other way round.
    pub(crate) fn behind_reshapes(&self, mut value: Value) -> Value {
        while let Op::Apply(Primitive::Reshape(_)) = &self.node(value).op {
            value = self.node(value).inputs[0];
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn reshapes() {
        for (from, to) in [(&[2, 6][..], &[3, 4][..]), (&[4], &[1, 2, 2, 1]), (&[1, 1], &[])] {
            Case::new(format!("Reshape {to:?}"))
                .input(from, -1.0, 1.0)
                .check(|b, x| b.reshape(x[0], to));
        }
    }

    #[test]
    fn transpositions() {
        for perm in [[0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0]] {
            for shape in [[2, 3, 4], [2, 1, 3]] {
                Case::new(format!("Transpose {perm:?} {shape:?}"))
                    .input(&shape, -1.0, 1.0)
                    .check(|b, x| b.transpose(x[0], &perm));
            }
        }
    }

    #[test]
    fn broadcasts() {
        for (from, to) in [(&[3][..], &[2, 3][..]), (&[2, 1], &[2, 3]), (&[], &[2]), (&[1], &[4])] {
            Case::new(format!("Expand {from:?} {to:?}"))
                .input(from, -1.0, 1.0)
                .check(|b, x| b.expand(x[0], to));
        }
    }

    #[test]
    fn reshapes_meet_and_cancel_behind_elementwise_operations() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(crate::tensor::DType::F32, [4, 1, 2]));
        let flat = b.reshape(x, &[4, 2]).unwrap();
        let bias = b.constant(Tensor::f32(&[2], vec![1.0, 2.0]).unwrap());
        let y = b.add(flat, bias).unwrap();
        let y = b.relu(y).unwrap();
        let back = b.reshape(y, &[4, 1, 2]).unwrap();
        assert!(b.as_reshape(back).is_none(), "{:?}", b.graph().node(back));
    }
}
