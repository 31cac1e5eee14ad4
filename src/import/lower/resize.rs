//! Resampling: each axis is multiplied by a constant interpolation matrix.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::tensor::Tensor;

pub(super) const ENTRIES: &[Entry] = &[
    rule("Resize", 10, "Expand for repetition, else MatMul by interpolation matrices", resize),
    rule("Upsample", 7, "Expand for repetition, else MatMul by interpolation matrices", upsample),
];

/// How an axis is resampled. Coordinates are float32 as in the engines, so that positions are rounded
/// the same way.
#[derive(Clone, Copy)]
struct Axis {
    from: usize,
    to: usize,
    scale: f32,
    /// The start and end of the part that is resampled, relative to the length of the axis.
    roi: (f32, f32),
}

/// How elements are interpolated.
#[derive(Clone, Copy)]
struct Sampling<'a> {
    mode: &'a str,
    coordinates: &'a str,
    nearest: &'a str,
    cubic: f32,
    exclude_outside: bool,
    antialias: bool,
}

/// One weight per element, or `None` for a position outside the tensor.
type Row = Option<Vec<f32>>;

fn upsample(c: &mut Call) -> Result<Value> {
    let scales = match c.floats("scales")? {
        Some(scales) => scales,
        None => c.known_floats(1, "scales")?,
    };
    asymmetric(c, &scales)
}

/// Upsample and Resize of opset 10, which have asymmetric coordinates.
fn asymmetric(c: &mut Call, scales: &[f64]) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let sampling = Sampling {
        mode: c.text("mode", "nearest")?,
        coordinates: "asymmetric",
        nearest: "floor",
        cubic: 0.0,
        exclude_outside: false,
        antialias: false,
    };
    let axes = by_scales(c, &shape, scales)?;
    resample(c, x, &axes, sampling, 0.0)
}

fn by_scales(c: &Call, shape: &[usize], scales: &[f64]) -> Result<Vec<Axis>> {
    if scales.len() != shape.len() || scales.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return Err(c.invalid(format_args!("scales {scales:?} for shape {shape:?}")));
    }
    let axes = shape.iter().zip(scales).map(|(&from, &scale)| {
        let scale = scale as f32;
        let to = (from as f32 * scale).floor() as usize;
        Axis { from, to, scale, roi: (0.0, 1.0) }
    });
    Ok(axes.collect())
}

fn resize(c: &mut Call) -> Result<Value> {
    if c.opset < 11 {
        let scales = c.known_floats(1, "scales")?;
        return asymmetric(c, &scales);
    }
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let sampling = Sampling {
        mode: c.text("mode", "nearest")?,
        coordinates: c.text("coordinate_transformation_mode", "half_pixel")?,
        nearest: c.text("nearest_mode", "round_prefer_floor")?,
        cubic: c.float("cubic_coeff_a", -0.75)? as f32,
        exclude_outside: c.flag("exclude_outside", false)?,
        antialias: c.flag("antialias", false)?,
    };
    let chosen = match c.ints("axes")? {
        Some(axes) => c.axes(&axes, shape.len())?,
        None => (0..shape.len()).collect(),
    };
    let scales = if c.has(2) { c.known_floats(2, "scales")? } else { Vec::new() };
    let mut axes = if !scales.is_empty() {
        let mut full = vec![1.0; shape.len()];
        if scales.len() != chosen.len() {
            return Err(c.invalid(format_args!("{} scales for {shape:?}", scales.len())));
        }
        chosen.iter().zip(&scales).for_each(|(&axis, &scale)| full[axis] = scale);
        by_scales(c, &shape, &full)?
    } else if c.has(3) {
        let mut sizes = c.known_ints(3, "sizes")?;
        c.batch_check().to_one_sample(x, &mut sizes);
        let sizes = c.sizes(&sizes, "size")?;
        by_sizes(c, &shape, &chosen, &sizes)?
    } else {
        return Err(c.invalid("it has neither scales nor sizes"));
    };
    if sampling.coordinates == "tf_crop_and_resize" {
        let roi = c.known_floats(1, "region")?;
        if roi.len() != 2 * chosen.len() {
            return Err(c.invalid(format_args!("a region of {} numbers", roi.len())));
        }
        for (i, &axis) in chosen.iter().enumerate() {
            axes[axis].roi = (roi[i] as f32, roi[i + chosen.len()] as f32);
        }
    }
    let beyond = c.float("extrapolation_value", 0.0)?;
    resample(c, x, &axes, sampling, beyond)
}

