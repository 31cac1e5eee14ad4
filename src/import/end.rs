//! The end of a model: the activation that belongs to its loss.
//!
//! What counts is the function, not how it is written. Exporters and users write a softmax as
//! `exp(x − max) / Σ exp(x − max)` or as `exp(log_softmax(x))`, a sigmoid as `1 / (1 + exp(−x))`,
//! clamp either, reshape it, put `1 − p` beside `p`, or have a branch for each of two settings.

use std::collections::HashMap;

use super::bounds::bounds;
use crate::error::Result;
use crate::graph::{Builder, Node, Value};
use crate::ops::{Binary, Op, Primitive, Reduction, Softmax, Unary};

/// An activation at the end of a model that belongs to its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalActivation {
    /// Softmax over the classes.
    Softmax,
    /// The logarithm of softmax.
    LogSoftmax,
    /// The logistic function, or its logarithm.
    Sigmoid,
}

/// How far back the end of a model is looked for.
const MAX_DEPTH: usize = 64;

/// What is added to probabilities, or kept off 0 and 1, so that their logarithms stay finite is at
/// most this.
const MARGIN: f64 = 0.01;

/// Takes the final activation off `output`: what goes into it, in the shape of the output.
pub(super) fn split_activation(
    b: &mut Builder,
    output: Value,
) -> Result<(Value, Option<FinalActivation>)> {
    let end = Ends::default().of(b, output, 0)?;
    Ok(match end {
        Some(End { function: Function::Sigmoid, logits, .. }) => {
            (logits, Some(FinalActivation::Sigmoid))
        }
        Some(End { function: Function::Softmax { axis }, logits, log })
            if over_classes(&b.shape(output), axis) =>
        {
            let log_softmax =
                if log { FinalActivation::LogSoftmax } else { FinalActivation::Softmax };
            (logits, Some(log_softmax))
        }
        _ => (output, None),
    })
}

