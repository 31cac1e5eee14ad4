//! Biases with a single value, which are tied where the weights of their layers are.

use std::collections::{HashMap, HashSet};

use super::Tie;
use crate::graph::{Graph, Value};
use crate::ops::{Binary, Op, Primitive};
use crate::tensor::Tensor;

/// Ties the biases with a single value that belong to tied weights.
pub(super) fn biases_of_tied(graph: &Graph, ties: &mut HashMap<Value, Tie>) {
    let mut weights: HashSet<Value> = ties.values().map(|tie| tie.to).collect();
    weights.extend(ties.keys());
    let mut first: HashMap<(Value, u32, Vec<usize>), Value> = HashMap::new();
    let mut found = Vec::new();
    for (_, node) in graph.nodes() {
        let Op::Apply(Primitive::Binary(Binary::Add)) = &node.op else { continue };
        for (product, bias) in [(0, 1), (1, 0)] {
            let (product, bias) = (node.inputs[product], without_views(graph, node.inputs[bias]));
            let Op::Parameter(parameter) = &graph.node(bias).op else { continue };
            let Some(weight) = weight_of(graph, product).filter(|w| weights.contains(w)) else {
                continue;
            };
            let Some(number) = filled(&parameter.tensor) else { continue };
            let weight = ties.get(&weight).map_or(weight, |tie| tie.to);
            let key = (weight, number.to_bits(), parameter.tensor.shape().to_vec());
            let to = *first.entry(key).or_insert(bias);
            if to != bias {
                found.push((bias, Tie { to, transposed: false }));
            }
        }
    }
    ties.extend(found);
}

/// `value` without the reshapes, transposes and broadcasts around it.
fn without_views(graph: &Graph, mut value: Value) -> Value {
    while let Op::Apply(Primitive::Reshape(_) | Primitive::Transpose(_) | Primitive::Expand(_)) =
        graph.node(value).op
    {
        value = graph.node(value).inputs[0];
    }
    value
}

/// The weight, if `value` is a matrix product or convolution with one.
fn weight_of(graph: &Graph, value: Value) -> Option<Value> {
    let node = graph.node(without_views(graph, value));
    let Op::Apply(Primitive::Conv(_) | Primitive::ConvInputGrad(_) | Primitive::MatMul(_)) =
        node.op
    else {
        return None;
    };
    let parameter = |&v: &Value| matches!(graph.node(v).op, Op::Parameter(_)).then_some(v);
    node.inputs.iter().map(|&v| without_views(graph, v)).find_map(|v| parameter(&v))
}

/// The value of all elements, if they are equal.
fn filled(tensor: &Tensor) -> Option<f32> {
    let (&first, rest) = tensor.f32_slice()?.split_first()?;
    rest.iter().all(|&v| v == first).then_some(first)
}
