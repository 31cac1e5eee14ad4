//! The final activation of a model, which belongs to its loss: softmax, log-softmax or sigmoid.
//!
//! It is recognised as a function, however it is written. Exporters and users write a softmax as
//! `exp(x − max) / Σ exp(x − max)` or as `exp(log_softmax(x))`, and a sigmoid as `1 / (1 + exp(−x))`.
//! They clamp the probabilities, reshape them, concatenate `p` with `1 − p`, or select between two
//! branches.

mod patterns;

use std::collections::HashMap;

use super::bounds::bounds;
use crate::error::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Binary, Op, Primitive, Softmax, Unary};
use patterns::{
    Affine, affine, clamp, log_softmax_in_parts, moved_axis, negated, one_plus_exp, operand_of,
    size_along, sum_over_axis, without_max,
};

/// The activation at the end of a model, which belongs to its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FinalActivation {
    /// Softmax over the classes.
    Softmax,
    /// The logarithm of softmax.
    LogSoftmax,
    /// The logistic function, or its logarithm.
    Sigmoid,
}

/// The longest chain of nodes that is searched for an activation.
const MAX_DEPTH: usize = 64;

/// The largest constant that counts as an epsilon: it is added to probabilities, or is their least
/// distance from 0 and 1, to keep logarithms finite.
const MARGIN: f64 = 0.01;

/// Removes the final activation from `output`. Returns the logits in the shape of the output, and the
/// activation; `output` itself and `None` if it has no such activation.
pub(super) fn split_activation(
    b: &mut Builder,
    output: Value,
) -> Result<(Value, Option<FinalActivation>)> {
    let activation = Recogniser::default().recognise(b, output, 0)?;
    Ok(match activation {
        Some(Activation { function: Function::Sigmoid, logits, .. }) => {
            (logits, Some(FinalActivation::Sigmoid))
        }
        Some(Activation { function: Function::Softmax { axis }, logits, log })
            if over_classes(&b.shape(output), axis) =>
        {
            let log_softmax =
                if log { FinalActivation::LogSoftmax } else { FinalActivation::Softmax };
            (logits, Some(log_softmax))
        }
        _ => (output, None),
    })
}

