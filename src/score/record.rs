//! What scoring a model yields: a [`Record`], which can be written down, read back and ranked.

use std::mem;

use serde::{Deserialize, Serialize};

use super::{ScoreSettings, ScoreValue, Scored};
use crate::error::Error;
use crate::ordered::Ordered;
use crate::source::ModelRef;
use crate::{data, engine};

/// Version of the JSON form; it changes when a field is removed or changes its meaning.
pub const SCHEMA: u32 = 2;

/// The result for one model, with all that it depends on.
///
/// In JSON the fields of [`Run`] and [`ModelResult`] stand side by side: `docs/record.schema.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What the record has in common with others.
    #[serde(flatten)]
    pub run: Run,
    /// What is of this model.
    #[serde(flatten)]
    pub result: ModelResult,
}

/// What the records of a run have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The program.
    pub tool: Tool,
    /// The engine that ran the models.
    pub engine: engine::Description,
    /// The samples they were run on.
    pub data: data::Description,
    /// The settings that scores depend on, as they were asked for.
    pub settings: ScoreSettings,
    /// [`ScoreSettings::digest`].
    pub settings_digest: String,
}

impl Run {
    /// A run of this version of gradalign.
    pub fn new(
        engine: engine::Description,
        data: data::Description,
        settings: ScoreSettings,
    ) -> Self {
        let engine = engine::Description { note: None, ..engine };
        let settings_digest = settings.digest();
        Run { schema: SCHEMA, tool: Tool::this(), engine, data, settings, settings_digest }
    }
}

/// A program and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `gradalign`.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Tool { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// The result for one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    /// The file's name: the last component of the address.
    pub model: String,
    /// The shortest end of the address that tells the model from those scored with it.
    #[serde(default)]
    pub name: String,
    /// The address: the path as given or found.
    pub path: String,
    /// The identity of the result, as [`Key`](super::Key) has it; `None` for a model that failed
    /// before it was known.
    pub key: Option<String>,
    /// SHA-256 in hex, as [`onnx::sha256`](crate::onnx::sha256) has it: of the file, and of those that
    /// its tensors are in. Of the file alone where the model could not be read; `None` where not
    /// even that could.
    pub sha256: Option<String>,
    /// The number of trainable parameters; `None` for a model that failed before they were known.
    pub parameters: Option<u64>,
    /// The number of those on a path from the input to the output, where a branch that is multiplied by
    /// a constant zero is no path; `None` as for `parameters`.
    #[serde(default)]
    pub parameters_live: Option<u64>,
    /// Multiply-adds of one sample's forward pass; `None` as for `parameters`.
    pub flops: Option<u64>,
    /// The name of the model's output that was scored; `None` as for `parameters`.
    pub output: Option<String>,
    /// The loss used; `None` as for `parameters`.
    pub loss: Option<String>,
    /// The scores by name, in the order asked for; empty for a model that failed.
    pub scores: Ordered<ScoreEntry>,
    /// Wall-clock time spent on the model, in seconds.
    pub seconds: f64,
    /// What the user should know about the scores.
    pub warnings: Vec<String>,
    /// Whether a score, or all of them, is missing for want of memory: with more of it, there would be
    /// one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub short_of_memory: bool,
    /// Why there are no scores.
    pub error: Option<Failure>,
}

/// A score in a record. Higher is better.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreEntry {
    /// The value, averaged over the repeats; `None` where it is not a finite number.
    pub value: Option<f64>,
    /// Standard deviation over the repeats; `None` for a single one.
    pub std: Option<f64>,
    /// Rank among the models of a ranking, 1 for the best; equal values share the better rank, and
    /// models without a value come last. `None` outside of a ranking.
    pub rank: Option<usize>,
    /// What became of batch normalisation; `None` where it makes no difference.
    pub bn: Option<String>,
    /// The value of each repeat, `None` where it is not finite; a single one where the repeats do not
    /// differ.
    #[serde(default)]
    pub values: Vec<Option<f64>>,
    /// The values of the scores that this one is the sum of, where it is one. In a set of models
    /// that is ranked, the value is the sum of their ranks.
    #[serde(default, skip_serializing_if = "Ordered::is_empty")]
    pub parts: Ordered<Option<f64>>,
}

/// Why a model has no scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable name, as [`Error::kind`] gives it; `internal` for a fault in gradalign.
    pub kind: String,
    /// What failed and what to do about it.
    pub message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure { kind: error.kind().into(), message: error.to_string() }
    }
}

/// What comes between the name of a score without a value and the reason.
pub(crate) const NULL: &str = " is reported as null and ranked last: ";

