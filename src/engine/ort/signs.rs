//! Gradients of which only the signs are used, two bits for each element, and their inner products.

use super::conv::{has_weight_grad_kernel, write_weight_grad};
use super::operators::kernel;
use crate::emit::ModelWriter;
use crate::graph::{Fact, Graph, Node, Op, Value};
use crate::ops::{Attr, ConvWeightGrad, MatMul, Primitive, SignGram, Window, Writer};
use crate::tensor::DType;

/// As many operands go to a kernel, and what the kernels give is added up behind the last of them. ONNX
/// Runtime runs first what the last node needs by its latest input: so a few gradients are multiplied
/// soon after they are there, and what they are made of makes room. With one kernel for all, gradients
/// would be computed only after the whole backward pass, in twice the memory.
const TOGETHER: usize = 3;

/// For each value, whether it is the gradient of a convolution or of a matrix, maybe reshaped, of
/// which only the signs are used.
pub(super) fn packed(graph: &Graph, live: &[bool]) -> Vec<bool> {
    let mut only_signs = live.to_vec();
    for output in graph.outputs() {
        only_signs[output.value.index()] = false;
    }
    for (value, node) in graph.nodes().rev().filter(|(v, _)| live[v.index()]) {
        let passes = match &node.op {
            Op::Apply(Primitive::SignGram(_)) => true,
            Op::Apply(Primitive::Reshape(_)) => {
                only_signs[value.index()]
                    && graph.shape(node.inputs[0]).first() == node.fact.shape.first()
            }
            _ => false,
        };
        for input in &node.inputs {
            only_signs[input.index()] &= passes;
        }
    }
    let mut packed = vec![false; only_signs.len()];
    for (value, node) in graph.nodes() {
        packed[value.index()] = only_signs[value.index()]
            && match &node.op {
                Op::Apply(Primitive::ConvWeightGrad(op)) => {
                    has_weight_grad_kernel(op, graph.fact(node.inputs[0]))
                }
                Op::Apply(Primitive::MatMul(op)) => {
                    has_signs(*op, graph.fact(node.inputs[0]), graph.fact(node.inputs[1]))
                }
                Op::Apply(Primitive::Reshape(_)) => packed[node.inputs[0].index()],
                _ => false,
            };
    }
    packed
}

/// Whether the signs alone of a matrix product can be computed: of `aᵀ·b` for float32 `a` `[n, k, r]`
/// and `b` `[n, k, c]`, as the gradients of `n` samples in a matrix are.
fn has_signs(op: MatMul, a: &Fact, b: &Fact) -> bool {
    let is_float32 = a.dtype == DType::F32 && a.rank() == 3 && b.rank() == 3;
    is_float32 && op.trans_a && !op.trans_b && a.shape[0] == b.shape[0]
}

/// Writes the packed signs of a matrix product, in any order: those of the gradient of a convolution
/// whose kernel has one position.
pub(super) fn write_product_signs(w: &mut ModelWriter, node: &Node) -> String {
    let mut channels_first = |v: Value| {
        let (name, shape) = (w.name(v), w.fact(v).shape.clone());
        (w.transpose(&name, &[0, 2, 1]), [shape[0], shape[2], shape[1]])
    };
    let (a, a_shape) = channels_first(node.inputs[0]);
    let (b, b_shape) = channels_first(node.inputs[1]);
    let op = ConvWeightGrad { window: Window::plain(1), kernel: vec![1], lanes: a_shape[0] };
    write_weight_grad(w, &op, [&a, &b], &a_shape, &b_shape, true)
}

/// Writes inner products of signs.
pub(super) fn write_sign_gram(w: &mut ModelWriter, op: &SignGram, node: &Node) -> String {
    let names: Vec<String> = node.inputs.iter().map(|&v| w.name(v)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let attrs = [("groups", Attr::Int(op.groups as i64)), ("size", Attr::Int(op.size as i64))];
    let terms: Vec<String> =
        names.chunks(TOGETHER).map(|names| kernel(w, "SignGram", names, &attrs)).collect();
    let mut terms = terms.into_iter();
    let mut total = terms.next().unwrap_or_default();
    for term in terms {
        total = w.node("Add", &[&total, &term], &[]);
    }
    total
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::engine::all_for_tests;
    use crate::engine::ort::compile::{OperatorSet, compile};
    use crate::graph::{Builder, eval};
    use crate::onnx::proto::{ModelProto, NodeProto};
    use crate::tensor::Tensor;

    /// What a sum is made of stands before all of the sum, and the sum is the same.
    #[test]
    fn many_operands_are_products_of_a_few() {
        let sizes = [3, 1, 40, 7, 2, 9, 5, 11];
        let mut b = Builder::default();
        let rows = sizes.map(|k| b.input(format!("x{k}"), Fact::new(DType::F32, [4, k])));
        let gram = b.sign_gram(&rows, 2, 2).unwrap();
        b.output("gram", gram);
        let graph = b.finish();
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let inputs = sizes.map(|k| Tensor::f32(&[4, k], (0..4 * k).map(value).collect()).unwrap());
        let want = eval(&graph, &inputs).unwrap().swap_remove(0).to_f64();
        for engine in all_for_tests() {
            let compiled = engine.compile(&graph).unwrap();
            let got = engine.load(&compiled).unwrap().run(&inputs).unwrap();
            assert_eq!(got[0].to_f64(), want);
        }
        let compiled = compile(&graph, OperatorSet::Kernels).unwrap();
        let nodes = ModelProto::decode(compiled.model.as_slice()).unwrap().graph.unwrap().node;
        let ops: Vec<&str> = nodes.iter().map(NodeProto::op_type).collect();
        let terms = sizes.len().div_ceil(TOGETHER);
        assert_eq!(ops, [vec!["SignGram"; terms], vec!["Add"; terms - 1]].concat());
    }
}
