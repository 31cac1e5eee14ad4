//! A chunk of the gradient as products of the cotangent with rows of the padded copy, in vectors.

use pulp::{Simd, WithSimd};

use super::layout::Layout;
use super::{Chunk, TILE};

/// The number of input values that fit in the L1 cache beside the cotangent.
const NEAR: usize = 1 << 12;

/// The gradient of a convolution whose outputs each read all channels of a group.
pub(super) struct Tiles<'a> {
    pub layout: &'a Layout,
    pub chunk: &'a Chunk,
    pub outputs: usize,
    pub x: &'a [f32],
    pub z: &'a [f32],
    pub out: &'a mut [f32],
}

impl WithSimd for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tiles { layout, chunk, outputs, x, z, out } = self;
        let (lanes, width, places) = (S::F32_LANES, layout.width, layout.places());
        let positions = layout.rows.len() * layout.row;
        let height = chunk.outputs.len();
        out.fill(0.0);
        let groups = out.chunks_exact_mut(chunk.taps.len() * height * width);
        for (g, out) in chunk.groups.clone().zip(groups) {
            let z = &z[(g * outputs + chunk.outputs.start) * positions..][..height * positions];
            for (c, panel) in layout.panels() {
                let x = &x[(g * width + c) * places..][..panel * places];
                // The input for a few rows of the output stays in the L1 cache during the loops over
                // kernel positions and outputs.
                let rows = NEAR / (layout.row * layout.step * panel).max(1);
                let rows = rows.clamp(1, layout.rows.len().max(1));
                for first_row in (0..layout.rows.len()).step_by(rows) {
                    let starts = &layout.rows[first_row..layout.rows.len().min(first_row + rows)];
                    let z = &z[first_row * layout.row..];
                    let taps = layout.taps[chunk.taps.clone()].iter();
                    for (&place, out) in taps.zip(out.chunks_exact_mut(height * width)) {
                        let x = &x[place * panel..];
                        let tiles = height.div_ceil(TILE);
                        let mut first = 0;
                        for t in 0..tiles {
                            // Tiles of nearly equal height.
                            let outputs = (height - first) / (tiles - t);
                            let (z, out) = (&z[first * positions..], &mut out[first * width + c..]);
                            macro_rules! tile {
                                ($($m:literal),*) => {
                                    match (outputs, panel / lanes) {
                                        $(($m, 2) => tile::<S, $m, 2>(simd, layout, starts, x, z, out),
                                        ($m, _) => tile::<S, $m, 1>(simd, layout, starts, x, z, out),)*
                                        _ => {}
                                    }
                                };
                            }
                            tile!(1, 2, 3, 4, 5, 6);
                            first += outputs;
                        }
                    }
                }
            }
        }
    }
}

/// Accumulates a tile of `M` outputs × `V` vectors of channels over the rows of the output that start
/// at `starts`.
#[inline(always)]
fn tile<S: Simd, const M: usize, const V: usize>(
    simd: S,
    layout: &Layout,
    starts: &[usize],
    x: &[f32],
    z: &[f32],
    out: &mut [f32],
) {
    let lanes = S::F32_LANES;
    let positions = layout.rows.len() * layout.row;
    let (panel, step) = (V * lanes, layout.step * V * lanes);
    let mut sums = [[simd.splat_f32s(0.0); V]; M];
    for (m, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(S::as_simd_f32s(&out[m * layout.width..][..panel]).0);
    }
    for (y, &start) in starts.iter().enumerate() {
        let z: [&[f32]; M] =
            std::array::from_fn(|m| &z[m * positions + y * layout.row..][..layout.row]);
        let x = &x[start * panel..][..(layout.row - 1) * step + panel];
        for o in 0..layout.row {
            let (x, _) = S::as_simd_f32s(&x[o * step..][..panel]);
            let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
            for m in 0..M {
                let z = simd.splat_f32s(z[m][o]);
                for v in 0..V {
                    sums[m][v] = simd.mul_add_f32s(z, x[v], sums[m][v]);
                }
            }
        }
    }
    for (m, sums) in sums.iter().enumerate() {
        let (out, _) = S::as_mut_simd_f32s(&mut out[m * layout.width..][..panel]);
        out.copy_from_slice(sums);
    }
}

/// The gradient of a depthwise convolution: each output with its own channel.
pub(super) struct Depthwise<'a> {
    pub layout: &'a Layout,
    pub chunk: &'a Chunk,
    pub x: &'a [f32],
    pub z: &'a [f32],
    pub out: &'a mut [f32],
}

impl WithSimd for Depthwise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Depthwise { layout, chunk, x, z, out } = self;
        let (width, places) = (layout.width, layout.places());
        let taps = layout.taps[chunk.taps.clone()].iter();
        for (&place, out) in taps.zip(out.chunks_exact_mut(width)) {
            for (c, lanes) in layout.panels() {
                let x = &x[c * places + place * lanes..];
                let mut sum = simd.splat_f32s(0.0);
                for (y, &start) in layout.rows.iter().enumerate() {
                    for o in 0..layout.row {
                        let x = &x[(start + o * layout.step) * lanes..][..lanes];
                        let z = &z[(y * layout.row + o) * width + c..][..lanes];
                        let (x, z) = (S::as_simd_f32s(x).0[0], S::as_simd_f32s(z).0[0]);
                        sum = simd.mul_add_f32s(x, z, sum);
                    }
                }
                let (out, _) = S::as_mut_simd_f32s(&mut out[c..][..lanes]);
                out[0] = sum;
            }
        }
    }
}
