//! One ranking made of several.

use serde::Serialize;

use crate::score::{ModelResult, ScoreEntry};
use crate::stats;

/// The name of the score that [`Ranking::aggregate`](super::Ranking::aggregate) adds.
pub const AGGREGATE: &str = "aggregate";

/// How several rankings become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Aggregate {
    /// The mean over the scores of the share of the other models that a model is ahead of; equal
    /// ones count half (Borda's count, between 0 and 1).
    #[default]
    Borda,
    /// The mean over the scores of `ln(r/n)`, where `r` is the rank from the lowest up of `n`
    /// models: a low rank in one score weighs more than in Borda's count.
    LogRank,
}

impl Aggregate {
    /// What a rank from the lowest (1) up among `n` models is worth.
    fn of_rank(self, rank: f64, n: usize) -> f64 {
        match self {
            Aggregate::Borda if n > 1 => (rank - 1.0) / (n as f64 - 1.0),
            // Alone, ahead of all others.
            Aggregate::Borda => 1.0,
            Aggregate::LogRank => (rank / n as f64).ln(),
        }
    }

    /// Adds [`AGGREGATE`] to the models that have scores, from their scores `names`.
    pub(super) fn add_to(self, models: &mut [ModelResult], names: &[String]) {
        let scored = |model: &&mut ModelResult| model.error.is_none();
        let mut models: Vec<&mut ModelResult> = models.iter_mut().filter(scored).collect();
        let mut totals = vec![0.0; models.len()];
        for name in names {
            let values: Vec<Option<f64>> = models.iter().map(|model| model.value(name)).collect();
            for (total, rank) in totals.iter_mut().zip(stats::average_ranks(&values)) {
                *total += self.of_rank(rank, values.len()) / names.len() as f64;
            }
        }
        for (model, value) in models.iter_mut().zip(totals) {
            let values = vec![Some(value)];
            let score = ScoreEntry { value: Some(value), values, ..ScoreEntry::default() };
            model.scores.push(AGGREGATE, score);
        }
    }
}
