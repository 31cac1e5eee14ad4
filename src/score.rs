//! Scoring one model: import, fit the data, run the passes that the metrics need, evaluate them.

use std::collections::HashMap;
use std::path::Path;

use crate::data::{Dataset, Target};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::{Fact, Graph};
use crate::import::{self, FinalActivation, ImportOptions, Imported};
use crate::metric::{Evidence, Metric, Options, Pass, Size};
use crate::onnx;
use crate::ops::BatchNormMode;
use crate::pass::{self, Batch, ClassGram, GramRequest};
use crate::tensor::Tensor;
use crate::transform::{self, Init, Loss};

/// What is computed, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The scores, in the order reported.
    pub metrics: Vec<&'static dyn Metric>,
    /// Choices that change what the scores mean.
    pub options: Options,
    /// Where the parameters come from.
    pub init: Init,
    /// Seed of the draw of parameters.
    pub seed: u64,
    /// How many draws are averaged.
    pub repeats: usize,
    /// The loss; `None` for the one that the model's output suggests.
    pub loss: Option<Loss>,
    /// Bytes that the process may take, all in all; `None` for no limit.
    pub memory: Option<u64>,
    /// How models are imported.
    pub import: ImportOptions,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            metrics: crate::metric::select(&["gradalign-1", "gradalign-2"]).unwrap_or_default(),
            options: Options::default(),
            init: Init::Keep,
            seed: 0,
            repeats: 1,
            loss: None,
            memory: None,
            import: ImportOptions::default(),
        }
    }
}

/// One score of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The score's name.
    pub name: &'static str,
    /// Its value, averaged over the repeats; higher is better. Not finite where it is undefined.
    pub value: f64,
    /// Standard deviation over the repeats; `None` for a single one.
    pub std: Option<f64>,
    /// The statistics batch normalisation used; `None` where it makes no difference.
    pub batch_norm: Option<BatchNormMode>,
}

/// The scores of a model.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The scores, in the order asked for.
    pub scores: Vec<Score>,
    /// Parameters and multiply-adds.
    pub size: Size,
    /// The loss used.
    pub loss: Loss,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Scores the ONNX file at `path` on `dataset`.
///
/// # Errors
/// When the file cannot be read or imported, the data does not fit it, the engine fails, or a
/// loss or gradient is not finite.
pub fn score_file(
    path: &Path,
    dataset: &Dataset,
    settings: &Settings,
    engine: &dyn Engine,
) -> Result<Scored> {
    let model = onnx::load(path)?;
    let (imported, batch, loss, mut warnings) = prepare(&model, dataset, settings)?;
    drop(model);
    let mut scored = score(&imported.graph, &batch, loss, settings, engine)?;
    warnings.append(&mut scored.warnings);
    scored.warnings = warnings;
    Ok(scored)
}

/// Imports `model` for the shapes of `dataset` and fits the data to it: the import, the samples,
/// the loss, and warnings of both.
///
/// # Errors
/// When an operator is not supported, or the data does not fit the model's inputs or outputs.
pub fn prepare(
    model: &onnx::Model,
    dataset: &Dataset,
    settings: &Settings,
) -> Result<(Imported, Batch, Loss, Vec<String>)> {
    let mut declared = import::declared_inputs(model);
    for input in &mut declared {
        if let Some(shape) = settings.import.shapes.get(&input.name)
            && shape.len() == input.dims.len()
        {
            input.dims = shape.iter().map(|&d| Some(d)).collect();
        }
    }
    let fitted = dataset.fit_inputs(&declared)?;
    let mut options = settings.import.clone();
    for (input, tensor) in declared.iter().zip(&fitted.tensors) {
        let shape = if input.dims.is_empty() {
            Vec::new()
        } else {
            [&[1], tensor.shape().get(1..).unwrap_or_default()].concat()
        };
        options.shapes.entry(input.name.clone()).or_insert(shape);
    }
    let imported = import::import(model, &options)?;
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
    let output = output_fact(graph)?;
    let loss = settings.loss.unwrap_or_else(|| suggested_loss(&imported, &output));
    let labels = dataset.fit_labels(&target(loss, &output)?)?;
    let classes = match labels.classes {
        Some(classes) => classes.into_iter().map(|c| c as i64).collect(),
        None => vec![0; dataset.samples()],
    };
    let batch = Batch { inputs, targets: labels.tensor, classes };
    let warnings = [fitted.warnings, imported.warnings.clone()].concat();
    Ok((imported, batch, loss, warnings))
}

/// Dtype and shape of a model's prediction for one sample.
pub(crate) fn output_fact(graph: &Graph) -> Result<Fact> {
    let output = graph.outputs().first();
    let output = output.ok_or_else(|| Error::InvalidModel("the model has no output".into()))?;
    Ok(graph.fact(output.value).clone())
}

