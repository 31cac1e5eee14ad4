//! Detects weights stored as small integers and dequantised by ordinary operators: `Cast`, `Sub` of a
//! zero point, `Mul` by a scale.
//!
//! Such a model is refused, since only the scales could be trained. Integers that are cast to floats for
//! other purposes are allowed. The difference is whether they reach the weight operand of a layer.

use std::collections::{HashMap, HashSet};

use super::scan::{MAX_DEPTH, Problem, function_of, live_nodes};
use crate::onnx::{Attribute, DataType, Graph, Initializer, Literal, Model, Node};

/// A mask, a one-hot table or an adjacency matrix has at most this many distinct values.
const MOST_VALUES_OF_A_MASK: usize = 2;

/// The first quantised weight that `outputs` depend on, as a problem of the node that reads it.
pub(super) fn quantised_weight(model: &Model, outputs: &[&str]) -> Option<Problem> {
    if !has_integers(model) {
        return None;
    }
    let mut walk = Walk { model, left: MAX_NODES, found: None };
    let inputs = model.graph.inputs.iter().map(|input| (input.name.as_str(), Content::Data));
    let mut names: Names = inputs.collect();
    walk.graph(&model.graph, outputs, &mut names, "", 0);
    walk.found
}

/// The message about the quantised weight `tensor`.
fn reason(tensor: &str, stored: DataType) -> String {
    format!(
        "its weight '{tensor}' is quantised, stored as {} and turned into floats on the way; \
         gradients need the floating-point model, exported before quantisation",
        stored.name()
    )
}

/// Whether tensors of this type may be quantised weights. Those have at most 8 bits, seldom 16, and
/// quantised biases are int32. Tables, positions and masks of PyTorch and TensorFlow are int64 or int32.
fn is_integer(stored: DataType) -> bool {
    bits(stored).is_some()
}

fn bits(stored: DataType) -> Option<u32> {
    use DataType as T;
    Some(match stored {
        T::Int2 | T::Uint2 => 2,
        T::Int4 | T::Uint4 => 4,
        T::Int8 | T::Uint8 => 8,
        T::Float8e4m3fn | T::Float8e4m3fnuz | T::Float8e5m2 | T::Float8e5m2fnuz => 8,
        T::Float4e2m1 => 4,
        T::Int16 | T::Uint16 => 16,
        T::Int32 | T::Uint32 => 32,
        _ => return None,
    })
}

fn has_integers(model: &Model) -> bool {
    fn in_nodes(nodes: &[Node]) -> bool {
        nodes.iter().any(|node| {
            matches!(node.attribute("value"), Some(Attribute::Tensor(l)) if is_integer(l.stored))
                || node.subgraphs().any(in_graph)
        })
    }
    fn in_graph(graph: &Graph) -> bool {
        graph.initializers.iter().any(|i| is_integer(i.literal.stored)) || in_nodes(&graph.nodes)
    }
    in_graph(&model.graph) || model.functions.values().any(|f| in_nodes(&f.nodes))
}

/// What a value is computed from.
#[derive(Clone, Copy)]
enum Content<'m> {
    /// The model's inputs.
    Data,
    /// A stored tensor of integers.
    Integers(Integers<'m>),
    /// Other constants.
    Known,
}

#[derive(Clone, Copy)]
struct Integers<'m> {
    name: &'m str,
    literal: &'m Literal,
    /// Whether they have been cast to floats.
    cast: bool,
    /// Whether they have been scaled after the cast.
    scaled: bool,
    /// Whether rows were gathered by indices that depend on the data.
    looked_up: bool,
}

impl Integers<'_> {
    /// Whether they are quantised weights if a layer reads them.
    fn are_weights(self) -> bool {
        let Some(bits) = bits(self.literal.stored) else { return false };
        self.cast && (self.scaled || bits <= 8) && self.differ()
    }

    /// Whether they have more distinct values than a mask.
    fn differ(self) -> bool {
        let Ok(tensor) = &self.literal.tensor else { return true };
        let mut values = HashSet::new();
        let Some(integers) = tensor.to_i64() else { return false };
        integers.iter().any(|&v| values.insert(v) && values.len() > MOST_VALUES_OF_A_MASK)
    }
}

