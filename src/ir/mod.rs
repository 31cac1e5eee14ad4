//! The typed intermediate representation: a list of single-output nodes with static shapes.
//!
//! A [`Graph`] is in topological order by construction: a node's inputs stand before it. Graphs
//! are made and extended by a [`Builder`]; transformations take a graph and return a new one.
//!
//! Graphs are generic in their operations. The rules of an operation (its gradient, its form for
//! lanes, its simplifications) are written with a [`Builder`], so operations stand above graphs; what
//! a graph has to know of its operations in turn is the trait [`Operation`]. The graphs that the rest
//! of the crate works with are those of [`Primitive`](crate::ops::Primitive), which
//! [`graph`](crate::graph) names.

mod builder;
mod display;
mod eval;
mod known;
mod map;
mod tag;
mod verify;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

pub use builder::Builder;
pub use eval::{eval, eval_values};
pub use map::ValueMap;
pub use tag::{Rectifier, RectifierKind, Tag};

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// An operation that graphs can be built of.
pub trait Operation: Clone + fmt::Debug + Eq + Hash {
    /// Its name.
    fn name(&self) -> String;

    /// Its attributes as text; empty where it has none.
    fn attributes(&self) -> String;

    /// Dtype and shape of the result. Errs when the operands do not fit.
    fn infer(&self, inputs: &[&Fact]) -> Result<Fact>;

    /// The result, computed plainly.
    fn eval(&self, inputs: &[&Tensor], output: &Fact) -> Result<Tensor>;

    /// An operand or a simpler operation that equals this one, if there is one.
    fn simplify(
        &self,
        b: &mut Builder<Self>,
        inputs: &[Value],
        output: &Fact,
    ) -> Result<Option<Value>>;

    /// Whether the result repeats its only operand along axes, as what reads the result could
    /// do by itself.
    fn is_broadcast(&self) -> bool;
}

/// What a node is: a leaf, or an operation applied to operands.
#[derive(Clone, Debug)]
pub enum Op<P> {
    /// A named tensor given at run time.
    Input(Arc<str>),
    /// A trainable tensor of the model.
    Parameter(Parameter),
    /// A tensor that is known and not trained.
    Constant(Tensor),
    /// An operation.
    Apply(P),
}

/// A value of a graph: the output of one of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) u32);

impl Value {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is known of a value before anything runs: its dtype and its full shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, all known; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Fact {
    /// A fact from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Fact { dtype, shape: shape.into() }
    }

