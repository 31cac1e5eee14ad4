//! TransNAS-Bench-101: chains of residual layers, and cells on a fixed chain.
//!
//! Y. Duan et al.: *TransNAS-Bench-101: Improving Transferability and Generalizability of Cross-Task
//! Neural Architecture Search*, CVPR 2021. The networks are those of its classification tasks.

use std::sync::OnceLock;

use rand::{Rng, RngExt};

use super::blocks::{conv_norm, relu_conv_norm, residual};
use super::cell::{Cell, CellOp};
use super::network::{Features, Init, Network, Window};
use super::{Architecture, BuildOptions, Space, digits, not_indexed};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// What notations begin with: the width before the first layer.
const WIDTH: &str = "64";

/// Types of layers: 2 and 4 double the width, 3 and 4 have a stride of 2.
const TYPES: [usize; 4] = [1, 2, 3, 4];

/// The layers of a network of cells.
const MICRO: [usize; 5] = [4, 1, 4, 1, 4];

/// The most layers of a chain.
const MOST: usize = 6;

/// Operations of cells: none, skip, 1×1, 3×3.
const OPS: usize = 4;

/// Chains of residual layers.
pub(super) struct Macro;

/// Cells on a fixed chain.
pub(super) struct Micro;

impl Space for Macro {
    fn name(&self) -> &'static str {
        "transnas101-macro"
    }

    fn form(&self) -> &'static str {
        "64-LAYERS-basic with up to six digits from 1 to 4, a layer each: 2 and 4 double the width, 3 and \
         4 halve rows and columns; such as 64-1114-basic"
    }

    fn order(&self) -> Option<&'static str> {
        Some(
            "that of the digits, shorter chains first, of the 3,256 of four to six layers that halve \
             one to four times and double one to three times",
        )
    }

    fn size(&self) -> Option<usize> {
        Some(chains().len())
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        let layers = chains().get(index).ok_or_else(|| not_indexed(self, index))?;
        Ok(Box::new(Chain(layers.clone())))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let layers = || {
            let layers = text.strip_prefix(WIDTH)?.strip_prefix('-')?.strip_suffix("-basic")?;
            let layers: Option<Vec<usize>> = layers.chars().map(layer).collect();
            layers.filter(|layers| (1..=MOST).contains(&layers.len()))
        };
        let layers = layers().ok_or_else(|| refused(self, text))?;
        Ok(Box::new(Chain(layers)))
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        Box::new(Chain(chains()[rng.random_range(0..chains().len())].clone()))
    }
}

impl Space for Micro {
    fn name(&self) -> &'static str {
        "transnas101-micro"
    }

    fn form(&self) -> &'static str {
        "64-41414-a_bc_def with what is on the edges 1←0, 2←0, 2←1, 3←0, 3←1, 3←2 of a cell: 0 nothing, \
         1 skip, 2 convolution of 1x1, 3 of 3x3; such as 64-41414-3_02_022"
    }

    fn order(&self) -> Option<&'static str> {
        Some("that of the digits, from 0_00_000 to 3_33_333")
    }

    fn size(&self) -> Option<usize> {
        Some(OPS.pow(6))
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        let ops = digits(index, OPS).ok_or_else(|| not_indexed(self, index))?;
        Ok(Box::new(OfCells(Cell(ops.map(|op| CellOp::ALL[op])))))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let cell = || {
            let cell = text.strip_prefix(WIDTH)?.strip_prefix("-41414-")?;
            let [a, '_', b, c, '_', d, e, f] = cell.chars().collect::<Vec<_>>()[..] else {
                return None;
            };
            let op = |c: char| c.to_digit(OPS as u32).map(|digit| CellOp::ALL[digit as usize]);
            let ops: Option<Vec<CellOp>> = [a, b, c, d, e, f].into_iter().map(op).collect();
            ops?.try_into().ok().map(Cell)
        };
        Ok(Box::new(OfCells(cell().ok_or_else(|| refused(self, text))?)))
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        let ops = std::array::from_fn(|_| CellOp::ALL[rng.random_range(0..OPS)]);
        Box::new(OfCells(Cell(ops)))
    }
}

fn refused(space: &dyn Space, text: &str) -> Error {
    let (name, form) = (space.name(), space.form());
    Error::Usage(format!("'{text}' is no architecture of {name}: give {form}"))
}

fn layer(digit: char) -> Option<usize> {
    digit.to_digit(10).map(|digit| digit as usize).filter(|layer| TYPES.contains(layer))
}

fn doubles(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

fn halves(layer: usize) -> bool {
    layer > 2
}

/// The chains of the benchmark.
fn chains() -> &'static [Vec<usize>] {
    static CHAINS: OnceLock<Vec<Vec<usize>>> = OnceLock::new();
    CHAINS.get_or_init(|| {
        let (mut all, mut longer) = (Vec::new(), vec![Vec::new()]);
        for length in 1..=MOST {
            let longer_by = |chain: &Vec<usize>| TYPES.map(|t| [chain.as_slice(), &[t]].concat());
            longer = longer.iter().flat_map(longer_by).collect();
            if length >= 4 {
                all.extend(longer.iter().filter(|chain| is_benchmarked(chain)).cloned());
            }
        }
        all
    })
}

fn is_benchmarked(chain: &[usize]) -> bool {
    let halved = chain.iter().filter(|&&layer| halves(layer)).count();
    let doubled = chain.iter().filter(|&&layer| doubles(layer)).count();
    (1..=4).contains(&halved) && (1..=3).contains(&doubled)
}

