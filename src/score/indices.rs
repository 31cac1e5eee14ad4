//! Whether the data's token ids lie in the tables that they are looked up in.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::graph::{Graph, Output, Value, eval};
use crate::ops::{Op, Primitive};
use crate::tensor::Tensor;
use crate::transform::vmap;

/// Errs where a sample has an index beyond the table that it is looked up in, which engines answer in
/// words of their own, or not at all. Looked at are the indices that are computed from inputs of whole
/// numbers alone.
///
/// `inputs` are those of `model`, `[n, …]` each.
///
/// # Errors
/// Naming the input, the sample by its place in the data, and the size of the table.
pub(super) fn check(model: &Graph, inputs: &[Tensor], dataset: &Dataset) -> Result<()> {
    let whole = |v: &Value| !model.fact(*v).dtype.is_float();
    let (ids, others): (Vec<Value>, Vec<Value>) = model.inputs().iter().partition(|v| whole(v));
    if ids.is_empty() {
        return Ok(());
    }
    let (of_ids, of_others) = (model.dependents(&ids), model.dependents(&others));
    let of_parameters = {
        let parameters: Vec<Value> = model.parameters().map(|(v, _)| v).collect();
        model.dependents(&parameters)
    };
    let mut lookups = Vec::new();
    for (_, node) in model.nodes() {
        if let Op::Apply(Primitive::Gather(op)) = &node.op {
            let (table, indices) = (node.inputs[0], node.inputs[1]);
            let at = indices.index();
            if of_ids[at] && !of_others[at] && !of_parameters[at] {
                lookups.push((table, model.shape(table)[op.axis], indices));
            }
        }
    }
    let indices = lookups.iter().enumerate();
    let indices = indices.map(|(i, l)| Output { name: i.to_string(), value: l.2 }).collect();
    let graph = model.with_outputs(indices);
    let n = inputs.first().and_then(|t| t.shape().first().copied()).unwrap_or(0);
    if lookups.is_empty() || n == 0 {
        return Ok(());
    }
    let batch = vmap(&graph, n, graph.inputs())?.graph;
    let mut given = Vec::new();
    for (&input, tensor) in batch.inputs().iter().zip(inputs) {
        given.push(tensor.reshape(batch.shape(input))?);
    }
    let values = eval(&batch, &given)?;
    for ((table, size, indices), values) in lookups.iter().zip(values) {
        let Some(values) = values.to_i64() else { continue };
        let outside = |&index: &i64| index < 0 || index >= *size as i64;
        let Some(at) = values.iter().position(outside) else { continue };
        let each = (values.len() / n).max(1);
        let sample = dataset.place(at / each);
        let index = values.iter().nth(at).copied().unwrap_or(0);
        // Indices below 0 count from the end, and were moved there.
        let row = if index < 0 { index - *size as i64 } else { index };
        let input = ids.iter().find(|&&id| model.dependents(&[id])[indices.index()]);
        let input = input.and_then(|&id| model.name(id)).unwrap_or_default();
        let table = model.name(*table).map_or_else(String::new, |name| format!(" '{name}'"));
        return Err(Error::Data(format!(
            "input '{input}': sample {sample} (counted from 0) asks for row {row} of the table{table} \
             of {size} rows, which run from 0 to {}; give data made for this model",
            size.saturating_sub(1)
        )));
    }
    Ok(())
}
