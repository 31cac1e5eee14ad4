//! Convolutions and their gradients by this project's kernels.

use super::operators::kernel;
use crate::emit::ModelWriter;
use crate::error::Result;
use crate::graph::{Builder, Fact, Node, Value};
use crate::ops::{Attr, Conv, ConvInputGrad, ConvWeightGrad, Window, Writer};
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

/// A convolution that only mixes channels, or its input gradient, as a matrix product: the
/// neighbours of a convolution are kernels here. ONNX Runtime's convolution may be as fast, but has
/// images in another order of memory, to which they would go and come back each time.
pub(super) fn mix_channels(
    b: &mut Builder,
    x: &[Value],
    window: &Window,
    is_input_grad: bool,
) -> Result<Option<Value>> {
    let (image, kernel) = (b.shape(x[0]), b.shape(x[1]));
    let positions: usize = image[2..].iter().product();
    let pays = kernel[..2].iter().all(|&d| d >= FEWEST_MIXED) && positions >= FEWEST_POSITIONS;
    if !pays || !window.is_pointwise(&kernel[2..]) {
        return Ok(None);
    }
    let w = b.reshape(x[1], &kernel[..2])?;
    let w = if is_input_grad { b.transpose(w, &[1, 0])? } else { w };
    let columns = b.reshape(x[0], &[image[0], image[1], positions])?;
    let y = b.matmul(w, columns)?;
    let shape = [&[image[0], b.shape(w)[0]], &image[2..]].concat();
    b.reshape(y, &shape).map(Some)
}

/// Writes a convolution as a kernel; `None` where that does not pay.
pub(super) fn write_conv(w: &mut ModelWriter, op: &Conv, node: &Node) -> Result<Option<String>> {
    let (x, kernel) = (node.inputs[0], w.fact(node.inputs[1]).shape.clone());
    let Some(square) = Square::of(&op.window, w.fact(x), &kernel[2..], &node.fact) else {
        return Ok(None);
    };
    let Some(values) = w.constant(node.inputs[1]).and_then(dense) else { return Ok(None) };
    let c = kernel[1];
    let values = square.arranged(|c_, tap, m_| values[(m_ * c + c_) * 9 + tap]);
    let x = w.name(x);
    square.write(w, &x, values).map(Some)
}

/// Writes the input gradient of a convolution as a kernel; `None` where that does not pay.
pub(super) fn write_input_grad(
    w: &mut ModelWriter,
    op: &ConvInputGrad,
    node: &Node,
) -> Result<Option<String>> {
    let (z, kernel) = (node.inputs[0], w.fact(node.inputs[1]).shape.clone());
    let conv = op.as_conv(&w.fact(z).shape[2..], &kernel[2..]).filter(|conv| conv.crop.is_none());
    let Some(conv) = conv else { return Ok(None) };
    let Some(square) = Square::of(&conv.window, w.fact(z), &kernel[2..], &node.fact) else {
        return Ok(None);
    };
    let Some(values) = w.constant(node.inputs[1]).and_then(dense) else { return Ok(None) };
    let c = kernel[1];
    let values = square.arranged(|m, tap, c_| values[(m * c + c_) * 9 + 8 - tap]);
    let z = w.name(z);
    square.write(w, &z, values).map(Some)
}

/// A convolution that [`crate::kernel::Conv3x3`] computes, and faster than an engine does.
struct Square {
    samples: usize,
    channels: usize,
    outputs: usize,
    input: [usize; 2],
    output: [usize; 2],
    pads: [usize; 2],
}

