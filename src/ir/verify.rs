//! Whether a graph is what a graph has to be.

use std::collections::HashSet;

use super::{Fact, Graph, Op, Operation};
use crate::error::{Error, Result};

impl<P: Operation> Graph<P> {
    /// Checks what every graph promises: operands stand before the nodes that read them, leaves have
    /// none, each operation has the dtype and shape that it infers from its operands, inputs are those
    /// that are declared, and names of inputs and of outputs are unique.
    ///
    /// # Errors
    /// The first promise that is broken, and where.
    pub fn verify(&self) -> Result<()> {
        for (i, node) in self.nodes.iter().enumerate() {
            let wrong = |what: String| {
                let place = if node.scope.is_empty() { "" } else { " of " };
                Err(Error::Shape(format!("%{i}{place}{}: {what}", node.scope)))
            };
            if let Some(late) = node.inputs.iter().find(|v| v.index() >= i) {
                return wrong(format!("reads %{}, which does not stand before it", late.0));
            }
            let inferred = match &node.op {
                Op::Input(_) => node.fact.clone(),
                Op::Parameter(parameter) => Fact::of(&parameter.tensor),
                Op::Constant(tensor) => Fact::of(tensor),
                Op::Apply(op) => {
                    let facts: Vec<&Fact> =
                        node.inputs.iter().map(|v| &self.nodes[v.index()].fact).collect();
                    match op.infer(&facts) {
                        Ok(fact) => fact,
                        Err(e) => return wrong(format!("{}: {e}", op.name())),
                    }
                }
            };
            if inferred != node.fact {
                return wrong(format!("is {inferred}, but stands as {}", node.fact));
            }
            if !matches!(node.op, Op::Apply(_)) && !node.inputs.is_empty() {
                return wrong("a leaf with operands".into());
            }
        }
        self.verify_names()
    }

    fn verify_names(&self) -> Result<()> {
        let mut declared = HashSet::new();
        let mut names = HashSet::new();
        for input in &self.inputs {
            let Some(Op::Input(name)) = self.nodes.get(input.index()).map(|node| &node.op) else {
                return Err(Error::Shape(format!("input %{} is no input", input.0)));
            };
            if !declared.insert(*input) || !names.insert(&**name) {
                return Err(Error::Shape(format!("two inputs are called '{name}'")));
            }
        }
        let mut names = HashSet::new();
        for output in &self.outputs {
            let (name, value) = (&output.name, output.value);
            if value.index() >= self.nodes.len() {
                return Err(Error::Shape(format!("output '{name}' is %{}, not a node", value.0)));
            }
            if !names.insert(name) {
                return Err(Error::Shape(format!("two outputs are called '{name}'")));
            }
        }
        Ok(())
    }

    /// The graph itself, which builds with debug assertions [verify](Graph::verify).
    pub(crate) fn verified(self) -> Self {
        debug_assert!(self.verify().is_ok(), "{:?}\n{self}", self.verify());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Graph, Output, Value};
    use crate::tensor::DType;

    fn graph() -> Graph {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2, 3]));
        let z = b.input("z", Fact::new(DType::F32, [3]));
        let y = b.add(x, z).unwrap();
        b.output("y", y);
        b.finish()
    }

    /// The message for a graph that `break_it` was done to.
    fn message(break_it: impl FnOnce(&mut Graph)) -> String {
        let mut graph = graph();
        break_it(&mut graph);
        graph.verify().unwrap_err().to_string()
    }

    #[test]
    fn a_graph_that_a_builder_made_is_sound() {
        graph().verify().unwrap();
        Graph::default().verify().unwrap();
    }

    #[test]
    fn broken_promises_are_found() {
        assert!(message(|g| g.nodes[2].inputs[0] = Value(2)).contains("reads %2"));
        assert!(message(|g| g.nodes[2].fact.shape = vec![3, 2]).contains("[3, 2]"));
        assert!(message(|g| g.nodes[2].fact.dtype = DType::F64).contains("float64"));
        assert!(message(|g| g.nodes[1].fact.shape = vec![4]).contains("broadcast"));
        assert!(message(|g| g.nodes[1].inputs = vec![Value(0)]).contains("a leaf"));
        assert!(message(|g| g.nodes[1].op = Op::Input("x".into())).contains("two inputs"));
        assert!(message(|g| g.inputs[1] = Value(2)).contains("no input"));
        assert!(message(|g| g.outputs[0].value = Value(7)).contains("%7"));
        let twice = Output { name: "y".into(), value: Value(0) };
        assert!(message(|g| g.outputs.push(twice)).contains("two outputs"));
    }
}
