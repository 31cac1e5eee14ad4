//! Models scored in processes of their own: what crashes, hangs or takes too much memory costs one model
//! its scores, and no other.
//!
//! Each thread of the queue has a worker, a process that does one [`Job`] after the other: it reads
//! them from its standard input, a line each, and writes [`Event`]s to its standard output. A worker
//! that dies, or has to be killed, is followed by a new one.

mod child;
mod death;
mod event;
mod process;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use child::confine;
pub use event::Event;
pub use process::kill_all;

use super::Observer;
use super::queue::each;
use crate::probe::Memory;
use crate::score::{EngineSettings, Failure, Job, ModelResult, Record, Run, ScoreSettings};
use crate::source::ModelRef;
use process::Process;

/// How models are scored in processes of their own.
pub struct Isolation {
    /// The program of a worker: see [`confine`] and [`Event`] for what it must do.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What all records have in common.
    pub run: Run,
    /// Where the samples are.
    pub data: String,
    /// What is computed.
    pub settings: ScoreSettings,
    /// What runs the models.
    pub engine: EngineSettings,
    /// How long a model may take; `None` for as long as it takes.
    pub timeout: Option<Duration>,
    /// What this process and its workers may take together.
    pub memory: Memory,
}

/// As [`score_each`](super::score_each), with each model in a process of its own.
pub fn score_isolated(models: &[ModelRef], isolation: &Isolation, observer: impl Observer) {
    // What is free changes once there are workers.
    let share = isolation.memory.free();
    let worker = || {
        let mut worker = Worker { isolation, process: None };
        move |model: &ModelRef, memory: Memory| worker.score(model, memory, share)
    };
    each(models, isolation.memory, worker, observer);
}

/// A process, or none as long as there is nothing to do.
struct Worker<'a> {
    isolation: &'a Isolation,
    process: Option<Process>,
}

impl Worker<'_> {
    /// The record of `model`, within `share` bytes, or all of `memory` where it has no sharers.
    fn score(&mut self, model: &ModelRef, memory: Memory, share: Option<u64>) -> Record {
        let start = Instant::now();
        let is_alone = memory.sharers < self.isolation.memory.sharers;
        if is_alone {
            // The others have ended, and so does this one, before what is free is counted.
            self.process = None;
        }
        let allowed = if is_alone { memory.free() } else { share };
        let mut content = None;
        match self.attempt(model, allowed, &mut content) {
            Ok(record) => record,
            Err(failure) => {
                let mut result = ModelResult { sha256: content, ..ModelResult::new(model) };
                result.fail(failure);
                result.seconds = start.elapsed().as_secs_f64();
                Record { run: self.isolation.run.clone(), result }
            }
        }
    }

    fn attempt(
        &mut self,
        model: &ModelRef,
        allowed: Option<u64>,
        content: &mut Option<String>,
    ) -> Result<Record, Failure> {
        let Isolation { program, arguments, run, data, settings, engine, timeout, memory } =
            self.isolation;
        let job = Job {
            model: model.clone(),
            data: data.clone(),
            settings: settings.clone(),
            engine: engine.clone(),
            memory: memory.limit,
            own_memory: allowed,
        };
        let has_ended = self.process.as_mut().is_none_or(Process::has_ended);
        let mut process = match self.process.take() {
            Some(process) if !has_ended => process,
            _ => Process::start(program, arguments)?,
        };
        let mut record = process.score(&job, allowed, *timeout, content)?;
        // One that did not get so far as to the model does not know what it runs in.
        let has_failed = record.result.error.is_some();
        if record.run != *run && !has_failed {
            return Err(Failure {
                kind: "io".into(),
                message:
                    "the data, the engine or the program has changed since the run began: start \
                          it again"
                        .into(),
            });
        }
        record.run.clone_from(run);
        self.process = Some(process);
        death::explain(&mut record.result);
        Ok(record)
    }
}
