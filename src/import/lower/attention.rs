//! Attention as one operator, of ONNX and of ONNX Runtime's optimiser.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, MICROSOFT, rules};
use crate::ops::{Reduction, Softmax};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rules("Attention", 23, "MatMul, Mul, Add, Softmax, Where", attention),
    rules("Attention", 1, "MatMul, Add, Mul, Softmax; without past states", fused_attention)
        .of(MICROSOFT),
    rules("MultiHeadAttention", 1, "MatMul, Add, Softmax; without past states", multi_head)
        .of(MICROSOFT),
];

const MINUS_INFINITY: f64 = f64::NEG_INFINITY;

/// Queries, keys and values `[batch, heads, positions, size]`.
struct Heads {
    q: Value,
    k: Value,
    v: Value,
}

/// The results of attention.
struct Attended {
    /// The result `[batch, heads, positions, size]`.
    y: Value,
    /// The scores as products of queries and keys, after the softcap, after the bias, and after the
    /// softmax.
    stages: [Value; 4],
}

/// `[batch, positions, heads·size]` as `[batch, heads, positions, size]`.
fn split_heads(c: &mut Call, x: Value, heads: usize) -> Result<Value> {
    let shape = c.shape(x);
    match shape[..] {
        [batch, positions, width] if heads > 0 && width % heads == 0 => {
            let parts = c.reshape(x, &[batch, positions, heads, width / heads])?;
            c.transpose(parts, &[0, 2, 1, 3])
        }
        [_, _, _, _] => Ok(x),
        _ => Err(c.invalid(format_args!("{shape:?} does not divide into {heads} heads"))),
    }
}

/// The reverse of [`split_heads`].
fn join_heads(c: &mut Call, x: Value) -> Result<Value> {
    let shape = c.shape(x);
    let moved = c.transpose(x, &[0, 2, 1, 3])?;
    c.reshape(moved, &[shape[0], shape[2], shape[1] * shape[3]])
}

/// `[batch, heads, …]` with each head repeated.
fn repeat_heads(c: &mut Call, x: Value, heads: usize) -> Result<Value> {
    let shape = c.shape(x);
    let own = shape[1];
    if own == heads {
        return Ok(x);
    }
    if own == 0 || !heads.is_multiple_of(own) {
        return Err(c.invalid(format_args!("{heads} query heads for {own} key heads")));
    }
    let mut parts = shape.clone();
    parts.insert(2, 1);
    let mut spread = parts.clone();
    spread[2] = heads / own;
    let parts = c.reshape(x, &parts)?;
    let spread = c.expand(parts, &spread)?;
    c.reshape(spread, &[&[shape[0], heads], &shape[2..]].concat())
}

/// `softmax(softcap(scale·q·kᵀ) + bias)·v`. Rows that the bias masks entirely have the result 0.
fn attend(
    c: &mut Call,
    x: &Heads,
    bias: Option<Value>,
    scale: f64,
    softcap: f64,
) -> Result<Attended> {
    let heads = c.shape(x.q)[1];
    let (k, v) = (repeat_heads(c, x.k, heads)?, repeat_heads(c, x.v, heads)?);
    let q = c.scale(x.q, scale)?;
    let product = c.matmul_t(q, k, false, true)?;
    let limited = if softcap > 0.0 {
        let small = c.scale(product, 1.0 / softcap)?;
        let bounded = c.tanh(small)?;
        c.scale(bounded, softcap)?
    } else {
        product
    };
    let last = c.rank(limited) - 1;
    let softmax = Softmax { axis: last, log: false };
    let Some(bias) = bias else {
        let p = c.push(softmax, &[limited])?;
        return Ok(Attended { y: c.matmul(p, v)?, stages: [product, limited, limited, p] });
    };
    let biased = c.add(limited, bias)?;
    let along = [c.rank(bias) - 1];
    let most = c.reduce(Reduction::Max, bias, &along)?;
    let nothing = c.scalar_like(most, MINUS_INFINITY);
    let masked = c.equal(most, nothing)?;
    let zero = c.scalar_like(biased, 0.0);
    let p = if c.as_constant(masked).is_some_and(|m| m.is_all(0.0)) {
        c.push(softmax, &[biased])?
    } else {
        let safe = c.select(masked, zero, biased)?;
        let p = c.push(softmax, &[safe])?;
        c.select(masked, zero, p)?
    };
    Ok(Attended { y: c.matmul(p, v)?, stages: [product, limited, biased, p] })
}

/// The constant positions `0..count` along the last axis of four (`row`), or along the second last.
fn positions(c: &mut Call, count: usize, row: bool) -> Result<Value> {
    let shape = if row { [1, 1, 1, count] } else { [1, 1, count, 1] };
    let positions = Tensor::index(0..count as i64).reshape(&shape)?;
    Ok(c.constant(positions))
}

/// 0 where `allowed`, else `masked`.
fn bias_of(c: &mut Call, allowed: Value, masked: f64) -> Result<Value> {
    let (zero, masked) = (c.scalar(DType::F32, 0.0), c.scalar(DType::F32, masked));
    c.select(allowed, zero, masked)
}

