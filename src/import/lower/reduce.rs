//! Reductions over axes, running sums, and the index of the largest element.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule, zero};
use crate::ops::{Reduction, Unary};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    zero("ArgMax", 7, "ReduceMax, Equal, Where, ReduceMin", |c| arg(c, Reduction::Max)),
    zero("ArgMin", 7, "ReduceMin, Equal, Where, ReduceMin", |c| arg(c, Reduction::Min)),
    rule("CumProd", 26, "Where, ReduceProd", cumprod),
    rule("CumSum", 11, "CumSum", cumsum),
    rule("ReduceL1", 7, "Abs, ReduceSum", l1),
    rule("ReduceL2", 7, "Mul, ReduceSum, Sqrt", l2),
    rule("ReduceLogSum", 7, "ReduceSum, Log", log_sum),
    rule("ReduceLogSumExp", 7, "ReduceMax, Exp, ReduceSum, Log", log_sum_exp),
    rule("ReduceMax", 7, "ReduceMax; ties share the derivative", |c| plain(c, Reduction::Max)),
    rule("ReduceMean", 7, "ReduceMean", |c| plain(c, Reduction::Mean)),
    rule("ReduceMin", 7, "ReduceMin; ties share the derivative", |c| plain(c, Reduction::Min)),
    rule("ReduceProd", 7, "ReduceProd", |c| plain(c, Reduction::Prod)),
    rule("ReduceSum", 7, "ReduceSum", |c| plain(c, Reduction::Sum)),
    rule("ReduceSumSquare", 7, "Mul, ReduceSum", sum_square),
];

/// Applies `f` to the operand and the axes to reduce, which are all by default. Then removes these axes
/// unless `keepdims` is set.
fn reduced(c: &mut Call, f: impl Fn(&mut Call, Value, &[usize]) -> Result<Value>) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let given = c.ints_or_operand("axes", 1)?.unwrap_or_default();
    let mut axes = c.axes(&given, shape.len())?;
    if axes.is_empty() {
        if c.flag("noop_with_empty_axes", false)? {
            // No axis is reduced, but functions of the elements, such as squares, still apply.
            return f(c, x, &[]);
        }
        axes = (0..shape.len()).collect();
    }
    let y = f(c, x, &axes)?;
    if c.flag("keepdims", true)? {
        return Ok(y);
    }
    let kept = shape.iter().enumerate().filter(|(i, _)| !axes.contains(i));
    let kept: Vec<usize> = kept.map(|(_, &d)| d).collect();
    c.reshape(y, &kept)
}

/// A reduction. Of booleans, the maximum is `any` and the minimum is `all`.
fn plain(c: &mut Call, kind: Reduction) -> Result<Value> {
    reduced(c, |c, x, axes| {
        if c.dtype(x) != DType::Bool {
            return c.reduce(kind, x, axes);
        }
        let x = c.cast(x, DType::I32)?;
        let y = c.reduce(kind, x, axes)?;
        // An empty axis gives the smallest or the largest integer.
        let zero = c.scalar_like(y, 0.0);
        c.greater(y, zero)
    })
}

fn l1(c: &mut Call) -> Result<Value> {
    reduced(c, |c, x, axes| {
        let size = c.unary(Unary::Abs, x)?;
        c.reduce_sum(size, axes)
    })
}

fn sum_of_squares(c: &mut Call, x: Value, axes: &[usize]) -> Result<Value> {
    let square = c.mul(x, x)?;
    c.reduce_sum(square, axes)
}

fn l2(c: &mut Call) -> Result<Value> {
    reduced(c, |c, x, axes| {
        let sum = sum_of_squares(c, x, axes)?;
        c.sqrt(sum)
    })
}

fn sum_square(c: &mut Call) -> Result<Value> {
    reduced(c, sum_of_squares)
}

fn log_sum(c: &mut Call) -> Result<Value> {
    reduced(c, |c, x, axes| {
        let sum = c.reduce_sum(x, axes)?;
        c.unary(Unary::Log, sum)
    })
}

