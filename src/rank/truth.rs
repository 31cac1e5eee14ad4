//! Known accuracies of models, and how scores agree with them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ranking::score_names;
use crate::error::{Error, Result};
use crate::file;
use crate::ordered::Ordered;
use crate::score::ModelResult;
use crate::source::ModelRef;
use crate::stats;

/// Known accuracies by model.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    accuracies: HashMap<String, f64>,
}

/// How a score agrees with the truth; `None` where it is not defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Reads a CSV file with the columns `model` (a path, a name as reports have it, or a file
    /// name, with or without `.onnx`) and `accuracy` (a number); other columns are ignored.
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

    /// The accuracy of a model, looked up by its path, its name and its file name.
    pub fn accuracy(&self, model: &ModelResult) -> Option<f64> {
        self.accuracies.get(self.row([&model.path, &model.name, &model.model])?).copied()
    }

    /// The accuracy of each of `models`; `None` where there is none, and where a row fits several
    /// of them.
    pub fn accuracies(&self, models: &[ModelResult]) -> Vec<Option<f64>> {
        let names = |m: &ModelResult| [m.path.clone(), m.name.clone(), m.model.clone()];
        let all: Vec<[String; 3]> = models.iter().map(names).collect();
        let all = || all.iter().map(|[path, name, file]| [path.as_str(), name, file]);
        let ambiguous = self.ambiguous(all());
        let accuracy = |names: [&str; 3]| {
            let row = self.row(names).filter(|row| !ambiguous.contains_key(row))?;
            self.accuracies.get(row).copied()
        };
        all().map(accuracy).collect()
    }

    /// The row of a model of these names.
    fn row<'a>(&self, names: [&'a str; 3]) -> Option<&'a str> {
        names.into_iter().map(key).find(|name| self.accuracies.contains_key(*name))
    }

    /// The rows that fit none of `models`, sorted.
    pub fn unused(&self, models: &[ModelRef]) -> Vec<&str> {
        let names = |m: &ModelRef| [m.address.clone(), m.name.clone(), m.file_name().to_owned()];
        let names: Vec<[String; 3]> = models.iter().map(names).collect();
        let used: HashSet<&str> =
            names.iter().filter_map(|[a, b, c]| self.row([a, b, c])).collect();
        let rows = self.accuracies.keys().map(String::as_str);
        let mut unused: Vec<&str> = rows.filter(|row| !used.contains(row)).collect();
        unused.sort_unstable();
        unused
    }

    /// Errs where a row fits several of `models`, such as files of one name in several folders: it
    /// cannot be said which of them it is of.
    ///
    /// # Errors
    /// Naming the row, and how the models can be told from each other.
    pub fn check(&self, models: &[ModelRef]) -> Result<()> {
        let models = models.iter().map(|m| [m.address.as_str(), m.name.as_str(), m.file_name()]);
        match self.ambiguous(models).into_iter().next() {
            None => Ok(()),
            Some((row, names)) => Err(Error::Data(format!(
                "the row '{row}' of the truth fits several models: call them {}",
                names.join(", ")
            ))),
        }
    }

    /// The rows that fit several models, with the names of these.
    fn ambiguous<'a>(
        &self,
        models: impl Iterator<Item = [&'a str; 3]>,
    ) -> BTreeMap<&'a str, Vec<&'a str>> {
        let mut seen = HashSet::new();
        let mut rows = BTreeMap::<&str, Vec<&str>>::new();
        for names in models.filter(|[path, ..]| seen.insert(*path)) {
            if let Some(row) = self.row(names) {
                rows.entry(row).or_default().push(names[1]);
            }
        }
        rows.retain(|_, names| names.len() > 1);
        rows
    }

    /// Compares each score with the truth, over the models that it knows. Models without a value
    /// rank last, those that failed among them: leaving them out would reward failing. Also
    /// returns warnings that name the models it does not know, and those that it cannot tell apart.
    pub(super) fn correlate(&self, models: &[ModelResult]) -> (Ordered<Correlation>, Vec<String>) {
        let names = |m: &'_ ModelResult| [m.path.clone(), m.name.clone(), m.model.clone()];
        let all: Vec<[String; 3]> = models.iter().map(names).collect();
        let ambiguous = self.ambiguous(all.iter().map(|[a, b, c]| [a.as_str(), b, c]));
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for (row, [path, name, file]) in models.iter().zip(&all) {
            let of_truth = self.row([path, name, file]);
            match self.accuracy(row) {
                Some(accuracy) if !of_truth.is_some_and(|row| ambiguous.contains_key(row)) => {
                    known.push((row, accuracy));
                }
                Some(_) => {}
                None => unknown.push(row.name.as_str()),
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
        let mut warnings = Vec::new();
        if !unknown.is_empty() {
            warnings.push(format!(
                "the truth has no accuracy for {} of {} models, which the correlation leaves out: {}",
                unknown.len(),
                models.len(),
                unknown.join(", ")
            ));
        }
        warnings.extend(ambiguous.iter().map(|(row, names)| {
            format!(
                "the row '{row}' of the truth fits several models, which the correlation leaves \
                 out: {}",
                names.join(", ")
            )
        }));
        (result, warnings)
    }
}

/// A model's name without `.onnx`, as it stands in a table.
fn key(name: &str) -> &str {
    let name = name.trim();
    match name.split_at_checked(name.len().saturating_sub(".onnx".len())) {
        Some((stem, end)) if end.eq_ignore_ascii_case(".onnx") => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Failure, ScoreValue};

    fn row(path: &str, value: Option<f64>) -> ModelResult {
        named(&ModelRef::new(path), value)
    }

    fn named(model: &ModelRef, value: Option<f64>) -> ModelResult {
        let mut row = ModelResult::new(model);
        if let Some(value) = value {
            row.add_score(&ScoreValue::new("params", value));
        } else {
            row.fail(Failure { kind: "io".into(), message: "gone".into() });
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
        assert_eq!(truth.accuracy(&row("dir/ a.ONNX", None)), Some(90.5));
        assert_eq!(
            truth.unused(&ModelRef::all(["b.onnx".into(), "y/c.onnx".into()])),
            ["a", "x/c"]
        );
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

    #[test]
    fn a_row_that_fits_several_models_fits_none() {
        let models = ModelRef::all(["x/a/m.onnx", "x/b/m.onnx", "x/b/n.onnx"].map(String::from));
        let rows: Vec<_> =
            models.iter().zip([1.0, 2.0, 3.0]).map(|(m, v)| named(m, Some(v))).collect();
        let truth = |text: &str| Truth::parse(text.as_bytes()).unwrap();
        let clear = truth("model,accuracy\na/m,1\nx/b/m.onnx,2\nn,3\n");
        assert!(clear.check(&models).is_ok());
        let (found, warnings) = clear.correlate(&rows);
        assert_eq!((found.get("params").unwrap().kendall_tau, warnings.len()), (Some(1.0), 0));

        let unclear = truth("model,accuracy\nm,1\nn,3\n");
        let error = unclear.check(&models).unwrap_err().to_string();
        assert!(error.contains("'m'") && error.contains("a/m.onnx, b/m.onnx"), "{error}");
        assert_eq!(clear.accuracies(&rows), [Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(unclear.accuracies(&rows), [None, None, Some(3.0)]);
        let (found, warnings) = unclear.correlate(&rows);
        assert_eq!(found.get("params").unwrap().top1_accuracy, Some(3.0));
        assert!(warnings[0].contains("fits several models"), "{warnings:?}");
        // One model that is listed twice is one.
        assert!(unclear.check(&[models[0].clone(), models[0].clone()]).is_ok());
    }
}
