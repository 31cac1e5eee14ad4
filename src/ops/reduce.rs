//! Reductions over axes. The reduced axes stay, with length 1.

use ndarray::{ArrayD, Axis};

use super::{
    Attr, Binary, Builder, Cost, Cotangents, Graph, Homogeneity, Lane, Op, Primitive, Rule, Site,
    Unary, Writer,
};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// So many values are looked at for whether terms add up to zero: those that a gradient of a
/// normalisation is made of, and not a whole network.
const LOOKED_AT: usize = 256;

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reduction {
    Max,
    Mean,
    Min,
    Prod,
    Sum,
}

/// A reduction over `axes`, which keep length 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// How elements combine.
    pub kind: Reduction,
    /// The axes reduced, ascending.
    pub axes: Vec<usize>,
}

impl Rule for Reduce {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let mut shape = x[0].shape.clone();
        if x[0].dtype == DType::Bool || !self.axes.is_sorted_by(|a, b| a < b) {
            bail_shape!("cannot reduce {} over axes {:?}", x[0], self.axes);
        }
        for &axis in &self.axes {
            match shape.get_mut(axis) {
                Some(dim) => *dim = 1,
                None => bail_shape!("no axis {axis} to reduce in {:?}", x[0].shape),
            }
        }
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        if let (Some(v), Reduction::Sum | Reduction::Prod) = (x[0].to_i64(), self.kind) {
            let (start, f): (i64, fn(i64, i64) -> i64) = match self.kind {
                Reduction::Sum => (0, i64::wrapping_add),
                _ => (1, i64::wrapping_mul),
            };
            let mut v: ArrayD<i64> = v;
            for &axis in &self.axes {
                v = v.fold_axis(Axis(axis), start, |&a, &b| f(a, b)).insert_axis(Axis(axis));
            }
            return Ok(Tensor::from_i64(v, out.dtype));
        }
        let mut v = x[0].to_f64();
        for &axis in &self.axes {
            let ax = Axis(axis);
            let n = v.len_of(ax) as f64;
            v = match self.kind {
                Reduction::Max => v.fold_axis(ax, f64::NEG_INFINITY, |&a, &b| a.max(b)),
                Reduction::Min => v.fold_axis(ax, f64::INFINITY, |&a, &b| a.min(b)),
                Reduction::Prod => v.fold_axis(ax, 1.0, |&a, &b| a * b),
                Reduction::Sum => v.sum_axis(ax),
                Reduction::Mean => v.sum_axis(ax) / n,
            }
            .insert_axis(ax);
        }
        Ok(Tensor::from_f64(v, out.dtype))
    }

    /// `δ` broadcast back, times
    /// - 1 for a sum and 1/n for a mean;
    /// - for a maximum or minimum, `1[x = y]` over the number of such elements (as PyTorch's
    ///   `amax`);
    /// - for a product, the product of the other elements, which may be zero.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (x, y) = (site.input(0), site.output);
        let shape = b.shape(x);
        let dx = match self.kind {
            Reduction::Sum => b.expand(dy, &shape)?,
            Reduction::Mean => {
                let n: usize = self.axes.iter().map(|&i| shape[i]).product();
                let share = b.scale(dy, 1.0 / n as f64)?;
                b.expand(share, &shape)?
            }
            Reduction::Max | Reduction::Min => {
                let equal = b.equal(x, y)?;
                let dtype = b.dtype(dy);
                let winners = b.cast(equal, dtype)?;
                let count = b.reduce_sum(winners, &self.axes)?;
                let share = b.div(dy, count)?;
                let zero = b.scalar_like(dy, 0.0);
                b.select(equal, share, zero)?
            }
            Reduction::Prod => self.product_of_others(b, x, dy)?,
        };
        Ok(vec![Some(dx)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let axes: Vec<usize> = self.axes.iter().map(|i| i + 1).collect();
        b.reduce(self.kind, lanes[0].value, &axes)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        let axes: Vec<usize> =
            self.axes.iter().copied().filter(|&i| b.fact(x[0]).shape[i] != 1).collect();
        if axes.is_empty() {
            return Ok(Some(x[0]));
        }
        if axes != self.axes {
            return b.reduce(self.kind, x[0], &axes).map(Some);
        }
        // The sum of a broadcast number: a multiple of it.
        if self.kind == Reduction::Sum
            && out.dtype.is_float()
            && let Some(value) = b.as_uniform(x[0])
        {
            let n: usize = axes.iter().map(|&i| b.fact(x[0]).shape[i]).product();
            let total = b.scalar(out.dtype, value * n as f64);
            return b.expand(total, &out.shape).map(Some);
        }
        if self.kind == Reduction::Sum && out.dtype.is_float() {
            return self.without_zeros(b, x[0], out);
        }
        Ok(None)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        match self.kind {
            Reduction::Max | Reduction::Mean | Reduction::Min | Reduction::Sum => {
                Homogeneity::linear()
            }
            Reduction::Prod => Homogeneity::None,
        }
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        let op = format!("Reduce{:?}", self.kind);
        // Opset 17: the axes of ReduceSum are an input, those of the others an attribute.
        if self.kind == Reduction::Sum {
            let axes = e.i64s_of(&self.axes);
            return Ok(e.node(&op, &[&x, &axes], &[]));
        }
        let axes = || [("axes", Attr::from(self.axes.as_slice()))];
        let y = e.node(&op, &[&x], &axes());
        let (beyond, nothing) = match self.kind {
            Reduction::Max => ("Less", f64::NEG_INFINITY),
            Reduction::Min => ("Greater", f64::INFINITY),
            _ => return Ok(y),
        };
        if !out.dtype.is_float() {
            return Ok(y);
        }
        // Some runtimes take the maximum of infinities, as they stand in masks, for the least finite
        // number. No element reaches that.
        let missed = e.node(beyond, &[&x, &y], &[]);
        let missed = e.cast(&missed, out.dtype);
        let all = e.node("ReduceMin", &[&missed], &axes());
        let all = e.cast(&all, DType::Bool);
        let nothing = e.scalar(out.dtype, nothing);
        Ok(e.node("Where", &[&all, &nothing, &y], &[]))
    }
}

