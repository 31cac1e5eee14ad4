//! Softmax and its relatives.

use super::reduce::first_index;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule, zero};
use crate::ops::{Reduction, Softmax};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    zero("Hardmax", 7, "ReduceMax, Equal, Where", hardmax),
    rule("LogSoftmax", 7, "LogSoftmax", |c| softmax(c, true)),
    rule("Softmax", 7, "Softmax", |c| softmax(c, false)),
];

fn softmax(c: &mut Call, log: bool) -> Result<Value> {
    let x = c.operand(0)?;
    along_axis(c, x, |c, x, axis| c.push(Softmax { axis, log }, &[x]))
}

/// Applies `f` along `axis`. Before opset 13 all axes from `axis` on are flattened into one.
fn along_axis(
    c: &mut Call,
    x: Value,
    f: impl Fn(&mut Call, Value, usize) -> Result<Value>,
) -> Result<Value> {
    let shape = c.shape(x);
    if c.opset >= 13 {
        let axis = c.axis(c.int("axis", -1)?, shape.len())?;
        return f(c, x, axis);
    }
    let axis = c.axis(c.int("axis", 1)?, shape.len())?;
    if shape[axis + 1..].iter().all(|&d| d == 1) {
        return f(c, x, axis);
    }
    let (rows, columns) = shape.split_at(axis);
    let matrix = c.reshape(x, &[rows.iter().product(), columns.iter().product()])?;
    let y = f(c, matrix, 1)?;
    c.reshape(y, &shape)
}

/// 1 at the first maximum along the axis, 0 elsewhere.
fn hardmax(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    along_axis(c, x, |c, x, axis| {
        let index = first_index(c, x, axis, Reduction::Max, false)?;
        let size = c.shape(x)[axis];
        let mut column = vec![1; c.rank(x)];
        column[axis] = size;
        let column = c.made(column)?;
        let positions = Tensor::index(0..size as i64).reshape(&column)?;
        let positions = c.constant(positions);
        let here = c.equal(index, positions)?;
        let dtype = c.dtype(x);
        let here = c.cast(here, DType::F32)?;
        c.cast(here, dtype)
    })
}