    /// The fact of `tensor`.
    pub fn of(tensor: &Tensor) -> Self {
        Fact::new(tensor.dtype(), tensor.shape())
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The size of all elements in bytes.
    pub fn bytes(&self) -> u64 {
        (self.len() * self.dtype.size()) as u64
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// An operation applied to earlier values.
#[derive(Clone, Debug)]
pub struct Node<P> {
    /// What is computed, with its attributes parsed.
    pub op: Op<P>,
    /// The operands.
    pub inputs: Vec<Value>,
    /// Dtype and shape of the result.
    pub fact: Fact,
    /// Where the node comes from: the model's node name, under `grad/` for what `grad` adds.
    pub scope: Arc<str>,
    /// What the value is in the network.
    pub tags: Vec<Tag>,
}

/// A named result of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name, unique among the outputs.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// A computation: nodes in topological order, named inputs and outputs.
#[derive(Clone, Debug)]
pub struct Graph<P> {
    pub(crate) nodes: Vec<Node<P>>,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Output>,
}

impl<P> Default for Graph<P> {
    fn default() -> Self {
        Graph { nodes: Vec::new(), inputs: Vec::new(), outputs: Vec::new() }
    }
}

impl<P: Operation> Graph<P> {
    /// The node that computes `value`.
    pub fn node(&self, value: Value) -> &Node<P> {
        #[cfg(test)]
        looks::add(1);
        &self.nodes[value.index()]
    }

    /// Dtype and shape of `value`.
    pub fn fact(&self, value: Value) -> &Fact {
        &self.node(value).fact
    }

    /// The shape of `value`.
    pub fn shape(&self, value: Value) -> &[usize] {
        &self.fact(value).shape
    }

    /// All values with their nodes, in topological order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (Value, &Node<P>)> + ExactSizeIterator {
        #[cfg(test)]
        looks::add(self.nodes.len());
        self.nodes.iter().enumerate().map(|(i, node)| (Value(i as u32), node))
    }

    /// The inputs, in declaration order.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// The outputs, in declaration order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The name of an input or a parameter; `None` for other values.
    pub fn name(&self, value: Value) -> Option<&str> {
        match &self.node(value).op {
            Op::Input(name) => Some(name),
            Op::Parameter(parameter) => Some(&parameter.name),
            _ => None,
        }
    }

    /// The input called `name`.
    pub fn input(&self, name: &str) -> Option<Value> {
        self.inputs.iter().copied().find(|&v| self.name(v) == Some(name))
    }

    /// The output called `name`. Errs, listing those there are, when it is missing.
    pub fn output(&self, name: &str) -> Result<Value> {
        self.outputs.iter().find(|o| o.name == name).map(|o| o.value).ok_or_else(|| {
            let names: Vec<_> = self.outputs.iter().map(|o| o.name.as_str()).collect();
            Error::Usage(format!("no output '{name}'; there are: {}", names.join(", ")))
        })
    }

    /// The trainable parameters, in the order of the model file.
    pub fn parameters(&self) -> impl Iterator<Item = (Value, &Parameter)> {
        self.nodes().filter_map(|(value, node)| match &node.op {
            Op::Parameter(parameter) => Some((value, parameter)),
            _ => None,
        })
    }

    /// The constant that `value` is, if it is one.
    pub fn constant(&self, value: Value) -> Option<&Tensor> {
        match &self.node(value).op {
            Op::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The tensor that `value` is known to be: a constant or a parameter.
    pub(crate) fn known(&self, value: Value) -> Option<&Tensor> {
        match &self.node(value).op {
            Op::Constant(tensor) => Some(tensor),
            Op::Parameter(parameter) => Some(&parameter.tensor),
            _ => None,
        }
    }

    /// The number that all elements of `value` are, where it is a small constant or such a one
    /// broadcast.
    pub(crate) fn uniform(&self, value: Value) -> Option<f64> {
        match &self.node(value).op {
            Op::Constant(tensor) if (1..=64).contains(&tensor.len()) => {
                tensor.to_f64().first().copied().filter(|&v| tensor.is_all(v))
            }
            // A broadcast of a broadcast is one.
            Op::Apply(op) if op.is_broadcast() => self.uniform(self.node(value).inputs[0]),
            _ => None,
        }
    }

    /// For each value, whether an output depends on it.
    pub fn live(&self) -> Vec<bool> {
        self.needed(&self.outputs)
    }

    fn needed(&self, outputs: &[Output]) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for output in outputs {
            live[output.value.index()] = true;
        }
        for (value, node) in self.nodes().rev() {
            if live[value.index()] {
                for input in &node.inputs {
                    live[input.index()] = true;
                }
            }
        }
        live
    }

    /// For each value, whether it depends on any of `sources` (a source depends on itself).
    pub fn dependents(&self, sources: &[Value]) -> Vec<bool> {
        let mut depends = vec![false; self.nodes.len()];
        for source in sources {
            depends[source.index()] = true;
        }
        for (value, node) in self.nodes() {
            if node.inputs.iter().any(|input| depends[input.index()]) {
                depends[value.index()] = true;
            }
        }
        depends
    }

    /// The graph with only the given outputs, and only the nodes these depend on. Inputs stay.
    pub fn with_outputs(&self, outputs: Vec<Output>) -> Graph<P> {
        self.reduced(&outputs).graph
    }

    /// As [`Graph::with_outputs`], with the map of the values.
    pub fn mapped_to_outputs(&self, outputs: &[Output]) -> Derived<P> {
        self.reduced(outputs)
    }

    /// The graph with only the given outputs. All nodes stay, and values keep their identity.
    pub fn with_outputs_kept(self, outputs: Vec<Output>) -> Graph<P> {
        Graph { outputs, ..self }
    }

    /// The graph without the inputs that no output depends on.
    pub fn without_unused_inputs(mut self) -> Graph<P> {
        let live = self.live();
        self.inputs.retain(|input| live[input.index()]);
        self.pruned()
    }

    /// The graph without the nodes that no output depends on. Inputs stay.
    pub fn pruned(&self) -> Graph<P> {
        self.reduced(&self.outputs).graph
    }

    fn reduced(&self, outputs: &[Output]) -> Derived<P> {
        let mut keep = self.needed(outputs);
        for input in &self.inputs {
            keep[input.index()] = true;
        }
        let mut map = ValueMap::empty(self.nodes.len());
        let mut nodes = Vec::new();
        for (value, node) in self.nodes() {
            if keep[value.index()] {
                map.set(value, Value(nodes.len() as u32));
                let inputs = node.inputs.iter().filter_map(|&v| map.get(v)).collect();
                let tags = node.tags.iter().filter_map(|tag| tag.mapped(&map)).collect();
                nodes.push(Node { inputs, tags, ..node.clone() });
            }
        }
        let output = |o: &Output| Some(Output { name: o.name.clone(), value: map.get(o.value)? });
        let graph = Graph {
            nodes,
            inputs: self.inputs.iter().filter_map(|&v| map.get(v)).collect(),
            outputs: outputs.iter().filter_map(output).collect(),
        };
        Derived { graph, map }
    }

    /// The rectifiers that an output depends on, in graph order.
    pub fn rectifiers(&self) -> Vec<Rectifier> {
        let live = self.live();
        let nodes = self.nodes().filter(|(value, _)| live[value.index()]);
        let rectified = nodes.flat_map(|(_, node)| &node.tags);
        rectified.map(|&Tag::Rectified(rectifier)| rectifier).collect()
    }
}

/// A graph derived from another one.
#[derive(Clone, Debug)]
pub struct Derived<P> {
    /// The new graph.
    pub graph: Graph<P>,
    /// Where the values of the other one are in it.
    pub map: ValueMap,
}

/// A trainable tensor of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The initializer's name in the model file.
    pub name: Arc<str>,
    /// Its values; shared, not copied, by clones of the graph.
    pub tensor: Tensor,
}

/// How often nodes are looked at, for tests of how work grows.
#[cfg(test)]
pub(crate) mod looks {
    use std::cell::Cell;

    thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(looks: usize) {
        LOOKS.set(LOOKS.get() + looks);
    }

    /// The looks that `work` takes.
    pub(crate) fn during(work: impl FnOnce()) -> usize {
        let before = LOOKS.get();
        work();
        LOOKS.get() - before
    }
}
