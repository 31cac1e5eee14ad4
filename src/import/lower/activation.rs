//! Activation functions.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::elementwise::{clamp, clip_to};
use crate::error::Result;
use crate::graph::{RectifierKind, Value};
use crate::import::call::Call;
use crate::import::table::{Entry, MICROSOFT, rule};
use crate::ops::{Binary, Unary};

pub(super) const ENTRIES: &[Entry] = &[
    rule("Celu", 12, "Where, Exp", celu),
    rule("Elu", 7, "Where, Exp", elu),
    rule("Gelu", 20, "Mul, Erf, or Tanh", gelu),
    rule("HardSigmoid", 7, "Mul, Add, Where", hard_sigmoid),
    rule("HardSwish", 14, "Mul, Add, Where", hard_swish),
    rule("LeakyRelu", 7, "Where, Mul; the derivative at 0 is alpha", leaky_relu),
    rule("Mish", 18, "Mul, Tanh, Softplus", mish),
    rule("PRelu", 7, "Where, Mul; the derivative at 0 is the slope", prelu),
    rule("Relu", 7, "Relu; the derivative at 0 is 0", relu),
    rule("Selu", 7, "Where, Exp", selu),
    rule("Shrink", 9, "Where", shrink),
    rule("Sigmoid", 7, "Sigmoid", |c| c.apply(Unary::Sigmoid)),
    rule("Softplus", 7, "Softplus", |c| c.apply(Unary::Softplus)),
    rule("Softsign", 7, "Div, Abs", softsign),
    rule("SwiGLU", 28, "Mul, Sigmoid", |c| {
        let (gate, x) = (swish(c, 1.0)?, c.operand(1)?);
        c.mul(gate, x)
    }),
    rule("Swish", 24, "Mul, Sigmoid", |c| swish(c, 1.0)),
    rule("Tanh", 7, "Tanh", |c| c.apply(Unary::Tanh)),
    rule("ThresholdedRelu", 10, "Where", thresholded_relu),
    rule("BiasGelu", 1, "Add, Mul, Erf", bias_gelu).of(MICROSOFT),
    rule("FastGelu", 1, "Add, Mul, Tanh", fast_gelu).of(MICROSOFT),
    rule("Gelu", 1, "Mul, Erf", bias_gelu).of(MICROSOFT),
    rule("QuickGelu", 1, "Mul, Sigmoid", |c| swish(c, 1.702)).of(MICROSOFT),
];

fn is_positive(c: &mut Call, x: Value) -> Result<Value> {
    let zero = c.scalar_like(x, 0.0);
    c.greater(x, zero)
}

fn relu(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    if c.dtype(x).is_float() {
        return c.relu(x);
    }
    let zero = c.scalar_like(x, 0.0);
    c.push(Binary::Max, &[x, zero])
}

fn leaky_relu(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", 0.01)?;
    let x = c.operand(0)?;
    leaky(c, x, alpha)
}

/// `x > 0 ? x : αx`.
fn leaky(c: &mut Call, x: Value, alpha: f64) -> Result<Value> {
    let positive = is_positive(c, x)?;
    let leak = c.scale(x, alpha)?;
    let y = c.select(positive, x, leak)?;
    c.rectified(x, y, RectifierKind::Leaky);
    Ok(y)
}

fn prelu(c: &mut Call) -> Result<Value> {
    let (x, slope) = (c.operand(0)?, c.weight(1)?);
    let positive = is_positive(c, x)?;
    let leak = c.mul(x, slope)?;
    let y = c.select(positive, x, leak)?;
    c.rectified(x, y, RectifierKind::Leaky);
    Ok(y)
}

/// `x > 0 ? x : α(e^{x/β} − 1)`. The exponential is never taken of positive values: where it overflows,
/// the derivative would be NaN although the other branch is selected.
fn exponential_unit(c: &mut Call, x: Value, alpha: f64, beta: f64) -> Result<Value> {
    let positive = is_positive(c, x)?;
    let zero = c.scalar_like(x, 0.0);
    let safe = c.select(positive, zero, x)?;
    let scaled = c.scale(safe, 1.0 / beta)?;
    let exp = c.exp(scaled)?;
    let minus_one = c.shift(exp, -1.0)?;
    let negative = c.scale(minus_one, alpha)?;
    c.select(positive, x, negative)
}

