//! The signs of the per-sample gradient with respect to the kernel.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::{
    Collect, Evaluate, Frame, Framed, Grid, POINTS, Product, REACH, TILE, ToPoints, apart, load,
    spread, square, store,
};
use crate::kernel::gram::{pack, words_len};
use crate::kernel::simd::{Buffer, Lanes, MOST_LANES, magnitudes};
use crate::kernel::{ConvWeightGrad, ParallelFor, Parts};

/// The maximum size of a transformed part of the gradient, in floats, so that it stays in a core's own
/// cache until its signs are packed.
const NEAR: usize = 1 << 16;

/// With fewer tiles, the transforms cost more than they save.
const FEWEST_TILES: usize = 16;

/// The maximum size of the two transformed operands of a sample, in floats.
const ROOM: usize = 1 << 21;

/// The bound on the rounding error of a value, relative to the product of the norms of the two operands.
/// It is several times the largest error observed. Smaller values are computed again as direct sums, so
/// that their signs and zeros are as reliable as without transforms. Gradients after rectifiers have many
/// zeros whose terms are all zero; these are found by bit masks.
const DOUBT: f32 = 32.0 * f32::EPSILON;

/// [`ConvWeightGrad`] for a 3×3 kernel with stride 1. Each tile of `z` contributes the gradient with the
/// part of `x` that it meets; the contributions are summed before the inverse transform.
pub(in crate::kernel) struct WeightGrad {
    op: ConvWeightGrad,
    grid: Grid,
    /// The channels of `x` and of `z`, rounded up to whole vectors.
    widths: [usize; 2],
    /// Which of the two lies along vectors, and how many channels of the other one are in a part.
    along: usize,
    rows: usize,
}

#[derive(Default)]
struct Scratch {
    images: [Framed; 2],
    points: [Buffer; 2],
    products: Buffer,
    gradient: Buffer,
    touched: [Touched; 2],
}

/// Bit masks of the non-zero values of an image, row by row, computed per channel on demand.
#[derive(Default)]
struct Touched {
    known: Vec<bool>,
    rows: Vec<u64>,
}

impl Touched {
    /// The length of the longest row.
    const WIDEST: usize = 64;

    /// Starts a new image with the given number of channels.
    fn start(&mut self, channels: usize) {
        self.known.clear();
        self.known.resize(channels, false);
    }

