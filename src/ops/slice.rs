//! Taking parts of a tensor and putting parts together: slice, pad, concatenation.

use ndarray::{ArrayViewD, Axis, IxDyn, Slice as NdSlice};

use super::{
    Attr, Builder, Cost, Cotangents, Float, Homogeneity, Lane, Op, Primitive, Rule, Site, Writer,
};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{Tensor, map_same};

/// The elements `starts, starts + steps, …` before `ends`, along every axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// First index along each axis.
    pub starts: Vec<usize>,
    /// End (exclusive) along each axis.
    pub ends: Vec<usize>,
    /// Step along each axis, at least 1.
    pub steps: Vec<usize>,
}

impl Slice {
    fn len(&self, axis: usize) -> usize {
        self.ends[axis].saturating_sub(self.starts[axis]).div_ceil(self.steps[axis])
    }

    fn with_lane_axis(&self, n: usize) -> Slice {
        let front = |first: usize, rest: &[usize]| [&[first], rest].concat();
        Slice {
            starts: front(0, &self.starts),
            ends: front(n, &self.ends),
            steps: front(1, &self.steps),
        }
    }
}

impl Rule for Slice {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let rank = x[0].rank();
        if [&self.starts, &self.ends, &self.steps].iter().any(|v| v.len() != rank) {
            bail_shape!("slice of {} axes applied to {:?}", self.starts.len(), x[0].shape);
        }
        for axis in 0..rank {
            if self.ends[axis] > x[0].shape[axis] || self.steps[axis] == 0 {
                bail_shape!("slice {self:?} does not fit {:?}", x[0].shape);
            }
        }
        Ok(Fact::new(x[0].dtype, (0..rank).map(|i| self.len(i)).collect::<Vec<_>>()))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        Ok(map_same!(x[0], a => {
            a.slice_each_axis(|ax| {
                let i = ax.axis.index();
                let (start, end) = (self.starts[i].min(self.ends[i]), self.ends[i]);
                NdSlice::new(start as isize, Some(end as isize), self.steps[i] as isize)
            }).to_owned()
        }))
    }

    /// `δ` put back in its place among zeros.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let shape = b.shape(site.input(0));
        let spread = b.dilate(dy, &self.steps)?;
        let spread_shape = b.shape(spread);
        let after: Vec<usize> =
            (0..shape.len()).map(|i| shape[i] - self.starts[i] - spread_shape[i]).collect();
        Ok(vec![Some(b.pad(spread, &self.starts, &after, 0.0)?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        b.push(self.with_lane_axis(n), &[lanes[0].value])
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        Ok((b.fact(x[0]).shape == out.shape).then_some(x[0]))
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
        let shape = &e.fact(x[0]).shape;
        let axes: Vec<usize> = (0..shape.len())
            .filter(|&i| self.starts[i] != 0 || self.ends[i] != shape[i] || self.steps[i] != 1)
            .collect();
        let pick = |v: &[usize]| axes.iter().map(|&i| v[i]).collect::<Vec<_>>();
        let (starts, ends, steps) = (pick(&self.starts), pick(&self.ends), pick(&self.steps));
        let names = [
            e.name(x[0]),
            e.i64s_of(&starts),
            e.i64s_of(&ends),
            e.i64s_of(&axes),
            e.i64s_of(&steps),
        ];
        Ok(e.node("Slice", &names.each_ref().map(String::as_str), &[]))
    }
}

/// Constant padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pad {
    /// How many elements are put before each axis.
    pub before: Vec<usize>,
    /// How many elements are put after each axis.
    pub after: Vec<usize>,
    /// Their value.
    pub value: Float,
}

