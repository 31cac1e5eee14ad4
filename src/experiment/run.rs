//! Running an experiment: networks are built, scored, and kept in a store, where a run that was stopped
//! finds them again.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::plan::{Benchmark, Plan, Variant};
use super::results::{Benched, Results};
use super::scores::{columns, mean};
use super::truth::Accuracies;
use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::probe::Memory;
use crate::rank::{Observer, Shard, score_each};
use crate::score::{Memo, ModelResult, Record, Run, Scorer};
use crate::source::{Architectures, ModelRef, Source};
use crate::space::Architecture;
use crate::store::{Limits, Recall, Store};

/// An experiment that can be run: what it is over has been read.
pub struct Experiment {
    plan: Plan,
    /// For each benchmark, what it is over.
    networks: Vec<Networks>,
}

/// The networks of a benchmark.
pub(super) struct Networks {
    /// Where the images are.
    pub data: String,
    pub architectures: Vec<Box<dyn Architecture>>,
    pub truth: Accuracies,
}

/// What scores networks, and what keeps them.
pub struct Means<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// How much memory runs may take, and how many networks share it.
    pub memory: Memory,
    /// Where results are kept; `None` to keep none.
    pub store: Option<&'a Store>,
    /// The only part of the networks that is scored; `None` for all.
    pub shard: Option<Shard>,
    /// Counts the networks whose results are computed, since they are not known.
    pub computed: &'a AtomicUsize,
}

/// Who is told how an experiment gets on, and can stop it.
pub trait Watch: Send {
    /// Comes before a network is scored, with the number of those finished in all runs.
    fn next(&mut self, finished: usize, network: &str) -> ControlFlow<()>;

    /// Comes after a network, with what became of it.
    fn finished(&mut self, result: &ModelResult) {
        let _ = result;
    }
}

/// What an experiment came to.
pub enum Outcome {
    /// All of it is done.
    Done(Box<Results>),
    /// This many networks of all runs are done: it was stopped, or only a part was to be scored.
    Partly(usize),
}

impl Experiment {
    /// Reads the accuracies and chooses the architectures. Also returns warnings.
    ///
    /// # Errors
    /// When a file cannot be read, or there are no networks with an accuracy.
    pub fn new(plan: Plan) -> Result<(Self, Vec<String>)> {
        let mut warnings = Vec::new();
        let mut networks = Vec::new();
        for benchmark in &plan.benchmarks {
            let of = |error: Error| match error {
                Error::Usage(why) => Error::Usage(format!("benchmark '{}': {why}", benchmark.name)),
                other => other,
            };
            let truth = benchmark.truth.read(benchmark.space).map_err(of)?;
            let mut all = plan.architectures.of(benchmark.space, &truth).map_err(of)?;
            let chosen = all.len();
            all.retain(|architecture| truth.of(&architecture.notation()).is_some());
            let unknown = chosen - all.len();
            if all.is_empty() {
                return Err(of(Error::Usage(format!(
                    "the truth has no accuracy of any of the {chosen} architectures"
                ))));
            }
            // Options that do not fit the space are told now, not once for each network.
            for variant in &benchmark.variants {
                all.first()
                    .map_or(Ok(()), |first| first.build(&variant.build).map(drop))
                    .map_err(of)?;
            }
            if unknown > 0 {
                warnings.push(format!(
                    "benchmark '{}': the truth has no accuracy of {unknown} of {chosen} architectures, \
                     which are left out",
                    benchmark.name
                ));
            }
            if truth.repeated > 0 {
                warnings.push(format!(
                    "benchmark '{}': the truth has {} architectures more than once; their accuracies \
                     are averaged",
                    benchmark.name, truth.repeated
                ));
            }
            let data = benchmark.data.clone().ok_or_else(|| {
                of(Error::Usage("no images were given: name them by `data`".into()))
            })?;
            networks.push(Networks { data, architectures: all, truth });
        }
        Ok((Experiment { plan, networks }, warnings))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many networks are scored in all runs together, or of them in `shard`.
    ///
    /// # Errors
    /// When the networks cannot be listed.
    pub fn networks(&self, shard: Option<Shard>) -> Result<usize> {
        let mut sum = 0;
        for (benchmark, networks) in self.plan.benchmarks.iter().zip(&self.networks) {
            for variant in &benchmark.variants {
                sum += models(networks, variant, shard)?.len() * variant.seeds.len();
            }
        }
        Ok(sum)
    }

    /// Scores all networks that the store does not know, and compares the scores with the accuracies.
    ///
    /// # Errors
    /// When data cannot be read, or a result not be kept. A network that fails has no scores.
    pub fn run(&self, means: &Means, watch: &mut dyn Watch) -> Result<Outcome> {
        let mut finished = 0;
        let mut benched = Vec::new();
        for (benchmark, networks) in self.plan.benchmarks.iter().zip(&self.networks) {
            for variant in &benchmark.variants {
                let models = models(networks, variant, means.shard)?;
                let mut runs = Vec::new();
                let mut of_runs = Vec::new();
                let mut notes = Notes::default();
                for &seed in &variant.seeds {
                    let of = (benchmark, variant, networks);
                    let (run, results) = score(of, seed, &models, means, finished, watch)?;
                    finished += results.len();
                    if results.len() < models.len() {
                        return Ok(Outcome::Partly(finished));
                    }
                    notes.take(&results);
                    // Of a part, nothing is compared.
                    if means.shard.is_none() {
                        of_runs.push(columns(&run, results));
                        runs.push(run);
                    }
                }
                if means.shard.is_none() {
                    let columns = mean(of_runs);
                    benched.push(Benched::new(
                        &self.plan, benchmark, variant, networks, runs, columns, notes,
                    ));
                }
            }
        }
        match means.shard {
            Some(_) => Ok(Outcome::Partly(finished)),
            None => Ok(Outcome::Done(Box::new(Results::new(&self.plan, benched)))),
        }
    }
}

/// What is noted of records beside their scores.
#[derive(Default)]
pub(super) struct Notes {
    pub seconds: Vec<f64>,
    /// Reasons of failures, with the number of networks.
    pub failures: Vec<(String, usize)>,
}

impl Notes {
    fn take(&mut self, results: &[ModelResult]) {
        self.seconds.extend(results.iter().map(|result| result.seconds));
        for error in results.iter().filter_map(|result| result.error.as_ref()) {
            let reason = format!("{}: {}", error.kind, error.message);
            match self.failures.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => self.failures.push((reason, 1)),
            }
        }
    }
}

