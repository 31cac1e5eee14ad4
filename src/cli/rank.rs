//! `gradalign rank`.

use super::{Outcome, args, score};
use crate::rank::find_models;
use crate::report::{AGGREGATE, Format, Truth};

pub(super) fn run(args: args::Rank) -> anyhow::Result<Outcome> {
    let mut settings = args.scoring.resolve()?;
    settings.aggregate = args.aggregate;
    // What can go wrong early does so before any model is scored.
    let models = find_models(&args.sources)?;
    let truth = args.truth.as_deref().map(Truth::read).transpose()?;

    if let (Some(out), Some(truth)) = (&settings.out, &args.truth) {
        out.spare([truth.as_path()])?;
    }
    let (aggregate, format) = (args.aggregate, settings.format);
    let first = settings.score.metrics.first().map(|metric| metric.info().name);
    score::score_all(&models, &settings, move |report| {
        report.sum_ranks();
        if let Some(method) = aggregate {
            report.aggregate(method);
        }
        if let Some(name) = aggregate.map(|_| AGGREGATE).or(first) {
            report.sort_by(name);
        }
        let Some(truth) = &truth else { return };
        for warning in report.correlate(truth) {
            tracing::warn!("{warning}");
        }
        if format == Format::Csv {
            tracing::warn!("the csv format has no place for the correlation; the others do");
        }
    })
}
