//! Patterns of graph nodes that activations are written with.

use super::{MARGIN, MAX_DEPTH};
use crate::error::Result;
use crate::graph::{Builder, Node, Value};
use crate::ops::{Binary, Op, Primitive, Reduction, Unary};

/// The operand of `value`, if `value` is `f` of it.
pub(super) fn operand_of(b: &Builder, value: Value, f: Unary) -> Option<Value> {
    let Node { op, inputs, .. } = b.graph().node(value);
    matches!(op, Op::Apply(Primitive::Unary(g)) if *g == f).then(|| inputs[0])
}

/// `−x`, or `y` if `x` is `−y`.
pub(super) fn negated(b: &mut Builder, x: Value) -> Result<Value> {
    match operand_of(b, x, Unary::Neg) {
        Some(inner) => Ok(inner),
        None => b.neg(x),
    }
}

/// `scale · inner + shift`.
pub(super) struct Affine {
    pub scale: f64,
    pub shift: f64,
    pub inner: Value,
}

/// Strips all constant factors and summands from `value`.
pub(super) fn affine(b: &Builder, value: Value) -> Affine {
    let mut at = Affine { scale: 1.0, shift: 0.0, inner: value };
    for _ in 0..MAX_DEPTH {
        let Node { op, inputs, fact, .. } = b.graph().node(at.inner);
        let Op::Apply(op) = op else { break };
        if *op == Primitive::Unary(Unary::Neg) {
            (at.scale, at.inner) = (-at.scale, inputs[0]);
            continue;
        }
        let (Primitive::Binary(f), &[x, y]) = (op, &inputs[..]) else { break };
        let (inner, constant, first) = match (b.as_uniform(x), b.as_uniform(y)) {
            (None, Some(c)) => (x, c, false),
            (Some(c), None) => (y, c, true),
            _ => break,
        };
        if b.fact(inner) != fact {
            break;
        }
        match (f, first) {
            (Binary::Add, _) => at.shift += at.scale * constant,
            (Binary::Sub, false) => at.shift -= at.scale * constant,
            (Binary::Sub, true) => {
                at.shift += at.scale * constant;
                at.scale = -at.scale;
            }
            (Binary::Mul, _) => at.scale *= constant,
            (Binary::Div, false) => at.scale /= constant,
            _ => break,
        }
        at.inner = inner;
    }
    at
}

/// `x`, if `value` is `1 + exp(x)`.
pub(super) fn one_plus_exp(b: &Builder, value: Value) -> Option<Value> {
    let Affine { scale, shift, inner } = affine(b, value);
    if (scale, shift) == (1.0, 1.0) { operand_of(b, inner, Unary::Exp) } else { None }
}

/// For a selection that clamps, such as `x > c ? x : c`: the value clamped, whether from below, and
/// the bound.
pub(super) fn clamp(b: &Builder, inputs: &[Value]) -> Option<(Value, bool, f64)> {
    let &[condition, yes, no] = inputs else { return None };
    let Node { op: Op::Apply(Primitive::Binary(f)), inputs: compared, .. } =
        b.graph().node(condition)
    else {
        return None;
    };
    let (x, bound, chosen) = match (b.as_uniform(no), b.as_uniform(yes)) {
        (Some(bound), None) => (yes, bound, true),
        (None, Some(bound)) => (no, bound, false),
        _ => return None,
    };
    let greater = match f {
        Binary::Greater | Binary::GreaterOrEqual => true,
        Binary::Less | Binary::LessOrEqual => false,
        _ => return None,
    };
    let (x_first, against) = match (compared[0] == x, compared[1] == x) {
        (true, false) => (true, compared[1]),
        (false, true) => (false, compared[0]),
        _ => return None,
    };
    // Clamped from below: x is selected where it is above the bound, or the bound where x is below.
    let from_below = (greater == x_first) == chosen;
    (b.as_uniform(against) == Some(bound)).then_some((x, from_below, bound))
}

/// The length of `value` along `axis` when it is broadcast to `rank` axes.
pub(super) fn size_along(b: &Builder, value: Value, axis: usize, rank: usize) -> usize {
    let shape = b.graph().shape(value);
    (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i])
}

/// `value` without the reshapes, broadcasts and detachments around it.
fn without_views(b: &Builder, mut value: Value) -> Value {
    loop {
        let node = b.graph().node(value);
        match &node.op {
            Op::Apply(Primitive::Reshape(_) | Primitive::Expand(_) | Primitive::Detach(_)) => {
                value = node.inputs[0];
            }
            _ => return value,
        }
    }
}

/// The axis and operand of a reduction over a single axis.
fn reduction(b: &Builder, value: Value, kind: Reduction) -> Option<(usize, Value)> {
    let node = b.graph().node(without_views(b, value));
    let Op::Apply(Primitive::Reduce(reduce)) = &node.op else { return None };
    match reduce.axes[..] {
        [axis] if reduce.kind == kind => Some((axis, node.inputs[0])),
        _ => None,
    }
}