impl Square {
    /// That of a kernel of spatial shape `kernel`, if it is one and worth its transforms.
    fn of(w: &Window, x: &Fact, kernel: &[usize], out: &Fact) -> Option<Square> {
        let fits = x.dtype == DType::F32
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
    fn arranged(&self, element: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
        let mut w = Vec::with_capacity(self.channels * 9 * self.outputs);
        for c in 0..self.channels {
            for tap in 0..9 {
                w.extend((0..self.outputs).map(|m| element(c, tap, m)));
            }
        }
        w
    }

    fn write(&self, w: &mut ModelWriter, x: &str, kernel_values: Vec<f32>) -> Result<String> {
        let values = Tensor::f32(&[self.channels, 3, 3, self.outputs], kernel_values)?;
        let values = w.tensor(&values);
        let int = |v: usize| Attr::Int(v as i64);
        let attrs = [
            ("samples", int(self.samples)),
            ("channels", int(self.channels)),
            ("outputs", int(self.outputs)),
            ("input", Attr::from(self.input.as_slice())),
            ("output", Attr::from(self.output.as_slice())),
            ("pads", Attr::from(self.pads.as_slice())),
        ];
        Ok(kernel(w, "Conv3x3", &[x, &values], &attrs))
    }
}

/// The elements of a kernel none of which is zero. A zero takes positions of the input out of a result
/// altogether; the transforms of [`crate::kernel::Conv3x3`] leave their rounding in it.
fn dense(kernel: &Tensor) -> Option<&[f32]> {
    match kernel {
        Tensor::F32(values) => values.as_slice().filter(|values| !values.contains(&0.0)),
        _ => None,
    }
}

/// Whether [`crate::kernel::ConvWeightGrad`] computes a gradient: for float32, one a sample.
pub(super) fn has_weight_grad_kernel(op: &ConvWeightGrad, x: &Fact) -> bool {
    x.dtype == DType::F32 && x.shape[0] == op.lanes && x.rank() > 2
}

/// Writes a weight gradient as a kernel, of the tensors so called of shapes `x` and `z`; or its
/// packed signs, where `signs_are_wanted` only.
pub(super) fn write_weight_grad(
    writer: &mut ModelWriter,
    op: &ConvWeightGrad,
    names: [&str; 2],
    x: &[usize],
    z: &[usize],
    signs_are_wanted: bool,
) -> String {
    let w = &op.window;
    let int = |v: usize| Attr::Int(v as i64);
    let attrs = [
        ("samples", int(op.lanes)),
        ("groups", int(w.groups)),
        ("channels", int(x[1] / w.groups)),
        ("outputs", int(z[1] / w.groups)),
        ("input", Attr::from(&x[2..])),
        ("output", Attr::from(&z[2..])),
        ("kernel", Attr::from(op.kernel.as_slice())),
        ("strides", Attr::from(w.strides.as_slice())),
        ("dilations", Attr::from(w.dilations.as_slice())),
        ("pads", Attr::from(w.pads_begin.as_slice())),
    ];
    let name = if signs_are_wanted { "ConvWeightGradSigns" } else { "ConvWeightGrad" };
    kernel(writer, name, &names, &attrs)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::engine::Compiled;
    use crate::engine::ort::compile::{OperatorSet, compile};
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
        operators: OperatorSet,
    ) -> (Graph, Compiled, Vec<String>) {
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
        let compiled = compile(&graph, operators).unwrap();
        let proto = ModelProto::decode(compiled.model.as_slice()).unwrap().graph.unwrap();
        let mut ops: Vec<String> = proto.node.iter().filter_map(|n| n.op_type.clone()).collect();
        ops.retain(|op| op != "Reshape" && op != "Transpose");
        (graph, compiled, ops)
    }

    /// ONNX Runtime on the CPU finds what the interpreter does.
    fn check_written(graph: &Graph, channels: usize, compiled: &Compiled) {
        let inputs = [1, 2].map(|seed| {
            Tensor::f32(&[10, channels, 9, 7], noise(10 * channels * 63, seed)).unwrap()
        });
        let want = crate::graph::eval(graph, &inputs).unwrap();
        for engine in crate::engine::all_for_tests() {
            let engine_is = engine.describe();
            if engine_is.name == super::super::NAME && engine_is.device == "cpu" {
                let mut session = engine.load(compiled).unwrap();
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
        assert_eq!(written(12, 3, dense, OperatorSet::Standard).2, ["Conv"; 2]);
        assert_eq!(written(12, 3, pruned, OperatorSet::Kernels).2, ["Conv"; 2]);
        assert_eq!(written(4, 3, noise(4 * 4 * 9, 5), OperatorSet::Kernels).2, ["Conv"; 2]);
        // The larger one is handed over beside the model.
        for channels in [12, 90] {
            let dense = noise(channels * channels * 9, 5);
            let (graph, compiled, ops) = written(channels, 3, dense, OperatorSet::Kernels);
            assert_eq!(ops, ["Conv3x3"; 2]);
            check_written(&graph, channels, &compiled);
        }
    }

    #[test]
    fn what_only_mixes_channels_is_a_product_where_there_are_many() {
        let of = |channels: usize, operators: OperatorSet| {
            written(channels, 1, noise(channels * channels, 5), operators)
        };
        assert_eq!(of(64, OperatorSet::Standard).2, ["Conv"; 2]);
        assert_eq!(of(8, OperatorSet::Kernels).2, ["Conv"; 2]);
        let (graph, compiled, ops) = of(64, OperatorSet::Kernels);
        assert_eq!(ops, ["MatMul"; 2]);
        check_written(&graph, 64, &compiled);
    }
}
