//! Sampling images at fractional positions.

use super::elementwise::clamp;
use super::gather::strides;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::ops::Unary;
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("AffineGrid", 20, "MatMul", affine_grid),
    rule("GridSample", 16, "Floor, Gather, Mul, Add, Where", grid_sample),
    rule("RoiAlign", 10, "Floor, Gather, Mul, ReduceMean; no maxima", roi_align),
];

/// The most positions of a grid.
const MAX_POSITIONS: usize = 1 << 26;

/// The values beyond the edge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// Along one spatial axis, the indices of elements to read and their weights.
pub(super) struct Tap {
    /// int64 indices, inside the axis.
    at: Value,
    /// Floats of the same shape; `None` for weights of 1.
    weight: Option<Value>,
}

/// A coordinate reflected at `low` and `high` until it lies between them.
fn reflected(c: &mut Call, x: Value, low: f64, high: f64) -> Result<Value> {
    let range = high - low;
    if range <= 0.0 {
        return c.scale(x, 0.0);
    }
    let shifted = c.shift(x, -low)?;
    let away = c.unary(Unary::Abs, shifted)?;
    let turns = c.scale(away, 1.0 / range)?;
    let turns = c.unary(Unary::Floor, turns)?;
    let whole = c.scale(turns, range)?;
    let rest = c.sub(away, whole)?;
    // After an odd number of reflections the coordinate runs backwards.
    let half = c.scale(turns, 0.5)?;
    let half_floor = c.unary(Unary::Floor, half)?;
    let even = c.equal(half, half_floor)?;
    let forwards = c.shift(rest, low)?;
    let backwards = c.neg(rest)?;
    let backwards = c.shift(backwards, high)?;
    c.select(even, forwards, backwards)
}

/// The int64 indices for the whole numbers `x` in floats. With padding by zeros, also a mask of those
/// inside the image.
fn index(
    c: &mut Call,
    x: Value,
    size: usize,
    padding: Padding,
    (low, high): (f64, f64),
) -> Result<(Value, Option<Value>)> {
    let last = size as f64 - 1.0;
    let mut inside = None;
    let x = match padding {
        Padding::Zeros => {
            let (first, end) = (c.scalar_like(x, 0.0), c.scalar_like(x, last));
            let (above, below) = (c.greater_or_equal(x, first)?, c.less_or_equal(x, end)?);
            inside = Some(c.and(above, below)?);
            x
        }
        Padding::Border => x,
        Padding::Reflection => reflected(c, x, low, high)?,
    };
    let x = clamp(c, x, Some(0.0), Some(last))?;
    Ok((c.cast(x, DType::I64)?, inside))
}

/// The taps along an axis of length `size` at the coordinates `x`.
fn taps(
    c: &mut Call,
    x: Value,
    size: usize,
    mode: &str,
    padding: Padding,
    align: bool,
) -> Result<Vec<Tap>> {
    let last = size as f64 - 1.0;
    let borders = if align { (0.0, last) } else { (-0.5, size as f64 - 0.5) };
    // The cubic kernel needs elements beyond the edge; the others only need a coordinate inside it.
    let x = match (padding, mode == "cubic") {
        (Padding::Border, false) => clamp(c, x, Some(0.0), Some(last))?,
        (Padding::Reflection, false) => {
            let x = reflected(c, x, borders.0, borders.1)?;
            clamp(c, x, Some(0.0), Some(last))?
        }
        _ => x,
    };
    if mode == "nearest" {
        let near = c.unary(Unary::Round, x)?;
        let (at, inside) = index(c, near, size, padding, borders)?;
        let weight = match inside {
            Some(inside) => Some(c.cast(inside, DType::F32)?),
            None => None,
        };
        return Ok(vec![Tap { at, weight }]);
    }
    let floor = c.unary(Unary::Floor, x)?;
    let beyond = c.sub(x, floor)?;
    let offsets: &[i32] = if mode == "cubic" { &[-1, 0, 1, 2] } else { &[0, 1] };
    let mut taps = Vec::new();
    for &offset in offsets {
        let near = c.shift(floor, f64::from(offset))?;
        let (at, inside) = index(c, near, size, padding, borders)?;
        let mut weight = match offset {
            _ if mode == "cubic" => cubic(c, beyond, offset)?,
            0 => c.one_minus(beyond)?,
            _ => beyond,
        };
        if let Some(inside) = inside {
            let zero = c.scalar_like(weight, 0.0);
            weight = c.select(inside, weight, zero)?;
        }
        taps.push(Tap { at, weight: Some(weight) });
    }
    Ok(taps)
}

