//! What passes a summand on, and along which axes.

use crate::graph::{Graph, Value};
use crate::ops::{Op, Primitive, Unary};

/// Whether `v`, broadcast to `rank` axes, is constant along `axes`.
pub(in crate::transform) fn is_constant(
    graph: &Graph,
    v: Value,
    rank: usize,
    axes: &[usize],
) -> bool {
    let node = graph.node(v);
    let own = match (&node.op, node.inputs.as_slice()) {
        (Op::Apply(Primitive::Expand(_)), &[x]) => graph.shape(x),
        _ => &node.fact.shape[..],
    };
    rank.checked_sub(own.len())
        .is_some_and(|missing| axes.iter().all(|&axis| axis < missing || own[axis - missing] == 1))
}

/// The value that `v` is a slice of, along `axes` only.
pub(super) fn sliced(graph: &Graph, mut v: Value, axes: &[usize]) -> Value {
    while let Op::Apply(Primitive::Slice(_)) = graph.node(v).op {
        let whole = graph.node(v).inputs[0];
        let (from, to) = (graph.shape(whole), graph.shape(v));
        if (0..to.len()).any(|axis| from[axis] != to[axis] && !axes.contains(&axis)) {
            break;
        }
        v = whole;
    }
    v
}

pub(super) fn is_costly(op: &Primitive) -> bool {
    matches!(op, Primitive::Conv(_) | Primitive::MatMul(_))
}

/// The operand of `op` that passes a summand on, and the axes along which this must be constant for that
/// of the result to be so along `axes`.
pub(super) fn passes(
    graph: &Graph,
    op: &Primitive,
    operands: &[Value],
    shape: &[usize],
    axes: &[usize],
) -> Option<(usize, Vec<usize>)> {
    let rank = shape.len();
    let is_spatial = || axes.iter().all(|&axis| axis == 0 || axis >= 2);
    match op {
        Primitive::Unary(Unary::Neg) => Some((0, axes.to_vec())),
        Primitive::Conv(conv) => {
            (is_spatial() && !conv.window.is_padded()).then(|| (0, axes.to_vec()))
        }
        Primitive::AveragePool(pool) => {
            let is_padded = pool.pads_begin.iter().chain(&pool.pads_end).any(|&pad| pad > 0);
            (is_spatial() && !is_padded).then(|| (0, axes.to_vec()))
        }
        // The padding never wins, and a window must not reach over an axis along which the summand varies.
        Primitive::MaxPool(pool) => {
            let reaches = |(i, &k): (usize, &usize)| k > 1 && !axes.contains(&(i + 2));
            let passes = is_spatial() && !pool.kernel.iter().enumerate().any(reaches);
            passes.then(|| (0, axes.to_vec()))
        }
        Primitive::MatMul(op) => {
            let (rows, columns) = (rank.checked_sub(2)?, rank - 1);
            let (i, transposed) = match axes {
                [axis] if *axis == rows => (0, op.trans_a),
                [axis] if *axis == columns => (1, op.trans_b),
                _ => return None,
            };
            let own = graph.shape(operands[i]).len();
            Some((i, vec![if (i == 0) == transposed { own - 1 } else { own - 2 }]))
        }
        Primitive::Transpose(op) => {
            let mut own: Vec<usize> = axes.iter().map(|&axis| op.perm[axis]).collect();
            own.sort_unstable();
            Some((0, own))
        }
        // What is constant along more axes than asked for is constant along these.
        Primitive::Reshape(_) => {
            let own = reshaped_axes(graph.shape(operands[0]), shape, axes, Mixed::Included)?;
            Some((0, own))
        }
        Primitive::Slice(_) => Some((0, axes.to_vec())),
        // Padding with elements of the operand.
        Primitive::Gather(_) if graph.shape(operands[1]).len() == 1 => Some((0, axes.to_vec())),
        _ => None,
    }
}

/// What becomes of axes that a reshape mixes with others.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::transform) enum Mixed {
    /// The others are taken with them.
    Included,
    /// There is no answer.
    Refused,
}

/// The axes of `from` whose elements are those along `axes` of its reshape `to`, with what becomes of
/// those that are mixed with others. Axes of length 1 are left out.
pub(in crate::transform) fn reshaped_axes(
    from: &[usize],
    to: &[usize],
    axes: &[usize],
    mixed: Mixed,
) -> Option<Vec<usize>> {
    let long = |shape: &[usize]| (0..shape.len()).filter(|&i| shape[i] != 1).collect::<Vec<_>>();
    let (from_axes, to_axes) = (long(from), long(to));
    let (mut rest, mut new_rest) = (&from_axes[..], &to_axes[..]);
    let mut own = Vec::new();
    while !rest.is_empty() && !new_rest.is_empty() {
        // The shortest runs of axes with equally many elements.
        let (mut i, mut j) = (1, 1);
        let (mut left, mut right) = (from[rest[0]], to[new_rest[0]]);
        while left != right {
            if left < right {
                left *= from[*rest.get(i)?];
                i += 1;
            } else {
                right *= to[*new_rest.get(j)?];
                j += 1;
            }
        }
        let chosen = new_rest[..j].iter().filter(|axis| axes.contains(axis)).count();
        match chosen {
            0 => {}
            _ if chosen == j || mixed == Mixed::Included => own.extend(&rest[..i]),
            _ => return None,
        }
        (rest, new_rest) = (&rest[i..], &new_rest[j..]);
    }
    Some(own)
}
