//! How a kernel moves over its input.

use crate::error::{Error, Result};
use crate::ops::Attr;

/// How a kernel moves over its input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Step along each spatial axis.
    pub strides: Vec<usize>,
    /// Distance of neighbouring kernel positions along each spatial axis.
    pub dilations: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads_begin: Vec<usize>,
    /// Zeros after each spatial axis.
    pub pads_end: Vec<usize>,
    /// Channels are cut into so many groups that do not mix.
    pub groups: usize,
}

impl Window {
    /// Steps of one over `rank` axes, without padding or groups.
    pub fn plain(rank: usize) -> Self {
        Window {
            strides: vec![1; rank],
            dilations: vec![1; rank],
            pads_begin: vec![0; rank],
            pads_end: vec![0; rank],
            groups: 1,
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.strides.len()
    }

    /// Whether zeros stand around the operand.
    pub(crate) fn is_padded(&self) -> bool {
        self.pads_begin.iter().chain(&self.pads_end).any(|&pad| pad > 0)
    }

    /// Whether a kernel of spatial shape `kernel` mixes the channels at each position by itself.
    pub(crate) fn is_pointwise(&self, kernel: &[usize]) -> bool {
        self.groups == 1
            && self.is_unit_stride()
            && kernel.iter().all(|&k| k == 1)
            && !self.is_padded()
    }

    /// Positions that a kernel of `kernel` elements covers along axis `i`.
    pub(super) fn reach(&self, i: usize, kernel: usize) -> usize {
        self.dilations[i] * kernel.saturating_sub(1) + 1
    }

    /// The spatial shape of the result for an input of spatial shape `spatial`.
    pub(super) fn output(&self, spatial: &[usize], kernel: &[usize]) -> Result<Vec<usize>> {
        (0..self.rank())
            .map(|i| {
                let padded = spatial[i] + self.pads_begin[i] + self.pads_end[i];
                match padded.checked_sub(self.reach(i, kernel[i])) {
                    Some(room) => Ok(room / self.strides[i] + 1),
                    None => Err(Error::Shape(format!(
                        "a kernel of {kernel:?} does not fit into {spatial:?} ({self:?})"
                    ))),
                }
            })
            .collect()
    }

    pub(crate) fn is_unit_stride(&self) -> bool {
        self.strides.iter().all(|&s| s == 1)
    }

    pub(super) fn attrs(&self, kernel: &[usize]) -> Vec<(&'static str, Attr)> {
        let pads = [self.pads_begin.as_slice(), &self.pads_end].concat();
        vec![
            ("kernel_shape", Attr::from(kernel)),
            ("strides", Attr::from(self.strides.as_slice())),
            ("dilations", Attr::from(self.dilations.as_slice())),
            ("pads", Attr::from(pads.as_slice())),
            ("group", Attr::Int(self.groups as i64)),
        ]
    }

    pub(super) fn with_groups(&self, groups: usize) -> Window {
        Window { groups, ..self.clone() }
    }
}
