//! What is written to standard output, in every format.

use serde_json::{Value, json};

use super::{DIGITS, SMALL, gradalign};

const MODELS: &str = "fixtures/extra/opset11.onnx models/mlp.onnx fixtures/broken/quantised.onnx";

fn rank(format: &str) -> super::Run {
    let options = format!("--data {DIGITS} --samples 20 --engine tract --format {format}");
    let run = gradalign(&format!("rank {MODELS} {options}"));
    assert_eq!(run.code, 1, "{}", run.err);
    // Neither warnings nor a progress bar: standard error is no terminal here.
    assert_eq!(run.err, "");
    run
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut keys = keys.to_vec();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
}

const ROW: [&str; 14] = [
    "model",
    "name",
    "path",
    "key",
    "sha256",
    "parameters",
    "parameters_live",
    "flops",
    "output",
    "loss",
    "scores",
    "seconds",
    "warnings",
    "error",
];

const RUN: [&str; 6] = ["schema", "tool", "engine", "data", "settings", "settings_digest"];

#[test]
fn json_has_the_fields_of_the_contract_and_no_others() {
    let report = rank("json").json(1);
    has_keys(&report, &[&RUN[..], &["models"]].concat());
    assert_eq!(report["schema"], 2);
    assert_eq!(report["tool"], json!({"name": "gradalign", "version": env!("CARGO_PKG_VERSION")}));
    has_keys(&report["engine"], &["name", "version", "device"]);
    assert_eq!(
        (&report["engine"]["name"], &report["engine"]["device"]),
        (&json!("tract"), &json!("cpu"))
    );
    has_keys(&report["data"], &["source", "samples", "classes", "sha256"]);
    assert_eq!(report["data"]["source"], "digits-30.npz");
    assert_eq!((&report["data"]["samples"], &report["data"]["classes"]), (&json!(20), &json!(10)));
    assert_eq!(
        report["settings"],
        json!({
            "metric": ["gradalign-1", "gradalign-2"],
            "seed": 0, "init": "keep", "repeats": 1, "loss": "auto", "samples": 20,
            "mean": [], "std": [], "bn": "auto", "normalize": false, "off-diagonal": false,
            "gram": "sign", "ridge": 0.0, "zen": "paper", "features": null, "regions": "gaussian",
            "ntk-samples": 64, "shape": {}, "fix": {}, "batch-axis": {}, "params": [],
            "no-params": [], "tensor": null
        })
    );
    let rows = report["models"].as_array().unwrap();
    for row in rows {
        has_keys(row, &ROW);
        assert_eq!(row["sha256"].as_str().unwrap().len(), 64);
        assert!(row["seconds"].is_f64() && row["warnings"].is_array());
    }
    for (row, rank) in rows[..2].iter().zip(1..) {
        has_keys(&row["scores"], &["gradalign-1", "gradalign-2"]);
        has_keys(&row["scores"]["gradalign-1"], &["value", "std", "rank", "bn", "values"]);
        assert_eq!(
            row["scores"]["gradalign-1"]["values"][0],
            row["scores"]["gradalign-1"]["value"]
        );
        assert_eq!(
            (&row["loss"], row["key"].as_str().unwrap().len()),
            (&json!("cross-entropy"), 64)
        );
        assert_eq!(row["scores"]["gradalign-1"]["rank"], rank);
        assert_eq!(row["scores"]["gradalign-1"]["std"], Value::Null);
        assert!(row["parameters"].is_u64() && row["flops"].is_u64() && row["error"].is_null());
    }
    // Only one of them has batch norm.
    assert_eq!(rows[0]["model"], "mlp.onnx");
    assert_eq!(rows[0]["scores"]["gradalign-1"]["bn"], Value::Null);
    assert_eq!(rows[1]["scores"]["gradalign-1"]["bn"], "running");
    assert_eq!(rows[1]["path"], SMALL);
    let failed = &rows[2];
    assert_eq!(failed["scores"], json!({}));
    assert_eq!((&failed["parameters"], &failed["flops"]), (&Value::Null, &Value::Null));
    has_keys(&failed["error"], &["kind", "message"]);
}

#[test]
fn json_lines_say_all_for_each_model() {
    let run = rank("jsonl");
    let lines: Vec<Value> = run.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        has_keys(line, &[&ROW[..], &RUN].concat());
        for score in line["scores"].as_object().unwrap().values() {
            assert!(score["rank"].is_null(), "{score}");
        }
    }
}

#[test]
fn csv_can_be_read_back() {
    let run = rank("csv");
    let mut reader = csv::Reader::from_reader(run.out.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let column = |name| headers.iter().position(|h| h == name).unwrap();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(&rows[0][column("model")], "mlp.onnx");
    assert_eq!(&rows[0][column("gradalign-2.rank")], "1");
    assert!(rows[1][column("gradalign-1")].parse::<f64>().unwrap() > 0.0);
    assert_eq!(&rows[2][column("gradalign-1")], "");
    assert_eq!(&rows[2][column("error.kind")], "unsupported-model");
}

/// Those that do not change values are where the data, the engine and the result are chosen.
#[test]
fn every_option_that_changes_a_value_is_in_the_settings() {
    let elsewhere = [
        "data",
        "aggregate",
        "engine",
        "device",
        "threads",
        "jobs",
        "memory",
        "ort-lib",
        "format",
        "out",
        "report",
        "top",
        "where",
        "store",
        "no-store",
        "isolate",
        "no-isolate",
        "timeout",
        "fail-fast",
        "strict",
        "shard",
        "shards",
        "log-format",
        "truth",
        "filter",
        "write-back",
        "dry-run",
        "allow-local",
        "verbose",
        "quiet",
        "help",
    ];
    let settings = rank("json").json(1)["settings"].clone();
    let help = gradalign("rank --help").out;
    let options = help.lines().filter_map(|line| line.trim_start().split_once("--"));
    let options = options.filter(|(before, _)| before.is_empty() || before.ends_with(", "));
    let names: Vec<&str> =
        options.map(|(_, rest)| rest.split([' ', '[', '=', '.']).next().unwrap()).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        let known = elsewhere.contains(&name) || settings.get(name).is_some();
        assert!(known, "--{name} is not in the settings: {settings}");
    }
}

#[test]
fn no_two_columns_have_one_name() {
    for format in ["csv", "markdown"] {
        let options =
            format!("--data {DIGITS} --samples 4 --metric params,flops --format {format}");
        let run = gradalign(&format!("score {SMALL} {options}"));
        assert_eq!(run.code, 0, "{}", run.err);
        let header = run.out.lines().next().unwrap();
        let mut names: Vec<_> = header.split([',', '|']).map(str::trim).collect();
        names.retain(|name| !name.is_empty());
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{header}");
        assert!(names.contains(&"flops"));
    }
}

#[test]
fn tables_are_for_people() {
    let table = rank("table").out;
    let first: Vec<_> = table.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(first[..4], ["model", "mlp.onnx", "opset11.onnx", ""], "{table}");
    assert!(table.contains("quantised.onnx: unsupported-model — "));
    assert!(!table.contains('\u{1b}'), "no colours outside a terminal");

    let markdown = rank("markdown").out;
    let cells = |line: &str| line.matches('|').count();
    let lines: Vec<_> = markdown.lines().take(4).collect();
    assert!(lines.iter().all(|line| cells(line) == cells(lines[0])), "{markdown}");
    assert!(markdown.contains("- quantised.onnx: unsupported-model"));
}
