//! What `score` and `rank` write: a report at the end, or each record as it comes, and a page.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::output::OutFile;
use super::page::PageFile;
use super::settings::{Request, Running};
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
    page: Option<PageFile>,
    /// Whether results are kept though they have been printed.
    keeps: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the position of the model; empty where records are printed as they come and that is all.
    kept: BTreeMap<usize, ModelResult>,
    finished: usize,
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
        request: &Request,
    ) -> Self {
        let Running { fail_fast, strict, .. } = request.running;
        Results {
            run,
            models,
            arrange: Box::new(arrange),
            format: request.format,
            out: request.out.clone(),
            fail_fast,
            strict,
            page: request.page.clone(),
            keeps: request.write_back.is_some(),
            state: Mutex::default(),
        }
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
        let mut flow = match has_failed && self.fail_fast {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        if self.streams()
            && state.failure.is_none()
            && let Err(error) = progress::aside(|| print_line(&record))
        {
            state.closed = error.kind() == ErrorKind::BrokenPipe;
            state.failure = Some(error);
            // Where a reader has seen enough, the page still waits for the rest.
            if !state.closed || self.page.is_none() {
                flow = ControlFlow::Break(());
            }
        }
        state.finished += 1;
        if !self.streams() || self.page.is_some() || self.keeps {
            state.kept.insert(position, record.result);
        }
        flow
    }

    /// The results so far, ranked.
    pub(super) fn ranking(&self) -> Ranking {
        Ranking::new(self.run.clone(), self.lock().kept.values().cloned().collect())
    }

    /// Writes what has not been printed yet.
    pub(super) fn write(&self) -> anyhow::Result<Outcome> {
        let mut state = self.lock();
        let models: Vec<ModelResult> = std::mem::take(&mut state.kept).into_values().collect();
        let has_result = state.finished > 0 || self.models == 0;
        let written = self.write_all(models, has_result);
        match state.failure.take() {
            // A reader that has seen enough is no failure.
            Some(_) if state.closed && self.page.is_none() => return Ok(Outcome::Done),
            Some(error) if !state.closed => return Err(error.into()),
            _ => written?,
        }
        Ok(match (state.finished < self.models, state.any_failed) {
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

    /// Writes the ranking of `models`. Without `has_result`, since no model was finished, files stay as
    /// they are.
    fn write_all(&self, models: Vec<ModelResult>, has_result: bool) -> anyhow::Result<()> {
        let files = self.out.iter().chain(self.page.iter().map(|page| &page.file));
        for file in files.filter(|_| !has_result) {
            tracing::warn!("no model was finished: {} is not written", file.path().display());
        }
        if !has_result && self.out.is_some() {
            return Ok(());
        }
        let mut ranking = Ranking::new(self.run.clone(), models);
        let mut written = Ok(());
        let lines = self.format == Format::Jsonl;
        // Records keep the order of the models, and have no place for what a ranking adds.
        if lines && !self.streams() {
            written = self.report(&ranking);
        }
        if !lines || self.page.is_some() {
            (self.arrange)(&mut ranking);
            ranking.join_warnings();
        }
        if !lines {
            written = self.report(&ranking);
        }
        let page = self.page.iter().filter(|_| has_result);
        let page = page.into_iter().try_for_each(|page| page.write(&ranking, self.models));
        written.and(page)
    }

    fn report(&self, ranking: &Ranking) -> anyhow::Result<()> {
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
        self.format.renderer().ranking(ranking, &mut text)?;
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