/// Binary cross-entropy where the model ends in a sigmoid or has a single output, else
/// cross-entropy, over tokens where the output has positions.
pub(crate) fn suggested_loss(imported: &Imported, output: &Fact) -> Loss {
    let several_axes = output.shape.iter().filter(|&&d| d != 1).count() > 1;
    match imported.final_activation {
        Some(FinalActivation::Sigmoid) => Loss::BinaryCrossEntropy,
        _ if output.len() == 1 => Loss::BinaryCrossEntropy,
        _ if several_axes && output.rank() == 3 => Loss::TokenCrossEntropy,
        _ => Loss::CrossEntropy,
    }
}

/// What the labels of one sample are compared with.
fn target(loss: Loss, output: &Fact) -> Result<Target> {
    let fact = loss.target(output)?;
    Ok(match loss {
        Loss::CrossEntropy => Target::Class { classes: output.len() },
        Loss::TokenCrossEntropy => Target::Tokens {
            classes: output.shape.last().copied().unwrap_or(0),
            positions: fact.shape,
        },
        Loss::BinaryCrossEntropy => Target::Binary { shape: fact.shape },
        Loss::MeanSquaredError => Target::Values { shape: fact.shape },
    })
}

/// Scores a model given as a graph whose first output is its prediction.
///
/// # Errors
/// When the model cannot be differentiated, the engine fails, or a loss or gradient is not finite.
pub fn score(
    model: &Graph,
    batch: &Batch,
    loss: Loss,
    settings: &Settings,
    engine: &dyn Engine,
) -> Result<Scored> {
    if settings.repeats == 0 {
        return Err(Error::Usage("--repeats must be at least 1".into()));
    }
    if settings.repeats > 1 && settings.init == Init::Keep {
        return Err(Error::Usage(
            "repeats differ only in the parameters drawn: choose an --init other than keep".into(),
        ));
    }
    let size = Size { parameters: pass::parameters(model), flops: pass::flops(model) };
    let has_batch_norm = pass::has_batch_norm(model);
    let mut warnings = Vec::new();
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); settings.metrics.len()];
    for repeat in 0..settings.repeats {
        let seed = settings.seed.wrapping_add(repeat as u64);
        let model = transform::initialise(model, settings.init, seed)?;
        let mut results = Results { model: &model, batch, loss, settings, engine, grams: vec![] };
        for (metric, values) in settings.metrics.iter().zip(&mut values) {
            let pass = metric.pass(&settings.options)?;
            let grams;
            let evidence = match pass {
                Pass::Static => Evidence::Static(size),
                Pass::ClassGram { .. } => {
                    grams = results.class_grams(pass, &mut warnings)?;
                    Evidence::ClassGram(grams)
                }
            };
            let value = metric.value(&evidence, &settings.options, size.parameters)?;
            values.push(value.value);
            push_new(&mut warnings, value.warnings);
        }
    }
    let scores = settings.metrics.iter().zip(values).map(|(metric, values)| {
        let batch_norm = match metric.pass(&settings.options) {
            Ok(Pass::ClassGram { batch_norm, .. }) if has_batch_norm => Some(batch_norm),
            _ => None,
        };
        let (value, std) = mean_and_deviation(&values);
        Score { name: metric.info().name, value, std, batch_norm }
    });
    Ok(Scored { scores: scores.collect(), size, loss, warnings })
}

/// The passes run so far over one draw of parameters.
struct Results<'a> {
    model: &'a Graph,
    batch: &'a Batch,
    loss: Loss,
    settings: &'a Settings,
    engine: &'a dyn Engine,
    grams: Vec<(Pass, Vec<ClassGram>)>,
}

impl Results<'_> {
    fn class_grams(&mut self, pass: Pass, warnings: &mut Vec<String>) -> Result<&[ClassGram]> {
        let known = self.grams.iter().position(|(known, _)| *known == pass);
        let index = match (known, pass) {
            (Some(index), _) => index,
            (None, Pass::ClassGram { batch_norm, kind }) => {
                check_finite(self.model)?;
                let (graph, notes) = transform::batch_norm(self.model, batch_norm)?;
                push_new(warnings, notes);
                let request = GramRequest { loss: self.loss, kind, memory: self.settings.memory };
                let grams = pass::class_grams(&graph, self.batch, &request, self.engine)?;
                self.grams.push((pass, grams));
                self.grams.len() - 1
            }
            (None, Pass::Static) => return Ok(&[]),
        };
        Ok(&self.grams[index].1)
    }
}

/// Errs at a parameter that is not finite: a ReLU may swallow a NaN and let a number come out.
fn check_finite(model: &Graph) -> Result<()> {
    let finite = |tensor: &Tensor| match tensor {
        Tensor::F32(values) => values.iter().all(|v| v.is_finite()),
        Tensor::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    };
    match model.parameters().find(|(_, parameter)| !finite(&parameter.tensor)) {
        Some((_, parameter)) => Err(Error::Score(format!(
            "the parameter '{}' holds a value that is not finite (NaN or infinity): export the \
             model again, or draw its parameters with --init",
            parameter.name
        ))),
        None => Ok(()),
    }
}

fn push_new(warnings: &mut Vec<String>, more: Vec<String>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}
