//! Name resolution: one frame for each graph, branch, loop body or function body being lowered.

use std::collections::HashMap;
use std::sync::Arc;

use super::Importer;
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::scan::MAX_DEPTH;
use crate::onnx::{Attribute, Node, Opsets};

/// What a name is bound to.
#[derive(Clone, Debug)]
pub(in crate::import) enum Binding {
    /// A value of the graph.
    Value(Value),
    /// A tensor of the file, by index.
    Stored(usize),
    /// A sequence.
    List(Vec<Binding>),
    /// A value that does not exist, and why.
    Absent(&'static str),
}

impl From<Value> for Binding {
    fn from(value: Value) -> Self {
        Binding::Value(value)
    }
}

/// The scope of a graph, a branch, a loop body or a function body.
pub(super) struct Frame<'m> {
    pub names: HashMap<&'m str, Binding>,
    /// Whether the names of the enclosing frames are hidden.
    pub closed: bool,
    pub opsets: &'m Opsets,
    /// The attributes of the call, which a function body may refer to.
    pub attributes: HashMap<&'m str, &'m Attribute>,
    /// The labels of the enclosing nodes, joined by `/`: the prefix of names in this frame.
    pub path: String,
}

impl<'m> Importer<'m> {
    /// The binding of `name` in the innermost frame that has one.
    pub fn resolve(&self, name: &str) -> Option<&Binding> {
        for frame in self.frames.iter().rev() {
            if let Some(binding) = frame.names.get(name) {
                return Some(binding);
            }
            if frame.closed {
                break;
            }
        }
        None
    }

    pub(super) fn bind(&mut self, name: &'m str, binding: Binding) {
        if let Some(frame) = self.frames.last_mut() {
            frame.names.insert(name, binding);
        }
    }

    /// The attribute `name` of the node that calls the current function.
    pub fn outer_attribute(&self, name: &str) -> Option<&'m Attribute> {
        self.frames.last().and_then(|frame| frame.attributes.get(name).copied())
    }

    /// Whether the nodes being lowered are those of the main graph.
    pub(super) fn is_outermost(&self) -> bool {
        self.frames.len() == 1
    }

    /// The version of the operator set that `node` is written in.
    pub(super) fn opset(&self, node: &Node) -> Result<i64> {
        Ok(self.frame()?.opsets.get(&node.domain).copied().unwrap_or(1))
    }

    pub(super) fn frame(&self) -> Result<&Frame<'m>> {
        self.frames.last().ok_or_else(|| Error::InvalidModel("no graph to lower in".into()))
    }

    pub(super) fn enter(&mut self, frame: Frame<'m>) -> Result<()> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(Error::InvalidModel(format!(
                "{}: functions and branches are nested more than {MAX_DEPTH} deep, or call \
                 themselves",
                self.model.source
            )));
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Closes the current frame and returns the bindings of `outputs` in it.
    pub(super) fn leave(&mut self, outputs: &[&str]) -> Result<Vec<Binding>> {
        let bindings = outputs
            .iter()
            .map(|name| match self.resolve(name) {
                Some(binding) => Ok(binding.clone()),
                None if name.is_empty() => Ok(Binding::Absent("it is left out")),
                None => Err(self.undefined(name)),
            })
            .collect();
        self.frames.pop();
        bindings
    }

    /// `name` prefixed with the path of the current frame.
    pub(super) fn qualified(&self, name: &str) -> Arc<str> {
        match self.frames.last() {
            Some(frame) if !frame.path.is_empty() => format!("{}/{name}", frame.path).into(),
            _ => name.into(),
        }
    }

    /// The origin recorded for the graph nodes that `node` is lowered to.
    pub fn scope(&self, node: &Node) -> Arc<str> {
        self.qualified(node.label())
    }
}
