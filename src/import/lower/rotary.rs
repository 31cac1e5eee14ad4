//! Rotary position embeddings.

use super::attention::heads_of;
use super::gather::indices;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, MICROSOFT, rule};

pub(super) const ENTRIES: &[Entry] = &[
    rule("RotaryEmbedding", 23, "Slice, Mul, Add, Sub, Concat", rotary),
    rule("RotaryEmbedding", 1, "Slice, Mul, Add, Sub, Concat", fused_rotary).of(MICROSOFT),
];

/// Rotates the first `width` elements along the last axis of `x` `[batch, positions, heads, size]` in
/// pairs. `cos` and `sin` are those of the angles, `[batch or 1, positions, width / 2]`.
fn rotated(c: &mut Call, x: Value, (cos, sin): (Value, Value), interleaved: bool) -> Result<Value> {
    let shape = c.shape(x);
    let [batch, count, heads, size] = shape[..] else {
        return Err(c.invalid(format_args!("{shape:?} has no heads to rotate")));
    };
    let angles = c.shape(cos);
    let half = angles.last().copied().unwrap_or(0);
    if half * 2 > size || angles.len() != 3 || c.shape(sin) != angles {
        return Err(c.invalid(format_args!("angles {angles:?} for heads of size {size}")));
    }
    let column = [angles[0], angles[1], 1, half];
    let (cos, sin) = (c.reshape(cos, &column)?, c.reshape(sin, &column)?);
    let turned = c.slice_axis(x, 3, 0, 2 * half, 1)?;
    let (first, second) = if interleaved {
        let pairs = c.reshape(turned, &[batch, count, heads, half, 2])?;
        let (first, second) = (c.slice_axis(pairs, 4, 0, 1, 1)?, c.slice_axis(pairs, 4, 1, 2, 1)?);
        let flat = [batch, count, heads, half];
        (c.reshape(first, &flat)?, c.reshape(second, &flat)?)
    } else {
        (c.slice_axis(turned, 3, 0, half, 1)?, c.slice_axis(turned, 3, half, 2 * half, 1)?)
    };
    let mut combine = |a: Value, b: Value, minus: bool| {
        let (p, q) = (c.mul(first, a)?, c.mul(second, b)?);
        if minus { c.sub(p, q) } else { c.add(p, q) }
    };
    let (real, imaginary) = (combine(cos, sin, true)?, combine(sin, cos, false)?);
    let turned = if interleaved {
        let column = [batch, count, heads, half, 1];
        let (real, imaginary) = (c.reshape(real, &column)?, c.reshape(imaginary, &column)?);
        let pairs = c.concat(&[real, imaginary], 4)?;
        c.reshape(pairs, &[batch, count, heads, 2 * half])?
    } else {
        c.concat(&[real, imaginary], 3)?
    };
    let rest = c.slice_axis(x, 3, 2 * half, size, 1)?;
    if 2 * half == size { Ok(turned) } else { c.concat(&[turned, rest], 3) }
}

/// Rotates operand 0. The operands `tables` hold the cosines and sines of the angles; operand `at`, if
/// any, the positions at which to look them up.
fn rotate(c: &mut Call, tables: [usize; 2], at: Option<usize>) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let interleaved = c.flag("interleaved", false)?;
    let (cos, sin) = (c.table(tables[0])?, c.table(tables[1])?);
    let angles = match at {
        Some(at) => {
            let rows = c.shape(cos).first().copied().unwrap_or(0);
            let at = indices(c, at, rows)?;
            (c.gather(cos, at, 0)?, c.gather(sin, at, 0)?)
        }
        None => (cos, sin),
    };
    match shape[..] {
        [batch, count, width] => {
            let heads = heads_of(c, "num_heads")?;
            let size = match (heads, 2 * c.shape(angles.0).last().copied().unwrap_or(0)) {
                (0, size) => size,
                (heads, _) => width / heads,
            };
            if size == 0 || width % size != 0 {
                return Err(c.invalid(format_args!("{width} does not divide into {heads} heads")));
            }
            let x = c.reshape(x, &[batch, count, width / size, size])?;
            let y = rotated(c, x, angles, interleaved)?;
            c.reshape(y, &shape)
        }
        [_, _, _, _] => {
            let x = c.transpose(x, &[0, 2, 1, 3])?;
            let y = rotated(c, x, angles, interleaved)?;
            c.transpose(y, &[0, 2, 1, 3])
        }
        _ => Err(c.invalid(format_args!("{shape:?} has no heads to rotate"))),
    }
}

fn rotary(c: &mut Call) -> Result<Value> {
    let at = c.has(3).then_some(3);
    rotate(c, [1, 2], at)
}

fn fused_rotary(c: &mut Call) -> Result<Value> {
    let at = c.fixed(1)?;
    if c.rank(at) != 2 || c.flag("is_packed_batching", false)? {
        return Err(c.unsupported("only positions given for each element are supported"));
    }
    rotate(c, [2, 3], Some(1))
}
