//! Normalisations.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, MICROSOFT, rule, rules};
use crate::ops::{AveragePool, BatchNorm, BatchNormMode, Unary};

pub(super) const ENTRIES: &[Entry] = &[
    rules("BatchNormalization", 7, "by the batch-norm mode chosen for the score", batch_norm),
    rule("GroupNormalization", 18, "ReduceMean, Sub, Mul, Sqrt, Div", group_norm),
    rule("InstanceNormalization", 7, "ReduceMean, Sub, Mul, Sqrt, Div", instance_norm),
    rules("LayerNormalization", 17, "ReduceMean, Sub, Mul, Sqrt, Div", layer_norm),
    rule("LpNormalization", 7, "Abs or Mul, ReduceSum, Div", lp_norm),
    rule("LRN", 7, "Mul, AveragePool, Pow, Div", lrn),
    rule("MeanVarianceNormalization", 9, "ReduceMean, Sub, Mul, Sqrt, Div", mean_variance_norm),
    rules("RMSNormalization", 23, "Mul, ReduceMean, Sqrt, Div", rms_norm),
    // ONNX Runtime writes these fused operators, some of them into the default domain.
    rules("SimplifiedLayerNormalization", 7, "Mul, ReduceMean, Sqrt, Div", rms_norm),
    rules("LayerNormalization", 1, "ReduceMean, Sub, Mul, Sqrt, Div", layer_norm).of(MICROSOFT),
    rules("SimplifiedLayerNormalization", 1, "Mul, ReduceMean, Sqrt, Div", rms_norm).of(MICROSOFT),
    rules("SkipLayerNormalization", 1, "Add, ReduceMean, Sub, Mul, Sqrt, Div", |c| {
        skip_norm(c, false)
    })
    .of(MICROSOFT),
    rules("SkipSimplifiedLayerNormalization", 1, "Add, Mul, ReduceMean, Sqrt, Div", |c| {
        skip_norm(c, true)
    })
    .of(MICROSOFT),
];

/// `x − mean(x)` over `axes`, its standard deviation `√(var + ε)`, and the mean.
struct Moments {
    centred: Value,
    deviation: Value,
    mean: Value,
}

fn moments(c: &mut Call, x: Value, axes: &[usize], epsilon: f64) -> Result<Moments> {
    let mean = c.reduce_mean(x, axes)?;
    let centred = c.sub(x, mean)?;
    Ok(Moments { centred, deviation: root_mean_square(c, centred, axes, epsilon)?, mean })
}

/// `√(mean(x²) + ε)` over `axes`.
fn root_mean_square(c: &mut Call, x: Value, axes: &[usize], epsilon: f64) -> Result<Value> {
    let square = c.mul(x, x)?;
    let mean = c.reduce_mean(square, axes)?;
    let shifted = c.shift(mean, epsilon)?;
    c.sqrt(shifted)
}

/// `(x − mean(x)) / √(var(x) + ε)` over `axes`.
pub(super) fn layer_normalised(
    c: &mut Call,
    x: Value,
    axes: &[usize],
    epsilon: f64,
) -> Result<Value> {
    let Moments { centred, deviation, .. } = moments(c, x, axes, epsilon)?;
    c.div(centred, deviation)
}

/// A vector over the channels, shaped to broadcast against `[N, C, S…]`.
fn per_channel(c: &mut Call, vector: Value, rank: usize) -> Result<Value> {
    let mut row = vec![1; rank];
    let len = c.fact(vector).len();
    if let Some(channel) = row.get_mut(1) {
        *channel = len;
    }
    c.reshape(vector, &row)
}

fn scale_and_shift(c: &mut Call, x: Value, scale: Value, bias: Value) -> Result<Value> {
    let scaled = c.mul(x, scale)?;
    c.add(scaled, bias)
}

