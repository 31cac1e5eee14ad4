//! From ONNX to the graph IR: every operator is lowered to the primitives of [`crate::ops`].
//!
//! All that differs between operator-set versions, exporters and spellings ends here: local
//! functions are inlined, shapes become static with the batch at 1, arithmetic on shapes is folded
//! to constants, and it is decided which tensors are trainable.

mod batch;
mod bounds;
mod call;
mod end;
mod folded;
mod identity;
mod importer;
mod inputs;
mod layout;
mod literal;
mod lower;
#[cfg(test)]
pub(crate) mod made;
mod quantised;
mod scan;
#[cfg(test)]
mod storage_tests;
mod table;
#[cfg(test)]
mod tests;
mod ties;

use std::collections::{BTreeMap, HashMap, HashSet};

pub(crate) use bounds::bounds;
pub use end::FinalActivation;
pub use inputs::{DeclaredInput, declared_inputs};
pub use scan::{Problem, default_output};
pub use table::{Entry, entries, markdown};

use crate::error::{Error, Result};
use crate::graph::{Fact, Graph};
use crate::onnx::Model;
use crate::tensor::Tensor;
use importer::Importer;
use inputs::Shapes;

/// What the user decides about an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Full shapes of inputs, the batch axis included and of length 1. Needed for the inputs whose
    /// other dimensions the model leaves open.
    pub shapes: HashMap<String, Vec<usize>>,
    /// Shapes of one sample of inputs, without the batch axis, as the data has them.
    pub samples: HashMap<String, Vec<usize>>,
    /// Inputs that are settings, with their values: one for all elements, or one for each.
    pub fixed: HashMap<String, Vec<f64>>,
    /// The batch axes of inputs, `None` for an input all of which is one sample's. Those of other inputs
    /// are guessed.
    pub batch_axes: HashMap<String, Option<usize>>,
    /// The output (or any other value) to take; by default the first floating-point output.
    pub output: Option<String>,
    /// Where not empty, exactly the floating-point tensors whose names match one of these glob
    /// patterns are parameters.
    pub include: Vec<String>,
    /// Tensors whose names match one of these glob patterns are constants.
    pub exclude: Vec<String>,
    /// Keep the activation at the end of the model: for a loss of the outputs themselves, where
    /// others are of what goes into a Softmax or Sigmoid.
    pub keep_activation: bool,
}

/// A model lowered to the graph IR.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph. Its inputs have the batch axis first, of length 1, whatever they have in the file, and
    /// so has its one output: the chosen one, before its final activation unless that is kept.
    pub graph: Graph,
    /// The name of the output taken.
    pub output: String,
    /// The batch axis that each input of the graph has in the file; `None` where it has none there.
    pub batch_axes: Vec<Option<usize>>,
    /// The activation at the end of the model, which the graph leaves out.
    pub final_activation: Option<FinalActivation>,
    /// How many batch normalisations there are.
    pub batch_norms: usize,
    /// What makes scores mean something else than the user may expect.
    pub warnings: Vec<String>,
    /// What was decided on the way, for whoever wants to know.
    pub notes: Vec<String>,
    /// Facts about the file.
    pub info: Info,
}

/// Facts about a model file.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// The version of the file format.
    pub ir_version: i64,
    /// The exporter and its version.
    pub producer: String,
    /// Operator-set versions by domain; `ai.onnx` is the empty domain.
    pub opsets: BTreeMap<String, i64>,
    /// How often each operator was lowered, with local functions inlined and dead nodes left out.
    pub operators: BTreeMap<String, usize>,
}

/// Lowers `model`. Errs when an operator is not supported (before anything is lowered), when
/// shapes stay open or do not fit together, and when there is nothing to train.
pub fn import(model: &Model, options: &ImportOptions) -> Result<Imported> {
    let output = scan::wanted_output(model, options)?;
    scan::check(model, &[&output])?;
    let mut importer = Importer::new(model, options)?;
    let fixed_batch = importer.fixed_batch();
    if fixed_batch.is_some() {
        importer.compare(Importer::at_own_batch(model, options)?.recorded(&output)?);
    }
    let value = match (importer.run(&output), fixed_batch) {
        (Err(Error::Shape(why)), Some(k)) => return Err(refuse_batch(model, k, &why)),
        (lowered, _) => lowered?,
    };
    let mut imported = importer.finish(&output, value)?;
    if options.output.is_none() {
        imported.warnings.extend(scan::choice_of_output(model, &output));
    }
    if imported.graph.parameters().next().is_none() {
        return Err(no_parameters(model, options));
    }
    Ok(imported)
}

