//! Fourier transforms, windows and mel weights. Complex numbers are pairs along the last axis, and a
//! transform is a product with a constant matrix.

use std::f64::consts::TAU;

use ndarray::{Array1, Array2};

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_MADE};
use crate::import::table::{Entry, rule, zero};
use crate::onnx::{DataType, dtype_of};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    zero("BlackmanWindow", 17, "a constant", |c| window(c, &[0.42, -0.5, 0.08])),
    rule("DFT", 17, "MatMul, Add, Sub", dft),
    zero("HammingWindow", 17, "a constant", |c| window(c, &[25.0 / 46.0, -21.0 / 46.0])),
    zero("HannWindow", 17, "a constant", |c| window(c, &[0.5, -0.5])),
    zero("MelWeightMatrix", 17, "a constant", mel_weights),
    rule("STFT", 17, "Gather, Mul, MatMul", stft),
];

/// The dtype in attribute `output_datatype`.
fn output_dtype(c: &Call) -> Result<DType> {
    let code = c.int("output_datatype", 1)?;
    let stored = i32::try_from(code).ok().and_then(|code| DataType::try_from(code).ok());
    stored.and_then(dtype_of).ok_or_else(|| c.unsupported("its dtype is not supported"))
}

/// The known count in operand `i`, at most [`MAX_MADE`].
fn count(c: &mut Call, i: usize, what: &str) -> Result<usize> {
    match usize::try_from(c.known_int(i, what)?) {
        Ok(count) if count <= MAX_MADE => Ok(count),
        _ => Err(c.invalid(format_args!("its {what} is out of range"))),
    }
}

/// `Σ aₖ cos(2πkn / N)` for `n` from 0 on. `N` is the length of a periodic window, or one less than the
/// length of a symmetric one.
fn window(c: &mut Call, terms: &[f64]) -> Result<Value> {
    let size = count(c, 0, "size")?;
    let period = if c.flag("periodic", true)? { size } else { size.saturating_sub(1).max(1) };
    let value = |n: usize| {
        let cosine = |(k, a): (usize, &f64)| a * (TAU * (k * n) as f64 / period as f64).cos();
        terms.iter().enumerate().map(cosine).sum()
    };
    let values = Array1::from_iter((0..size).map(value)).into_dyn();
    let dtype = output_dtype(c)?;
    Ok(c.constant(Tensor::from_f64(values, dtype)))
}

/// Triangular filters over the bins of a spectrum, of equal width on the mel scale.
fn mel_weights(c: &mut Call) -> Result<Value> {
    let (bands, length) = (count(c, 0, "number of bands")?, count(c, 1, "transform length")?);
    let mut rest = [0.0; 3];
    for (i, what) in ["sample rate", "lower edge", "upper edge"].into_iter().enumerate() {
        rest[i] = c.known_floats(2 + i, what)?.first().copied().unwrap_or(0.0);
    }
    let [rate, low, high] = rest;
    let bins = length / 2 + 1;
    if bins.saturating_mul(bands.saturating_add(2)) > MAX_MADE || rate <= 0.0 {
        return Err(c.invalid(format_args!("{bins} bins and {bands} bands")));
    }
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    let step = (mel(high) - mel(low)) / (bands + 2) as f64;
    let edge = |i: usize| {
        let hertz = 700.0 * ((i as f64 * step + mel(low)) / 2595.0 * 10f64.ln()).exp_m1();
        (((length + 1) as f64 * hertz) / rate).floor().max(0.0) as usize
    };
    let mut weights = Array2::<f64>::zeros((bins, bands));
    for band in 0..bands {
        let (first, middle, last) = (edge(band), edge(band + 1), edge(band + 2));
        if last > bins {
            return Err(c.invalid("a band is beyond the spectrum"));
        }
        let mut put = |bin: usize, weight: f64| {
            if let Some(slot) = weights.get_mut((bin, band)) {
                *slot = weight;
            }
        };
        if first == middle {
            put(middle, 1.0);
        }
        for bin in first..=middle {
            if first != middle {
                put(bin, (bin - first) as f64 / (middle - first) as f64);
            }
        }
        for bin in middle..last {
            put(bin, (last - bin) as f64 / (last - middle) as f64);
        }
    }
    let dtype = output_dtype(c)?;
    Ok(c.constant(Tensor::from_f64(weights.into_dyn(), dtype)))
}

/// Which transform is taken.
#[derive(Clone, Copy)]
struct Transform {
    length: usize,
    inverse: bool,
    /// Only the first half of the spectrum is computed or given; the other half mirrors it.
    onesided: bool,
}

fn dft(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let rank = c.rank(x);
    let axis = match c.opset {
        ..20 => c.int("axis", 1)?,
        _ if c.has(2) => c.known_int(2, "axis")?,
        _ => -2,
    };
    let axis = c.axis(axis, rank)?;
    if rank < 2 || axis == rank - 1 {
        return Err(c.invalid("the last axis holds real and imaginary parts"));
    }
    let (inverse, onesided) = (c.flag("inverse", false)?, c.flag("onesided", false)?);
    let size = c.shape(x)[axis];
    let length = match c.has(1) {
        true => count(c, 1, "transform length")?,
        false if inverse && onesided => 2 * size.saturating_sub(1),
        false => size,
    };
    transform(c, x, axis, Transform { length, inverse, onesided })
}

