//! A graph written for an engine.

use crate::emit::{self, LARGE, Target, Weights};
use crate::error::Result;
use crate::graph::{Builder, Graph, Node, Op, Value};
use crate::ops::Primitive;
use crate::tensor::Tensor;

/// A model that an engine can load.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The serialised `ModelProto`.
    pub model: Vec<u8>,
    /// The large initializers by name, which are external data in the model: so they are not copied
    /// through the serialised form.
    pub weights: Weights,
    /// The largest total size in bytes of the values alive at one moment of a run, without parameters
    /// and constants; 0 for a model of which no graph is known.
    pub peak_bytes: u64,
}

impl Compiled {
    /// `graph` in standard operators, which every engine runs.
    ///
    /// # Errors
    /// As [`emit()`](crate::emit::emit()).
    pub fn standard(graph: &Graph) -> Result<Self> {
        Compiled::new(&emit::standard(graph)?, &emit::Standard, peak_bytes(graph, &Standard))
    }

    /// A serialised `ModelProto` that was not written here, with all its tensors in it.
    pub fn from_onnx(model: Vec<u8>) -> Self {
        Compiled { model, weights: Weights::new(), peak_bytes: 0 }
    }

    /// `graph`, of operations that `target` can write, with what its runs take.
    pub(super) fn new(graph: &Graph, target: &dyn Target, peak_bytes: u64) -> Result<Self> {
        let (model, weights) = emit::split(graph, target)?;
        Ok(Compiled { model, weights, peak_bytes })
    }
}

/// `graph` with its operations replaced as `rewrite` says, and with those that parameters alone go
/// through computed where that is cheap: once here, faster than by an engine that has to look for
/// such operations.
pub(super) fn specialised(
    graph: &Graph,
    rewrite: impl Fn(&mut Builder, &Primitive, &[Value]) -> Result<Option<Value>>,
) -> Result<Graph> {
    emit::rewritten(graph, |b, op, inputs, node| match known(b.graph(), op, inputs, node)? {
        Some(tensor) => Ok(Some(b.constant(tensor))),
        None => rewrite(b, op, inputs),
    })
}

/// The result of an operation on parameters and constants, where it is cheap.
fn known(graph: &Graph, op: &Primitive, inputs: &[Value], node: &Node) -> Result<Option<Tensor>> {
    let is_cheap = match op {
        Primitive::Reshape(_) | Primitive::Transpose(_) => true,
        Primitive::Unary(_) | Primitive::Binary(_) | Primitive::Detach(_) => {
            node.fact.len() < LARGE
        }
        _ => false,
    };
    if !is_cheap || inputs.is_empty() {
        return Ok(None);
    }
    let operands: Option<Vec<&Tensor>> = inputs.iter().map(|&v| graph.known(v)).collect();
    operands.map(|operands| op.rule().eval(&operands, &node.fact)).transpose()
}

/// What an engine holds while it runs a graph.
pub(super) trait Footprint {
    /// The bytes that a run keeps for a value that `op` computes; `None` for one that is a view of
    /// another or is computed where it is used.
    fn stored(&self, value: Value, op: &Primitive, node: &Node) -> Option<u64>;

    /// What a node needs beside its operands and result while it runs, in bytes.
    fn workspace(&self, graph: &Graph, op: &Primitive, node: &Node) -> u64;
}

/// That of standard operators.
pub(super) struct Standard;

impl Footprint for Standard {
    fn stored(&self, _: Value, op: &Primitive, node: &Node) -> Option<u64> {
        match op {
            // Views in all engines.
            Primitive::Reshape(_) | Primitive::Detach(_) => None,
            _ => Some(node.fact.bytes()),
        }
    }

    fn workspace(&self, graph: &Graph, op: &Primitive, node: &Node) -> u64 {
        let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.fact(v)).collect();
        op.cost(&inputs, &node.fact).workspace
    }
}

/// The largest total size in bytes of the values alive at one moment, when nodes run in graph
/// order and a value is freed after its last use; parameters and constants are not counted. What is
/// computed where it is used takes nothing, but keeps alive what it is computed from.
pub(super) fn peak_bytes(graph: &Graph, footprint: &dyn Footprint) -> u64 {
    let live = graph.live();
    let stored: Vec<Option<u64>> = graph
        .nodes()
        .map(|(value, node)| match &node.op {
            Op::Input(_) => Some(node.fact.bytes()),
            Op::Parameter(_) | Op::Constant(_) => Some(0),
            Op::Apply(op) => footprint.stored(value, op, node),
        })
        .collect();
    let mut last_use = vec![0; graph.nodes().len()];
    for (value, node) in graph.nodes() {
        if live[value.index()] {
            for input in &node.inputs {
                last_use[input.index()] = value.index();
            }
        }
    }
    for output in graph.outputs() {
        last_use[output.value.index()] = usize::MAX;
    }
    for (value, node) in graph.nodes().rev() {
        if stored[value.index()].is_none() {
            for source in node.inputs.iter().map(|v| v.index()) {
                last_use[source] = last_use[source].max(last_use[value.index()]);
            }
        }
    }
    let mut dying: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes().len()];
    let (mut now, mut peak) = (0u64, 0u64);
    for (value, node) in graph.nodes() {
        let i = value.index();
        if !live[i] {
            continue;
        }
        now += stored[i].unwrap_or(0);
        let workspace = match &node.op {
            Op::Apply(op) => footprint.workspace(graph, op, node),
            _ => 0,
        };
        peak = peak.max(now + workspace);
        if last_use[i] < dying.len() {
            dying[last_use[i].max(i)].push(i);
        }
        for dead in std::mem::take(&mut dying[i]) {
            now -= stored[dead].unwrap_or(0);
        }
    }
    peak
}