impl Rule for Pad {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if self.before.len() != x[0].rank() || self.after.len() != x[0].rank() {
            bail_shape!("padding of {} axes applied to {:?}", self.before.len(), x[0].shape);
        }
        let shape = x[0].shape.iter().zip(&self.before).zip(&self.after);
        Ok(Fact::new(x[0].dtype, shape.map(|((d, p), q)| d + p + q).collect::<Vec<_>>()))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let mut padded = Tensor::full(out.dtype, &out.shape, self.value.get());
        fn fill<T: Clone>(into: &mut ndarray::ArcArray<T, IxDyn>, x: ArrayViewD<T>, at: &[usize]) {
            let mut place = into.slice_each_axis_mut(|ax| {
                let i = ax.axis.index();
                NdSlice::from(at[i]..at[i] + x.shape()[i])
            });
            place.assign(&x);
        }
        match (&mut padded, x[0]) {
            (Tensor::F32(p), Tensor::F32(x)) => fill(p, x.view(), &self.before),
            (Tensor::F64(p), Tensor::F64(x)) => fill(p, x.view(), &self.before),
            (Tensor::I32(p), Tensor::I32(x)) => fill(p, x.view(), &self.before),
            (Tensor::I64(p), Tensor::I64(x)) => fill(p, x.view(), &self.before),
            (Tensor::Bool(p), Tensor::Bool(x)) => fill(p, x.view(), &self.before),
            _ => bail_shape!("padding {} to {}", x[0].dtype(), out.dtype),
        }
        Ok(padded)
    }

    /// The part of `δ` that is not padding.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let shape = b.shape(site.input(0));
        let ends: Vec<usize> = shape.iter().zip(&self.before).map(|(d, p)| d + p).collect();
        Ok(vec![Some(b.slice(dy, &self.before, &ends, &vec![1; shape.len()])?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let front = |rest: &[usize]| [&[0], rest].concat();
        b.pad(lanes[0].value, &front(&self.before), &front(&self.after), self.value.get())
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        Ok((b.fact(x[0]).shape == out.shape).then_some(x[0]))
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        match self.value.get() == 0.0 {
            true => Homogeneity::linear(),
            false => Homogeneity::None,
        }
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0] && self.value.get() == 0.0
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let pads = [self.before.as_slice(), &self.after].concat();
        let (x, pads) = (e.name(x[0]), e.i64s_of(&pads));
        let value = e.scalar(out.dtype, self.value.get());
        Ok(e.node("Pad", &[&x, &pads, &value], &[("mode", Attr::from("constant"))]))
    }
}

/// Tensors side by side along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    /// The axis along which they are put.
    pub axis: usize,
}

impl Rule for Concat {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let Some(first) = x.first() else { bail_shape!("there is nothing to concatenate") };
        let mut shape = first.shape.clone();
        if self.axis >= shape.len() {
            bail_shape!("no axis {} to concatenate {:?} along", self.axis, shape);
        }
        for other in &x[1..] {
            let fits = other.dtype == x[0].dtype
                && other.rank() == shape.len()
                && (0..shape.len()).all(|i| i == self.axis || other.shape[i] == shape[i]);
            if !fits {
                bail_shape!("cannot concatenate {} and {other} along axis {}", x[0], self.axis);
            }
            shape[self.axis] += other.shape[self.axis];
        }
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        macro_rules! join {
            ($variant:ident) => {{
                let mut views = Vec::new();
                for tensor in x {
                    if let Tensor::$variant(a) = tensor {
                        views.push(a.view());
                    }
                }
                match ndarray::concatenate(Axis(self.axis), &views) {
                    Ok(joined) => Ok(joined.into()),
                    Err(e) => bail_shape!("concatenation: {e}"),
                }
            }};
        }
        match x[0] {
            Tensor::F32(_) => join!(F32),
            Tensor::F64(_) => join!(F64),
            Tensor::I32(_) => join!(I32),
            Tensor::I64(_) => join!(I64),
            Tensor::Bool(_) => join!(Bool),
        }
    }

    /// The part of `δ` where each operand stands.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let mut start = 0;
        let mut cotangents = Vec::with_capacity(site.inputs.len());
        for (i, &x) in site.inputs.iter().enumerate() {
            let end = start + b.shape(x)[self.axis];
            cotangents.push(match site.wants(i) {
                true => Some(b.slice_axis(dy, self.axis, start, end, 1)?),
                false => None,
            });
            start = end;
        }
        Ok(cotangents)
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let parts = lanes.iter().map(|lane| lane.spread(b, n)).collect::<Result<Vec<_>>>()?;
        b.concat(&parts, self.axis + 1)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        if let [only] = x {
            return Ok(Some(*only));
        }
        let full: Vec<Value> = x.iter().copied().filter(|&v| b.shape(v)[self.axis] != 0).collect();
        if full.len() == x.len() || full.is_empty() || out.is_empty() {
            return Ok(None);
        }
        b.concat(&full, self.axis).map(Some)
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
        zero.iter().all(|&zero| zero)
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let names: Vec<String> = x.iter().map(|&v| e.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(e.node("Concat", &names, &[("axis", Attr::Int(self.axis as i64))]))
    }
}

/// The one axis that a value is padded with zeros along, what is padded, and the places before it.
fn zeros_around(b: &Builder, value: Value) -> Option<(usize, Value, usize)> {
    let node = b.graph().node(value);
    let Op::Apply(Primitive::Pad(Pad { before, after, value: number })) = &node.op else {
        return None;
    };
    let padded = |i: &usize| before[*i] + after[*i] > 0;
    let mut axes = (0..before.len()).filter(padded);
    let (axis, None) = (axes.next()?, axes.next()) else { return None };
    (number.get() == 0.0).then_some((axis, node.inputs[0], before[axis]))
}

