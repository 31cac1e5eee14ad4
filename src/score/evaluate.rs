//! From a graph, samples and a loss to the scores: the probes of the metrics, over the repeats.

use super::Resolved;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::metric::{self, Metric, Size};
use crate::ops::BatchNormMode;
use crate::probe::{self, Batch, Probe, Roles, Subject, Treatment};
use crate::transform::{self, Init, Loss, Reduction};

/// One score of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreValue {
    /// The score's name.
    pub name: &'static str,
    /// Its value, averaged over the repeats; higher is better. Not finite where it is undefined.
    pub value: f64,
    /// The value of each repeat; a single one where the repeats do not differ.
    pub values: Vec<f64>,
    /// Standard deviation over the repeats; `None` for a single one.
    pub std: Option<f64>,
    /// What became of batch normalisation; `None` where there is none, or it makes no difference.
    pub batch_norm: Option<Treatment>,
    /// Why the value is not finite, where the score failed.
    pub reason: Option<String>,
    /// The scores that this one is the sum of, where it is one.
    pub parts: Vec<(&'static str, f64)>,
}

impl ScoreValue {
    /// A value by itself.
    pub fn new(name: &'static str, value: f64) -> Self {
        let (values, parts) = (vec![value], Vec::new());
        ScoreValue { name, value, values, std: None, batch_norm: None, reason: None, parts }
    }
}

/// The scores of a model.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The scores, in the order asked for.
    pub scores: Vec<ScoreValue>,
    /// Parameters and multiply-adds.
    pub size: Size,
    /// The loss used.
    pub loss: Loss,
    /// The name of the model's output that it is of.
    pub output: String,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Whether a score is missing only for want of memory.
    pub short_of_memory: bool,
}

