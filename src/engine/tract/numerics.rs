//! Functions that tract computes wrongly far from 0 or close to it, in terms of others.

use crate::error::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Primitive, Softmax, Unary};

/// An operation in other primitives, if it is to be replaced.
pub(super) fn decompose(b: &mut Builder, op: &Primitive, x: &[Value]) -> Result<Option<Value>> {
    match op {
        Primitive::Softmax(Softmax { axis, log: true }) => log_softmax(b, x[0], *axis).map(Some),
        Primitive::Unary(Unary::Softplus) => softplus(b, x[0]).map(Some),
        Primitive::Unary(Unary::Erf) => error_function(b, x[0]).map(Some),
        // The function that this is made with is not taken apart again.
        Primitive::Unary(Unary::Tanh) => {
            let y = b.tanh(x[0])?;
            level_off(b, x[0], y, 9.02).map(Some)
        }
        _ => op.rule().decompose(b, x),
    }
}

/// `x − max x − ln Σ exp(x − max x)`: tract takes the logarithm of the softmax, which may be 0.
fn log_softmax(b: &mut Builder, x: Value, axis: usize) -> Result<Value> {
    let max = b.reduce_max(x, &[axis])?;
    let shifted = b.sub(x, max)?;
    let exp = b.exp(shifted)?;
    let sum = b.reduce_sum(exp, &[axis])?;
    let log = b.unary(Unary::Log, sum)?;
    b.sub(shifted, log)
}

/// `ln(1 + eˣ) = max(x, 0) + ln(1 + t)` with `t = e^{−|x|}` and `ln(1 + t) = 2 artanh(t / (2 + t))`.
fn softplus(b: &mut Builder, x: Value) -> Result<Value> {
    let size = b.unary(Unary::Abs, x)?;
    let negated = b.neg(size)?;
    let tail = b.exp(negated)?;
    let divisor = b.shift(tail, 2.0)?;
    let ratio = b.div(tail, divisor)?;
    let half = b.unary(Unary::Atanh, ratio)?;
    let log = b.scale(half, 2.0)?;
    let line = b.relu(x)?;
    b.add(line, log)
}

/// The error function by its series near 0, where an engine's has an absolute error:
/// `2/√π · (x − x³/3 + x⁵/10 − x⁷/42)` up to 1/4.
fn error_function(b: &mut Builder, x: Value) -> Result<Value> {
    let square = b.mul(x, x)?;
    let mut sum = b.scalar_like(x, -1.0 / 42.0);
    for coefficient in [0.1, -1.0 / 3.0, 1.0] {
        let higher = b.mul(sum, square)?;
        sum = b.shift(higher, coefficient)?;
    }
    let series = b.mul(sum, x)?;
    let series = b.scale(series, std::f64::consts::FRAC_2_SQRT_PI)?;
    let size = b.unary(Unary::Abs, x)?;
    let quarter = b.scalar_like(x, 0.25);
    let is_near = b.less(size, quarter)?;
    let far = b.unary(Unary::Erf, x)?;
    let far = level_off(b, x, far, 3.93)?;
    b.select(is_near, series, far)
}

/// `y`, which is `sign(x)` in float32 where `|x|` is beyond `bound`: an engine's approximation may stay
/// a unit in the last place below.
fn level_off(b: &mut Builder, x: Value, y: Value, bound: f64) -> Result<Value> {
    let size = b.unary(Unary::Abs, x)?;
    let bound = b.scalar_like(x, bound);
    let is_inside = b.less(size, bound)?;
    let sign = b.unary(Unary::Sign, x)?;
    b.select(is_inside, y, sign)
}
