//! Lowers an ONNX model to the graph IR, whose operations are the primitives of [`crate::ops`].
//!
//! The import removes the differences between operator-set versions, exporters and spellings. It
//! inlines local functions, makes all shapes static with a batch size of 1, folds arithmetic on shapes
//! to constants, and decides which stored tensors are parameters.

mod batch;
mod bounds;
mod call;
mod final_activation;
mod folded;
mod importer;
mod inputs;
mod layout;
mod literal;
mod lower;
#[cfg(test)]
pub(crate) mod made;
mod output;
mod provenance;
mod quantised;
mod scan;
#[cfg(test)]
mod storage_tests;
mod table;
#[cfg(test)]
mod tests;
mod ties;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use crate::onnx::{DeclaredInput, declared_inputs};
pub(crate) use bounds::bounds;
pub use final_activation::FinalActivation;
pub use output::default_output;
pub use scan::Problem;
pub use table::{Entry, entries, markdown};

use crate::error::{Error, Result};
use crate::graph::{Fact, Graph};
use crate::onnx::Model;
use crate::tensor::Tensor;
use importer::Importer;
use inputs::Shapes;

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// By input, its full shape with a batch axis of length 1. Required for inputs with open dimensions
    /// other than the batch.
    pub shapes: HashMap<String, Vec<usize>>,
    /// By input, the shape of one sample in the data, without a batch axis.
    pub samples: HashMap<String, Vec<usize>>,
    /// By input, a fixed value that makes it a constant: one number for all elements, or one for each.
    pub fixed: HashMap<String, Vec<f64>>,
    /// By input, its batch axis, or `None` if it has no batch axis. Guessed for inputs not listed.
    pub batch_axes: HashMap<String, Option<usize>>,
    /// The output to score, or any other value of the main graph; [`default_output`] by default.
    pub output: Option<String>,
    /// Glob patterns for names of tensors. If not empty, exactly the floating-point tensors that match
    /// one of them are parameters.
    pub include: Vec<String>,
    /// Glob patterns for names of tensors. Those that match one of them are constants.
    pub exclude: Vec<String>,
    /// Keeps a final softmax or sigmoid in the graph, for a loss of the outputs themselves. By default
    /// the graph ends at the logits.
    pub keep_activation: bool,
}

/// A model lowered to the graph IR.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The graph. All inputs and its only output have a batch axis of length 1 in front, whatever their
    /// layout in the file. The output is taken before the final activation, unless that is kept.
    pub graph: Graph,
    /// The name of the output.
    pub output: String,
    /// For each input of the graph, its batch axis in the file; `None` if it has none there.
    pub batch_axes: Vec<Option<usize>>,
    /// The final activation that the graph leaves out.
    pub final_activation: Option<FinalActivation>,
    /// The number of batch normalisations.
    pub batch_norms: usize,
    /// Warnings: what may give scores another meaning than the user expects.
    pub warnings: Vec<String>,
    /// Decisions that the import took.
    pub notes: Vec<String>,
    /// Facts about the file.
    pub info: Info,
}

/// Facts about a model file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Info {
    /// The version of the file format.
    pub ir_version: i64,
    /// The exporter and its version.
    pub producer: String,
    /// Operator-set versions by domain; `ai.onnx` is the empty domain.
    pub opsets: BTreeMap<String, i64>,
    /// The number of nodes lowered, by operator. Local functions are inlined, dead nodes not counted.
    pub operators: BTreeMap<String, usize>,
}

/// Lowers one output of `model` at a batch size of 1.
///
/// # Errors
/// When an operator is not supported, when a shape is open, when shapes do not agree, and when the
/// model has no parameters.
pub fn import(model: &Model, options: &ImportOptions) -> Result<Imported> {
    let output = output::wanted_output(model, options)?;
    scan::check(model, &[&output])?;
    let mut importer = Importer::new(model, options)?;
    let fixed_batch = importer.fixed_batch();
    if fixed_batch.is_some() {
        importer.compare_with(Importer::at_file_batch(model, options)?.record_shapes(&output)?);
    }
    let value = match (importer.run(&output), fixed_batch) {
        (Err(Error::Shape(why)), Some(k)) => return Err(refuse_batch(model, k, &why)),
        (lowered, _) => lowered?,
    };
    let mut imported = importer.finish(&output, value)?;
    if options.output.is_none() {
        imported.warnings.extend(output::choice_of_output(model, &output));
    }
    if imported.graph.parameters().next().is_none() {
        return Err(no_parameters(model, options));
    }
    Ok(imported)
}

/// All problems that keep `model` from being imported: unsupported operators, unsupported forms of
/// operators, and inputs of unknown shape. Empty if [`import`] succeeds.
pub fn all_problems(model: &Model, options: &ImportOptions) -> Vec<Problem> {
    let output = match output::wanted_output(model, options) {
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
    let more = match Importer::at_file_batch(model, options) {
        Ok(importer) => importer.survey(&output),
        Err(error) => vec![Problem::general(&error)],
    };
    let known: HashSet<(String, String)> =
        found.iter().map(|p| (p.node.clone(), p.op.clone())).collect();
    found.extend(more.into_iter().filter(|p| !known.contains(&(p.node.clone(), p.op.clone()))));
    found
}

/// The inputs that need data: those that the output depends on and that have no fixed value. Their
/// dimensions are those of one sample with a batch axis of 1 in front, with the shapes in `options`
/// filled in.
///
/// # Errors
/// When the model has no such output, or the batch axis of an input is not clear.
pub fn needed_inputs(model: &Model, options: &ImportOptions) -> Result<Vec<DeclaredInput>> {
    let output = output::wanted_output(model, options)?;
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

/// The batch axis of an input in the file, or `Some(None)` if it has no batch axis. `None` if the batch
/// axis is not clear or the input has a fixed value.
///
/// # Errors
/// When `options` do not fit the model.
pub fn batch_axis(
    model: &Model,
    options: &ImportOptions,
    input: &str,
) -> Result<Option<Option<usize>>> {
    Ok(Shapes::new(model, options)?.known_batch_axis(input))
}

/// How [`lower`] treats an input of the model.
#[derive(Clone, Debug)]
pub enum Given {
    /// An input of the graph, with this dtype and shape.
    Open(Fact),
    /// A constant.
    Known(Tensor),
    /// A sequence.
    List(Vec<Given>),
    /// An optional input that is left out.
    Absent,
}

/// Lowers all outputs of `model` with the inputs `given`, without a batch axis. An output `y` that is a
/// sequence becomes the outputs `y[0]`, `y[1]` and so on; an input that is a sequence likewise.
///
/// This is for single operators and other graphs that need not be networks. Networks to be scored are
/// lowered by [`import`].
///
/// # Errors
/// When an operator is not supported, an input is not given, or shapes do not fit together.
pub fn lower(model: &Model, given: &HashMap<String, Given>) -> Result<Graph> {
    let outputs: Vec<&str> = model.graph.outputs.iter().map(|o| o.name.as_str()).collect();
    scan::check(model, &outputs)?;
    let options = ImportOptions::default();
    Importer::verbatim(model, &options)?.lower(&outputs, given)
}

fn refuse_batch(model: &Model, k: usize, why: &str) -> Error {
    Error::UnsupportedModel(format!(
        "{}: exported with a fixed batch of {k}, and it does not work with a batch of 1 ({why}); \
         export it again with a batch of 1 or a dynamic batch axis; if another axis is the batch, \
         or none is, say so with `batch-axis` NAME=AXIS|none",
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
