//! Known accuracies of architectures: a CSV table, or JSON records such as those of NDS.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::file;
use crate::space::Space;

/// Where accuracies are, and what of it is read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TruthFile {
    /// The file: CSV with a row an architecture, or JSON with a record for each, in a list or in several
    /// lists by name. `None` where it has not been said.
    pub file: Option<PathBuf>,
    /// The column or field with the architecture, as the space writes it. Several together are the
    /// fields of a JSON object.
    #[serde(default = "arch", deserialize_with = "one_or_more")]
    pub architecture: Vec<String>,
    /// What the space calls the architecture, where `{}` stands for what the file has, without spaces.
    pub form: Option<String>,
    /// The columns or fields with accuracies, higher being better; the first is what plots show. Of
    /// NDS's errors, `test_ep_top1` and `min_test_top1`, it is what they lack of 100, at the end of the
    /// training.
    #[serde(deserialize_with = "one_or_more")]
    pub values: Vec<String>,
}

fn arch() -> Vec<String> {
    vec!["arch".into()]
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Several(Vec<String>),
    }
    match Form::deserialize(deserializer)? {
        Form::One(name) => Ok(vec![name]),
        Form::Several(names) if !names.is_empty() => Ok(names),
        Form::Several(_) => Err(de::Error::custom("name one at least")),
    }
}

/// An architecture, as it is written, with its accuracies.
struct Row {
    notation: String,
    accuracies: Vec<Option<f64>>,
}

impl TruthFile {
    /// The same with a path that is relative to `folder`.
    pub(super) fn located(self, folder: &Path) -> Self {
        TruthFile { file: self.file.map(|file| folder.join(file)), ..self }
    }

    /// Reads the accuracies of architectures of `space`.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a column or field, has no rows, or has one that is not of the
    /// space or no number.
    pub fn read(&self, space: &dyn Space) -> Result<Accuracies> {
        let path = self.file.as_deref().ok_or_else(|| {
            Error::Usage("no file with accuracies was given: name one by `truth`".into())
        })?;
        let (opened, _) = file::open(path)?;
        let is_json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let opened = BufReader::new(opened);
        let rows = if is_json { self.records(opened) } else { self.table(opened) };
        rows.and_then(|rows| Accuracies::new(self.values.clone(), rows, space))
            .map_err(|reason| Error::Data(format!("{}: {reason}", path.display())))
    }

    /// The notation of what the file has for an architecture.
    fn notation(&self, found: &str) -> String {
        match &self.form {
            Some(form) => form.replace("{}", &found.replace(char::is_whitespace, "")),
            None => found.to_owned(),
        }
    }

    /// The rows of a CSV table.
    fn table(&self, reader: impl Read) -> Result<Vec<Row>, String> {
        let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
        let headers = csv.headers().map_err(|e| e.to_string())?.clone();
        let column = |name: &String| {
            headers.iter().position(|header| header == name).ok_or_else(|| {
                let known: Vec<_> = headers.iter().collect();
                format!("there is no column '{name}'; there are {}", known.join(", "))
            })
        };
        let names: Vec<usize> = self.architecture.iter().map(column).collect::<Result<_, _>>()?;
        let values: Vec<usize> = self.values.iter().map(column).collect::<Result<_, _>>()?;
        let row = |row: csv::Result<csv::StringRecord>| {
            let row = row.map_err(|e| e.to_string())?;
            let cell = |at: &usize| row.get(*at).unwrap_or_default();
            let found = match names.as_slice() {
                [only] => cell(only).to_owned(),
                several => {
                    // A cell may be JSON itself.
                    let json =
                        |text: &str| serde_json::from_str(text).unwrap_or_else(|_| text.into());
                    let cells = several.iter().map(|at| json(cell(at)));
                    object(self.architecture.iter().cloned().zip(cells))
                }
            };
            let notation = self.notation(&found);
            let number = |at: &usize| number(cell(at), &notation);
            let accuracies = values.iter().map(number).collect::<Result<_, _>>()?;
            Ok(Row { notation, accuracies })
        };
        csv.records().map(row).collect()
    }

