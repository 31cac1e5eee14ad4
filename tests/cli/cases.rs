//! Small files of kinds that are easily answered wrongly, each with its right answer
//! (`fixtures/cases`), on every engine.

use std::fs;

use serde_json::Value;

use super::{engines, gradalign};

const FOLDER: &str = "fixtures/cases";

/// Scores are right to this share, where a case does not say otherwise.
const TOLERANCE: f64 = 1e-3;

/// The row of a model, and the case's complaint if there is none.
fn score(case: &Value, model: &str, metrics: &str, engine: &str) -> Result<Value, String> {
    let data = match case["data"].as_str() {
        Some(file) => format!("{FOLDER}/{file}"),
        None => "synthetic".into(),
    };
    let options = case["options"].as_str().unwrap_or_default();
    let run = gradalign(&format!(
        "score {FOLDER}/{model} --data {data} --metric {metrics} --engine {engine} --format json \
         {options}"
    ));
    match serde_json::from_str::<Value>(&run.out) {
        Ok(report) => Ok(report["models"][0].clone()),
        Err(_) => Err(run.err),
    }
}

fn words<'a>(case: &'a Value, key: &str) -> Vec<&'a str> {
    case[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether `text` has one of the `words`, in any case of letters.
fn mentions(text: &str, words: &[&str]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(word))
}

fn close(got: Option<f64>, expected: f64, tolerance: f64) -> bool {
    got.is_some_and(|got| (got - expected).abs() <= tolerance * expected.abs().max(1e-9))
}

/// What is wrong with the answer to a case.
fn complaints(case: &Value, engine: &str) -> Vec<String> {
    let tolerance = case["tolerance"].as_f64().unwrap_or(TOLERANCE);
    let values = case["values"].as_object().cloned().unwrap_or_default();
    let mut metrics: Vec<&str> = values.keys().map(String::as_str).collect();
    metrics.extend(words(case, "finite"));
    if metrics.is_empty() {
        metrics.push("gradalign-1");
    }
    let metrics = metrics.join(",");
    let answer = score(case, case["model"].as_str().unwrap(), &metrics, engine);
    let refused = words(case, "refused");
    let error = match &answer {
        Ok(row) => row["error"]["message"].as_str().map(str::to_owned),
        Err(message) => Some(message.clone()),
    };
    match (error, refused.is_empty()) {
        (Some(error), false) if mentions(&error, &refused) => return Vec::new(),
        (Some(error), _) => return vec![format!("the error is: {error}")],
        (None, false) => return vec![format!("it is not refused as {refused:?}")],
        (None, true) => {}
    }
    let row = answer.unwrap();
    let warnings = row["warnings"].to_string();
    let value = |row: &Value, score: &str| row["scores"][score]["value"].as_f64();
    let mut wrong = Vec::new();
    let warns = words(case, "warns");
    if !warns.is_empty() && !mentions(&warnings, &warns) {
        wrong.push(format!("no warning has one of {warns:?}: {warnings}"));
    }
    if mentions(&warnings, &words(case, "silent")) {
        wrong.push(format!("it warns: {warnings}"));
    }
    let told = mentions(&warnings, &words(case, "or_warns"));
    for (score, expected) in values {
        let (got, expected) = (value(&row, &score), expected.as_f64().unwrap());
        if !told && !close(got, expected, tolerance) {
            wrong.push(format!("{score} is {got:?}, not {expected}"));
        }
    }
    for score in words(case, "finite") {
        if value(&row, score).is_none() {
            wrong.push(format!("{score} is null: {warnings}"));
        }
    }
    if let Some(expected) = case["parameters"].as_u64()
        && row["parameters"] != expected
    {
        wrong.push(format!("{} parameters, not {expected}", row["parameters"]));
    }
    if let Some(model) = case["same_as"].as_str() {
        match score(case, model, &metrics, engine) {
            Ok(other) if other["parameters"] != row["parameters"] => {
                wrong.push(format!("{} parameters in {model}", other["parameters"]));
            }
            Ok(other) => {
                let (got, expected) = (value(&row, &metrics), value(&other, &metrics));
                if !expected.is_some_and(|expected| close(got, expected, tolerance)) {
                    wrong.push(format!("{metrics} is {got:?}, {model} has {expected:?}"));
                }
            }
            Err(message) => wrong.push(format!("{model}: {message}")),
        }
    }
    wrong
}

#[test]
fn every_case_has_its_right_answer() {
    let cases = fs::read_to_string(format!("{FOLDER}/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in &cases {
        for engine in engines() {
            let name = case["model"].as_str().unwrap();
            let why = case["why"].as_str().unwrap();
            let complaints = complaints(case, engine);
            wrong.extend(complaints.iter().map(|c| format!("{name} [{engine}], {why}: {c}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
