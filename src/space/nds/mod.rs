//! The cell spaces of NDS: DARTS, NASNet, AmoebaNet, ENAS, PNAS, with the networks that I. Radosavovic
//! et al. have trained of them (*On Network Design Spaces for Visual Recognition*, ICCV 2019).

mod genotype;
mod ops;

use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};

use self::genotype::{CellRef, Genotype};
use self::ops::{
    DILATED_3, DILATED_5, DILATED_SEPARABLE_3, Op, SEPARABLE_3, SEPARABLE_5, SEPARABLE_7,
};
use super::blocks::{conv_norm, factorized_reduce, relu_conv_norm};
use super::network::{Features, Init, Network, Window};
use super::{Architecture, BuildOptions, Space, not_indexed};
use crate::error::{Error, Result};
use crate::file;
use crate::onnx::Model;

/// The widths and depths that random networks have.
const WIDTHS: [usize; 3] = [16, 24, 32];
const DEPTHS: [usize; 5] = [4, 8, 12, 16, 20];

/// One of the spaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct CellSpace {
    name: &'static str,
    ops: &'static [Op],
    /// How many nodes a cell has beside its two inputs.
    nodes: usize,
    /// Whether the output joins all nodes, and not only those that no other one reads.
    joins_all: bool,
}

/// DARTS.
pub(super) static DARTS: CellSpace = CellSpace {
    name: "darts",
    ops: &[
        Op::None,
        Op::Max(3),
        Op::Average(3),
        Op::Skip,
        SEPARABLE_3,
        SEPARABLE_5,
        DILATED_3,
        DILATED_5,
    ],
    nodes: 4,
    joins_all: true,
};

/// NASNet.
pub(super) static NASNET: CellSpace = CellSpace {
    name: "nasnet",
    ops: &[
        Op::Skip,
        Op::Factored(3),
        Op::Factored(7),
        DILATED_3,
        Op::Average(3),
        Op::Max(3),
        Op::Max(5),
        Op::Max(7),
        Op::Conv(1),
        Op::Conv(3),
        SEPARABLE_3,
        SEPARABLE_5,
        SEPARABLE_7,
    ],
    nodes: 5,
    joins_all: false,
};

/// AmoebaNet.
pub(super) static AMOEBA: CellSpace = CellSpace {
    name: "amoeba",
    ops: &[
        Op::Skip,
        SEPARABLE_3,
        SEPARABLE_5,
        SEPARABLE_7,
        Op::Average(3),
        Op::Max(3),
        DILATED_SEPARABLE_3,
        Op::Factored(7),
    ],
    nodes: 5,
    joins_all: false,
};

/// ENAS.
pub(super) static ENAS: CellSpace = CellSpace {
    name: "enas",
    ops: &[Op::Skip, SEPARABLE_3, SEPARABLE_5, Op::Average(3), Op::Max(3)],
    nodes: 5,
    joins_all: false,
};

/// PNAS.
pub(super) static PNAS: CellSpace = CellSpace {
    name: "pnas",
    ops: &[
        SEPARABLE_3,
        SEPARABLE_5,
        SEPARABLE_7,
        Op::Factored(7),
        Op::Skip,
        Op::Average(3),
        Op::Max(3),
        DILATED_3,
    ],
    nodes: 5,
    joins_all: true,
};

impl CellSpace {
    /// A random cell: two operations for each node, on any two states before it.
    fn draw_cell(&self, rng: &mut dyn Rng) -> Vec<(Op, usize)> {
        let mut edge = |node: usize| {
            let op = self.ops[rng.random_range(0..self.ops.len())];
            (op, rng.random_range(0..node + 2))
        };
        (0..2 * self.nodes).map(|i| edge(i / 2)).collect()
    }

    /// The states that a cell of these edges joins.
    fn joined(&self, edges: &[(Op, usize)]) -> Vec<usize> {
        let is_read = |state: usize| edges.iter().any(|(_, read)| *read == state);
        (2..self.nodes + 2).filter(|&state| self.joins_all || !is_read(state)).collect()
    }

    fn check(&self, network: genotype::Network) -> Result<genotype::Network, String> {
        if network.width == 0 || network.depth == 0 {
            return Err("its width and depth must be above 0".into());
        }
        network.genotype.normal().check(self.nodes, self.ops)?;
        network.genotype.reduce().check(self.nodes, self.ops)?;
        Ok(network)
    }
}

