//! Shapes, and operators that change shapes or move elements.

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule, zero};
use crate::tensor::Tensor;

pub(super) const ENTRIES: &[Entry] = &[
    rule("Concat", 7, "Concat", concat),
    rule("DepthToSpace", 7, "Reshape, Transpose", depth_to_space),
    rule("Expand", 8, "Expand", expand),
    rule("Flatten", 7, "Reshape", flatten),
    rule("Reshape", 7, "Reshape", reshape),
    zero("Shape", 7, "a constant", shape),
    zero("Size", 7, "a constant", size),
    rule("SpaceToDepth", 7, "Reshape, Transpose", space_to_depth),
    rule("Squeeze", 7, "Reshape", squeeze),
    rule("Tile", 7, "Reshape, Expand", tile),
    rule("Transpose", 7, "Transpose", transpose),
    rule("Unsqueeze", 7, "Reshape", unsqueeze),
];

fn shape(c: &mut Call) -> Result<Value> {
    let x = c.fixed(0)?;
    let shape = c.shape(x);
    let rank = shape.len() as i64;
    let clamped = |i: i64| (if i < 0 { i + rank } else { i }).clamp(0, rank) as usize;
    let (start, end) = (clamped(c.int("start", 0)?), clamped(c.int("end", rank)?));
    let part = shape.get(start..end).unwrap_or_default();
    Ok(c.constant(Tensor::index(part.iter().map(|&d| d as i64))))
}

fn size(c: &mut Call) -> Result<Value> {
    let x = c.fixed(0)?;
    let len = c.fact(x).len() as i64;
    Ok(c.constant(Tensor::index([len]).reshape(&[])?))
}

fn reshape(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    if let Some(target) = c.batch_check().reshaped(x).map_err(Error::Shape)? {
        return c.reshape(x, &target);
    }
    let mut target = c.known_ints(1, "shape")?;
    let shape = c.shape(x);
    let keep_zeros = c.flag("allowzero", false)?;
    for (axis, d) in target.iter_mut().enumerate() {
        if *d == 0 && !keep_zeros {
            let Some(&own) = shape.get(axis) else {
                return Err(c.invalid(format_args!("shape copies axis {axis} of {shape:?}")));
            };
            *d = own as i64;
        }
    }
    if let Some(open) = target.iter().position(|&d| d == -1) {
        let rest = target.iter().filter(|&&d| d != -1).try_fold(1i64, |n, &d| n.checked_mul(d));
        let len = c.fact(x).len() as i64;
        target[open] = match rest {
            Some(n) if n > 0 && len % n == 0 => len / n,
            Some(0) if len == 0 => 0,
            _ => return Err(c.invalid(format_args!("{shape:?} does not fill shape {target:?}"))),
        };
    }
    let target = c.sizes(&target, "size")?;
    let target = c.bounded(target)?;
    c.reshape(x, &target)
}

fn flatten(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let axis = c.int("axis", 1)?;
    // The axis may equal the rank.
    let axis = if axis == shape.len() as i64 { shape.len() } else { c.axis(axis, shape.len())? };
    let (rows, columns) = shape.split_at(axis);
    c.reshape(x, &[rows.iter().product(), columns.iter().product()])
}

fn squeeze(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let dropped = match c.ints_or_operand("axes", 1)? {
        Some(axes) => c.axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|&i| shape[i] == 1).collect(),
    };
    if let Some(axis) = dropped.iter().find(|&&i| shape[i] != 1) {
        return Err(c.invalid(format_args!("axis {axis} of {shape:?} is not of length 1")));
    }
    let kept = (0..shape.len()).filter(|i| !dropped.contains(i)).map(|i| shape[i]);
    c.reshape(x, &kept.collect::<Vec<_>>())
}

fn unsqueeze(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let Some(axes) = c.ints_or_operand("axes", 1)? else {
        return Err(c.invalid("its axes are missing"));
    };
    let rank = shape.len() + axes.len();
    let axes = c.axes(&axes, rank)?;
    let mut own = shape.iter().copied();
    let target: Vec<usize> =
        (0..rank).map(|i| if axes.contains(&i) { 1 } else { own.next().unwrap_or(1) }).collect();
    c.reshape(x, &target)
}