    /// The masks of the rows of a channel with the given values.
    #[inline(always)]
    fn rows(&mut self, channel: usize, values: &[f32], width: usize) -> &[u64] {
        let height = values.len() / width;
        self.rows.resize(self.rows.len().max(self.known.len() * height), 0);
        let rows = &mut self.rows[channel * height..][..height];
        if !std::mem::replace(&mut self.known[channel], true) {
            for (bits, row) in rows.iter_mut().zip(values.chunks_exact(width)) {
                *bits = 0;
                // In halves of 32 bits, the width of the values.
                for (half, values) in row.chunks(32).enumerate() {
                    let mut word = 0;
                    for (i, &v) in values.iter().enumerate() {
                        word |= u32::from(v != 0.0) << i;
                    }
                    *bits |= u64::from(word) << (32 * half);
                }
            }
        }
        rows
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl WeightGrad {
    /// The transformed form of `op`, if it has a 3×3 kernel with stride 1 and the transforms pay off.
    pub(in crate::kernel) fn of(op: &ConvWeightGrad) -> Option<Self> {
        let fits = op.kernel == [3, 3]
            && op.groups == 1
            && op.strides.iter().chain(&op.dilations).all(|&d| d == 1);
        let &[height, width] = op.output.as_slice() else { return None };
        let grid = Grid::new([height, width]);
        let lanes = Arch::new().dispatch(Lanes);
        let channels = [op.channels, op.outputs];
        let widths = channels.map(|d| d.next_multiple_of(lanes));
        // At most half of the multiplications, and sums that are long enough.
        let pays = grid.tiles() >= FEWEST_TILES
            && grid.tiles() * POINTS * 2 <= height * width * 9
            && POINTS * grid.tiles() * (widths[0] + widths[1]) <= ROOM;
        let along = usize::from(widths[1] * channels[0] < widths[0] * channels[1]);
        let parts = channels[1 - along].div_ceil((NEAR / (POINTS * widths[along])).max(6));
        let rows = channels[1 - along].div_ceil(parts.max(1));
        (fits && pays).then(|| WeightGrad { op: op.clone(), grid, widths, along, rows })
    }

    /// The number of channels of each part of the gradient.
    fn parts(&self) -> impl Iterator<Item = usize> {
        let all = [self.op.channels, self.op.outputs][1 - self.along];
        (0..all).step_by(self.rows.max(1)).map(move |first| self.rows.min(all - first))
    }

    fn words(&self, rows: usize) -> usize {
        words_len(9 * rows * self.widths[self.along])
    }

    /// See [`ConvWeightGrad::signs_len`].
    pub(in crate::kernel) fn signs_len(&self) -> usize {
        self.parts().map(|rows| self.words(rows)).sum::<usize>() + 1
    }

    /// See [`ConvWeightGrad::signs`].
    pub(in crate::kernel) fn signs(
        &self,
        x: &[f32],
        z: &[f32],
        signs: &mut [i32],
        parallel: &ParallelFor,
    ) {
        let size = |shape: &[usize]| -> [usize; 2] { [shape[0], shape[1]] };
        let (input, output) = (size(&self.op.input), size(&self.op.output));
        let lengths =
            [self.op.channels * input[0] * input[1], self.op.outputs * output[0] * output[1]];
        let frames = [
            Frame { image: input, offset: size(&self.op.pads), larger: self.grid.reach() },
            Frame { image: output, offset: [0; 2], larger: self.grid.results() },
        ];
        let places = frames.map(|frame| frame.places());
        let parts = Parts::new(signs, self.signs_len());
        let arch = Arch::new();
        parallel(self.op.samples, &|n| {
            let operands = [&x[n * lengths[0]..][..lengths[0]], &z[n * lengths[1]..][..lengths[1]]];
            parts.with(n, |signs| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let (frames, places) = (&frames, &places);
                    arch.dispatch(Sample { op: self, frames, places, operands, signs, scratch });
                });
            });
        });
    }

    /// The element of the gradient for channel `c`, output `m` and kernel position `tap`, as a direct sum.
    #[inline(always)]
    fn element<S: Simd>(
        &self,
        simd: S,
        operands: [&[f32]; 2],
        touched: &mut [Touched; 2],
        [c, m, tap]: [usize; 3],
    ) -> f32 {
        let (input, output) = (&self.op.input, &self.op.output);
        let x = &operands[0][c * input[0] * input[1]..][..input[0] * input[1]];
        let z = &operands[1][m * output[0] * output[1]..][..output[0] * output[1]];
        let (pads, tap) = ([self.op.pads[0], self.op.pads[1]], [tap / 3, tap % 3]);
        // The range of output positions that meet the input.
        let meet = |axis: usize| {
            let first = pads[axis].saturating_sub(tap[axis]);
            (first, output[axis].min((input[axis] + pads[axis]).saturating_sub(tap[axis])))
        };
        let ((top, bottom), (left, right)) = (meet(0), meet(1));
        if input[1].max(output[1]) <= Touched::WIDEST {
            let [in_x, in_z] = touched;
            let (in_x, in_z) = (in_x.rows(c, x, input[1]), in_z.rows(m, z, output[1]));
            let (behind, ahead) = (pads[1].saturating_sub(tap[1]), tap[1].saturating_sub(pads[1]));
            let apart = (top..bottom).all(|row| {
                let x = in_x[row + tap[0] - pads[0]];
                let x = x.checked_shl(behind as u32).unwrap_or(0) >> ahead;
                x & in_z[row] == 0
            });
            if apart {
                return 0.0;
            }
        }
        let mut sum = simd.splat_f32s(0.0);
        // Separate sums for the rest of each row. Short rows have no whole vector.
        let mut rests = [0.0; MOST_LANES];
        let length = right.saturating_sub(left);
        for row in top..bottom {
            let from = (row + tap[0] - pads[0]) * input[1] + left + tap[1] - pads[1];
            let (x, z) = (&x[from..][..length], &z[row * output[1] + left..][..length]);
            let (xs, x) = S::as_simd_f32s(x);
            let (zs, z) = S::as_simd_f32s(z);
            for (&x, &z) in xs.iter().zip(zs) {
                sum = simd.mul_add_f32s(x, z, sum);
            }
            for ((rest, &x), &z) in rests.iter_mut().zip(x).zip(z) {
                *rest += x * z;
            }
        }
        simd.reduce_sum_f32s(sum) + rests.iter().sum::<f32>()
    }
}