impl Reduce {
    /// `δ` times the product of all other elements, without division: halves are multiplied with each
    /// other until one element is left, and `δ` goes back through these products.
    fn product_of_others(&self, b: &mut Builder, x: Value, dy: Value) -> Result<Value> {
        if b.fact(x).is_empty() {
            let fact = b.fact(x).clone();
            return b.zeros(&fact);
        }
        let (mut product, mut steps) = (x, Vec::new());
        for &axis in &self.axes {
            while b.shape(product)[axis] > 1 {
                let size = b.shape(product)[axis];
                let half = size / 2;
                let left = b.slice_axis(product, axis, 0, half, 1)?;
                let right = b.slice_axis(product, axis, half, 2 * half, 1)?;
                let rest = b.slice_axis(product, axis, 2 * half, size, 1)?;
                steps.push((axis, half, left, right));
                product = b.mul(left, right)?;
                if size % 2 == 1 {
                    product = b.concat(&[product, rest], axis)?;
                }
            }
        }
        let mut cotangent = dy;
        for (axis, half, left, right) in steps.into_iter().rev() {
            let size = b.shape(cotangent)[axis];
            let of_product = b.slice_axis(cotangent, axis, 0, half, 1)?;
            let rest = b.slice_axis(cotangent, axis, half, size, 1)?;
            let (to_left, to_right) = (b.mul(of_product, right)?, b.mul(of_product, left)?);
            let all = [to_left, to_right, rest];
            cotangent = b.concat(&all[..if size > half { 3 } else { 2 }], axis)?;
        }
        Ok(cotangent)
    }