/// Whether `axis` is the axis of the classes: the last one, or the second one if positions follow.
fn over_classes(shape: &[usize], axis: usize) -> bool {
    axis == 1 || shape[axis + 1..].iter().all(|&d| d == 1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Softmax { axis: usize },
    Sigmoid,
}

/// A value that is an activation of `logits`, which have the same shape, or the logarithm of one. A
/// softmax may be scaled by a positive factor.
#[derive(Clone, Copy, Debug)]
struct Activation {
    function: Function,
    logits: Value,
    log: bool,
}

impl Activation {
    fn softmax(axis: usize, logits: Value) -> Self {
        Activation { function: Function::Softmax { axis }, logits, log: false }
    }

    fn sigmoid(logits: Value) -> Self {
        Activation { function: Function::Sigmoid, logits, log: false }
    }

    fn logarithm(self) -> Option<Self> {
        (!self.log).then_some(Activation { log: true, ..self })
    }

    fn exponential(self) -> Option<Self> {
        self.log.then_some(Activation { log: false, ..self })
    }

    fn probability(self) -> Option<Self> {
        (!self.log).then_some(self)
    }

    /// The same with its values clamped from below or above. `None` unless the bound only keeps
    /// logarithms finite.
    fn clamped(self, from_below: bool, bound: f64) -> Option<Self> {
        let (lowest, highest) =
            if self.log { (MARGIN.ln(), (1.0 - MARGIN).ln()) } else { (MARGIN, 1.0 - MARGIN) };
        let harmless = if from_below { bound <= lowest } else { bound >= highest };
        harmless.then_some(self)
    }
}

/// Recognises activations; caches the result for each value.
#[derive(Default)]
struct Recogniser(HashMap<Value, Option<Activation>>);

impl Recogniser {
    fn recognise(
        &mut self,
        b: &mut Builder,
        value: Value,
        depth: usize,
    ) -> Result<Option<Activation>> {
        if let Some(activation) = self.0.get(&value) {
            return Ok(*activation);
        }
        let node = b.graph().node(value);
        let activation = match &node.op {
            Op::Apply(op) if depth < MAX_DEPTH && node.fact.dtype.is_float() => {
                let (op, inputs) = (op.clone(), node.inputs.clone());
                self.of_op(b, value, &op, &inputs, depth + 1)?
            }
            _ => None,
        };
        self.0.insert(value, activation);
        Ok(activation)
    }

    fn of_op(
        &mut self,
        b: &mut Builder,
        value: Value,
        op: &Primitive,
        inputs: &[Value],
        depth: usize,
    ) -> Result<Option<Activation>> {
        let x = inputs[0];
        match op {
            Primitive::Softmax(Softmax { axis, log }) => {
                Ok(Some(Activation { log: *log, ..Activation::softmax(*axis, x) }))
            }
            Primitive::Unary(f) => self.of_unary(b, *f, x, depth),
            Primitive::Binary(Binary::Max | Binary::Min) => {
                let from_below = *op == Primitive::Binary(Binary::Max);
                let [(x, bound), (y, other)] = [(x, inputs[1]), (inputs[1], x)];
                let clamped = match (b.as_uniform(bound), b.as_uniform(other)) {
                    (Some(bound), _) => Some((x, bound)),
                    (_, Some(bound)) => Some((y, bound)),
                    _ => None,
                };
                self.of_clamp(b, value, clamped.map(|(x, bound)| (x, from_below, bound)), depth)
            }
            Primitive::Where(_) => match clamp(b, inputs) {
                Some(clamped) => self.of_clamp(b, value, Some(clamped), depth),
                None => self.of_selection(b, value, inputs, depth),
            },
            Primitive::Binary(Binary::Div) => {
                match self.of_quotient(b, value, x, inputs[1], depth)? {
                    Some(activation) => Ok(Some(activation)),
                    None => self.of_affine(b, value, depth),
                }
            }
            Primitive::Binary(Binary::Mul) => {
                for (x, y) in [(x, inputs[1]), (inputs[1], x)] {
                    if let Some(divisor) = operand_of(b, y, Unary::Reciprocal)
                        && let Some(activation) = self.of_quotient(b, value, x, divisor, depth)?
                    {
                        return Ok(Some(activation));
                    }
                }
                self.of_affine(b, value, depth)
            }
            Primitive::Binary(Binary::Sub) => match log_softmax_in_parts(b, x, inputs[1]) {
                Some((axis, logits)) => Ok(Activation::softmax(axis, logits).logarithm()),
                None => self.of_affine(b, value, depth),
            },
            Primitive::Binary(Binary::Add) => self.of_affine(b, value, depth),
            Primitive::Concat(concat) => self.of_concat(b, value, concat.axis, inputs, depth),
            Primitive::Gather(_) => {
                let Some(activation) = self.recognise(b, x, depth)? else { return Ok(None) };
                let Function::Sigmoid = activation.function else { return Ok(None) };
                let logits = b.push(op.clone(), &[activation.logits, inputs[1]])?;
                Ok(Some(Activation { logits, ..activation }))
            }
            Primitive::Reshape(_)
            | Primitive::Transpose(_)
            | Primitive::Slice(_)
            | Primitive::Expand(_)
            | Primitive::Cast(_) => {
                let Some(activation) = self.recognise(b, x, depth)? else { return Ok(None) };
                let function = match activation.function {
                    Function::Sigmoid => Function::Sigmoid,
                    Function::Softmax { axis } => match moved_axis(b, op, x, value, axis) {
                        Some(axis) => Function::Softmax { axis },
                        None => return Ok(None),
                    },
                };
                Ok(Some(Activation {
                    function,
                    logits: b.push(op.clone(), &[activation.logits])?,
                    ..activation
                }))
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
    ) -> Result<Option<Activation>> {
        Ok(match f {
            Unary::Sigmoid => Some(Activation::sigmoid(x)),
            Unary::Exp => self.recognise(b, x, depth)?.and_then(Activation::exponential),
            Unary::Log => self.recognise(b, x, depth)?.and_then(Activation::logarithm),
            Unary::Relu => self.recognise(b, x, depth)?.and_then(Activation::probability),
            Unary::Neg => match operand_of(b, x, Unary::Softplus) {
                Some(inner) => Activation::sigmoid(negated(b, inner)?).logarithm(),
                None => None,
            },
            Unary::Reciprocal => match one_plus_exp(b, x) {
                Some(inner) => Some(Activation::sigmoid(negated(b, inner)?)),
                None => None,
            },
            _ => None,
        })
    }

    fn of_clamp(
        &mut self,
        b: &mut Builder,
        value: Value,
        clamped: Option<(Value, bool, f64)>,
        depth: usize,
    ) -> Result<Option<Activation>> {
        let Some((x, from_below, bound)) = clamped else { return Ok(None) };
        if b.fact(x) != b.fact(value) {
            return Ok(None);
        }
        Ok(self
            .recognise(b, x, depth)?
            .and_then(|activation| activation.clamped(from_below, bound)))
    }

    /// A selection between two activations of the same kind is that activation of the selected logits.
    fn of_selection(
        &mut self,
        b: &mut Builder,
        value: Value,
        inputs: &[Value],
        depth: usize,
    ) -> Result<Option<Activation>> {
        let &[condition, p, q] = inputs else { return Ok(None) };
        if b.fact(p) != b.fact(value) || b.fact(q) != b.fact(value) {
            return Ok(None);
        }
        let (Some(p), Some(q)) = (self.recognise(b, p, depth)?, self.recognise(b, q, depth)?)
        else {
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
        Ok(Some(Activation { logits: b.select(condition, p.logits, q.logits)?, ..p }))
    }

    /// `x / y`, if it is a softmax or a sigmoid.
    fn of_quotient(
        &mut self,
        b: &mut Builder,
        value: Value,
        x: Value,
        y: Value,
        depth: usize,
    ) -> Result<Option<Activation>> {
        if let Some(inner) = one_plus_exp(b, y) {
            if b.as_uniform(x) == Some(1.0) {
                return Ok(Some(Activation::sigmoid(negated(b, inner)?)));
            }
            return Ok(
                (operand_of(b, x, Unary::Exp) == Some(inner)).then(|| Activation::sigmoid(inner))
            );
        }
        let Some((axis, magnitudes)) = sum_over_axis(b, x, y) else { return Ok(None) };
        if let Some(exponent) = operand_of(b, x, Unary::Exp) {
            return Ok(Some(Activation::softmax(axis, without_max(b, exponent, axis))));
        }
        match self.recognise(b, x, depth)?.and_then(Activation::probability) {
            // Probabilities already.
            Some(Activation { function: Function::Softmax { axis: a }, logits, .. })
                if a == axis =>
            {
                return Ok(Some(Activation::softmax(axis, logits)));
            }
            // Normalising p to sum 1 is the softmax of log p, and here log p = log σ(z) = −softplus(−z).
            Some(Activation { function: Function::Sigmoid, logits, .. }) => {
                let negative = negated(b, logits)?;
                let softplus = b.unary(Unary::Softplus, negative)?;
                return Ok(Some(Activation::softmax(axis, b.neg(softplus)?)));
            }
            _ => {}
        }
        if magnitudes || bounds(b.graph(), x).low >= 0.0 {
            return Ok(Some(Activation::softmax(axis, b.unary(Unary::Log, value)?)));
        }
        Ok(None)
    }

    /// An activation with a constant factor and summand.
    fn of_affine(
        &mut self,
        b: &mut Builder,
        value: Value,
        depth: usize,
    ) -> Result<Option<Activation>> {
        let Affine { scale, shift, inner } = affine(b, value);
        if inner == value || b.fact(inner) != b.fact(value) {
            return Ok(None);
        }
        let is = |v: f64, wanted: f64| (v - wanted).abs() <= MARGIN;
        if let Some(x) = operand_of(b, inner, Unary::Tanh)
            && is(scale.abs(), 0.5)
            && is(shift, 0.5)
        {
            // σ(2x) = (1 + tanh x) / 2
            return Ok(Some(Activation::sigmoid(b.scale(x, 2.0 * scale.signum())?)));
        }
        if let Some(x) = operand_of(b, inner, Unary::Softplus)
            && scale == -1.0
            && shift == 0.0
        {
            return Ok(Activation::sigmoid(negated(b, x)?).logarithm());
        }
        let Some(activation) = self.recognise(b, inner, depth)?.and_then(Activation::probability)
        else {
            return Ok(None);
        };
        Ok(match activation.function {
            Function::Softmax { .. } if scale > 0.0 && (shift / scale).abs() <= MARGIN => {
                Some(activation)
            }
            Function::Sigmoid if is(scale, 1.0) && is(shift, 0.0) => Some(activation),
            Function::Sigmoid if is(scale, -1.0) && is(shift, 1.0) => {
                Some(Activation::sigmoid(negated(b, activation.logits)?))
            }
            _ => None,
        })
    }

    fn of_concat(
        &mut self,
        b: &mut Builder,
        value: Value,
        axis: usize,
        parts: &[Value],
        depth: usize,
    ) -> Result<Option<Activation>> {
        let mut activations = Vec::with_capacity(parts.len());
        for &part in parts {
            match self.recognise(b, part, depth)? {
                Some(activation) => activations.push(activation),
                None => return Ok(None),
            }
        }
        let first = activations[0];
        if activations
            .iter()
            .any(|activation| (activation.function, activation.log) != (first.function, first.log))
        {
            return Ok(None);
        }
        if let ([p, q], Function::Sigmoid, false) = (&activations[..], first.function, first.log)
            && b.shape(value)[axis] == 2
            && over_classes(&b.shape(value), axis)
        {
            let (p, q) = (p.logits, q.logits);
            // [σ(z), 1 − σ(z)] is the softmax of [z, 0]. Take as z the logit that is not a negation.
            if negated(b, p)? == q || negated(b, q)? == p {
                let zero = b.zeros(&b.fact(p).clone())?;
                let p_is_negative = operand_of(b, p, Unary::Neg) == Some(q);
                let logits = if p_is_negative { [zero, q] } else { [p, zero] };
                return Ok(Some(Activation::softmax(axis, b.concat(&logits, axis)?)));
            }
        }
        if first.function == (Function::Softmax { axis }) {
            return Ok(None);
        }
        let logits: Vec<Value> = activations.iter().map(|activation| activation.logits).collect();
        Ok(Some(Activation { logits: b.concat(&logits, axis)?, ..first }))
    }
}

#[cfg(test)]
mod tests;
