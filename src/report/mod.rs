//! Results: what was scored, with which settings, and how it is written down.
//!
//! A [`Report`] is the whole result of a run; a [`Renderer`] writes one in some [`Format`] to
//! anything that can be written to.

mod csv;
mod grid;
mod json;
mod markdown;
#[cfg(feature = "cli")]
mod table;
mod text;
mod truth;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::data::Samples;
use crate::error::Error;
use crate::{data, engine, score, stats};

pub use grid::{Align, Column, Grid};
pub use text::printable;
pub use truth::{Correlation, Truth};

/// Version of the JSON form; it changes when a field is removed or changes its meaning.
pub const SCHEMA: u32 = 1;

/// The results of a run over one or more models.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What all the rows have in common.
    #[serde(flatten)]
    pub run: Run,
    /// One row a model, in the order they are to be shown.
    pub models: Vec<ModelRow>,
    /// How each score agrees with the truth, where a truth was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Ordered<Correlation>>,
}

/// What all rows of a report have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program that made the report.
    pub tool: Tool,
    /// The engine that ran the models.
    pub engine: engine::Description,
    /// The samples they were run on.
    pub data: data::Description,
    /// The settings that scores depend on.
    pub settings: Settings,
}

impl Run {
    /// A run of this version of gradalign.
    pub fn new(engine: engine::Description, data: data::Description, settings: Settings) -> Self {
        Run { schema: SCHEMA, tool: Tool::this(), engine, data, settings }
    }
}

/// A program and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// `gradalign`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
    }
}

/// The settings that scores depend on, by the names of the command line. Options that are not here
/// do not change values beyond rounding.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Seed of the draw of samples and of the initialisation.
    pub seed: u64,
    /// How parameters were initialised; `keep` for those of the file.
    pub init: String,
    /// How many initialisations were averaged.
    pub repeats: usize,
    /// The loss asked for; [`Report::new`] turns `auto` into the loss used, where all models
    /// used the same.
    pub loss: String,
    /// How many samples were asked for.
    pub samples: Samples,
    /// Mean per channel of images.
    pub mean: Vec<f32>,
    /// Standard deviation per channel of images.
    pub std: Vec<f32>,
    /// The statistics of batch normalisation asked for; those used are in each [`Score`].
    pub bn: String,
    /// Whether GradAlign-I is divided by the number of parameters.
    pub normalize: bool,
    /// Whether GradAlign-I leaves out the pairs of a sample with itself.
    pub off_diagonal: bool,
    /// What GradAlign's Gram matrices are made of.
    pub gram: String,
    /// What is added to the diagonal of GradAlign-II's Gram matrices.
    pub ridge: f64,
    /// The variances that Zen-NAS multiplies with.
    pub zen: String,
    /// The node whose result Zen-NAS takes for the features, where it was said.
    pub features: Option<String>,
    /// The inputs that TE-NAS counts linear regions on.
    pub regions: String,
    /// How many samples TE-NAS's tangent kernel is over, at most.
    pub ntk_samples: usize,
    /// The shapes of inputs that were given.
    pub shape: BTreeMap<String, Vec<usize>>,
    /// The values of inputs that are settings.
    pub fix: BTreeMap<String, Vec<f64>>,
    /// The batch axes of inputs that were given; null for an input that has none.
    pub batch_axis: BTreeMap<String, Option<usize>>,
    /// Patterns of the only parameters.
    pub params: Vec<String>,
    /// Patterns of tensors that are not parameters.
    pub no_params: Vec<String>,
    /// The tensor that was taken for the output, where it was said.
    pub tensor: Option<String>,
    /// How one ranking was made of several.
    pub aggregate: Option<String>,
}

