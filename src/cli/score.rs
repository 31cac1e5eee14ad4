//! `gradalign score`, and what it shares with `gradalign rank`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::progress::Progress;
use super::settings::Settings;
use super::{Outcome, args, interrupt, print};
use crate::data::Dataset;
use crate::engine;
use crate::pass;
use crate::rank::score_models;
use crate::report::{Format, Report, Run};

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
    let engine = engine::open(settings.engine, &settings.engine_options)?;
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
    let rows = score_models(models, &dataset, &settings.score, &*engine, next);
    drop(progress);
    if let Some(bytes) = pass::peak_resident() {
        tracing::info!("peak memory {:.2} GiB", bytes as f64 / f64::from(1 << 30));
    }
    let interrupted = rows.len() < models.len();
    let run = Run::new(engine.describe(), dataset.description().clone(), settings.describe());
    Ok((Report::new(run, rows), interrupted))
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