fn batch_norm(c: &mut Call) -> Result<Vec<Binding>> {
    if !c.flag("spatial", true)? {
        return Err(c.unsupported("statistics per position (spatial=0) are not supported"));
    }
    let epsilon = c.float("epsilon", 1e-5)?;
    let mut x = c.operand(0)?;
    let shape = c.shape(x);
    if shape.len() == 1 {
        x = c.reshape(x, &[shape[0], 1])?;
    }
    let (scale, bias) = (c.weight(1)?, c.weight(2)?);
    let (mean, variance) = (c.fixed(3)?, c.fixed(4)?);
    c.count_batch_norm();
    let op = BatchNorm { epsilon: epsilon.into(), mode: BatchNormMode::Running };
    let y = c.push(op, &[x, scale, bias, mean, variance])?;
    let y = c.reshape(y, &shape)?;
    let untold = Binding::Absent("batch statistics are not outputs of a scored model");
    Ok(vec![y.into(), untold.clone(), untold.clone(), untold.clone(), untold])
}

fn instance_norm(c: &mut Call) -> Result<Value> {
    let epsilon = c.float("epsilon", 1e-5)?;
    let x = c.operand(0)?;
    let rank = c.rank(x);
    let axes: Vec<usize> = (2..rank).collect();
    let y = layer_normalised(c, x, &axes, epsilon)?;
    let (scale, bias) = (c.weight(1)?, c.weight(2)?);
    let (scale, bias) = (per_channel(c, scale, rank)?, per_channel(c, bias, rank)?);
    scale_and_shift(c, y, scale, bias)
}

/// Statistics are taken over groups of channels. Scale and bias are per group before opset 21, per
/// channel since.
fn group_norm(c: &mut Call) -> Result<Value> {
    let epsilon = c.float("epsilon", 1e-5)?;
    let groups = usize::try_from(c.int("num_groups", 0)?).unwrap_or(0);
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let channels = shape.get(1).copied().unwrap_or(0);
    if shape.len() < 2 {
        return Err(c.invalid(format_args!("needs channels in the second axis, not {shape:?}")));
    }
    if groups == 0 || channels % groups != 0 {
        return Err(c.invalid(format_args!("{channels} channels are not {groups} equal groups")));
    }
    let rest: usize = shape[2..].iter().product();
    let grouped = c.reshape(x, &[shape[0], groups, channels / groups * rest])?;
    let y = layer_normalised(c, grouped, &[2], epsilon)?;
    let (scale, bias) = (c.weight(1)?, c.weight(2)?);
    if c.opset < 21 && c.shape(scale) == [groups] {
        let (scale, bias) = (c.reshape(scale, &[1, groups, 1])?, c.reshape(bias, &[1, groups, 1])?);
        let y = scale_and_shift(c, y, scale, bias)?;
        return c.reshape(y, &shape);
    }
    let y = c.reshape(y, &shape)?;
    let rank = shape.len();
    let (scale, bias) = (per_channel(c, scale, rank)?, per_channel(c, bias, rank)?);
    scale_and_shift(c, y, scale, bias)
}

/// The axes from `axis` on.
fn trailing_axes(c: &Call, x: Value) -> Result<Vec<usize>> {
    let rank = c.rank(x);
    Ok((c.axis(c.int("axis", -1)?, rank)?..rank).collect())
}

fn layer_norm(c: &mut Call) -> Result<Vec<Binding>> {
    let epsilon = c.float("epsilon", 1e-5)?;
    let x = c.operand(0)?;
    let axes = trailing_axes(c, x)?;
    let Moments { centred, deviation, mean } = moments(c, x, &axes, epsilon)?;
    let normal = c.div(centred, deviation)?;
    let scale = c.weight(1)?;
    let mut y = c.mul(normal, scale)?;
    if let Some(bias) = c.optional_weight(2)? {
        y = c.add(y, bias)?;
    }
    let inverse = c.unary(Unary::Reciprocal, deviation)?;
    Ok(vec![y.into(), mean.into(), inverse.into()])
}

fn rms_norm(c: &mut Call) -> Result<Vec<Binding>> {
    let epsilon = c.float("epsilon", 1e-5)?;
    let x = c.operand(0)?;
    let axes = trailing_axes(c, x)?;
    let deviation = root_mean_square(c, x, &axes, epsilon)?;
    let normal = c.div(x, deviation)?;
    let scale = c.weight(1)?;
    let y = c.mul(normal, scale)?;
    let inverse = c.unary(Unary::Reciprocal, deviation)?;
    Ok(vec![y.into(), inverse.into()])
}

