//! Probes, and running those together that are shown the same.

use super::combine::Results;
use super::gradients::{PairGradients, SampleGradients};
use super::memory::Memory;
use super::network::Network;
use super::sample_runs::{Pairs, Samples};
use super::size::has_batch_norm;
use super::view::{BatchView, SampleView, Treatment};
use super::{Batch, Roles};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::ops::BatchNormMode;
use crate::tensor::Tensor;
use crate::transform::{self, Loss};

/// Makes a result of type `T` of the results of the values that a probe watches.
pub type Reading<T> = Box<dyn FnOnce(&Results) -> Result<T>>;

/// What a score looks at: the graph that it is shown, the values that it adds to it, and what it reads
/// off their results. It is evaluated by [`evaluate`].
///
/// ```
/// use gradalign::ops::BatchNormMode;
/// use gradalign::probe::{BatchView, Probe};
///
/// // The largest output on any sample.
/// let view = BatchView::samples(BatchNormMode::Running);
/// let largest = Probe::of_batch(view, |network| {
///     let outputs = network.outputs();
///     let outputs = network.tensor(outputs);
///     Ok(Box::new(move |results| {
///         Ok(results.get(outputs)?.to_f64().iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v)))
///     }))
/// });
/// assert!(!largest.draws());
/// ```
pub struct Probe<T>(Kind<T>);

type LookAtModel<T> = Box<dyn Fn(&Graph) -> Result<T>>;
type LookAtBatch<T> = Box<dyn Fn(&mut Network) -> Result<Reading<T>>>;
type LookAtSamples<T> = Box<dyn Fn(&mut PairGradients) -> Result<Reading<T>>>;

enum Kind<T> {
    Model(LookAtModel<T>),
    Batch(BatchView, LookAtBatch<T>),
    Samples(SampleView, Pairs, LookAtSamples<T>),
}

impl<T> Probe<T> {
    /// A probe of the model's graph, as it was imported. Nothing is run.
    pub fn of_model(look: impl Fn(&Graph) -> Result<T> + 'static) -> Self {
        Probe(Kind::Model(Box::new(look)))
    }

    /// A probe of a network on a whole batch.
    pub fn of_batch(
        view: BatchView,
        look: impl Fn(&mut Network) -> Result<Reading<T>> + 'static,
    ) -> Self {
        Probe(Kind::Batch(view, Box::new(look)))
    }

    /// A probe of the gradients of samples, each by itself. `look` is called for each size of run that
    /// is tried.
    pub fn of_samples(
        view: SampleView,
        look: impl Fn(&mut SampleGradients) -> Result<Reading<T>> + 'static,
    ) -> Self {
        Probe(Kind::Samples(view, Pairs::None, Box::new(move |gradients| look(&mut gradients.0))))
    }

    /// A probe that compares the gradients of samples: those of every two of a class, or of all, are
    /// in one run. `look` is called for each size of run that is tried.
    pub fn of_pairs(
        view: SampleView,
        pairs: Pairs,
        look: impl Fn(&mut PairGradients) -> Result<Reading<T>> + 'static,
    ) -> Self {
        Probe(Kind::Samples(view, pairs, Box::new(look)))
    }

    /// How batches are normalised; `None` where that does not matter.
    pub fn treatment(&self) -> Option<Treatment> {
        match &self.0 {
            Kind::Model(_) => None,
            Kind::Batch(view, _) => Some(view.treatment()),
            Kind::Samples(view, ..) => Some(Treatment::Statistics(view.batch_norm)),
        }
    }

    /// Whether parameters or inputs are drawn anew at each repeat.
    pub fn draws(&self) -> bool {
        matches!(&self.0, Kind::Batch(view, _) if view.draws())
    }