/// Whether `axis` is that of the classes: the last one, or the second where what follows are
/// positions.
fn over_classes(shape: &[usize], axis: usize) -> bool {
    axis == 1 || shape[axis + 1..].iter().all(|&d| d == 1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Softmax { axis: usize },
    Sigmoid,
}

/// What a value is: a function of `logits`, which have its shape, or the logarithm of that. A
/// softmax may have a positive factor.
#[derive(Clone, Copy, Debug)]
struct End {
    function: Function,
    logits: Value,
    log: bool,
}

impl End {
    fn softmax(axis: usize, logits: Value) -> Self {
        End { function: Function::Softmax { axis }, logits, log: false }
    }

    fn sigmoid(logits: Value) -> Self {
        End { function: Function::Sigmoid, logits, log: false }
    }

    fn logarithm(self) -> Option<Self> {
        (!self.log).then_some(End { log: true, ..self })
    }

    fn exponential(self) -> Option<Self> {
        self.log.then_some(End { log: false, ..self })
    }

    fn probability(self) -> Option<Self> {
        (!self.log).then_some(self)
    }

    /// The same with its values kept above, or below, a bound: it counts where the bound only keeps
    /// logarithms finite.
    fn limited(self, from_below: bool, bound: f64) -> Option<Self> {
        let (lowest, highest) =
            if self.log { (MARGIN.ln(), (1.0 - MARGIN).ln()) } else { (MARGIN, 1.0 - MARGIN) };
        let harmless = if from_below { bound <= lowest } else { bound >= highest };
        harmless.then_some(self)
    }
}

/// What values are, as far as it was asked for.
#[derive(Default)]
struct Ends(HashMap<Value, Option<End>>);

impl Ends {
    fn of(&mut self, b: &mut Builder, value: Value, depth: usize) -> Result<Option<End>> {
        if let Some(end) = self.0.get(&value) {
            return Ok(*end);
        }
        let node = b.graph().node(value);
        let end = match &node.op {
            Op::Apply(op) if depth < MAX_DEPTH && node.fact.dtype.is_float() => {
                let (op, inputs) = (op.clone(), node.inputs.clone());
                self.of_result(b, value, &op, &inputs, depth + 1)?
            }
            _ => None,
        };
        self.0.insert(value, end);
        Ok(end)
    }

    fn of_result(
        &mut self,
        b: &mut Builder,
        value: Value,
        op: &Primitive,
        inputs: &[Value],
        depth: usize,
    ) -> Result<Option<End>> {
        let x = inputs[0];
        match op {
            Primitive::Softmax(Softmax { axis, log }) => {
                Ok(Some(End { log: *log, ..End::softmax(*axis, x) }))
            }
            Primitive::Unary(f) => self.of_unary(b, *f, x, depth),
            Primitive::Binary(Binary::Max | Binary::Min) => {
                let from_below = *op == Primitive::Binary(Binary::Max);
                let [(x, bound), (y, other)] = [(x, inputs[1]), (inputs[1], x)];
                let limited = match (b.as_uniform(bound), b.as_uniform(other)) {
                    (Some(bound), _) => Some((x, bound)),
                    (_, Some(bound)) => Some((y, bound)),
                    _ => None,
                };
                self.of_limited(b, value, limited.map(|(x, bound)| (x, from_below, bound)), depth)
            }
            Primitive::Where(_) => match limit(b, inputs) {
                Some(limited) => self.of_limited(b, value, Some(limited), depth),
                None => self.of_choice(b, value, inputs, depth),
            },
            Primitive::Binary(Binary::Div) => {
                match self.of_quotient(b, value, x, inputs[1], depth)? {
                    Some(end) => Ok(Some(end)),
                    None => self.of_line(b, value, depth),
                }
            }
            Primitive::Binary(Binary::Mul) => {
                for (x, y) in [(x, inputs[1]), (inputs[1], x)] {
                    if let Some(divisor) = operand_of(b, y, Unary::Reciprocal)
                        && let Some(end) = self.of_quotient(b, value, x, divisor, depth)?
                    {
                        return Ok(Some(end));
                    }
                }
                self.of_line(b, value, depth)
            }
            Primitive::Binary(Binary::Sub) => match log_softmax_in_parts(b, x, inputs[1]) {
                Some((axis, logits)) => Ok(End::softmax(axis, logits).logarithm()),
                None => self.of_line(b, value, depth),
            },
            Primitive::Binary(Binary::Add) => self.of_line(b, value, depth),
            Primitive::Concat(concat) => self.of_parts(b, value, concat.axis, inputs, depth),
            Primitive::Gather(_) => {
                let Some(end) = self.of(b, x, depth)? else { return Ok(None) };
                let Function::Sigmoid = end.function else { return Ok(None) };
                let logits = b.push(op.clone(), &[end.logits, inputs[1]])?;
                Ok(Some(End { logits, ..end }))
            }
            Primitive::Reshape(_)
            | Primitive::Transpose(_)
            | Primitive::Slice(_)
            | Primitive::Expand(_)
            | Primitive::Cast(_) => {
                let Some(end) = self.of(b, x, depth)? else { return Ok(None) };
                let function = match end.function {
                    Function::Sigmoid => Function::Sigmoid,
                    Function::Softmax { axis } => match axis_after(b, op, x, value, axis) {
                        Some(axis) => Function::Softmax { axis },
                        None => return Ok(None),
                    },
                };
                Ok(Some(End { function, logits: b.push(op.clone(), &[end.logits])?, ..end }))
            }
            _ => Ok(None),
        }
    }

    fn of_unary(
        &mut self,
        b: &mut Builder,
        f: Unary,
        x: Value,
        depth: usize,
    ) -> Result<Option<End>> {
        Ok(match f {
            Unary::Sigmoid => Some(End::sigmoid(x)),
            Unary::Exp => self.of(b, x, depth)?.and_then(End::exponential),
            Unary::Log => self.of(b, x, depth)?.and_then(End::logarithm),
            Unary::Relu => self.of(b, x, depth)?.and_then(End::probability),
            Unary::Neg => match operand_of(b, x, Unary::Softplus) {
                Some(inner) => End::sigmoid(negated(b, inner)?).logarithm(),
                None => None,
            },
            Unary::Reciprocal => match one_plus_exp(b, x) {
                Some(inner) => Some(End::sigmoid(negated(b, inner)?)),
                None => None,
            },
            _ => None,
        })
    }

    fn of_limited(
        &mut self,
        b: &mut Builder,
        value: Value,
        limited: Option<(Value, bool, f64)>,
        depth: usize,
    ) -> Result<Option<End>> {
        let Some((x, from_below, bound)) = limited else { return Ok(None) };
        if b.fact(x) != b.fact(value) {
            return Ok(None);
        }
        Ok(self.of(b, x, depth)?.and_then(|end| end.limited(from_below, bound)))
    }

    /// A choice between two values of the same function is that function of the choice between
    /// their logits.
    fn of_choice(
        &mut self,
        b: &mut Builder,
        value: Value,
        inputs: &[Value],
        depth: usize,
    ) -> Result<Option<End>> {
        let &[condition, p, q] = inputs else { return Ok(None) };
        if b.fact(p) != b.fact(value) || b.fact(q) != b.fact(value) {
            return Ok(None);
        }
        let (Some(p), Some(q)) = (self.of(b, p, depth)?, self.of(b, q, depth)?) else {
            return Ok(None);
        };
        if (p.function, p.log) != (q.function, q.log) {
            return Ok(None);
        }
        if let Function::Softmax { axis } = p.function
            && size_along(b, condition, axis, b.rank(value)) != 1
        {
            return Ok(None);
        }
        Ok(Some(End { logits: b.select(condition, p.logits, q.logits)?, ..p }))
    }

    /// `x / y` that is a softmax or a sigmoid.
    fn of_quotient(
        &mut self,
        b: &mut Builder,
        value: Value,
        x: Value,
        y: Value,
        depth: usize,
    ) -> Result<Option<End>> {
        if let Some(inner) = one_plus_exp(b, y) {
            if b.as_uniform(x) == Some(1.0) {
                return Ok(Some(End::sigmoid(negated(b, inner)?)));
            }
            return Ok((operand_of(b, x, Unary::Exp) == Some(inner)).then(|| End::sigmoid(inner)));
        }
        let Some((axis, magnitudes)) = sum_over_axis(b, x, y) else { return Ok(None) };
        if let Some(exponent) = operand_of(b, x, Unary::Exp) {
            return Ok(Some(End::softmax(axis, unshifted(b, exponent, axis))));
        }
        match self.of(b, x, depth)?.and_then(End::probability) {
            // Probabilities already.
            Some(End { function: Function::Softmax { axis: a }, logits, .. }) if a == axis => {
                return Ok(Some(End::softmax(axis, logits)));
            }
            // The logarithms of what is divided by its sum are its logits: log σ(z) here.
            Some(End { function: Function::Sigmoid, logits, .. }) => {
                let negative = negated(b, logits)?;
                let softplus = b.unary(Unary::Softplus, negative)?;
                return Ok(Some(End::softmax(axis, b.neg(softplus)?)));
            }
            _ => {}
        }
        if magnitudes || bounds(b.graph(), x).low >= 0.0 {
            return Ok(Some(End::softmax(axis, b.unary(Unary::Log, value)?)));
        }
        Ok(None)
    }

    /// A function with a constant factor and summand.
    fn of_line(&mut self, b: &mut Builder, value: Value, depth: usize) -> Result<Option<End>> {
        let Line { scale, shift, inner } = line(b, value);
        if inner == value || b.fact(inner) != b.fact(value) {
            return Ok(None);
        }
        let is = |v: f64, wanted: f64| (v - wanted).abs() <= MARGIN;
        if let Some(x) = operand_of(b, inner, Unary::Tanh)
            && is(scale.abs(), 0.5)
            && is(shift, 0.5)
        {
            // σ(2x) = (1 + tanh x) / 2
            return Ok(Some(End::sigmoid(b.scale(x, 2.0 * scale.signum())?)));
        }
        if let Some(x) = operand_of(b, inner, Unary::Softplus)
            && scale == -1.0
            && shift == 0.0
        {
            return Ok(End::sigmoid(negated(b, x)?).logarithm());
        }
        let Some(end) = self.of(b, inner, depth)?.and_then(End::probability) else {
            return Ok(None);
        };
        Ok(match end.function {
            Function::Softmax { .. } if scale > 0.0 && (shift / scale).abs() <= MARGIN => Some(end),
            Function::Sigmoid if is(scale, 1.0) && is(shift, 0.0) => Some(end),
            Function::Sigmoid if is(scale, -1.0) && is(shift, 1.0) => {
                Some(End::sigmoid(negated(b, end.logits)?))
            }
            _ => None,
        })
    }

    fn of_parts(
        &mut self,
        b: &mut Builder,
        value: Value,
        axis: usize,
        parts: &[Value],
        depth: usize,
    ) -> Result<Option<End>> {
        let mut ends = Vec::with_capacity(parts.len());
        for &part in parts {
            match self.of(b, part, depth)? {
                Some(end) => ends.push(end),
                None => return Ok(None),
            }
        }
        let first = ends[0];
        if ends.iter().any(|end| (end.function, end.log) != (first.function, first.log)) {
            return Ok(None);
        }
        if let ([p, q], Function::Sigmoid, false) = (&ends[..], first.function, first.log)
            && b.shape(value)[axis] == 2
            && over_classes(&b.shape(value), axis)
        {
            let (p, q) = (p.logits, q.logits);
            // σ(z) beside 1 − σ(z) is the softmax of z beside 0, whichever of them is without the
            // minus sign.
            if negated(b, p)? == q || negated(b, q)? == p {
                let zero = b.zeros(&b.fact(p).clone())?;
                let p_is_negative = operand_of(b, p, Unary::Neg) == Some(q);
                let logits = if p_is_negative { [zero, q] } else { [p, zero] };
                return Ok(Some(End::softmax(axis, b.concat(&logits, axis)?)));
            }
        }
        if first.function == (Function::Softmax { axis }) {
            return Ok(None);
        }
        let logits: Vec<Value> = ends.iter().map(|end| end.logits).collect();
        Ok(Some(End { logits: b.concat(&logits, axis)?, ..first }))
    }
}

/// The operand of `value` where that is `f` of it.
fn operand_of(b: &Builder, value: Value, f: Unary) -> Option<Value> {
    let Node { op, inputs, .. } = b.graph().node(value);
    matches!(op, Op::Apply(Primitive::Unary(g)) if *g == f).then(|| inputs[0])
}

/// `−x`, or what `x` is the negative of.
fn negated(b: &mut Builder, x: Value) -> Result<Value> {
    match operand_of(b, x, Unary::Neg) {
        Some(inner) => Ok(inner),
        None => b.neg(x),
    }
}

/// `scale · inner + shift`.
struct Line {
    scale: f64,
    shift: f64,
    inner: Value,
}

/// `value` with as many constant factors and summands taken off as there are.
fn line(b: &Builder, value: Value) -> Line {
    let mut at = Line { scale: 1.0, shift: 0.0, inner: value };
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

/// `x` where `value` is `1 + exp(x)`.
fn one_plus_exp(b: &Builder, value: Value) -> Option<Value> {
    let Line { scale, shift, inner } = line(b, value);
    if (scale, shift) == (1.0, 1.0) { operand_of(b, inner, Unary::Exp) } else { None }
}

/// The value limited, whether from below, and by what, where a selection is a limit: `x > c ? x : c`
/// and the like.
fn limit(b: &Builder, inputs: &[Value]) -> Option<(Value, bool, f64)> {
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
    // It is x that is chosen where x is above the bound, or the bound where x is below.
    let from_below = (greater == x_first) == chosen;
    (b.as_uniform(against) == Some(bound)).then_some((x, from_below, bound))
}

/// The length along `axis` of a value that is broadcast to `rank` axes.
fn size_along(b: &Builder, value: Value, axis: usize, rank: usize) -> usize {
    let shape = b.graph().shape(value);
    (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i])
}

/// What `value` holds, in another shape.
fn contents(b: &Builder, mut value: Value) -> Value {
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
    let node = b.graph().node(contents(b, value));
    let Op::Apply(Primitive::Reduce(reduce)) = &node.op else { return None };
    match reduce.axes[..] {
        [axis] if reduce.kind == kind => Some((axis, node.inputs[0])),
        _ => None,
    }
}

/// The axis and operand of a maximum over a single axis, with 0 in its place where it is infinite or not.
fn maximum(b: &Builder, value: Value) -> Option<(usize, Value)> {
    let node = b.graph().node(contents(b, value));
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

/// The axis over which `y` is the sum of `x`, or of the magnitudes of `x`, and which of the two.
/// Neither something small that is added to the sum matters, nor a small bound below it.
fn sum_over_axis(b: &Builder, x: Value, y: Value) -> Option<(usize, bool)> {
    let mut sum = y;
    for _ in 0..MAX_DEPTH {
        let Line { scale, shift, inner } = line(b, contents(b, sum));
        if scale != 1.0 || shift.abs() > MARGIN {
            return None;
        }
        let node = b.graph().node(inner);
        let limited = match &node.op {
            Op::Apply(Primitive::Where(_)) => limit(b, &node.inputs),
            Op::Apply(Primitive::Binary(Binary::Max)) => {
                match (b.as_uniform(node.inputs[0]), b.as_uniform(node.inputs[1])) {
                    (None, Some(bound)) => Some((node.inputs[0], true, bound)),
                    (Some(bound), None) => Some((node.inputs[1], true, bound)),
                    _ => None,
                }
            }
            _ => None,
        };
        match limited {
            Some((limited, true, bound)) if bound <= MARGIN => sum = limited,
            Some(_) => return None,
            None => {
                sum = inner;
                break;
            }
        }
    }
    let (axis, summand) = reduction(b, sum, Reduction::Sum)?;
    // The divisor, before it is spread over all elements, must vary along all axes but that one.
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

/// `x` without the maximum along `axis` that is subtracted from it: softmax does not see it.
fn unshifted(b: &Builder, x: Value, axis: usize) -> Value {
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

/// The axis and the logits where `x − y` is a log-softmax: `y` is `log Σ exp x`, of `x` as it is or
/// with its maximum taken off inside and added outside.
fn log_softmax_in_parts(b: &Builder, x: Value, y: Value) -> Option<(usize, Value)> {
    let of_log = |log: Value| {
        let sum = operand_of(b, contents(b, log), Unary::Log)?;
        let (axis, exp) = reduction(b, sum, Reduction::Sum)?;
        Some((axis, operand_of(b, exp, Unary::Exp)?))
    };
    let y = contents(b, y);
    if let Some((axis, exponent)) = of_log(y) {
        return (exponent == x).then(|| (axis, unshifted(b, x, axis)));
    }
    let Node { op: Op::Apply(Primitive::Binary(Binary::Add)), inputs, .. } = b.graph().node(y)
    else {
        return None;
    };
    [(inputs[0], inputs[1]), (inputs[1], inputs[0])].into_iter().find_map(|(max, log)| {
        let (axis, exponent) = of_log(log)?;
        let is_max = maximum(b, max) == Some((axis, x));
        (is_max && unshifted(b, exponent, axis) == x).then_some((axis, x))
    })
}

/// Which axis of `value` the axis of `x` is, where `value` has the elements of `x` along it all and
/// in order.
fn axis_after(b: &Builder, op: &Primitive, x: Value, value: Value, axis: usize) -> Option<usize> {
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

#[cfg(test)]
mod tests;
