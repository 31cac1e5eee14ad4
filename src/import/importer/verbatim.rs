//! Lowering a graph as the file has it: all outputs, no batch.

use std::collections::HashMap;

use super::{Binding, Importer};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::import::Given;
use crate::import::literal::Role;
use crate::import::scan::live_nodes;

impl<'m> Importer<'m> {
    /// Lowers all `outputs`, with the inputs as `given`.
    pub fn lower(
        mut self,
        outputs: &[&'m str],
        given: &'m HashMap<String, Given>,
    ) -> Result<Graph> {
        let model = self.model;
        self.bind_initializers(&model.graph.initializers);
        let (_, needed) = live_nodes(&model.graph.nodes, outputs.iter().copied());
        for info in self.shapes.declared() {
            if !needed.contains(info.name.as_str()) {
                continue;
            }
            let given = given.get(&info.name).ok_or_else(|| {
                Error::Usage(format!("{}: input '{}' is not given", model.source, info.name))
            })?;
            let binding = self.given(&info.name, given);
            self.bind(&info.name, binding);
        }
        self.lower_nodes(&model.graph.nodes, outputs)?;
        self.b.set_scope("");
        for name in outputs {
            let binding = self.resolve(name).cloned().ok_or_else(|| self.undefined(name))?;
            self.output(name, &binding)?;
        }
        Ok(self.b.finish().pruned())
    }

    /// The binding of an input. The elements of a sequence are inputs named `name[i]`.
    fn given(&mut self, name: &str, given: &Given) -> Binding {
        match given {
            Given::Open(fact) => self.b.input(name, fact.clone()).into(),
            Given::Known(tensor) => self.b.constant(tensor.clone()).into(),
            Given::List(elements) => {
                let each = elements.iter().enumerate();
                Binding::List(each.map(|(i, e)| self.given(&format!("{name}[{i}]"), e)).collect())
            }
            Given::Absent => Binding::Absent("the input is left out"),
        }
    }

    /// Adds an output to the graph, or one for each element of a sequence.
    fn output(&mut self, name: &str, binding: &Binding) -> Result<()> {
        match binding {
            Binding::Value(value) => self.b.output(name, *value),
            Binding::Stored(i) => {
                let value = self.stored_value(*i, Role::Fixed)?;
                self.b.output(name, value);
            }
            Binding::List(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    self.output(&format!("{name}[{i}]"), element)?;
                }
            }
            Binding::Absent(why) => {
                return Err(Error::UnsupportedModel(format!(
                    "{}: the output '{name}' cannot be taken: {why}",
                    self.model.source
                )));
            }
        }
        Ok(())
    }
}
