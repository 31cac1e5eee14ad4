//! Gathering elements by index.

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("Compress", 9, "Gather; only for a condition known at import", compress),
    rule("Gather", 7, "Gather", gather),
    rule("GatherElements", 11, "Reshape, Gather", gather_elements),
    rule("GatherND", 11, "Reshape, Gather", gather_nd),
    rule("OneHot", 9, "Equal, Where", one_hot),
    rule("ReverseSequence", 10, "Gather; only for known lengths", reverse_sequence),
];

/// Operand `i` as non-negative int64 indices into an axis of length `size`.
pub(super) fn indices(c: &mut Call, i: usize, size: usize) -> Result<Value> {
    let given = c.fixed(i)?;
    let wide = c.cast(given, DType::I64)?;
    non_negative(c, wide, size)
}

/// `indices` into an axis of length `size`, with negative ones, which count from the end, made
/// non-negative.
pub(super) fn non_negative(c: &mut Call, indices: Value, size: usize) -> Result<Value> {
    if let Some(known) = c.as_constant(indices).and_then(Tensor::to_i64) {
        let beyond = |&&i: &&i64| i >= size as i64 || i < -(size as i64);
        if let Some(index) = known.iter().find(beyond) {
            let batch = match size {
                1 => {
                    "; a batch is taken at 1: where this axis is none, say which is with \
                      `batch-axis` NAME=AXIS|none"
                }
                _ => "",
            };
            return Err(Error::Shape(format!(
                "index {index} is beyond an axis of length {size}{batch}"
            )));
        }
    }
    from_end(c, indices, size)
}

/// `indices` with `size` added to negative ones. Indices out of range stay out of range.
fn from_end(c: &mut Call, indices: Value, size: usize) -> Result<Value> {
    let known = c.as_constant(indices).and_then(Tensor::to_i64);
    if known.is_some_and(|known| known.iter().all(|&i| i >= 0)) {
        return Ok(indices);
    }
    let zero = c.scalar(DType::I64, 0.0);
    let negative = c.less(indices, zero)?;
    let from_end = c.shift(indices, size as f64)?;
    c.select(negative, from_end, indices)
}

fn gather(c: &mut Call) -> Result<Value> {
    let x = c.weight(0)?;
    let axis = c.axis(c.int("axis", 0)?, c.rank(x))?;
    let size = c.shape(x)[axis];
    let indices = indices(c, 1, size)?;
    c.gather(x, indices, axis)
}

/// The strides of a row-major tensor of `shape`, in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The flat indices, in a tensor of `shape`, of the elements that `indices` select along `axis`. Along
/// the other axes, an element keeps its index.
pub(super) fn flat_along(
    c: &mut Call,
    indices: Value,
    shape: &[usize],
    axis: usize,
) -> Result<Value> {
    let strides = strides(shape);
    let mut flat = c.scale(indices, strides[axis] as f64)?;
    let own = c.shape(indices);
    if own.len() != shape.len() {
        return Err(c.invalid(format_args!("indices {own:?} into {shape:?}: the ranks differ")));
    }
    for (other, &stride) in strides.iter().enumerate() {
        if other != axis && own[other] > 1 {
            let mut row = vec![1; own.len()];
            row[other] = own[other];
            let row = c.made(row)?;
            let offsets = Tensor::index((0..own[other] as i64).map(|i| i * stride as i64));
            let offsets = c.constant(offsets.reshape(&row)?);
            flat = c.add(flat, offsets)?;
        }
    }
    Ok(flat)
}

fn gather_elements(c: &mut Call) -> Result<Value> {
    let x = c.weight(0)?;
    let shape = c.shape(x);
    let axis = c.axis(c.int("axis", 0)?, shape.len())?;
    let indices = indices(c, 1, shape[axis])?;
    elements(c, x, indices, axis)
}

/// The elements of `x` that the non-negative `indices` select along `axis`. Along the other axes, an
/// element keeps its index.
pub(super) fn elements(c: &mut Call, x: Value, indices: Value, axis: usize) -> Result<Value> {
    let shape = c.shape(x);
    let flat = flat_along(c, indices, &shape, axis)?;
    let x = c.reshape(x, &[shape.iter().product()])?;
    c.gather(x, flat, 0)
}

