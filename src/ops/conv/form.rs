//! The trilinear form that the three operations are derivatives of, computed plainly.

use ndarray::ArrayD;

use super::Window;
use crate::error::{Error, Result};

/// The shapes of the three tensors of the trilinear form.
pub(super) struct Extent<'a> {
    pub x: &'a [usize],
    pub w: &'a [usize],
    pub z: &'a [usize],
}

/// Calls `f` with the flat indices into `x`, `w` and `z` of every product of the trilinear form.
pub(super) fn each_product(
    window: &Window,
    extent: &Extent,
    mut f: impl FnMut(usize, usize, usize),
) {
    let Extent { x, w, z } = extent;
    let rank = window.rank();
    let size = |s: &[usize]| s.iter().product::<usize>();
    let (x_size, w_size, z_size) = (size(&x[2..]), size(&w[2..]), size(&z[2..]));
    let per_group = z[1] / window.groups;
    // Where each kernel position and output position meet the input, for one channel.
    let mut meetings = Vec::new();
    for k in 0..w_size {
        for o in 0..z_size {
            let (mut k_rest, mut o_rest) = (k, o);
            let (mut at, mut scale, mut inside) = (0, 1, true);
            for i in (0..rank).rev() {
                let (k_i, o_i) = (k_rest % w[i + 2], o_rest % z[i + 2]);
                (k_rest, o_rest) = (k_rest / w[i + 2], o_rest / z[i + 2]);
                let padded = o_i * window.strides[i] + k_i * window.dilations[i];
                match padded.checked_sub(window.pads_begin[i]).filter(|&p| p < x[i + 2]) {
                    Some(p) => at += p * scale,
                    None => inside = false,
                }
                scale *= x[i + 2];
            }
            if inside {
                meetings.push((at, k, o));
            }
        }
    }
    for n in 0..x[0] {
        for m in 0..z[1] {
            let first = m / per_group.max(1) * w[1];
            for c in 0..w[1] {
                let x_base = (n * x[1] + first + c) * x_size;
                let w_base = (m * w[1] + c) * w_size;
                let z_base = (n * z[1] + m) * z_size;
                for &(i, j, k) in &meetings {
                    f(x_base + i, w_base + j, z_base + k);
                }
            }
        }
    }
}

pub(super) fn flat(a: &ArrayD<f64>) -> Result<&[f64]> {
    a.as_slice().ok_or_else(|| Error::Shape("a tensor is not in row-major order".into()))
}

pub(super) fn flat_mut(a: &mut ArrayD<f64>) -> Result<&mut [f64]> {
    a.as_slice_mut().ok_or_else(|| Error::Shape("a tensor is not in row-major order".into()))
}
