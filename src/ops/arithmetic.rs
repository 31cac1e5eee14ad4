//! Arithmetic by a [`Builder`]'s methods, and the adjoint of broadcasting.

use super::Binary::{
    Add, And, Div, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Max, Min, Mul, Or, Pow, Sub,
};
use super::Builder;
use crate::error::Result;
use crate::ir::Value;

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $op:ident),* $(,)?) => {
        impl Builder {
            $($(#[$doc])* pub fn $name(&mut self, a: Value, b: Value) -> Result<Value> {
                self.push($op, &[a, b])
            })*
        }
    };
}
methods!(
    /// `a + b`, broadcast.
    add Add,
    /// `a − b`, broadcast.
    sub Sub,
    /// `a · b`, elementwise and broadcast.
    mul Mul,
    /// `a / b`, broadcast.
    div Div,
    /// `aᵇ`, broadcast.
    pow Pow,
    /// The larger operand, broadcast.
    max Max,
    /// The smaller operand, broadcast.
    min Min,
    /// `a = b`, as booleans.
    equal Equal,
    /// `a < b`, as booleans.
    less Less,
    /// `a ≤ b`, as booleans.
    less_or_equal LessOrEqual,
    /// `a > b`, as booleans.
    greater Greater,
    /// `a ≥ b`, as booleans.
    greater_or_equal GreaterOrEqual,
    /// Logical and.
    and And,
    /// Logical or.
    or Or,
);

impl Builder {
    /// `c · x` for a number `c`.
    pub fn scale(&mut self, x: Value, c: f64) -> Result<Value> {
        let c = self.scalar_like(x, c);
        self.mul(x, c)
    }

    /// `x + c` for a number `c`.
    pub fn shift(&mut self, x: Value, c: f64) -> Result<Value> {
        let c = self.scalar_like(x, c);
        self.add(x, c)
    }

    /// `1 − x`.
    pub fn one_minus(&mut self, x: Value) -> Result<Value> {
        let one = self.scalar_like(x, 1.0);
        self.sub(one, x)
    }

    /// Sums `dy` over the axes along which an operand like `to` was broadcast.
    pub fn unbroadcast(&mut self, dy: Value, to: Value) -> Result<Value> {
        let target = self.shape(to);
        self.sum_to(dy, &target)
    }

    /// The adjoint of broadcasting `shape` to the shape of `x`.
    pub(crate) fn sum_to(&mut self, x: Value, shape: &[usize]) -> Result<Value> {
        let from = self.shape(x);
        if from == shape {
            return Ok(x);
        }
        let extra = from.len().saturating_sub(shape.len());
        let axes: Vec<usize> = (0..from.len())
            .filter(|&i| i < extra || (shape[i - extra] == 1 && from[i] != 1))
            .collect();
        let sum = self.reduce_sum(x, &axes)?;
        // What was not broadcast so far: a scalar cotangent that stands for a full one.
        let sum = if self.shape(sum).len() < shape.len() { self.expand(sum, shape)? } else { sum };
        self.reshape(sum, shape)
    }

    /// `value`, which broadcasts to `outer`, shaped so that it broadcasts alike to `inner`, where
    /// `inner` is `outer` with unit axes left out or put in; `None` where that cannot be.
    pub(super) fn reshape_operand(
        &mut self,
        value: Value,
        outer: &[usize],
        inner: &[usize],
    ) -> Result<Option<Value>> {
        let squeezed = |s: &[usize]| s.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        if self.rank(value) == 0 {
            return Ok(Some(value));
        }
        let shape = self.shape(value);
        // Of two whole operands neither gains: the reshape would only change sides.
        let size = |s: &[usize]| s.iter().product::<usize>();
        let whole = size(&shape) == size(outer);
        if squeezed(outer) != squeezed(inner) || whole {
            return Ok(None);
        }
        let mut padded = vec![1; outer.len() - shape.len()];
        padded.extend(shape);
        // The operand's extent along each axis of `outer` that is not a unit axis, in order.
        let mut extents = padded.iter().zip(outer).filter(|(_, o)| **o != 1).map(|(p, _)| *p);
        let target: Vec<usize> =
            inner.iter().map(|&d| if d == 1 { 1 } else { extents.next().unwrap_or(1) }).collect();
        self.reshape(value, &target).map(Some)
    }
}