    /// The result of a probe of a batch on `network`, run on `inputs` that the caller gives: one for each
    /// input of the model, and the targets where the view has them.
    ///
    /// # Errors
    /// As [`Network::run`], and for a probe of something else than a batch.
    pub fn on(
        &self,
        mut network: Network,
        inputs: &[Tensor],
        memory: Memory,
        engine: &dyn Engine,
    ) -> Result<T> {
        let Kind::Batch(_, look) = &self.0 else { return Err(other_probe()) };
        let reading = look(&mut network)?;
        reading(&network.run(inputs, memory, engine)?)
    }

    /// What it is shown of a model with or without batch normalisation.
    fn shown(&self, has_batch_norm: bool) -> Shown {
        match &self.0 {
            Kind::Model(_) => Shown::Model,
            Kind::Batch(view, _) if has_batch_norm => Shown::Batch(view.clone()),
            Kind::Batch(view, _) => Shown::Batch(view.clone().without_batch_norm()),
            Kind::Samples(view, pairs, _) if has_batch_norm => Shown::Samples(*view, *pairs),
            Kind::Samples(view, pairs, _) => Shown::Samples(view.without_batch_norm(), *pairs),
        }
    }
}

/// What probes share.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Model,
    Batch(BatchView),
    Samples(SampleView, Pairs),
}

impl Shown {
    /// What both are shown together, where they can be.
    fn with(&self, other: &Shown) -> Option<Shown> {
        match (self, other) {
            (&Shown::Samples(view, a), &Shown::Samples(other, b)) if view == other => {
                let both = a.max(b);
                (a == b || a.min(b) == Pairs::None).then_some(Shown::Samples(view, both))
            }
            _ => (self == other).then(|| self.clone()),
        }
    }
}

/// What probes are evaluated on.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The model, as imported, with one draw of its parameters.
    pub model: &'a Graph,
    /// The roles of its parameters.
    pub roles: &'a Roles,
    /// The samples.
    pub samples: &'a Batch,
    /// The loss.
    pub loss: Loss,
    /// The seed of what views draw.
    pub seed: u64,
    /// What bounds the memory of the runs.
    pub memory: Memory,
    /// What runs the graphs.
    pub engine: &'a dyn Engine,
}

/// The results of `probes`. Those that are shown the same share its graph and its runs; where a joint
/// run fails, each runs alone, so that a failure costs one result only. New warnings are added to
/// `warnings`.
pub fn evaluate<T>(
    probes: &[&Probe<T>],
    subject: &Subject,
    warnings: &mut Vec<String>,
) -> Vec<Result<T>> {
    let has_batch_norm = has_batch_norm(subject.model);
    let damage = not_finite(subject.model);
    let mut results: Vec<Option<Result<T>>> = probes.iter().map(|_| None).collect();
    for first in 0..probes.len() {
        if results[first].is_some() {
            continue;
        }
        let mut shown = probes[first].shown(has_batch_norm);
        let mut together = vec![first];
        for i in first + 1..probes.len() {
            let both = shown.with(&probes[i].shown(has_batch_norm));
            if let (None, Some(both)) = (&results[i], both) {
                together.push(i);
                shown = both;
            }
        }
        let group: Vec<&Probe<T>> = together.iter().map(|&i| probes[i]).collect();
        let of_group = match &damage {
            Some(why) if shown != Shown::Model => {
                group.iter().map(|_| Err(Error::Score(why.clone()))).collect()
            }
            _ => subject.run(&shown, &group, warnings),
        };
        for (i, result) in together.into_iter().zip(of_group) {
            results[i] = Some(result);
        }
    }
    let missing = || Err(Error::Score("the score was not computed".into()));
    results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
}

