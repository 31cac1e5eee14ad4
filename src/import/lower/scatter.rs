//! Writing elements by index.

use super::gather::{as_rows, flat_along, flat_tuples, indices};
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, refused, rule};
use crate::tensor::DType;

pub(super) const ENTRIES: &[Entry] = &[
    refused("Scatter", 9, "it was replaced by ScatterElements in opset 11; export again"),
    rule("ScatterElements", 11, "ScatterAdd, Where; reductions none and add", scatter_elements),
    rule("ScatterND", 11, "ScatterAdd, Where; reductions none and add", scatter_nd),
];

/// Writes rows of `updates` at the flat positions `at` of the rows of `data`: added to what is
/// there, or in its place (no position twice, as the operators demand).
fn write(c: &mut Call, data: Value, at: Value, updates: Value) -> Result<Value> {
    let add = match c.text("reduction", "none")? {
        "none" => false,
        "add" => true,
        other => {
            return Err(c.unsupported(format!("reduction '{other}' has no gradient rule here")));
        }
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
