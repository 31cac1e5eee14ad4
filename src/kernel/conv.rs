//! The per-sample gradient of a convolution with respect to its kernel.
//!
//! `x` is zero-padded and laid out with the channels last, so that each kernel position reads the same
//! data at an offset. Each position is a product of the cotangent `[M, O]` with rows of `x` `[O, C]`,
//! read in place without unfolding. A tile of outputs × channels stays in registers during the loop over
//! output positions. The channels are divided into panels as wide as a tile, stored one after the other,
//! so that a tile reads contiguous memory for any number of channels.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::gram::{pack, words_len};
use super::simd::Lanes;
use super::winograd::WeightGrad;
use super::{ParallelFor, Parts};

/// The number of outputs in a tile. With two vectors of channels there are twelve accumulators, which
/// hide the latency of multiply-add and leave registers for the operands.
const TILE: usize = 6;

/// The number of input values that fit in the L1 cache beside the cotangent.
const NEAR: usize = 1 << 12;

/// The maximum number of gradient elements in a chunk, so that a chunk stays in a core's own cache until
/// it is complete and consumed. Whole gradients of wide layers are too large for that.
const CHUNK: usize = 1 << 16;

/// The per-sample gradient of a convolution with respect to its kernel:
/// `dw[n, m, c, k] = Σ_o x[n, c, o·s + k·d − p] · z[n, m, o]`, `c` in the group of `m`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvWeightGrad {
    /// The number of samples.
    pub samples: usize,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Channels of `x` in each group.
    pub channels: usize,
    /// Channels of `z` in each group.
    pub outputs: usize,
    /// The spatial shape of `x`.
    pub input: Vec<usize>,
    /// The spatial shape of `z`.
    pub output: Vec<usize>,
    /// The spatial shape of the kernel.
    pub kernel: Vec<usize>,
    /// Step along each spatial axis.
    pub strides: Vec<usize>,
    /// Distance of neighbouring kernel positions along each spatial axis.
    pub dilations: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads: Vec<usize>,
}

/// The layout of the padded copy of one sample's `x`, `[g, panel, padded…, channel]`.
struct Layout {
    /// Its spatial shape.
    padded: Vec<usize>,
    /// Channels of a group, rounded up to whole vectors.
    width: usize,
    /// Channels of a panel. The last panel of a group may have fewer.
    panel: usize,
    /// The offset of each kernel position, in positions of the padded copy.
    taps: Vec<usize>,
    /// The offset of each row of the output, in positions of the padded copy.
    rows: Vec<usize>,
    /// Positions in a row of the output.
    row: usize,
    /// The distance of neighbouring output positions of a row in the padded copy.
    step: usize,
}

impl Layout {
    /// The number of positions of the padded copy.
    fn places(&self) -> usize {
        product(&self.padded)
    }

    /// The panels of a group: the first channel and the number of channels of each.
    fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        let first = (0..self.width).step_by(self.panel);
        first.map(|c| (c, self.panel.min(self.width - c)))
    }
}

/// A part of a sample's gradient: ranges of groups, kernel positions and outputs.
struct Chunk {
    groups: Range<usize>,
    taps: Range<usize>,
    outputs: Range<usize>,
}

impl Chunk {
    /// The rows of channels in the order in which they are stored: group, kernel position and output.
    fn rows(&self) -> impl Iterator<Item = [usize; 3]> {
        self.groups.clone().flat_map(move |g| {
            self.taps.clone().flat_map(move |tap| self.outputs.clone().map(move |m| [g, tap, m]))
        })
    }

    fn len(&self, layout: &Layout) -> usize {
        self.groups.len() * self.taps.len() * self.outputs.len() * layout.width
    }
}

