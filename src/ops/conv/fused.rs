//! Convolutions where the graph is written for this project's kernels.

use super::{Builder, ConvWeightGrad, Window};
use crate::emit::{Attr, Dialect, Emitter};
use crate::error::Result;
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// What pays for the transforms of [`crate::kernel::Conv3x3`]: so many channels on both sides, not more
/// kernels than so many, whose transforms are four times as large, and so many tiles for all of them.
const FEWEST_CHANNELS: usize = 8;
const MOST_KERNELS: usize = 1 << 16;
const FEWEST_TILES: usize = 32;

/// Convolutions that only mix channels are matrix products where there are so many of them, and so many
/// positions.
const FEWEST_MIXED: usize = 64;
const FEWEST_POSITIONS: usize = 16;

impl Window {
    /// Whether a kernel of spatial shape `kernel` mixes the channels at each position by itself.
    pub(crate) fn is_pointwise(&self, kernel: &[usize]) -> bool {
        let pads = self.pads_begin.iter().chain(&self.pads_end);
        self.groups == 1
            && self.is_unit_stride()
            && kernel.iter().all(|&k| k == 1)
            && pads.into_iter().all(|&p| p == 0)
    }
}

/// A convolution that only mixes channels, or its input gradient, as a matrix product, where `dialect`
/// has the neighbours of a convolution as kernels of their own. The engine's convolution may be as fast,
/// but has images in another order of memory, to which they would go and come back each time.
pub(super) fn mix_channels(
    b: &mut Builder,
    x: &[Value],
    window: &Window,
    is_input_grad: bool,
    dialect: Dialect,
) -> Result<Option<Value>> {
    let (image, kernel) = (b.shape(x[0]), b.shape(x[1]));
    let positions: usize = image[2..].iter().product();
    let pays = kernel[..2].iter().all(|&d| d >= FEWEST_MIXED) && positions >= FEWEST_POSITIONS;
    if dialect != Dialect::Fused || !pays || !window.is_pointwise(&kernel[2..]) {
        return Ok(None);
    }
    let w = b.reshape(x[1], &kernel[..2])?;
    let w = if is_input_grad { b.transpose(w, &[1, 0])? } else { w };
    let columns = b.reshape(x[0], &[image[0], image[1], positions])?;
    let y = b.matmul(w, columns)?;
    let shape = [&[image[0], b.shape(w)[0]], &image[2..]].concat();
    b.reshape(y, &shape).map(Some)
}

/// A convolution that [`crate::kernel::Conv3x3`] computes, and faster than an engine does.
pub(super) struct Square {
    samples: usize,
    channels: usize,
    outputs: usize,
    input: [usize; 2],
    output: [usize; 2],
    pads: [usize; 2],
}

impl Square {
    /// That of a kernel of spatial shape `kernel`, if it is one and worth its transforms.
    pub(super) fn of(
        e: &Emitter,
        w: &Window,
        x: &Fact,
        kernel: &[usize],
        out: &Fact,
    ) -> Option<Square> {
        let fits = e.is_fused()
            && x.dtype == DType::F32
            && kernel == [3, 3]
            && w.groups == 1
            && w.strides.iter().chain(&w.dilations).all(|&d| d == 1);
        let (&[samples, channels, h, w_], &[_, outputs, oh, ow]) =
            (x.shape.as_slice(), out.shape.as_slice())
        else {
            return None;
        };
        let &[top, left] = w.pads_begin.as_slice() else { return None };
        let tiles = oh.div_ceil(4) * ow.div_ceil(4);
        let pays = channels.min(outputs) >= FEWEST_CHANNELS
            && channels * outputs <= MOST_KERNELS
            && samples * tiles >= FEWEST_TILES
            // At most half of the multiplications.
            && tiles * 36 * 2 <= oh * ow * 9;
        let square = Square {
            samples,
            channels,
            outputs,
            input: [h, w_],
            output: [oh, ow],
            pads: [top, left],
        };
        (fits && pays).then_some(square)
    }

    /// The kernel in the order `[C, 3, 3, M]`, its elements by channel, position and output.
    pub(super) fn arranged(&self, element: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
        let mut w = Vec::with_capacity(self.channels * 9 * self.outputs);
        for c in 0..self.channels {
            for tap in 0..9 {
                w.extend((0..self.outputs).map(|m| element(c, tap, m)));
            }
        }
        w
    }

    pub(super) fn emit(&self, e: &mut Emitter, x: &str, w: Vec<f32>) -> Result<String> {
        let w = Tensor::f32(&[self.channels, 3, 3, self.outputs], w)?;
        let w = e.tensor(&w);
        let int = |v: usize| Attr::Int(v as i64);
        let attrs = [
            ("samples", int(self.samples)),
            ("channels", int(self.channels)),
            ("outputs", int(self.outputs)),
            ("input", Attr::from(self.input.as_slice())),
            ("output", Attr::from(self.output.as_slice())),
            ("pads", Attr::from(self.pads.as_slice())),
        ];
        Ok(e.kernel("Conv3x3", &[x, &w], &attrs))
    }
}

/// The elements of a kernel none of which is zero. A zero takes positions of the input out of a result
/// altogether; the transforms of [`crate::kernel::Conv3x3`] leave their rounding in it.
pub(super) fn dense(kernel: &Tensor) -> Option<&[f32]> {
    match kernel {
        Tensor::F32(values) => values.as_slice().filter(|values| !values.contains(&0.0)),
        _ => None,
    }
}