    /// The sum without terms that add up to zero: `Σ c·(x − mean x)`, as the gradient of a
    /// normalisation holds it.
    fn without_zeros(&self, b: &mut Builder, x: Value, out: &Fact) -> Result<Option<Value>> {
        let is_zero = |b: &Builder, v: Value| {
            let mut most = LOOKED_AT;
            self.is_zero(b.graph(), v, &mut most)
        };
        let (mut terms, mut negative) = (x, false);
        let mut fewer = None;
        loop {
            if is_zero(b, terms) {
                return b.zeros(out).map(Some);
            }
            let node = b.graph().node(terms);
            match (&node.op, node.inputs.as_slice()) {
                (Op::Apply(Primitive::Unary(Unary::Neg)), &[inner]) => {
                    (terms, negative) = (inner, !negative);
                }
                (Op::Apply(Primitive::Binary(Binary::Add)), &[p, q])
                    if b.fact(p) == b.fact(x) && b.fact(q) == b.fact(x) =>
                {
                    terms = match (is_zero(b, p), is_zero(b, q)) {
                        (true, _) => q,
                        (_, true) => p,
                        _ => break,
                    };
                    fewer = Some((terms, negative));
                }
                _ => break,
            }
        }
        let Some((terms, negative)) = fewer else { return Ok(None) };
        let sum = b.push(self.clone(), &[terms])?;
        if negative { b.neg(sum).map(Some) } else { Ok(Some(sum)) }
    }

    /// Whether `x` adds up to zero along the axes whatever its operands are, as far as that is seen
    /// by a look at `most` values.
    fn is_zero(&self, graph: &Graph, x: Value, most: &mut usize) -> bool {
        let Some(left) = most.checked_sub(1) else { return false };
        *most = left;
        let node = graph.node(x);
        let Op::Apply(op) = &node.op else { return false };
        match (op, node.inputs.as_slice()) {
            (Primitive::Unary(Unary::Neg), &[p]) => self.is_zero(graph, p, most),
            (Primitive::Binary(Binary::Add), &[p, q]) => {
                graph.shape(p) == graph.shape(q)
                    && self.is_zero(graph, p, most)
                    && self.is_zero(graph, q, most)
            }
            (Primitive::Binary(Binary::Mul), &[p, q]) => {
                let mut factor = |v: Value, other: Value| {
                    self.is_constant_along(graph, v, node.fact.rank(), most)
                        && graph.shape(other) == node.fact.shape
                        && self.is_zero(graph, other, most)
                };
                factor(p, q) || factor(q, p)
            }
            (Primitive::Binary(Binary::Sub), &[p, m]) => {
                let mean = graph.node(m);
                graph.shape(p) == node.fact.shape
                    && mean.inputs.first() == Some(&p)
                    && matches!(&mean.op, Op::Apply(Primitive::Reduce(mean))
                        if mean.kind == Reduction::Mean && mean.axes == self.axes)
            }
            _ => false,
        }
    }

    /// Whether a factor of a result of rank `rank` is the same all along the axes.
    fn is_constant_along(
        &self,
        graph: &Graph,
        factor: Value,
        rank: usize,
        most: &mut usize,
    ) -> bool {
        let Some(left) = most.checked_sub(1) else { return false };
        *most = left;
        let node = graph.node(factor);
        if let Op::Apply(Primitive::Expand(_) | Primitive::Binary(_)) = node.op {
            return node.inputs.iter().all(|&v| self.is_constant_along(graph, v, rank, most));
        }
        self.is_one_along(&node.fact.shape, rank)
    }

    /// Whether `shape`, broadcast to rank `rank`, has one place along the axes.
    pub(crate) fn is_one_along(&self, shape: &[usize], rank: usize) -> bool {
        self.axes
            .iter()
            .all(|&axis| (axis + shape.len()).checked_sub(rank).is_none_or(|i| shape[i] == 1))
    }
}