/// Layer normalisation of the sum of two operands and a bias. The sum is the fourth result.
fn skip_norm(c: &mut Call, simplified: bool) -> Result<Vec<Binding>> {
    let epsilon = c.float("epsilon", 1e-12)?;
    let (x, skip) = (c.operand(0)?, c.operand(1)?);
    let mut sum = c.add(x, skip)?;
    if let Some(bias) = c.optional_weight(if simplified { 3 } else { 4 })? {
        sum = c.add(sum, bias)?;
    }
    let last = [c.rank(sum).saturating_sub(1)];
    let (normal, mean, deviation) = if simplified {
        let deviation = root_mean_square(c, sum, &last, epsilon)?;
        (c.div(sum, deviation)?, None, deviation)
    } else {
        let Moments { centred, deviation, mean } = moments(c, sum, &last, epsilon)?;
        (c.div(centred, deviation)?, Some(mean), deviation)
    };
    let gamma = c.weight(2)?;
    let mut y = c.mul(normal, gamma)?;
    if !simplified && let Some(beta) = c.optional_weight(3)? {
        y = c.add(y, beta)?;
    }
    let inverse = c.unary(Unary::Reciprocal, deviation)?;
    let mean = mean.map_or(Binding::Absent("no mean is taken"), Binding::from);
    Ok(vec![y.into(), mean, inverse.into(), sum.into()])
}

fn lp_norm(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let axis = c.axis(c.int("axis", -1)?, c.rank(x))?;
    let p = c.int("p", 2)?;
    let norm = match p {
        1 => {
            let size = c.unary(Unary::Abs, x)?;
            c.reduce_sum(size, &[axis])?
        }
        2 => {
            let square = c.mul(x, x)?;
            c.reduce_sum(square, &[axis])?
        }
        p => return Err(c.invalid(format_args!("p is {p}, not 1 or 2"))),
    };
    // Where the norm is 0, so is x, and the result is 0.
    let (zero, one) = (c.scalar_like(x, 0.0), c.scalar_like(x, 1.0));
    let is_zero = c.equal(norm, zero)?;
    let norm = c.select(is_zero, one, norm)?;
    let norm = if p == 2 { c.sqrt(norm)? } else { norm };
    c.div(x, norm)
}

/// `x / (bias + α·mean)^β`, where `mean` is that of the squares of the `size` channels around each, zero
/// padded. It is an average pool along the channels.
fn lrn(c: &mut Call) -> Result<Value> {
    let (alpha, beta) = (c.float("alpha", 1e-4)?, c.float("beta", 0.75)?);
    let bias = c.float("bias", 1.0)?;
    let size = usize::try_from(c.int("size", 0)?).unwrap_or(0);
    let x = c.operand(0)?;
    let shape = c.shape(x);
    if size == 0 || shape.len() < 2 {
        return Err(c.invalid("needs a channel axis and a positive size"));
    }
    let square = c.mul(x, x)?;
    let rest: usize = shape[2..].iter().product();
    let image = c.reshape(square, &[shape[0], 1, shape[1], rest])?;
    let before = (size - 1) / 2;
    let pool = AveragePool::new(&[size, 1], &[1, 1], &[before, 0], &[size - 1 - before, 0]);
    let mean = c.push(pool, &[image])?;
    let mean = c.reshape(mean, &shape)?;
    let scaled = c.scale(mean, alpha)?;
    let base = c.shift(scaled, bias)?;
    let exponent = c.scalar_like(base, beta);
    let divisor = c.pow(base, exponent)?;
    c.div(x, divisor)
}

fn mean_variance_norm(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let axes = c.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = c.axes(&axes, c.rank(x))?;
    let Moments { centred, deviation, .. } = moments(c, x, &axes, 0.0)?;
    let divisor = c.shift(deviation, 1e-9)?;
    c.div(centred, divisor)
}
