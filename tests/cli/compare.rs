//! `compare`: two results beside each other.

use serde_json::json;
use tempfile::TempDir;

use super::{DIGITS, SMALL, gradalign, inside};

/// Files with two results that differ in the seed and in a model.
fn results(folder: &TempDir) -> [String; 2] {
    let common = format!("--data {DIGITS} --samples 20 --engine tract --init pytorch");
    let metric = "--metric gradalign-1,te-nas,params";
    let more = ["fixtures/broken/empty.onnx", "models/jax-cnn.onnx"];
    [0, 1].map(|seed| {
        let (_, out) = inside(folder, &format!("{seed}.json"));
        let models = format!("models/mlp.onnx models/sklearn-mlp.onnx {SMALL} {}", more[seed]);
        let format = if seed == 0 { "json" } else { "jsonl" };
        let run = gradalign(&format!(
            "rank {models} {common} {metric} --seed {seed} --format {format} --out {out}"
        ));
        assert_eq!(run.code, i32::from(seed == 0), "{}", run.err);
        out
    })
}

#[test]
fn results_are_compared_in_every_format() {
    let folder = TempDir::new().unwrap();
    let [a, b] = results(&folder);
    let found = gradalign(&format!("compare {a} {b} --format json")).json(0);
    assert_eq!(found["models"], 3);
    assert_eq!(
        (&found["only_a"], &found["only_b"]),
        (&json!(["empty.onnx"]), &json!(["jax-cnn.onnx"]))
    );
    let fields: Vec<_> =
        found["differences"].as_array().unwrap().iter().map(|d| d["field"].clone()).collect();
    assert!(fields.contains(&json!("settings.seed")), "{fields:?}");
    let params = &found["scores"]["params"];
    assert_eq!((&params["changed"], &params["kendall_tau"]), (&json!(0), &json!(1.0)));
    assert_eq!(params["top1_a"], json!(["sklearn-mlp.onnx"]));
    let first = &found["scores"]["gradalign-1"];
    assert_eq!((&first["models"], &first["changed"]), (&json!(3), &json!(3)));
    assert!(first["moves"][0]["relative"].is_f64());

    let table = gradalign(&format!("compare {a} {b}")).out;
    for part in [
        "3 models in both",
        "in A only: empty.onnx",
        "settings.seed",
        "values changed",
        "same: sklearn",
    ] {
        assert!(table.contains(part), "no '{part}' in {table}");
    }
    let markdown =
        gradalign(&format!("compare {a} {b} --format markdown --metric gradalign_1 --top 1"));
    assert!(
        markdown.out.contains("### gradalign-1: 1 of 3 models that changed"),
        "{}",
        markdown.out
    );
    assert!(!markdown.out.contains("te-nas"));
    let csv = gradalign(&format!("compare {a} {b} --format csv"));
    assert!(csv.out.starts_with("score,model,rank A,rank B,value A,value B,relative change"));
    assert!(csv.err.contains("in B only: jax-cnn.onnx"), "{}", csv.err);

    let same = gradalign(&format!("compare {a} {a}"));
    assert_eq!(same.code, 0);
    assert!(same.out.contains("settings, data, engine and versions are the same"), "{}", same.out);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = TempDir::new().unwrap();
    let [a, b] = results(&folder);
    gradalign(&format!("compare {a} nowhere.json")).refused(&["nowhere.json: No such file"]);
    gradalign(&format!("compare {a} LICENSE")).refused(&["LICENSE: record 1"]);
    gradalign(&format!("compare {a} {SMALL}")).refused(&["opset11.onnx"]);
    gradalign(&format!("compare {a} {b} --metric zen")).refused(&["'zen'", "choose from"]);
    gradalign(&format!("compare {a}")).refused(&["B.json"]);
    // Results of two runs in one file.
    let (mixed, mixed_text) = inside(&folder, "mixed.json");
    let texts = [&a, &b].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(mixed, texts.concat()).unwrap();
    gradalign(&format!("compare {mixed_text} {a}")).refused(&["differ in their settings"]);
}
