//! Which values this project's kernels compute.

use super::conv::{
    has_weight_grad_kernel, mix_channels, write_conv, write_input_grad, write_weight_grad,
};
use super::fuse::{Fusion, Placement};
use super::operators::DOMAIN;
use super::signs::{packed, write_product_signs, write_sign_gram};
use super::sums::without_factor;
use crate::emit::{ModelWriter, Target, Written};
use crate::engine::compiled::Footprint;
use crate::error::Result;
use crate::graph::{Builder, Graph, Node, Value};
use crate::ops::{Primitive, Reduction, Writer};
use crate::tensor::DType;

/// An operation as others that are faster by kernels, if it is to be replaced.
pub(super) fn with_kernels(b: &mut Builder, op: &Primitive, x: &[Value]) -> Result<Option<Value>> {
    match op {
        Primitive::Conv(conv) => mix_channels(b, x, &conv.window, false),
        Primitive::ConvInputGrad(grad) => mix_channels(b, x, &grad.window, true),
        Primitive::Reduce(reduce)
            if matches!(reduce.kind, Reduction::Sum | Reduction::Mean)
                && b.dtype(x[0]).is_float() =>
        {
            without_factor(b, reduce, x[0])
        }
        // It has a kernel as it is.
        Primitive::SignGram(_) if x.iter().all(|&v| b.dtype(v) == DType::F32) => Ok(None),
        _ => op.rule().decompose(b, x),
    }
}

/// The values of a graph that kernels compute.
pub(super) struct Kernels {
    fusion: Fusion,
    /// The values that are computed as packed signs, since nothing else of them is used.
    packed: Vec<bool>,
}

impl Kernels {
    pub(super) fn of(graph: &Graph) -> Self {
        let live = graph.live();
        Kernels { fusion: Fusion::new(graph, &live), packed: packed(graph, &live) }
    }
}

impl Target for Kernels {
    fn domain(&self) -> Option<&'static str> {
        Some(DOMAIN)
    }

    fn write(&self, w: &mut ModelWriter, value: Value, op: &Primitive) -> Result<Written> {
        let node = w.graph().node(value);
        let are_signs = self.packed[value.index()];
        match self.fusion.placement(value) {
            // A view of packed signs is the same tensor.
            _ if are_signs && matches!(op, Primitive::Reshape(_)) => {
                return Ok(Written::As(w.name(node.inputs[0])));
            }
            Placement::Inside => return Ok(Written::Done),
            Placement::Written => {
                self.fusion.write(w, value);
                return Ok(Written::Done);
            }
            Placement::Alone => {}
        }
        let name = match op {
            Primitive::Reshape(op) if self.fusion.is_shaped(node.inputs[0], &op.shape) => {
                Some(w.name(node.inputs[0]))
            }
            Primitive::Conv(op) => write_conv(w, op, node)?,
            Primitive::ConvInputGrad(op) => write_input_grad(w, op, node)?,
            Primitive::ConvWeightGrad(op) if has_weight_grad_kernel(op, w.fact(node.inputs[0])) => {
                let names = [w.name(node.inputs[0]), w.name(node.inputs[1])];
                let [x, z] = [node.inputs[0], node.inputs[1]].map(|v| w.graph().shape(v));
                let names = names.each_ref().map(String::as_str);
                Some(write_weight_grad(w, op, names, x, z, are_signs))
            }
            Primitive::MatMul(_) if are_signs => Some(write_product_signs(w, node)),
            Primitive::SignGram(op) => Some(write_sign_gram(w, op, node)),
            _ => None,
        };
        Ok(name.map_or(Written::ByRule, Written::As))
    }
}

impl Footprint for Kernels {
    fn stored(&self, value: Value, op: &Primitive, node: &Node) -> Option<u64> {
        match op {
            Primitive::Reshape(_) | Primitive::Detach(_) => None,
            _ if self.fusion.placement(value) == Placement::Inside => None,
            // Two bits for each element.
            _ if self.packed[value.index()] => Some(node.fact.len().div_ceil(4) as u64),
            _ => Some(node.fact.bytes()),
        }
    }

    fn workspace(&self, graph: &Graph, op: &Primitive, node: &Node) -> u64 {
        match op {
            Primitive::ConvWeightGrad(op)
                if has_weight_grad_kernel(op, graph.fact(node.inputs[0])) =>
            {
                0
            }
            _ => crate::engine::compiled::Standard.workspace(graph, op, node),
        }
    }
}