/// The taps of linear interpolation along a zero-padded axis of length `size`.
pub(super) fn zero_padded_taps(c: &mut Call, x: Value, size: usize) -> Result<Vec<Tap>> {
    taps(c, x, size, "linear", Padding::Zeros, true)
}

/// The cubic convolution kernel (Keys 1981, a = −0.75) at the distance of the element at `offset`
/// from a position `x` between 0 and 1.
fn cubic(c: &mut Call, x: Value, offset: i32) -> Result<Value> {
    const A: f64 = -0.75;
    // Coefficients of t³, t², t and 1, at the distance t.
    let polynomial = match offset {
        0 | 1 => [A + 2.0, -(A + 3.0), 0.0, 1.0],
        _ => [A, -5.0 * A, 8.0 * A, -4.0 * A],
    };
    let t = if offset <= 0 {
        c.shift(x, f64::from(-offset))?
    } else {
        let back = c.neg(x)?;
        c.shift(back, f64::from(offset))?
    };
    let mut y = c.scale(t, polynomial[0])?;
    for (i, &term) in polynomial.iter().enumerate().skip(1) {
        y = c.shift(y, term)?;
        if i < 3 {
            y = c.mul(y, t)?;
        }
    }
    Ok(y)
}

/// Interpolates `rows` `[count, width]`: the weighted sum over all combinations of one tap per axis, as
/// `[…, width]`, where `…` is the shape that the taps broadcast to. `first` is the index of the first
/// row of each image.
pub(super) fn interpolate(
    c: &mut Call,
    rows: Value,
    first: Value,
    axes: &[Vec<Tap>],
    strides: &[usize],
) -> Result<Value> {
    let mut partial: Vec<(Value, Option<Value>)> = vec![(first, None)];
    for (taps, &stride) in axes.iter().zip(strides) {
        let mut next = Vec::with_capacity(partial.len() * taps.len());
        for &(at, weight) in &partial {
            for tap in taps {
                let step = c.scale(tap.at, stride as f64)?;
                let weight = match (weight, tap.weight) {
                    (Some(a), Some(b)) => Some(c.mul(a, b)?),
                    (a, b) => a.or(b),
                };
                next.push((c.add(at, step)?, weight));
            }
        }
        partial = next;
    }
    let mut sum = None;
    for (at, weight) in partial {
        let mut read = c.gather(rows, at, 0)?;
        if let Some(weight) = weight {
            let column = [&c.shape(weight)[..], &[1]].concat();
            let weight = c.reshape(weight, &column)?;
            read = c.mul(read, weight)?;
        }
        sum = Some(match sum {
            Some(sum) => c.add(sum, read)?,
            None => read,
        });
    }
    sum.ok_or_else(|| c.invalid("there is nothing to read"))
}

/// `[N, C, S…]` as rows `[N·S…, C]`.
fn pixels(c: &mut Call, x: Value) -> Result<Value> {
    let shape = c.shape(x);
    let mut perm: Vec<usize> = (0..shape.len()).filter(|&i| i != 1).collect();
    perm.push(1);
    let last = c.transpose(x, &perm)?;
    let count = shape.iter().product::<usize>() / shape[1].max(1);
    c.reshape(last, &[count, shape[1]])
}

/// Moves the last axis to the second position.
fn channels_second(c: &mut Call, y: Value) -> Result<Value> {
    let rank = c.rank(y);
    let mut perm: Vec<usize> = (0..rank - 1).collect();
    perm.insert(1, rank - 1);
    c.transpose(y, &perm)
}