thread_local! {
    /// Buffers for the padded copy of `x`, the cotangent and the chunk, kept for the next call.
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl ConvWeightGrad {
    /// The number of elements of `x` for one sample.
    fn x_len(&self) -> usize {
        self.groups * self.channels * product(&self.input)
    }

    /// The number of elements of `z` for one sample.
    fn z_len(&self) -> usize {
        self.groups * self.outputs * product(&self.output)
    }

    /// The number of elements of the gradient for one sample.
    fn len(&self) -> usize {
        self.groups * self.outputs * self.channels * product(&self.kernel)
    }

    /// Whether every group has a single channel.
    fn is_depthwise(&self) -> bool {
        self.channels == 1 && self.outputs == 1
    }

    /// The numbers of groups, and of outputs and channels per group, in the layout. For a depthwise
    /// convolution the groups are laid out like channels.
    fn blocks(&self) -> [usize; 3] {
        match self.is_depthwise() {
            true => [1, 1, self.groups],
            false => [self.groups, self.outputs, self.channels],
        }
    }

    fn layout(&self, lanes: usize) -> Layout {
        let rank = self.kernel.len();
        let [_, _, channels] = self.blocks();
        let width = channels.next_multiple_of(lanes);
        let padded: Vec<usize> = (0..rank)
            .map(|i| {
                (self.output[i] - 1) * self.strides[i]
                    + (self.kernel[i] - 1) * self.dilations[i]
                    + 1
            })
            .collect();
        let mut stride = vec![1; rank];
        for i in (0..rank.saturating_sub(1)).rev() {
            stride[i] = stride[i + 1] * padded[i + 1];
        }
        let offsets = |shape: &[usize], steps: &[usize]| -> Vec<usize> {
            let at = |mut rest: usize| {
                let mut offset = 0;
                for i in (0..shape.len()).rev() {
                    offset += rest % shape[i] * steps[i] * stride[i];
                    rest /= shape[i];
                }
                offset
            };
            (0..product(shape)).map(at).collect()
        };
        let (row, step) = match rank {
            0 => (1, 0),
            _ => (self.output[rank - 1], self.strides[rank - 1] * stride[rank - 1]),
        };
        Layout {
            width,
            panel: if self.is_depthwise() { lanes } else { 2 * lanes },
            taps: offsets(&self.kernel, &self.dilations),
            rows: offsets(&self.output[..rank.saturating_sub(1)], &self.strides),
            row,
            step,
            padded,
        }
    }

    /// Copies one sample's `x` `[g·C, S…]` to its layout, with zeros around.
    fn spread(&self, layout: &Layout, x: &[f32], out: &mut Vec<f32>) {
        let [groups, _, channels] = self.blocks();
        let places = layout.places();
        out.clear();
        out.resize(groups * layout.width * places, 0.0);
        let rank = self.input.len();
        let (row, rest) = self.input.split_last().map_or((1, &[][..]), |(&l, r)| (l, r));
        let last = layout.padded.last().map_or(1, |&d| d);
        let pad = self.pads.last().copied().unwrap_or(0);
        // The kernel may not reach the end of a row.
        let length = row.min(last.saturating_sub(pad));
        let rows = product(rest);
        for outer in 0..rows {
            let (mut at, mut scale, mut inside, mut left) = (0, last, length > 0, outer);
            for i in (0..rank.saturating_sub(1)).rev() {
                let position = left % self.input[i] + self.pads[i];
                left /= self.input[i];
                inside &= position < layout.padded[i];
                at += position * scale;
                scale *= layout.padded[i];
            }
            if !inside {
                continue;
            }
            for g in 0..groups {
                for (first, width) in layout.panels() {
                    let panel = &mut out[(g * layout.width + first) * places..][..width * places];
                    let panel = &mut panel[(at + pad) * width..];
                    for c in first..channels.min(first + width) {
                        let from = ((g * channels + c) * rows + outer) * row;
                        for (i, &v) in x[from..from + length].iter().enumerate() {
                            panel[i * width + c - first] = v;
                        }
                    }
                }
            }
        }
    }

    /// The layout and the chunks for the vector width of this processor.
    fn plan(&self) -> (Layout, Vec<Chunk>) {
        let layout = self.layout(Arch::new().dispatch(Lanes));
        let chunks = self.chunks(&layout);
        (layout, chunks)
    }

    /// Divides the gradient into chunks of at most [`CHUNK`] elements. A single tile of outputs may be
    /// larger.
    fn chunks(&self, layout: &Layout) -> Vec<Chunk> {
        let [groups, outputs, _] = self.blocks();
        let taps = layout.taps.len();
        let fit = |elements: usize| CHUNK / elements.max(1);
        // Split along groups if a whole group fits, else along kernel positions, else along outputs.
        let steps = match (fit(taps * outputs * layout.width), fit(outputs * layout.width)) {
            (0, 0) => [1, 1, fit(TILE * layout.width).max(1) * TILE],
            (0, some) => [1, some, outputs],
            (some, _) => [some, taps, outputs],
        };
        let cut = |n: usize, step: usize| {
            (0..n).step_by(step.max(1)).map(move |i| i..n.min(i + step.max(1)))
        };
        let mut chunks = Vec::new();
        for groups in cut(groups, steps[0]) {
            for taps in cut(taps, steps[1]) {
                chunks.extend(cut(outputs, steps[2]).map(|outputs| Chunk {
                    groups: groups.clone(),
                    taps: taps.clone(),
                    outputs,
                }));
            }
        }
        chunks
    }

    /// The gradients of all samples, `[samples, M, C/g, K…]`.
    ///
    /// # Panics
    /// When the length of a slice does not match the shapes.
    pub fn gradients(&self, x: &[f32], z: &[f32], dw: &mut [f32], parallel: &ParallelFor) {
        assert_eq!(dw.len(), self.samples * self.len(), "elements of the gradients");
        let parts = Parts::new(dw, self.len());
        let (layout, chunks) = self.plan();
        self.each_chunk(&layout, &chunks, x, z, parallel, &|n, i, gradient| {
            parts.with(n, |dw| self.in_order(&chunks[i], gradient, layout.width, dw));
        });
    }

    /// The packed signs of the gradients of all samples, `[samples, `[`Self::signs_len`]`]`. The order
    /// of the elements is unspecified, but the same for all samples.
    ///
    /// # Panics
    /// When the length of a slice does not match the shapes.
    pub fn signs(&self, x: &[f32], z: &[f32], signs: &mut [i32], parallel: &ParallelFor) {
        let len = self.signs_len();
        assert_eq!(signs.len(), self.samples * len, "elements of the signs");
        if let Some(op) = WeightGrad::of(self) {
            assert_eq!(x.len(), self.samples * self.x_len(), "elements of x");
            assert_eq!(z.len(), self.samples * self.z_len(), "elements of z");
            return op.signs(x, z, signs, parallel);
        }
        let parts = Parts::new(signs, len);
        let (layout, chunks) = self.plan();
        let lengths: Vec<usize> = chunks.iter().map(|c| words_len(c.len(&layout))).collect();
        self.each_chunk(&layout, &chunks, x, z, parallel, &|n, i, gradient| {
            parts.with(n, |signs| {
                let Some((flag, words)) = signs.split_last_mut() else { return };
                let first = lengths[..i].iter().sum::<usize>();
                let finite = pack(gradient, &mut words[first..][..lengths[i]]);
                *flag = i32::from((i > 0 && *flag != 0) || !finite);
            });
        });
    }

    /// The length of the packed signs of one sample.
    pub fn signs_len(&self) -> usize {
        if let Some(op) = WeightGrad::of(self) {
            return op.signs_len();
        }
        let (layout, chunks) = self.plan();
        chunks.iter().map(|chunk| words_len(chunk.len(&layout))).sum::<usize>() + 1
    }

    /// Computes the gradient of each sample chunk by chunk, and calls `take` with the sample, the index of
    /// the chunk and its values.
    fn each_chunk(
        &self,
        layout: &Layout,
        chunks: &[Chunk],
        x: &[f32],
        z: &[f32],
        parallel: &ParallelFor,
        take: &(dyn Fn(usize, usize, &[f32]) + Sync),
    ) {
        assert_eq!(x.len(), self.samples * self.x_len(), "elements of x");
        assert_eq!(z.len(), self.samples * self.z_len(), "elements of z");
        let arch = Arch::new();
        let sample = |n: usize| {
            SCRATCH.with_borrow_mut(|[padded, turned, gradient]| {
                let x = &x[n * self.x_len()..][..self.x_len()];
                let z = &z[n * self.z_len()..][..self.z_len()];
                self.spread(layout, x, padded);
                if self.is_depthwise() {
                    channels_last(z, self.groups, layout.width, turned);
                }
                for (i, chunk) in chunks.iter().enumerate() {
                    gradient.resize(chunk.len(layout), 0.0);
                    let out = gradient.as_mut_slice();
                    if self.is_depthwise() {
                        arch.dispatch(Depthwise { layout, chunk, x: padded, z: turned, out });
                    } else {
                        let outputs = self.outputs;
                        arch.dispatch(Tiles { layout, chunk, outputs, x: padded, z, out });
                    }
                    take(n, i, gradient);
                }
            });
        };
        parallel(self.samples, &sample);
    }

    /// Copies a chunk to its position in the gradient `[g·M, C/g, K…]`.
    fn in_order(&self, chunk: &Chunk, gradient: &[f32], width: usize, dw: &mut [f32]) {
        let taps = product(&self.kernel);
        let [_, outputs, channels] = self.blocks();
        for (row, [g, tap, m]) in gradient.chunks_exact(width).zip(chunk.rows()) {
            let to = &mut dw[(g * outputs + m) * channels * taps..][..channels * taps];
            for (c, &v) in row[..channels].iter().enumerate() {
                to[c * taps + tap] = v;
            }
        }
    }
}

/// `[C, O]` as `[O, width]`.
fn channels_last(z: &[f32], channels: usize, width: usize, out: &mut Vec<f32>) {
    let positions = z.len() / channels.max(1);
    out.clear();
    out.resize(positions * width, 0.0);
    for (c, row) in z.chunks_exact(positions.max(1)).enumerate() {
        for (o, &v) in row.iter().enumerate() {
            out[o * width + c] = v;
        }
    }
}

struct Tiles<'a> {
    layout: &'a Layout,
    chunk: &'a Chunk,
    outputs: usize,
    x: &'a [f32],
    z: &'a [f32],
    out: &'a mut [f32],
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
struct Depthwise<'a> {
    layout: &'a Layout,
    chunk: &'a Chunk,
    x: &'a [f32],
    z: &'a [f32],
    out: &'a mut [f32],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Fact, eval};
    use crate::kernel::in_turn;
    use crate::ops::Window;
    use crate::tensor::{DType, Tensor};

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31 + 13) % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// The result of the interpreter for the same convolutions.
    fn expected(op: &ConvWeightGrad, x: &[f32], z: &[f32], pads_end: &[usize]) -> Vec<f64> {
        let window = Window {
            strides: op.strides.clone(),
            dilations: op.dilations.clone(),
            pads_begin: op.pads.clone(),
            pads_end: pads_end.to_vec(),
            groups: op.groups,
        };
        let mut all = Vec::new();
        for n in 0..op.samples {
            let mut b = Builder::default();
            let operand = |channels: usize, spatial: &[usize], values: &[f32]| {
                let shape = [&[1, op.groups * channels], spatial].concat();
                let size = values.len() / op.samples;
                Tensor::f32(&shape, values[n * size..][..size].to_vec()).unwrap()
            };
            let x = operand(op.channels, &op.input, x);
            let z = operand(op.outputs, &op.output, z);
            let (vx, vz) = (b.input("x", Fact::of(&x)), b.input("z", Fact::of(&z)));
            let y = b.conv_weight_grad(vx, vz, &window, &op.kernel).unwrap();
            let y = b.cast(y, DType::F64).unwrap();
            b.output("y", y);
            all.extend(eval(&b.finish(), &[x, z]).unwrap()[0].to_f64().iter());
        }
        all
    }

    fn check(op: &ConvWeightGrad, pads_end: &[usize]) {
        let (x, z) = (noise(op.samples * op.x_len(), 1), noise(op.samples * op.z_len(), 2));
        let want = expected(op, &x, &z, pads_end);
        let mut got = vec![0.0; want.len()];
        op.gradients(&x, &z, &mut got, &in_turn);
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{op:?}: {got} {want}");
        }
        // The order of the signs is unspecified, so compare their inner products.
        let mut signs = vec![0; op.samples * op.signs_len()];
        op.signs(&x, &z, &mut signs, &in_turn);
        let gram = crate::kernel::SignGram { groups: 1, size: op.samples };
        let mut products = vec![0.0; op.samples * op.samples];
        gram.products(&[&signs], &mut products, &in_turn);
        let sign = |v: &f32| if *v == 0.0 { 0.0 } else { f64::from(v.signum()) };
        let rows: Vec<Vec<f64>> =
            got.chunks(op.len()).map(|row| row.iter().map(sign).collect()).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let want: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert_eq!(products[i * op.samples + j], want, "{op:?}");
            }
        }
    }

    /// A 3×3 convolution with padding 1.
    fn square(groups: usize, channels: usize, outputs: usize, size: usize) -> ConvWeightGrad {
        ConvWeightGrad {
            samples: 3,
            groups,
            channels,
            outputs,
            input: vec![size; 2],
            output: vec![size; 2],
            kernel: vec![3; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![1; 2],
        }
    }

    #[test]
    fn every_number_of_channels_and_outputs() {
        for outputs in [1, 2, 5, 6, 7, 13] {
            for channels in [1, 3, 8, 17, 40, 65] {
                check(&square(1, channels, outputs, 4), &[1, 1]);
            }
        }
    }

    #[test]
    fn groups_and_channels_by_themselves() {
        check(&square(2, 3, 4, 3), &[1, 1]);
        check(&square(5, 1, 1, 4), &[1, 1]);
        check(&square(19, 1, 1, 2), &[1, 1]);
        check(&square(3, 1, 2, 3), &[1, 1]);
        check(&square(2, 37, 3, 3), &[1, 1]);
        check(&square(70, 1, 1, 3), &[1, 1]);
    }

    #[test]
    fn gradients_of_several_chunks() {
        let taps = square(1, 70, 130, 2);
        let outputs = ConvWeightGrad {
            input: vec![2],
            output: vec![2],
            kernel: vec![1],
            strides: vec![1],
            dilations: vec![1],
            pads: vec![0],
            ..square(1, 260, 301, 1)
        };
        for (op, pads_end) in [(&taps, &[1, 1][..]), (&outputs, &[0])] {
            assert!(op.chunks(&op.layout(1)).len() > 1);
            check(op, pads_end);
        }
        let groups = square(190, 3, 5, 2);
        assert!(groups.chunks(&groups.layout(16)).len() > 1);
        check(&groups, &[1, 1]);
        // A single value that is not finite is detected in any chunk.
        for at in [0, outputs.z_len() - 1] {
            let (x, mut z) = (noise(3 * outputs.x_len(), 1), noise(3 * outputs.z_len(), 2));
            z[at] = f32::INFINITY;
            let mut signs = vec![0; 3 * outputs.signs_len()];
            outputs.signs(&x, &z, &mut signs, &in_turn);
            let flags = signs.chunks(outputs.signs_len()).map(|row| row[row.len() - 1] != 0);
            assert_eq!(flags.collect::<Vec<_>>(), [true, false, false]);
        }
    }

    #[test]
    fn strides_dilations_and_uneven_padding() {
        let base = square(1, 3, 4, 7);
        let strided = ConvWeightGrad { output: vec![4, 3], strides: vec![2, 3], ..base.clone() };
        check(&strided, &[1, 1]);
        let dilated = ConvWeightGrad { output: vec![5, 3], dilations: vec![2, 3], ..base.clone() };
        check(&dilated, &[1, 1]);
        let pads = vec![0, 2];
        check(&ConvWeightGrad { output: vec![6, 7], pads, ..base.clone() }, &[1, 0]);
        // The kernel does not reach the last rows and columns of the input.
        let short =
            ConvWeightGrad { output: vec![2; 2], strides: vec![4; 2], pads: vec![0; 2], ..base };
        check(&short, &[0, 0]);
    }

    #[test]
    fn lines_and_volumes() {
        let line = ConvWeightGrad {
            input: vec![9],
            output: vec![5],
            kernel: vec![2],
            strides: vec![2],
            dilations: vec![1],
            pads: vec![1],
            ..square(1, 3, 4, 1)
        };
        check(&line, &[0]);
        let volume = ConvWeightGrad {
            input: vec![3, 4, 2],
            output: vec![2, 4, 2],
            kernel: vec![2, 3, 1],
            strides: vec![1; 3],
            dilations: vec![1; 3],
            pads: vec![0, 1, 0],
            ..square(2, 2, 3, 1)
        };
        check(&volume, &[0, 1, 0]);
    }
}
