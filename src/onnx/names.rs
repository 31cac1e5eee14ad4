//! Refuses files that define a name twice: other readers differ in which definition they use.

use std::collections::HashSet;

use super::model::{Graph, Model, Node};
use crate::error::{Error, Result};

/// Errs when a graph or function of `model` defines a name twice.
pub(super) fn check(model: &Model) -> Result<()> {
    graph(&model.graph, &model.source)?;
    for ((_, name, _), function) in &model.functions {
        let place = format!("{}, function '{name}'", model.source);
        let mut values = Names::new("value", &place);
        for input in &function.inputs {
            values.define(input)?;
        }
        nodes(&function.nodes, &mut values, &place)?;
    }
    Ok(())
}

fn graph(graph: &Graph, place: &str) -> Result<()> {
    let mut initializers = Names::new("initializer", place);
    for initializer in &graph.initializers {
        initializers.define(&initializer.name)?;
    }
    let mut outputs = Names::new("output", place);
    for output in &graph.outputs {
        outputs.define(&output.name)?;
    }
    let mut inputs = Names::new("input", place);
    for input in &graph.inputs {
        inputs.define(&input.name)?;
    }
    // An input may also be an initializer, its default value.
    let mut values = Names::new("value", place);
    values.seen = initializers.seen.union(&inputs.seen).copied().collect();
    nodes(&graph.nodes, &mut values, place)
}

fn nodes<'m>(nodes: &'m [Node], values: &mut Names<'m, '_>, place: &str) -> Result<()> {
    for node in nodes {
        for output in &node.outputs {
            values.define(output)?;
        }
        for inner in node.subgraphs() {
            graph(inner, &format!("{place}, in node '{}'", node.label()))?;
        }
    }
    Ok(())
}

/// The names of one kind that have been defined so far.
struct Names<'m, 'p> {
    kind: &'static str,
    place: &'p str,
    seen: HashSet<&'m str>,
}

impl<'m, 'p> Names<'m, 'p> {
    fn new(kind: &'static str, place: &'p str) -> Self {
        Names { kind, place, seen: HashSet::new() }
    }

    fn define(&mut self, name: &'m str) -> Result<()> {
        // Unwanted results have an empty name.
        if name.is_empty() || self.seen.insert(name) {
            return Ok(());
        }
        let Names { kind, place, .. } = self;
        Err(Error::InvalidModel(format!(
            "{place}: {kind} '{name}' is defined twice; the file is damaged or was written by a \
             faulty exporter"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::model::{Attribute, Initializer, Literal, Type, ValueInfo};
    use crate::onnx::proto::tensor_proto::DataType;

    fn node(outputs: &[&str]) -> Node {
        let outputs = outputs.iter().map(|&name| name.into()).collect();
        Node { name: "n".into(), outputs, ..Node::default() }
    }

    fn info(name: &str) -> ValueInfo {
        ValueInfo { name: name.into(), ty: Type::Other("unknown") }
    }

    fn initializer(name: &str) -> Initializer {
        let literal = Literal { stored: DataType::Float, tensor: Err(String::new()) };
        Initializer { name: name.into(), literal }
    }

    fn refusal(graph: Graph) -> Option<String> {
        let model = Model { source: "file".into(), graph, ..Model::default() };
        check(&model).err().map(|e| e.to_string())
    }

    #[test]
    fn what_is_defined_twice_is_refused() {
        let inner = Graph { nodes: vec![node(&["y"]), node(&["y"])], ..Graph::default() };
        let branch = Node {
            attributes: vec![("then_branch".into(), Attribute::Graph(Box::new(inner)))],
            ..node(&["z"])
        };
        for (graph, what) in [
            (
                Graph {
                    initializers: vec![initializer("w"), initializer("w")],
                    ..Graph::default()
                },
                "file: initializer 'w' is defined twice",
            ),
            (
                Graph { outputs: vec![info("y"), info("y")], ..Graph::default() },
                "file: output 'y' is defined twice",
            ),
            (
                Graph { inputs: vec![info("x"), info("x")], ..Graph::default() },
                "file: input 'x' is defined twice",
            ),
            (
                Graph { nodes: vec![node(&["a", "y"]), node(&["y"])], ..Graph::default() },
                "file: value 'y' is defined twice",
            ),
            (
                Graph { inputs: vec![info("x")], nodes: vec![node(&["x"])], ..Graph::default() },
                "file: value 'x' is defined twice",
            ),
            (
                Graph {
                    initializers: vec![initializer("w")],
                    nodes: vec![node(&["w"])],
                    ..Graph::default()
                },
                "file: value 'w' is defined twice",
            ),
            (
                Graph { nodes: vec![branch], ..Graph::default() },
                "file, in node 'n': value 'y' is defined twice",
            ),
        ] {
            let why = refusal(graph).unwrap();
            assert!(why.contains(what), "{why}");
        }
    }

    #[test]
    fn defaults_of_inputs_and_results_without_names_are_no_clash() {
        let graph = Graph {
            inputs: vec![info("w")],
            initializers: vec![initializer("w")],
            nodes: vec![node(&["a", ""]), node(&["b", ""])],
            ..Graph::default()
        };
        assert_eq!(refusal(graph), None);
    }
}
