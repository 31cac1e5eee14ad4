//! All three operations against finite differences, `vmap` and every engine.

use proptest::prelude::*;

use super::Window;
use super::weight_grad::PARTS_UP_TO;
use crate::graph::{Builder, Fact};
use crate::tensor::DType;
use crate::testing::Case;

/// A convolution by its numbers.
#[derive(Clone, Debug)]
struct Config {
    samples: usize,
    channels: usize,
    outputs: usize,
    spatial: Vec<usize>,
    kernel: Vec<usize>,
    window: Window,
}

impl Config {
    fn new(spatial: &[usize], kernel: &[usize]) -> Self {
        let rank = spatial.len();
        let window = Window::plain(rank);
        let (spatial, kernel) = (spatial.to_vec(), kernel.to_vec());
        Config { samples: 1, channels: 2, outputs: 2, spatial, kernel, window }
    }

    fn strides(mut self, strides: &[usize]) -> Self {
        self.window.strides = strides.to_vec();
        self
    }

    fn dilations(mut self, dilations: &[usize]) -> Self {
        self.window.dilations = dilations.to_vec();
        self
    }

    fn pads(mut self, begin: &[usize], end: &[usize]) -> Self {
        (self.window.pads_begin, self.window.pads_end) = (begin.to_vec(), end.to_vec());
        self
    }

    fn channels(mut self, channels: usize, outputs: usize, groups: usize) -> Self {
        (self.channels, self.outputs, self.window.groups) = (channels, outputs, groups);
        self
    }

    fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    fn check(&self) {
        let x = [&[self.samples, self.channels], self.spatial.as_slice()].concat();
        let w =
            [&[self.outputs, self.channels / self.window.groups], self.kernel.as_slice()].concat();
        let out = self.window.output(&self.spatial, &self.kernel).unwrap();
        let z = [&[self.samples, self.outputs], out.as_slice()].concat();
        Case::new(format!("Conv {self:?}"))
            .input(&x, -1.0, 1.0)
            .input(&w, -1.0, 1.0)
            .check(|b, v| b.conv(v[0], v[1], self.window.clone()));
        Case::new(format!("ConvInputGrad {self:?}"))
            .input(&z, -1.0, 1.0)
            .input(&w, -1.0, 1.0)
            .check(|b, v| b.conv_input_grad(v[0], v[1], &self.window, &self.spatial));
        Case::new(format!("ConvWeightGrad {self:?}"))
            .input(&x, -1.0, 1.0)
            .input(&z, -1.0, 1.0)
            .check(|b, v| b.conv_weight_grad(v[0], v[1], &self.window, &self.kernel));
    }
}

#[test]
fn over_lines() {
    Config::new(&[5], &[3]).check();
    Config::new(&[6], &[3]).strides(&[2]).pads(&[1], &[0]).samples(2).check();
}

#[test]
fn over_planes() {
    Config::new(&[4, 3], &[3, 2]).pads(&[1, 0], &[1, 1]).check();
    Config::new(&[4, 4], &[1, 1]).strides(&[2, 2]).check();
    Config::new(&[5, 4], &[2, 3]).strides(&[2, 1]).dilations(&[2, 1]).check();
    Config::new(&[3, 3], &[1, 1]).pads(&[1, 1], &[2, 0]).check();
}

#[test]
fn over_volumes() {
    Config::new(&[3, 2, 3], &[2, 2, 1]).strides(&[1, 1, 2]).pads(&[0, 1, 0], &[1, 0, 0]).check();
}

#[test]
fn in_groups() {
    Config::new(&[4], &[2]).channels(4, 6, 2).samples(2).check();
    Config::new(&[3, 3], &[3, 3]).channels(3, 3, 3).pads(&[1, 1], &[1, 1]).check();
    Config::new(&[4, 3], &[2, 2]).channels(2, 4, 2).strides(&[2, 2]).pads(&[1, 0], &[0, 1]).check();
}

#[test]
fn with_kernels_of_very_many_positions() {
    let most = PARTS_UP_TO;
    Config::new(&[most + 3], &[most + 1]).samples(2).check();
    Config::new(&[most / 8 + 6, 12], &[most / 8 + 1, 8])
        .channels(2, 4, 2)
        .strides(&[2, 3])
        .pads(&[1, 0], &[0, 1])
        .check();
}

/// An engine may turn a convolution into a product, in front of which it may leave out a broadcast.
#[test]
fn of_broadcast_operands() {
    for size in [1, 2] {
        for both in [false, true] {
            let channels = if both { 1 } else { 3 };
            Case::new(format!("Conv of broadcast operands {size} {both}"))
                .input(&[2, channels, 3, 3], -1.0, 1.0)
                .input(&[4, 1, size, size], -1.0, 1.0)
                .check(|b, x| {
                    let images = b.expand(x[0], &[2, 3, 3, 3])?;
                    let kernels = b.expand(x[1], &[4, 3, size, size])?;
                    b.conv(images, kernels, Config::new(&[3, 3], &[size, size]).window)
                });
        }
    }
}

#[test]
fn a_kernel_larger_than_its_input_is_refused() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 1, 2]));
    let w = b.input("w", Fact::new(DType::F32, [1, 1, 3]));
    assert!(b.conv(x, w, Config::new(&[2], &[3]).window).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn at_random(
        size in 3usize..6,
        kernel in 1usize..4,
        stride in 1usize..4,
        dilation in 1usize..3,
        begin in 0usize..3,
        end in 0usize..3,
        groups in 1usize..3,
    ) {
        prop_assume!(dilation * (kernel - 1) < size + begin + end);
        Config::new(&[size, 2], &[kernel, 1])
            .strides(&[stride, 1])
            .dilations(&[dilation, 1])
            .pads(&[begin, 0], &[end, 0])
            .channels(2, 2, groups)
            .check();
    }
}
