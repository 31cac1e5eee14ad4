//! `gradalign rank`.

use super::{Outcome, args, score};
use crate::rank::{AGGREGATE, Truth};
use crate::report::Format;
use crate::source::{Files, Source};

pub(super) fn run(args: args::Rank) -> anyhow::Result<Outcome> {
    let args::Rank { sources, truth: truth_file, aggregate, scoring } = args;
    let mut request = scoring.resolve()?;
    // What can go wrong early does so before any model is scored.
    let files = Files::find(&sources)?;
    let models = files.list()?;
    let truth = truth_file.as_deref().map(Truth::read).transpose()?;
    truth.as_ref().map_or(Ok(()), |truth| truth.check(&models))?;

    for file in request.written() {
        file.spare(truth_file.as_deref())?;
    }
    if let Some(page) = &mut request.page {
        page.truth.clone_from(&truth);
    }
    let format = request.format;
    if format == Format::Jsonl {
        if truth.is_some() {
            tracing::warn!("the jsonl format has no place for the correlation; the others do");
        }
        if aggregate.is_some() {
            tracing::warn!("the jsonl format has no place for an aggregate; the others do");
        }
    }
    let first = request.settings.metrics.first().cloned();
    score::score_all(&files, &models, &request, move |ranking| {
        ranking.sum_ranks();
        if let Some(method) = aggregate {
            ranking.aggregate(method);
        }
        if let Some(name) = aggregate.map(|_| AGGREGATE).or(first.as_deref()) {
            ranking.sort_by(name);
        }
        let Some(truth) = &truth else { return };
        for warning in ranking.correlate(truth) {
            tracing::warn!("{warning}");
        }
        if format == Format::Csv {
            tracing::warn!("the csv format has no place for the correlation; the others do");
        }
    })
}