fn transpose(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let rank = c.rank(x);
    let perm = match c.ints("perm")? {
        Some(perm) => c.axes(&perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    c.transpose(x, &perm)
}

fn concat(c: &mut Call) -> Result<Value> {
    let parts = (0..c.operands()).map(|i| c.operand(i)).collect::<Result<Vec<_>>>()?;
    let Some(&first) = parts.first() else {
        return Err(c.invalid("there is nothing to concatenate"));
    };
    let axis = c.axis(c.int("axis", 1)?, c.rank(first))?;
    c.concat(&parts, axis)
}

fn expand(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let mut target = c.known_ints(1, "shape")?;
    c.batch_check().to_one_sample(x, &mut target);
    // A value shared by all samples may be broadcast to the fixed batch size. If the size equals the
    // batch size only by chance, the shapes of later results will differ from the file's.
    if let (Some(batch), Some(first)) = (c.batch_check().batch_if_shared(x), target.first_mut())
        && *first == batch as i64
        && c.graph().shape(x).first() == Some(&1)
    {
        *first = 1;
    }
    // A size of 1 keeps that of the operand. Some exporters write −1 instead.
    target.iter_mut().filter(|d| **d == -1).for_each(|d| *d = 1);
    let target = c.sizes(&target, "size")?;
    let target = c.bounded(crate::ops::broadcast(&c.shape(x), &target)?)?;
    c.expand(x, &target)
}

/// `[…, d, …]` repeated `r` times along an axis is `[…, 1, d, …]` broadcast to `[…, r, d, …]`.
fn tile(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let repeats = c.known_ints(1, "repeats")?;
    let repeats = c.sizes(&repeats, "repeats")?;
    if repeats.len() != shape.len() {
        return Err(c.invalid(format_args!("{repeats:?} repeats for {shape:?}")));
    }
    let pairs = || repeats.iter().zip(&shape);
    let total = pairs().map(|(r, d)| r.saturating_mul(*d)).collect();
    let total = c.bounded(total)?;
    let parts: Vec<usize> = shape.iter().flat_map(|&d| [1, d]).collect();
    let spread: Vec<usize> = pairs().flat_map(|(&r, &d)| [r, d]).collect();
    let parts = c.reshape(x, &parts)?;
    let spread = c.expand(parts, &spread)?;
    c.reshape(spread, &total)
}

/// The shape `[N, C, H, W]` of `x` and the block size.
fn blocks(c: &mut Call, x: Value) -> Result<([usize; 4], usize)> {
    let size = c.int("blocksize", 0)?;
    let shape = c.shape(x);
    match (<[usize; 4]>::try_from(shape), usize::try_from(size)) {
        (Ok(shape), Ok(size)) if (1..1 << 16).contains(&size) => Ok((shape, size)),
        _ => Err(c.invalid("needs four axes and a small positive blocksize")),
    }
}

fn depth_to_space(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let ([n, channels, h, w], s) = blocks(c, x)?;
    if channels % (s * s) != 0 {
        return Err(c.invalid(format_args!("{channels} channels are not blocks of {s}×{s}")));
    }
    let depth = channels / (s * s);
    let (parts, perm) = match c.text("mode", "DCR")? {
        "DCR" => ([n, s, s, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, s, s, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(c.invalid(format_args!("mode '{other}' is not defined"))),
    };
    let parts = c.reshape(x, &parts)?;
    let moved = c.transpose(parts, &perm)?;
    c.reshape(moved, &[n, depth, h * s, w * s])
}

fn space_to_depth(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let ([n, channels, h, w], s) = blocks(c, x)?;
    if h % s != 0 || w % s != 0 {
        return Err(c.invalid(format_args!("{h}×{w} does not divide into blocks of {s}×{s}")));
    }
    let parts = c.reshape(x, &[n, channels, h / s, s, w / s, s])?;
    let perm = match c.text("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(c.invalid(format_args!("mode '{other}' is not defined"))),
    };
    let moved = c.transpose(parts, &perm)?;
    c.reshape(moved, &[n, channels * s * s, h / s, w / s])
}