fn both(c: &mut Call, a: Option<Value>, b: Value) -> Result<Option<Value>> {
    match a {
        Some(a) => c.and(a, b).map(Some),
        None => Ok(Some(b)),
    }
}

/// The number of heads in attribute `name`; 0 if it is missing.
pub(super) fn heads_of(c: &Call, name: &str) -> Result<usize> {
    Ok(usize::try_from(c.int(name, 0)?).unwrap_or(0))
}

fn attention(c: &mut Call) -> Result<Vec<Binding>> {
    let (q, k, v) = (c.operand(0)?, c.operand(1)?, c.operand(2)?);
    let flat = c.rank(q) == 3;
    let (q_heads, kv_heads) = (heads_of(c, "q_num_heads")?, heads_of(c, "kv_num_heads")?);
    let q = split_heads(c, q, q_heads)?;
    let (mut k, mut v) = (split_heads(c, k, kv_heads)?, split_heads(c, v, kv_heads)?);
    let mut past = 0;
    if c.has(4) && c.has(5) {
        let (past_k, past_v) = (c.operand(4)?, c.operand(5)?);
        past = c.shape(past_k).get(2).copied().unwrap_or(0);
        (k, v) = (c.concat(&[past_k, k], 2)?, c.concat(&[past_v, v], 2)?);
    }
    let (q_shape, k_shape) = (c.shape(q), c.shape(k));
    let ([batch, _, queries, size], [_, _, keys, _]) = (&q_shape[..], &k_shape[..]) else {
        return Err(c.invalid(format_args!("operands of shapes {q_shape:?} and {k_shape:?}")));
    };
    let (batch, queries, keys) = (*batch, *queries, *keys);
    let scale = match c.optional_float("scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => 1.0 / (*size as f64).sqrt(),
    };

    let (i, j) = (positions(c, queries, false)?, positions(c, keys, true)?);
    let mut offset = c.scalar(DType::I64, past as f64);
    let mut allowed = None;
    if c.has(6) {
        let filled = c.fixed(6)?;
        let filled = c.cast(filled, DType::I64)?;
        let filled = c.reshape(filled, &[batch, 1, 1, 1])?;
        let inside = c.less(j, filled)?;
        allowed = both(c, allowed, inside)?;
        if past == 0 {
            offset = c.shift(filled, -(queries as f64))?;
        }
    }
    let at = c.add(i, offset)?;
    if c.flag("is_causal", false)? {
        let before = c.less_or_equal(j, at)?;
        allowed = both(c, allowed, before)?;
    }
    let (left, right) = (c.int("left_window_size", -1)?, c.int("right_window_size", -1)?);
    if left >= 0 {
        let first = c.shift(at, -(left as f64))?;
        let inside = c.greater_or_equal(j, first)?;
        allowed = both(c, allowed, inside)?;
    }
    if right >= 0 {
        let last = c.shift(at, right as f64)?;
        let inside = c.less_or_equal(j, last)?;
        allowed = both(c, allowed, inside)?;
    }
    let mut bias = match allowed {
        Some(allowed) => Some(bias_of(c, allowed, MINUS_INFINITY)?),
        None => None,
    };
    if c.has(3) {
        let mask = c.fixed(3)?;
        let is_bool = c.dtype(mask) == DType::Bool;
        let mask = if is_bool { bias_of(c, mask, MINUS_INFINITY)? } else { c.table(3)? };
        // The mask may have fewer columns than there are keys.
        let shape = c.shape(mask);
        let missing = keys.saturating_sub(shape.last().copied().unwrap_or(keys));
        let mut after = vec![0; shape.len()];
        if let Some(last) = after.last_mut().filter(|_| shape.last() != Some(&1) || keys == 1) {
            *last = missing;
        }
        let mask = c.pad(mask, &vec![0; shape.len()], &after, MINUS_INFINITY)?;
        bias = Some(match bias {
            Some(bias) => c.add(bias, mask)?,
            None => mask,
        });
    }
    let softcap = c.float("softcap", 0.0)?;
    let Attended { y, stages } = attend(c, &Heads { q, k, v }, bias, scale, softcap)?;
    let y = if flat { join_heads(c, y)? } else { y };
    let stage = usize::try_from(c.int("qk_matmul_output_mode", 0)?).unwrap_or(0).min(3);
    Ok(vec![y.into(), k.into(), v.into(), stages[stage].into()])
}