impl Builder {
    /// The sum of two values that are zero but for neighbouring parts: these side by side, as the
    /// gradients of slices are.
    pub(super) fn sum_of_neighbours(&mut self, p: Value, q: Value) -> Result<Option<Value>> {
        let (Some(left), Some(right)) = (zeros_around(self, p), zeros_around(self, q)) else {
            return Ok(None);
        };
        let shape = self.shape(p);
        if left.0 != right.0 || self.shape(q) != shape {
            return Ok(None);
        }
        let (left, right) = if left.2 < right.2 { (left, right) } else { (right, left) };
        let (axis, start) = (left.0, left.2);
        if start + self.shape(left.1)[axis] != right.2 {
            return Ok(None);
        }
        let joined = self.concat(&[left.1, right.1], axis)?;
        let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
        before[axis] = start;
        after[axis] = shape[axis] - start - self.shape(joined)[axis];
        self.pad(joined, &before, &after, 0.0).map(Some)
    }

    /// The elements `starts, starts + steps, …` before `ends`, along every axis.
    pub fn slice(
        &mut self,
        x: Value,
        starts: &[usize],
        ends: &[usize],
        steps: &[usize],
    ) -> Result<Value> {
        let op = Slice { starts: starts.into(), ends: ends.into(), steps: steps.into() };
        self.push(op, &[x])
    }

    /// A slice along one axis.
    pub fn slice_axis(
        &mut self,
        x: Value,
        axis: usize,
        start: usize,
        end: usize,
        step: usize,
    ) -> Result<Value> {
        let mut ends = self.shape(x);
        if axis >= ends.len() {
            bail_shape!("no axis {axis} to slice {ends:?} along");
        }
        let mut starts = vec![0; ends.len()];
        let mut steps = vec![1; ends.len()];
        (starts[axis], ends[axis], steps[axis]) = (start, end, step);
        self.slice(x, &starts, &ends, &steps)
    }

    /// `x` among `before` and `after` elements of `value` along each axis.
    pub fn pad(
        &mut self,
        x: Value,
        before: &[usize],
        after: &[usize],
        value: f64,
    ) -> Result<Value> {
        self.push(Pad { before: before.into(), after: after.into(), value: value.into() }, &[x])
    }

    /// Tensors side by side along `axis`.
    pub fn concat(&mut self, parts: &[Value], axis: usize) -> Result<Value> {
        self.push(Concat { axis }, parts)
    }

    /// `x` with `steps − 1` zeros between neighbours along each axis (none at the ends).
    pub fn dilate(&mut self, x: Value, steps: &[usize]) -> Result<Value> {
        let mut y = x;
        for (axis, &step) in steps.iter().enumerate() {
            let shape = self.shape(y);
            if step == 1 || shape[axis] <= 1 {
                continue;
            }
            let rows: usize = shape[..=axis].iter().product();
            let columns: usize = shape[axis + 1..].iter().product();
            let grid = self.reshape(y, &[rows, 1, columns])?;
            let padded = self.pad(grid, &[0; 3], &[0, step - 1, 0], 0.0)?;
            let mut spread = shape;
            spread[axis] *= step;
            let long = self.reshape(padded, &spread)?;
            let end = spread[axis] - (step - 1);
            y = self.slice_axis(long, axis, 0, end, 1)?;
        }
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn slices() {
        for (starts, ends, steps) in
            [([0, 0], [4, 5], [1, 2]), ([1, 0], [3, 5], [1, 4]), ([3, 1], [4, 4], [3, 3])]
        {
            Case::new(format!("Slice {starts:?} {ends:?} {steps:?}"))
                .input(&[4, 5], -1.0, 1.0)
                .check(|b, x| b.slice(x[0], &starts, &ends, &steps));
        }
    }

    #[test]
    fn paddings() {
        for (before, after) in [([1, 0], [0, 2]), ([0, 0], [1, 1])] {
            Case::new(format!("Pad {before:?} {after:?}"))
                .input(&[2, 3], -1.0, 1.0)
                .check(|b, x| b.pad(x[0], &before, &after, 0.5));
        }
    }

    #[test]
    fn concatenations() {
        for axis in [0, 1] {
            let other = if axis == 0 { [1, 3] } else { [2, 2] };
            Case::new(format!("Concat {axis}"))
                .input(&[2, 3], -1.0, 1.0)
                .input(&other, -1.0, 1.0)
                .check(|b, x| b.concat(&[x[0], x[1], x[0]], axis));
        }
    }

    #[test]
    fn dilation() {
        let mut b = Builder::default();
        let x = b.constant(Tensor::index([1, 2, 3]));
        let y = b.dilate(x, &[3]).unwrap();
        assert_eq!(b.as_constant(y), Some(&Tensor::index([1, 0, 0, 2, 0, 0, 3])));
    }
}
