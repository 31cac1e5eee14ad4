//! Scoring as data in, data out: a [`Job`] says all that a [`Record`] depends on.

use std::num::NonZeroUsize;
use std::thread;

use serde::{Deserialize, Serialize};

use super::scorer::contained;
use super::{Failure, Memo, ModelResult, Record, Run, ScoreSettings, Scorer};
use crate::data::{self, Dataset};
use crate::engine::{self, Engine, EngineOptions};
use crate::error::Result;
use crate::probe::Memory;
use crate::source::{AnySource, ModelRef};

/// One model to be scored: names, numbers and addresses, which can be sent to another process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The model.
    pub model: ModelRef,
    /// Where the samples are, as [`Dataset::open`] has it. How they are drawn is in the settings.
    pub data: String,
    /// What is computed.
    #[serde(default)]
    pub settings: ScoreSettings,
    /// What runs the model.
    #[serde(default)]
    pub engine: EngineSettings,
    /// Bytes of memory that the run may take; `None` for what the system has.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The bytes among these that are the process's own; `None` for all of them.
    #[serde(default)]
    pub own_memory: Option<u64>,
}

/// An engine and how it runs, by names and numbers: see [`EngineOptions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct EngineSettings {
    /// `auto`, `ort` or `tract`.
    pub name: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Threads that a session computes with; 0 leaves it to the engine.
    pub threads: usize,
    /// Whether threads that wait keep their cores for a while.
    pub spinning: bool,
    /// Only standard operators.
    pub standard: bool,
    /// ONNX Runtime's library or its folder; `None` to search for it.
    pub ort_lib: Option<String>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let EngineOptions { threads, spinning, standard, .. } = EngineOptions::default();
        let auto = || "auto".to_owned();
        EngineSettings { name: auto(), device: auto(), threads, spinning, standard, ort_lib: None }
    }
}

impl EngineSettings {
    /// Opens the engine.
    ///
    /// # Errors
    /// When a name is not known, or the engine cannot be used.
    pub fn open(&self) -> Result<Box<dyn Engine>> {
        let options = EngineOptions {
            device: self.device.parse()?,
            // Those beyond the cores would only wait, and keep others waiting.
            threads: self.threads.min(thread::available_parallelism().map_or(1, NonZeroUsize::get)),
            spinning: self.spinning,
            standard: self.standard,
            ort_lib: self.ort_lib.as_ref().map(Into::into),
        };
        engine::open(self.name.parse()?, &options)
    }
}

/// Does `job`. Whatever fails, or panics, is in the record.
pub fn run(job: &Job) -> Record {
    Worker::default().run(job)
}

/// Does one job after the other. Jobs on the same data or with the same engine share what is open.
#[derive(Default)]
pub struct Worker {
    /// Whether it does not log what there is to say about the data.
    is_silent: bool,
    source: AnySource,
    data: Option<(String, data::Options, Dataset)>,
    engine: Option<(EngineSettings, Box<dyn Engine>)>,
}

impl Worker {
    /// A worker beside others, of which one has logged already what there is to say about the data.
    pub fn silent() -> Self {
        Worker { is_silent: true, ..Worker::default() }
    }

    /// The same with models of `source`.
    #[must_use]
    pub fn with_source(self, source: AnySource) -> Self {
        Worker { source, ..self }
    }

    /// Does `job`, as [`run`].
    pub fn run(&mut self, job: &Job) -> Record {
        self.recall_or_run(job, |_| ())
    }

    /// Does `job`, unless its result is known to what `memo` gives for its run.
    pub fn recall_or_run<M: Memo>(&mut self, job: &Job, memo: impl FnOnce(&Run) -> M) -> Record {
        contained(|| self.record(job, memo)).unwrap_or_else(|failure| failed(job, failure))
    }