/// The bias for the mask in operand `i` of ONNX Runtime's operators. The mask is 1 where a query may
/// attend to a key, by batch and key or by batch, query and key; or it is the number of keys by batch.
fn key_mask(c: &mut Call, i: usize, [batch, keys]: [usize; 2]) -> Result<Option<Value>> {
    if !c.has(i) {
        return Ok(None);
    }
    let mask = c.fixed(i)?;
    let shape = c.shape(mask);
    let mask = c.cast(mask, DType::I64)?;
    let allowed = match shape[..] {
        [n] if n == batch => {
            let count = c.reshape(mask, &[batch, 1, 1, 1])?;
            let j = positions(c, keys, true)?;
            c.less(j, count)?
        }
        [_, _] | [_, _, _] | [_, _, _, _] => {
            let lead = match shape.len() {
                2 => vec![shape[0], 1, 1, shape[1]],
                3 => vec![shape[0], 1, shape[1], shape[2]],
                _ => shape.clone(),
            };
            let mask = c.reshape(mask, &lead)?;
            let zero = c.scalar(DType::I64, 0.0);
            c.greater(mask, zero)?
        }
        _ => return Err(c.unsupported(format!("a mask of shape {shape:?} is not supported"))),
    };
    let filler = c.float("mask_filter_value", -10_000.0)?;
    bias_of(c, allowed, filler).map(Some)
}

fn sum_of(c: &mut Call, terms: [Option<Value>; 3]) -> Result<Option<Value>> {
    let mut sum = None;
    for term in terms.into_iter().flatten() {
        sum = Some(match sum {
            Some(sum) => c.add(sum, term)?,
            None => term,
        });
    }
    Ok(sum)
}

fn causal(c: &mut Call, queries: usize, keys: usize) -> Result<Option<Value>> {
    if !c.flag("unidirectional", false)? {
        return Ok(None);
    }
    let (i, j) = (positions(c, queries, false)?, positions(c, keys, true)?);
    let before = c.less_or_equal(j, i)?;
    let filler = c.float("mask_filter_value", -10_000.0)?;
    bias_of(c, before, filler).map(Some)
}

/// ONNX Runtime's attention over queries, keys and values `[batch, positions, width]`, with the mask in
/// operand `mask` and a bias of the scores in operand `bias`.
fn fused(c: &mut Call, [q, k, v]: [Value; 3], mask: usize, bias: usize) -> Result<Vec<Binding>> {
    let heads = heads_of(c, "num_heads")?;
    let (q, k, v) =
        (split_heads(c, q, heads)?, split_heads(c, k, heads)?, split_heads(c, v, heads)?);
    let (shape, keys) = (c.shape(q), c.shape(k)[2]);
    let size = shape[3] as f64;
    let scale = match c.optional_float("scale")? {
        Some(scale) if scale != 0.0 => scale,
        _ => 1.0 / size.sqrt(),
    };
    let mask = key_mask(c, mask, [shape[0], keys])?;
    let before = causal(c, shape[2], keys)?;
    let added = if c.has(bias) { Some(c.table(bias)?) } else { None };
    let bias = sum_of(c, [mask, before, added])?;
    let Attended { y, .. } = attend(c, &Heads { q, k, v }, bias, scale, 0.0)?;
    let y = join_heads(c, y)?;
    let kept = Binding::Absent("states kept between calls are not supported");
    Ok(vec![y.into(), kept.clone(), kept])
}

fn fused_attention(c: &mut Call) -> Result<Vec<Binding>> {
    if c.has(4) || c.flag("do_rotary", false)? {
        return Err(c.unsupported(
            "past states and rotation in it are not supported; use the model as exported, before \
             optimisation",
        ));
    }
    let (x, w) = (c.operand(0)?, c.weight(1)?);
    let mut all = c.matmul(x, w)?;
    if let Some(bias) = c.optional_weight(2)? {
        all = c.add(all, bias)?;
    }
    let width = c.shape(all).last().copied().unwrap_or(0);
    let sizes = match c.ints("qkv_hidden_sizes")? {
        Some(sizes) => c.sizes(&sizes, "qkv_hidden_sizes")?,
        None => vec![width / 3; 3],
    };
    let (&[q, k, v], true) = (&sizes[..], sizes.iter().sum::<usize>() == width) else {
        return Err(c.invalid(format_args!("{width} columns are not queries, keys and values")));
    };
    let axis = c.rank(all) - 1;
    let parts = [
        c.slice_axis(all, axis, 0, q, 1)?,
        c.slice_axis(all, axis, q, q + k, 1)?,
        c.slice_axis(all, axis, q + k, q + k + v, 1)?,
    ];
    fused(c, parts, 3, 5)
}

fn multi_head(c: &mut Call) -> Result<Vec<Binding>> {
    if c.has(6) || c.has(7) {
        return Err(c.unsupported(
            "past states are not supported; use the model as exported, before optimisation",
        ));
    }
    let mut parts = Vec::new();
    for i in 0..3 {
        let operand = c.has(i).then(|| c.operand(i)).transpose()?;
        match operand {
            Some(x) if matches!(c.rank(x), 3 | 4) => parts.push(x),
            _ => {
                return Err(c.unsupported(
                    "packed queries, keys and values are not supported; use the model as \
                     exported, before optimisation",
                ));
            }
        }
    }
    if let Some(bias) = c.optional_weight(3)? {
        let mut start = 0;
        for part in &mut parts {
            let width = c.shape(*part).last().copied().unwrap_or(0);
            let own = c.slice_axis(bias, 0, start, start + width, 1)?;
            *part = c.add(*part, own)?;
            start += width;
        }
    }
    fused(c, [parts[0], parts[1], parts[2]], 4, 5)
}
