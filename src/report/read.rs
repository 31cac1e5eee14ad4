//! Reading records back.

use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Deserializer;

use crate::error::{Error, Result};
use crate::file;
use crate::rank::{AGGREGATE, Ranking, score_names};
use crate::score::{ModelResult, Record, Run, SCHEMA, ScoreSettings, Tool};
use crate::source::names;
use crate::{data, engine};

/// The records in `text`: a JSON document, or records one a line, of [`SCHEMA`] or of schema 1.
/// `source` is what messages call it.
///
/// What a ranking added is left out, so that they can be [ranked again](Ranking::of). Records of
/// schema 1 have no keys, nor the values of repeats and of parts: where a score is the sum of
/// others, as `te-nas` is, they keep the sum of ranks among the models that they were ranked with.
///
/// # Errors
/// When the text is not JSON, has no records, or has fields that are missing or not known.
pub fn read(text: &str, source: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut heads = Deserializer::from_str(text).into_iter::<Head>();
    let mut start = 0;
    while let Some(head) = heads.next() {
        let end = heads.byte_offset();
        let at = || format!("{source}: record {}", records.len() + 1);
        let head = head.map_err(|e| Error::Data(format!("{}: {e}", at())))?;
        let piece = &text[start..end];
        start = end;
        let read = match (head.schema, head.models.is_some()) {
            (SCHEMA, false) => parse(piece).map(|record: Record| vec![record]),
            (SCHEMA, true) => parse(piece).map(|Document { run, models }| {
                Ranking { run, aggregate: None, models, correlation: None }.into_records()
            }),
            (1, false) => parse(piece).map(|Line1 { run, model }| run.records(vec![model])),
            (1, true) => parse(piece).map(|Document1 { run, models }| run.records(models)),
            (schema, _) => Err(format!(
                "schema {schema} is not known; this version of gradalign reads schema 1 and {SCHEMA}"
            )),
        };
        let read = read.map_err(|e| Error::Data(format!("{}: {e}", at())))?;
        records.extend(read);
    }
    match records.is_empty() {
        true => Err(Error::Data(format!("{source}: there are no records in it"))),
        false => Ok(records),
    }
}

/// The records in the file at `path`, as [`read`] takes them.
///
/// # Errors
/// When the file cannot be read or is not UTF-8, and as [`read`].
pub fn read_file(path: &Path) -> Result<Vec<Record>> {
    let source = path.display().to_string();
    let text = String::from_utf8(file::read(path)?)
        .map_err(|e| Error::Data(format!("{source}: it is not JSON: {e}")))?;
    read(&text, &source)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// What tells documents from lines, and schemas from each other.
#[derive(Deserialize)]
struct Head {
    schema: u32,
    models: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(flatten)]
    run: Run,
    models: Vec<ModelResult>,
}

#[derive(Deserialize)]
struct Document1 {
    #[serde(flatten)]
    run: Run1,
    models: Vec<ModelResult>,
}

#[derive(Deserialize)]
struct Line1 {
    #[serde(flatten)]
    run: Run1,
    #[serde(flatten)]
    model: ModelResult,
}

/// The run of schema 1: its settings do not say which scores were asked for, and give the loss that
/// was used in place of `auto` where it was the same for all models.
#[derive(Deserialize)]
struct Run1 {
    tool: Tool,
    engine: engine::Description,
    data: data::Description,
    settings: Settings1,
}

/// One ranking made of several was a setting.
#[derive(Deserialize)]
struct Settings1 {
    #[serde(flatten)]
    settings: ScoreSettings,
}

impl Run1 {
    /// The records of `models`, which had no names beside those of their files.
    fn records(self, mut models: Vec<ModelResult>) -> Vec<Record> {
        let mut settings = self.settings.settings;
        settings.metrics = score_names(&models);
        settings.metrics.retain(|name| name != AGGREGATE);
        let paths: Vec<&str> = models.iter().map(|model| model.path.as_str()).collect();
        let names = names(&paths);
        let loss = Some(settings.loss.clone()).filter(|loss| loss != "auto");
        for (model, name) in models.iter_mut().zip(names) {
            model.name = name;
            model.loss = loss.clone().filter(|_| model.error.is_none());
        }
        let mut run = Run::new(self.engine, self.data, settings);
        run.tool = self.tool;
        Ranking { run, aggregate: None, models, correlation: None }.into_records()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::{Aggregate, Method};
    use crate::report::Format;
    use crate::report::tests::{ranking, written};

    #[test]
    fn documents_and_lines_give_the_same_records() {
        let mut ranking = ranking();
        let records = ranking.clone().into_records();
        let lines = written(Format::Jsonl, &ranking);
        assert_eq!(read(&lines, "lines").unwrap(), records);
        ranking.aggregate(&Aggregate::of_all(Method::LogRank));
        assert_eq!(read(&written(Format::Json, &ranking), "document").unwrap(), records);
        // One after the other, as `cat` leaves them.
        assert_eq!(read(&(lines.clone() + &lines), "both").unwrap().len(), 6);
    }

    #[test]
    fn a_document_of_schema_1_is_read() {
        let text = include_str!("../../fixtures/records/schema-1.json");
        let records = read(text, "schema-1.json").unwrap();
        let names: Vec<_> = records.iter().map(|r| r.result.name.as_str()).collect();
        assert_eq!(names, ["mlp.onnx", "vit.onnx", "opset11.onnx"]);
        let first = &records[0];
        assert_eq!(first.run.schema, SCHEMA);
        assert_eq!(first.run.settings.metrics.len(), 16);
        assert_eq!(first.result.loss.as_deref(), Some("cross-entropy"));
        assert!(first.result.value("gradalign-1").is_some() && first.result.key.is_none());
        let mut ranking = Ranking::of(records).unwrap();
        ranking.sort_by("params");
        assert_eq!(ranking.models[0].name, "vit.onnx");
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        let good = written(Format::Jsonl, &ranking());
        let error = |text: &str| read(text, "f.json").unwrap_err().to_string();
        assert!(error("").contains("f.json: there are no records"));
        assert!(error("{").contains("record 1"));
        assert!(error("model,accuracy").contains("record 1"));
        assert!(error("{\"schema\": 3}").contains("schema 3 is not known"));
        assert!(error("{\"schema\": 2}").contains("missing field"));
        assert!(error(&(good.clone() + "{\"schema\":2,")).contains("record 4"));
        assert!(error(&good.replacen("\"seed\"", "\"sed\"", 1)).contains("`sed`"));
    }
}