/// The gradient of one sample.
struct Sample<'a> {
    op: &'a WeightGrad,
    frames: &'a [Frame; 2],
    places: &'a [Vec<usize>; 2],
    operands: [&'a [f32]; 2],
    signs: &'a mut [i32],
    scratch: &'a mut Scratch,
}

impl WithSimd for Sample<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sample { op, frames, places, operands, signs, scratch } = self;
        let Scratch { images, points, products, gradient, touched } = scratch;
        touched[0].start(op.op.channels);
        touched[1].start(op.op.outputs);
        let (lanes, grid, tiles) = (S::F32_LANES, op.grid, op.grid.tiles());
        let steps = [apart(tiles, op.widths[0]), apart(tiles, op.widths[1])];
        let [x_points, z_points] = points;
        let points = [x_points.room(POINTS * steps[0]), z_points.room(POINTS * steps[1])];
        for i in 0..2 {
            let (room, columns) = (frames[i].room(), frames[i].larger[1]);
            let image = images[i].room(&frames[i], op.widths[i] * room);
            spread(simd, operands[i], &places[i], room, image, None);
            for (panel, image) in image.chunks_exact(lanes * room).enumerate() {
                for tile in 0..tiles {
                    let at = tile / grid.columns * TILE * columns + tile % grid.columns * TILE;
                    let from = &image[at * lanes..];
                    let to = &mut points[i][tile * op.widths[i] + panel * lanes..];
                    let from_steps = [columns * lanes, lanes];
                    let to_steps = [REACH * steps[i], steps[i]];
                    if i == 0 {
                        square::<S, ToPoints, REACH, REACH>(simd, from, from_steps, to, to_steps);
                    } else {
                        square::<S, Evaluate, TILE, REACH>(simd, from, from_steps, to, to_steps);
                    }
                }
            }
        }
        let (along, across) = (op.along, 1 - op.along);
        let norms =
            [norms(simd, operands[0], op.op.channels), norms(simd, operands[1], op.op.outputs)];
        let width = op.widths[along];
        let Some((flag, mut words)) = signs.split_last_mut() else { return };
        *flag = 0;
        let mut first = 0;
        for rows in op.parts() {
            let step = apart(rows, width);
            let products = products.room(POINTS * step);
            let product = Product { rows, depth: tiles, width, a: [1, op.widths[across]] };
            for point in 0..POINTS {
                let a = &points[across][point * steps[across] + first..];
                let b = &points[along][point * steps[along]..];
                product.compute(simd, a, b, &mut products[point * step..]);
            }
            let size = rows * width;
            let gradient = gradient.room(9 * size);
            for at in (0..size).step_by(lanes) {
                let to = &mut gradient[at..];
                let steps = [[REACH * step, step], [3 * size, size]];
                square::<S, Collect, REACH, 3>(simd, &products[at..], steps[0], to, steps[1]);
            }
            for (tap, gradient) in gradient.chunks_exact_mut(size).enumerate() {
                for (row, gradient) in gradient.chunks_exact_mut(width).enumerate() {
                    let row = first + row;
                    let doubt = simd.splat_f32s(DOUBT * norms[across][row]);
                    for (vector, values) in gradient.chunks_exact_mut(lanes).enumerate() {
                        let bound =
                            simd.mul_f32s(doubt, load::<S>(&norms[along][vector * lanes..]));
                        let magnitudes = magnitudes(simd, load::<S>(values));
                        if simd.first_true_m32s(simd.less_than_f32s(magnitudes, bound)) == lanes {
                            continue;
                        }
                        let mut bounds = [0.0; MOST_LANES];
                        store::<S>(&mut bounds, bound);
                        for (lane, value) in values.iter_mut().enumerate() {
                            if value.abs() < bounds[lane] {
                                let mut at = [row; 2];
                                at[along] = vector * lanes + lane;
                                *value = op.element(simd, operands, touched, [at[0], at[1], tap]);
                            }
                        }
                    }
                }
            }
            let (part, rest) = words.split_at_mut(op.words(rows));
            *flag |= i32::from(!pack(gradient, part));
            words = rest;
            first += rows;
        }
    }
}

