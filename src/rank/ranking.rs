//! Ranking models by their records.

use serde::Serialize;

use super::{AGGREGATE, Aggregate, Correlation, Truth};
use crate::error::{Error, Result};
use crate::ordered::Ordered;
use crate::score::{ModelResult, NULL, Record, Run, ScoreEntry, mean_and_deviation};
use crate::stats;

/// Models with their ranks by each score. In JSON it is the document that `docs/record.schema.json`
/// describes.
///
/// ```
/// use gradalign::data::Dataset;
/// use gradalign::engine::{EngineChoice, EngineOptions, open};
/// use gradalign::probe::Memory;
/// use gradalign::rank::{Ranking, score_models};
/// use gradalign::score::{ScoreSettings, Scorer};
/// use gradalign::source::{Files, Source};
///
/// # fn main() -> gradalign::Result<()> {
/// let settings = ScoreSettings::new().metrics(["params"]);
/// let digits = Dataset::open("fixtures/digits-30.npz", &settings.data_options(None))?;
/// let engine = open(EngineChoice::Tract, &EngineOptions::default())?;
/// let scorer = Scorer::new(&settings, &digits, &*engine, Memory::default())?;
///
/// let files = Files::find(&["models/mlp.onnx", "models/vit.onnx"])?;
/// let records = score_models(&files, &files.list()?, &scorer);
/// let mut ranking = Ranking::of(records)?;
/// ranking.sort_by("params");
/// assert_eq!(ranking.models[0].name, "vit.onnx");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// What the models have in common.
    #[serde(flatten)]
    pub run: Run,
    /// How one ranking was made of several, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// The models, in the order they are to be shown.
    pub models: Vec<ModelResult>,
    /// How each score agrees with the truth, where a truth was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Ordered<Correlation>>,
}

impl Ranking {
    /// Puts the models of a run together, ranking them by each score.
    pub fn new(run: Run, mut models: Vec<ModelResult>) -> Self {
        for name in score_names(&models) {
            rank(&mut models, &name);
        }
        Ranking { run, aggregate: None, models, correlation: None }
    }

    /// The same of records.
    ///
    /// # Errors
    /// When there are none, or when they were not made alike, by the same version, engine and
    /// settings on the same data: their values cannot be compared.
    pub fn of(records: Vec<Record>) -> Result<Self> {
        let Some(first) = records.first() else {
            return Err(Error::Usage("there are no records to rank".into()));
        };
        let run = first.run.clone();
        for Record { run: other, result } in &records {
            let what = [
                ("version of gradalign", run.tool != other.tool),
                ("engine", run.engine != other.engine),
                ("data", run.data != other.data),
                ("settings", run.settings != other.settings),
                ("schema", run != *other),
            ];
            if let Some((what, _)) = what.iter().find(|(_, differs)| *differs) {
                return Err(Error::Usage(format!(
                    "the records of {} and {} differ in their {what}, so that their scores cannot be \
                     compared",
                    first.result.name, result.name
                )));
            }
        }
        Ok(Ranking::new(run, records.into_iter().map(|record| record.result).collect()))
    }

    /// The names of the scores, in the order asked for.
    pub fn score_names(&self) -> Vec<String> {
        score_names(&self.models)
    }