impl ConvWeightGrad {
    /// Whether [`crate::kernel::ConvWeightGrad`] computes it: for float32, a gradient a sample.
    pub(crate) fn has_kernel(&self, x: &Fact) -> bool {
        x.dtype == DType::F32 && x.shape[0] == self.lanes && x.rank() > 2
    }

    /// As a kernel, of the tensors so called of shapes `x` and `z`.
    pub(in crate::ops) fn emit_kernel(
        &self,
        e: &mut Emitter,
        names: [&str; 2],
        x: &[usize],
        z: &[usize],
    ) -> String {
        let w = &self.window;
        let int = |v: usize| Attr::Int(v as i64);
        let attrs = [
            ("samples", int(self.lanes)),
            ("groups", int(w.groups)),
            ("channels", int(x[1] / w.groups)),
            ("outputs", int(z[1] / w.groups)),
            ("input", Attr::from(&x[2..])),
            ("output", Attr::from(&z[2..])),
            ("kernel", Attr::from(self.kernel.as_slice())),
            ("strides", Attr::from(w.strides.as_slice())),
            ("dilations", Attr::from(w.dilations.as_slice())),
            ("pads", Attr::from(w.pads_begin.as_slice())),
        ];
        let op = if e.is_packed() { "ConvWeightGradSigns" } else { "ConvWeightGrad" };
        e.kernel(op, &names, &attrs)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::emit::{Weights, emit_split};
    use crate::graph::Graph;
    use crate::onnx::proto::ModelProto;

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed) % 101) as f32 / 50.0 - 1.01).collect()
    }

    /// A convolution that keeps the shape of images, and the gradient in its input, of a known kernel
    /// of `size`×`size`.
    fn written(
        channels: usize,
        size: usize,
        values: Vec<f32>,
        dialect: Dialect,
    ) -> (Graph, Vec<u8>, Weights, Vec<String>) {
        let mut b = Builder::default();
        let [x, z] =
            ["x", "z"].map(|name| b.input(name, Fact::new(DType::F32, [10, channels, 9, 7])));
        let w = b.constant(Tensor::f32(&[channels, channels, size, size], values).unwrap());
        let pads = vec![size / 2; 2];
        let window = Window { pads_begin: pads.clone(), pads_end: pads, ..Window::plain(2) };
        let y = b.conv(x, w, window.clone()).unwrap();
        let dx = b.conv_input_grad(z, w, &window, &[9, 7]).unwrap();
        b.output("y", y);
        b.output("dx", dx);
        let graph = b.finish();
        let (model, weights) = emit_split(&graph, dialect).unwrap();
        let proto = ModelProto::decode(model.as_slice()).unwrap().graph.unwrap();
        let mut ops: Vec<String> = proto.node.iter().filter_map(|n| n.op_type.clone()).collect();
        ops.retain(|op| op != "Reshape" && op != "Transpose");
        (graph, model, weights, ops)
    }

    /// The engines that know this project's kernels find what the interpreter does.
    fn check_written(graph: &Graph, channels: usize, model: &[u8], weights: &Weights) {
        let inputs = [1, 2].map(|seed| {
            Tensor::f32(&[10, channels, 9, 7], noise(10 * channels * 63, seed)).unwrap()
        });
        let want = crate::graph::eval(graph, &inputs).unwrap();
        for engine in crate::engine::all_for_tests() {
            if engine.dialect() == Dialect::Fused {
                let mut session = engine.load_with(model, weights).unwrap();
                for (got, want) in session.run(&inputs).unwrap().iter().zip(&want) {
                    for (got, want) in got.to_f64().iter().zip(want.to_f64().iter()) {
                        assert!((got - want).abs() < 2e-4, "{got} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn kernels_of_3_by_3_have_a_kernel_where_it_pays() {
        let dense = noise(12 * 12 * 9, 5);
        let mut pruned = dense.clone();
        pruned[77] = 0.0;
        assert_eq!(written(12, 3, dense, Dialect::Standard).3, ["Conv"; 2]);
        assert_eq!(written(12, 3, pruned, Dialect::Fused).3, ["Conv"; 2]);
        assert_eq!(written(4, 3, noise(4 * 4 * 9, 5), Dialect::Fused).3, ["Conv"; 2]);
        // The larger one is handed over beside the model.
        for channels in [12, 90] {
            let dense = noise(channels * channels * 9, 5);
            let (graph, model, weights, ops) = written(channels, 3, dense, Dialect::Fused);
            assert_eq!(ops, ["Conv3x3"; 2]);
            check_written(&graph, channels, &model, &weights);
        }
    }

    #[test]
    fn what_only_mixes_channels_is_a_product_where_there_are_many() {
        let of = |channels: usize, dialect: Dialect| {
            written(channels, 1, noise(channels * channels, 5), dialect)
        };
        assert_eq!(of(64, Dialect::Standard).3, ["Conv"; 2]);
        assert_eq!(of(8, Dialect::Fused).3, ["Conv"; 2]);
        let (graph, model, weights, ops) = of(64, Dialect::Fused);
        assert_eq!(ops, ["MatMul"; 2]);
        check_written(&graph, 64, &model, &weights);
    }
}
