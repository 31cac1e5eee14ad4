//! The choice of the output that is scored.

use std::collections::HashSet;

use super::ImportOptions;
use crate::error::{Error, Result};
use crate::onnx::{DataType, Model, Type, dtype_of};
use crate::tensor::DType;

/// The output that `options` name, or the default one.
pub(super) fn wanted_output(model: &Model, options: &ImportOptions) -> Result<String> {
    match &options.output {
        Some(name) => named_output(model, name),
        None => default_output(model),
    }
}

/// The output that is scored when the user names none: among the floating-point outputs, the one whose
/// name most suggests a prediction, and the first of several such. Class labels, such as those of
/// scikit-learn's classifiers, are not floating-point.
///
/// # Errors
/// When the model has no floating-point output.
pub fn default_output(model: &Model) -> Result<String> {
    let candidates = float_outputs(model);
    // `max_by_key` returns the last maximum; reversed, that is the first one.
    match candidates.iter().rev().max_by_key(|name| prediction_like(name)) {
        Some(output) => Ok((*output).to_owned()),
        None if model.graph.outputs.is_empty() => {
            Err(Error::InvalidModel(format!("{}: the model has no outputs", model.source)))
        }
        None => Err(Error::UnsupportedModel(format!(
            "{}: the model has no floating-point output",
            model.source
        ))),
    }
}

/// The names of the floating-point outputs. Those of ZipMap count: they are maps to probabilities.
fn float_outputs(model: &Model) -> Vec<&str> {
    let zip_maps: HashSet<&str> = model
        .graph
        .nodes
        .iter()
        .filter(|node| node.op == "ZipMap")
        .flat_map(|node| node.outputs.iter().map(String::as_str))
        .collect();
    let is_float = |ty: &Type| match ty {
        Type::Tensor(DataType::Undefined, _) | Type::Other("unknown") => true,
        Type::Tensor(stored, _) => dtype_of(*stored).is_some_and(DType::is_float),
        Type::Other(_) => false,
    };
    let outputs = model.graph.outputs.iter();
    let float = outputs.filter(|o| is_float(&o.ty) || zip_maps.contains(o.name.as_str()));
    float.map(|o| o.name.as_str()).collect()
}

/// How much the name of an output suggests class scores. Below 0 for names of something else:
/// coordinates, final states, auxiliary heads.
fn prediction_like(name: &str) -> i32 {
    let name = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match () {
        () if has(&["present", "past", "hidden", "state", "aux"]) => NO_PREDICTION,
        () if has(&["box", "coord", "offset", "landmark"]) => -1,
        () if has(&["logit"]) => 2,
        () if has(&["prob", "score", "class", "cls"]) => 1,
        () => 0,
    }
}

/// The value of [`prediction_like`] for states and auxiliary heads.
const NO_PREDICTION: i32 = -2;

/// A note that lists the other candidates, if `output` was chosen among several.
pub(super) fn choice_of_output(model: &Model, output: &str) -> Option<String> {
    let candidates = float_outputs(model);
    let others: Vec<String> = candidates
        .iter()
        .filter(|name| **name != output && prediction_like(name) > NO_PREDICTION)
        .map(|name| format!("'{name}'"))
        .collect();
    (!others.is_empty()).then(|| {
        format!(
            "the output '{output}' is taken; the model also has {}, which `tensor` NAME takes",
            others.join(", ")
        )
    })
}

/// Returns `name` if the model computes a value of that name, else an error.
fn named_output(model: &Model, name: &str) -> Result<String> {
    let graph = &model.graph;
    let inner = graph.nodes.iter().flat_map(|node| &node.outputs);
    let outputs = graph.outputs.iter().map(|o| &o.name);
    if outputs.clone().chain(inner).any(|n| n == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = outputs.map(String::as_str).collect();
    Err(Error::Usage(format!(
        "{}: there is no output '{name}'; the outputs are: {}",
        model.source,
        names.join(", ")
    )))
}