    fn record<M: Memo>(&mut self, job: &Job, memo: impl FnOnce(&Run) -> M) -> Result<Record> {
        let memory = job.memory.map_or_else(Memory::default, Memory::up_to);
        let memory = Memory { own: job.own_memory, ..memory };
        let options = job.settings.data_options(None);
        let opened = matches!(&self.data, Some((of, by, _)) if (of, by) == (&job.data, &options));
        if !opened {
            self.data = None;
            let dataset = Dataset::open(&job.data, &job.settings.data_options(memory.free()))?;
            for warning in dataset.warnings().iter().filter(|_| !self.is_silent) {
                tracing::warn!("{warning}");
            }
            self.data = Some((job.data.clone(), options, dataset));
        }
        if self.engine.as_ref().is_none_or(|(of, _)| *of != job.engine) {
            self.engine = None;
            self.engine = Some((job.engine.clone(), job.engine.open()?));
        }
        let (Some((.., dataset)), Some((_, engine))) = (&self.data, &self.engine) else {
            return Err(crate::Error::Usage("neither data nor an engine is open".into()));
        };
        let scorer = Scorer::new(&job.settings, dataset, &**engine, memory)?;
        let memo = memo(scorer.run());
        Ok(scorer.with_memo(&memo).score(&job.model, &self.source))
    }
}

/// The record of a job that failed before there was anything to score with.
fn failed(job: &Job, failure: Failure) -> Record {
    let engine = engine::Description {
        name: job.engine.name.clone(),
        version: String::new(),
        device: job.engine.device.clone(),
        note: None,
    };
    let data = data::Description {
        source: ModelRef::new(&job.data).file_name().to_owned(),
        samples: 0,
        classes: None,
        sha256: None,
    };
    let mut result = ModelResult::new(&job.model);
    result.fail(failure);
    let settings = job.settings.spelt_out().unwrap_or_else(|_| job.settings.clone());
    Record { run: Run::new(engine, data, settings), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(model: &str, data: &str) -> Job {
        let root = env!("CARGO_MANIFEST_DIR");
        Job {
            model: ModelRef::new(format!("{root}/{model}")),
            data: format!("{root}/{data}"),
            settings: ScoreSettings::new().metrics(["params", "gradalign-1"]),
            engine: EngineSettings { name: "tract".into(), ..EngineSettings::default() },
            memory: None,
            own_memory: None,
        }
    }

    #[test]
    fn jobs_survive_being_written() {
        let mut job = job("a", "b");
        job.memory = Some(u64::MAX);
        job.engine.ort_lib = Some("lib".into());
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
        let short = r#"{"model": {"name": "a", "address": "x/a"}, "data": "synthetic"}"#;
        let short: Job = serde_json::from_str(short).unwrap();
        assert_eq!((short.settings, short.engine), Default::default());
        assert!(serde_json::from_str::<Job>(&text.replace("data", "date")).is_err());
    }

    #[test]
    fn whatever_fails_is_in_the_record() {
        let digits = "fixtures/digits-30.npz";
        let mut worker = Worker::default();
        let good = job("models/mlp.onnx", digits);
        let record = worker.run(&good);
        assert!(record.result.error.is_none() && record.result.value("gradalign-1").is_some());
        let again = run(&good);
        assert_eq!((&again.run, &again.result.scores), (&record.run, &record.result.scores));

        let mut engine = good.clone();
        engine.engine.name = "torch".into();
        let mut settings = good.clone();
        settings.settings.metrics = vec!["best".into()];
        for (job, kind, says) in [
            (job("nowhere.onnx", digits), "io", "nowhere.onnx"),
            (job("models/mlp.onnx", "nowhere.npz"), "io", "nowhere.npz"),
            (engine, "usage", "unknown engine 'torch'"),
            (settings, "usage", "unknown score 'best'"),
        ] {
            let error = worker.run(&job).result.error.unwrap();
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(says), "{}", error.message);
        }
        // What failed in between leaves no trace.
        assert_eq!(worker.run(&good).result.scores, record.result.scores);
    }
}
