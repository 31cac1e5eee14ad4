//! `gradalign score`, and what it shares with `gradalign rank`.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;

use super::progress::Progress;
use super::settings::Settings;
use super::{Outcome, args, interrupt, print};
use crate::data::Dataset;
use crate::engine::{self, Device, EngineOptions};
use crate::pass;
use crate::rank::score_models;
use crate::report::{Format, Report, Run};

/// How many models are scored at once, at most, unless it was said: each takes memory.
const JOBS: usize = 4;

pub(super) fn run(args: args::Score) -> anyhow::Result<Outcome> {
    let settings = args.scoring.resolve()?;
    let (report, interrupted) = score_all(&args.models, &settings)?;
    finish(&report, settings.format, interrupted)
}

/// Scores `models`; also says whether an interruption kept some from being scored.
pub(super) fn score_all(models: &[PathBuf], settings: &Settings) -> anyhow::Result<(Report, bool)> {
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
    interrupt::listen()?;

    let progress = Progress::new(models.len());
    let next = |position, path: &std::path::Path| {
        if interrupt::requested() {
            return ControlFlow::Break(());
        }
        progress.next(position, path);
        tracing::debug!("scoring {}", path.display());
        ControlFlow::Continue(())
    };
    let rows = score_models(models, &dataset, &scoring, &*engine, next);
    drop(progress);
    if let Some(bytes) = pass::peak_resident() {
        tracing::info!("peak memory {} MiB", bytes.div_ceil(1 << 20));
    }
    let interrupted = rows.len() < models.len();
    let run = Run::new(engine.describe(), dataset.description().clone(), settings.describe());
    Ok((Report::new(run, rows), interrupted))
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

/// Prints the report.
pub(super) fn finish(
    report: &Report,
    format: Format,
    interrupted: bool,
) -> anyhow::Result<Outcome> {
    let mut text = Vec::new();
    format.renderer().report(report, &mut text)?;
    print(&text)?;
    Ok(match (interrupted, report.any_failed()) {
        (true, _) => Outcome::Interrupted,
        (false, true) => Outcome::SomeFailed,
        (false, false) => Outcome::Done,
    })
}
