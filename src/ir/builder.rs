//! Making graphs: each pushed operation is checked, simplified, folded and shared on the way in.

use std::collections::HashMap;
use std::sync::Arc;

use super::known::Known;
use super::{Fact, Graph, Node, Op, Operation, Output, Parameter, Tag, Value, ValueMap};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Constant results larger than this many elements are left to the engine to compute.
const FOLD_LIMIT: usize = 1 << 22;

/// Values have at most this many elements, so that what is computed of shapes does not overflow.
const MOST_ELEMENTS: usize = 1 << 48;

fn too_many(elements: usize) -> bool {
    elements > MOST_ELEMENTS
}

/// Constants up to this many elements are shared when they are equal.
const SHARE_LIMIT: usize = 64;

/// Extends a graph. An operation equal to an earlier one yields the earlier value, one whose
/// operands are all constants is computed, and identities (`x + 0`, a reshape to the same shape)
/// yield their operand.
pub struct Builder<P> {
    graph: Graph<P>,
    known: Known,
    constants: HashMap<(DType, Vec<usize>, Vec<u64>), Value>,
    scope: Arc<str>,
}

impl<P: Operation> Default for Builder<P> {
    fn default() -> Self {
        Builder::new(Graph::default())
    }
}

impl<P: Operation> Builder<P> {
    /// Starts from `graph`; its values keep their identity.
    pub fn new(graph: Graph<P>) -> Self {
        let mut constants = HashMap::new();
        for (value, node) in graph.nodes() {
            if let Op::Constant(tensor) = &node.op
                && let Some(key) = constant_key(tensor)
            {
                constants.entry(key).or_insert(value);
            }
        }
        Builder { known: Known::of(&graph.nodes), graph, constants, scope: "".into() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph<P> {
        &self.graph
    }

    /// Ends building.
    pub fn finish(self) -> Graph<P> {
        self.graph
    }

    /// Dtype and shape of `value`.
    pub fn fact(&self, value: Value) -> &Fact {
        self.graph.fact(value)
    }

    /// The shape of `value`, as an owned list.
    pub fn shape(&self, value: Value) -> Vec<usize> {
        self.graph.shape(value).to_vec()
    }

    /// The number of dimensions of `value`.
    pub fn rank(&self, value: Value) -> usize {
        self.graph.fact(value).rank()
    }

    /// The dtype of `value`.
    pub fn dtype(&self, value: Value) -> DType {
        self.graph.fact(value).dtype
    }

    /// Sets the origin recorded on the nodes pushed from now on.
    pub fn set_scope(&mut self, scope: impl Into<Arc<str>>) {
        self.scope = scope.into();
    }

    /// Declares a named input.
    pub fn input(&mut self, name: impl Into<Arc<str>>, fact: Fact) -> Value {
        let value = self.append(Op::Input(name.into()), Vec::new(), fact);
        self.graph.inputs.push(value);
        value
    }

    /// Adds a trainable parameter.
    pub fn parameter(&mut self, name: impl Into<Arc<str>>, tensor: Tensor) -> Value {
        let fact = Fact::of(&tensor);
        self.append(Op::Parameter(Parameter { name: name.into(), tensor }), Vec::new(), fact)
    }

    /// Adds a constant; an equal small one is shared.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let key = constant_key(&tensor);
        if let Some(&value) = key.as_ref().and_then(|key| self.constants.get(key)) {
            return value;
        }
        let fact = Fact::of(&tensor);
        let value = self.append(Op::Constant(tensor), Vec::new(), fact);
        if let Some(key) = key {
            self.constants.insert(key, value);
        }
        value
    }

    /// A scalar constant.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Value {
        self.constant(Tensor::full(dtype, &[], value))
    }

    /// A scalar constant of the dtype of `like`.
    pub fn scalar_like(&mut self, like: Value, value: f64) -> Value {
        let dtype = self.dtype(like);
        self.scalar(dtype, value)
    }

    /// The constant that `value` is, if it is one.
    pub fn as_constant(&self, value: Value) -> Option<&Tensor> {
        self.graph.constant(value)
    }

    /// The number that all elements of a constant (or of a broadcast one) share.
    pub(crate) fn as_uniform(&self, value: Value) -> Option<f64> {
        self.graph.uniform(value)
    }

    /// Notes what `value` is in the network. A tag that it has already counts one node more, where it
    /// is set in another scope than that of the node.
    pub fn tag(&mut self, value: Value, tag: Tag) {
        let node = &mut self.graph.nodes[value.index()];
        let is_new_node = node.scope != self.scope;
        if !node.tags.iter_mut().any(|known| known.merge(tag, is_new_node)) {
            node.tags.push(tag);
        }
    }

