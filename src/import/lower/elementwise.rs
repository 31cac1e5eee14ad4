//! Arithmetic, comparisons, logic, casts and selection.

use crate::error::Result;
use crate::graph::{RectifierKind, Value};
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::literal::Role;
use crate::import::table::{Entry, rule, rules, zero};
use crate::onnx::{DataType, dtype_of};
use crate::ops::{Binary, Op, Primitive, Unary};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("Abs", 7, "Abs", |c| c.apply(Unary::Abs)),
    rule("Acos", 7, "Acos", |c| c.apply(Unary::Acos)),
    rule("Acosh", 9, "Acosh", |c| c.apply(Unary::Acosh)),
    rule("Add", 7, "Add", add),
    zero("And", 7, "And", |c| compare(c, Binary::And)),
    rule("Asin", 7, "Asin", |c| c.apply(Unary::Asin)),
    rule("Asinh", 9, "Asinh", |c| c.apply(Unary::Asinh)),
    rule("Atan", 7, "Atan", |c| c.apply(Unary::Atan)),
    rule("Atanh", 9, "Atanh", |c| c.apply(Unary::Atanh)),
    rules("Cast", 7, "Cast; floats of all widths are float32", cast),
    rules("CastLike", 15, "Cast", cast_like),
    zero("Ceil", 7, "Ceil", |c| c.apply(Unary::Ceil)),
    rule("Clip", 7, "Where; the derivative is 0 at and beyond the bounds", clip),
    rule("Cos", 7, "Cos", |c| c.apply(Unary::Cos)),
    rule("Cosh", 9, "Cosh", |c| c.apply(Unary::Cosh)),
    rule("Div", 7, "Div", |c| binary(c, Binary::Div)),
    zero("Equal", 7, "Equal", |c| compare(c, Binary::Equal)),
    rule("Erf", 9, "Erf", |c| c.apply(Unary::Erf)),
    rule("Exp", 7, "Exp", |c| c.apply(Unary::Exp)),
    zero("Floor", 7, "Floor", |c| c.apply(Unary::Floor)),
    zero("Greater", 7, "Greater", |c| compare(c, Binary::Greater)),
    zero("GreaterOrEqual", 12, "GreaterOrEqual", |c| compare(c, Binary::GreaterOrEqual)),
    zero("IsInf", 10, "IsInf", is_inf),
    zero("IsNaN", 9, "IsNaN", |c| c.apply(Unary::IsNaN)),
    zero("Less", 7, "Less", |c| compare(c, Binary::Less)),
    zero("LessOrEqual", 12, "LessOrEqual", |c| compare(c, Binary::LessOrEqual)),
    rule("Log", 7, "Log", |c| c.apply(Unary::Log)),
    rule("Max", 7, "Max; ties share the derivative", |c| variadic(c, Binary::Max)),
    rule("Mean", 7, "Add, Mul", mean),
    rule("Min", 7, "Min; ties share the derivative", |c| variadic(c, Binary::Min)),
    rule("Mod", 10, "Mod; with fmod of floats Sub, Mul, Floor", modulo),
    rule("Mul", 7, "Mul", |c| binary(c, Binary::Mul)),
    rule("Neg", 7, "Neg", |c| c.apply(Unary::Neg)),
    zero("Not", 7, "Not", |c| c.apply(Unary::Not)),
    zero("Or", 7, "Or", |c| compare(c, Binary::Or)),
    rule("Pow", 7, "Pow; an infinite derivative at 0 is 0", pow),
    rule("Reciprocal", 7, "Reciprocal", |c| c.apply(Unary::Reciprocal)),
    zero("Round", 11, "Round", |c| c.apply(Unary::Round)),
    zero("Sign", 9, "Sign", |c| c.apply(Unary::Sign)),
    rule("Sin", 7, "Sin", |c| c.apply(Unary::Sin)),
    rule("Sinh", 9, "Sinh", |c| c.apply(Unary::Sinh)),
    rule("Sqrt", 7, "Sqrt; the derivative at 0 is 0", |c| c.apply(Unary::Sqrt)),
    rule("Sub", 7, "Sub", |c| binary(c, Binary::Sub)),
    rule("Sum", 7, "Add", |c| variadic(c, Binary::Add)),
    rule("Tan", 7, "Tan", |c| c.apply(Unary::Tan)),
    rule("Where", 9, "Where", select),
    zero("Xor", 7, "Xor", |c| compare(c, Binary::Xor)),
];

fn binary(c: &mut Call, f: Binary) -> Result<Value> {
    let (a, b) = (c.operand(0)?, c.operand(1)?);
    c.push(f, &[a, b])
}

fn compare(c: &mut Call, f: Binary) -> Result<Value> {
    let (a, b) = (c.fixed(0)?, c.fixed(1)?);
    c.push(f, &[a, b])
}

