//! Pooling.

use super::conv::{Geometry, geometry};
use super::gather::strides;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, rule, rules};
use crate::ops::{AveragePool, Binary, MaxPool, MaxPoolIndices, Reduction, Unary};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("AveragePool", 7, "AveragePool; Mul where windows reach over the edge", average_pool),
    rule("GlobalAveragePool", 7, "ReduceMean", |c| global(c, Reduction::Mean)),
    rule("GlobalLpPool", 7, "Abs, Pow, ReduceSum", global_lp_pool),
    rule("GlobalMaxPool", 7, "ReduceMax; ties share the derivative", |c| global(c, Reduction::Max)),
    rule("LpPool", 7, "Abs, Pow, AveragePool", lp_pool),
    rules("MaxPool", 7, "MaxPool; the first of equal elements wins", max_pool),
    rule("MaxUnpool", 9, "ScatterAdd", max_unpool),
];

/// Dilated average pools with more kernel elements than this along an axis are refused.
const MAX_TAKEN_APART: usize = 1 << 12;

/// A pooling window, and its positions along each spatial axis.
struct Pooling {
    window: Geometry,
    /// Pads after each spatial axis, extended for a last window that ends beyond the declared pads.
    reach: Vec<usize>,
    /// The number of positions along each spatial axis.
    counts: Vec<usize>,
}

/// The pooling window over `shape`. With `ceil_mode`, a window that ends beyond the pads counts too, if
/// it starts inside the operand or its leading pads.
fn pooling(c: &Call, shape: &[usize]) -> Result<Pooling> {
    let window = geometry(c, shape, None)?;
    let ceil = c.flag("ceil_mode", false)?;
    let mut reach = window.after.clone();
    let mut counts = Vec::with_capacity(reach.len());
    for (axis, &size) in shape[2..].iter().enumerate() {
        let (stride, extent) = (window.strides[axis], window.extent(axis));
        let padded = window.before[axis] + size + window.after[axis];
        let Some(room) = padded.checked_sub(extent) else {
            return Err(c.invalid(format_args!("a window of {extent} over {padded} elements")));
        };
        let mut count = room / stride + 1;
        if ceil && room % stride != 0 && count * stride < window.before[axis] + size {
            reach[axis] += count * stride + extent - padded;
            count += 1;
        }
        // `covered` visits each element of each window, so bound their number.
        c.made(vec![count, window.kernel[axis]])?;
        counts.push(count);
    }
    Ok(Pooling { window, reach, counts })
}

impl Pooling {
    /// The average pool that always divides by the size of the kernel.
    fn average(&self) -> AveragePool {
        let w = &self.window;
        AveragePool::new(&w.kernel, &w.strides, &w.before, &self.reach)
    }

    /// For each window along a spatial axis of length `size`, the number of kernel elements inside the
    /// operand, or inside the operand and its pads.
    fn covered(&self, axis: usize, size: usize, with_pads: bool) -> Vec<usize> {
        let w = &self.window;
        let (low, high) = match with_pads {
            true => (0, w.before[axis] + size + w.after[axis]),
            false => (w.before[axis], w.before[axis] + size),
        };
        let inside = |start: usize| {
            let at = (0..w.kernel[axis]).map(|k| start + k * w.dilations[axis]);
            at.filter(|p| (low..high).contains(p)).count()
        };
        (0..self.counts[axis]).map(|i| inside(i * w.strides[axis])).collect()
    }
}

fn max_pool(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let Pooling { window, reach, .. } = pooling(c, &shape)?;
    let op =
        MaxPool::new(&window.kernel, &window.strides, &window.dilations, &window.before, &reach);
    // The primitive pools floats. Small integers survive the round trip.
    let dtype = c.dtype(x);
    let floats = if dtype.is_float() { x } else { c.cast(x, DType::F32)? };
    let y = c.push(op.clone(), &[floats])?;
    let y = c.cast(y, dtype)?;
    if !c.wants_result(1) {
        return Ok(super::one(y));
    }
    let mut at = c.push(MaxPoolIndices(op), &[floats])?;
    if c.flag("storage_order", false)? {
        at = column_major(c, at, &shape)?;
    }
    Ok(vec![y.into(), at.into()])
}

/// Converts row-major flat indices into `shape` to those in which the first spatial axis runs fastest.
fn column_major(c: &mut Call, at: Value, shape: &[usize]) -> Result<Value> {
    let from = strides(shape);
    let spatial: usize = shape[2..].iter().product();
    let divided = |c: &mut Call, x: Value, by: usize| {
        let by = c.scalar_like(x, by as f64);
        c.div(x, by)
    };
    let image = divided(c, at, spatial)?;
    let mut sum = c.scale(image, spatial as f64)?;
    let mut stride = 1;
    for (axis, &size) in shape.iter().enumerate().skip(2) {
        let place = divided(c, at, from[axis])?;
        let size_value = c.scalar_like(place, size as f64);
        let place = c.push(Binary::Mod, &[place, size_value])?;
        let place = c.scale(place, stride as f64)?;
        sum = c.add(sum, place)?;
        stride *= size;
    }
    Ok(sum)
}

