//! The reference interpreter: what a graph means, computed plainly and in float64 inside each op.
//!
//! It folds constants at import and is the oracle that derivatives and engines are tested against.

use super::{Graph, Op, Operation, Output, Value};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The outputs of `graph` for `inputs`, both in declaration order.
pub fn eval<P: Operation>(graph: &Graph<P>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let outputs: Vec<Value> = graph.outputs().iter().map(|o| o.value).collect();
    eval_values(graph, inputs, &outputs)
}

/// The tensors of `wanted` for `inputs` in declaration order.
pub fn eval_values<P: Operation>(
    graph: &Graph<P>,
    inputs: &[Tensor],
    wanted: &[Value],
) -> Result<Vec<Tensor>> {
    if inputs.len() != graph.inputs().len() {
        let (want, have) = (graph.inputs().len(), inputs.len());
        return Err(Error::Data(format!("the graph has {want} inputs, {have} were given")));
    }
    let outputs = wanted.iter().map(|&value| Output { name: String::new(), value });
    let live = graph.needed(&outputs.collect::<Vec<_>>());
    let mut values: Vec<Option<Tensor>> = vec![None; graph.nodes.len()];
    for (&input, tensor) in graph.inputs().iter().zip(inputs) {
        let fact = graph.fact(input);
        if tensor.dtype() != fact.dtype || tensor.shape() != fact.shape {
            return Err(Error::Data(format!(
                "input '{}' is {fact}, the tensor given is {}{:?}",
                graph.name(input).unwrap_or_default(),
                tensor.dtype(),
                tensor.shape()
            )));
        }
        values[input.index()] = Some(tensor.clone());
    }
    for (value, node) in graph.nodes() {
        if !live[value.index()] {
            continue;
        }
        let tensor = match &node.op {
            Op::Input(_) => continue,
            Op::Constant(tensor) => tensor.clone(),
            Op::Parameter(parameter) => parameter.tensor.clone(),
            Op::Apply(op) => {
                let operands: Option<Vec<&Tensor>> =
                    node.inputs.iter().map(|v| values[v.index()].as_ref()).collect();
                let operands = operands
                    .ok_or_else(|| Error::Shape("a node reads a value not yet computed".into()))?;
                op.eval(&operands, &node.fact)?
            }
        };
        values[value.index()] = Some(tensor);
    }
    wanted
        .iter()
        .map(|v| values[v.index()].clone())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::Shape("a wanted value was not computed".into()))
}
