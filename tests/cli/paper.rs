//! The scores that the paper compares, and one ranking made of several.

use serde_json::{Value, json};

use super::{DIGITS, SMALL, engines, gradalign, row, small, value};

const MODELS: &str =
    "models/nasbench201-cell.onnx models/plain-cnn.onnx models/sklearn-mlp.onnx models/vit.onnx";

fn names(scores: &Value) -> Vec<&str> {
    scores.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn every_score_of_the_paper_from_one_command() {
    for engine in engines() {
        let report = gradalign(&format!(
            "rank {MODELS} --data {DIGITS} --samples 20 --metric paper --aggregate --engine \
             {engine} --format json"
        ))
        .json(0);
        let rows = report["models"].as_array().unwrap();
        assert_eq!(rows.len(), 4);
        for row in rows {
            assert_eq!(names(&row["scores"]).len(), 13, "{row}");
        }
        // Without a rectifier there is no pattern, and the reason is told.
        let vit = row(&report, "vit.onnx");
        assert_eq!(vit["scores"]["naswot"]["value"], Value::Null);
        assert_eq!(vit["scores"]["naswot"]["rank"], 4);
        let warnings = vit["warnings"].to_string();
        assert!(warnings.contains("naswot is reported as null and ranked last: "), "{warnings}");
        assert!(warnings.contains("no rectifier"), "{warnings}");
        let cell = &row(&report, "nasbench201-cell.onnx")["scores"];
        for (score, treatment) in [
            ("gradalign-1", "running"),
            ("gradsign", "sample"),
            ("naswot", "batch"),
            ("te-nas", "batch"),
            ("zen", "batch"),
            ("synflow", "removed"),
        ] {
            assert_eq!(cell[score]["bn"], treatment, "{score}");
        }
        let plain = &row(&report, "plain-cnn.onnx")["scores"];
        assert!(names(plain).iter().all(|score| plain[score]["bn"].is_null()), "{plain}");
        // Two ranks from 1 to 4, the lowest for the model that has no regions.
        let sums = rows.iter().map(|row| value(row, "te-nas")).collect::<Vec<_>>();
        assert_eq!(sums.iter().sum::<f64>(), 20.0, "{sums:?}");
        // The best by the aggregate stands first.
        let order: Vec<f64> = rows.iter().map(|row| value(row, "aggregate")).collect();
        assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
        assert_eq!(rows[0]["scores"]["aggregate"]["rank"], 1);
    }
}

#[test]
fn aggregates_differ_by_method() {
    let run = |aggregate: &str| {
        let scores = "--metric params,flops,synflow --engine tract --format json";
        gradalign(&format!("rank {aggregate} {MODELS} --data {DIGITS} {scores}")).json(0)
    };
    let (borda, log) = (run("--aggregate"), run("--aggregate=log-rank"));
    let first = |report: &Value| value(&report["models"][0], "aggregate");
    assert!((0.0..=1.0).contains(&first(&borda)) && first(&log) <= 0.0);
    assert!(run("")["models"][0]["scores"]["aggregate"].is_null());
    gradalign(&format!("rank {MODELS} --data {DIGITS} --aggregate=best")).refused(&["log-rank"]);
}

#[test]
fn te_nas_of_one_model_is_regions_less_condition() {
    let report = small("--metric te-nas,te-nas-ntk,te-nas-regions --samples 12");
    let row = &report["models"][0];
    let sum = value(row, "te-nas-ntk") + value(row, "te-nas-regions");
    assert_eq!(value(row, "te-nas"), sum);
    // Fewer samples are better conditioned; independent ones differ from coupled ones.
    let condition = |options: &str| {
        value(
            &small(&format!("--metric te-nas-ntk --samples 12 {options}"))["models"][0],
            "te-nas-ntk",
        )
    };
    assert!(condition("--ntk-samples 4") > condition(""));
    assert!(condition("--bn sample") != condition(""));
}

#[test]
fn options_of_single_scores() {
    let score = |name: &str, options: &str| {
        value(&small(&format!("--metric {name} --samples 8 {options}"))["models"][0], name)
    };
    assert!(score("zen", "--zen reference") != score("zen", ""));
    assert!(score("zen", "--seed 1") != score("zen", "--seed 2"));
    assert!(score("te-nas-regions", "--regions samples") <= 8.0);
    let report = small("--metric zen,snip --repeats 3");
    let scores = &report["models"][0]["scores"];
    assert!(scores["zen"]["std"].is_f64() && scores["snip"]["std"].is_null(), "{scores}");
    gradalign(&format!("score {SMALL} --data {DIGITS} --metric snip --repeats 3"))
        .refused(&["what is drawn", "--init"]);
    gradalign(&format!("score {SMALL} --data {DIGITS} --metric gradsign --bn batch"))
        .refused(&["GradSign", "--bn sample"]);
    gradalign(&format!("score {SMALL} --data {DIGITS} --metric best")).refused(&[
        "unknown score 'best'",
        "jacob-cov",
        "paper",
        "all",
    ]);
}

#[test]
fn scores_that_move_the_input_need_numbers_there() {
    let report = gradalign(
        "score fixtures/extra/text-encoder.onnx --data synthetic --samples 8 --engine tract --metric \
         zen,jacob-cov,snip --format json",
    )
    .json(0);
    let row = &report["models"][0];
    assert!(
        row["scores"]["zen"]["value"].is_null() && row["scores"]["jacob-cov"]["value"].is_null()
    );
    assert!(value(row, "snip") > 0.0);
    let warnings = row["warnings"].to_string();
    for score in ["zen", "jacob-cov"] {
        let says =
            format!("{score} is reported as null and ranked last: the model has no input of");
        assert!(warnings.contains(&says), "{warnings}");
    }
}

#[test]
fn the_table_of_scores_is_complete() {
    let table = gradalign("metrics --format json").json(0);
    let rows = table.as_array().unwrap();
    assert_eq!(rows.len(), 20);
    for row in rows {
        for column in ["name", "formula", "needs", "direction", "bn", "source"] {
            assert!(!row[column].as_str().unwrap().is_empty(), "{row}");
        }
    }
    let treatment =
        |name: &str| rows.iter().find(|row| row["name"] == name).map(|row| row["bn"].clone());
    assert_eq!(treatment("synflow"), Some(json!("removed")));
    assert_eq!(treatment("gradsign"), Some(json!("sample")));
    assert_eq!(treatment("params"), Some(json!("–")));
}
