//! What differs between two results: which models moved, and how far.

mod matched;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::Value;

use super::{AGGREGATE, Ranking};
use crate::error::{Error, Result};
use crate::ordered::Ordered;
use crate::score::{ModelResult, Record, Run};
use crate::stats;
use matched::Matched;

/// Two results, `a` and `b`, beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What differs in how they were made: settings, data, engine, versions.
    pub differences: Vec<Difference>,
    /// How many models both have.
    pub models: usize,
    /// Models of `a` that `b` does not have, by name.
    pub only_a: Vec<String>,
    /// Models of `b` that `a` does not have.
    pub only_b: Vec<String>,
    /// Models that cannot be told from others, and are left out.
    pub ambiguous: Vec<String>,
    /// Models of one name whose files differ.
    pub changed_files: Vec<String>,
    /// Models that failed in `a` and not in `b`, with the reason.
    pub failed_a: Vec<Failed>,
    /// Models that failed in `b` and not in `a`.
    pub failed_b: Vec<Failed>,
    /// How many models failed in both.
    pub failed_both: usize,
    /// Scores of `a` that `b` does not have.
    pub scores_only_a: Vec<String>,
    /// Scores of `b` that `a` does not have.
    pub scores_only_b: Vec<String>,
    /// The scores that both have.
    pub scores: Ordered<ScoreComparison>,
}

/// A field of [`Run`] that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its name, with those of the fields that it is in, such as `settings.seed`.
    pub field: String,
    /// Its value in the first result.
    pub a: Value,
    /// Its value in the second.
    pub b: Value,
}

/// A model that failed in one of the results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failed {
    /// Its name.
    pub model: String,
    /// The kind of the failure.
    pub kind: String,
    /// The reason.
    pub message: String,
}

/// A score in two results, over the models that have it in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreComparison {
    /// How many models these are.
    pub models: usize,
    /// Kendall's tau-b of the two rankings; `None` where it is not defined.
    pub kendall_tau: Option<f64>,
    /// Spearman's correlation of the two rankings.
    pub spearman: Option<f64>,
    /// Whether the same models are ranked first.
    pub same_top1: bool,
    /// The models ranked first in `a`; several where values are equal.
    pub top1_a: Vec<String>,
    /// The models ranked first in `b`.
    pub top1_b: Vec<String>,
    /// How many models have another value.
    pub changed: usize,
    /// How many models have another rank.
    pub moved: usize,
    /// The models with another value or rank, those that moved furthest first.
    pub moves: Vec<Move>,
}

/// How a score of a model changed. Ranks are among the models that have the score in both results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// The model's name.
    pub model: String,
    /// Its rank in `a`, 1 for the best.
    pub rank_a: usize,
    /// Its rank in `b`.
    pub rank_b: usize,
    /// Its value in `a`.
    pub value_a: Option<f64>,
    /// Its value in `b`.
    pub value_b: Option<f64>,
    /// `(b - a) / |a|`; `None` where a value is missing, or that of `a` is 0.
    pub relative: Option<f64>,
}

/// Compares two results, in all the scores that both have or in `scores` alone.
///
/// Models are the same where they have one name, or else one [key](ModelResult::key). A score that is
/// a sum of others is compared as [`Ranking::sum_ranks`] has it, over the models that are in both.
///
/// # Errors
/// When the records of one result were not made alike, or a score in `scores` is not in both.
pub fn compare(a: Vec<Record>, b: Vec<Record>, scores: &[String]) -> Result<Comparison> {
    let (mut a, mut b) = (Ranking::of(a)?, Ranking::of(b)?);
    let matched = Matched::of(&a.models, &b.models);
    let names = |models: &[ModelResult], at: &[usize]| {
        at.iter().map(|&i| models[i].name.clone()).collect::<Vec<_>>()
    };
    let (only_a, only_b) = (names(&a.models, &matched.only_a), names(&b.models, &matched.only_b));
    let ambiguous = matched.ambiguous;
    let differences = differences(&a.run, &b.run)?;

    // From here on, the models that both have, in the order of `a`.
    a.models = matched.pairs.iter().map(|&(i, _)| a.models[i].clone()).collect();
    b.models = matched.pairs.iter().map(|&(_, i)| b.models[i].clone()).collect();
    let pairs = || a.models.iter().zip(&b.models);
    let changed_files = pairs()
        .filter(|(a, b)| a.sha256.is_some() && b.sha256.is_some() && a.sha256 != b.sha256)
        .map(|(a, _)| a.name.clone())
        .collect();
    let failed = |model: &ModelResult, other: &ModelResult| {
        let error = model.error.as_ref().filter(|_| other.error.is_none())?;
        let (kind, message) = (error.kind.clone(), error.message.clone());
        Some(Failed { model: model.name.clone(), kind, message })
    };
    let failed_a = pairs().filter_map(|(a, b)| failed(a, b)).collect();
    let failed_b = pairs().filter_map(|(a, b)| failed(b, a)).collect();
    let failed_both = pairs().filter(|(a, b)| a.error.is_some() && b.error.is_some()).count();

    // Ranks, and sums of ranks, are among the models that have scores in both.
    let (scored_a, scored_b) = pairs()
        .filter(|(a, b)| a.error.is_none() && b.error.is_none())
        .map(|(a, b)| (a.clone(), b.clone()))
        .unzip();
    let models = a.models.len();
    let (names_a, names_b) = (a.score_names(), b.score_names());
    (a.models, b.models) = (scored_a, scored_b);
    a.sum_ranks();
    b.sum_ranks();
    let without = |names: &[String], others: &[String]| {
        names.iter().filter(|name| !others.contains(name)).cloned().collect::<Vec<_>>()
    };
    let (scores_only_a, scores_only_b) = (without(&names_a, &names_b), without(&names_b, &names_a));
    let both: Vec<&String> = names_a.iter().filter(|name| names_b.contains(name)).collect();
    if let Some(missing) = scores.iter().find(|name| !both.contains(name)) {
        return Err(Error::Usage(not_in_both(missing, &both)));
    }
    let mut found = Ordered::default();
    for name in both.into_iter().filter(|name| scores.is_empty() || scores.contains(name)) {
        found.push(name, compare_score(name, &a.models, &b.models));
    }
    Ok(Comparison {
        differences,
        models,
        only_a,
        only_b,
        ambiguous,
        changed_files,
        failed_a,
        failed_b,
        failed_both,
        scores_only_a,
        scores_only_b,
        scores: found,
    })
}