/// The result for one model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelRow {
    /// The file's name.
    pub model: String,
    /// The path as given or found.
    pub path: String,
    /// SHA-256 in hex, as [`onnx::sha256`](crate::onnx::sha256) has it: of the file, and of those that
    /// its tensors are in. Of the file alone where the model could not be read; `None` where not
    /// even that could.
    pub sha256: Option<String>,
    /// The number of trainable parameters; `None` for a model that failed before they were known.
    pub parameters: Option<u64>,
    /// Multiply-adds of one sample's forward pass; `None` as for `parameters`.
    pub flops: Option<u64>,
    /// The name of the model's output that was scored; `None` as for `parameters`.
    pub output: Option<String>,
    /// The scores by name, in the order asked for; empty for a model that failed.
    pub scores: Ordered<Score>,
    /// Wall-clock time spent on the model.
    pub seconds: f64,
    /// What the user should know about the scores.
    pub warnings: Vec<String>,
    /// Why there are no scores.
    pub error: Option<RowError>,
    /// The loss used, for [`Settings::loss`].
    #[serde(skip)]
    pub loss: Option<String>,
}

/// A score of a model. Higher is better.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// The value; `None` where it is not a finite number.
    pub value: Option<f64>,
    /// Standard deviation over the repeats; `None` for a single one.
    pub std: Option<f64>,
    /// Rank among the report's models, 1 for the best; equal values share the better rank, and
    /// models without a value come last. Set by [`Report::new`].
    pub rank: Option<usize>,
    /// What became of batch normalisation; `None` where it makes no difference.
    pub bn: Option<String>,
    /// The values of the scores that this one is the sum of, where it is one.
    #[serde(skip)]
    pub parts: Vec<f64>,
}

/// Why a model has no scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowError {
    /// A stable name, as [`Error::kind`] gives it.
    pub kind: String,
    /// What failed and what to do about it.
    pub message: String,
}

impl From<&Error> for RowError {
    fn from(error: &Error) -> Self {
        RowError { kind: error.kind().into(), message: error.to_string() }
    }
}

impl ModelRow {
    /// A row for the model at `path` without scores.
    pub fn new(path: &std::path::Path) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        ModelRow {
            model: name.to_string_lossy().into_owned(),
            path: path.to_string_lossy().into_owned(),
            sha256: None,
            parameters: None,
            flops: None,
            output: None,
            scores: Ordered::default(),
            seconds: 0.0,
            warnings: Vec::new(),
            error: None,
            loss: None,
        }
    }

    /// Adds a score. A value that is not finite becomes `None`, with a warning that gives the
    /// reason where it is known.
    pub fn add_score(&mut self, score: &score::Score) {
        let (name, value) = (score.name, score.value);
        if !value.is_finite() {
            self.warnings.push(match &score.reason {
                Some(reason) => format!("{name}{NULL}{reason}"),
                None => format!("{name} is {value}: reported as null and ranked last"),
            });
        }
        let entry = Score {
            value: Some(value).filter(|value| value.is_finite()),
            std: score.std.filter(|std| std.is_finite()),
            rank: None,
            bn: score.batch_norm.map(|treatment| treatment.to_string()),
            parts: score.parts.iter().map(|(_, value)| *value).collect(),
        };
        self.scores.push(name, entry);
    }

    /// Makes this the row of a model that failed: without scores, and with the reason.
    pub fn fail(&mut self, error: RowError) {
        self.scores = Ordered::default();
        self.error = Some(error);
    }

    /// The value of a score; `None` where there is none.
    pub fn value(&self, score: &str) -> Option<f64> {
        self.scores.get(score).and_then(|score| score.value)
    }
}