fn stft(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let &[_, samples, _] = &shape[..] else {
        return Err(c.invalid(format_args!("a signal of shape {shape:?}")));
    };
    let step = count(c, 1, "frame step")?;
    let window = if c.has(2) { Some(c.table(2)?) } else { None };
    let length = match window {
        _ if c.has(3) => count(c, 3, "frame length")?,
        Some(window) => c.fact(window).len(),
        None => return Err(c.invalid("it has neither a window nor a frame length")),
    };
    let Some(room) = samples.checked_sub(length).filter(|_| step > 0 && length > 0) else {
        return Err(c.invalid(format_args!("frames of {length} by {step} in {samples} samples")));
    };
    let frames = room / step + 1;
    if frames.saturating_mul(length) > MAX_MADE {
        return Err(c.unsupported(format!("{frames} frames of {length} samples are too many")));
    }
    let places = (0..frames * length).map(|i| (i / length * step + i % length) as i64);
    let places = c.constant(Tensor::index(places).reshape(&[frames, length])?);
    let mut framed = c.gather(x, places, 1)?;
    if let Some(window) = window {
        let window = c.reshape(window, &[length, 1])?;
        framed = c.mul(framed, window)?;
    }
    let onesided = c.flag("onesided", true)?;
    transform(c, framed, 2, Transform { length, inverse: false, onesided })
}

/// The matrices `[results, elements]` of cosines and sines of `2π·i·j / length`, with weighted columns.
fn waves(
    c: &mut Call,
    [results, elements]: [usize; 2],
    length: usize,
    weight: impl Fn(usize) -> f64,
) -> Result<[Value; 2]> {
    if results.saturating_mul(elements) > MAX_MADE {
        return Err(c.unsupported(format!("a transform of length {length} is too long")));
    }
    let mut make = |f: fn(f64) -> f64| {
        let values = Array2::from_shape_fn((results, elements), |(i, j)| {
            f(TAU * (i * j % length) as f64 / length as f64) * weight(j)
        });
        c.constant(Tensor::from_f64(values.into_dyn(), DType::F32))
    };
    Ok([make(f64::cos), make(f64::sin)])
}

fn transform(c: &mut Call, x: Value, axis: usize, t: Transform) -> Result<Value> {
    let rank = c.rank(x);
    if t.length == 0 {
        return Err(c.invalid("a transform of length 0"));
    }
    // [others…, axis, parts]
    let mut perm: Vec<usize> = (0..rank - 1).filter(|&i| i != axis).collect();
    perm.extend([axis, rank - 1]);
    let moved = c.transpose(x, &perm)?;
    let shape = c.shape(moved);
    let (lead, size, parts) = (shape[..rank - 2].to_vec(), shape[rank - 2], shape[rank - 1]);
    if parts != 1 && parts != 2 {
        return Err(c.invalid(format_args!("{parts} parts of a number")));
    }
    let half = t.length / 2 + 1;
    let to_real = t.inverse && t.onesided;
    let taken = if to_real { half } else { t.length };
    let rows: usize = lead.iter().product();
    c.bounded(vec![rows, t.length, 2])?;
    let part = |c: &mut Call, i: usize| -> Result<Value> {
        let part = c.slice_axis(moved, rank - 1, i, i + 1, 1)?;
        let part = c.reshape(part, &[rows, size])?;
        // Drop elements beyond the length, and pad missing ones with zeros.
        let kept = c.slice_axis(part, 1, 0, size.min(taken), 1)?;
        c.pad(kept, &[0, 0], &[0, taken.saturating_sub(size)], 0.0)
    };
    let real = part(c, 0)?;
    let imaginary = if parts == 2 { Some(part(c, 1)?) } else { None };
    let results = if t.onesided && !t.inverse { half } else { t.length };
    let share = if t.inverse { 1.0 / t.length as f64 } else { 1.0 };
    // Each frequency counts twice, for its mirror image, except the first and, for even lengths, the
    // last one.
    let twice = |k: usize| to_real && k != 0 && 2 * k != t.length;
    let [cos, sin] =
        waves(c, [results, taken], t.length, |k| if twice(k) { 2.0 * share } else { share })?;
    let product = |c: &mut Call, x: Value, m: Value| c.matmul_t(x, m, false, true);
    let (mut first, mut second) = (product(c, real, cos)?, product(c, real, sin)?);
    if !t.inverse {
        second = c.neg(second)?;
    }
    if let Some(imaginary) = imaginary {
        let (ours, theirs) = (product(c, imaginary, cos)?, product(c, imaginary, sin)?);
        first = if t.inverse { c.sub(first, theirs)? } else { c.add(first, theirs)? };
        second = c.add(second, ours)?;
    }
    let (first, second) =
        (c.reshape(first, &[rows, results, 1])?, c.reshape(second, &[rows, results, 1])?);
    let y = if to_real { first } else { c.concat(&[first, second], 2)? };
    let parts = c.shape(y)[2];
    let y = c.reshape(y, &[&lead[..], &[results, parts]].concat())?;
    let mut back: Vec<usize> = (0..rank - 2).collect();
    back.insert(axis, rank - 2);
    back.push(rank - 1);
    c.transpose(y, &back)
}
