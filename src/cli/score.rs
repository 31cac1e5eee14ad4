//! `gradalign score`, and what it shares with `gradalign rank`.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::output::OutFile;
use super::progress::{self, Progress};
use super::settings::Settings;
use super::{Outcome, args, interrupt, print};
use crate::data::Dataset;
use crate::engine::{self, Device, EngineOptions};
use crate::onnx;
use crate::probe;
use crate::rank::{Observer, score_models};
use crate::report::{Format, ModelRow, Report, Run};

/// How many models are scored at once, at most, unless it was said: each takes memory.
const JOBS: usize = 4;

pub(super) fn run(args: args::Score) -> anyhow::Result<Outcome> {
    let settings = args.scoring.resolve()?;
    score_all(&args.models, &settings, |_| {})
}

/// Scores `models` and writes the report that `arrange` has put in order.
pub(super) fn score_all(
    models: &[PathBuf],
    settings: &Settings,
    arrange: impl Fn(&mut Report) + Send + Sync + 'static,
) -> anyhow::Result<Outcome> {
    if let Some(out) = &settings.out {
        let data = file_in(Path::new(&settings.source), out);
        let tensors = tensors_beside(models, out);
        let read = models.iter().chain(&data).chain(&tensors).map(PathBuf::as_path);
        out.spare(read.chain([Path::new(&settings.source)]))?;
    }
    let dataset = Dataset::open(&settings.source, &settings.data)?;
    for warning in dataset.warnings() {
        tracing::warn!("{warning}");
    }
    let jobs = jobs(settings, models.len());
    let engine = engine::open(settings.engine, &for_one_of(jobs, &settings.engine_options))?;
    let mut scoring = settings.score.clone();
    // A GPU works for one model at a time, unless it was told otherwise.
    if settings.jobs.is_some() || engine.describe().device == Device::Cpu.to_string() {
        scoring.memory.sharers = jobs;
    }
    let writer = Arc::new(Writer {
        run: Run::new(engine.describe(), dataset.description().clone(), settings.describe()),
        models: models.len(),
        arrange: Box::new(arrange),
        format: settings.format,
        out: settings.out.clone(),
    });
    let finished = Arc::new(Mutex::new(BTreeMap::new()));
    let rescued = (Arc::clone(&writer), Arc::clone(&finished));
    interrupt::arm(move || {
        let (writer, finished) = rescued;
        progress::clear();
        let rows = finished.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.write(rows.values().cloned().collect()) {
            tracing::error!("{error}");
        }
    });

    let progress = Progress::new(models.len());
    let rows = score_models(models, &dataset, &scoring, &*engine, Watch { progress, finished });
    interrupt::disarm();
    if let Some(bytes) = probe::peak_resident() {
        tracing::info!("peak memory {} MiB", bytes.div_ceil(1 << 20));
    }
    writer.write(rows)
}

/// Shows how far the scoring is, stops it, and keeps what is finished.
struct Watch {
    progress: Progress,
    finished: Arc<Mutex<BTreeMap<usize, ModelRow>>>,
}

impl Observer for Watch {
    fn next(&mut self, finished: usize, path: &Path) -> ControlFlow<()> {
        if interrupt::requested() {
            return ControlFlow::Break(());
        }
        self.progress.next(finished, path);
        tracing::debug!("scoring {}", path.display());
        ControlFlow::Continue(())
    }

    fn finished(&mut self, position: usize, row: &ModelRow) {
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.insert(position, row.clone());
    }
}

/// The file `out`, where it is in the folder of images `data`.
fn file_in(data: &Path, out: &OutFile) -> Option<PathBuf> {
    let (folder, file) = (data.canonicalize().ok()?, out.path().canonicalize().ok()?);
    (data.is_dir() && file.starts_with(folder) && !is_report(&file)).then_some(file)
}

/// The files with tensors of those models that may have `out` beside them.
fn tensors_beside(models: &[PathBuf], out: &OutFile) -> Vec<PathBuf> {
    let Ok(file) = out.path().canonicalize() else { return Vec::new() };
    let is_below = |model: &&PathBuf| {
        let folder = model.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        folder.is_some_and(|folder| file.starts_with(folder))
    };
    if is_report(&file) {
        return Vec::new();
    }
    let tensors = models.iter().filter(is_below).filter_map(|path| onnx::load(path).ok());
    tensors.flat_map(|model| model.external.into_values()).collect()
}

/// Whether a file has the name of a report, which may be written again.
fn is_report(file: &Path) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["csv", "json", "jsonl", "md", "txt"].contains(&extension.to_ascii_lowercase().as_str())
}

/// How many warnings of a report are shown beside it.
const MOST_WARNINGS: usize = 20;

/// Makes a report of rows, and writes it.
struct Writer {
    run: Run,
    /// How many models there are rows of, unless there was an interruption.
    models: usize,
    arrange: Box<dyn Fn(&mut Report) + Send + Sync>,
    format: Format,
    out: Option<OutFile>,
}

impl Writer {
    fn write(&self, rows: Vec<ModelRow>) -> anyhow::Result<Outcome> {
        let interrupted = rows.len() < self.models;
        let mut report = Report::new(self.run.clone(), rows);
        (self.arrange)(&mut report);
        report.join_warnings();
        // Where they are a cell among many, nobody would read them.
        if self.format == Format::Csv {
            let warnings = report.warnings();
            for warning in warnings.iter().take(MOST_WARNINGS) {
                tracing::warn!("{warning}");
            }
            if let Some(more @ 1..) = warnings.len().checked_sub(MOST_WARNINGS) {
                tracing::warn!("{more} more warnings are in the column 'warnings'");
            }
        }
        let mut text = Vec::new();
        self.format.renderer().report(&report, &mut text)?;
        match &self.out {
            Some(out) => out.write(|file| file.write_all(&text))?,
            None => print(&text)?,
        }
        Ok(match (interrupted, report.any_failed()) {
            (true, _) => Outcome::Interrupted,
            (false, true) => Outcome::SomeFailed,
            (false, false) => Outcome::Done,
        })
    }
}

/// How many of `models` models are scored at once. One thread for each makes better use of cores
/// than several for one: what is not parallel in scoring a model runs beside the others.
fn jobs(settings: &Settings, models: usize) -> NonZeroUsize {
    let most = || match settings.engine_options.device {
        Device::Cuda(_) => 1,
        Device::Auto | Device::Cpu => threads(&settings.engine_options).min(JOBS),
    };
    let jobs = settings.jobs.map_or_else(most, NonZeroUsize::get);
    NonZeroUsize::new(jobs.min(models)).unwrap_or(NonZeroUsize::MIN)
}

/// The threads that are shared by all.
fn threads(options: &EngineOptions) -> usize {
    match options.threads {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    }
}

/// The options of an engine that runs `jobs` models at once.
fn for_one_of(jobs: NonZeroUsize, options: &EngineOptions) -> EngineOptions {
    match jobs.get() {
        1 => options.clone(),
        jobs => EngineOptions {
            threads: (threads(options) / jobs).max(1),
            spinning: false,
            ..options.clone()
        },
    }
}