    /// Puts the sum of ranks in place of each score that is a sum of others: for each of these the
    /// models are ranked from the lowest (1) up, equal ones sharing the average. A model without a
    /// value ranks lowest.
    pub fn sum_ranks(&mut self) {
        for name in self.score_names() {
            let with_score = self.models.iter_mut().filter(|m| m.scores.get(&name).is_some());
            let mut models: Vec<&mut ModelResult> = with_score.collect();
            let parts: Vec<Vec<Option<f64>>> =
                models.iter().map(|model| parts(model, &name)).collect();
            let several = parts.iter().map(Vec::len).max().unwrap_or(0);
            if several < 2 {
                continue;
            }
            let mut sums = vec![0.0; models.len()];
            for part in 0..several {
                let values = parts.iter().map(|parts| parts.get(part).copied().flatten());
                let ranks = stats::average_ranks(&values.collect::<Vec<_>>());
                sums.iter_mut().zip(ranks).for_each(|(sum, rank)| *sum += rank);
            }
            let null = format!("{name}{NULL}");
            for (model, sum) in models.iter_mut().zip(sums) {
                if let Some(score) = model.scores.get_mut(&name) {
                    score.value = Some(sum);
                    score.std = None;
                }
                for warning in &mut model.warnings {
                    if let Some(reason) = warning.strip_prefix(&null) {
                        *warning =
                            format!("a part of {name} is not defined and ranks lowest: {reason}");
                    }
                }
            }
            rank(&mut self.models, &name);
        }
    }

    /// Adds the score [`AGGREGATE`], which makes one ranking out of those by several scores.
    pub fn aggregate(&mut self, aggregate: &Aggregate) {
        let names: Vec<String> =
            self.score_names().into_iter().filter(|name| name != AGGREGATE).collect();
        aggregate.add_to(&mut self.models, &names);
        self.aggregate = Some(aggregate.clone());
        rank(&mut self.models, AGGREGATE);
    }

    /// Sorts the models by a score, best first; failed ones go last. Equal ones keep their order.
    pub fn sort_by(&mut self, score: &str) {
        let key = |model: &ModelResult| {
            (model.error.is_some(), model.scores.get(score).and_then(|s| s.rank))
        };
        self.models.sort_by_key(|model| (key(model).0, key(model).1.unwrap_or(usize::MAX)));
    }

    /// Compares the scores with a truth. Returns warnings about models that it does not know.
    pub fn correlate(&mut self, truth: &Truth) -> Vec<String> {
        let (correlation, warnings) = truth.correlate(&self.models);
        self.correlation = Some(correlation);
        warnings
    }

    /// Says a reason that three or more scores of a model are missing for once, for all of them.
    pub fn join_warnings(&mut self) {
        self.models.iter_mut().for_each(join_warnings);
    }

    /// The warnings, each once with the models that it concerns.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.models_by_warning();
        let warnings = warnings.iter().map(|(warning, models)| match models.as_slice() {
            [model] => format!("{model}: {warning}"),
            models if models.len() == self.models.len() => format!("all models: {warning}"),
            models => format!("{} models ({}, …): {warning}", models.len(), models[0]),
        });
        warnings.collect()
    }

    /// The names of the models by the warnings that they have.
    pub fn models_by_warning(&self) -> Ordered<Vec<&str>> {
        let mut warnings = Ordered::<Vec<&str>>::default();
        for model in &self.models {
            for warning in &model.warnings {
                match warnings.get_mut(warning) {
                    Some(models) => models.push(&model.name),
                    None => warnings.push(warning, vec![&model.name]),
                }
            }
        }
        warnings
    }

    /// The records that the ranking is of: without ranks, and with their own values where sums of
    /// ranks took their places.
    pub fn into_records(self) -> Vec<Record> {
        let run = self.run;
        let record = |result| Record { run: run.clone(), result: unranked(result) };
        self.models.into_iter().map(record).collect()
    }

    /// Whether any model failed.
    pub fn any_failed(&self) -> bool {
        self.models.iter().any(|model| model.error.is_some())
    }
}

/// The values of the scores that the score `name` of a model is the sum of.
fn parts(model: &ModelResult, name: &str) -> Vec<Option<f64>> {
    let score = model.scores.get(name);
    score.map(|score| score.parts.iter().map(|(_, value)| *value).collect()).unwrap_or_default()
}

/// Sets the ranks of the score `name`.
fn rank(models: &mut [ModelResult], name: &str) {
    let mut scores: Vec<&mut ScoreEntry> =
        models.iter_mut().filter_map(|model| model.scores.get_mut(name)).collect();
    let values: Vec<Option<f64>> = scores.iter().map(|score| score.value).collect();
    for (score, rank) in scores.iter_mut().zip(stats::ranks(&values)) {
        score.rank = Some(rank);
    }
}

