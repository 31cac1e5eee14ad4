//! From a model that was read to a graph, samples and a loss that fit each other.

use std::collections::HashMap;

use super::{Resolved, axes, indices};
use crate::data::{Dataset, Target};
use crate::error::{Error, Result};
use crate::graph::{Fact, Graph};
use crate::import::{self, FinalActivation, ImportOptions, Imported};
use crate::onnx;
use crate::probe::Batch;
use crate::transform::Loss;

/// Imports `model` for the shapes of `dataset` and fits the data to it: the import, the samples,
/// the loss, and warnings of both.
///
/// # Errors
/// When an operator is not supported, or the data does not fit the model's inputs or outputs.
pub fn prepare(
    model: &onnx::Model,
    dataset: &Dataset,
    settings: &Resolved,
) -> Result<(Imported, Batch, Loss, Vec<String>)> {
    let mut options = settings.import.clone();
    let mut warnings = axes::from_data(model, dataset, &mut options)?;
    let declared = import::needed_inputs(model, &options)?;
    let fitted = dataset.fit_inputs(&declared)?;
    for (input, tensor) in declared.iter().zip(&fitted.tensors) {
        let sample = tensor.shape().get(1..).unwrap_or_default();
        options.samples.insert(input.name.clone(), sample.to_vec());
    }
    let (imported, loss) = network(model, &options, settings.loss)?;
    // The graph declares the inputs that its output depends on; the data follows it.
    let by_name: HashMap<&str, usize> =
        declared.iter().enumerate().map(|(i, input)| (input.name.as_str(), i)).collect();
    let graph = &imported.graph;
    let inputs = graph.inputs().iter().map(|&input| {
        let name = graph.name(input).unwrap_or_default();
        by_name
            .get(name)
            .map(|&i| fitted.tensors[i].clone())
            .ok_or_else(|| Error::Data(format!("no data for the model's input '{name}'")))
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    indices::check(graph, &inputs, dataset)?;
    let labels = dataset.fit_labels(&target(loss, &output_fact(graph)?)?)?;
    let classes = match labels.classes {
        Some(classes) => classes.into_iter().map(|c| c as i64).collect(),
        None => vec![0; dataset.samples()],
    };
    let batch = Batch { inputs, targets: labels.tensor, classes };
    warnings.extend(fitted.warnings);
    warnings.extend(imported.warnings.iter().cloned());
    Ok((imported, batch, loss, warnings))
}

/// Imports `model` and decides on the loss, where `loss` does not: all that is known of a model before
/// there is data. What [`prepare`] adds to `options` are shapes and batch axes that the data shows.
///
/// # Errors
/// When the model cannot be imported, or its output does not suit the loss.
pub fn network(
    model: &onnx::Model,
    options: &ImportOptions,
    loss: Option<Loss>,
) -> Result<(Imported, Loss)> {
    let mut options = options.clone();
    options.keep_activation |= loss.is_some_and(|loss| !loss.is_of_logits());
    let imported = import::import(model, &options)?;
    let output = output_fact(&imported.graph)?;
    let loss = loss.unwrap_or_else(|| suggested_loss(&imported, &output));
    loss.target(&output)?;
    Ok((imported, loss))
}

/// Dtype and shape of a model's prediction for one sample.
pub(crate) fn output_fact(graph: &Graph) -> Result<Fact> {
    let output = graph.outputs().first();
    let output = output.ok_or_else(|| Error::InvalidModel("the model has no output".into()))?;
    Ok(graph.fact(output.value).clone())
}

/// Binary cross-entropy where the model ends in a sigmoid, or has one output or one channel, else
/// cross-entropy: over tokens where the output is `[1, T, K]`, and over the positions of a map.
fn suggested_loss(imported: &Imported, output: &Fact) -> Loss {
    let shape = output.shape.as_slice();
    let several_axes = shape.iter().filter(|&&d| d != 1).count() > 1;
    match imported.final_activation {
        Some(FinalActivation::Sigmoid) => Loss::BinaryCrossEntropy,
        _ if output.len() == 1 => Loss::BinaryCrossEntropy,
        _ if !several_axes => Loss::CrossEntropy,
        // One channel at each position, in front or behind.
        _ if shape.last() == Some(&1) => Loss::BinaryCrossEntropy,
        _ if shape.len() > 3 && shape[1] == 1 => Loss::BinaryCrossEntropy,
        _ if shape.len() == 3 => Loss::TokenCrossEntropy,
        _ => Loss::CrossEntropy,
    }
}

/// What the labels of one sample are compared with.
pub(crate) fn target(loss: Loss, output: &Fact) -> Result<Target> {
    let fact = loss.target(output)?;
    let classes = loss.class_axis(&output.shape).map_or(output.len(), |axis| output.shape[axis]);
    Ok(match loss {
        Loss::CrossEntropy if fact.shape.is_empty() => Target::Class { classes },
        Loss::CrossEntropy | Loss::TokenCrossEntropy => {
            Target::Tokens { classes, positions: fact.shape }
        }
        Loss::BinaryCrossEntropy => Target::Binary { shape: fact.shape },
        Loss::MeanSquaredError => Target::Values { shape: fact.shape },
    })
}
