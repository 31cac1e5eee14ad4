//! Tensors that are known at import.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_MADE};
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules, zero};
use crate::onnx::{DataType, dtype_of};
use crate::tensor::{DType, Tensor};

/// The most elements of a weight of which the file has only the shape.
const MAX_WEIGHT: usize = 1 << 27;

pub(super) const ENTRIES: &[Entry] = &[
    rules("Constant", 7, "a constant or a parameter, like an initializer", constant),
    rules(
        "ConstantOfShape",
        9,
        "a constant, or a parameter in files without weights",
        constant_of_shape,
    ),
    zero("EyeLike", 9, "a constant", eye_like),
    zero("NonZero", 9, "a constant; only of tensors that are known at import", non_zero),
    zero("Range", 11, "a constant", range),
];

fn constant(c: &mut Call) -> Result<Vec<Binding>> {
    let floats = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    let tensor = if let Some(literal) = c.literal("value")? {
        literal.tensor.clone()
    } else if let Some(v) = c.optional_float("value_float")? {
        Ok(Tensor::full(DType::F32, &[], v))
    } else if let Some(v) = c.floats("value_floats")? {
        Ok(Tensor::f32(&[v.len()], floats(v))?)
    } else if let Some(v) = c.optional_int("value_int")? {
        Ok(Tensor::index([v]).reshape(&[])?)
    } else if let Some(v) = c.ints("value_ints")? {
        Ok(Tensor::index(v))
    } else if c.has_attribute("value_string") || c.has_attribute("value_strings") {
        Err("it holds strings".into())
    } else if c.has_attribute("sparse_value") {
        Err("it is stored as a sparse tensor; export it dense".into())
    } else {
        return Err(c.invalid("it has no value"));
    };
    Ok(vec![c.store(tensor)])
}

fn constant_of_shape(c: &mut Call) -> Result<Vec<Binding>> {
    let shape = c.known_ints(0, "shape")?;
    let shape = c.sizes(&shape, "size")?;
    let shape = c.bounded(shape)?;
    let value = match c.literal("value")? {
        None => Tensor::full(DType::F32, &[], 0.0),
        Some(literal) => match &literal.tensor {
            Ok(tensor) if tensor.len() == 1 => tensor.reshape(&[])?,
            Ok(_) => return Err(c.invalid("its value is not one element")),
            Err(why) => return Err(c.unsupported(format!("its value cannot be used: {why}"))),
        },
    };
    // Some files have only the shapes of their weights, to be small. The shape is then an initializer
    // that is also declared as an input, as in the first versions of the format.
    let elements = shape.iter().fold(1usize, |product, &d| product.saturating_mul(d));
    if c.is_declared_input(0) && elements <= MAX_WEIGHT {
        return Ok(vec![c.store(Ok(Tensor::full(
            value.dtype(),
            &shape,
            value.scalar().unwrap_or(0.0),
        )))]);
    }
    let value = c.constant(value);
    Ok(super::one(c.expand(value, &shape)?))
}

fn range(c: &mut Call) -> Result<Value> {
    let start = c.tensor(0, "start")?;
    let dtype = start.dtype();
    let mut ends = [0.0; 3];
    let mut whole = [0; 3];
    for (i, what) in ["start", "limit", "delta"].into_iter().enumerate() {
        let tensor = c.tensor(i, what)?;
        let Some(value) = tensor.scalar() else {
            return Err(c.invalid(format_args!("its {what} is not one number")));
        };
        ends[i] = value;
        whole[i] = tensor.to_i64().and_then(|v| v.first().copied()).unwrap_or(0);
    }
    let [first, limit, delta] = ends;
    let count = ((limit - first) / delta).ceil().max(0.0);
    if delta == 0.0 || !count.is_finite() || count > MAX_MADE as f64 {
        return Err(c.invalid(format_args!("from {first} to {limit} by {delta} is no range")));
    }
    let count = count as usize;
    let tensor = if dtype.is_float() {
        let values = (0..count).map(|i| first + i as f64 * delta);
        Tensor::from_f64(ndarray::Array1::from_iter(values).into_dyn(), dtype)
    } else {
        let values = (0..count as i64).map(|i| whole[0].wrapping_add(i.wrapping_mul(whole[2])));
        Tensor::index(values).cast(dtype)
    };
    Ok(c.constant(tensor))
}

fn eye_like(c: &mut Call) -> Result<Value> {
    let like = c.fixed(0)?;
    let own = c.dtype(like);
    let dtype = match c.optional_int("dtype")? {
        None => Some(own),
        Some(code) => {
            i32::try_from(code).ok().and_then(|v| DataType::try_from(v).ok()).and_then(dtype_of)
        }
    };
    let Some(dtype) = dtype else { return Err(c.unsupported("its dtype is not supported")) };
    let k = c.int("k", 0)?;
    let [rows, columns] = c.shape(like)[..] else {
        return Err(c.invalid("needs a matrix"));
    };
    if rows.saturating_mul(columns) > MAX_MADE {
        return Err(c.unsupported("the matrix is too large"));
    }
    let ones = ndarray::Array2::from_shape_fn((rows, columns), |(i, j)| {
        i64::from(j as i64 == (i as i64).saturating_add(k))
    });
    Ok(c.constant(Tensor::from_i64(ones.into_dyn(), dtype)))
}

fn non_zero(c: &mut Call) -> Result<Value> {
    let x = c.tensor(0, "operand")?.to_f64();
    let rank = x.ndim();
    let found: Vec<Vec<i64>> = x
        .indexed_iter()
        .filter(|(_, v)| **v != 0.0)
        .map(|(at, _)| (0..rank).map(|axis| at[axis] as i64).collect())
        .collect();
    let columns = (0..rank).flat_map(|axis| found.iter().map(move |at| at[axis]));
    Ok(c.constant(Tensor::index(columns).reshape(&[rank, found.len()])?))
}
