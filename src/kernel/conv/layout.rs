//! The padded copy of a sample's `x` that the products read, with the channels last.

use super::ConvWeightGrad;

/// The layout of the padded copy of one sample's `x`, `[g, panel, padded…, channel]`.
pub(super) struct Layout {
    /// Its spatial shape.
    pub padded: Vec<usize>,
    /// Channels of a group, rounded up to whole vectors.
    pub width: usize,
    /// Channels of a panel. The last panel of a group may have fewer.
    pub panel: usize,
    /// The offset of each kernel position, in positions of the padded copy.
    pub taps: Vec<usize>,
    /// The offset of each row of the output, in positions of the padded copy.
    pub rows: Vec<usize>,
    /// Positions in a row of the output.
    pub row: usize,
    /// The distance of neighbouring output positions of a row in the padded copy.
    pub step: usize,
}

impl Layout {
    /// The number of positions of the padded copy.
    pub fn places(&self) -> usize {
        product(&self.padded)
    }

    /// The panels of a group: the first channel and the number of channels of each.
    pub fn panels(&self) -> impl Iterator<Item = (usize, usize)> {
        let first = (0..self.width).step_by(self.panel);
        first.map(|c| (c, self.panel.min(self.width - c)))
    }
}

pub(super) fn product(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl ConvWeightGrad {
    pub(super) fn layout(&self, lanes: usize) -> Layout {
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
    pub(super) fn spread(&self, layout: &Layout, x: &[f32], out: &mut Vec<f32>) {
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
}

/// `[C, O]` as `[O, width]`.
pub(super) fn channels_last(z: &[f32], channels: usize, width: usize, out: &mut Vec<f32>) {
    let positions = z.len() / channels.max(1);
    out.clear();
    out.resize(positions * width, 0.0);
    for (c, row) in z.chunks_exact(positions.max(1)).enumerate() {
        for (o, &v) in row.iter().enumerate() {
            out[o * width + c] = v;
        }
    }
}
