//! Splitting a tensor along an axis.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_UNROLLED};
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules};

pub(super) const ENTRIES: &[Entry] =
    &[rules("Split", 7, "Slice", split), rules("SplitToSequence", 11, "Slice", split_to_sequence)];

/// The consecutive parts of `x` along `axis` with the given lengths.
fn parts(c: &mut Call, x: Value, axis: usize, lengths: &[usize]) -> Result<Vec<Value>> {
    let size = c.shape(x)[axis];
    if lengths.iter().try_fold(0usize, |n, &d| n.checked_add(d)) != Some(size) {
        return Err(c.invalid(format_args!("parts of {lengths:?} of an axis of length {size}")));
    }
    let mut start = 0;
    lengths
        .iter()
        .map(|length| {
            let end = start + length;
            let part = c.slice_axis(x, axis, start, end, 1);
            start = end;
            part
        })
        .collect()
}

fn split(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.operand(0)?;
    let axis = c.axis(c.int("axis", 0)?, c.rank(x))?;
    let lengths = match c.ints_or_operand("split", 1)? {
        Some(lengths) => c.sizes(&lengths, "length")?,
        None => {
            let count = c.int("num_outputs", c.results() as i64)?;
            let count = usize::try_from(count).unwrap_or(0).clamp(1, c.results().max(1));
            // All parts have the same length, except that the last one may be shorter.
            let size = c.shape(x)[axis];
            let length = size.div_ceil(count);
            (0..count).map(|i| length.min(size.saturating_sub(i * length))).collect()
        }
    };
    Ok(parts(c, x, axis, &lengths)?.into_iter().map(Binding::from).collect())
}

fn split_to_sequence(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.operand(0)?;
    let axis = c.axis(c.int("axis", 0)?, c.rank(x))?;
    let size = c.shape(x)[axis];
    let given = match c.has(1) {
        true => Some(c.tensor(1, "split")?),
        false => None,
    };
    let given = given.and_then(|t| Some((t.shape().len(), t.to_i64()?)));
    let count = match &given {
        None => size,
        Some((0, length)) => {
            size / length.first().map_or(1, |&l| usize::try_from(l).unwrap_or(1).max(1))
        }
        Some((_, lengths)) => lengths.len(),
    };
    if count > MAX_UNROLLED {
        return Err(c.unsupported(format!(
            "a sequence of {count} elements is longer than {MAX_UNROLLED}, the most that are taken \
             apart"
        )));
    }
    let lengths = match given {
        None => vec![1; size],
        Some((0, length)) => {
            let length = length.first().copied().unwrap_or(0);
            let length = usize::try_from(length).unwrap_or(0);
            if length == 0 {
                return Err(c.invalid("parts must have a positive length"));
            }
            (0..size.div_ceil(length)).map(|i| length.min(size - i * length)).collect()
        }
        Some((_, lengths)) => {
            let lengths: Vec<i64> = lengths.iter().copied().collect();
            c.sizes(&lengths, "length")?
        }
    };
    let mut parts = parts(c, x, axis, &lengths)?;
    if !c.has(1) && !c.flag("keepdims", true)? {
        let mut shape = c.shape(x);
        shape.remove(axis);
        for part in &mut parts {
            *part = c.reshape(*part, &shape)?;
        }
    }
    Ok(vec![Binding::List(parts.into_iter().map(Binding::from).collect())])
}
