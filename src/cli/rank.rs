//! `gradalign rank`.

use super::{Outcome, args, score};
use crate::rank::find_models;
use crate::report::{Format, Truth};

pub(super) fn run(args: args::Rank) -> anyhow::Result<Outcome> {
    let settings = args.scoring.resolve()?;
    // What can go wrong early does so before any model is scored.
    let models = find_models(&args.sources)?;
    let truth = args.truth.as_deref().map(Truth::read).transpose()?;

    let (mut report, interrupted) = score::score_all(&models, &settings)?;
    if let Some(first) = settings.score.metrics.first() {
        report.sort_by(first.info().name);
    }
    if let Some(truth) = truth {
        for warning in report.correlate(&truth) {
            tracing::warn!("{warning}");
        }
        if settings.format == Format::Csv {
            tracing::warn!("the csv format has no place for the correlation; the others do");
        }
    }
    score::finish(&report, settings.format, interrupted)
}
