//! Known accuracies of models, and how scores agree with them.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ModelRow, Ordered, score_names};
use crate::error::{Error, Result};
use crate::file;
use crate::stats;

/// Known accuracies by model.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    accuracies: HashMap<String, f64>,
}

/// How a score agrees with the truth; `None` where it is not defined.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// Kendall's tau-b.
    pub kendall_tau: Option<f64>,
    /// Spearman's rank correlation.
    pub spearman: Option<f64>,
    /// The accuracy of the model ranked first; the mean, where several are.
    pub top1_accuracy: Option<f64>,
}

#[derive(Deserialize)]
struct Row {
    model: String,
    accuracy: String,
}

impl Truth {
    /// Reads a CSV file with the columns `model` (a file name, with or without `.onnx`, or a
    /// path) and `accuracy` (a number); other columns are ignored.
    ///
    /// Errs when the file cannot be read, lacks a column, has no rows, names a model twice, or
    /// has an accuracy that is not a finite number.
    pub fn read(path: &Path) -> Result<Self> {
        let (file, _) = file::open(path)?;
        Truth::parse(file).map_err(|reason| Error::Data(format!("{}: {reason}", path.display())))
    }

    fn parse(reader: impl Read) -> Result<Self, String> {
        let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let headers = csv.headers().map_err(|e| e.to_string())?.clone();
        if let Some(missing) =
            ["model", "accuracy"].iter().find(|&&wanted| headers.iter().all(|h| h != wanted))
        {
            return Err(format!(
                "there is no column '{missing}'; the columns 'model' and 'accuracy' are needed"
            ));
        }
        let mut accuracies = HashMap::new();
        for row in csv.deserialize() {
            let Row { model, accuracy } = row.map_err(|e| e.to_string())?;
            let accuracy =
                accuracy.parse().ok().filter(|a: &f64| a.is_finite()).ok_or_else(|| {
                    format!("the accuracy of '{model}' is '{accuracy}', not a finite number")
                })?;
            if accuracies.insert(key(&model).to_owned(), accuracy).is_some() {
                return Err(format!("the model '{}' occurs twice", key(&model)));
            }
        }
        if accuracies.is_empty() {
            return Err("there are no rows".into());
        }
        Ok(Truth { accuracies })
    }

    /// The accuracy of a model, looked up by its path and then by its file name.
    pub fn accuracy(&self, row: &ModelRow) -> Option<f64> {
        [&row.path, &row.model].iter().find_map(|name| self.accuracies.get(key(name)).copied())
    }

    /// Compares each score with the truth, over the models that it knows. Models without a value
    /// rank last, those that failed among them: leaving them out would reward failing. Also
    /// returns a warning that names the models it does not know.
    pub(super) fn correlate(&self, models: &[ModelRow]) -> (Ordered<Correlation>, Vec<String>) {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for row in models {
            match self.accuracy(row) {
                Some(accuracy) => known.push((row, accuracy)),
                None => unknown.push(row.model.as_str()),
            }
        }
        let truth: Vec<Option<f64>> = known.iter().map(|(_, accuracy)| Some(*accuracy)).collect();
        let mut result = Ordered::default();
        for name in score_names(models) {
            let scores: Vec<_> = known.iter().map(|(row, _)| row.value(&name)).collect();
            let ranks = stats::ranks(&scores);
            let first = known
                .iter()
                .zip(&scores)
                .zip(&ranks)
                .filter(|((_, score), rank)| score.is_some() && **rank == 1);
            let first: Vec<f64> = first.map(|(((_, accuracy), _), _)| *accuracy).collect();
            let correlation = Correlation {
                kendall_tau: stats::kendall_tau(&scores, &truth),
                spearman: stats::spearman(&scores, &truth),
                top1_accuracy: (!first.is_empty())
                    .then(|| first.iter().sum::<f64>() / first.len() as f64),
            };
            result.push(&name, correlation);
        }
        let warnings = match unknown.len() {
            0 => Vec::new(),
            n => vec![format!(
                "the truth has no accuracy for {n} of {} models, which the correlation leaves \
                 out: {}",
                models.len(),
                unknown.join(", ")
            )],
        };
        (result, warnings)
    }
}

/// A model's name without `.onnx`.
fn key(name: &str) -> &str {
    name.strip_suffix(".onnx").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, value: Option<f64>) -> ModelRow {
        let mut row = ModelRow::new(Path::new(path));
        if let Some(value) = value {
            row.add_score(&crate::score::Score::new("params", value));
        } else {
            row.fail(super::super::RowError { kind: "io".into(), message: "gone".into() });
        }
        row
    }

    #[test]
    fn models_are_found_with_and_without_extension_and_by_path() {
        let truth =
            Truth::parse("model, accuracy,seed\na.onnx,90.5,1\nb,80,1\nx/c,7,1\n".as_bytes());
        let truth = truth.unwrap();
        assert_eq!(truth.accuracy(&row("dir/a.onnx", None)), Some(90.5));
        assert_eq!(truth.accuracy(&row("b.onnx", None)), Some(80.0));
        assert_eq!(truth.accuracy(&row("x/c.onnx", None)), Some(7.0));
        assert_eq!(truth.accuracy(&row("y/c.onnx", None)), None);
    }

    #[test]
    fn bad_files_have_clear_errors() {
        let error = |text: &str| Truth::parse(text.as_bytes()).unwrap_err();
        assert!(error("name,accuracy\na,1\n").contains("no column 'model'"));
        assert!(error("model,acc\na,1\n").contains("no column 'accuracy'"));
        assert!(error("model,accuracy\n").contains("no rows"));
        assert!(error("").contains("no column"));
        assert!(error("model,accuracy\na,1\na.onnx,2\n").contains("'a' occurs twice"));
        assert!(error("model,accuracy\na,good\n").contains("'good'"));
        assert!(error("model,accuracy\na,NaN\n").contains("not a finite number"));
        assert!(
            Truth::read(Path::new("/nowhere.csv")).unwrap_err().to_string().contains("nowhere")
        );
    }

    #[test]
    fn failed_models_count_as_lowest_and_unknown_ones_are_named() {
        let truth = Truth::parse("model,accuracy\na,90\nb,80\nc,70\nd,60\n".as_bytes()).unwrap();
        let models = [
            row("a.onnx", Some(4.0)),
            row("b.onnx", Some(3.0)),
            row("c.onnx", Some(1.0)),
            row("d.onnx", None),
            row("e.onnx", Some(9.0)),
        ];
        let (found, warnings) = truth.correlate(&models);
        let found = found.get("params").unwrap();
        assert_eq!(found.kendall_tau, Some(1.0));
        assert_eq!(found.spearman, Some(1.0));
        assert_eq!(found.top1_accuracy, Some(90.0));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].ends_with(": e.onnx"));
    }
}
