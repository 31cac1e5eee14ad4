//! Lowering nodes: operators by the table, local functions inlined, branches and loop bodies.

use std::collections::{HashMap, HashSet};

use super::names::Frame;
use super::{Binding, Importer, MAX_ELEMENTS, UNKNOWN};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::batch::BatchCheck;
use crate::import::call::Call;
use crate::import::scan::{function_of, live_nodes};
use crate::import::table::{Lowering, lookup};
use crate::onnx::{self, Attribute, Function, Node};

/// The most nodes that are lowered. Local functions that call each other can describe exponentially
/// many.
const MAX_NODES: usize = 2_000_000;

impl<'m> Importer<'m> {
    pub(super) fn lower_nodes(&mut self, nodes: &'m [Node], wanted: &[&'m str]) -> Result<()> {
        let (live, needed) = live_nodes(nodes, wanted.iter().copied());
        for i in live {
            self.lower_node(&nodes[i], &needed)?;
        }
        Ok(())
    }

    fn lower_node(&mut self, node: &'m Node, needed: &HashSet<&'m str>) -> Result<()> {
        self.lowered += 1;
        if self.lowered > MAX_NODES {
            return Err(Error::InvalidModel(format!(
                "{}: more than {MAX_NODES} nodes with its functions inlined",
                self.model.source
            )));
        }
        let depth = self.frames.len();
        let outputs = match self.lower_call(node, needed) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.frames.truncate(depth);
                self.placeholders(node, error)?
            }
        };
        let mut outputs = outputs.into_iter();
        for name in &node.outputs {
            let binding = outputs
                .next()
                .unwrap_or(Binding::Absent("the operator's further results are not supported"));
            self.check_batch(node, name, &binding)?;
            self.bind(name, binding);
        }
        Ok(())
    }

    /// Tracks the batch axis into a result of `node` where the file fixes a batch size.
    fn check_batch(&mut self, node: &'m Node, name: &'m str, result: &Binding) -> Result<()> {
        let value = |binding: &Binding| match binding {
            Binding::Value(value) => Some(*value),
            _ => None,
        };
        let operands: Vec<Value> = match &self.batch_check {
            BatchCheck::Off => return Ok(()),
            _ => node.inputs.iter().filter_map(|name| value(self.resolve(name)?)).collect(),
        };
        let checked = self.batch_check.result(&self.b, node, name, value(result), &operands);
        checked.map_err(|why| {
            let scope = self.qualified(node.label());
            Error::Shape(format!("node '{scope}' ({}): {why}", node.full_op()))
        })
    }

    fn lower_call(&mut self, node: &'m Node, needed: &HashSet<&'m str>) -> Result<Vec<Binding>> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, name) in node.inputs.iter().enumerate() {
            inputs.push(match name.as_str() {
                "" => None,
                name => {
                    let binding = self.resolve(name).cloned();
                    let binding = binding.ok_or_else(|| self.undefined(name))?;
                    Some(self.unmerged(node, i, binding))
                }
            });
        }
        if let Some(bias) = self.removed_bias(node, &inputs) {
            inputs.push(Some(bias));
        }
        let unknown =
            |binding: &Binding| matches!(binding, Binding::Absent(why) if *why == UNKNOWN);
        if inputs.iter().flatten().any(unknown) {
            return Ok(vec![Binding::Absent(UNKNOWN); node.outputs.len()]);
        }
        match function_of(self.model, node) {
            Some(function) => self.inline(node, function, inputs, needed),
            None => self.lower_operator(node, inputs),
        }
    }

    fn lower_operator(
        &mut self,
        node: &'m Node,
        inputs: Vec<Option<Binding>>,
    ) -> Result<Vec<Binding>> {
        let opset = self.opset(node)?;
        let scope = self.qualified(node.label());
        self.b.set_scope(scope.clone());
        *self.operators.entry(node.full_op()).or_default() += 1;
        let unsupported = |reason: &str| Error::UnsupportedOp {
            node: scope.to_string(),
            op: node.full_op(),
            opset,
            reason: reason.to_owned(),
        };
        let entry = lookup(&node.domain, &node.op).ok_or_else(|| unsupported("it is not known"))?;
        let mut call = Call::new(self, node, inputs, opset);
        let outputs = match entry.lowering {
            Lowering::One(lower) => lower(&mut call).map(|value| vec![value.into()]),
            Lowering::Many(lower) => lower(&mut call),
            Lowering::Refused(reason) => Err(unsupported(reason)),
        };
        let in_node =
            |why: String| Error::Shape(format!("node '{scope}' ({}): {why}", node.full_op()));
        let outputs = outputs.map_err(|error| match error {
            Error::Shape(why) | Error::Data(why) => in_node(why),
            other => other,
        })?;
        for output in &outputs {
            if let Binding::Value(value) = output
                && self.b.fact(*value).len() > MAX_ELEMENTS
            {
                let shape = self.b.graph().shape(*value);
                return Err(in_node(format!("a result of shape {shape:?} is too large")));
            }
        }
        Ok(outputs)
    }

    fn inline(
        &mut self,
        node: &'m Node,
        function: &'m Function,
        inputs: Vec<Option<Binding>>,
        needed: &HashSet<&'m str>,
    ) -> Result<Vec<Binding>> {
        let mut attributes: HashMap<&str, &Attribute> =
            function.defaults.iter().map(|(name, value)| (name.as_str(), value)).collect();
        for (name, value) in &node.attributes {
            let value = match value {
                Attribute::Reference(outer) => self.outer_attribute(outer),
                value => Some(value),
            };
            if let Some(value) = value {
                attributes.insert(name, value);
            }
        }
        let given = inputs.into_iter().chain(std::iter::repeat(None));
        let names = function.inputs.iter().zip(given).map(|(name, binding)| {
            let left_out = Binding::Absent("the call of the function leaves it out");
            (name.as_str(), binding.unwrap_or(left_out))
        });
        self.enter(Frame {
            names: names.collect(),
            closed: true,
            opsets: &function.opsets,
            attributes,
            path: self.qualified(node.label()).to_string(),
        })?;
        let used = |(inner, outer): (&'m String, &'m String)| {
            if needed.contains(outer.as_str()) { inner.as_str() } else { "" }
        };
        let wanted: Vec<&str> = function.outputs.iter().zip(&node.outputs).map(used).collect();
        self.lower_nodes(&function.nodes, &wanted)?;
        self.leave(&wanted)
    }

    /// Lowers a branch in a frame inside the current one and returns its outputs.
    pub fn lower_graph(&mut self, graph: &'m onnx::Graph, label: &str) -> Result<Vec<Binding>> {
        self.lower_inner(graph, label, Vec::new())
    }

    /// Lowers one iteration of a loop with the given body and inputs, and returns its outputs. All
    /// iterations share the tensors stored in the body.
    pub fn lower_iteration(
        &mut self,
        graph: &'m onnx::Graph,
        label: &str,
        inputs: Vec<Binding>,
    ) -> Result<Vec<Binding>> {
        self.unrolling += 1;
        let outputs = self.lower_inner(graph, label, inputs);
        self.unrolling -= 1;
        outputs
    }

    fn lower_inner(
        &mut self,
        graph: &'m onnx::Graph,
        label: &str,
        inputs: Vec<Binding>,
    ) -> Result<Vec<Binding>> {
        let outer = self.frame()?;
        let (opsets, attributes) = (outer.opsets, outer.attributes.clone());
        self.enter(Frame {
            names: HashMap::new(),
            closed: false,
            opsets,
            attributes,
            path: self.qualified(label).to_string(),
        })?;
        self.bind_initializers(&graph.initializers);
        for (info, binding) in graph.inputs.iter().zip(inputs) {
            self.bind(&info.name, binding);
        }
        let wanted: Vec<&'m str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        self.lower_nodes(&graph.nodes, &wanted)?;
        self.leave(&wanted)
    }
}
