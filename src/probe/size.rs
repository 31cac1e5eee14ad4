//! How large a model is, by its shapes alone.

use crate::graph::Graph;
use crate::ops::{Op, Primitive};

/// The number of trainable scalars.
pub fn parameters(model: &Graph) -> u64 {
    model.parameters().map(|(value, _)| model.fact(value).len() as u64).sum()
}

/// The multiply-adds of the forward pass of one sample:
/// - a convolution: elements of the result × (input channels / groups) × kernel positions;
/// - a transposed convolution: elements of the operand × (output channels / groups) × kernel
///   positions;
/// - a matrix product: elements of the result × inner dimension.
///
/// Normalisations, activations and other elementwise work are not counted, as usual.
pub fn flops(model: &Graph) -> u64 {
    let live = model.live();
    let nodes = model.nodes().filter(|(value, _)| live[value.index()]);
    nodes
        .map(|(_, node)| {
            let Op::Apply(op) = &node.op else { return 0 };
            let operand = |i: usize| model.shape(node.inputs[i]);
            let per_output = |shape: &[usize]| shape[1..].iter().product::<usize>();
            match op {
                Primitive::Conv(_) => node.fact.len() * per_output(operand(1)),
                Primitive::ConvInputGrad(_) => {
                    operand(0).iter().product::<usize>() * per_output(operand(1))
                }
                Primitive::MatMul(product) => {
                    let shape = operand(0);
                    let inner = shape[shape.len() - if product.trans_a { 2 } else { 1 }];
                    node.fact.len() * inner
                }
                _ => 0,
            }
        })
        .sum::<usize>() as u64
}

/// Whether batch normalisation makes a difference to `model`.
pub fn has_batch_norm(model: &Graph) -> bool {
    model.nodes().any(|(_, node)| matches!(node.op, Op::Apply(Primitive::BatchNorm(_))))
}
