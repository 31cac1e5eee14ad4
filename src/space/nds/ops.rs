//! The operations of the five spaces.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::space::blocks::{factorized_reduce, relu_conv_norm};
use crate::space::network::{Features, Network, Window};

/// What is between two states of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Op {
    /// `x · 0`.
    None,
    /// `x`; with a stride, a reduction by two convolutions.
    Skip,
    /// Average, without batch norm.
    Average(usize),
    /// Maximum, without batch norm.
    Max(usize),
    /// ReLU, convolution, batch norm.
    Conv(usize),
    /// ReLU, depthwise convolution, convolution of 1×1, batch norm; so many times.
    Separable { size: usize, dilation: usize, times: usize },
    /// ReLU, convolution of 1×k, of k×1, batch norm.
    Factored(usize),
}

pub(super) const SEPARABLE_3: Op = Op::Separable { size: 3, dilation: 1, times: 2 };
pub(super) const SEPARABLE_5: Op = Op::Separable { size: 5, dilation: 1, times: 2 };
pub(super) const SEPARABLE_7: Op = Op::Separable { size: 7, dilation: 1, times: 2 };
pub(super) const DILATED_3: Op = Op::Separable { size: 3, dilation: 2, times: 1 };
pub(super) const DILATED_5: Op = Op::Separable { size: 5, dilation: 2, times: 1 };
pub(super) const DILATED_SEPARABLE_3: Op = Op::Separable { size: 3, dilation: 2, times: 2 };

/// All, as genotypes call them.
pub(super) const NAMES: [(&str, Op); 16] = [
    ("none", Op::None),
    ("skip_connect", Op::Skip),
    ("avg_pool_3x3", Op::Average(3)),
    ("max_pool_3x3", Op::Max(3)),
    ("max_pool_5x5", Op::Max(5)),
    ("max_pool_7x7", Op::Max(7)),
    ("conv_1x1", Op::Conv(1)),
    ("conv_3x3", Op::Conv(3)),
    ("sep_conv_3x3", SEPARABLE_3),
    ("sep_conv_5x5", SEPARABLE_5),
    ("sep_conv_7x7", SEPARABLE_7),
    ("dil_conv_3x3", DILATED_3),
    ("dil_conv_5x5", DILATED_5),
    ("dil_sep_conv_3x3", DILATED_SEPARABLE_3),
    ("conv_3x1_1x3", Op::Factored(3)),
    ("conv_7x1_1x7", Op::Factored(7)),
];

impl TryFrom<String> for Op {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, op)| *op).ok_or_else(|| format!("there is no operation \"{name}\""))
    }
}

impl From<Op> for String {
    fn from(op: Op) -> Self {
        op.to_string()
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, op)| op == self).map_or("", |(name, _)| name))
    }
}

impl Op {
    /// The operation on `x`, whose width it keeps.
    pub fn write(self, n: &mut Network, name: &str, x: &Features, stride: usize) -> Features {
        match self {
            Op::None => {
                let x = match stride {
                    1 => x.clone(),
                    _ => n.subsample(&format!("{name}.subsample"), x, stride),
                };
                n.zero(name, &x)
            }
            Op::Skip if stride == 1 => x.clone(),
            Op::Skip => factorized_reduce(n, name, x, x.channels),
            Op::Average(size) => n.average_pool(name, x, Window::square(size, stride)),
            Op::Max(size) => n.max_pool(name, x, Window::square(size, stride)),
            Op::Conv(size) => relu_conv_norm(n, name, x, x.channels, Window::square(size, stride)),
            Op::Separable { size, dilation, times } => {
                let mut y = x.clone();
                for i in 0..times {
                    let stride = if i == 0 { stride } else { 1 };
                    let window = Window::square(size, stride).dilated(dilation);
                    y = separated(n, &format!("{name}.{i}"), &y, window);
                }
                y
            }
            Op::Factored(size) => {
                let window = |rows, columns, by_rows, by_columns| Window {
                    size: [rows, columns],
                    stride: [by_rows, by_columns],
                    dilation: 1,
                };
                let x = n.relu(&format!("{name}.relu"), x);
                let (channels, row) = (x.channels, window(1, size, 1, stride));
                let y = n.conv(&format!("{name}.row"), &x, channels, row);
                let column = window(size, 1, stride, 1);
                let y = n.conv(&format!("{name}.column"), &y, channels, column);
                n.norm(&format!("{name}.norm"), &y)
            }
        }
    }
}

/// ReLU, a convolution of each channel, a convolution of 1×1, batch norm.
fn separated(n: &mut Network, name: &str, x: &Features, window: Window) -> Features {
    let x = n.relu(&format!("{name}.relu"), x);
    let y = n.depthwise_conv(&format!("{name}.depthwise"), &x, window);
    let y = n.conv(&format!("{name}.pointwise"), &y, x.channels, Window::square(1, 1));
    n.norm(&format!("{name}.norm"), &y)
}