impl Space for CellSpace {
    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self) -> &'static str {
        "JSON: a record of NDS, or \"genotype\" (\"normal\" and \"reduce\", pairs of an operation and the \
         state that it reads, \"normal_concat\" and \"reduce_concat\"), \"width\" and \"depth\""
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        Err(not_indexed(self, index))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let network = genotype::Network::read(text).and_then(|network| self.check(network));
        match network {
            Ok(network) => Ok(Box::new(OfCells { space: *self, network })),
            Err(why) => Err(Error::Usage(format!(
                "no network of {}: {why}; give {}",
                self.name,
                self.form()
            ))),
        }
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        let (normal, reduce) = (self.draw_cell(rng), self.draw_cell(rng));
        let genotype = Genotype::of(normal, reduce, |edges| self.joined(edges));
        let width = WIDTHS[rng.random_range(0..WIDTHS.len())];
        let depth = DEPTHS[rng.random_range(0..DEPTHS.len())];
        let network = genotype::Network { genotype, width, depth };
        Box::new(OfCells { space: *self, network })
    }
}

/// A network of two kinds of cells.
#[derive(Debug)]
struct OfCells {
    space: CellSpace,
    network: genotype::Network,
}

impl Architecture for OfCells {
    fn space(&self) -> &'static str {
        self.space.name
    }

    /// With the first digits of a digest of the notation, which is too long.
    fn name(&self) -> String {
        let digest = file::hex(Sha256::new_with_prefix(self.notation()));
        format!("{}-{}", self.space.name, &digest[..12])
    }

    fn notation(&self) -> String {
        serde_json::json!(self.network).to_string()
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&self.space, 1)?;
        let genotype::Network { genotype, width, depth } = &self.network;
        let (mut n, x) = Network::new(options, Init::PyTorch);
        let stem = conv_norm(&mut n, "stem", &x, 3 * width, Window::square(3, 1));
        let mut states = [stem.clone(), stem];
        let (mut channels, mut was_reduced) = (*width, false);
        for i in 0..*depth {
            let reduces = [depth / 3, 2 * depth / 3].contains(&i);
            let cell = if reduces { genotype.reduce() } else { genotype.normal() };
            channels = if reduces { 2 * channels } else { channels };
            let name = format!("cell{i}");
            let preprocessed = preprocess(&mut n, &name, &states, channels, was_reduced);
            let y = write(&mut n, &name, cell, preprocessed, if reduces { 2 } else { 1 });
            let [_, last] = states;
            (states, was_reduced) = ([last, y], reduces);
        }
        Ok(n.classify(&states[1], self))
    }
}

/// The results of the last two cells, in the width of this one. Where the last one has halved rows and
/// columns, those of the one before it are halved, too.
fn preprocess(
    n: &mut Network,
    name: &str,
    [before, last]: &[Features; 2],
    channels: usize,
    was_reduced: bool,
) -> Vec<Features> {
    let (first, second) = (format!("{name}.preprocess0"), format!("{name}.preprocess1"));
    let one = Window::square(1, 1);
    let before = match was_reduced {
        true => factorized_reduce(n, &first, before, channels),
        false => relu_conv_norm(n, &first, before, channels, one),
    };
    vec![before, relu_conv_norm(n, &second, last, channels, one)]
}

/// A cell on two states. Edges from these have the stride.
fn write(
    n: &mut Network,
    name: &str,
    cell: CellRef,
    mut states: Vec<Features>,
    stride: usize,
) -> Features {
    for (node, edges) in (2..).zip(cell.edges.chunks(2)) {
        let mut sum: Option<Features> = None;
        for (i, (op, state)) in edges.iter().enumerate() {
            let stride = if *state < 2 { stride } else { 1 };
            let y = op.write(n, &format!("{name}.node{node}.{i}"), &states[*state], stride);
            sum = Some(match sum {
                None => y,
                Some(sum) => n.add(&format!("{name}.node{node}"), &sum, &y),
            });
        }
        states.extend(sum);
    }
    let joined: Vec<Features> = cell.concat.iter().map(|&state| states[state].clone()).collect();
    n.concat(&format!("{name}.output"), &joined)
}

#[cfg(test)]
mod tests;
