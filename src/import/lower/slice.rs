//! Slices and triangular matrices.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::tensor::Tensor;

pub(super) const ENTRIES: &[Entry] = &[
    rule("Slice", 7, "Slice; Gather for negative steps", slice),
    rule("Trilu", 14, "Where", trilu),
];

/// The list `name`: an attribute before opset 10, operand `i` since.
fn bounds(c: &mut Call, name: &str, i: usize) -> Result<Option<Vec<i64>>> {
    if c.opset < 10 {
        c.ints(name)
    } else if c.has(i) {
        c.known_ints(i, name).map(Some)
    } else {
        Ok(None)
    }
}

fn slice(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let (Some(starts), Some(ends)) = (bounds(c, "starts", 1)?, bounds(c, "ends", 2)?) else {
        return Err(c.invalid("its starts or ends are missing"));
    };
    let axes = match bounds(c, "axes", 3)? {
        Some(axes) => c.axes(&axes, shape.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = if c.opset < 10 { None } else { bounds(c, "steps", 4)? };
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    let lengths = [ends.len(), axes.len(), steps.len()];
    if lengths.iter().any(|&n| n != starts.len()) || axes.iter().any(|&a| a >= shape.len()) {
        return Err(c.invalid("its starts, ends, axes and steps do not fit together"));
    }
    let mut y = x;
    let mut from = vec![0; shape.len()];
    let mut to = shape.clone();
    let mut by = vec![1; shape.len()];
    for (i, &axis) in axes.iter().enumerate() {
        let size = shape[axis] as i64;
        let from_front = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        let (start, end, step) = (from_front(starts[i]), from_front(ends[i]), steps[i]);
        if step > 0 {
            (from[axis], to[axis]) = (start.clamp(0, size) as usize, end.clamp(0, size) as usize);
            by[axis] = step.min(size.max(1)) as usize;
            from[axis] = from[axis].min(to[axis]);
        } else if step < 0 {
            let (start, end) = (start.clamp(-1, size - 1), end.clamp(-1, size - 1));
            let count = (start - end).max(0) as u64;
            let picked = count.div_ceil(step.unsigned_abs()) as i64;
            c.made(vec![picked as usize])?;
            let index = Tensor::index((0..picked).map(|k| start + k * step));
            let index = c.constant(index);
            y = c.gather(y, index, axis)?;
            to[axis] = picked as usize;
        } else {
            return Err(c.invalid("a step of 0"));
        }
    }
    c.slice(y, &from, &to, &by)
}

/// The elements on one side of the `k`-th diagonal, zero elsewhere.
fn trilu(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let upper = c.flag("upper", true)?;
    let k = if c.has(1) { c.known_int(1, "diagonal")? } else { 0 };
    let [.., rows, columns] = shape[..] else {
        return Err(c.invalid(format_args!("{shape:?} has no diagonal")));
    };
    let keep = (0..rows as i64).flat_map(|i| {
        (0..columns as i64).map(move |j| {
            let above = j.saturating_sub(i);
            if upper { above >= k } else { above <= k }
        })
    });
    let keep = Tensor::bool(&[rows, columns], keep.collect())?;
    let (keep, zero) = (c.constant(keep), c.scalar_like(x, 0.0));
    c.select(keep, x, zero)
}