fn grid_sample(c: &mut Call) -> Result<Value> {
    let (x, grid) = (c.operand(0)?, c.operand(1)?);
    let (shape, places) = (c.shape(x), c.shape(grid));
    let rank = shape.len().saturating_sub(2);
    if rank == 0 || places.len() != shape.len() || places.last() != Some(&rank) {
        return Err(c.invalid(format_args!("a grid {places:?} for {shape:?}")));
    }
    let mode = match c.text("mode", "linear")? {
        "linear" | "bilinear" => "linear",
        "cubic" | "bicubic" => "cubic",
        "nearest" => "nearest",
        other => return Err(c.invalid(format_args!("mode '{other}' is not defined"))),
    };
    let padding = match c.text("padding_mode", "zeros")? {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(c.invalid(format_args!("padding '{other}' is not defined"))),
    };
    let align = c.flag("align_corners", false)?;
    let column = &places[..rank + 1];
    let mut axes = Vec::new();
    for (axis, &size) in shape[2..].iter().enumerate() {
        // The grid lists the coordinate along the last axis first.
        let own = rank - 1 - axis;
        let at = c.slice_axis(grid, rank + 1, own, own + 1, 1)?;
        let at = c.reshape(at, column)?;
        // −1 and 1 are the centres of the first and last elements, or their outer edges.
        let at = c.shift(at, 1.0)?;
        let at = if align {
            c.scale(at, (size as f64 - 1.0) / 2.0)?
        } else {
            let scaled = c.scale(at, size as f64 / 2.0)?;
            c.shift(scaled, -0.5)?
        };
        axes.push(taps(c, at, size, mode, padding, align)?);
    }
    let image: usize = shape[2..].iter().product();
    let mut lead = vec![1; rank + 1];
    lead[0] = shape[0];
    let first = Tensor::index((0..shape[0] as i64).map(|n| n * image as i64)).reshape(&lead)?;
    let first = c.constant(first);
    let rows = pixels(c, x)?;
    let y = interpolate(c, rows, first, &axes, &strides(&shape[2..]))?;
    channels_second(c, y)
}

/// Maps a grid by an affine transformation: a product with the constant matrix of its homogeneous
/// coordinates.
fn affine_grid(c: &mut Call) -> Result<Value> {
    let theta = c.operand(0)?;
    let size = c.known_ints(1, "size")?;
    let size = c.sizes(&size, "size")?;
    let shape = c.shape(theta);
    let rank = size.len().saturating_sub(2);
    if rank == 0 || shape.len() != 3 || shape[1..] != [rank, rank + 1] {
        return Err(c.invalid(format_args!("maps {shape:?} for size {size:?}")));
    }
    let align = c.flag("align_corners", false)?;
    let spatial = &size[2..];
    let count = c.bounded(spatial.to_vec())?.iter().product::<usize>();
    if count > MAX_POSITIONS {
        return Err(c.unsupported(format!("a grid of {count} positions is too large")));
    }
    let steps = strides(spatial);
    let coordinate = |at: usize, size: usize| match (align, size) {
        (true, 1) => -1.0,
        (true, _) => -1.0 + 2.0 * at as f32 / (size as f32 - 1.0),
        (false, _) => -1.0 + (2.0 * at as f32 + 1.0) / size as f32,
    };
    let mut values = Vec::with_capacity(count * (rank + 1));
    for i in 0..count {
        let axes = (0..rank).rev();
        values.extend(axes.map(|a| coordinate(i / steps[a] % spatial[a], spatial[a])));
        values.push(1.0);
    }
    let base = c.constant(Tensor::f32(&[1, count, rank + 1], values)?);
    let grid = c.matmul_t(base, theta, false, true)?;
    c.reshape(grid, &[&shape[..1], spatial, &[rank]].concat())
}

