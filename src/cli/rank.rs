//! `gradalign rank`.

use super::{NOTICE, Outcome, args, score, sources};
use crate::rank::{AGGREGATE, Aggregate, Filter, Ranking, Truth};
use crate::report::{Format, printable};
use crate::source::{ModelRef, Source, Sources};

pub(super) fn run(args: args::Rank) -> anyhow::Result<Outcome> {
    let args::Rank { sources, from, truth: truth_file, aggregate, shown, mut scoring } = args;
    let parts = aggregate.iter().flat_map(Aggregate::scores).cloned();
    scoring.metric.metric.extend(parts);
    let mut request = scoring.resolve()?;
    // A folder may hold anything.
    request.running.isolate.get_or_insert(true);
    let args::Shown { top, filter } = shown;
    let known =
        request.settings.metrics.iter().cloned().chain(aggregate.iter().map(|_| AGGREGATE.into()));
    filter.as_ref().map_or(Ok(()), |filter| filter.check(&known.collect::<Vec<_>>()))?;
    // What can go wrong early does so before any model is scored.
    let (source, write_back) = from.resolve();
    let sources = Sources::find(&sources::all(sources)?, source)?;
    let models = sources.list()?;
    write_back.map_or(Ok(()), |write_back| write_back.check(&models))?;
    request.write_back = write_back;
    let truth = truth_file.as_deref().map(Truth::read).transpose()?;
    if let Some(truth) = &truth {
        truth.check(&models)?;
        tell_unused(truth, &models);
    }

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
        if top.is_some() || filter.is_some() {
            tracing::warn!(
                "the jsonl format shows all models: --top and --where go with the others"
            );
        }
    }
    let first = request.settings.metrics.first().cloned();
    score::score_all(&sources, &models, &request, move |ranking| {
        ranking.sum_ranks();
        if let Some(aggregate) = &aggregate {
            ranking.aggregate(aggregate);
        }
        if let Some(name) = aggregate.as_ref().map(|_| AGGREGATE).or(first.as_deref()) {
            ranking.sort_by(name);
        }
        let Some(truth) = &truth else { return show(ranking, top, filter.as_ref()) };
        for warning in ranking.correlate(truth) {
            tracing::warn!("{warning}");
        }
        if format == Format::Csv {
            tracing::warn!("the csv format has no place for the correlation; the others do");
        }
        show(ranking, top, filter.as_ref());
    })
}

/// Names rows of the truth without a model: one of them may be misspelt.
fn tell_unused(truth: &Truth, models: &[ModelRef]) {
    let unused = truth.unused(models);
    if unused.is_empty() {
        return;
    }
    let named = unused.iter().take(5).map(|row| printable(row)).collect::<Vec<_>>().join(", ");
    let more = if unused.len() > 5 { ", …" } else { "" };
    let rows = match unused.len() {
        1 => "1 row fits".to_owned(),
        n => format!("{n} rows fit"),
    };
    tracing::info!(target: NOTICE, "of the truth, {rows} no model that is ranked: {named}{more}");
}

/// Takes out of a ranking what is not to be shown. Failed models meet no condition.
fn show(ranking: &mut Ranking, top: Option<usize>, filter: Option<&Filter>) {
    let before = ranking.models.len();
    if let Some(filter) = filter {
        ranking.models.retain(|model| filter.admits(model));
    }
    ranking.models.truncate(top.unwrap_or(usize::MAX));
    let left_out = before - ranking.models.len();
    if left_out > 0 {
        tracing::info!(target: NOTICE, "{left_out} of {before} models are not shown");
    }
}
