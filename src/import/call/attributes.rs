//! The attributes of a node, by type.

use super::Call;
use crate::error::{Error, Result};
use crate::onnx::{Attribute, Graph, Literal};

impl<'m> Call<'_, 'm> {
    /// The attribute `name`. Inside a function body it may refer to an attribute of the calling node.
    fn attribute(&self, name: &str) -> Option<&'m Attribute> {
        match self.node.attribute(name)? {
            Attribute::Reference(outer) => self.importer.outer_attribute(outer),
            value => Some(value),
        }
    }

    fn wrong_kind(&self, name: &str, value: &Attribute, wanted: &str) -> Error {
        self.invalid(format_args!("attribute '{name}' is {}, not {wanted}", value.kind()))
    }

    /// Whether attribute `name` is given.
    pub fn has_attribute(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// The integer `name`, if given.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_kind(name, other, "an integer")),
        }
    }

    /// The integer `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.optional_int(name)?.unwrap_or(default))
    }

    /// The integer `name` as a boolean, or `default`.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// The float `name`, if given.
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(f64::from(*value))),
            Some(other) => Err(self.wrong_kind(name, other, "a float")),
        }
    }

    /// The float `name`, or `default`.
    pub fn float(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    /// The integers `name`, if given.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(other) => Err(self.wrong_kind(name, other, "a list of integers")),
        }
    }

    /// The floats `name`, if given.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => {
                Ok(Some(values.iter().map(|&v| f64::from(v)).collect()))
            }
            Some(other) => Err(self.wrong_kind(name, other, "a list of floats")),
        }
    }

    /// The string `name`, or `default`.
    pub fn text(&self, name: &str, default: &'m str) -> Result<&'m str> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::String(value)) => Ok(value),
            Some(other) => Err(self.wrong_kind(name, other, "a string")),
        }
    }

    /// The strings `name`, if given.
    pub fn strings(&self, name: &str) -> Result<Option<&'m [String]>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Strings(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong_kind(name, other, "a list of strings")),
        }
    }

    /// The tensor `name`, if given.
    pub fn literal(&self, name: &str) -> Result<Option<&'m Literal>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(literal)) => Ok(Some(literal)),
            Some(other) => Err(self.wrong_kind(name, other, "a tensor")),
        }
    }

    /// The graph `name`. Errs when it is missing.
    pub fn subgraph(&self, name: &str) -> Result<&'m Graph> {
        match self.attribute(name) {
            Some(Attribute::Graph(graph)) => Ok(graph),
            Some(other) => Err(self.wrong_kind(name, other, "a graph")),
            None => Err(self.invalid(format_args!("attribute '{name}' is missing"))),
        }
    }
}