impl Content<'_> {
    fn is_data(self) -> bool {
        matches!(self, Content::Data | Content::Integers(Integers { looked_up: true, .. }))
    }
}

type Names<'m> = HashMap<&'m str, Content<'m>>;

/// The most nodes that are visited. Local functions that call each other can describe exponentially
/// many.
const MAX_NODES: usize = 1 << 20;

struct Walk<'m> {
    model: &'m Model,
    /// The number of nodes that may still be visited.
    left: usize,
    found: Option<Problem>,
}

impl<'m> Walk<'m> {
    /// Visits the nodes of a graph. `names` holds the visible names; those of the graph are added.
    fn graph(
        &mut self,
        graph: &'m Graph,
        wanted: &[&'m str],
        names: &mut Names<'m>,
        path: &str,
        depth: usize,
    ) {
        for Initializer { name, literal } in &graph.initializers {
            names.insert(name, stored(name, literal));
        }
        self.nodes(&graph.nodes, wanted, names, path, depth);
    }

    fn nodes(
        &mut self,
        nodes: &'m [Node],
        wanted: &[&'m str],
        names: &mut Names<'m>,
        path: &str,
        depth: usize,
    ) {
        let (live, _) = live_nodes(nodes, wanted.iter().copied());
        for node in live.into_iter().map(|i| &nodes[i]) {
            if self.found.is_some() || depth >= MAX_DEPTH || self.left == 0 {
                return;
            }
            self.left -= 1;
            let contents = self.results(node, names, path, depth);
            for (i, name) in node.outputs.iter().enumerate() {
                names.insert(name, contents.get(i).copied().unwrap_or(Content::Known));
            }
        }
    }

    /// The contents of the results of a node.
    fn results(
        &mut self,
        node: &'m Node,
        names: &Names<'m>,
        path: &str,
        depth: usize,
    ) -> Vec<Content<'m>> {
        let label = match path {
            "" => node.label().to_owned(),
            path => format!("{path}/{}", node.label()),
        };
        let operand = |i: usize| {
            let name = node.inputs.get(i).filter(|name| !name.is_empty())?;
            names.get(name.as_str()).copied()
        };
        if let Some(function) = function_of(self.model, node) {
            let parameters = function.inputs.iter().enumerate();
            let mut inner: Names =
                parameters.filter_map(|(i, name)| Some((name.as_str(), operand(i)?))).collect();
            let wanted: Vec<&str> = function.outputs.iter().map(String::as_str).collect();
            self.nodes(&function.nodes, &wanted, &mut inner, &label, depth + 1);
            let result =
                |name: &String| inner.get(name.as_str()).copied().unwrap_or(Content::Known);
            return function.outputs.iter().map(result).collect();
        }
        let operands: Vec<Content> = (0..node.inputs.len()).filter_map(operand).collect();
        let depends = operands.iter().any(|content| content.is_data());
        let mut has_graphs = false;
        for graph in node.subgraphs() {
            let mut inner = names.clone();
            inner.extend(graph.inputs.iter().map(|input| (input.name.as_str(), Content::Data)));
            let wanted: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
            self.graph(graph, &wanted, &mut inner, &label, depth + 1);
            has_graphs = true;
        }
        if has_graphs {
            return vec![Content::Data; node.outputs.len()];
        }
        if let Some(Integers { name, literal, .. }) = quantised_operand(node, &operand) {
            self.found = Some(Problem {
                node: label,
                op: node.full_op(),
                opset: self.model.opsets.get(&node.domain).copied().unwrap_or(1),
                reason: reason(name, literal.stored),
            });
        }
        let result = match node.op.as_str() {
            "Constant" => match (node.attribute("value"), node.outputs.first()) {
                (Some(Attribute::Tensor(literal)), Some(name)) => stored(name, literal),
                _ => Content::Known,
            },
            _ => carried(node, &operand)
                .map_or(if depends { Content::Data } else { Content::Known }, Content::Integers),
        };
        vec![result; node.outputs.len()]
    }
}

fn stored<'m>(name: &'m str, literal: &'m Literal) -> Content<'m> {
    let single = matches!(&literal.tensor, Ok(tensor) if tensor.len() < 2);
    if !is_integer(literal.stored) || single {
        return Content::Known;
    }
    Content::Integers(Integers { name, literal, cast: false, scaled: false, looked_up: false })
}

/// The stored integers in the result of a node that changes only their representation.
fn carried<'m>(
    node: &Node,
    operand: &dyn Fn(usize) -> Option<Content<'m>>,
) -> Option<Integers<'m>> {
    let integers = |i: usize| match operand(i) {
        Some(Content::Integers(integers)) => Some(integers),
        _ => None,
    };
    let is_data = |i: usize| operand(i).is_some_and(Content::is_data);
    match node.op.as_str() {
        "Cast" => {
            let to_float = match node.attribute("to") {
                Some(Attribute::Int(code)) => i32::try_from(*code)
                    .ok()
                    .and_then(|code| DataType::try_from(code).ok())
                    .is_some_and(is_float),
                _ => false,
            };
            integers(0).map(|x| Integers { cast: x.cast || to_float, ..x })
        }
        "CastLike" => integers(0).map(|x| Integers { cast: true, ..x }),
        "Identity" | "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Slice"
        | "Split" | "Expand" | "Tile" | "Pad" => integers(0),
        "Gather" | "GatherElements" | "GatherND" => {
            integers(0).map(|x| Integers { looked_up: x.looked_up || is_data(1), ..x })
        }
        "Concat" => (0..node.inputs.len()).find_map(integers),
        "Add" | "Sub" | "Mul" | "Div" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "Mod" => {
            let scales = ["Mul", "Div"].contains(&node.op.as_str());
            let (x, other) = integers(0).map(|x| (x, 1)).or(integers(1).map(|x| (x, 0)))?;
            // Combined with data, the result is no longer a stored tensor.
            (!is_data(other)).then_some(Integers { scaled: x.scaled || (x.cast && scales), ..x })
        }
        _ => None,
    }
}

