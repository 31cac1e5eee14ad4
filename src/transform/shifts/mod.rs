//! Summands that a normalisation or a softmax takes out again.

mod passes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::means::mean_axes;
use crate::error::Result;
use crate::graph::{Builder, Derived, Graph, Output, Parameter, Value};
use crate::ops::{BatchNorm, BatchNormMode, Binary, Op, Primitive, Softmax};
pub(super) use passes::{Mixed, is_constant, reshaped_axes};
use passes::{is_costly, passes, sliced};

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