fn elu(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", 1.0)?;
    let x = c.operand(0)?;
    exponential_unit(c, x, alpha, 1.0)
}

fn celu(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", 1.0)?;
    let x = c.operand(0)?;
    exponential_unit(c, x, alpha, alpha)
}

fn selu(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", f64::from(1.673_263_2_f32))?;
    let gamma = c.float("gamma", f64::from(1.050_701_f32))?;
    let x = c.operand(0)?;
    let y = exponential_unit(c, x, alpha, 1.0)?;
    c.scale(y, gamma)
}

/// `max(0, min(1, αx + β))`.
fn hard_gate(c: &mut Call, x: Value, alpha: f64, beta: f64) -> Result<Value> {
    let scaled = c.scale(x, alpha)?;
    let line = c.shift(scaled, beta)?;
    clamp(c, line, Some(0.0), Some(1.0))
}

fn hard_sigmoid(c: &mut Call) -> Result<Value> {
    let (alpha, beta) = (c.float("alpha", 0.2)?, c.float("beta", 0.5)?);
    let x = c.operand(0)?;
    hard_gate(c, x, alpha, beta)
}

fn hard_swish(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let gate = hard_gate(c, x, 1.0 / 6.0, 0.5)?;
    c.mul(x, gate)
}

fn mish(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let soft = c.unary(Unary::Softplus, x)?;
    let gate = c.tanh(soft)?;
    c.mul(x, gate)
}

fn swish(c: &mut Call, default_alpha: f64) -> Result<Value> {
    let alpha = c.float("alpha", default_alpha)?;
    let x = c.operand(0)?;
    let scaled = c.scale(x, alpha)?;
    let gate = c.sigmoid(scaled)?;
    c.mul(x, gate)
}

fn softsign(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    squashed(c, x)
}

/// `x / (1 + |x|)`.
fn squashed(c: &mut Call, x: Value) -> Result<Value> {
    let size = c.unary(Unary::Abs, x)?;
    let divisor = c.shift(size, 1.0)?;
    c.div(x, divisor)
}

fn thresholded_relu(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", 1.0)?;
    let x = c.operand(0)?;
    thresholded(c, x, alpha)
}

/// `x > α ? x : 0`.
fn thresholded(c: &mut Call, x: Value, alpha: f64) -> Result<Value> {
    let (bound, zero) = (c.scalar_like(x, alpha), c.scalar_like(x, 0.0));
    let above = c.greater(x, bound)?;
    c.select(above, x, zero)
}

/// `x < −λ ? x + bias : x > λ ? x − bias : 0`.
fn shrink(c: &mut Call) -> Result<Value> {
    let (bias, lambda) = (c.float("bias", 0.0)?, c.float("lambd", 0.5)?);
    let x = c.operand(0)?;
    let (low, high) = (c.scalar_like(x, -lambda), c.scalar_like(x, lambda));
    let (below, above) = (c.less(x, low)?, c.greater(x, high)?);
    let (raised, lowered) = (c.shift(x, bias)?, c.shift(x, -bias)?);
    let zero = c.scalar_like(x, 0.0);
    let rest = c.select(above, lowered, zero)?;
    c.select(below, raised, rest)
}

/// `x·Φ(x)` with the normal distribution `Φ(x) = (1 + erf(x/√2)) / 2`.
fn exact_gelu(c: &mut Call, x: Value) -> Result<Value> {
    let scaled = c.scale(x, FRAC_1_SQRT_2)?;
    let erf = c.unary(Unary::Erf, scaled)?;
    gate_by(c, x, erf)
}