fn by_sizes(c: &Call, shape: &[usize], chosen: &[usize], sizes: &[usize]) -> Result<Vec<Axis>> {
    let mut axes: Vec<Axis> =
        shape.iter().map(|&d| Axis { from: d, to: d, scale: 1.0, roi: (0.0, 1.0) }).collect();
    if sizes.len() != chosen.len() || chosen.iter().any(|&axis| shape[axis] == 0) {
        return Err(c.invalid(format_args!("sizes {sizes:?} for shape {shape:?}")));
    }
    for (&axis, &size) in chosen.iter().zip(sizes) {
        axes[axis].to = size;
        axes[axis].scale = size as f32 / shape[axis] as f32;
    }
    let scales = chosen.iter().map(|&axis| axes[axis].scale);
    let common = match c.text("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => return Ok(axes),
        "not_larger" => scales.fold(f32::INFINITY, f32::min),
        "not_smaller" => scales.fold(0.0, f32::max),
        other => return Err(c.invalid(format_args!("policy '{other}' is not defined"))),
    };
    for &axis in chosen {
        axes[axis].to = (common * shape[axis] as f32 + 0.5).floor() as usize;
        axes[axis].scale = common;
    }
    Ok(axes)
}

fn resample(
    c: &mut Call,
    x: Value,
    axes: &[Axis],
    sampling: Sampling,
    beyond: f64,
) -> Result<Value> {
    let total = c.bounded(axes.iter().map(|a| a.to).collect())?;
    let mut y = x;
    let mut outside = None;
    for (i, axis) in axes.iter().enumerate() {
        if axis.from == axis.to && axis.scale == 1.0 && axis.roi == (0.0, 1.0) {
            continue;
        }
        c.made(vec![axis.from, axis.to])?;
        let Some(rows) = (0..axis.to).map(|j| row(axis, j, sampling)).collect::<Option<Vec<_>>>()
        else {
            return Err(c.invalid(format_args!(
                "mode '{}' with coordinates '{}' and rounding '{}' is not defined",
                sampling.mode, sampling.coordinates, sampling.nearest
            )));
        };
        if rows.iter().any(Option::is_none) {
            let mut column = vec![1; axes.len()];
            column[i] = axis.to;
            let flags = rows.iter().map(Option::is_none).collect();
            let flags = c.constant(Tensor::bool(&column, flags)?);
            outside = Some(match outside {
                Some(others) => c.or(others, flags)?,
                None => flags,
            });
        }
        y = apply(c, y, i, axis, &rows)?;
    }
    let y = c.reshape(y, &total)?;
    match outside {
        Some(outside) => {
            let beyond = c.scalar_like(y, beyond);
            c.select(outside, beyond, y)
        }
        None => Ok(y),
    }
}

