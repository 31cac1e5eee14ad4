//! Putting an ONNX graph together: names, nodes, initializers.

use std::collections::{HashMap, HashSet};

use super::Weights;
use super::proto::{attribute, external_tensor, tensor_proto, value_info};
use crate::error::{Error, Result};
use crate::graph::{Fact, Graph, Node, Op, Value};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::ops::{Attr, Writer};
use crate::tensor::{DType, Tensor};

/// Collects the ONNX nodes that a graph is written as.
pub(crate) struct ModelWriter<'a> {
    graph: &'a Graph,
    names: Vec<Option<String>>,
    proto: GraphProto,
    /// Where tensors of at least so many elements are put, if not into the model.
    weights: Option<(&'a mut Weights, usize)>,
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), String>,
    scope: String,
    counter: usize,
    /// The names of inputs, outputs and parameters, which nothing else may have.
    reserved: HashSet<String>,
    /// The names of parameters whose own an input or output has.
    renamed: HashMap<Value, String>,
}

impl<'a> ModelWriter<'a> {
    /// Begins to write `graph`, of which the values in `live` are wanted, with its inputs declared.
    /// With `weights`, tensors of at least the number of elements beside it are put there.
    ///
    /// # Errors
    /// When two inputs or outputs have one name.
    pub(super) fn new(
        graph: &'a Graph,
        live: &[bool],
        weights: Option<(&'a mut Weights, usize)>,
    ) -> Result<Self> {
        let mut writer = ModelWriter {
            graph,
            names: vec![None; graph.nodes().len()],
            proto: GraphProto { name: Some("gradalign".into()), ..Default::default() },
            weights,
            constants: HashMap::new(),
            scope: String::new(),
            counter: 0,
            reserved: HashSet::new(),
            renamed: HashMap::new(),
        };
        writer.renamed = writer.reserve(live)?;
        for &input in graph.inputs() {
            let name = graph.name(input).unwrap_or_default().to_string();
            writer.proto.input.push(value_info(&name, graph.fact(input)));
            writer.set_name(input, name);
        }
        Ok(writer)
    }

    /// The graph that is written.
    pub(crate) fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// Whether `value` is written already.
    pub(crate) fn is_named(&self, value: Value) -> bool {
        self.names[value.index()].is_some()
    }

    /// Says under which name `value` is written.
    pub(crate) fn set_name(&mut self, value: Value, name: String) {
        self.names[value.index()] = Some(name);
    }

    /// Begins to write `value`, whose node the names of new nodes tell of. The tensors that leaves
    /// hold are written at once; returns whether that is all.
    pub(super) fn begin(&mut self, value: Value, node: &Node) -> bool {
        self.scope = node.scope.to_string();
        let name = match &node.op {
            Op::Input(_) => return true,
            Op::Parameter(parameter) => {
                let own = parameter.name.to_string();
                let name = self.renamed.get(&value).cloned().unwrap_or(own);
                self.initializer(&name, &parameter.tensor);
                name
            }
            Op::Constant(tensor) => self.tensor(tensor),
            Op::Apply(_) => return false,
        };
        self.set_name(value, name);
        true
    }

    /// Adds a node of `domain`, the standard one where it is `None`.
    pub(crate) fn nodes_of(
        &mut self,
        domain: Option<&str>,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attrs: &[(&str, Attr)],
    ) -> Vec<String> {
        let name = self.fresh(op);
        let outputs: Vec<String> = match outputs {
            1 => vec![name.clone()],
            n => (0..n).map(|i| format!("{name}:{i}")).collect(),
        };
        self.proto.node.push(NodeProto {
            name: Some(name),
            op_type: Some(op.into()),
            domain: domain.map(str::to_owned),
            input: inputs.iter().map(|&s| s.to_string()).collect(),
            output: outputs.clone(),
            attribute: attrs.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        });
        outputs
    }

    /// Keeps the names of inputs, outputs and live parameters from being given to anything else.
    /// Returns other names for the parameters that share theirs.
    fn reserve(&mut self, live: &[bool]) -> Result<HashMap<Value, String>> {
        let graph = self.graph;
        let inputs = graph.inputs().iter().filter_map(|&v| graph.name(v));
        for name in inputs.chain(graph.outputs().iter().map(|o| o.name.as_str())) {
            if !self.reserved.insert(name.to_owned()) {
                return Err(Error::InvalidModel(format!(
                    "two inputs or outputs are called '{name}'"
                )));
            }
        }
        let mut renamed = HashMap::new();
        for (value, parameter) in graph.parameters().filter(|(v, _)| live[v.index()]) {
            let own = parameter.name.to_string();
            let mut name = own.clone();
            while !self.reserved.insert(name.clone()) {
                name += ".parameter";
            }
            if name != own {
                renamed.insert(value, name);
            }
        }
        Ok(renamed)
    }

    fn fresh(&mut self, op: &str) -> String {
        loop {
            self.counter += 1;
            let name = match self.scope.is_empty() {
                true => format!("{op}_{}", self.counter),
                false => format!("{}/{op}_{}", self.scope, self.counter),
            };
            if !self.reserved.contains(&name) {
                return name;
            }
        }
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor) {
        let initializer = match &mut self.weights {
            Some((weights, large)) if tensor.len() >= *large => {
                weights.push((name.to_owned(), tensor.clone()));
                external_tensor(name, tensor)
            }
            _ => tensor_proto(name, tensor),
        };
        self.proto.initializer.push(initializer);
    }

    /// Names the outputs as the graph does.
    pub(super) fn finish(mut self) -> Result<GraphProto> {
        let mut renamed: HashMap<String, String> = HashMap::new();
        let made: HashSet<String> =
            self.proto.node.iter().flat_map(|n| n.output.iter().cloned()).collect();
        self.scope.clear();
        for output in self.graph.outputs() {
            let source = self.name(output.value);
            // An input, an initializer or a tensor that is an output already is copied.
            if !made.contains(&source) || renamed.contains_key(&source) {
                let copied = renamed.get(&source).cloned().unwrap_or(source);
                let copy = self.node("Identity", &[&copied], &[]);
                if let Some(node) = self.proto.node.last_mut() {
                    node.output = vec![output.name.clone()];
                    debug_assert_ne!(copy, output.name);
                }
            } else {
                renamed.insert(source, output.name.clone());
            }
            self.proto.output.push(value_info(&output.name, self.graph.fact(output.value)));
        }
        for node in &mut self.proto.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if let Some(new) = renamed.get(name) {
                    new.clone_into(name);
                }
            }
        }
        self.drop_unread();
        self.proto.node.shrink_to_fit();
        Ok(self.proto)
    }

    /// Takes out the tensors that no node reads, since another form of them is: an engine would, and
    /// then miss those that are handed over beside the model.
    fn drop_unread(&mut self) {
        let read: HashSet<&str> =
            self.proto.node.iter().flat_map(|n| n.input.iter().map(String::as_str)).collect();
        self.proto.initializer.retain(|i| read.contains(i.name()));
        if let Some((weights, _)) = &mut self.weights {
            weights.retain(|(name, _)| read.contains(name.as_str()));
        }
    }
}

impl Writer for ModelWriter<'_> {
    fn name(&self, value: Value) -> String {
        self.names[value.index()].clone().unwrap_or_default()
    }

    fn fact(&self, value: Value) -> &Fact {
        self.graph.fact(value)
    }

    fn constant(&self, value: Value) -> Option<&Tensor> {
        self.graph.known(value)
    }

    fn nodes(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attrs: &[(&str, Attr)],
    ) -> Vec<String> {
        self.nodes_of(None, op, inputs, outputs, attrs)
    }

    fn tensor(&mut self, tensor: &Tensor) -> String {
        let key = (tensor.len() <= 64)
            .then(|| (tensor.dtype(), tensor.shape().to_vec(), tensor.to_le_bytes()));
        if let Some(name) = key.as_ref().and_then(|key| self.constants.get(key)) {
            return name.clone();
        }
        let scope = std::mem::take(&mut self.scope);
        let name = self.fresh("constant");
        self.scope = scope;
        self.initializer(&name, tensor);
        if let Some(key) = key {
            self.constants.insert(key, name.clone());
        }
        name
    }
}