/// The mean of samples in each cell of a grid over each region.
fn roi_align(c: &mut Call) -> Result<Value> {
    let (x, regions) = (c.operand(0)?, c.operand(1)?);
    let (shape, boxes) = (c.shape(x), c.shape(regions));
    let (&[_, channels, height, width], &[count, 4]) = (&shape[..], &boxes[..]) else {
        return Err(c.invalid(format_args!("regions {boxes:?} of {shape:?}")));
    };
    let size = |name: &str| -> Result<usize> {
        let size = usize::try_from(c.int(name, 1)?).unwrap_or(0);
        if size == 0 { Err(c.invalid(format_args!("{name} must be positive"))) } else { Ok(size) }
    };
    let (rows, columns) = (size("output_height")?, size("output_width")?);
    let Ok(samples @ 1..) = usize::try_from(c.int("sampling_ratio", 0)?) else {
        return Err(c.unsupported(
            "the number of samples depends on the regions; export with a sampling ratio",
        ));
    };
    let default = if c.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let half = c.text("coordinate_transformation_mode", default)? == "half_pixel";
    if [rows, columns, samples].iter().any(|&n| n > 1 << 12) {
        return Err(c.unsupported("a grid of so many cells or samples is too large"));
    }
    c.bounded(vec![count, rows, samples, columns, samples, channels])?;
    let scale = c.float("spatial_scale", 1.0)?;
    let mut axes = Vec::new();
    let mut inside = None;
    for (axis, bins, length) in [(1, rows, height), (0, columns, width)] {
        let edge = |c: &mut Call, i: usize| {
            let v = c.slice_axis(regions, 1, i, i + 1, 1)?;
            let v = c.scale(v, scale)?;
            c.shift(v, if half { -0.5 } else { 0.0 })
        };
        let (start, end) = (edge(c, axis)?, edge(c, axis + 2)?);
        let mut extent = c.sub(end, start)?;
        if !half {
            let one = c.scalar_like(extent, 1.0);
            let long = c.greater(extent, one)?;
            extent = c.select(long, extent, one)?;
        }
        let points = bins * samples;
        let shares = (0..points).map(|i| (i as f32 + 0.5) / points as f32).collect();
        let shares = c.constant(Tensor::f32(&[1, points], shares)?);
        let along = c.mul(extent, shares)?;
        let at = c.add(start, along)?;
        // Positions more than one element beyond the edge have the value 0.
        let (low, high) = (c.scalar_like(at, -1.0), c.scalar_like(at, length as f64));
        let (above, below) = (c.greater_or_equal(at, low)?, c.less_or_equal(at, high)?);
        let here = c.and(above, below)?;
        let grid = if axis == 1 { [count, points, 1] } else { [count, 1, points] };
        let here = c.reshape(here, &grid)?;
        inside = Some(match inside {
            Some(other) => c.and(other, here)?,
            None => here,
        });
        let mut taps = taps(c, at, length, "linear", Padding::Border, true)?;
        for tap in &mut taps {
            tap.at = c.reshape(tap.at, &grid)?;
            tap.weight = match tap.weight {
                Some(weight) => Some(c.reshape(weight, &grid)?),
                None => None,
            };
        }
        axes.push(taps);
    }
    let batch = c.fixed(2)?;
    let batch = c.cast(batch, DType::I64)?;
    let batch = c.reshape(batch, &[count, 1, 1])?;
    let first = c.scale(batch, (height * width) as f64)?;
    let pixels = pixels(c, x)?;
    match c.text("mode", "avg")? {
        "avg" => {}
        "max" => return Err(c.unsupported("mode 'max' is not supported; use 'avg'")),
        other => return Err(c.invalid(format_args!("mode '{other}' is not defined"))),
    }
    let mut y = interpolate(c, pixels, first, &axes, &[width, 1])?;
    if let Some(inside) = inside {
        let column = [&c.shape(inside)[..], &[1]].concat();
        let inside = c.reshape(inside, &column)?;
        let zero = c.scalar_like(y, 0.0);
        y = c.select(inside, y, zero)?;
    }
    let cells = c.reshape(y, &[count, rows, samples, columns, samples, channels])?;
    let y = c.reduce_mean(cells, &[2, 4])?;
    let y = c.reshape(y, &[count, rows, columns, channels])?;
    channels_second(c, y)
}
