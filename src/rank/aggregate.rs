//! One ranking made of several.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::score::{ModelResult, ScoreEntry, ScoreSettings};
use crate::stats;

/// The name of the score that [`Ranking::aggregate`](super::Ranking::aggregate) adds.
pub const AGGREGATE: &str = "aggregate";

/// How several rankings become one: a [`Method`], and the scores that it takes.
///
/// As text it is a method (`borda`, `log-rank`), for all scores; a method with the scores that it takes
/// (`log-rank:params-live,jacob-cov`); or one of the [`Named`].
///
/// ```
/// use gradalign::rank::{Aggregate, Method};
///
/// let all: Aggregate = "log-rank".parse()?;
/// assert_eq!(all, Aggregate::of_all(Method::LogRank));
/// let named: Aggregate = "live-jacob".parse()?;
/// assert_eq!(named.scores(), ["params-live", "jacob-cov"]);
/// assert_eq!(named.to_string(), "live-jacob");
/// # Ok::<(), gradalign::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    method: Method,
    /// None for all.
    scores: Vec<String>,
    name: Option<&'static str>,
}

/// How ranks by several scores become a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The mean over the scores of the share of the other models that a model is ahead of; equal
    /// ones count half (Borda's count, between 0 and 1).
    Borda,
    /// The mean over the scores of `ln(r/n)`, where `r` is the rank from the lowest up of `n`
    /// models: a low rank in one score weighs more than in Borda's count.
    LogRank,
}

const METHODS: [(&str, Method); 2] = [("borda", Method::Borda), ("log-rank", Method::LogRank)];

/// An aggregate with a name of its own.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// How ranks become a number.
    pub method: Method,
    /// The scores.
    pub scores: &'static [&'static str],
    /// What it is, in a line.
    pub formula: &'static str,
    /// What to know before relying on it.
    pub limits: &'static str,
}

/// The aggregates that have names.
pub const NAMED: &[Named] = &[Named {
    name: "live-jacob",
    method: Method::LogRank,
    scores: &["params-live", "jacob-cov"],
    formula: "½ [ln(r/n) of params-live + ln(r/n) of jacob-cov], r the rank from the lowest up",
    limits: "of a set of models, not of one; chosen on NAS-Bench-201, where it orders networks and makes \
             short lists better than it picks the first one; needs jacob-cov with batch statistics and 64 \
             samples or more",
}];

impl Aggregate {
    /// By all scores that there are.
    pub fn of_all(method: Method) -> Self {
        Aggregate { method, scores: Vec::new(), name: None }
    }

    /// The scores that it takes; none where it takes all.
    pub fn scores(&self) -> &[String] {
        &self.scores
    }

    /// Its values for models with these values of scores: for each score, one value a model.
    pub(crate) fn of(&self, scores: &[Vec<Option<f64>>]) -> Vec<f64> {
        let mut totals = vec![0.0; scores.first().map_or(0, Vec::len)];
        for values in scores {
            for (total, rank) in totals.iter_mut().zip(stats::average_ranks(values)) {
                *total += self.method.of_rank(rank, values.len()) / scores.len() as f64;
            }
        }
        totals
    }

    /// Adds [`AGGREGATE`] to the models that have scores; `all` are the names of these.
    pub(super) fn add_to(&self, models: &mut [ModelResult], all: &[String]) {
        let names = if self.scores.is_empty() { all } else { &self.scores };
        let scored = |model: &&mut ModelResult| model.error.is_none();
        let mut models: Vec<&mut ModelResult> = models.iter_mut().filter(scored).collect();
        let values = |name: &String| models.iter().map(|model| model.value(name)).collect();
        let totals = self.of(&names.iter().map(values).collect::<Vec<_>>());
        for (model, value) in models.iter_mut().zip(totals) {
            let values = vec![Some(value)];
            let score = ScoreEntry { value: Some(value), values, ..ScoreEntry::default() };
            model.scores.push(AGGREGATE, score);
        }
    }
}

impl Method {
    /// What a rank from the lowest (1) up among `n` models is worth.
    fn of_rank(self, rank: f64, n: usize) -> f64 {
        match self {
            Method::Borda if n > 1 => (rank - 1.0) / (n as f64 - 1.0),
            // Alone, ahead of all others.
            Method::Borda => 1.0,
            Method::LogRank => (rank / n as f64).ln(),
        }
    }
}

impl FromStr for Aggregate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(named) = NAMED.iter().find(|named| named.name == text) {
            let scores = named.scores.iter().map(|&score| score.to_owned()).collect();
            return Ok(Aggregate { method: named.method, scores, name: Some(named.name) });
        }
        let (method, scores) = match text.split_once(':') {
            Some((method, scores)) => (method, Some(scores)),
            None => (text, None),
        };
        let Some(&(_, method)) = METHODS.iter().find(|(name, _)| *name == method) else {
            let methods = METHODS.iter().map(|(name, _)| *name);
            let known: Vec<_> = methods.chain(NAMED.iter().map(|named| named.name)).collect();
            return Err(Error::Usage(format!(
                "unknown aggregate '{text}': choose {}, or name scores as in log-rank:params-live,naswot",
                known.join(", ")
            )));
        };
        let scores = match scores {
            Some(scores) => ScoreSettings::new().metrics(scores.split(',')).spelt_out()?.metrics,
            None => Vec::new(),
        };
        Ok(Aggregate { method, scores, name: None })
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = METHODS.iter().find(|(_, method)| *method == self.method);
        match (self.name, method) {
            (Some(name), _) => f.write_str(name),
            (None, Some((method, _))) if self.scores.is_empty() => f.write_str(method),
            (None, method) => {
                let method = method.map_or("", |(name, _)| name);
                write!(f, "{method}:{}", self.scores.join(","))
            }
        }
    }
}

impl Serialize for Aggregate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_are_written_as_they_are_read() {
        for text in ["borda", "log-rank", "borda:naswot", "log-rank:params,flops", "live-jacob"] {
            assert_eq!(text.parse::<Aggregate>().unwrap().to_string(), text);
        }
        let same: Aggregate = "log-rank:jacob_cov,params,params".parse().unwrap();
        assert_eq!(same.to_string(), "log-rank:jacob-cov,params");
        for (text, says) in [
            ("mean", "unknown aggregate 'mean': choose borda, log-rank, live-jacob"),
            ("log-rank:best", "unknown score 'best'"),
            ("log-rank:", "unknown score ''"),
            ("live-jacob:params", "unknown aggregate"),
        ] {
            let error = text.parse::<Aggregate>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn names_stand_for_scores_that_there_are() {
        for named in NAMED {
            let aggregate: Aggregate = named.name.parse().unwrap();
            let settings = ScoreSettings::new().metrics(aggregate.scores()).spelt_out().unwrap();
            assert_eq!(settings.metrics, named.scores);
        }
    }
}