/// `x·(1 + tanh(√(2/π)·(x + 0.044715x³))) / 2`.
fn tanh_gelu(c: &mut Call, x: Value) -> Result<Value> {
    let square = c.mul(x, x)?;
    let cube = c.mul(square, x)?;
    let bend = c.scale(cube, 0.044_715)?;
    let inner = c.add(x, bend)?;
    let scaled = c.scale(inner, FRAC_2_SQRT_PI * FRAC_1_SQRT_2)?;
    let tanh = c.tanh(scaled)?;
    gate_by(c, x, tanh)
}

/// `x·(1 + g) / 2`.
fn gate_by(c: &mut Call, x: Value, g: Value) -> Result<Value> {
    let shifted = c.shift(g, 1.0)?;
    let gated = c.mul(x, shifted)?;
    c.scale(gated, 0.5)
}

fn gelu(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    match c.text("approximate", "none")? {
        "none" => exact_gelu(c, x),
        "tanh" => tanh_gelu(c, x),
        other => Err(c.invalid(format_args!("approximation '{other}' is not defined"))),
    }
}

fn biased(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    match c.optional_weight(1)? {
        Some(bias) => c.add(x, bias),
        None => Ok(x),
    }
}

fn bias_gelu(c: &mut Call) -> Result<Value> {
    let x = biased(c)?;
    exact_gelu(c, x)
}

fn fast_gelu(c: &mut Call) -> Result<Value> {
    let x = biased(c)?;
    tanh_gelu(c, x)
}

/// An activation function that an attribute of another operator names, with its parameters.
#[derive(Clone)]
pub(super) struct Activation {
    name: String,
    alpha: f64,
    beta: f64,
}

impl Activation {
    /// The default values of a function's parameters; `None` for parameters that it does not have.
    pub(super) fn defaults(name: &str) -> [Option<f64>; 2] {
        match name {
            "affine" => [Some(1.0), Some(0.0)],
            "elu" | "thresholdedrelu" => [Some(1.0), None],
            "hardsigmoid" => [Some(0.2), Some(0.5)],
            "leakyrelu" => [Some(0.01), None],
            "scaledtanh" => [Some(1.0), Some(1.0)],
            _ => [None, None],
        }
    }

    pub(super) fn new(name: String, alpha: Option<f64>, beta: Option<f64>) -> Self {
        let [default_alpha, default_beta] = Self::defaults(&name);
        let or = |given: Option<f64>, default: Option<f64>| given.or(default).unwrap_or(0.0);
        Activation { alpha: or(alpha, default_alpha), beta: or(beta, default_beta), name }
    }

    pub(super) fn apply(&self, c: &mut Call, x: Value) -> Result<Value> {
        let (alpha, beta) = (self.alpha, self.beta);
        match self.name.as_str() {
            "affine" => {
                let scaled = c.scale(x, alpha)?;
                c.shift(scaled, beta)
            }
            "elu" => exponential_unit(c, x, alpha, 1.0),
            "hardsigmoid" => hard_gate(c, x, alpha, beta),
            "leakyrelu" => leaky(c, x, alpha),
            "relu" => c.relu(x),
            "scaledtanh" => {
                let scaled = c.scale(x, beta)?;
                let tanh = c.tanh(scaled)?;
                c.scale(tanh, alpha)
            }
            "sigmoid" => c.sigmoid(x),
            "softplus" => c.unary(Unary::Softplus, x),
            "softsign" => squashed(c, x),
            "tanh" => c.tanh(x),
            "thresholdedrelu" => thresholded(c, x, alpha),
            other => Err(c.unsupported(format!("activation '{other}' is not supported"))),
        }
    }
}

/// Applies the function that attribute `activation` names, if it names one.
pub(super) fn named_activation(c: &mut Call, x: Value, parameters: &[f64]) -> Result<Value> {
    let name = c.text("activation", "")?.to_lowercase();
    match (name.as_str(), parameters) {
        ("", _) => Ok(x),
        ("clip", &[low, high]) => clip_to(c, x, Some(low), Some(high)),
        _ => {
            let parameter = |i: usize| parameters.get(i).copied();
            Activation::new(name, parameter(0), parameter(1)).apply(c, x)
        }
    }
}