/// The axis and operand of a maximum over a single axis. Infinite maxima may be replaced by 0.
fn maximum(b: &Builder, value: Value) -> Option<(usize, Value)> {
    let node = b.graph().node(without_views(b, value));
    match (&node.op, &node.inputs[..]) {
        (Op::Apply(Primitive::Where(_)), &[test, zero, max])
            if b.as_uniform(zero) == Some(0.0)
                && operand_of(b, test, Unary::IsInf).is_some_and(|tested| tested == max) =>
        {
            reduction(b, max, Reduction::Max)
        }
        _ => reduction(b, value, Reduction::Max),
    }
}

/// The axis over which `y` is the sum of `x` or of `|x|`, and whether it is that of `|x|`. A small
/// constant may be added to the sum, or bound it from below.
pub(super) fn sum_over_axis(b: &Builder, x: Value, y: Value) -> Option<(usize, bool)> {
    let mut sum = y;
    for _ in 0..MAX_DEPTH {
        let Affine { scale, shift, inner } = affine(b, without_views(b, sum));
        if scale != 1.0 || shift.abs() > MARGIN {
            return None;
        }
        let node = b.graph().node(inner);
        let clamped = match &node.op {
            Op::Apply(Primitive::Where(_)) => clamp(b, &node.inputs),
            Op::Apply(Primitive::Binary(Binary::Max)) => {
                match (b.as_uniform(node.inputs[0]), b.as_uniform(node.inputs[1])) {
                    (None, Some(bound)) => Some((node.inputs[0], true, bound)),
                    (Some(bound), None) => Some((node.inputs[1], true, bound)),
                    _ => None,
                }
            }
            _ => None,
        };
        match clamped {
            Some((clamped, true, bound)) if bound <= MARGIN => sum = clamped,
            Some(_) => return None,
            None => {
                sum = inner;
                break;
            }
        }
    }
    let (axis, summand) = reduction(b, sum, Reduction::Sum)?;
    // Before broadcasting, the divisor must have the length of x along all axes but the summed one.
    let mut divisor = y;
    while let Op::Apply(Primitive::Expand(_)) = b.graph().node(divisor).op {
        divisor = b.graph().node(divisor).inputs[0];
    }
    let along = |i: usize| size_along(b, divisor, i, b.rank(x));
    let fits = |i: usize| along(i) == if i == axis { 1 } else { b.graph().shape(x)[i] };
    if !(0..b.rank(x)).all(fits) {
        return None;
    }
    match operand_of(b, summand, Unary::Abs) {
        Some(inner) if inner == x => Some((axis, true)),
        _ => (summand == x).then_some((axis, false)),
    }
}

/// `x` without a subtracted maximum along `axis`, which does not change the softmax.
pub(super) fn without_max(b: &Builder, x: Value, axis: usize) -> Value {
    let node = b.graph().node(x);
    match (&node.op, &node.inputs[..]) {
        (Op::Apply(Primitive::Binary(Binary::Sub)), &[z, max])
            if maximum(b, max) == Some((axis, z)) && b.graph().shape(z) == b.graph().shape(x) =>
        {
            z
        }
        _ => x,
    }
}

/// The axis and the logits, if `x − y` is a log-softmax: `y` is `log Σ exp x`, or
/// `max + log Σ exp(x − max)`.
pub(super) fn log_softmax_in_parts(b: &Builder, x: Value, y: Value) -> Option<(usize, Value)> {
    let of_log = |log: Value| {
        let sum = operand_of(b, without_views(b, log), Unary::Log)?;
        let (axis, exp) = reduction(b, sum, Reduction::Sum)?;
        Some((axis, operand_of(b, exp, Unary::Exp)?))
    };
    let y = without_views(b, y);
    if let Some((axis, exponent)) = of_log(y) {
        return (exponent == x).then(|| (axis, without_max(b, x, axis)));
    }
    let Node { op: Op::Apply(Primitive::Binary(Binary::Add)), inputs, .. } = b.graph().node(y)
    else {
        return None;
    };
    [(inputs[0], inputs[1]), (inputs[1], inputs[0])].into_iter().find_map(|(max, log)| {
        let (axis, exponent) = of_log(log)?;
        let is_max = maximum(b, max) == Some((axis, x));
        (is_max && without_max(b, exponent, axis) == x).then_some((axis, x))
    })
}

/// The axis of `value` that corresponds to `axis` of `x`, if `op` keeps all elements along it in order.
pub(super) fn moved_axis(
    b: &Builder,
    op: &Primitive,
    x: Value,
    value: Value,
    axis: usize,
) -> Option<usize> {
    let (from, to) = (b.graph().shape(x), b.graph().shape(value));
    let new = match op {
        Primitive::Reshape(_) => {
            let before: usize = from[..axis].iter().product();
            (0..to.len())
                .find(|&i| to[..i].iter().product::<usize>() == before && to[i] == from[axis])?
        }
        Primitive::Transpose(transpose) => transpose.perm.iter().position(|&p| p == axis)?,
        Primitive::Expand(_) => axis + to.len().checked_sub(from.len())?,
        _ => axis,
    };
    (to.get(new) == Some(&from[axis])).then_some(new)
}