/// All that stands in the way of importing `model`: operators that are not supported, forms of
/// others that are not, inputs of unknown shape. Empty where nothing does.
pub fn all_problems(model: &Model, options: &ImportOptions) -> Vec<Problem> {
    let output = match scan::wanted_output(model, options) {
        Ok(output) => output,
        Err(error) => return vec![Problem::general(&error)],
    };
    let mut found = scan::problems(model, &[&output]);
    if found.iter().any(|p| scan::is_quantised(&p.op)) {
        return found;
    }
    if let Some(weight) = quantised::quantised_weight(model, &[&output]) {
        found.push(weight);
        return found;
    }
    let more = match Importer::at_own_batch(model, options) {
        Ok(importer) => importer.survey(&output),
        Err(error) => vec![Problem::general(&error)],
    };
    let known: HashSet<(String, String)> =
        found.iter().map(|p| (p.node.clone(), p.op.clone())).collect();
    found.extend(more.into_iter().filter(|p| !known.contains(&(p.node.clone(), p.op.clone()))));
    found
}

/// The inputs that the output taken depends on and that are no settings: those for which there must be
/// data. Their dimensions are those of one sample behind a batch axis of 1, with the shapes that
/// `options` give.
///
/// # Errors
/// When the model has no such output, or it is not clear where the samples lie in an input.
pub fn needed_inputs(model: &Model, options: &ImportOptions) -> Result<Vec<DeclaredInput>> {
    let output = scan::wanted_output(model, options)?;
    let (_, needed) = scan::live_nodes(&model.graph.nodes, [output.as_str()]);
    let shapes = Shapes::new(model, options)?;
    let mut inputs = Vec::new();
    for declared in declared_inputs(model) {
        if needed.contains(declared.name.as_str()) {
            inputs.extend(shapes.of_sample(declared)?);
        }
    }
    Ok(inputs)
}

/// The batch axis that an input is taken to have: `None` where that is not clear, or it is a setting.
///
/// # Errors
/// When `options` do not fit the model.
pub fn batch_axis(
    model: &Model,
    options: &ImportOptions,
    input: &str,
) -> Result<Option<Option<usize>>> {
    Ok(Shapes::new(model, options)?.guessed(input))
}

/// What an input is in a model that is taken as it is.
#[derive(Clone, Debug)]
pub enum Given {
    /// An input of the graph.
    Open(Fact),
    /// A tensor that is known at import.
    Known(Tensor),
    /// A sequence.
    List(Vec<Given>),
    /// An optional input that is left out.
    Absent,
}

/// Lowers `model` as the file has it: all outputs, at the shapes of the inputs `given`, no axis of
/// which is taken for a batch. The elements of a sequence called `y` are the outputs `y[0]`,
/// `y[1]`…, and an input that is a sequence is taken apart in the same way.
///
/// Models to be scored are lowered by [`import`]; this is for single operators and other graphs
/// that need not be networks.
///
/// # Errors
/// When an operator is not supported, an input is not given, or shapes do not fit together.
pub fn lower(model: &Model, given: &HashMap<String, Given>) -> Result<Graph> {
    let outputs: Vec<&str> = model.graph.outputs.iter().map(|o| o.name.as_str()).collect();
    scan::check(model, &outputs)?;
    let options = ImportOptions::default();
    Importer::as_it_is(model, &options)?.lower(&outputs, given)
}

fn refuse_batch(model: &Model, k: usize, why: &str) -> Error {
    Error::UnsupportedModel(format!(
        "{}: exported with a fixed batch of {k}, and it does not work with a batch of 1 ({why}); \
         export it again with a batch of 1 or a dynamic batch axis; if another axis is the batch, \
         or none is, say so with --batch-axis NAME=AXIS|none",
        model.source
    ))
}

fn no_parameters(model: &Model, options: &ImportOptions) -> Error {
    let source = &model.source;
    if options.include.is_empty() && options.exclude.is_empty() {
        Error::UnsupportedModel(format!("{source}: the model has no floating-point parameters"))
    } else {
        Error::Usage(format!("{source}: no parameter is left by the patterns given"))
    }
}