impl Report {
    /// Puts rows together, ranking the models by each score.
    pub fn new(mut run: Run, mut models: Vec<ModelRow>) -> Self {
        for name in score_names(&models) {
            rank(&mut models, &name);
        }
        let mut losses = models.iter().filter_map(|row| row.loss.as_ref());
        if let Some(first) = losses.next()
            && losses.all(|loss| loss == first)
        {
            run.settings.loss = first.clone();
        }
        Report { run, models, correlation: None }
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
            let scores = self.models.iter().filter_map(|row| row.scores.get(&name));
            let parts: Vec<Vec<f64>> = scores.map(|score| score.parts.clone()).collect();
            let several = parts.iter().map(Vec::len).max().unwrap_or(0);
            if several < 2 {
                continue;
            }
            let ranks: Vec<Vec<f64>> = (0..several)
                .map(|part| {
                    let values = parts.iter().map(|p| p.get(part).copied());
                    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
                    stats::average_ranks(&values.map(finite).collect::<Vec<_>>())
                })
                .collect();
            let null = format!("{name} is reported as null and ranked last");
            let rows = self.models.iter_mut().filter(|row| row.scores.get(&name).is_some());
            for (i, row) in rows.enumerate() {
                if let Some(score) = row.scores.get_mut(&name) {
                    score.value = Some(ranks.iter().map(|rank| rank[i]).sum());
                    score.std = None;
                }
                for warning in &mut row.warnings {
                    if let Some(reason) = warning.strip_prefix(&null) {
                        *warning =
                            format!("a part of {name} is not defined and ranks lowest{reason}");
                    }
                }
            }
            rank(&mut self.models, &name);
        }
    }

    /// Adds the score [`AGGREGATE`], which makes one ranking out of those by all scores.
    pub fn aggregate(&mut self, method: Aggregate) {
        let names = self.score_names();
        let scored = |row: &&mut ModelRow| row.error.is_none();
        let mut rows: Vec<&mut ModelRow> = self.models.iter_mut().filter(scored).collect();
        let mut totals = vec![0.0; rows.len()];
        for name in &names {
            let values: Vec<Option<f64>> = rows.iter().map(|row| row.value(name)).collect();
            for (total, rank) in totals.iter_mut().zip(stats::average_ranks(&values)) {
                *total += method.of_rank(rank, values.len()) / names.len() as f64;
            }
        }
        for (row, value) in rows.iter_mut().zip(totals) {
            let score = Score { value: Some(value), ..Score::default() };
            row.scores.push(AGGREGATE, score);
        }
        rank(&mut self.models, AGGREGATE);
    }

    /// Sorts the models by a score, best first; failed ones go last. Equal ones keep their order.
    pub fn sort_by(&mut self, score: &str) {
        let key =
            |row: &ModelRow| (row.error.is_some(), row.scores.get(score).and_then(|s| s.rank));
        self.models.sort_by_key(|row| (key(row).0, key(row).1.unwrap_or(usize::MAX)));
    }

    /// Compares the scores with a truth. Returns warnings about models that it does not know.
    pub fn correlate(&mut self, truth: &Truth) -> Vec<String> {
        let (correlation, warnings) = truth.correlate(&self.models);
        self.correlation = Some(correlation);
        warnings
    }

    /// Says a reason that three or more scores of a model are missing for once, for all of them.
    pub fn join_warnings(&mut self) {
        for row in &mut self.models {
            let mut reasons = Ordered::<Vec<String>>::default();
            for (name, reason) in row.warnings.iter().filter_map(|w| w.split_once(NULL)) {
                match reasons.get_mut(reason) {
                    Some(names) => names.push(name.to_owned()),
                    None => reasons.push(reason, vec![name.to_owned()]),
                }
            }
            for (reason, names) in reasons.iter().filter(|(_, names)| names.len() > 2) {
                let of =
                    |warning: &String, name: &String| *warning == format!("{name}{NULL}{reason}");
                let all =
                    format!("{} are reported as null and ranked last: {reason}", names.join(", "));
                if let Some(first) = row.warnings.iter_mut().find(|w| of(w, &names[0])) {
                    *first = all;
                }
                row.warnings.retain(|warning| !names.iter().any(|name| of(warning, name)));
            }
        }
    }

    /// The warnings, each once with the models that it concerns.
    pub fn warnings(&self) -> Vec<String> {
        grid::warnings(self)
    }

    /// Whether any model failed.
    pub fn any_failed(&self) -> bool {
        self.models.iter().any(|row| row.error.is_some())
    }
}

/// What comes between the name of a score without a value and the reason.
const NULL: &str = " is reported as null and ranked last: ";

/// The name of the score that [`Report::aggregate`] adds.
pub const AGGREGATE: &str = "aggregate";

/// How several rankings become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
}

/// Sets the ranks of the score `name`.
fn rank(models: &mut [ModelRow], name: &str) {
    let mut scores: Vec<&mut Score> =
        models.iter_mut().filter_map(|row| row.scores.get_mut(name)).collect();
    let values: Vec<Option<f64>> = scores.iter().map(|score| score.value).collect();
    for (score, rank) in scores.iter_mut().zip(stats::ranks(&values)) {
        score.rank = Some(rank);
    }
}