/// What scoring gave for a model, before it was ranked.
fn unranked(mut model: ModelResult) -> ModelResult {
    model.scores.remove(AGGREGATE);
    for score in model.scores.values_mut() {
        score.rank = None;
        if !score.parts.is_empty() {
            let values: Option<Vec<f64>> = score.values.iter().copied().collect();
            let mean = values.map(|values| mean_and_deviation(&values));
            (score.value, score.std) = mean.map_or((None, None), |(mean, std)| (Some(mean), std));
        }
    }
    model
}

/// The names of all scores of `models`, in the order they first occur.
pub(crate) fn score_names(models: &[ModelResult]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in models.iter().flat_map(|model| model.scores.names()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

fn join_warnings(model: &mut ModelResult) {
    let mut reasons = Ordered::<Vec<String>>::default();
    for (name, reason) in model.warnings.iter().filter_map(|w| w.split_once(NULL)) {
        match reasons.get_mut(reason) {
            Some(names) => names.push(name.to_owned()),
            None => reasons.push(reason, vec![name.to_owned()]),
        }
    }
    for (reason, names) in reasons.iter().filter(|(_, names)| names.len() > 2) {
        let of = |warning: &String, name: &String| *warning == format!("{name}{NULL}{reason}");
        let all = format!("{} are reported as null and ranked last: {reason}", names.join(", "));
        if let Some(first) = model.warnings.iter_mut().find(|w| of(w, &names[0])) {
            *first = all;
        }
        model.warnings.retain(|warning| !names.iter().any(|name| of(warning, name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::Method;
    use crate::report::tests::{ranking, run};
    use crate::score::{ScoreSettings, ScoreValue};
    use crate::source::ModelRef;

    fn result(name: &str) -> ModelResult {
        ModelResult::new(&ModelRef::new(name))
    }

    #[test]
    fn a_reason_that_several_scores_have_is_said_once() {
        let mut row = result("a.onnx");
        row.warnings.push("careful".into());
        for (name, reason) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "x")] {
            let reason = Some(reason.into());
            row.add_score(&ScoreValue { reason, ..ScoreValue::new(name, f64::NAN) });
        }
        let mut ranking = Ranking::new(run(), vec![row]);
        ranking.join_warnings();
        assert_eq!(
            ranking.models[0].warnings,
            [
                "careful",
                "a, c, e are reported as null and ranked last: x",
                "b is reported as null and ranked last: y",
                "d is reported as null and ranked last: y"
            ]
        );
    }

    /// Rows with the two scores that a sum is made of, and with the sum.
    fn summed(parts: &[[f64; 2]]) -> Ranking {
        let row = |(i, parts): (usize, &[f64; 2])| {
            let mut row = result(&format!("{i}.onnx"));
            let parts = vec![("a", parts[0]), ("b", parts[1])];
            let value = parts.iter().map(|(_, value)| value).sum();
            row.add_score(&ScoreValue { parts, ..ScoreValue::new("sum", value) });
            row
        };
        Ranking::new(run(), parts.iter().enumerate().map(row).collect())
    }

    #[test]
    fn a_sum_of_scores_becomes_the_sum_of_their_ranks() {
        let mut ranking = summed(&[[-1e9, 5.0], [-1.0, 4.0], [f64::NAN, 7.0], [-2.0, 4.0]]);
        assert_eq!(ranking.models[2].value("sum"), None);
        ranking.sum_ranks();
        let values: Vec<_> = ranking.models.iter().map(|row| row.value("sum")).collect();
        assert_eq!(values, [Some(5.0), Some(5.5), Some(5.0), Some(4.5)]);
        let rank = |row: &ModelResult| row.scores.get("sum").and_then(|score| score.rank);
        let ranks: Vec<_> = ranking.models.iter().map(rank).collect();
        assert_eq!(ranks, [Some(2), Some(1), Some(2), Some(4)]);
        // A part of the third has no value; that is said in other words then.
        let warnings = &ranking.models[2].warnings;
        assert!(warnings[0].starts_with("sum is NaN"), "{warnings:?}");
    }

    #[test]
    fn a_ranking_comes_from_records_and_goes_back_to_them() {
        let mut summed = summed(&[[-1e9, 5.0], [-1.0, 4.0], [f64::NAN, 7.0], [-2.0, 4.0]]);
        let records = summed.clone().into_records();
        assert_eq!(records[1].result.value("sum"), Some(3.0));
        assert!(records.iter().all(|r| r.result.scores.get("sum").unwrap().rank.is_none()));
        summed.sum_ranks();
        summed.aggregate(&Aggregate::of_all(Method::Borda));
        summed.sort_by("sum");
        let mut again = summed.clone().into_records();
        again.sort_by(|a, b| a.result.name.cmp(&b.result.name));
        assert_eq!(again, records);
        let mut ranking = Ranking::of(again).unwrap();
        ranking.sum_ranks();
        ranking.aggregate(&Aggregate::of_all(Method::Borda));
        ranking.sort_by("sum");
        assert_eq!(ranking, summed);
    }

    #[test]
    fn records_that_cannot_be_compared_are_refused() {
        let records = || ranking().into_records();
        assert!(Ranking::of(records()).is_ok());
        assert!(Ranking::of(Vec::new()).is_err());
        let mut other = records();
        other[1].run.settings = ScoreSettings::new().seed(7);
        let error = Ranking::of(other).unwrap_err().to_string();
        assert!(error.contains("large.onnx differ in their settings"), "{error}");
        let mut other = records();
        other[2].run.data.sha256 = None;
        assert!(Ranking::of(other).unwrap_err().to_string().contains("their data"));
    }

    #[test]
    fn scores_without_parts_keep_their_values() {
        let mut ranking = ranking();
        ranking.sum_ranks();
        assert_eq!(ranking.models[1].value("gradalign-1"), Some(10988.9));
    }

    #[test]
    fn one_ranking_is_made_of_several() {
        let mut ranking = ranking();
        ranking.aggregate(&Aggregate::of_all(Method::Borda));
        // The second is ahead by both scores; the first has no value in one.
        let values: Vec<_> = ranking.models.iter().map(|row| row.value(AGGREGATE)).collect();
        assert_eq!(values, [Some(0.0), Some(1.0), None]);
        assert_eq!(ranking.models[1].scores.get(AGGREGATE).and_then(|s| s.rank), Some(1));
        assert!(ranking.models[2].scores.is_empty());

        let rows = [[1.0, 3.0], [1.0, 2.0], [0.0, 4.0]].iter().enumerate().map(|(i, values)| {
            let mut row = result(&format!("{i}.onnx"));
            row.add_score(&ScoreValue::new("x", values[0]));
            row.add_score(&ScoreValue::new("y", values[1]));
            row
        });
        let rows: Vec<ModelResult> = rows.collect();
        for (method, expected) in [
            (Method::Borda, [0.625, 0.375, 0.5]),
            (
                Method::LogRank,
                [[2.5, 2.0], [2.5, 1.0], [1.0, 3.0]]
                    .map(|ranks| ranks.iter().map(|r| (r / 3.0f64).ln()).sum::<f64>() / 2.0),
            ),
        ] {
            let mut ranking = Ranking::new(ranking.run.clone(), rows.clone());
            ranking.aggregate(&Aggregate::of_all(method));
            for (row, expected) in ranking.models.iter().zip(expected) {
                let value = row.value(AGGREGATE).unwrap();
                assert!((value - expected).abs() < 1e-12, "{method:?}: {value} {expected}");
            }
        }
    }
}