impl Builder {
    /// A reduction over `axes` (in any order), which keep length 1.
    pub fn reduce(&mut self, kind: Reduction, x: Value, axes: &[usize]) -> Result<Value> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        self.push(Reduce { kind, axes }, &[x])
    }

    /// The sum over `axes`, which keep length 1.
    pub fn reduce_sum(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.reduce(Reduction::Sum, x, axes)
    }

    /// The mean over `axes`, which keep length 1.
    pub fn reduce_mean(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.reduce(Reduction::Mean, x, axes)
    }

    /// The maximum over `axes`, which keep length 1.
    pub fn reduce_max(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.reduce(Reduction::Max, x, axes)
    }

    /// The minimum over `axes`, which keep length 1.
    pub fn reduce_min(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.reduce(Reduction::Min, x, axes)
    }

    /// The product over `axes`, which keep length 1.
    pub fn reduce_prod(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        self.reduce(Reduction::Prod, x, axes)
    }

    /// The sum of all elements, as a scalar.
    pub fn sum_all(&mut self, x: Value) -> Result<Value> {
        let axes: Vec<usize> = (0..self.rank(x)).collect();
        let sum = self.reduce_sum(x, &axes)?;
        self.reshape(sum, &[])
    }

    /// `1[x > 0] − 1[x < 0]`.
    pub fn sign(&mut self, x: Value) -> Result<Value> {
        self.unary(Unary::Sign, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn reductions() {
        use Reduction::*;
        for kind in [Sum, Mean, Max, Min, Prod] {
            for axes in [&[0][..], &[1, 2], &[0, 1, 2], &[2]] {
                Case::new(format!("{kind:?} {axes:?}"))
                    .input(&[2, 3, 2], 0.5, 1.5)
                    .check(|b, x| b.reduce(kind, x[0], axes));
            }
        }
    }

    /// What is left of a sum in which deviations from the mean, scaled, add up to nothing.
    #[test]
    fn deviations_from_the_mean_add_up_to_nothing() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [2, 3, 4]));
        let c = b.input("c", Fact::new(DType::F64, [3, 1]));
        let mean = b.reduce_mean(x, &[2]).unwrap();
        let centred = b.sub(x, mean).unwrap();
        let scaled = b.mul(centred, c).unwrap();
        let sum = b.reduce_sum(scaled, &[2]).unwrap();
        assert_eq!(b.as_uniform(sum), Some(0.0));
        let more = b.add(scaled, x).unwrap();
        let less = b.neg(more).unwrap();
        let sum = b.reduce_sum(less, &[2]).unwrap();
        let plain = b.reduce_sum(x, &[2]).unwrap();
        assert_eq!(sum, b.neg(plain).unwrap());
        // Along another axis they do not, nor with factors that differ.
        for (value, axis) in [(scaled, 1), (more, 0)] {
            let sum = b.reduce_sum(value, &[axis]).unwrap();
            assert_eq!(b.graph().node(sum).inputs, [value]);
        }
        let square = b.mul(centred, centred).unwrap();
        let sum = b.reduce_sum(square, &[2]).unwrap();
        assert_eq!(b.graph().node(sum).inputs, [square]);
    }

    #[test]
    fn tied_maxima_share_the_cotangent() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [3]));
        let y = b.reduce_max(x, &[0]).unwrap();
        let y = b.reshape(y, &[]).unwrap();
        let (graph, d) = crate::transform::grad(&b.finish(), y, &[x]).unwrap();
        let at = Tensor::f64(&[3], vec![2.0, 1.0, 2.0]).unwrap();
        let dx = crate::graph::eval_values(&graph, &[at], &[d[0].unwrap()]).unwrap();
        assert_eq!(dx[0], Tensor::f64(&[3], vec![0.5, 0.0, 0.5]).unwrap());
    }
}