/// The networks of a variant, or those of them in `shard`.
fn models(networks: &Networks, variant: &Variant, shard: Option<Shard>) -> Result<Vec<ModelRef>> {
    let mut models = Architectures::new(&networks.architectures, &variant.build).list()?;
    models.retain(|model| shard.is_none_or(|shard| shard.contains(model)));
    Ok(models)
}

/// The results of `models` in a run, in order; fewer where it was stopped.
fn score(
    (benchmark, variant, networks): (&Benchmark, &Variant, &Networks),
    seed: u64,
    models: &[ModelRef],
    means: &Means,
    finished: usize,
    watch: &mut dyn Watch,
) -> Result<(Run, Vec<ModelResult>)> {
    let settings = variant.settings.clone().seed(seed);
    let dataset = Dataset::open(&networks.data, &settings.data_options(means.memory.free()))?;
    for warning in dataset.warnings() {
        tracing::warn!("benchmark '{}': {warning}", benchmark.name);
    }
    let scorer = Scorer::new(&settings, &dataset, means.engine, means.memory)?;
    let run = scorer.run().clone();
    let limits = Limits::new(None, means.memory.limit);
    let recall = means.store.map(|store| store.recall(&run, limits.clone()));
    let memo = Counted { recall, computed: means.computed };
    let scorer = scorer.with_memo(&memo);
    let mut kept = Kept { results: vec![None; models.len()], failure: None };
    let keep = Keep { kept: &mut kept, store: means.store, limits, finished, watch };
    let source: &dyn Source = &Architectures::default();
    score_each(source, models, &scorer, keep);
    match kept.failure {
        Some(error) => Err(error),
        None => Ok((run, kept.results.into_iter().flatten().collect())),
    }
}

/// What is known, and how much is not.
struct Counted<'a> {
    recall: Option<Recall<'a>>,
    computed: &'a AtomicUsize,
}

impl Memo for Counted<'_> {
    fn of_content(&self, model: &ModelRef, sha256: &str) -> Option<ModelResult> {
        self.recall.as_ref()?.of_content(model, sha256)
    }

    fn of_key(&self, key: &str) -> Option<ModelResult> {
        self.recall.as_ref()?.of_key(key)
    }

    fn computes(&self, _: &str) {
        self.computed.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is kept of a run.
struct Kept {
    /// By the place of the network.
    results: Vec<Option<ModelResult>>,
    /// Why no more can be kept.
    failure: Option<Error>,
}

/// Keeps results as they come.
struct Keep<'a> {
    kept: &'a mut Kept,
    store: Option<&'a Store>,
    limits: Limits,
    /// How many were finished in earlier runs.
    finished: usize,
    watch: &'a mut dyn Watch,
}

impl Observer for Keep<'_> {
    fn next(&mut self, finished: usize, model: &ModelRef) -> ControlFlow<()> {
        self.watch.next(self.finished + finished, &model.name)
    }

    fn finished(&mut self, position: usize, record: Record) -> ControlFlow<()> {
        let kept = self.store.map_or(Ok(()), |store| store.put(&record, &self.limits));
        self.watch.finished(&record.result);
        self.kept.results[position] = Some(record.result);
        match kept {
            Ok(()) => ControlFlow::Continue(()),
            // Without it, nothing would be left of a run that is stopped.
            Err(error) => {
                self.kept.failure.get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    }
}