    /// Names `value` as an output.
    pub fn output(&mut self, name: impl Into<String>, value: Value) {
        self.graph.outputs.push(Output { name: name.into(), value });
    }

    /// Applies `op` to `inputs`. Errs when their shapes or dtypes do not fit.
    pub fn push(&mut self, op: impl Into<P>, inputs: &[Value]) -> Result<Value> {
        let op = op.into();
        let facts: Vec<&Fact> = inputs.iter().map(|&v| self.graph.fact(v)).collect();
        let fact = op.infer(&facts)?;
        if fact.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1))).is_none_or(too_many)
        {
            return Err(Error::Shape(format!("a result of shape {:?} is too large", fact.shape)));
        }
        if let Some(value) = op.simplify(self, inputs, &fact)? {
            return Ok(value);
        }
        if let Some(value) = self.fold(&op, inputs, &fact)? {
            return Ok(value);
        }
        match self.known.find(&self.graph.nodes, &op, inputs) {
            Ok(value) => Ok(value),
            Err(place) => {
                let value = self.append(Op::Apply(op), inputs.to_vec(), fact);
                self.known.add(place, value);
                Ok(value)
            }
        }
    }

    fn fold(&mut self, op: &P, inputs: &[Value], fact: &Fact) -> Result<Option<Value>> {
        if inputs.is_empty() || fact.len() > FOLD_LIMIT {
            return Ok(None);
        }
        // A broadcast scalar stays one: what uses it broadcasts by itself.
        if op.is_broadcast() && fact.len() > SHARE_LIMIT {
            return Ok(None);
        }
        let operands: Option<Vec<&Tensor>> =
            inputs.iter().map(|&v| self.graph.constant(v)).collect();
        let Some(operands) = operands else { return Ok(None) };
        let tensor = op.eval(&operands, fact)?;
        debug_assert_eq!(Fact::of(&tensor), *fact, "{op:?} evaluates to its inferred fact");
        Ok(Some(self.constant(tensor)))
    }

    /// Adds a node as it is, without the checks and simplifications of [`Builder::push`].
    pub(crate) fn append(&mut self, op: Op<P>, inputs: Vec<Value>, fact: Fact) -> Value {
        let value = Value(self.graph.nodes.len() as u32);
        let scope = self.scope.clone();
        self.graph.nodes.push(Node { op, inputs, fact, scope, tags: Vec::new() });
        value
    }

    /// Copies the live part of `graph` into this one; `replace` decides what stands for a node
    /// (given the operands already mapped), or `None` to copy it. Returns the map from the old
    /// values to the new. Inputs are declared again, outputs are not.
    pub(crate) fn import(
        &mut self,
        graph: &Graph<P>,
        mut replace: impl FnMut(&mut Self, Value, &Node<P>, &[Value]) -> Result<Option<Value>>,
    ) -> Result<ValueMap> {
        let mut live = graph.live();
        for input in graph.inputs() {
            live[input.index()] = true;
        }
        let mut map = ValueMap::empty(graph.nodes.len());
        for (value, node) in graph.nodes() {
            if !live[value.index()] {
                continue;
            }
            let inputs: Option<Vec<Value>> = node.inputs.iter().map(|&v| map.get(v)).collect();
            let inputs = inputs.ok_or_else(|| {
                Error::Shape("a graph node stands before one of its operands".into())
            })?;
            self.set_scope(node.scope.clone());
            let new = match replace(self, value, node, &inputs)? {
                Some(new) => new,
                None => match &node.op {
                    Op::Input(name) => self.input(name.clone(), node.fact.clone()),
                    Op::Parameter(_) => self.append(node.op.clone(), vec![], node.fact.clone()),
                    Op::Constant(tensor) => self.constant(tensor.clone()),
                    Op::Apply(op) => self.push(op.clone(), &inputs)?,
                },
            };
            map.set(value, new);
            for tag in node.tags.iter().filter_map(|tag| tag.mapped(&map)) {
                self.tag(new, tag);
            }
        }
        Ok(map)
    }

    /// Names as outputs what the outputs of `graph` became under the map of [`Builder::import`].
    pub(crate) fn copy_outputs(&mut self, graph: &Graph<P>, map: &ValueMap) -> Result<()> {
        for output in graph.outputs() {
            self.output(output.name.clone(), map.of(output.value)?);
        }
        Ok(())
    }
}

fn constant_key(tensor: &Tensor) -> Option<(DType, Vec<usize>, Vec<u64>)> {
    if tensor.len() > SHARE_LIMIT {
        return None;
    }
    let bits = match tensor.to_i64() {
        Some(values) => values.iter().map(|&v| v as u64).collect(),
        None => tensor.to_f64().iter().map(|v| v.to_bits()).collect(),
    };
    Some((tensor.dtype(), tensor.shape().to_vec(), bits))
}