fn add(c: &mut Call) -> Result<Value> {
    let role = |c: &mut Call, i: usize| -> Result<Role> {
        Ok(if is_bias(c, i)? { Role::Weight } else { Role::Operand })
    };
    let roles = [role(c, 0)?, role(c, 1)?];
    let (a, b) = (c.binding(0)?, c.binding(1)?);
    let (a, b) = (c.value_of(&a, roles[0])?, c.value_of(&b, roles[1])?);
    c.add(a, b)
}

/// Whether operand `i` of an addition is the bias of a matrix product or convolution: a stored tensor
/// with one axis as long as the product has channels. A bias is a parameter even if it has a single
/// element or is stored in a constant node.
fn is_bias(c: &mut Call, i: usize) -> Result<bool> {
    let Some(shape) = c.stored_shape(i) else { return Ok(false) };
    let Binding::Value(mut product) = c.binding(1 - i)? else { return Ok(false) };
    if c.is_mask(i) {
        return Ok(false);
    }
    let channels: usize = shape.iter().product();
    let product_shape = c.shape(product);
    let fits = product_shape.last() == Some(&channels)
        || (product_shape.get(1) == Some(&channels) && shape.len() > 1);
    while let Some(inner) = c.as_reshape(product) {
        product = inner;
    }
    let op = &c.graph().node(product).op;
    let is_product = matches!(
        op,
        Op::Apply(Primitive::MatMul(_) | Primitive::Conv(_) | Primitive::ConvInputGrad(_))
    );
    Ok(fits && is_product && shape.iter().filter(|&&d| d != 1).count() <= 1)
}

fn variadic(c: &mut Call, f: Binary) -> Result<Value> {
    let mut result = c.operand(0)?;
    for i in 1..c.operands() {
        let next = c.operand(i)?;
        result = c.push(f, &[result, next])?;
    }
    Ok(result)
}

fn mean(c: &mut Call) -> Result<Value> {
    let sum = variadic(c, Binary::Add)?;
    let count = c.operands() as f64;
    c.scale(sum, 1.0 / count)
}

/// The result has the dtype of the base, not that of the exponent.
fn pow(c: &mut Call) -> Result<Value> {
    let (x, exponent) = (c.operand(0)?, c.operand(1)?);
    let dtype = c.dtype(x);
    if dtype == c.dtype(exponent) {
        return c.pow(x, exponent);
    }
    let (x, exponent) = (c.cast(x, DType::F32)?, c.cast(exponent, DType::F32)?);
    let y = c.pow(x, exponent)?;
    c.cast(y, dtype)
}

/// With `fmod` the remainder has the sign of the dividend: `x − y·trunc(x / y)`.
fn modulo(c: &mut Call) -> Result<Value> {
    let fmod = c.flag("fmod", false)?;
    let (x, y) = (c.operand(0)?, c.operand(1)?);
    if !c.dtype(x).is_float() {
        if !fmod {
            return c.push(Binary::Mod, &[x, y]);
        }
        let (sign, size) = (c.sign(x)?, c.unary(Unary::Abs, x)?);
        let divisor = c.unary(Unary::Abs, y)?;
        let remainder = c.push(Binary::Mod, &[size, divisor])?;
        return c.mul(sign, remainder);
    }
    // The remainder of the division truncated towards zero. A dividend smaller than the divisor is its
    // own remainder.
    let quotient = c.div(x, y)?;
    let (sign, size) = (c.sign(quotient)?, c.unary(Unary::Abs, quotient)?);
    let size = c.unary(Unary::Floor, size)?;
    let whole = c.mul(sign, size)?;
    let multiple = c.mul(y, whole)?;
    let rest = c.sub(x, multiple)?;
    let zero = c.scalar_like(x, 0.0);
    let none = c.equal(whole, zero)?;
    let rest = c.select(none, x, rest)?;
    if fmod {
        return Ok(rest);
    }
    let (positive, negative) = (c.greater(rest, zero)?, c.less(rest, zero)?);
    let (above, below) = (c.greater(y, zero)?, c.less(y, zero)?);
    let (over, under) = (c.and(positive, below)?, c.and(negative, above)?);
    let differ = c.or(over, under)?;
    let moved = c.add(rest, y)?;
    c.select(differ, moved, rest)
}

fn is_inf(c: &mut Call) -> Result<Value> {
    let negative = c.flag("detect_negative", true)?;
    let positive = c.flag("detect_positive", true)?;
    let x = c.fixed(0)?;
    let infinite = c.unary(Unary::IsInf, x)?;
    let zero = c.scalar_like(x, 0.0);
    let wanted = match (negative, positive) {
        (true, true) => return Ok(infinite),
        (true, false) => c.less(x, zero)?,
        (false, true) => c.greater(x, zero)?,
        (false, false) => c.scalar(DType::Bool, 0.0),
    };
    c.and(infinite, wanted)
}