/// `m + log Σ e^{x − m}` with the maximum `m`, or 0 where it is infinite. The derivative of `m` cancels.
fn log_sum_exp(c: &mut Call) -> Result<Value> {
    reduced(c, |c, x, axes| {
        let max = c.reduce_max(x, axes)?;
        let is_infinite = c.unary(Unary::IsInf, max)?;
        let zero = c.scalar_like(max, 0.0);
        let max = c.select(is_infinite, zero, max)?;
        let max = c.detach(max)?;
        let shifted = c.sub(x, max)?;
        let exp = c.exp(shifted)?;
        let sum = c.reduce_sum(exp, axes)?;
        let log = c.unary(Unary::Log, sum)?;
        c.add(max, log)
    })
}

fn cumsum(c: &mut Call) -> Result<Value> {
    let axis = c.known_int(1, "axis")?;
    let (exclusive, reverse) = (c.flag("exclusive", false)?, c.flag("reverse", false)?);
    let x = c.operand(0)?;
    let axis = c.axis(axis, c.rank(x))?;
    c.cumsum(x, axis, exclusive, reverse)
}

/// Cumulative products. Each is computed on its own, with later elements replaced by ones.
fn cumprod(c: &mut Call) -> Result<Value> {
    let axis = c.known_int(1, "axis")?;
    let (exclusive, reverse) = (c.flag("exclusive", false)?, c.flag("reverse", false)?);
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let axis = c.axis(axis, shape.len())?;
    let size = shape[axis];
    if c.fact(x).len().max(size).saturating_mul(size) > 1 << 24 {
        return Err(c.unsupported(format!("running products of {size} elements are too long")));
    }
    let counts = |i: usize, j: usize| {
        let (i, j) = if reverse { (size - i, size - j) } else { (i, j) };
        if exclusive { j < i } else { j <= i }
    };
    let counted = (0..size * size).map(|k| counts(k / size, k % size)).collect();
    let mut square = vec![1; shape.len() + 1];
    (square[axis], square[axis + 1]) = (size, size);
    let counted = c.constant(Tensor::bool(&square, counted)?);
    let mut row = shape.clone();
    row.insert(axis, 1);
    let x = c.reshape(x, &row)?;
    let one = c.scalar_like(x, 1.0);
    let chosen = c.select(counted, x, one)?;
    let products = c.reduce_prod(chosen, &[axis + 1])?;
    c.reshape(products, &shape)
}

/// The int64 index along `axis` of the largest or smallest element; among equal ones, of the first or
/// the last. The axis is kept with length 1.
pub(super) fn first_index(
    c: &mut Call,
    x: Value,
    axis: usize,
    kind: Reduction,
    last: bool,
) -> Result<Value> {
    let size = c.shape(x)[axis];
    let mut column = vec![1; c.rank(x)];
    column[axis] = size;
    let column = c.made(column)?;
    let positions = Tensor::index(0..size as i64).reshape(&column)?;
    let positions = c.constant(positions);
    let best = c.reduce(kind, x, &[axis])?;
    let here = c.equal(x, best)?;
    let (outside, pick) = if last { (-1.0, Reduction::Max) } else { (size as f64, Reduction::Min) };
    let outside = c.scalar(DType::I64, outside);
    let candidates = c.select(here, positions, outside)?;
    c.reduce(pick, candidates, &[axis])
}

fn arg(c: &mut Call, kind: Reduction) -> Result<Value> {
    let x = c.fixed(0)?;
    let shape = c.shape(x);
    let axis = c.axis(c.int("axis", 0)?, shape.len())?;
    let last = c.flag("select_last_index", false)?;
    let index = first_index(c, x, axis, kind, last)?;
    if c.flag("keepdims", true)? {
        return Ok(index);
    }
    let mut kept = shape;
    kept.remove(axis);
    c.reshape(index, &kept)
}
