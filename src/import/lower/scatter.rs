//! Scattering elements by index.

use super::gather::{as_rows, flat_along, flat_tuples, indices};
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::ops::{Binary, Reduction};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("Scatter", 9, "ScatterAdd, Where", scatter_elements),
    rule(
        "ScatterElements",
        11,
        "ScatterAdd, Where; or Equal, Where and a reduction",
        scatter_elements,
    ),
    rule("ScatterND", 11, "ScatterAdd, Where; or Equal, Where and a reduction", scatter_nd),
];

/// The maximum of elements times updates for reductions that compare each element with each update.
const MAX_PAIRS: usize = 1 << 24;

/// Writes the rows of `updates` to the rows of `data` with the flat indices `at`, or combines the two by
/// attribute `reduction`. Without a reduction, the operators require distinct indices.
fn write(c: &mut Call, data: Value, at: Value, updates: Value) -> Result<Value> {
    let add = match c.text("reduction", "none")? {
        "none" => false,
        "add" => true,
        "max" => return combine(c, data, at, updates, Reduction::Max, Binary::Max),
        "min" => return combine(c, data, at, updates, Reduction::Min, Binary::Min),
        "mul" => return combine(c, data, at, updates, Reduction::Prod, Binary::Mul),
        other => return Err(c.invalid(format_args!("reduction '{other}' is not defined"))),
    };
    let shape = c.shape(data);
    let count = shape[0];
    let is_bool = c.dtype(updates) == DType::Bool;
    let updates = if is_bool { c.cast(updates, DType::I32)? } else { updates };
    let mut written = c.scatter_add(at, updates, 0, count)?;
    if is_bool {
        written = c.cast(written, DType::Bool)?;
    }
    if add {
        return c.add(data, written);
    }
    let (one, places) = (c.scalar(DType::F32, 1.0), c.shape(at));
    let ones = c.expand(one, &places)?;
    let hits = c.scatter_add(at, ones, 0, count)?;
    let zero = c.scalar(DType::F32, 0.0);
    let hit = c.greater(hits, zero)?;
    let mut column = vec![1; shape.len()];
    column[0] = count;
    let hit = c.reshape(hit, &column)?;
    c.select(hit, written, data)
}

/// Combines each row of `data` with the rows of `updates` at its index, by comparing each row with each
/// index.
fn combine(
    c: &mut Call,
    data: Value,
    at: Value,
    updates: Value,
    reduction: Reduction,
    f: Binary,
) -> Result<Value> {
    let (rows, written) = (c.shape(data), c.shape(updates));
    let (count, hits) = (rows[0], written[0]);
    if c.fact(data).len().saturating_mul(hits) > MAX_PAIRS {
        return Err(c.unsupported(format!(
            "of {count} rows by {hits} updates only additions are supported"
        )));
    }
    let mut column = vec![1; rows.len() + 1];
    column[0] = count;
    let positions = c.constant(Tensor::index(0..count as i64).reshape(&column)?);
    column[0] = 1;
    column[1] = hits;
    let at = c.reshape(at, &column)?;
    let here = c.equal(at, positions)?;
    let neutral = match reduction {
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
        _ => 1.0,
    };
    let neutral = c.scalar_like(updates, neutral);
    let spread = c.reshape(updates, &[&[1], &written[..]].concat())?;
    let chosen = c.select(here, spread, neutral)?;
    let best = c.reduce(reduction, chosen, &[1])?;
    let best = c.reshape(best, &rows)?;
    c.push(f, &[data, best])
}

fn scatter_elements(c: &mut Call) -> Result<Value> {
    let (data, updates) = (c.operand(0)?, c.operand(2)?);
    let shape = c.shape(data);
    let axis = c.axis(c.int("axis", 0)?, shape.len())?;
    let indices = indices(c, 1, shape[axis])?;
    let flat = flat_along(c, indices, &shape, axis)?;
    let count: usize = c.shape(flat).iter().product();
    let flat = c.reshape(flat, &[count])?;
    let updates = c.reshape(updates, &[count])?;
    let data = c.reshape(data, &[shape.iter().product()])?;
    let written = write(c, data, flat, updates)?;
    c.reshape(written, &shape)
}

fn scatter_nd(c: &mut Call) -> Result<Value> {
    let (data, updates) = (c.operand(0)?, c.operand(2)?);
    let indices = c.fixed(1)?;
    let indices = c.cast(indices, DType::I64)?;
    let shape = c.shape(data);
    let (flat, row) = flat_tuples(c, indices, &shape, 0)?;
    let count: usize = c.shape(flat).iter().product();
    let flat = c.reshape(flat, &[count])?;
    let updates = c.reshape(updates, &[&[count], &row[..]].concat())?;
    let rows = as_rows(c, data, &row)?;
    let written = write(c, rows, flat, updates)?;
    c.reshape(written, &shape)
}
