//! The per-sample gradient of a convolution with respect to its kernel.
//!
//! `x` is zero-padded and laid out with the channels last, so that each kernel position reads the same
//! data at an offset. Each position is a product of the cotangent `[M, O]` with rows of `x` `[O, C]`,
//! read in place without unfolding. A tile of outputs × channels stays in registers during the loop over
//! output positions. The channels are divided into panels as wide as a tile, stored one after the other,
//! so that a tile reads contiguous memory for any number of channels.

mod layout;
#[cfg(test)]
mod tests;
mod tiles;

use std::cell::RefCell;
use std::ops::Range;

use pulp::Arch;

use self::layout::{Layout, channels_last, product};
use self::tiles::{Depthwise, Tiles};
use super::gram::{pack, words_len};
use super::simd::Lanes;
use super::winograd::WeightGrad;
use super::{ParallelFor, Parts};

/// The number of outputs in a tile. With two vectors of channels there are twelve accumulators, which
/// hide the latency of multiply-add and leave registers for the operands.
const TILE: usize = 6;

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