/// The norm of each channel, padded with zeros to whole vectors.
#[inline(always)]
fn norms<S: Simd>(simd: S, x: &[f32], channels: usize) -> Vec<f32> {
    let mut norms = vec![0.0; channels.next_multiple_of(S::F32_LANES)];
    for (norm, x) in norms.iter_mut().zip(x.chunks_exact(x.len() / channels)) {
        let (vectors, rest) = S::as_simd_f32s(x);
        let rest = simd.partial_load_f32s(rest);
        let mut sum = simd.mul_f32s(rest, rest);
        for &v in vectors {
            sum = simd.mul_add_f32s(v, v, sum);
        }
        *norm = simd.reduce_sum_f32s(sum).sqrt();
    }
    norms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::in_turn;

    fn op(channels: usize, outputs: usize, input: [usize; 2], pads: [usize; 2]) -> ConvWeightGrad {
        ConvWeightGrad {
            samples: 2,
            groups: 1,
            channels,
            outputs,
            input: input.to_vec(),
            output: vec![input[0] + 2 * pads[0] - 2, input[1] + 2 * pads[1] - 2],
            kernel: vec![3; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: pads.to_vec(),
        }
    }

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31 + i * i) % 10007) as f32 / 5003.0 - 1.0).collect()
    }

    /// The inner products of the signs of two samples, and whether all values are finite.
    fn products(op: &ConvWeightGrad, x: &[f32], z: &[f32]) -> (Vec<f64>, bool) {
        let mut signs = vec![0; 2 * op.signs_len()];
        op.signs(x, z, &mut signs, &in_turn);
        let mut products = vec![0.0; 4];
        let gram = crate::kernel::SignGram { groups: 1, size: 2 };
        gram.products(&[&signs], &mut products, &in_turn);
        let finite = signs.chunks(op.signs_len()).all(|row| row[row.len() - 1] == 0);
        (products, finite)
    }

    /// The expected result, from the signs of direct sums.
    fn expected(op: &ConvWeightGrad, x: &[f32], z: &[f32]) -> Vec<f64> {
        let mut dw = vec![0.0; 2 * op.channels * op.outputs * 9];
        op.gradients(x, z, &mut dw, &in_turn);
        let sign = |v: &f32| if *v == 0.0 { 0.0 } else { f64::from(v.signum()) };
        let rows: Vec<Vec<f64>> =
            dw.chunks(dw.len() / 2).map(|row| row.iter().map(sign).collect()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        rows.iter().flat_map(|a| rows.iter().map(move |b| dot(a, b))).collect()
    }

    fn operands(op: &ConvWeightGrad) -> [Vec<f32>; 2] {
        let size = |channels: usize, shape: &[usize]| 2 * channels * shape[0] * shape[1];
        [noise(size(op.channels, &op.input), 1), noise(size(op.outputs, &op.output), 2)]
    }

    #[test]
    fn signs_are_those_of_the_sums() {
        for (channels, outputs) in [(1, 1), (3, 16), (16, 3), (17, 33), (40, 5)] {
            for (input, pads) in [([16, 16], [1, 1]), ([13, 15], [1, 1]), ([17, 31], [0, 2])] {
                let op = op(channels, outputs, input, pads);
                assert!(WeightGrad::of(&op).is_some());
                let [x, z] = operands(&op);
                assert_eq!(products(&op, &x, &z), (expected(&op, &x, &z), true), "{op:?}");
            }
        }
        // Several parts.
        let op = op(96, 90, [16, 16], [1, 1]);
        assert!(WeightGrad::of(&op).is_some_and(|op| op.parts().count() > 1));
        let [x, z] = operands(&op);
        assert_eq!(products(&op, &x, &z), (expected(&op, &x, &z), true));
    }

    /// Where the operands never meet, the gradient is exactly zero and not a rounding error.
    #[test]
    fn zero_is_zero() {
        let op = op(5, 20, [16, 16], [1, 1]);
        let [mut x, mut z] = operands(&op);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if i % 16 < 3 { *x / 3.0 } else { 0.0 };
        }
        for (i, z) in z.iter_mut().enumerate() {
            *z = if i % 16 == 3 { *z / 7.0 } else { 0.0 };
        }
        let want = expected(&op, &x, &z);
        // One of three columns of kernel positions meets non-zero values.
        assert!(want[0] > 0.0 && want[0] <= f64::from(5 * 20 * 3));
        assert_eq!(products(&op, &x, &z), (want, true));
    }

    #[test]
    fn values_that_are_not_finite_show() {
        let op = op(5, 20, [16, 16], [1, 1]);
        for bad in [f32::NAN, f32::INFINITY] {
            let [mut x, mut z] = operands(&op);
            x[77] = bad;
            assert!(!products(&op, &x, &z).1);
            x[77] = 0.0;
            let last = z.len() - 1;
            z[last] = bad;
            assert!(!products(&op, &x, &z).1);
        }
    }
}