/// The flat indices of the rows of a tensor of `shape` that the tuples along the last axis of `indices`
/// select. The first `batch` axes are common to both. Returns the flat indices and the shape of a row.
pub(super) fn flat_tuples(
    c: &mut Call,
    indices: Value,
    shape: &[usize],
    batch: usize,
) -> Result<(Value, Vec<usize>)> {
    let own = c.shape(indices);
    let depth = own.last().copied().unwrap_or(0);
    if own.is_empty() || batch + depth > shape.len() || batch >= own.len() {
        return Err(c.invalid(format_args!("indices {own:?} do not fit into {shape:?}")));
    }
    let (rows, row) = shape.split_at(batch + depth);
    let strides = strides(rows);
    let last = own.len() - 1;
    let mut flat = None;
    for k in 0..depth {
        let part = c.slice_axis(indices, last, k, k + 1, 1)?;
        let part = c.reshape(part, &own[..last])?;
        let part = non_negative(c, part, rows[batch + k])?;
        let part = c.scale(part, strides[batch + k] as f64)?;
        flat = Some(match flat {
            Some(sum) => c.add(sum, part)?,
            None => part,
        });
    }
    let mut flat = match flat {
        Some(flat) => flat,
        None => {
            let zero = c.scalar(DType::I64, 0.0);
            c.expand(zero, &own[..last])?
        }
    };
    for axis in 0..batch {
        let mut line = vec![1; last];
        line[axis] = own[axis];
        let line = c.made(line)?;
        let offsets = Tensor::index((0..own[axis] as i64).map(|i| i * strides[axis] as i64));
        let offsets = c.constant(offsets.reshape(&line)?);
        flat = c.add(flat, offsets)?;
    }
    Ok((flat, row.to_vec()))
}

/// `x` reshaped to `[rows, …row]`, where `row` is the shape of a row.
pub(super) fn as_rows(c: &mut Call, x: Value, row: &[usize]) -> Result<Value> {
    let shape = c.shape(x);
    let count: usize = shape[..shape.len() - row.len()].iter().product();
    c.reshape(x, &[&[count], row].concat())
}

fn gather_nd(c: &mut Call) -> Result<Value> {
    let x = c.weight(0)?;
    let batch = usize::try_from(c.int("batch_dims", 0)?).unwrap_or(usize::MAX / 2);
    let indices = c.fixed(1)?;
    let indices = c.cast(indices, DType::I64)?;
    let shape = c.shape(x);
    let (flat, row) = flat_tuples(c, indices, &shape, batch)?;
    let rows = as_rows(c, x, &row)?;
    c.gather(rows, flat, 0)
}

/// The elements where a known condition is true, along an axis or in the flattened tensor.
fn compress(c: &mut Call) -> Result<Value> {
    let mut x = c.operand(0)?;
    let condition = c.tensor(1, "condition")?.to_f64();
    let axis = match c.optional_int("axis")? {
        Some(axis) => c.axis(axis, c.rank(x))?,
        None => {
            let count = c.fact(x).len();
            x = c.reshape(x, &[count])?;
            0
        }
    };
    let size = c.shape(x)[axis];
    let kept = condition.iter().take(size).enumerate().filter(|(_, keep)| **keep != 0.0);
    let kept = c.constant(Tensor::index(kept.map(|(i, _)| i as i64)));
    c.gather(x, kept, axis)
}

fn one_hot(c: &mut Call) -> Result<Value> {
    let depth = c.known_floats(1, "depth")?.first().copied().unwrap_or(0.0);
    let depth = c.made(vec![depth.max(0.0) as usize])?[0];
    // An index out of range gives a row without a hot element, not an error.
    let given = c.fixed(0)?;
    let wide = c.cast(given, DType::I64)?;
    let indices = from_end(c, wide, depth)?;
    let shape = c.shape(indices);
    let axis = c.axis(c.int("axis", -1)?, shape.len() + 1)?;
    let mut with_axis = shape;
    with_axis.insert(axis, 1);
    let indices = c.reshape(indices, &with_axis)?;
    let mut column = vec![1; with_axis.len()];
    column[axis] = depth;
    let positions = Tensor::index(0..depth as i64).reshape(&column)?;
    let positions = c.constant(positions);
    let hot = c.equal(indices, positions)?;
    let values = c.table(2)?;
    let off = c.slice_axis(values, 0, 0, 1, 1)?;
    let on = c.slice_axis(values, 0, 1, 2, 1)?;
    let (off, on) = (c.reshape(off, &[])?, c.reshape(on, &[])?);
    c.select(hot, on, off)
}

/// Reverses the first elements of each sequence, as many as its length says.
fn reverse_sequence(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let lengths = c.known_ints(1, "sequence lengths")?;
    let (batch, time) = (c.int("batch_axis", 1)?, c.int("time_axis", 0)?);
    let (batch, time) = (c.axis(batch, shape.len())?, c.axis(time, shape.len())?);
    if lengths.len() != shape[batch] || batch == time {
        return Err(c.invalid(format_args!("{} lengths for {shape:?}", lengths.len())));
    }
    let mut parts = Vec::with_capacity(lengths.len());
    for (i, &length) in lengths.iter().enumerate() {
        let index = (0..shape[time] as i64).map(|t| if t < length { length - 1 - t } else { t });
        let index = c.constant(Tensor::index(index));
        let part = c.slice_axis(x, batch, i, i + 1, 1)?;
        parts.push(c.gather(part, index, time)?);
    }
    c.concat(&parts, batch)
}
