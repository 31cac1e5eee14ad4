//! How large a model is, by its shapes alone.

use crate::graph::Graph;
use crate::ops::{Op, Primitive};

/// The number of trainable scalars.
pub fn parameters(model: &Graph) -> u64 {
    model.parameters().map(|(value, _)| model.fact(value).len() as u64).sum()
}

/// The multiply-adds of the forward pass of one sample: those of convolutions and matrix products (see
/// [`Cost::flops`](crate::ops::Cost::flops)).
pub fn flops(model: &Graph) -> u64 {
    let live = model.live();
    let nodes = model.nodes().filter(|(value, _)| live[value.index()]);
    nodes
        .map(|(_, node)| {
            let Op::Apply(op) = &node.op else { return 0 };
            let inputs: Vec<_> = node.inputs.iter().map(|&v| model.fact(v)).collect();
            op.cost(&inputs, &node.fact).flops
        })
        .sum()
}

/// Whether batch normalisation makes a difference to `model`.
pub fn has_batch_norm(model: &Graph) -> bool {
    model.nodes().any(|(_, node)| matches!(node.op, Op::Apply(Primitive::BatchNorm(_))))
}