/// `x` clamped to `[low, high]`. The derivative is 0 at and beyond the bounds, as for ReLU6.
pub(super) fn clamp(c: &mut Call, x: Value, low: Option<f64>, high: Option<f64>) -> Result<Value> {
    let mut y = x;
    if let Some(low) = low.filter(|&low| low > -f64::from(f32::MAX)) {
        y = if low == 0.0 && c.dtype(y).is_float() {
            c.unary(Unary::Relu, y)?
        } else {
            let bound = c.scalar_like(y, low);
            let above = c.greater(y, bound)?;
            c.select(above, y, bound)?
        };
    }
    if let Some(high) = high.filter(|&high| high < f64::from(f32::MAX)) {
        let bound = c.scalar_like(y, high);
        let below = c.less(y, bound)?;
        y = c.select(below, y, bound)?;
    }
    Ok(y)
}

/// [`clamp`] as an activation: with the bounds 0 and 6, or 0 and none, it is a rectifier.
pub(super) fn clip_to(
    c: &mut Call,
    x: Value,
    low: Option<f64>,
    high: Option<f64>,
) -> Result<Value> {
    let y = clamp(c, x, low, high)?;
    let is_finite = |bound: f64| bound < f64::from(f32::MAX);
    match (low, high.filter(|&high| is_finite(high))) {
        (Some(0.0), None) => c.rectified(x, y, RectifierKind::Relu),
        (Some(0.0), Some(6.0)) => c.rectified(x, y, RectifierKind::Relu6),
        _ => {}
    }
    Ok(y)
}

fn clip(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    if c.opset < 11 {
        let (low, high) = (c.optional_float("min")?, c.optional_float("max")?);
        return clip_to(c, x, low, high);
    }
    let known = |c: &mut Call, i: usize| match c.has(i) {
        true => Ok(c.known(i)?.and_then(|bound| bound.scalar())),
        false => Ok(None),
    };
    let (low, high) = (known(c, 1)?, known(c, 2)?);
    if low.is_some() == c.has(1) && high.is_some() == c.has(2) {
        return clip_to(c, x, low, high);
    }
    let mut y = x;
    for (i, is_low) in [(1, true), (2, false)] {
        if !c.has(i) {
            continue;
        }
        let bound = match c.known(i)? {
            Some(bound) => bound.scalar(),
            None => None,
        };
        y = match (bound, is_low) {
            (Some(low), true) => clamp(c, y, Some(low), None)?,
            (Some(high), false) => clamp(c, y, None, Some(high))?,
            (None, _) => {
                let bound = c.table(i)?;
                let f = if is_low { Binary::Max } else { Binary::Min };
                c.push(f, &[y, bound])?
            }
        };
    }
    Ok(y)
}

fn select(c: &mut Call) -> Result<Value> {
    let (condition, a, b) = (c.fixed(0)?, c.table(1)?, c.table(2)?);
    c.select(condition, a, b)
}

fn cast(c: &mut Call) -> Result<Vec<Binding>> {
    let code = c.int("to", 0)?;
    let target = i32::try_from(code).ok().and_then(|code| DataType::try_from(code).ok());
    let Some(target) = target else {
        return Err(c.invalid(format_args!("attribute 'to' is {code}, which is no element type")));
    };
    let Some(dtype) = dtype_of(target) else {
        let what = target.name();
        return Err(c.unsupported(format!("a cast to {what} cannot be represented")));
    };
    // All floats are float32 here, so a cast between them changes nothing and a weight stays a weight.
    if let Binding::Stored(_) = c.binding(0)?
        && dtype == DType::F32
        && matches!(c.known(0)?, Some(Tensor::F32(_)))
    {
        return Ok(vec![c.binding(0)?]);
    }
    let x = c.operand(0)?;
    let wrapped = match target {
        _ if c.dtype(x) == DType::Bool || c.dtype(x).is_float() => x,
        DataType::Uint8 => wrap(c, x, 8, 0)?,
        DataType::Uint16 => wrap(c, x, 16, 0)?,
        DataType::Uint32 => wrap(c, x, 32, 0)?,
        DataType::Int8 => wrap(c, x, 8, 1 << 7)?,
        DataType::Int16 => wrap(c, x, 16, 1 << 15)?,
        _ => x,
    };
    Ok(super::one(c.cast(wrapped, dtype)?))
}

/// Wraps integers to `bits` bits, into the range from `−low` on.
fn wrap(c: &mut Call, x: Value, bits: u32, low: i64) -> Result<Value> {
    let x = c.cast(x, DType::I64)?;
    let (low, period) = (low as f64, f64::from(bits).exp2());
    let shifted = c.shift(x, low)?;
    let period = c.scalar_like(x, period);
    let reduced = c.push(Binary::Mod, &[shifted, period])?;
    c.shift(reduced, -low)
}

fn cast_like(c: &mut Call) -> Result<Vec<Binding>> {
    let like = c.fixed(1)?;
    let dtype = c.dtype(like);
    if dtype == DType::F32
        && let Binding::Stored(_) = c.binding(0)?
        && matches!(c.known(0)?, Some(Tensor::F32(_)))
    {
        return Ok(vec![c.binding(0)?]);
    }
    let x = c.operand(0)?;
    Ok(super::one(c.cast(x, dtype)?))
}