impl Subject<'_> {
    fn run<T>(
        &self,
        shown: &Shown,
        group: &[&Probe<T>],
        warnings: &mut Vec<String>,
    ) -> Vec<Result<T>> {
        let together = match shown {
            Shown::Model => return group.iter().map(|probe| self.of_model(probe)).collect(),
            Shown::Batch(view) => self.of_batch(view, group, warnings),
            Shown::Samples(view, pairs) => self.of_samples(*view, *pairs, group, warnings),
        };
        match (together, group) {
            (Ok(results), _) => results,
            (Err(error), [_]) => vec![Err(error)],
            (Err(error), _) => {
                tracing::debug!("joint run failed, each probe runs alone: {error}");
                group.iter().flat_map(|probe| self.run(shown, &[*probe], warnings)).collect()
            }
        }
    }

    fn of_model<T>(&self, probe: &Probe<T>) -> Result<T> {
        match &probe.0 {
            Kind::Model(look) => look(self.model),
            Kind::Batch(..) | Kind::Samples(..) => Err(other_probe()),
        }
    }

    fn of_batch<T>(
        &self,
        view: &BatchView,
        group: &[&Probe<T>],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Result<T>>> {
        let model = view.parameters_of(self.model, self.seed)?;
        let lanes = view.lanes(self.samples);
        let mut network = Network::new(&model, self.roles, view, self.loss, lanes)?;
        let readings: Vec<Result<Reading<T>>> = group
            .iter()
            .map(|probe| {
                let Kind::Batch(_, look) = &probe.0 else { return Err(other_probe()) };
                let watched = network.watched().values().len();
                look(&mut network).inspect_err(|_| network.watched().truncate(watched))
            })
            .collect();
        let notes = network.warnings().to_vec();
        let inputs = match network.watched().values() {
            [] => Vec::new(),
            _ => view.tensors(&model, self.samples, self.seed)?,
        };
        let results = network.run(&inputs, self.memory, self.engine)?;
        push_new(warnings, notes);
        Ok(readings.into_iter().map(|reading| reading?(&results)).collect())
    }

    fn of_samples<T>(
        &self,
        view: SampleView,
        pairs: Pairs,
        group: &[&Probe<T>],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Result<T>>> {
        let (decided, notes) = transform::batch_norm(self.model, view.batch_norm)?;
        let model = decided.graph;
        push_new(warnings, notes);
        let thinned;
        let batch = match view.samples {
            Some(most) if most < self.samples.len() => {
                thinned = self.samples.thinned(most)?;
                &thinned
            }
            _ => self.samples,
        };
        let samples = Samples {
            model: &model,
            roles: self.roles,
            batch,
            objective: view.of.objective(self.loss),
            pairs,
            memory: self.memory,
        };
        let mut readings: Vec<Result<Reading<T>>> = Vec::new();
        let mut look = |gradients: &mut PairGradients| {
            readings = group
                .iter()
                .map(|probe| {
                    let Kind::Samples(.., look) = &probe.0 else { return Err(other_probe()) };
                    let watched = gradients.watched().values().len();
                    look(gradients).inspect_err(|_| gradients.watched().truncate(watched))
                })
                .collect();
        };
        let coupled = view.batch_norm == BatchNormMode::Batch && has_batch_norm(&model);
        let results = match coupled {
            true => samples.run_coupled(&mut look, self.engine)?,
            false => samples.run(&mut look, self.engine)?,
        };
        Ok(readings.into_iter().map(|reading| reading?(&results)).collect())
    }
}

/// Probes are grouped by what they are shown.
fn other_probe() -> Error {
    Error::Score("a probe was shown another graph than its own".into())
}

fn push_new(warnings: &mut Vec<String>, more: Vec<String>) {
    for warning in more {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// Says which parameter is not finite: a ReLU may swallow a NaN and let a number come out.
pub(crate) fn not_finite(model: &Graph) -> Option<String> {
    let finite = |tensor: &Tensor| match tensor {
        Tensor::F32(values) => values.iter().all(|v| v.is_finite()),
        Tensor::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    };
    let (_, parameter) = model.parameters().find(|(_, parameter)| !finite(&parameter.tensor))?;
    Some(format!(
        "the parameter '{}' holds a value that is not finite (NaN or infinity): export the model \
         again, or draw its parameters with `init`",
        parameter.name
    ))
}