/// `y[…, j, …] = Σᵢ rows[j][i] · x[…, i, …]` along axis `at`.
fn apply(c: &mut Call, x: Value, at: usize, axis: &Axis, rows: &[Row]) -> Result<Value> {
    let mut shape = c.shape(x);
    let before: usize = shape[..at].iter().product();
    let after: usize = shape[at + 1..].iter().product();
    shape[at] = axis.to;
    let times = axis.to / axis.from.max(1);
    let repeats = times * axis.from == axis.to
        && rows.iter().enumerate().all(|(j, row)| {
            let own = |(i, &w): (usize, &f32)| w == f32::from(u8::from(i == j / times));
            row.as_ref().is_some_and(|row| row.iter().enumerate().all(own))
        });
    if repeats {
        let apart = c.reshape(x, &[before, axis.from, 1, after])?;
        let spread = c.expand(apart, &[before, axis.from, times, after])?;
        return c.reshape(spread, &shape);
    }
    let weights = rows.iter().flat_map(|row| match row {
        Some(row) => row.clone(),
        None => vec![0.0; axis.from],
    });
    let matrix = Tensor::f32(&[axis.to, axis.from], weights.collect())?;
    let dtype = c.dtype(x);
    let matrix = c.constant(matrix.cast(dtype));
    let y = if after == 1 {
        let rows = c.reshape(x, &[before, axis.from])?;
        c.matmul_t(rows, matrix, false, true)?
    } else {
        let columns = c.reshape(x, &[before, axis.from, after])?;
        c.matmul(matrix, columns)?
    };
    c.reshape(y, &shape)
}

/// The weights of the elements for result `j`; `None` for an unknown mode.
fn row(axis: &Axis, j: usize, s: Sampling) -> Option<Row> {
    let x = coordinate(axis, j, s.coordinates)?;
    let last = axis.from as f32 - 1.0;
    if s.coordinates == "tf_crop_and_resize" && (x < 0.0 || x > last) {
        return Some(None);
    }
    let mut weights = vec![0.0; axis.from];
    let clamped = |i: f32| i.clamp(0.0, last) as usize;
    let shrink = if s.antialias { axis.scale.min(1.0) } else { 1.0 };
    let (reach, kernel): (f32, &dyn Fn(f32) -> f32) = match s.mode {
        "nearest" => {
            let i = match s.nearest {
                "round_prefer_floor" => (x - 0.5).ceil(),
                "round_prefer_ceil" => (x + 0.5).floor(),
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                _ => return None,
            };
            weights[clamped(i)] = 1.0;
            return Some(Some(weights));
        }
        "linear" | "bilinear" | "trilinear" => (1.0, &|t: f32| (1.0 - t.abs()).max(0.0)),
        "cubic" => (2.0, &|t: f32| cubic(t.abs(), s.cubic)),
        _ => return None,
    };
    let linear = reach == 1.0;
    let x = if linear && !s.antialias { x.clamp(0.0, last) } else { x };
    let mut i = (x - reach / shrink).ceil();
    while i <= x + reach / shrink {
        let inside = (0.0..=last).contains(&i);
        if inside || !s.exclude_outside {
            weights[clamped(i)] += kernel((i - x) * shrink);
        }
        i += 1.0;
    }
    if s.exclude_outside || shrink < 1.0 {
        let total: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
    }
    Some(Some(weights))
}

/// The cubic convolution kernel at distance `t` (Keys 1981).
fn cubic(t: f32, a: f32) -> f32 {
    if t <= 1.0 {
        ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    } else {
        0.0
    }
}

/// The coordinate of result `j` among the elements; `None` for an unknown mode.
fn coordinate(axis: &Axis, j: usize, mode: &str) -> Option<f32> {
    let (i, from, to, scale) = (j as f32, axis.from as f32, axis.to as f32, axis.scale);
    let half_pixel = (i + 0.5) / scale - 0.5;
    Some(match mode {
        "half_pixel" => half_pixel,
        "half_pixel_symmetric" => {
            let adjustment = to / (scale * from);
            from / 2.0 * (1.0 - adjustment) + half_pixel
        }
        "pytorch_half_pixel" => {
            if to > 1.0 {
                half_pixel
            } else {
                0.0
            }
        }
        "align_corners" => {
            if to > 1.0 {
                i * (from - 1.0) / (to - 1.0)
            } else {
                0.0
            }
        }
        "asymmetric" => i / scale,
        "tf_half_pixel_for_nn" => (i + 0.5) / scale,
        "tf_crop_and_resize" => {
            let (start, end) = axis.roi;
            if to > 1.0 {
                start * (from - 1.0) + i * (end - start) * (from - 1.0) / (to - 1.0)
            } else {
                0.5 * (start + end) * (from - 1.0)
            }
        }
        _ => return None,
    })
}
