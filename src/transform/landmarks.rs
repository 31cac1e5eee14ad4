//! The values of a network that scores look at: those of its layers and normalisations, and the
//! features before its head. Rectifiers are [tags](crate::graph::Tag).

use std::collections::HashMap;
use std::sync::Arc;

use super::roles::{Role, layer_of, origins, role_of_use, roles};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Binary, Op, Primitive, Reduction};

/// A use of a weight: a convolution or matrix product with a trainable kernel.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The weight's name.
    pub weight: Arc<str>,
    /// The number of its elements.
    pub size: usize,
    /// The product, before the bias.
    pub product: Value,
    /// The layer's output: the product with its bias, where there is one.
    pub activation: Value,
    /// The axis of `activation` along which its output channels lie.
    pub channel_axis: usize,
}

/// The layers of `graph` that an output depends on, in graph order. A weight with several uses
/// has a layer for each.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let (live, origin) = (graph.live(), origins(graph));
    let weights: HashMap<Value, Role> =
        roles(graph).into_iter().filter(|(_, role)| role.is_weight()).collect();
    let mut layers: Vec<Layer> = Vec::new();
    // By its product, the first layer that has it.
    let mut of_product: HashMap<Value, usize> = HashMap::new();
    for (value, node) in graph.nodes().filter(|(value, _)| live[value.index()]) {
        let Op::Apply(op) = &node.op else { continue };
        for (i, input) in node.inputs.iter().enumerate() {
            let Some(parameter) = origin[input.index()] else { continue };
            let is_layer = weights.contains_key(&parameter)
                && role_of_use(graph, op, &node.inputs, i).is_weight();
            if let (true, Op::Parameter(p)) = (is_layer, &graph.node(parameter).op) {
                let rank = node.fact.rank();
                let channel_axis = match op {
                    Primitive::MatMul(_) if i == 1 => rank - 1,
                    Primitive::MatMul(_) => rank - 2,
                    _ => 1,
                };
                of_product.entry(value).or_insert(layers.len());
                layers.push(Layer {
                    weight: p.name.clone(),
                    size: graph.fact(*input).len().min(p.tensor.len()),
                    product: value,
                    activation: value,
                    channel_axis,
                });
            }
        }
        if let Primitive::Binary(Binary::Add) = op {
            let bias = |i: usize| origin[node.inputs[i].index()].is_some();
            for i in 0..2 {
                // The product through reshapes only: its last axis is still the last one.
                let Some(product) = bias(1 - i).then(|| layer_of(graph, node.inputs[i])).flatten()
                else {
                    continue;
                };
                let Some(&layer) = of_product.get(&product) else { continue };
                let layer = &mut layers[layer];
                let (before, shape) = (graph.shape(product), &node.fact.shape);
                let channels = before[layer.channel_axis];
                let axis = (shape.len() + layer.channel_axis).checked_sub(before.len());
                let is_bias = graph.fact(node.inputs[1 - i]).len() == channels;
                if let Some(axis) = axis.filter(|&axis| is_bias && shape[axis] == channels) {
                    layer.activation = value;
                    layer.channel_axis = axis;
                }
            }
        }
    }
    layers
}

/// The operands of the batch normalisations that an output depends on, in graph order.
pub fn normalised(graph: &Graph) -> Vec<Value> {
    let live = graph.live();
    let nodes = graph.nodes().filter(|(value, _)| live[value.index()]);
    nodes
        .filter(|(_, node)| matches!(node.op, Op::Apply(Primitive::BatchNorm(_))))
        .map(|(_, node)| node.inputs[0])
        .collect()
}

/// The features that the head of the network reads: what goes into the last pooling over all
/// spatial positions; where there is none, what is averaged over its positions or flattened in
/// front of the last layer, or else what the last layer reads. With `name`, the result of the
/// model's node of that name.
///
/// # Errors
/// When no node that the output depends on is called `name`, or the model has no layer.
pub fn features(graph: &Graph, name: Option<&str>) -> Result<Value> {
    let live = graph.live();
    let nodes = || graph.nodes().filter(|(value, _)| live[value.index()]);
    if let Some(name) = name {
        let named = nodes().rfind(|(_, node)| &*node.scope == name);
        return named.map(|(value, _)| value).ok_or_else(|| {
            Error::Usage(format!(
                "no node '{name}' that the output depends on; gradalign grad writes a file whose \
                 node names begin with those of the model"
            ))
        });
    }
    let pooled = nodes().rev().find_map(|(value, node)| {
        let &input = node.inputs.first()?;
        (graph.fact(input).rank() >= 4 && is_global(graph, value)).then_some(input)
    });
    if let Some(features) = pooled {
        return Ok(features);
    }
    let all = layers(graph);
    let last = all.last().ok_or_else(|| {
        Error::Score("the model has no layer, so no features in front of one".into())
    })?;
    let read = graph.node(last.product).inputs[0];
    let mut at = read;
    loop {
        let node = graph.node(at);
        match &node.op {
            Op::Apply(Primitive::Reshape(_) | Primitive::Transpose(_)) => at = node.inputs[0],
            Op::Apply(Primitive::Reduce(_)) if node.inputs.len() == 1 => return Ok(node.inputs[0]),
            // A sum divided by the number of positions.
            Op::Apply(Primitive::Binary(Binary::Mul | Binary::Div))
                if graph.constant(node.inputs[1]).is_some_and(|t| t.len() == 1) =>
            {
                at = node.inputs[0];
            }
            Op::Apply(_) => return Ok(at),
            _ => return Ok(read),
        }
    }
}

/// Whether `value` pools its operand over all spatial positions.
fn is_global(graph: &Graph, value: Value) -> bool {
    let node = graph.node(value);
    let Op::Apply(op) = &node.op else { return false };
    let spatial = |input: Value| &graph.shape(input)[2..];
    match op {
        Primitive::Reduce(reduce)
            if matches!(reduce.kind, Reduction::Mean | Reduction::Max | Reduction::Sum) =>
        {
            let rank = graph.fact(node.inputs[0]).rank();
            let channels_first = (2..rank).all(|i| reduce.axes.contains(&i));
            let channels_last = (1..rank - 1).all(|i| reduce.axes.contains(&i));
            reduce.axes.len() == rank - 2 && (channels_first || channels_last)
        }
        Primitive::AveragePool(pool) => pool.kernel == spatial(node.inputs[0]),
        Primitive::MaxPool(pool) => pool.kernel == spatial(node.inputs[0]),
        _ => false,
    }
}
