//! What `score` and `rank` write: a report at the end, or each record as it comes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::output::OutFile;
use super::settings::Running;
use super::{Outcome, flags, print, progress};
use crate::rank::Ranking;
use crate::report::{Format, write_line};
use crate::score::{ModelResult, Record, Run};

/// How many warnings of a report are shown beside it.
const MOST_WARNINGS: usize = 20;

/// The results so far, and how they are written.
pub(super) struct Results {
    run: Run,
    /// How many models there are results of, unless there was an interruption.
    models: usize,
    arrange: Box<dyn Fn(&mut Ranking) + Send + Sync>,
    format: Format,
    out: Option<OutFile>,
    fail_fast: bool,
    strict: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the position of the model; empty where records are printed as they come.
    kept: BTreeMap<usize, ModelResult>,
    printed: usize,
    any_failed: bool,
    /// Why nothing more could be printed.
    failure: Option<io::Error>,
    /// Whether the reader has seen enough.
    closed: bool,
}

impl Results {
    pub(super) fn new(
        run: Run,
        models: usize,
        arrange: impl Fn(&mut Ranking) + Send + Sync + 'static,
        format: Format,
        out: Option<OutFile>,
        running: &Running,
    ) -> Self {
        let (arrange, state) = (Box::new(arrange), Mutex::default());
        let Running { fail_fast, strict, .. } = *running;
        Results { run, models, arrange, format, out, fail_fast, strict, state }
    }

    /// Takes note of a result that the store could not keep.
    pub(super) fn not_kept(&self) {
        self.lock().any_failed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether records are printed as they come.
    fn streams(&self) -> bool {
        self.format == Format::Jsonl && self.out.is_none()
    }

    /// Takes the record of the model at `position`.
    pub(super) fn add(&self, position: usize, mut record: Record) -> ControlFlow<()> {
        flags::in_record(&mut record);
        let mut state = self.lock();
        let has_failed =
            record.result.error.is_some() || (self.strict && !record.result.warnings.is_empty());
        state.any_failed |= has_failed;
        let next = match has_failed && self.fail_fast {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        if !self.streams() {
            state.kept.insert(position, record.result);
            return next;
        }
        match progress::aside(|| print_line(&record)) {
            Ok(()) => {
                state.printed += 1;
                next
            }
            Err(error) => {
                state.closed = error.kind() == ErrorKind::BrokenPipe;
                state.failure = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Writes what has not been printed yet.
    pub(super) fn write(&self) -> anyhow::Result<Outcome> {
        let mut state = self.lock();
        let finished = if self.streams() { state.printed } else { state.kept.len() };
        match state.failure.take() {
            // A reader that has seen enough is no failure.
            Some(_) if state.closed => return Ok(Outcome::Done),
            Some(error) => return Err(error.into()),
            None => {}
        }
        let any_failed = state.any_failed;
        if !self.streams() {
            let models = std::mem::take(&mut state.kept).into_values().collect();
            self.report(models)?;
        }
        Ok(match (finished < self.models, any_failed) {
            (true, true) if self.fail_fast => Outcome::SomeFailed,
            (true, _) => Outcome::Interrupted,
            (false, true) => Outcome::SomeFailed,
            (false, false) => Outcome::Done,
        })
    }

    /// Lets nothing be printed any more, and no line in part: the process is about to end.
    pub(super) fn close(&self) {
        std::mem::forget(io::stdout().lock());
    }

    fn report(&self, models: Vec<ModelResult>) -> anyhow::Result<()> {
        let mut ranking = Ranking::new(self.run.clone(), models);
        if self.format != Format::Jsonl {
            (self.arrange)(&mut ranking);
            ranking.join_warnings();
        }
        // Where they are a cell among many, nobody would read them.
        if self.format == Format::Csv {
            let warnings = ranking.warnings();
            for warning in warnings.iter().take(MOST_WARNINGS) {
                tracing::warn!("{warning}");
            }
            if let Some(more @ 1..) = warnings.len().checked_sub(MOST_WARNINGS) {
                tracing::warn!("{more} more warnings are in the column 'warnings'");
            }
        }
        let mut text = Vec::new();
        self.format.renderer().ranking(&ranking, &mut text)?;
        match &self.out {
            Some(out) => out.write(|file| file.write_all(&text))?,
            None => print(&text)?,
        }
        Ok(())
    }
}

/// Prints a record whole: what is printed stays, whatever comes.
fn print_line(record: &Record) -> io::Result<()> {
    let mut line = Vec::new();
    write_line(record, &mut line)?;
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
