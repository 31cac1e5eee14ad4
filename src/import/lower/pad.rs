//! Padding in all modes.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::tensor::Tensor;

/// Larger pads are refused as mistakes.
const MAX_PAD: u64 = 1 << 32;

pub(super) const ENTRIES: &[Entry] = &[
    rule("CenterCropPad", 18, "Slice, Pad", center_crop_pad),
    rule("Pad", 7, "Pad; Gather for reflect, edge and wrap; Slice for negative pads", pad),
];

fn pad(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let rank = shape.len();
    let pads = if c.opset < 11 { c.ints("pads")? } else { Some(c.known_ints(1, "pads")?) };
    let Some(pads) = pads else { return Err(c.invalid("its pads are missing")) };
    let axes = match c.has(3) {
        true => {
            let axes = c.known_ints(3, "axes")?;
            c.axes(&axes, rank)?
        }
        false => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(c.invalid(format_args!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        (before[axis], after[axis]) = (pads[i], pads[i + axes.len()]);
    }
    let mode = c.text("mode", "constant")?;
    if mode == "constant" {
        let value = if c.opset < 11 {
            c.float("value", 0.0)?
        } else if c.has(2) {
            c.known_floats(2, "value")?.first().copied().unwrap_or(0.0)
        } else {
            0.0
        };
        return constant_pad(c, x, &before, &after, value);
    }
    let mut y = x;
    for axis in 0..rank {
        if (before[axis], after[axis]) == (0, 0) {
            continue;
        }
        let size = shape[axis] as i64;
        if before[axis].unsigned_abs().max(after[axis].unsigned_abs()) > MAX_PAD {
            return Err(c.invalid(format_args!("pads of axis {axis} are too large")));
        }
        let end = size.saturating_add(after[axis]);
        let total = end.saturating_add(before[axis]).max(0);
        c.made(vec![total as usize])?;
        if size == 0 {
            return Err(c.invalid(format_args!("an empty axis cannot be padded by '{mode}'")));
        }
        let index = |i: i64| match mode {
            "edge" => Some(i.clamp(0, size - 1)),
            "wrap" => Some(i.rem_euclid(size)),
            "reflect" => Some(reflect(i, size)),
            _ => None,
        };
        let Some(indices) = (-before[axis]..end).map(index).collect::<Option<Vec<i64>>>() else {
            return Err(c.invalid(format_args!("mode '{mode}' is not defined")));
        };
        let indices = c.constant(Tensor::index(indices));
        y = c.gather(y, indices, axis)?;
    }
    Ok(y)
}

/// Index `i` reflected at both ends until it is in range. The ends are not repeated.
fn reflect(i: i64, size: i64) -> i64 {
    if size == 1 {
        return 0;
    }
    let i = i.rem_euclid(2 * (size - 1));
    i.min(2 * (size - 1) - i)
}

/// Pads with a constant where counts are positive, and crops where they are negative.
fn constant_pad(
    c: &mut Call,
    x: Value,
    before: &[i64],
    after: &[i64],
    value: f64,
) -> Result<Value> {
    let shape = c.shape(x);
    let crop = |pad: i64| pad.min(0).unsigned_abs() as usize;
    let grow = |pads: &[i64]| pads.iter().map(|&p| p.max(0) as usize).collect::<Vec<usize>>();
    let starts: Vec<usize> = before.iter().map(|&p| crop(p)).collect();
    let ends: Option<Vec<usize>> =
        shape.iter().zip(after).map(|(d, &p)| d.checked_sub(crop(p))).collect();
    let fits = ends.as_ref().is_some_and(|ends| ends.iter().zip(&starts).all(|(e, s)| s <= e));
    let Some(ends) = ends.filter(|_| fits) else {
        return Err(c.invalid(format_args!("{before:?} and {after:?} crop {shape:?} to nothing")));
    };
    let cropped = c.slice(x, &starts, &ends, &vec![1; shape.len()])?;
    let (before, after) = (grow(before), grow(after));
    let sizes = c.shape(cropped).into_iter().zip(before.iter().zip(&after));
    let total = sizes.map(|(d, (p, q))| d.saturating_add(*p).saturating_add(*q)).collect();
    c.bounded(total)?;
    c.pad(cropped, &before, &after, value)
}

/// Crops or zero-pads around the centre. An odd element goes to the end.
fn center_crop_pad(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let target = c.known_ints(1, "shape")?;
    let axes = match c.ints("axes")? {
        Some(axes) => c.axes(&axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    if axes.len() != target.len() {
        return Err(c.invalid(format_args!("{} sizes for {} axes", target.len(), axes.len())));
    }
    let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
    for (&axis, &size) in axes.iter().zip(&target) {
        let missing = size.saturating_sub(shape[axis] as i64);
        // Half of the missing or excess elements, rounded towards 0.
        before[axis] = missing / 2;
        after[axis] = missing - missing / 2;
    }
    constant_pad(c, x, &before, &after, 0.0)
}