/// Scores a model given as a graph whose first output is its prediction.
///
/// A score that cannot be computed is not a number and says why; the others are not affected.
///
/// ```
/// use gradalign::engine::{EngineChoice, EngineOptions, open};
/// use gradalign::graph::{Builder, Fact};
/// use gradalign::probe::{Batch, Memory};
/// use gradalign::score::{ScoreSettings, score};
/// use gradalign::tensor::{DType, Tensor};
/// use gradalign::transform::Loss;
///
/// # fn main() -> gradalign::Result<()> {
/// // A linear classifier of three classes, for one sample of four numbers.
/// let mut b = Builder::default();
/// let x = b.input("x", Fact::new(DType::F32, [1, 4]));
/// let w = b.parameter("w", Tensor::f32(&[4, 3], (0..12).map(|i| (i as f32).sin()).collect())?);
/// let logits = b.matmul(x, w)?;
/// b.output("logits", logits);
/// let model = b.finish();
///
/// // Six samples, two of each class.
/// let batch = Batch {
///     inputs: vec![Tensor::f32(&[6, 4], (0..24).map(|i| (i as f32).cos()).collect())?],
///     targets: Tensor::index([0, 1, 2, 0, 1, 2]),
///     classes: vec![0, 1, 2, 0, 1, 2],
/// };
/// let settings = ScoreSettings::new().metrics(["gradalign-1"]).resolve(Memory::default())?;
/// let engine = open(EngineChoice::Tract, &EngineOptions::default())?;
/// let scored = score(&model, &batch, Loss::CrossEntropy, &settings, &*engine)?;
/// assert_eq!(scored.size.parameters, 12);
/// assert!(scored.scores[0].value > 0.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When no score can be computed: the model cannot be differentiated, the engine fails, a loss or
/// gradient is not finite.
pub fn score(
    model: &Graph,
    batch: &Batch,
    loss: Loss,
    settings: &Resolved,
    engine: &dyn Engine,
) -> Result<Scored> {
    let (metrics, options) = (&settings.metrics, &settings.options);
    let leaves = leaves(metrics);
    let probes = leaves.iter().map(|leaf| leaf.probe(options)).collect::<Result<Vec<_>>>()?;
    check_repeats(settings)?;
    let size = Size {
        parameters: probe::parameters(model),
        live_parameters: probe::live_parameters(model),
        flops: probe::flops(model),
    };
    let roles = Roles::of(model);
    let mut outcomes: Vec<Outcome> = leaves.iter().map(|_| Outcome::default()).collect();
    let mut warnings = Vec::new();
    for repeat in 0..settings.repeats {
        let seed = settings.seed.wrapping_add(repeat as u64);
        // Nothing changes between repeats but what is drawn.
        let changes = |i: &usize| repeat == 0 || settings.init != Init::Keep || probes[*i].draws();
        let changing: Vec<usize> = (0..leaves.len()).filter(changes).collect();
        let chosen: Vec<&Probe<_>> = changing.iter().map(|&i| &probes[i]).collect();
        let model = transform::initialise(model, settings.init, seed)?;
        let (model, roles, samples, memory) = (&model, &roles, batch, settings.memory);
        let subject = Subject { model, roles, samples, loss, seed, memory, engine };
        let results = probe::evaluate(&chosen, &subject, &mut warnings);
        for (i, result) in changing.into_iter().zip(results) {
            outcomes[i].add(result, &mut warnings);
        }
    }
    let short_of_memory = outcomes.iter().any(|o| matches!(o.error, Some(Error::Memory(_))));
    if outcomes.iter().all(|outcome| outcome.error.is_some())
        && let Some(error) = outcomes.iter_mut().find_map(|outcome| outcome.error.take())
    {
        return Err(error);
    }
    let has_batch_norm = probe::has_batch_norm(model);
    let scores = metrics.iter().map(|metric| {
        let parts: Vec<(&'static str, &Outcome)> = parts_of(metric)
            .iter()
            .map(|part| part.info().name)
            .filter_map(|name| {
                let i = leaves.iter().position(|leaf| leaf.info().name == name)?;
                Some((name, &outcomes[i]))
            })
            .collect();
        // A part that does not change with the repeats has one value for all of them.
        let repeats = parts.iter().map(|(_, part)| part.values.len()).max().unwrap_or(0);
        let value = |part: &Outcome, i: usize| part.values.get(i).or(part.values.first()).copied();
        let sum = |i| parts.iter().map(|(_, part)| value(part, i).unwrap_or(f64::NAN)).sum();
        let values: Vec<f64> = (0..repeats).map(sum).collect();
        let (value, std) = mean_and_deviation(&values);
        let treatment = metric.probe(options).ok().and_then(|probe| probe.treatment());
        let mean = |part: &Outcome| mean_and_deviation(&part.values).0;
        ScoreValue {
            name: metric.info().name,
            value,
            values,
            std,
            batch_norm: treatment.filter(|_| has_batch_norm),
            reason: parts.iter().find_map(|(_, p)| p.error.as_ref().map(ToString::to_string)),
            parts: match parts.as_slice() {
                [_] => Vec::new(),
                several => several.iter().map(|(name, part)| (*name, mean(part))).collect(),
            },
        }
    });
    let output = model.outputs().first().map(|output| output.name.clone()).unwrap_or_default();
    Ok(Scored { scores: scores.collect(), size, loss, output, warnings, short_of_memory })
}

/// Errs where a model that was prepared has no score: a parameter is not finite, or the loss cannot be
/// differentiated. Nothing is run for it.
pub(crate) fn check(model: &Graph, loss: Loss) -> Result<()> {
    if let Some(why) = probe::not_finite(model) {
        return Err(Error::Score(why));
    }
    let model = transform::batch_norm(model, BatchNormMode::Running)?.0.graph;
    transform::training_graph(&model, loss, 1, Reduction::PerSample).map(drop)
}

/// Errs where repeats would all be the same.
///
/// # Errors
/// For no repeats, or several of scores that draw nothing from parameters that are kept.
pub(crate) fn check_repeats(settings: &Resolved) -> Result<()> {
    let draws = |leaf: &&dyn Metric| leaf.probe(&settings.options).is_ok_and(|probe| probe.draws());
    if settings.repeats == 0 {
        return Err(Error::Usage("`repeats` must be at least 1".into()));
    }
    if settings.repeats > 1
        && settings.init == Init::Keep
        && !leaves(&settings.metrics).iter().any(draws)
    {
        return Err(Error::Usage(
            "repeats differ only in what is drawn: choose an `init` other than keep, or a score \
             that draws parameters or inputs of its own"
                .into(),
        ));
    }
    Ok(())
}

/// The scores that `metric` is the sum of; itself where it is none.
fn parts_of<'a>(metric: &'a &'static dyn Metric) -> &'a [&'static dyn Metric] {
    match metric.parts() {
        [] => std::slice::from_ref(metric),
        parts => parts,
    }
}

/// The scores that `metrics` are made of, each once.
fn leaves(metrics: &[&'static dyn Metric]) -> Vec<&'static dyn Metric> {
    let mut leaves: Vec<&'static dyn Metric> = Vec::new();
    for metric in metrics {
        for part in parts_of(metric) {
            if leaves.iter().all(|leaf| leaf.info().name != part.info().name) {
                leaves.push(*part);
            }
        }
    }
    leaves
}

/// What became of a score over the repeats.
#[derive(Default)]
struct Outcome {
    values: Vec<f64>,
    error: Option<Error>,
}

impl Outcome {
    fn add(&mut self, result: Result<metric::Value>, warnings: &mut Vec<String>) {
        match result {
            Ok(value) => {
                self.values.push(value.value);
                push_new(warnings, value.warnings);
            }
            Err(error) => {
                self.values.push(f64::NAN);
                self.error.get_or_insert(error);
            }
        }
    }
}

fn push_new(warnings: &mut Vec<String>, more: Vec<String>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// Mean and, of several values, standard deviation.
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}