fn not_in_both(missing: &str, both: &[&String]) -> String {
    let both: Vec<&str> = both.iter().map(|name| name.as_str()).collect();
    let reason = match (missing == AGGREGATE, both.as_slice()) {
        (true, _) => {
            "it depends on the models that it was made of, and is not kept in records".into()
        }
        (false, []) => "they have no score in common".into(),
        (false, both) => format!("choose from {}", both.join(", ")),
    };
    format!("the score '{missing}' is not in both results: {reason}")
}

/// The score `name` in two lists of the same models.
fn compare_score(name: &str, a: &[ModelResult], b: &[ModelResult]) -> ScoreComparison {
    let pairs: Vec<_> = a
        .iter()
        .zip(b)
        .filter_map(|(a, b)| {
            Some((a.name.as_str(), a.scores.get(name)?.value, b.scores.get(name)?.value))
        })
        .collect();
    let values_a: Vec<_> = pairs.iter().map(|(_, a, _)| *a).collect();
    let values_b: Vec<_> = pairs.iter().map(|(_, _, b)| *b).collect();
    let (ranks_a, ranks_b) = (stats::ranks(&values_a), stats::ranks(&values_b));
    let top1 = |values: &[Option<f64>], ranks: &[usize]| -> Vec<String> {
        let first = pairs.iter().zip(values).zip(ranks);
        let first = first.filter(|((_, value), rank)| value.is_some() && **rank == 1);
        first.map(|(((name, ..), _), _)| (*name).to_owned()).collect()
    };
    let (top1_a, top1_b) = (top1(&values_a, &ranks_a), top1(&values_b, &ranks_b));
    let moves = pairs.iter().zip(ranks_a.iter().zip(&ranks_b));
    let moves = moves.map(|(&(model, value_a, value_b), (&rank_a, &rank_b))| Move {
        model: model.to_owned(),
        rank_a,
        rank_b,
        value_a,
        value_b,
        relative: relative(value_a, value_b),
    });
    let mut moves: Vec<Move> =
        moves.filter(|m| m.rank_a != m.rank_b || m.value_a != m.value_b).collect();
    moves.sort_by(|x, y| {
        let ranks = |m: &Move| Reverse(m.rank_a.abs_diff(m.rank_b));
        // A value that appears or goes away is a greater change than any other.
        let size = |m: &Move| match (m.value_a, m.value_b) {
            (Some(_), Some(_)) => m.relative.map_or(0.0, f64::abs),
            _ => f64::INFINITY,
        };
        ranks(x).cmp(&ranks(y)).then_with(|| size(y).total_cmp(&size(x)))
    });
    ScoreComparison {
        models: pairs.len(),
        kendall_tau: stats::kendall_tau(&values_a, &values_b),
        spearman: stats::spearman(&values_a, &values_b),
        same_top1: top1_a == top1_b,
        top1_a,
        top1_b,
        changed: moves.iter().filter(|m| m.value_a != m.value_b).count(),
        moved: moves.iter().filter(|m| m.rank_a != m.rank_b).count(),
        moves,
    }
}

fn relative(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    let (a, b) = (a?, b?);
    Some((b - a) / a.abs()).filter(|change| change.is_finite())
}

/// The fields that differ, with their values.
fn differences(a: &Run, b: &Run) -> Result<Vec<Difference>> {
    // By way of text, where a float32 has its own digits.
    let json = |run: &Run| -> Result<Value> {
        let text = serde_json::to_string(run);
        text.and_then(|text| serde_json::from_str(&text))
            .map_err(|e| Error::Data(format!("the settings are no JSON: {e}")))
    };
    let mut found = Vec::new();
    differ("", &json(a)?, &json(b)?, &mut found);
    found.retain(|difference| difference.field != "settings_digest");
    Ok(found)
}

fn differ(field: &str, a: &Value, b: &Value, found: &mut Vec<Difference>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or(Value::Null)
                };
                differ(&field, &of(a), &of(b), found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { field: field.into(), a: a.clone(), b: b.clone() }),
    }
}
