//! The cell of NAS-Bench-201: four nodes, each of which sums an operation on every node before it.

use std::fmt;

use super::blocks::{conv_norm, factorized_reduce, relu_conv_norm};
use super::network::{Features, Network, Window};

/// What is on an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum CellOp {
    /// `x · 0`.
    None,
    /// `x`.
    Skip,
    /// ReLU, convolution of 1×1, batch norm.
    Conv1,
    /// ReLU, convolution of 3×3, batch norm.
    Conv3,
    /// Average of 3×3.
    Average,
}

impl CellOp {
    /// All, in the order of NAS-Bench-201's code.
    pub const ALL: [CellOp; 5] =
        [CellOp::None, CellOp::Skip, CellOp::Conv1, CellOp::Conv3, CellOp::Average];

    /// Its place in [`CellOp::ALL`].
    pub fn digit(self) -> usize {
        self as usize
    }

    pub fn name(self) -> &'static str {
        match self {
            CellOp::None => "none",
            CellOp::Skip => "skip_connect",
            CellOp::Conv1 => "nor_conv_1x1",
            CellOp::Conv3 => "nor_conv_3x3",
            CellOp::Average => "avg_pool_3x3",
        }
    }

    pub fn named(name: &str) -> Option<CellOp> {
        CellOp::ALL.into_iter().find(|op| op.name() == name)
    }
}

/// The edges by target and source: 1←0, 2←0, 2←1, 3←0, 3←1, 3←2.
pub(super) const EDGES: [(usize, usize); 6] = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)];

/// What is on each edge, in the order of [`EDGES`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cell(pub [CellOp; 6]);

impl Cell {
    /// The cell on `x`. Edges from the input of the cell have the stride and change the width.
    pub fn write(
        self,
        n: &mut Network,
        name: &str,
        x: &Features,
        channels: usize,
        stride: usize,
    ) -> Features {
        let mut nodes = vec![x.clone()];
        for target in 1..4 {
            let mut sum: Option<Features> = None;
            for (op, (_, source)) in self.0.into_iter().zip(EDGES).filter(|(_, e)| e.0 == target) {
                let edge = format!("{name}.{target}.{source}");
                let stride = if source == 0 { stride } else { 1 };
                let y = on_edge(n, &edge, op, &nodes[source], channels, stride);
                sum = Some(match sum {
                    None => y,
                    Some(sum) => n.add(&format!("{edge}.sum"), &sum, &y),
                });
            }
            nodes.extend(sum);
        }
        nodes.remove(nodes.len() - 1)
    }
}

fn on_edge(
    n: &mut Network,
    name: &str,
    op: CellOp,
    x: &Features,
    channels: usize,
    stride: usize,
) -> Features {
    match op {
        CellOp::Conv1 => relu_conv_norm(n, name, x, channels, Window::square(1, stride)),
        CellOp::Conv3 => relu_conv_norm(n, name, x, channels, Window::square(3, stride)),
        CellOp::Skip if stride > 1 => factorized_reduce(n, name, x, channels),
        CellOp::Skip if channels == x.channels => x.clone(),
        CellOp::Skip => conv_norm(n, name, x, channels, Window::square(1, 1)),
        CellOp::Average => n.average_pool(&format!("{name}.pool"), x, Window::square(3, stride)),
        CellOp::None => {
            let x = match stride {
                1 => x.clone(),
                _ => n.subsample(&format!("{name}.subsample"), x, stride),
            };
            let zero = n.zero(&format!("{name}.zero"), &x);
            // Where the width changes, it doubles.
            let copies = vec![zero; channels / x.channels];
            n.concat(&format!("{name}.wide"), &copies)
        }
    }
}

/// As NAS-Bench-201 writes it: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (op, (target, source)) in self.0.into_iter().zip(EDGES) {
            if source == 0 {
                f.write_str(if target == 1 { "|" } else { "+|" })?;
            }
            write!(f, "{}~{source}|", op.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
