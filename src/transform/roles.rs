//! What each parameter is for, read off the graph: kernels and matrices, their biases, the scales
//! and shifts of normalisations.

use crate::graph::{Graph, Value};
use crate::ops::{Binary, Op, Primitive, Unary};

/// What a parameter does in the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// A kernel or matrix of a Conv, ConvTranspose, Gemm or MatMul, with its numbers of inputs
    /// and outputs per position (PyTorch's fans).
    Weight {
        /// Inputs that one output sums over.
        fan_in: usize,
        /// Outputs that one input goes to.
        fan_out: usize,
    },
    /// Added to the result of a weight with this many inputs.
    Bias {
        /// Inputs of the layer.
        fan_in: usize,
    },
    /// The factor after a normalisation.
    Scale,
    /// The summand after a normalisation.
    Shift,
    /// A table looked up by index.
    Embedding,
    /// Anything else: class tokens, position tables, slopes, gates.
    Free,
}

impl Role {
    /// Whether the parameter is a kernel or matrix, what the published scores call weights.
    pub fn is_weight(self) -> bool {
        matches!(self, Role::Weight { .. })
    }
}

/// The role of every parameter of `graph`, in the order of [`Graph::parameters`]. A parameter
/// with several uses has the role of its first one, in graph order, that is not [`Role::Free`].
pub fn roles(graph: &Graph) -> Vec<(Value, Role)> {
    let origin = origins(graph);
    let mut roles = vec![Role::Free; graph.nodes().len()];
    for (_, node) in graph.nodes() {
        let Op::Apply(op) = &node.op else { continue };
        for i in 0..node.inputs.len() {
            let Some(parameter) = origin[node.inputs[i].index()] else { continue };
            let role = &mut roles[parameter.index()];
            if *role == Role::Free {
                *role = role_of_use(graph, op, &node.inputs, i);
            }
        }
    }
    graph.parameters().map(|(value, _)| (value, roles[value.index()])).collect()
}

/// For each value, the parameter whose elements, or some of them, it holds in another shape or
/// order: recurrent layers store the matrices of all gates and directions in one tensor.
pub(super) fn origins(graph: &Graph) -> Vec<Option<Value>> {
    let mut origin = vec![None; graph.nodes().len()];
    for (value, node) in graph.nodes() {
        origin[value.index()] = match &node.op {
            Op::Parameter(_) => Some(value),
            // As another dtype, they are still the parameter's.
            Op::Apply(op) if op.rule().moves() || matches!(op, Primitive::Cast(_)) => {
                origin[node.inputs[0].index()]
            }
            _ => None,
        };
    }
    origin
}

pub(super) fn role_of_use(graph: &Graph, op: &Primitive, inputs: &[Value], i: usize) -> Role {
    let shape = graph.shape(inputs[i]);
    match op {
        Primitive::Conv(_) | Primitive::ConvInputGrad(_) if i == 1 => {
            let positions: usize = shape[2..].iter().product();
            Role::Weight { fan_in: shape[1] * positions, fan_out: shape[0] * positions }
        }
        Primitive::MatMul(product) => {
            let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            let transposed = if i == 0 { product.trans_a } else { product.trans_b };
            // On the right, rows are inputs; on the left, columns are.
            let (fan_in, fan_out) =
                if transposed == (i == 0) { (rows, columns) } else { (columns, rows) };
            Role::Weight { fan_in, fan_out }
        }
        Primitive::BatchNorm(_) if i == 1 => Role::Scale,
        Primitive::BatchNorm(_) if i == 2 => Role::Shift,
        Primitive::Gather(_) if i == 0 => Role::Embedding,
        Primitive::Binary(Binary::Mul) if follows(graph, inputs[1 - i], 4, is_normalised) => {
            Role::Scale
        }
        Primitive::Binary(Binary::Add) => match fan_in_of_layer(graph, inputs[1 - i], 4) {
            Some(fan_in) => Role::Bias { fan_in },
            None if follows(graph, inputs[1 - i], 5, is_normalised) => Role::Shift,
            None => Role::Free,
        },
        _ => Role::Free,
    }
}

/// Whether `test` holds for `value` or an operand of it at most `depth` steps back.
fn follows(graph: &Graph, value: Value, depth: usize, test: fn(&Graph, Value) -> bool) -> bool {
    test(graph, value)
        || (depth > 0
            && graph.node(value).inputs.iter().any(|&v| {
                !matches!(graph.node(v).op, Op::Apply(Primitive::Conv(_) | Primitive::MatMul(_)))
                    && follows(graph, v, depth - 1, test)
            }))
}

/// Division by, or multiplication with the reciprocal of, a square root.
fn is_normalised(graph: &Graph, value: Value) -> bool {
    matches!(graph.node(value).op, Op::Apply(Primitive::Unary(Unary::Sqrt)))
}

/// The number of inputs of the layer whose result `value` is, at most `depth` reshapes back.
fn fan_in_of_layer(graph: &Graph, value: Value, depth: usize) -> Option<usize> {
    let node = graph.node(value);
    match &node.op {
        Op::Apply(op @ (Primitive::Conv(_) | Primitive::ConvInputGrad(_))) => {
            match role_of_use(graph, op, &node.inputs, 1) {
                Role::Weight { fan_in, .. } => Some(fan_in),
                _ => None,
            }
        }
        Op::Apply(Primitive::MatMul(product)) => {
            let shape = graph.shape(node.inputs[0]);
            let rank = shape.len();
            Some(shape[if product.trans_a { rank - 2 } else { rank - 1 }])
        }
        Op::Apply(Primitive::Reshape(_) | Primitive::Transpose(_)) if depth > 0 => {
            fan_in_of_layer(graph, node.inputs[0], depth - 1)
        }
        _ => None,
    }
}

/// The convolution or product that `value` is, through reshapes.
pub(super) fn layer_of(graph: &Graph, value: Value) -> Option<Value> {
    let value = graph.behind_reshapes(value);
    let is_layer = matches!(
        graph.node(value).op,
        Op::Apply(Primitive::Conv(_) | Primitive::ConvInputGrad(_) | Primitive::MatMul(_))
    );
    is_layer.then_some(value)
}