/// The names of all scores in `models`, in the order they first occur.
fn score_names(models: &[ModelRow]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in models.iter().flat_map(|row| row.scores.names()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// A small map that keeps the order of insertion, in memory and in JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Ordered<V>(Vec<(String, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<V> Ordered<V> {
    /// Adds an entry, or replaces the one of this name.
    pub fn push(&mut self, name: &str, value: V) {
        match self.get_mut(name) {
            Some(known) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The entry of this name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.0.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<V: Serialize> Serialize for Ordered<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Format {
    /// Aligned columns, for reading in a terminal.
    #[default]
    #[cfg(feature = "cli")]
    Table,
    /// One JSON document.
    #[cfg_attr(not(feature = "cli"), default)]
    Json,
    /// One line of JSON a model, each complete in itself.
    Jsonl,
    /// One line of comma-separated values a model.
    Csv,
    /// A table in GitHub's Markdown.
    Markdown,
}

/// Writes results in one format.
pub trait Renderer {
    /// Writes a report. Errs when `out` does.
    fn report(&self, report: &Report, out: &mut dyn Write) -> io::Result<()>;

    /// Writes a plain table. Errs when `out` does.
    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()>;
}

impl Format {
    /// The renderer for this format.
    pub fn renderer(self) -> &'static dyn Renderer {
        match self {
            #[cfg(feature = "cli")]
            Format::Table => &table::Table,
            Format::Json => &json::Json,
            Format::Jsonl => &json::Lines,
            Format::Csv => &csv::Csv,
            Format::Markdown => &markdown::Markdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ops::BatchNormMode;
    use crate::probe::Treatment;

    fn running(name: &'static str, value: f64) -> score::Score {
        let batch_norm = Some(Treatment::Statistics(BatchNormMode::Running));
        score::Score { batch_norm, ..score::Score::new(name, value) }
    }

    fn report() -> Report {
        let engine = engine::Description {
            name: "onnxruntime",
            version: "1.32.0".into(),
            device: "cpu".into(),
            note: None,
        };
        let data = data::Description {
            source: "probe.npz".into(),
            samples: 128,
            classes: Some(10),
            sha256: Some("ab".into()),
        };
        let settings = Settings {
            init: "keep".into(),
            repeats: 1,
            loss: "auto".into(),
            mean: vec![0.485],
            gram: "sign".into(),
            ntk_samples: 64,
            shape: BTreeMap::from([("x".into(), vec![1, 3])]),
            ..Settings::default()
        };
        let mut first = ModelRow::new(Path::new("models/small.onnx"));
        first.parameters = Some(10);
        first.flops = Some(20);
        first.sha256 = Some("cd".into());
        first.loss = Some("cross-entropy".into());
        first.seconds = 0.5;
        first.add_score(&running("gradalign-1", 1.5));
        first.add_score(&running("gradalign-2", f64::NEG_INFINITY));
        let mut second = ModelRow::new(Path::new("models/large.onnx"));
        second.parameters = Some(1000);
        second.loss = Some("cross-entropy".into());
        second.add_score(&score::Score { std: Some(0.25), ..running("gradalign-1", 10988.9) });
        second.add_score(&running("gradalign-2", 3.0));
        let mut broken = ModelRow::new(Path::new("models/broken|x.onnx"));
        broken.fail(RowError { kind: "invalid-model".into(), message: "not ONNX".into() });
        Report::new(Run::new(engine, data, settings), vec![first, second, broken])
    }

    fn written(format: Format, report: &Report) -> String {
        let mut out = Vec::new();
        format.renderer().report(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_has_the_documented_form() {
        let mut report = report();
        report.models.truncate(1);
        let expected = r#"{
  "schema": 1,
  "tool": {
    "name": "gradalign",
    "version": "VERSION"
  },
  "engine": {
    "name": "onnxruntime",
    "version": "1.32.0",
    "device": "cpu"
  },
  "data": {
    "source": "probe.npz",
    "samples": 128,
    "classes": 10,
    "sha256": "ab"
  },
  "settings": {
    "seed": 0,
    "init": "keep",
    "repeats": 1,
    "loss": "cross-entropy",
    "samples": 128,
    "mean": [
      0.485
    ],
    "std": [],
    "bn": "",
    "normalize": false,
    "off-diagonal": false,
    "gram": "sign",
    "ridge": 0.0,
    "zen": "",
    "features": null,
    "regions": "",
    "ntk-samples": 64,
    "shape": {
      "x": [
        1,
        3
      ]
    },
    "fix": {},
    "batch-axis": {},
    "params": [],
    "no-params": [],
    "tensor": null,
    "aggregate": null
  },
  "models": [
    {
      "model": "small.onnx",
      "path": "models/small.onnx",
      "sha256": "cd",
      "parameters": 10,
      "flops": 20,
      "output": null,
      "scores": {
        "gradalign-1": {
          "value": 1.5,
          "std": null,
          "rank": 2,
          "bn": "running"
        },
        "gradalign-2": {
          "value": null,
          "std": null,
          "rank": 2,
          "bn": "running"
        }
      },
      "seconds": 0.5,
      "warnings": [
        "gradalign-2 is -inf: reported as null and ranked last"
      ],
      "error": null
    }
  ]
}
"#
        .replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(written(Format::Json, &report), expected);
    }

    #[test]
    fn a_failed_score_says_why() {
        let mut row = ModelRow::new(Path::new("a.onnx"));
        let reason = Some("no rectifier".into());
        row.add_score(&score::Score { reason, ..score::Score::new("naswot", f64::NAN) });
        assert_eq!(row.value("naswot"), None);
        assert_eq!(row.warnings, ["naswot is reported as null and ranked last: no rectifier"]);
    }

    #[test]
    fn a_reason_that_several_scores_have_is_said_once() {
        let mut row = ModelRow::new(Path::new("a.onnx"));
        row.warnings.push("careful".into());
        for (name, reason) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "x")] {
            let reason = Some(reason.into());
            row.add_score(&score::Score { reason, ..score::Score::new(name, f64::NAN) });
        }
        let mut report = Report::new(report().run, vec![row]);
        report.join_warnings();
        assert_eq!(
            report.models[0].warnings,
            [
                "careful",
                "a, c, e are reported as null and ranked last: x",
                "b is reported as null and ranked last: y",
                "d is reported as null and ranked last: y"
            ]
        );
    }

    /// Rows with the two scores that a sum is made of, and with the sum.
    fn summed(parts: &[[f64; 2]]) -> Report {
        let row = |(i, parts): (usize, &[f64; 2])| {
            let mut row = ModelRow::new(Path::new(&format!("{i}.onnx")));
            let parts = vec![("a", parts[0]), ("b", parts[1])];
            let value = parts.iter().map(|(_, value)| value).sum();
            row.add_score(&score::Score { parts, ..score::Score::new("sum", value) });
            row
        };
        Report::new(report().run, parts.iter().enumerate().map(row).collect())
    }

    #[test]
    fn a_sum_of_scores_becomes_the_sum_of_their_ranks() {
        let mut report = summed(&[[-1e9, 5.0], [-1.0, 4.0], [f64::NAN, 7.0], [-2.0, 4.0]]);
        assert_eq!(report.models[2].value("sum"), None);
        report.sum_ranks();
        let values: Vec<_> = report.models.iter().map(|row| row.value("sum")).collect();
        assert_eq!(values, [Some(5.0), Some(5.5), Some(5.0), Some(4.5)]);
        let rank = |row: &ModelRow| row.scores.get("sum").and_then(|score| score.rank);
        let ranks: Vec<_> = report.models.iter().map(rank).collect();
        assert_eq!(ranks, [Some(2), Some(1), Some(2), Some(4)]);
    }

    #[test]
    fn scores_without_parts_keep_their_values() {
        let mut report = report();
        report.sum_ranks();
        assert_eq!(report.models[1].value("gradalign-1"), Some(10988.9));
    }

    #[test]
    fn one_ranking_is_made_of_several() {
        let mut report = report();
        report.aggregate(Aggregate::Borda);
        // The second is ahead by both scores; the first has no value in one.
        let values: Vec<_> = report.models.iter().map(|row| row.value(AGGREGATE)).collect();
        assert_eq!(values, [Some(0.0), Some(1.0), None]);
        assert_eq!(report.models[1].scores.get(AGGREGATE).and_then(|s| s.rank), Some(1));
        assert!(report.models[2].scores.is_empty());

        let rows = [[1.0, 3.0], [1.0, 2.0], [0.0, 4.0]].iter().enumerate().map(|(i, values)| {
            let mut row = ModelRow::new(Path::new(&format!("{i}.onnx")));
            row.add_score(&score::Score::new("x", values[0]));
            row.add_score(&score::Score::new("y", values[1]));
            row
        });
        let rows: Vec<ModelRow> = rows.collect();
        for (method, expected) in [
            (Aggregate::Borda, [0.625, 0.375, 0.5]),
            (
                Aggregate::LogRank,
                [[2.5, 2.0], [2.5, 1.0], [1.0, 3.0]]
                    .map(|ranks| ranks.iter().map(|r| (r / 3.0f64).ln()).sum::<f64>() / 2.0),
            ),
        ] {
            let mut report = Report::new(report.run.clone(), rows.clone());
            report.aggregate(method);
            for (row, expected) in report.models.iter().zip(expected) {
                let value = row.value(AGGREGATE).unwrap();
                assert!((value - expected).abs() < 1e-12, "{method:?}: {value} {expected}");
            }
        }
    }

    #[test]
    fn a_failed_model_has_empty_scores_and_its_reason() {
        let report = report();
        assert!(report.any_failed());
        let json: serde_json::Value =
            serde_json::from_str(&written(Format::Json, &report)).unwrap();
        assert_eq!(json["models"][2]["scores"], serde_json::json!({}));
        assert_eq!(
            json["models"][2]["error"],
            serde_json::json!({"kind": "invalid-model", "message": "not ONNX"})
        );
    }

    #[test]
    fn every_json_line_is_complete() {
        let text = written(Format::Jsonl, &report());
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        for line in &lines {
            assert_eq!(line["schema"], 1);
            assert_eq!(line["data"]["source"], "probe.npz");
        }
        assert_eq!(lines[1]["scores"]["gradalign-1"]["rank"], 1);
    }

    #[test]
    fn csv_has_a_line_for_each_model() {
        let text = written(Format::Csv, &report());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "model,path,sha256,parameters,flops,gradalign-1,gradalign-1.std,gradalign-1.rank,\
             gradalign-1.bn,gradalign-2,gradalign-2.std,gradalign-2.rank,gradalign-2.bn,seconds,\
             warnings,error.kind,error.message,tool,engine,data,settings"
        );
        let large = "large.onnx,models/large.onnx,,1000,,10988.9,0.25,1,running,3,,1,running,0,,,,";
        assert!(lines[2].starts_with(large), "{}", lines[2]);
        assert!(lines[3].contains(",invalid-model,not ONNX,gradalign "));
        for said in ["onnxruntime 1.32.0 cpu", "probe.npz", "\"\"gram\"\":\"\"sign\"\""] {
            assert!(lines[1..].iter().all(|line| line.contains(said)), "{text}");
        }
    }

    #[test]
    fn markdown_and_table_show_values_ranks_and_reasons() {
        let mut report = report();
        report.sort_by("gradalign-1");
        let text = written(Format::Markdown, &report);
        assert_eq!(
            text.lines().nth(2),
            Some("| large.onnx | 10988.9 ±0.25 #1 | 3 #1 | 1000 | – | 0.00 |")
        );
        assert!(text.contains("- broken|x.onnx: invalid-model — not ONNX"));
        assert!(text.contains("onnxruntime 1.32.0 on cpu, 128 samples of probe.npz"), "{text}");

        let text = written(Format::Table, &report);
        let order: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(order[..3], ["model", "large.onnx", "small.onnx"]);
        assert!(text.contains("small.onnx: gradalign-2 is -inf"));
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn losses_that_differ_leave_the_setting_as_asked() {
        let mut report = report();
        report.run.settings.loss = "auto".into();
        report.models[0].loss = Some("mse".into());
        let again = Report::new(report.run, report.models);
        assert_eq!(again.run.settings.loss, "auto");
    }
}
