//! The size search space of NAS-Bench: one cell, with five widths to choose.
//!
//! X. Dong, L. Liu, K. Musial, B. Gabrys: *NATS-Bench: Benchmarking NAS Algorithms for Architecture
//! Topology and Size*, 2021.

use rand::{Rng, RngExt};

use super::blocks::conv_norm;
use super::cell::{Cell, CellOp};
use super::nasbench201::{end, reduction};
use super::network::{Init, Network, Window};
use super::{Architecture, BuildOptions, Space, code_of, digits, not_indexed};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// How many widths there are for each of the five layers: 8, 16, …, 64.
const WIDTHS: usize = 8;
const STEP: usize = 8;
const LAYERS: usize = 5;

/// The space.
pub(super) struct NatsBenchSize;

impl Space for NatsBenchSize {
    fn name(&self) -> &'static str {
        "natsbench-size"
    }

    fn form(&self) -> &'static str {
        "c0:c1:c2:c3:c4, five widths of 8, 16, …, 64 channels, such as 8:8:8:16:40"
    }

    fn order(&self) -> Option<&'static str> {
        Some("the benchmark's own, in which the last width changes fastest")
    }

    fn size(&self) -> Option<usize> {
        Some(WIDTHS.pow(LAYERS as u32))
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        let steps = digits(index, WIDTHS).ok_or_else(|| not_indexed(self, index))?;
        Ok(Box::new(Widths(steps.map(|step| (step + 1) * STEP))))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let widths: Option<Vec<usize>> = text.split(':').map(|width| width.parse().ok()).collect();
        let is_known = |&width: &usize| width % STEP == 0 && (1..=WIDTHS).contains(&(width / STEP));
        let widths = widths.filter(|widths| widths.iter().all(is_known));
        match widths.and_then(|widths| widths.try_into().ok()) {
            Some(widths) => Ok(Box::new(Widths(widths))),
            None => Err(Error::Usage(format!(
                "'{text}' is no architecture of {}: give {}",
                self.name(),
                self.form()
            ))),
        }
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        Box::new(Widths(std::array::from_fn(|_| rng.random_range(1..=WIDTHS) * STEP)))
    }
}

/// The channels of the layers.
#[derive(Debug)]
struct Widths([usize; LAYERS]);

/// The cell of all networks.
const CELL: Cell =
    Cell([CellOp::Conv3, CellOp::Conv3, CellOp::Conv3, CellOp::Skip, CellOp::Conv3, CellOp::Conv3]);

impl Architecture for Widths {
    fn space(&self) -> &'static str {
        NatsBenchSize.name()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.space(), code_of(self.0.map(|width| width / STEP - 1), WIDTHS))
    }

    fn notation(&self) -> String {
        self.0.map(|width| width.to_string()).join(":")
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&NatsBenchSize, 4)?;
        let (mut n, x) = Network::new(options, Init::PyTorch);
        let mut x = conv_norm(&mut n, "stem", &x, self.0[0], Window::square(3, 1));
        for (i, width) in self.0.into_iter().enumerate() {
            x = match i % 2 {
                0 => CELL.write(&mut n, &format!("cell{i}"), &x, width, 1),
                _ => reduction(&mut n, &format!("reduce{i}"), &x, width),
            };
        }
        Ok(end(n, &x, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::parameters;

    #[test]
    fn parameters_are_those_of_the_formula() {
        for index in [0, 12, 32_767, 4_711] {
            let architecture = NatsBenchSize.nth(index).unwrap();
            let widths: Vec<usize> =
                architecture.notation().split(':').map(|w| w.parse().unwrap()).collect();
            let conv3 = |i: usize, o: usize| 9 * i * o + 2 * o;
            let mut wanted = conv3(3, widths[0]);
            let mut from = widths[0];
            for (i, &to) in widths.iter().enumerate() {
                wanted += match i % 2 {
                    // Two 3×3 from the input, three between nodes, and the skip if it changes width.
                    0 => {
                        let skip = if from == to { 0 } else { from * to + 2 * to };
                        2 * conv3(from, to) + 3 * conv3(to, to) + skip
                    }
                    _ => conv3(from, to) + conv3(to, to) + from * to,
                };
                from = to;
            }
            wanted += 2 * from + (from + 1) * 10;
            let model = architecture.build(&BuildOptions::default()).unwrap();
            assert_eq!(parameters(&model), wanted as u64, "{architecture:?}");
        }
    }

    #[test]
    fn the_index_is_that_of_the_benchmark() {
        let architecture = NatsBenchSize.nth(12).unwrap();
        assert_eq!(architecture.notation(), "8:8:8:16:40");
        assert_eq!(architecture.name(), "natsbench-size-12");
        assert!(NatsBenchSize.nth(32_768).is_err());
        for text in ["8:8:8:8", "8:8:8:8:8:8", "8:8:8:8:12", "8:8:8:8:72", "8:8:8:8:0", ""] {
            assert!(NatsBenchSize.parse(text).is_err(), "{text}");
        }
    }
}