fn is_float(stored: DataType) -> bool {
    matches!(stored, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// The operand of `node` that is a quantised weight.
fn quantised_operand<'m>(
    node: &Node,
    operand: &dyn Fn(usize) -> Option<Content<'m>>,
) -> Option<Integers<'m>> {
    let integers = |i: usize| match operand(i) {
        Some(Content::Integers(integers)) => Some(integers),
        _ => None,
    };
    let is_data = |i: usize| operand(i).is_some_and(Content::is_data);
    let weight = |i: usize| integers(i).filter(|x| x.are_weights());
    // A scaled table whose rows are gathered by data is an embedding, whatever reads the rows.
    let is_embedding = |x: &Integers| x.looked_up && x.scaled && x.are_weights();
    let embedding = (0..node.inputs.len()).find_map(|i| integers(i).filter(is_embedding));
    embedding.or_else(|| match node.op.as_str() {
        "MatMul" | "FusedMatMul" => match (is_data(0), is_data(1)) {
            (true, _) => weight(1),
            (_, true) => weight(0),
            _ => None,
        },
        "Gemm" => match (is_data(0), is_data(1)) {
            (true, _) => weight(1).or_else(|| weight(2).filter(|x| x.scaled)),
            (_, true) => weight(0),
            _ => None,
        },
        "Conv" | "ConvTranspose" | "FusedConv" => {
            weight(1).or_else(|| weight(2).filter(|x| x.scaled))
        }
        "LSTM" | "GRU" | "RNN" => (1..4).find_map(weight),
        "Einsum" => {
            let data = (0..node.inputs.len()).any(is_data);
            (0..node.inputs.len()).filter(|_| data).find_map(weight)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
