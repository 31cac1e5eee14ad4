//! Summands that a normalisation or a softmax takes out again.

use std::collections::HashMap;

use super::means::mean_axes;
use crate::error::Result;
use crate::graph::{Builder, Derived, Graph, Output, Parameter, Value};
use crate::ops::{BatchNorm, BatchNormMode, Binary, Op, Primitive, Softmax, Unary};

/// What is added to the operand of a softmax to leave it out is at most this.
const SHUT_OUT: f64 = -1e4;

/// How far back from a normalisation its summands are looked for.
const DEPTH: usize = 64;

/// `graph` without the summands that are constant along the axes that they are centred over.
///
/// Subtracting the mean over some axes, or a softmax along one, gives the same result whatever constant
/// is added to its operand along these axes: the bias of a convolution in front of an instance
/// normalisation, the bias of the keys of an attention. The gradient of such a parameter is zero in
/// exact arithmetic and rounding noise in float32. Without the summand the parameter has no gradient.
pub(super) fn without_shifts(graph: &Graph) -> Result<Derived> {
    let mut uses = vec![0; graph.nodes().len()];
    let mut statistics = uses.clone();
    for (_, node) in graph.nodes() {
        node.inputs.iter().for_each(|input| uses[input.index()] += 1);
        match (&node.op, node.inputs.as_slice()) {
            (Op::Apply(Primitive::Reduce(_)), &[x]) => statistics[x.index()] += 1,
            (Op::Apply(Primitive::Binary(Binary::Mul)), &[x, y]) if x == y => {
                statistics[x.index()] += 2;
            }
            (Op::Apply(Primitive::Binary(Binary::Sub)), &[x, m])
                if mean_axes(graph, m, x).is_some() =>
            {
                statistics[x.index()] += 1;
            }
            _ => {}
        }
    }
    for output in graph.outputs() {
        uses[output.value.index()] += 1;
    }
    let mut shifts = Shifts::default();
    let mut b = Builder::default();
    let map = b.import(&with_all_parameters(graph), |b, _, node, inputs| {
        for (old, &new) in node.inputs.iter().zip(inputs) {
            shifts.uses.insert(new, uses[old.index()]);
            shifts.statistics.insert(new, statistics[old.index()]);
        }
        let Op::Apply(op) = &node.op else { return Ok(None) };
        match (op, inputs) {
            (Primitive::Binary(Binary::Sub), &[x, mean]) => {
                if let Some(axes) = mean_axes(b.graph(), mean, x).map(<[usize]>::to_vec) {
                    let known = shifts.statistics_of(x);
                    let Some(x) = shifts.taken_out(b, x, &axes, known)? else { return Ok(None) };
                    let mean = b.reduce_mean(x, &axes)?;
                    return b.sub(x, mean).map(Some);
                }
                let Some((x, axes)) = fast_variance(b.graph(), x, mean) else { return Ok(None) };
                let known = shifts.statistics_of(x);
                let Some(x) = shifts.taken_out(b, x, &axes, known)? else { return Ok(None) };
                let square = b.mul(x, x)?;
                let (second, mean) = (b.reduce_mean(square, &axes)?, b.reduce_mean(x, &axes)?);
                let square = b.mul(mean, mean)?;
                b.sub(second, square).map(Some)
            }
            (Primitive::Softmax(Softmax { axis, log }), &[x]) => {
                let found = match log {
                    // What is shut out has a logarithm.
                    true => shifts.taken_out(b, x, &[*axis], 1)?,
                    false => shifts.taken_out_behind_mask(b, x, *axis)?,
                };
                match found {
                    Some(x) => b.push(op.clone(), &[x]).map(Some),
                    None => Ok(None),
                }
            }
            (Primitive::BatchNorm(BatchNorm { mode: BatchNormMode::Batch, .. }), &[x, ..]) => {
                let axes: Vec<usize> = (0..b.rank(x)).filter(|&axis| axis != 1).collect();
                shifts.over_samples = true;
                let found = shifts.taken_out(b, x, &axes, 1)?;
                shifts.over_samples = false;
                match found {
                    Some(x) => b.push(op.clone(), &[&[x], &inputs[1..]].concat()).map(Some),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(Derived { graph: b.finish().verified(), map })
}

/// The value and axes of which `mean(x²) − mean(x)²` is the variance.
fn fast_variance(graph: &Graph, second: Value, square: Value) -> Option<(Value, Vec<usize>)> {
    let squared = |v: Value| match (&graph.node(v).op, graph.node(v).inputs.as_slice()) {
        (Op::Apply(Primitive::Binary(Binary::Mul)), &[p, q]) if p == q => Some(p),
        _ => None,
    };
    let x = squared(*graph.node(second).inputs.first()?)?;
    let axes = mean_axes(graph, squared(square)?, x)?;
    let of_square = mean_axes(graph, second, graph.node(second).inputs[0])?;
    (axes == of_square).then(|| (x, axes.to_vec()))
}

/// `graph` with its parameters as outputs, too: those without a gradient stay parameters.
fn with_all_parameters(graph: &Graph) -> Graph {
    let output = |(value, p): (Value, &Parameter)| Output { name: p.name.to_string(), value };
    let mut outputs = graph.outputs().to_vec();
    outputs.extend(graph.parameters().map(output));
    graph.clone().with_outputs_kept(outputs)
}

#[derive(Default)]
struct Shifts {
    /// How often a value is used.
    uses: HashMap<Value, usize>,
    /// How many of these uses are its mean, its square, or its difference from its mean.
    statistics: HashMap<Value, usize>,
    /// Whether means are over all samples, for which the graph has no axis yet.
    over_samples: bool,
    /// For each value of the new graph, whether it depends on an input.
    varies: Vec<bool>,
    /// What was found before: normalisations on one stream of sums share most of it.
    done: HashMap<(Value, Vec<usize>, bool), Option<Value>>,
}

impl Shifts {
    /// Whether `v` differs between samples.
    fn varies(&mut self, graph: &Graph, v: Value) -> bool {
        for (_, node) in graph.nodes().skip(self.varies.len()) {
            let is_input = matches!(node.op, Op::Input(_));
            self.varies.push(is_input || node.inputs.iter().any(|v| self.varies[v.index()]));
        }
        self.varies[v.index()]
    }

    fn statistics_of(&self, x: Value) -> usize {
        self.statistics.get(&x).copied().unwrap_or(0)
    }

    /// `x` without its summands that are constant along `axes`, `None` where it has none. What is
    /// computed from such a summand is computed once more without it, so costly operations are looked
    /// through only where nothing beside the `known` uses needs their result.
    fn taken_out(
        &mut self,
        b: &mut Builder,
        x: Value,
        axes: &[usize],
        known: usize,
    ) -> Result<Option<Value>> {
        self.search(b, x, axes, known, DEPTH)
    }

    /// What [`Shifts::taken_out`] is for the operand of a softmax, in which a mask may have put a number
    /// that leaves an element out.
    fn taken_out_behind_mask(
        &mut self,
        b: &mut Builder,
        x: Value,
        axis: usize,
    ) -> Result<Option<Value>> {
        let node = b.graph().node(x).clone();
        let (Op::Apply(Primitive::Where(_)), &[mask, p, q]) = (&node.op, &node.inputs[..]) else {
            return self.taken_out(b, x, &[axis], 1);
        };
        let shuts_out = |b: &Builder, v: Value| b.as_uniform(v).is_some_and(|v| v <= SHUT_OUT);
        let is_whole = |b: &Builder, v: Value| b.shape(v) == node.fact.shape;
        if shuts_out(b, q) && is_whole(b, p) {
            let rest = self.taken_out(b, p, &[axis], 1)?;
            return rest.map(|p| b.select(mask, p, q)).transpose();
        }
        if shuts_out(b, p) && is_whole(b, q) {
            let rest = self.taken_out(b, q, &[axis], 1)?;
            return rest.map(|q| b.select(mask, p, q)).transpose();
        }
        Ok(None)
    }

    fn search(
        &mut self,
        b: &mut Builder,
        x: Value,
        axes: &[usize],
        known: usize,
        depth: usize,
    ) -> Result<Option<Value>> {
        let key = (x, axes.to_vec(), self.over_samples);
        if let Some(found) = self.done.get(&key) {
            return Ok(*found);
        }
        let found = match depth.checked_sub(1) {
            Some(depth) => self.look(b, x, axes, known, depth)?,
            None => None,
        };
        self.done.insert(key, found);
        Ok(found)
    }

    fn look(
        &mut self,
        b: &mut Builder,
        x: Value,
        axes: &[usize],
        known: usize,
        depth: usize,
    ) -> Result<Option<Value>> {
        let node = b.graph().node(x).clone();
        let Op::Apply(op) = &node.op else { return Ok(None) };
        let shape = &node.fact.shape;
        let [p_is_constant, q_is_constant] = [0, 1].map(|i| match (op, node.inputs.get(i)) {
            (Primitive::Binary(_), Some(&v)) => {
                is_constant(b.graph(), v, shape.len(), axes)
                    && !(self.over_samples && self.varies(b.graph(), v))
            }
            _ => false,
        });
        let is_whole = |b: &Builder, v: Value| b.graph().shape(v) == shape;
        match (op, node.inputs.as_slice()) {
            (Primitive::Binary(f @ (Binary::Add | Binary::Sub)), &[p, q]) => {
                match (p_is_constant, q_is_constant) {
                    (false, true) if is_whole(b, p) => {
                        let rest = self.search(b, p, axes, 1, depth)?;
                        Ok(Some(rest.unwrap_or(p)))
                    }
                    (true, false) if is_whole(b, q) => {
                        let rest = self.search(b, q, axes, 1, depth)?.unwrap_or(q);
                        if *f == Binary::Sub { b.neg(rest).map(Some) } else { Ok(Some(rest)) }
                    }
                    (false, false) => {
                        let mut rest = |b: &mut Builder, v| {
                            if is_whole(b, v) {
                                self.search(b, v, axes, 1, depth)
                            } else {
                                Ok(None)
                            }
                        };
                        match (rest(b, p)?, rest(b, q)?) {
                            (None, None) => Ok(None),
                            (left, right) => {
                                b.push(*f, &[left.unwrap_or(p), right.unwrap_or(q)]).map(Some)
                            }
                        }
                    }
                    _ => Ok(None),
                }
            }
            (Primitive::Binary(f @ (Binary::Mul | Binary::Div)), &[p, q])
                if q_is_constant && is_whole(b, p) =>
            {
                match self.search(b, p, axes, 1, depth)? {
                    Some(p) => b.push(*f, &[p, q]).map(Some),
                    None => Ok(None),
                }
            }
            (Primitive::Binary(Binary::Mul), &[p, q]) if p_is_constant && is_whole(b, q) => {
                match self.search(b, q, axes, 1, depth)? {
                    Some(q) => b.mul(p, q).map(Some),
                    None => Ok(None),
                }
            }
            (Primitive::Concat(concat), operands) => {
                let mut rest = Vec::new();
                for &operand in operands {
                    rest.push(self.search(b, operand, axes, 1, depth)?);
                }
                // Along `axes` the parts must have one summand: they are padding, parts of one value
                // that are cut along `axes`.
                let whole = |i: usize| sliced(b.graph(), operands[i], axes);
                let is_padding = || (1..operands.len()).all(|i| whole(i) == whole(0));
                let passes = match axes.contains(&concat.axis) {
                    true => rest.iter().all(Option::is_some) && is_padding(),
                    false => rest.iter().any(Option::is_some),
                };
                if !passes {
                    return Ok(None);
                }
                let rest: Vec<Value> =
                    rest.iter().zip(operands).map(|(rest, v)| rest.unwrap_or(*v)).collect();
                b.push(op.clone(), &rest).map(Some)
            }
            (_, operands) => {
                let Some((i, axes)) = passes(b.graph(), op, operands, shape, axes) else {
                    return Ok(None);
                };
                let is_shared = self.uses.get(&x).is_none_or(|&uses| uses > known);
                if is_costly(op) && is_shared {
                    return Ok(None);
                }
                match self.search(b, operands[i], &axes, 1, depth)? {
                    Some(rest) => {
                        let mut operands = operands.to_vec();
                        operands[i] = rest;
                        b.push(op.clone(), &operands).map(Some)
                    }
                    None => Ok(None),
                }
            }
        }
    }
}

/// Whether `v`, broadcast to `rank` axes, is constant along `axes`.
pub(super) fn is_constant(graph: &Graph, v: Value, rank: usize, axes: &[usize]) -> bool {
    let node = graph.node(v);
    let own = match (&node.op, node.inputs.as_slice()) {
        (Op::Apply(Primitive::Expand(_)), &[x]) => graph.shape(x),
        _ => &node.fact.shape[..],
    };
    rank.checked_sub(own.len())
        .is_some_and(|missing| axes.iter().all(|&axis| axis < missing || own[axis - missing] == 1))
}

/// The value that `v` is a slice of, along `axes` only.
fn sliced(graph: &Graph, mut v: Value, axes: &[usize]) -> Value {
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

fn is_costly(op: &Primitive) -> bool {
    matches!(op, Primitive::Conv(_) | Primitive::MatMul(_))
}

/// The operand of `op` that passes a summand on, and the axes along which this must be constant for that
/// of the result to be so along `axes`.
fn passes(
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
pub(super) enum Mixed {
    /// The others are taken with them.
    Included,
    /// There is no answer.
    Refused,
}

/// The axes of `from` whose elements are those along `axes` of its reshape `to`, with what becomes of
/// those that are mixed with others. Axes of length 1 are left out.
pub(super) fn reshaped_axes(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval};
    use crate::ops::{MaxPool, Window};
    use crate::tensor::{DType, Tensor};
    use crate::transform::grad;

    fn noise(shape: &[usize], seed: f64) -> Tensor {
        let len = shape.iter().product::<usize>();
        Tensor::f64(shape, (0..len).map(|i| (seed + 2.3 * i as f64).sin()).collect()).unwrap()
    }

    /// A graph that `make` makes of an input and a parameter of these shapes, which has no gradient where
    /// `is_free`: the result and the gradients of the others are the same without it.
    fn check(
        what: &str,
        input: &[usize],
        shift: &[usize],
        is_free: bool,
        make: impl Fn(&mut Builder, Value, Value) -> Result<Value>,
    ) {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, input));
        let scale = b.parameter("scale", noise(&vec![1; input.len()], 1.0));
        let scaled = b.mul(x, scale).unwrap();
        let shift = b.parameter("shift", noise(shift, 2.0));
        let y = make(&mut b, scaled, shift).unwrap();
        let weights = b.constant(noise(&b.shape(y), 3.0));
        let y = b.mul(y, weights).unwrap();
        let y = b.sum_all(y).unwrap();
        b.output("y", y);
        let graph = b.finish();
        let without = without_shifts(&graph).unwrap().graph;
        let left: Vec<_> = without.pruned().parameters().map(|(_, p)| p.name.to_string()).collect();
        let expected: &[&str] = if is_free { &["scale"] } else { &["scale", "shift"] };
        assert_eq!(left, expected, "{what}");
        let [old, new] = [&graph, &without].map(|graph| slope(graph, input));
        for (old, new) in old.iter().zip(new) {
            assert!((old - new).abs() < 1e-12, "{what}: {old} {new}");
        }
    }

    /// The first output, and its derivative by the parameter "scale".
    fn slope(graph: &Graph, input: &[usize]) -> [f64; 2] {
        let y = graph.outputs()[0].value;
        let (scale, _) = graph.parameters().find(|(_, p)| &*p.name == "scale").unwrap();
        let (with_gradient, cotangents) = grad(graph, y, &[scale]).unwrap();
        let mut outputs = graph.outputs().to_vec();
        outputs.push(Output { name: "slope".into(), value: cotangents[0].unwrap() });
        let values = eval(&with_gradient.with_outputs(outputs), &[noise(input, 0.0)]).unwrap();
        [values[0].to_f64().sum(), values[1].to_f64().sum()]
    }

    fn centre(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value> {
        let mean = b.reduce_mean(x, axes)?;
        let centred = b.sub(x, mean)?;
        let square = b.mul(centred, centred)?;
        let variance = b.reduce_mean(square, axes)?;
        let variance = b.shift(variance, 0.5)?;
        b.div(centred, variance)
    }

    #[test]
    fn summands_that_are_centred_have_no_gradient() {
        let image = &[1, 4, 6, 6][..];
        let channels = &[4, 1, 1][..];
        check("a bias", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            centre(b, y, &[2, 3])
        });
        check("a bias in front of a fast variance", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            let (mean, square) = (b.reduce_mean(y, &[2, 3])?, b.mul(y, y)?);
            let (second, squared) = (b.reduce_mean(square, &[2, 3])?, b.mul(mean, mean)?);
            let variance = b.sub(second, squared)?;
            let variance = b.shift(variance, 0.5)?;
            let centred = b.sub(y, mean)?;
            b.div(centred, variance)
        });
        check("a bias that is subtracted from", image, channels, true, |b, x, s| {
            let y = b.sub(s, x)?;
            centre(b, y, &[2, 3])
        });
        check("a bias of some channels, over all of them", image, channels, false, |b, x, s| {
            let y = b.add(x, s)?;
            centre(b, y, &[1, 2, 3])
        });
        check("a bias behind a rectifier", image, channels, false, |b, x, s| {
            let y = b.add(x, s)?;
            let y = b.relu(y)?;
            centre(b, y, &[2, 3])
        });
        check("a bias, scaled, in a sum", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            let factor = b.constant(noise(&[4, 1, 1], 4.0));
            let y = b.mul(factor, y)?;
            let branch = b.relu(x)?;
            let y = b.sub(branch, y)?;
            centre(b, y, &[2, 3])
        });
        check("groups of one channel", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            let y = b.reshape(y, &[1, 4, 36])?;
            centre(b, y, &[2])
        });
        check("a reshape that parts an axis", &[1, 4, 36], &[4, 1], true, |b, x, s| {
            let y = b.add(x, s)?;
            let y = b.reshape(y, &[1, 4, 6, 6])?;
            centre(b, y, &[3])
        });
        check("groups of two channels", image, channels, false, |b, x, s| {
            let y = b.add(x, s)?;
            let y = b.reshape(y, &[1, 2, 72])?;
            centre(b, y, &[2])
        });
    }

    #[test]
    fn summands_are_found_behind_what_passes_them_on() {
        let image = &[1, 4, 6, 6][..];
        let channels = &[4, 1, 1][..];
        let conv = |kernel: usize, window: Window, is_free: bool| {
            check(&format!("{window:?}"), image, channels, is_free, |b, x, s| {
                let y = b.add(x, s)?;
                let w = b.constant(noise(&[2, 4, kernel, kernel], 5.0));
                let y = b.conv(y, w, window.clone())?;
                centre(b, y, &[2, 3])
            });
        };
        conv(1, Window::plain(2), true);
        conv(3, Window { strides: vec![2, 1], ..Window::plain(2) }, true);
        conv(3, Window { pads_end: vec![0, 1], ..Window::plain(2) }, false);
        for indices in [[5, 0, 1, 2, 3, 4, 5, 0], [0, 0, 1, 2, 3, 4, 5, 5]] {
            check("padding with elements", image, channels, true, |b, x, s| {
                let y = b.add(x, s)?;
                let indices = b.constant(Tensor::index(indices));
                let y = b.gather(y, indices, 2)?;
                centre(b, y, &[2, 3])
            });
        }
        for (i, is_free) in [(0, true), (1, false)] {
            check("padding with parts", image, channels, is_free, |b, x, s| {
                let y = b.add(x, s)?;
                let end = b.slice_axis([y, x][i], 3, 4, 6, 1)?;
                let y = b.concat(&[end, y], 3)?;
                centre(b, y, &[2, 3])
            });
        }
        for (number, is_free) in [(-1e9, true), (0.0, false)] {
            check("a mask", &[1, 6], &[1], is_free, |b, x, s| {
                let y = b.add(x, s)?;
                let mask = b.constant(Tensor::f64(&[6], vec![0., 1., 1., 0., 1., 1.])?);
                let mask = b.cast(mask, DType::Bool)?;
                let number = b.scalar(DType::F64, number);
                let y = b.select(mask, y, number)?;
                b.softmax(y, 1)
            });
        }
        check("a part of the channels", image, &[2, 1, 1], true, |b, x, s| {
            let (one, other) = (b.slice_axis(x, 1, 0, 2, 1)?, b.slice_axis(x, 1, 2, 4, 1)?);
            let other = b.add(other, s)?;
            let y = b.concat(&[one, other], 1)?;
            centre(b, y, &[2, 3])
        });
        check("one that is needed twice", image, channels, false, |b, x, s| {
            let y = b.add(x, s)?;
            let w = b.constant(noise(&[4, 4, 1, 1], 5.0));
            let y = b.conv(y, w, Window::plain(2))?;
            let z = centre(b, y, &[2, 3])?;
            b.mul(y, z)
        });
        check("maxima of windows", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            let pool = MaxPool::new(&[3, 3], &[2, 2], &[1, 1], &[1, 1], &[1, 1]);
            let y = b.push(pool, &[y])?;
            centre(b, y, &[2, 3])
        });
    }

    #[test]
    fn summands_that_are_mixed_with_others_stay() {
        let image = &[1, 4, 6, 6][..];
        for (kernel, is_free) in [([1, 3], true), ([3, 1], false)] {
            check("a pool over another axis", image, &[4, 6, 1], is_free, |b, x, s| {
                let y = b.add(x, s)?;
                let pool = MaxPool::new(&kernel, &[1, 1], &[1, 1], &[0, 0], &[0, 0]);
                let y = b.push(pool, &[y])?;
                centre(b, y, &[3])
            });
        }
        check("halves, one behind the other", image, &[4, 1, 1], false, |b, x, s| {
            let y = b.add(x, s)?;
            let (one, other) = (b.slice_axis(y, 1, 0, 2, 1)?, b.slice_axis(y, 1, 2, 4, 1)?);
            let y = b.concat(&[one, other], 2)?;
            centre(b, y, &[2, 3])
        });
        check("a logarithm of what a mask shuts out", &[1, 6], &[1], false, |b, x, s| {
            let y = b.add(x, s)?;
            let mask = b.constant(Tensor::f64(&[6], vec![0., 1., 1., 0., 1., 1.])?);
            let mask = b.cast(mask, DType::Bool)?;
            let number = b.scalar(DType::F64, -1e4);
            let y = b.select(mask, y, number)?;
            b.log_softmax(y, 1)
        });
    }

    /// In front of batch statistics a summand is constant only if all samples have it.
    #[test]
    fn summands_of_single_samples_stay_in_front_of_batch_statistics() {
        for (own, expected) in [(false, &["scale"][..]), (true, &["scale", "shift"])] {
            for reshaped in [false, true] {
                let mut b = Builder::default();
                let x = b.input("x", Fact::new(DType::F64, [1, 2, 4]));
                let scale = b.parameter("scale", noise(&[1, 1, 1], 1.0));
                let y = b.mul(x, scale).unwrap();
                let shift = b.parameter("shift", noise(&[2, 1], 2.0));
                let pooled = b.reduce_mean(x, &[2]).unwrap();
                let summand = if own { b.mul(pooled, shift).unwrap() } else { shift };
                let y = b.add(y, summand).unwrap();
                let shape: &[usize] = if reshaped { &[1, 2, 2, 2] } else { &[1, 2, 4] };
                let y = b.reshape(y, shape).unwrap();
                let ones = b.constant(Tensor::full(DType::F64, &[2], 1.0));
                let norm = BatchNorm { epsilon: 0.5.into(), mode: BatchNormMode::Batch };
                let y = b.push(norm, &[y, ones, ones, ones, ones]).unwrap();
                b.output("y", y);
                let graph = without_shifts(&b.finish()).unwrap().graph.pruned();
                let left: Vec<_> = graph.parameters().map(|(_, p)| p.name.to_string()).collect();
                assert_eq!(left, expected, "{own} {reshaped}");
            }
        }
    }

    #[test]
    fn the_bias_of_keys_has_no_gradient() {
        let (tokens, width, heads) = (5, 6, 2);
        let part = |b: &mut Builder, x: Value, i: usize, bias: Option<Value>| -> Result<Value> {
            let part = b.slice_axis(x, 2, i * width, (i + 1) * width, 1)?;
            let part = bias.map_or(Ok(part), |bias| b.add(part, bias))?;
            let part = b.reshape(part, &[1, tokens, heads, width / heads])?;
            b.transpose(part, &[0, 2, 1, 3])
        };
        for is_free in [false, true] {
            check("attention", &[1, tokens, width], &[width], is_free, |b, x, s| {
                let w = b.constant(noise(&[width, 2 * width], 6.0));
                let both = b.matmul(x, w)?;
                let q = part(b, both, 0, Some(s).filter(|_| !is_free))?;
                let k = part(b, both, 1, Some(s).filter(|_| is_free))?;
                let weights = b.matmul_t(q, k, false, true)?;
                let weights = b.scale(weights, 0.4)?;
                b.softmax(weights, 3)
            });
        }
    }

    #[test]
    fn axes_are_followed_through_reshapes() {
        let exactly = |from: &[usize], to: &[usize], axes: &[usize]| {
            reshaped_axes(from, to, axes, Mixed::Refused)
        };
        assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[1]), Some(vec![1]));
        assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[2, 3]), Some(vec![2]));
        assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[3]), None);
        assert_eq!(exactly(&[1, 4, 3, 3], &[4, 9], &[1]), Some(vec![2, 3]));
        assert_eq!(exactly(&[4, 9], &[1, 4, 1, 3, 3], &[0, 2, 3, 4]), Some(vec![1]));
        assert_eq!(exactly(&[2, 3], &[3, 2], &[1]), None);
        let more = reshaped_axes(&[2, 12], &[2, 3, 4], &[2], Mixed::Included);
        assert_eq!(more, Some(vec![1]));
        assert_eq!(exactly(&[1, 1], &[1], &[0]), Some(vec![]));
    }
}
