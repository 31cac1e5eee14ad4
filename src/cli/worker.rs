//! `gradalign worker`: jobs in, records out, one a line.

use std::io::{self, BufRead, ErrorKind, Write};
use std::time::Duration;

use anyhow::anyhow;

use super::{Outcome, args, flags};
use crate::engine::Device;
use crate::rank::isolate::{Event, confine};
use crate::report::write_line;
use crate::score::{Job, Memo, ModelResult, Worker};
use crate::source::{AnySource, ModelRef};
use crate::store::{Limits, Recall, Store};

/// Does each job on standard input when it comes, and writes its record to standard output.
pub(super) fn run(args: args::Worker) -> anyhow::Result<Outcome> {
    let args::Worker { child, store, timeout, memory, allow_local } = args;
    let store = store.as_deref().map(Store::open).transpose()?;
    let limits = Limits::new(timeout.map(Duration::from_millis), memory);
    let worker = if child { Worker::silent() } else { Worker::default() };
    let mut worker = worker.with_source(AnySource { allow_local, ..AnySource::default() });
    let mut outcome = Outcome::Done;
    for (i, line) in io::stdin().lock().lines().enumerate() {
        let job: Job = serde_json::from_str(&line?).map_err(|e| {
            anyhow!(
                "line {} of standard input is not a job: {}",
                i + 1,
                e.to_string().replace('`', "'")
            )
        })?;
        if child && i == 0 {
            let own = job.own_memory.or(job.memory);
            confine(own, job.engine.device != Device::Cpu.to_string())?;
        }
        tracing::debug!("scoring {}", job.model.name);
        let mut record = worker.recall_or_run(&job, |run| Known {
            recall: store.as_ref().map(|store| store.recall(run, limits.clone())),
            tells: child,
        });
        if record.result.error.is_some() {
            outcome = Outcome::SomeFailed;
        }
        let mut line = Vec::new();
        if !child {
            flags::in_record(&mut record);
        }
        write_line(&record, &mut line)?;
        match io::stdout().write_all(&line).and_then(|()| io::stdout().flush()) {
            // Nobody reads any more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(outcome)
}

/// What the store knows, and the wish of the process that watches.
struct Known<'a> {
    recall: Option<Recall<'a>>,
    tells: bool,
}

impl Memo for Known<'_> {
    fn of_content(&self, model: &ModelRef, sha256: &str) -> Option<ModelResult> {
        self.recall.as_ref()?.of_content(model, sha256)
    }

    fn of_key(&self, key: &str) -> Option<ModelResult> {
        self.recall.as_ref()?.of_key(key)
    }

    fn computes(&self, sha256: &str) {
        if self.tells {
            let event = Event::Computes { computes: sha256.to_owned() };
            let mut line = serde_json::to_vec(&event).unwrap_or_default();
            line.push(b'\n');
            // Where nobody listens any more, the record will find that out.
            let _ = io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush());
        }
    }
}
