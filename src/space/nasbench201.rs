//! NAS-Bench-201: cells of four nodes with one of five operations on each of six edges.
//!
//! X. Dong, Y. Yang: *NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search*,
//! ICLR 2020.

use std::sync::OnceLock;

use rand::{Rng, RngExt};

use super::blocks::{conv_norm, residual};
use super::cell::{Cell, CellOp, EDGES};
use super::network::{Features, Init, Network, Window};
use super::shuffle::shuffled;
use super::{Architecture, BuildOptions, Space, code_of, digits, not_indexed};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// How many cells there are: 5⁶.
const COUNT: usize = 15_625;

/// The seed by which the benchmark's authors have shuffled the cells.
const SEED: u32 = 88;

/// Channels of the first stage, and how many cells a stage has.
const WIDTH: usize = 16;
const CELLS: usize = 5;

/// The space.
pub(super) struct NasBench201;

impl Space for NasBench201 {
    fn name(&self) -> &'static str {
        "nasbench201"
    }

    fn form(&self) -> &'static str {
        "|op~0|+|op~0|op~1|+|op~0|op~1|op~2| with the operations none, skip_connect, nor_conv_1x1, \
         nor_conv_3x3, avg_pool_3x3"
    }

    fn order(&self) -> Option<&'static str> {
        Some("the benchmark's own")
    }

    fn size(&self) -> Option<usize> {
        Some(COUNT)
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        let code = order().get(index).map(|&code| usize::from(code));
        let ops = code.and_then(|code| digits(code, CellOp::ALL.len()));
        let ops = ops.ok_or_else(|| not_indexed(self, index))?;
        Ok(Box::new(Net(Cell(ops.map(|op| CellOp::ALL[op])))))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let cell = cell(text).ok_or_else(|| {
            Error::Usage(format!("'{text}' is no cell of nasbench201: give {}", self.form()))
        })?;
        Ok(Box::new(Net(cell)))
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        let ops = std::array::from_fn(|_| CellOp::ALL[rng.random_range(0..CellOp::ALL.len())]);
        Box::new(Net(Cell(ops)))
    }
}

/// A network of the space.
#[derive(Debug)]
struct Net(Cell);

impl Architecture for Net {
    fn space(&self) -> &'static str {
        NasBench201.name()
    }

    fn name(&self) -> String {
        let code = code(self.0);
        let index = order().iter().position(|&other| usize::from(other) == code);
        format!("{}-{}", self.space(), index.unwrap_or(code))
    }

    fn notation(&self) -> String {
        self.0.to_string()
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&NasBench201, 4)?;
        let (mut n, x) = Network::new(options, Init::PyTorch);
        let mut x = conv_norm(&mut n, "stem", &x, WIDTH, Window::square(3, 1));
        for stage in 0..3 {
            if stage > 0 {
                x = reduction(&mut n, &format!("reduce{stage}"), &x, WIDTH << stage);
            }
            for i in 0..CELLS {
                let name = format!("stage{stage}.cell{i}");
                x = self.0.write(&mut n, &name, &x, WIDTH << stage, 1);
            }
        }
        Ok(end(n, &x, self))
    }
}

/// The residual block between stages: half the rows and columns, by an average on the shortcut.
pub(super) fn reduction(n: &mut Network, name: &str, x: &Features, channels: usize) -> Features {
    residual(n, name, x, channels, 2, |n, x| {
        let x = n.average_pool(&format!("{name}.pool"), x, Window::square(2, 2));
        n.conv(&format!("{name}.shortcut"), &x, channels, Window::square(1, 1))
    })
}

/// What comes after the last cell.
pub(super) fn end(mut n: Network, x: &Features, of: &dyn Architecture) -> Model {
    let x = n.norm("last.norm", x);
    let x = n.relu("last.relu", &x);
    n.classify(&x, of)
}

/// The codes of all cells in the order of the benchmark's indices: its authors list all cells, the last
/// edge changing fastest, and shuffle the list by Python's `random`, seeded with 88.
fn order() -> &'static [u16] {
    static ORDER: OnceLock<Vec<u16>> = OnceLock::new();
    ORDER.get_or_init(|| shuffled(COUNT as u16, SEED))
}

/// The place of a cell in the list of all, before it is shuffled.
fn code(cell: Cell) -> usize {
    code_of(cell.0.map(CellOp::digit), CellOp::ALL.len())
}

fn cell(text: &str) -> Option<Cell> {
    let mut ops = [CellOp::None; 6];
    let mut edges = ops.iter_mut().zip(EDGES);
    for (node, edges_in) in text.split('+').enumerate() {
        let inner = edges_in.strip_prefix('|')?.strip_suffix('|')?;
        for edge in inner.split('|') {
            let (op, source) = edge.split_once('~')?;
            let (slot, (target, known)) = edges.next()?;
            if target != node + 1 || source.parse() != Ok(known) {
                return None;
            }
            *slot = CellOp::named(op)?;
        }
    }
    edges.next().is_none().then_some(Cell(ops))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::parameters;

    /// The parameters of a network with so many convolutions in a cell.
    fn formula(conv3: u64, conv1: u64, classes: u64) -> u64 {
        let cells = [16, 32, 64].map(|c| conv3 * (9 * c * c + 2 * c) + conv1 * (c * c + 2 * c));
        let blocks = [(16, 32), (32, 64)].map(|(i, o)| 10 * i * o + 9 * o * o + 4 * o);
        464 + 5 * cells.iter().sum::<u64>() + blocks.iter().sum::<u64>() + 128 + 65 * classes
    }

    #[test]
    fn parameters_are_those_of_the_formula() {
        for index in [0, 1, 1462, 6111, 12_026, 15_624] {
            let architecture = NasBench201.nth(index).unwrap();
            let count = |op: &str| architecture.notation().matches(op).count() as u64;
            for (classes, image_size) in [(10, 32), (120, 16)] {
                let options = BuildOptions { classes, image_size, ..BuildOptions::default() };
                let model = architecture.build(&options).unwrap();
                let wanted = formula(count("3x3~") - count("avg"), count("1x1"), classes as u64);
                assert_eq!(parameters(&model), wanted, "{index}");
            }
        }
    }

    #[test]
    fn the_order_is_that_of_the_benchmark() {
        // These are asserted by the code that has made the benchmark.
        for (index, text) in [
            (
                0,
                "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
            ),
            (9, "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"),
            (
                123,
                "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
            ),
        ] {
            assert_eq!(NasBench201.nth(index).unwrap().notation(), text);
            assert_eq!(NasBench201.parse(text).unwrap().name(), format!("nasbench201-{index}"));
        }
        assert!(NasBench201.nth(COUNT).is_err());
        let mut codes = order().to_vec();
        codes.sort_unstable();
        assert!(codes.into_iter().eq(0..COUNT as u16));
    }

    #[test]
    fn other_notations_are_refused() {
        let good = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|";
        assert!(NasBench201.parse(good).is_ok());
        for (from, to) in [
            ("none~2", "none~1"),
            ("none~2|", "none~2"),
            ("+|none~0|none~1|none~2|", ""),
            ("|none~2|", "|"),
            ("|none~2|", "|none~2|none~3|"),
            ("none~2", "max_pool~2"),
            ("+", "|"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(NasBench201.parse(&text).is_err(), "{text}");
        }
    }
}
