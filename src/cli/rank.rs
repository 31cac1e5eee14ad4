//! `gradalign rank`.

use super::{Outcome, args, score};
use crate::rank::find_models;
use crate::report::{AGGREGATE, Format, Truth};

pub(super) fn run(args: args::Rank) -> anyhow::Result<Outcome> {
    let settings = args.scoring.resolve()?;
    // What can go wrong early does so before any model is scored.
    let models = find_models(&args.sources)?;
    let truth = args.truth.as_deref().map(Truth::read).transpose()?;

    let (mut report, interrupted) = score::score_all(&models, &settings)?;
    report.sum_ranks();
    match (args.aggregate, settings.score.metrics.first()) {
        (Some(method), _) => {
            report.aggregate(method);
            report.sort_by(AGGREGATE);
        }
        (None, Some(first)) => report.sort_by(first.info().name),
        (None, None) => {}
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