/// A chain of layers by their types.
#[derive(Debug)]
struct Chain(Vec<usize>);

impl Architecture for Chain {
    fn space(&self) -> &'static str {
        Macro.name()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.space(), self.notation())
    }

    fn notation(&self) -> String {
        let layers: String = self.0.iter().map(ToString::to_string).collect();
        format!("{WIDTH}-{layers}-basic")
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&Macro, 1)?;
        Ok(chain(options, &self.0, self, |n, name, x, channels, stride| {
            residual(n, name, x, channels, stride, |n, x| {
                match stride == 1 && channels == x.channels {
                    true => x.clone(),
                    false => {
                        let shortcut = format!("{name}.shortcut");
                        conv_norm(n, &shortcut, x, channels, Window::square(1, stride))
                    }
                }
            })
        }))
    }
}

/// A network of one cell, over and over.
#[derive(Debug)]
struct OfCells(Cell);

impl Architecture for OfCells {
    fn space(&self) -> &'static str {
        Micro.name()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.space(), self.notation())
    }

    fn notation(&self) -> String {
        let [a, b, c, d, e, f] = self.0.0.map(CellOp::digit);
        format!("{WIDTH}-41414-{a}_{b}{c}_{d}{e}{f}")
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&Micro, 1)?;
        Ok(chain(options, &MICRO, self, |n, name, x, channels, stride| {
            self.0.write(n, name, x, channels, stride)
        }))
    }
}

/// A network of `layers`, each of two of what `block` writes; the first has the layer's stride and
/// changes the width.
fn chain(
    options: &BuildOptions,
    layers: &[usize],
    of: &dyn Architecture,
    block: impl Fn(&mut Network, &str, &Features, usize, usize) -> Features,
) -> Model {
    let (mut n, x) = Network::new(options, Init::PyTorch);
    let x = conv_norm(&mut n, "stem.a", &x, 32, Window::square(3, 2));
    let mut x = relu_conv_norm(&mut n, "stem.b", &x, 64, Window::square(3, 2));
    for (i, &layer) in layers.iter().enumerate() {
        let channels = if doubles(layer) { 2 * x.channels } else { x.channels };
        let stride = if halves(layer) { 2 } else { 1 };
        x = block(&mut n, &format!("layer{i}.0"), &x, channels, stride);
        x = block(&mut n, &format!("layer{i}.1"), &x, channels, 1);
    }
    n.classify(&x, of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::parameters;

    fn conv(k: usize, i: usize, o: usize) -> usize {
        k * k * i * o + 2 * o
    }

    /// The stem, and the head over `width` channels.
    fn ends(width: usize) -> usize {
        conv(3, 3, 32) + conv(3, 32, 64) + (width + 1) * 10
    }

    #[test]
    fn parameters_of_chains_are_those_of_the_formula() {
        for text in ["64-1114-basic", "64-141412-basic", "64-332-basic", "64-2222-basic"] {
            let (mut wanted, mut from) = (0, 64);
            for layer in text.split('-').nth(1).unwrap().chars() {
                let to = if layer == '2' || layer == '4' { 2 * from } else { from };
                let shortcut = if layer == '1' { 0 } else { conv(1, from, to) };
                wanted += conv(3, from, to) + 3 * conv(3, to, to) + shortcut;
                from = to;
            }
            let model = Macro.parse(text).unwrap().build(&BuildOptions::default()).unwrap();
            assert_eq!(parameters(&model), (wanted + ends(from)) as u64, "{text}");
        }
    }

    #[test]
    fn parameters_of_cells_are_those_of_the_formula() {
        for text in ["64-41414-3_02_022", "64-41414-2_11_302", "64-41414-0_00_000"] {
            let ops: Vec<char> = text[9..].chars().filter(|&c| c != '_').collect();
            let (mut wanted, mut from) = (0, 64);
            for layer in MICRO {
                let to = if layer == 4 { 2 * from } else { from };
                for (width, stride) in [(from, if layer == 4 { 2 } else { 1 }), (to, 1)] {
                    for (edge, op) in ops.iter().enumerate() {
                        let of_input = [0, 1, 3].contains(&edge);
                        let i = if of_input { width } else { to };
                        wanted += match op {
                            '2' => conv(1, i, to),
                            '3' => conv(3, i, to),
                            '1' if of_input && stride == 2 => conv(1, i, to),
                            _ => 0,
                        };
                    }
                }
                from = to;
            }
            let model = Micro.parse(text).unwrap().build(&BuildOptions::default()).unwrap();
            assert_eq!(parameters(&model), (wanted + ends(from)) as u64, "{text}");
        }
    }

    #[test]
    fn orders_hold_what_the_benchmark_does() {
        assert_eq!((Macro.size(), Micro.size()), (Some(3256), Some(4096)));
        assert_eq!(Macro.nth(0).unwrap().notation(), "64-1114-basic");
        assert_eq!(Micro.nth(4095).unwrap().name(), "transnas101-micro-64-41414-3_33_333");
        assert!(Macro.nth(3256).is_err() && Micro.nth(4096).is_err());
        for text in ["64-1115-basic", "64--basic", "32-1114-basic", "64-1114", "64-1111111-basic"] {
            assert!(Macro.parse(text).is_err(), "{text}");
        }
        for text in ["64-41414-3_02_02", "64-41414-4_02_022", "64-41414-30_2_022", "3_02_022"] {
            assert!(Micro.parse(text).is_err(), "{text}");
        }
    }
}