/// Puts elements back at the indices that a max pool returned, with zeros elsewhere.
fn max_unpool(c: &mut Call) -> Result<Value> {
    let (x, at) = (c.operand(0)?, c.fixed(1)?);
    let shape = c.shape(x);
    let window = geometry(c, &shape, None)?;
    let mut natural = shape[..2].to_vec();
    for (axis, &size) in shape[2..].iter().enumerate() {
        let reach = (size.max(1) - 1).saturating_mul(window.strides[axis]);
        let full = reach.saturating_add(window.kernel[axis]);
        let Some(size) = full.checked_sub(window.before[axis] + window.after[axis]) else {
            return Err(c.invalid(format_args!("pads crop spatial axis {axis} to nothing")));
        };
        natural.push(size);
    }
    let target = if c.has(2) {
        let target = c.known_ints(2, "output shape")?;
        c.sizes(&target, "size")?
    } else {
        natural.clone()
    };
    let target = c.bounded(target)?;
    let natural = c.bounded(natural)?;
    let count = c.fact(x).len();
    let at = c.cast(at, DType::I64)?;
    let (at, x) = (c.reshape(at, &[count])?, c.reshape(x, &[count])?);
    // The indices refer to a tensor of the natural shape. Pad to the wanted one.
    let size = natural.iter().product();
    let y = c.scatter_add(at, x, 0, size)?;
    let y = c.reshape(y, &natural)?;
    if target.len() != natural.len() || target.iter().zip(&natural).any(|(t, n)| t < n) {
        return Err(c.invalid(format_args!("{target:?} is less than {natural:?}")));
    }
    let after: Vec<usize> = target.iter().zip(&natural).map(|(t, n)| t - n).collect();
    c.pad(y, &vec![0; target.len()], &after, 0.0)
}

fn average_pool(c: &mut Call) -> Result<Value> {
    let with_pads = c.flag("count_include_pad", false)?;
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let pooling = pooling(c, &shape)?;
    let mean = average(c, x, &pooling)?;
    // The primitive divides by all elements of the kernel. Correct that where fewer count.
    let rank = shape.len();
    let mut factor: Option<Value> = None;
    for axis in 0..rank - 2 {
        let kernel = pooling.window.kernel[axis];
        let counted = pooling.covered(axis, shape[2 + axis], with_pads);
        if counted.iter().all(|&n| n == kernel) {
            continue;
        }
        let mut line = vec![1; rank];
        line[2 + axis] = counted.len();
        let share = counted.iter().map(|&n| kernel as f32 / n.max(1) as f32).collect();
        let share = c.constant(Tensor::f32(&line, share)?);
        factor = Some(match factor {
            Some(others) => c.mul(others, share)?,
            None => share,
        });
    }
    match factor {
        Some(factor) => c.mul(mean, factor),
        None => Ok(mean),
    }
}

/// The average pool that divides by the size of the kernel. A dilated one is the average of shifted and
/// strided slices, one for each kernel element.
fn average(c: &mut Call, x: Value, pooling: &Pooling) -> Result<Value> {
    let w = &pooling.window;
    if w.dilations.iter().all(|&d| d == 1) {
        return c.push(pooling.average(), &[x]);
    }
    if w.kernel.iter().any(|&k| k > MAX_TAKEN_APART) {
        return Err(c.unsupported("a dilated kernel this large is not taken apart"));
    }
    let mut y = x;
    for axis in 0..w.kernel.len() {
        let at = 2 + axis;
        let rank = c.rank(y);
        let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
        (before[at], after[at]) = (w.before[axis], pooling.reach[axis]);
        let padded = c.pad(y, &before, &after, 0.0)?;
        let (stride, count) = (w.strides[axis], pooling.counts[axis]);
        let mut sum = None;
        for k in 0..w.kernel[axis] {
            let start = k * w.dilations[axis];
            let part = c.slice_axis(padded, at, start, start + (count - 1) * stride + 1, stride)?;
            sum = Some(match sum {
                Some(others) => c.add(others, part)?,
                None => part,
            });
        }
        if let Some(sum) = sum {
            y = c.scale(sum, 1.0 / w.kernel[axis] as f64)?;
        }
    }
    Ok(y)
}

fn global(c: &mut Call, kind: Reduction) -> Result<Value> {
    let x = c.operand(0)?;
    let axes: Vec<usize> = (2..c.rank(x)).collect();
    c.reduce(kind, x, &axes)
}

/// `(Σ |x|ᵖ)^{1/p}`, with the sum computed by `sum`.
fn lp(c: &mut Call, sum: impl Fn(&mut Call, Value) -> Result<Value>) -> Result<Value> {
    let p = c.int("p", 2)? as f64;
    let x = c.operand(0)?;
    if p == 2.0 {
        let square = c.mul(x, x)?;
        let total = sum(c, square)?;
        return c.sqrt(total);
    }
    let size = c.unary(Unary::Abs, x)?;
    if p == 1.0 {
        return sum(c, size);
    }
    let (p, inverse) = (c.scalar_like(x, p), c.scalar_like(x, 1.0 / p));
    let power = c.pow(size, p)?;
    let total = sum(c, power)?;
    c.pow(total, inverse)
}

fn lp_pool(c: &mut Call) -> Result<Value> {
    lp(c, |c, x| {
        let shape = c.shape(x);
        let pooling = pooling(c, &shape)?;
        let mean = average(c, x, &pooling)?;
        let count: usize = pooling.window.kernel.iter().product();
        c.scale(mean, count as f64)
    })
}

fn global_lp_pool(c: &mut Call) -> Result<Value> {
    lp(c, |c, x| {
        let axes: Vec<usize> = (2..c.rank(x)).collect();
        c.reduce_sum(x, &axes)
    })
}