impl ModelResult {
    /// A result for `model` without scores.
    pub fn new(model: &ModelRef) -> Self {
        ModelResult {
            model: model.file_name().into(),
            name: model.name.clone(),
            path: model.address.clone(),
            ..ModelResult::default()
        }
    }

    /// Fills in what scoring gave.
    pub fn fill(&mut self, scored: Scored) {
        self.parameters = Some(scored.size.parameters);
        self.parameters_live = Some(scored.size.live_parameters);
        self.flops = Some(scored.size.flops);
        self.loss = Some(scored.loss.to_string());
        self.output = Some(scored.output);
        self.warnings = scored.warnings;
        self.short_of_memory = scored.short_of_memory;
        scored.scores.iter().for_each(|score| self.add_score(score));
    }

    /// Adds a score. A value that is not finite becomes `None`, with a warning that gives the
    /// reason where it is known.
    pub fn add_score(&mut self, score: &ScoreValue) {
        let (name, value) = (score.name, score.value);
        if !value.is_finite() {
            self.warnings.push(match &score.reason {
                Some(reason) => format!("{name}{NULL}{reason}"),
                None => format!("{name} is {value}: reported as null and ranked last"),
            });
        }
        let mut entry = ScoreEntry {
            value: finite(value),
            std: score.std.and_then(finite),
            rank: None,
            bn: score.batch_norm.map(|treatment| treatment.to_string()),
            values: score.values.iter().copied().map(finite).collect(),
            parts: Ordered::default(),
        };
        for (part, value) in &score.parts {
            entry.parts.push(part, finite(*value));
        }
        self.scores.push(name, entry);
    }

    /// Fills in a result for the same content or key that was computed earlier. What says where the
    /// model is stays.
    pub(crate) fn recall(&mut self, known: ModelResult) {
        let (model, name, path) = (&mut self.model, &mut self.name, &mut self.path);
        let (model, name, path) = (mem::take(model), mem::take(name), mem::take(path));
        let sha256 = self.sha256.take();
        *self = ModelResult { model, name, path, sha256, ..known };
    }

    /// Makes this the result of a model that failed: without scores, and with the reason.
    pub fn fail(&mut self, error: Failure) {
        self.short_of_memory = error.kind == Error::MEMORY;
        self.scores = Ordered::default();
        self.error = Some(error);
    }

    /// The value of a score; `None` where there is none.
    pub fn value(&self, score: &str) -> Option<f64> {
        self.scores.get(score).and_then(|score| score.value)
    }
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> ModelResult {
        ModelResult::new(&ModelRef::new("x/a.onnx"))
    }

    #[test]
    fn a_failed_score_says_why() {
        let mut result = result();
        let reason = Some("no rectifier".into());
        result.add_score(&ScoreValue { reason, ..ScoreValue::new("naswot", f64::NAN) });
        assert_eq!((result.value("naswot"), result.model.as_str()), (None, "a.onnx"));
        assert_eq!(result.warnings, ["naswot is reported as null and ranked last: no rectifier"]);
    }

    #[test]
    fn records_are_read_back_to_the_last_bit() {
        let mut result = result();
        // The greatest subnormal number is where parsers that round twice go wrong.
        let subnormal = f64::MIN_POSITIVE.next_down();
        let values = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE, subnormal, f64::MAX, 1.0];
        result.add_score(&ScoreValue {
            values: values.to_vec(),
            std: Some(1.0 / 3.0),
            parts: vec![("a", 1e-300), ("b", f64::NAN)],
            ..ScoreValue::new("sum", 9007199254740993.0 / 7.0)
        });
        result.add_score(&ScoreValue::new("first", f64::INFINITY));
        result.parameters = Some(u64::MAX);
        result.seconds = 0.1;
        let engine = engine::Description {
            name: "tract".into(),
            version: "1".into(),
            device: "cpu".into(),
            note: Some("not recorded".into()),
        };
        let data = data::Description {
            source: "a".into(),
            samples: 3,
            classes: None,
            sha256: Some("ab".into()),
        };
        let settings = ScoreSettings::new().mean([0.485]).ridge(0.1);
        let record = Record { run: Run::new(engine, data, settings), result };
        let text = serde_json::to_string(&record).unwrap();
        let again: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(again, record);
        let bits = |record: &Record| {
            let values = record.result.scores.get("sum").unwrap().values.clone();
            values.into_iter().map(|v| v.unwrap().to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(&again), values.map(f64::to_bits));
        assert_eq!(again.result.scores.names().collect::<Vec<_>>(), ["sum", "first"]);
    }
}
