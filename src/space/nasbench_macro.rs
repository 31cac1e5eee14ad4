//! NAS-Bench-Macro: eight layers, each of one of three kinds.
//!
//! X. Su et al.: *Prioritized Architecture Sampling with Monto-Carlo Tree Search*, CVPR 2021.

use rand::{Rng, RngExt};

use super::blocks::{conv_norm, conv_norm_relu};
use super::network::{Features, Init, Network, Window};
use super::{Architecture, BuildOptions, Space, digits, not_indexed};
use crate::error::{Error, Result};
use crate::onnx::Model;

/// Kinds of layers: what keeps the input, an inverted residual of 3×3 that widens by 3, and one of
/// 5×5 that widens by 6.
const KINDS: usize = 3;

const LAYERS: usize = 8;
const STEM: usize = 32;

/// The layers that begin a stage. They double the width and have a stride of 2.
const FIRST: [usize; 3] = [0, 2, 5];

const LAST_WIDTH: usize = 1280;

/// The space.
pub(super) struct NasBenchMacro;

impl Space for NasBenchMacro {
    fn name(&self) -> &'static str {
        "nasbench-macro"
    }

    fn form(&self) -> &'static str {
        "eight digits, a layer each: 0 for what keeps the input, 1 for an inverted residual of 3x3 that \
         widens by 3, 2 for one of 5x5 that widens by 6; such as 00102112"
    }

    fn order(&self) -> Option<&'static str> {
        Some("that of the digits, from 00000000 to 22222222")
    }

    fn size(&self) -> Option<usize> {
        Some(KINDS.pow(LAYERS as u32))
    }

    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>> {
        let layers = digits(index, KINDS).ok_or_else(|| not_indexed(self, index))?;
        Ok(Box::new(Layers(layers)))
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Architecture>> {
        let kind = |c: char| c.to_digit(KINDS as u32).map(|kind| kind as usize);
        let layers: Option<Vec<usize>> = text.chars().map(kind).collect();
        match layers.and_then(|layers| layers.try_into().ok()) {
            Some(layers) => Ok(Box::new(Layers(layers))),
            None => Err(Error::Usage(format!(
                "'{text}' is no architecture of {}: give {}",
                self.name(),
                self.form()
            ))),
        }
    }

    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture> {
        Box::new(Layers(std::array::from_fn(|_| rng.random_range(0..KINDS))))
    }
}

/// The kinds of the layers.
#[derive(Debug)]
struct Layers([usize; LAYERS]);

impl Architecture for Layers {
    fn space(&self) -> &'static str {
        NasBenchMacro.name()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.space(), self.notation())
    }

    fn notation(&self) -> String {
        self.0.map(|kind| kind.to_string()).concat()
    }

    fn build(&self, options: &BuildOptions) -> Result<Model> {
        options.check(&NasBenchMacro, 1)?;
        let (mut n, x) = Network::new(options, Init::PyTorch);
        let mut x = conv_norm_relu(&mut n, "stem", &x, STEM, Window::square(3, 1));
        for (i, kind) in self.0.into_iter().enumerate() {
            let (channels, stride) = match FIRST.contains(&i) {
                true => (2 * x.channels, 2),
                false => (x.channels, 1),
            };
            let name = format!("layer{i}");
            x = match kind {
                1 => inverted_residual(&mut n, &name, &x, channels, Window::square(3, stride), 3),
                2 => inverted_residual(&mut n, &name, &x, channels, Window::square(5, stride), 6),
                _ if stride == 1 => x,
                _ => conv_norm(&mut n, &name, &x, channels, Window::square(1, stride)),
            };
        }
        let x = conv_norm_relu(&mut n, "last", &x, LAST_WIDTH, Window::square(1, 1));
        Ok(n.classify(&x, self))
    }
}

/// A wide depthwise convolution between two of 1×1, and the input added where the shape is kept.
fn inverted_residual(
    n: &mut Network,
    name: &str,
    x: &Features,
    channels: usize,
    window: Window,
    expansion: usize,
) -> Features {
    let wide = x.channels * expansion;
    let y = conv_norm_relu(n, &format!("{name}.expand"), x, wide, Window::square(1, 1));
    let y = n.depthwise_conv(&format!("{name}.depthwise.conv"), &y, window);
    let y = n.norm(&format!("{name}.depthwise.norm"), &y);
    let y = n.relu(&format!("{name}.depthwise.relu"), &y);
    let y = conv_norm(n, &format!("{name}.project"), &y, channels, Window::square(1, 1));
    match channels == x.channels && window.stride == [1, 1] {
        true => n.add(&format!("{name}.sum"), &y, x),
        false => y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::parameters;

    #[test]
    fn parameters_are_those_of_the_formula() {
        for text in ["00000000", "22222222", "01201201", "10210210"] {
            let architecture = NasBenchMacro.parse(text).unwrap();
            let (mut wanted, mut from) = (9 * 3 * 32 + 2 * 32, 32);
            for (i, kind) in text.chars().enumerate() {
                let to = if [0, 2, 5].contains(&i) { 2 * from } else { from };
                let inverted = |k: usize, e: usize| {
                    let wide = e * from;
                    from * wide + 2 * wide + k * k * wide + 2 * wide + wide * to + 2 * to
                };
                wanted += match kind {
                    '1' => inverted(3, 3),
                    '2' => inverted(5, 6),
                    _ if from == to => 0,
                    _ => from * to + 2 * to,
                };
                from = to;
            }
            wanted += 256 * 1280 + 2 * 1280 + 1281 * 10;
            let model = architecture.build(&BuildOptions::default()).unwrap();
            assert_eq!(parameters(&model), wanted as u64, "{text}");
        }
    }

    #[test]
    fn digits_are_the_order() {
        assert_eq!(NasBenchMacro.nth(5).unwrap().name(), "nasbench-macro-00000012");
        assert_eq!(NasBenchMacro.nth(6560).unwrap().notation(), "22222222");
        assert!(NasBenchMacro.nth(6561).is_err());
        for text in ["0000000", "000000000", "00000003", "0000000x", ""] {
            assert!(NasBenchMacro.parse(text).is_err(), "{text}");
        }
    }
}