    /// The rows that JSON records are.
    fn records(&self, reader: impl Read) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        let mut json = serde_json::Deserializer::from_reader(reader);
        let read = Records { truth: self, rows: &mut rows }.deserialize(&mut json);
        read.and_then(|()| json.end()).map_err(|e| e.to_string())?;
        Ok(rows)
    }

    /// The row of one record.
    fn row(&self, record: &Map<String, Value>) -> Result<Row, String> {
        let field = |name: &String| {
            record.get(name).ok_or_else(|| {
                let known: Vec<_> = record.keys().map(String::as_str).collect();
                format!("a record has no field '{name}'; it has {}", known.join(", "))
            })
        };
        let found = match self.architecture.as_slice() {
            [only] => match field(only)? {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
            several => {
                let fields = several.iter().map(|name| Ok((name.clone(), field(name)?.clone())));
                object(fields.collect::<Result<Vec<_>, String>>()?)
            }
        };
        let notation = self.notation(&found);
        let accuracy = |name: &String| {
            let is_error = ["test_ep_top1", "min_test_top1"].contains(&name.as_str());
            let found = match field(name)? {
                // One an epoch.
                Value::Array(epochs) => epochs.last().unwrap_or(&Value::Null),
                other => other,
            };
            match found {
                Value::Null => Ok(None),
                value => {
                    let number = number(&value.to_string(), &notation)?;
                    Ok(number.map(|number| if is_error { 100.0 - number } else { number }))
                }
            }
        };
        let accuracies = self.values.iter().map(accuracy).collect::<Result<_, String>>()?;
        Ok(Row { notation, accuracies })
    }
}

/// These fields as a JSON object.
fn object(fields: impl IntoIterator<Item = (String, Value)>) -> String {
    Value::Object(fields.into_iter().collect()).to_string()
}

/// An accuracy in a table; `None` where the cell is empty.
fn number(cell: &str, notation: &str) -> Result<Option<f64>, String> {
    if cell.is_empty() {
        return Ok(None);
    }
    let number = cell.parse().ok().filter(|number: &f64| number.is_finite());
    number.map(Some).ok_or_else(|| {
        format!("the accuracy of '{notation}' is '{cell}', which is not a finite number")
    })
}

/// Reads a list of records, or an object of such lists, one record after the other: files of published
/// benchmarks are large, and little is kept of a record.
struct Records<'a> {
    truth: &'a TruthFile,
    rows: &'a mut Vec<Row>,
}

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records, or lists of them by name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(record) = list.next_element::<Map<String, Value>>()? {
            self.rows.push(self.truth.row(&record).map_err(de::Error::custom)?);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut lists: A) -> Result<(), A::Error> {
        while lists.next_key::<String>()?.is_some() {
            lists.next_value_seed(Records { truth: self.truth, rows: &mut *self.rows })?;
        }
        Ok(())
    }
}

/// Known accuracies of architectures of a space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracies {
    /// What they are called.
    pub values: Vec<String>,
    /// By the notation of the architecture, as the space writes it; in the order of the file.
    rows: Vec<(String, Vec<Option<f64>>)>,
    places: HashMap<String, usize>,
    /// How many architectures are there more than once: their accuracies are the means.
    pub repeated: usize,
}

impl Accuracies {
    fn new(values: Vec<String>, rows: Vec<Row>, space: &dyn Space) -> Result<Self, String> {
        if rows.is_empty() {
            return Err("there are no rows".into());
        }
        let mut found = Accuracies { values, ..Accuracies::default() };
        // How often each architecture occurs, and how many accuracies its means are of.
        let mut counts: Vec<(usize, Vec<usize>)> = Vec::new();
        for Row { notation, accuracies } in rows {
            let notation = space.parse(&notation).map_err(|e| e.to_string())?.notation();
            let place = *found.places.entry(notation.clone()).or_insert(found.rows.len());
            if place == found.rows.len() {
                found.rows.push((notation, vec![None; accuracies.len()]));
                counts.push((0, vec![0; accuracies.len()]));
            }
            let (_, means) = &mut found.rows[place];
            let (times, counts) = &mut counts[place];
            *times += 1;
            for ((mean, new), count) in means.iter_mut().zip(accuracies).zip(counts) {
                let Some(new) = new else { continue };
                *count += 1;
                *mean = Some(mean.map_or(new, |mean| mean + (new - mean) / *count as f64));
            }
        }
        found.repeated = counts.iter().filter(|(times, _)| *times > 1).count();
        Ok(found)
    }

    /// The architectures, in the order of the file.
    pub fn notations(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|(notation, _)| notation.as_str())
    }

    /// The accuracies of an architecture, one for each of the [values](Accuracies::values).
    pub fn of(&self, notation: &str) -> Option<&[Option<f64>]> {
        self.places.get(notation).map(|&at| self.rows[at].1.as_slice())
    }
}
