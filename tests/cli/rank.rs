//! `rank` and `score`: what fails costs only its own row.

use gradalign::report::read;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::page::embedded;
use super::{DIGITS, SMALL, engines, gradalign, inside, row, value};

/// Of each file in `fixtures/broken`, the kind of its error and what the message must say.
const BROKEN: [(&str, &str, &[&str]); 11] = [
    ("empty.onnx", "invalid-model", &["empty.onnx", "it is empty"]),
    ("escaping-external.onnx", "invalid-model", &["'../secret.bin' is refused", "'weight'"]),
    ("integer-only.onnx", "unsupported-model", &["integer-only.onnx", "no floating-point output"]),
    ("many-problems.onnx", "unsupported-op", &["'noise'", "model.eval()", "com.example.Entangle"]),
    ("missing-external.onnx", "invalid-model", &["'missing.bin'", "'weight'", "keep it beside"]),
    ("nan-weights.onnx", "score", &["'weight'", "NaN", "--init"]),
    ("no-parameters.onnx", "unsupported-model", &["no-parameters.onnx", "no floating-point"]),
    ("not-onnx.onnx", "invalid-model", &["not-onnx.onnx", "not ONNX"]),
    ("quantised.onnx", "unsupported-model", &["'quantise'", "QuantizeLinear", "floating-point"]),
    ("truncated.onnx", "invalid-model", &["truncated.onnx", "truncated"]),
    ("unsupported-op.onnx", "unsupported-op", &["'mystery'", "com.example.Entangle", "opset 1"]),
];

fn names(report: &Value) -> Vec<&str> {
    let rows = report["models"].as_array().unwrap();
    rows.iter().map(|row| row["model"].as_str().unwrap()).collect()
}

#[test]
fn garbage_costs_only_its_own_row() {
    let here = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/broken")).unwrap();
    assert_eq!(here.count(), BROKEN.len(), "every file is expected here");
    let mut both = Vec::new();
    for engine in engines() {
        let report = gradalign(&format!(
            "rank fixtures/broken {SMALL} models/mlp.onnx --data {DIGITS} --samples 20 --engine \
             {engine} --format json"
        ))
        .json(1);
        assert_eq!(names(&report)[..2], ["mlp.onnx", "opset11.onnx"]);
        assert_eq!(report["models"].as_array().unwrap().len(), BROKEN.len() + 2);
        for (model, kind, says) in BROKEN {
            let row = row(&report, model);
            assert_eq!(row["error"]["kind"], kind, "{row}");
            assert_eq!(row["scores"], json!({}));
            for what in says {
                let message = row["error"]["message"].as_str().unwrap();
                assert!(message.contains(what), "no '{what}' in: {message}");
            }
        }
        for (rank, model) in ["mlp.onnx", "opset11.onnx"].into_iter().enumerate() {
            let row = row(&report, model);
            assert_eq!(row["error"], Value::Null);
            assert_eq!(row["scores"]["gradalign-1"]["rank"], rank + 1);
            both.push((model, value(row, "gradalign-1"), value(row, "gradalign-2")));
        }
    }
    for (model, first, second) in &both {
        for (other, again, anew) in &both {
            if model == other {
                assert!((first / again - 1.0).abs() < 1e-3, "{model}: {first} and {again}");
                assert!((second / anew - 1.0).abs() < 1e-3, "{model}: {second} and {anew}");
            }
        }
    }
}

#[test]
fn models_scored_at_once_get_what_they_get_alone() {
    for engine in engines() {
        let run = |jobs: usize| {
            let mut report = gradalign(&format!(
                "rank models/*mlp*.onnx fixtures/extra/opset*.onnx fixtures/broken/truncated.onnx \
                 --data {DIGITS} --samples 20 --engine {engine} --format json --jobs {jobs}"
            ))
            .json(1);
            for row in report["models"].as_array_mut().unwrap() {
                row["seconds"].take();
            }
            report
        };
        let alone = run(1);
        assert!(names(&alone).len() > 4);
        for jobs in [0, 2, 3, 100] {
            assert_eq!(run(jobs), alone, "{engine}, {jobs} jobs");
        }
    }
}

#[test]
fn score_keeps_the_order_given_and_rank_does_not() {
    let models = "models/sklearn-mlp.onnx models/mlp.onnx fixtures/extra/opset7.onnx";
    let options = format!("--data {DIGITS} --samples 4 --metric params --format json");
    let scored = gradalign(&format!("score {models} {options}")).json(0);
    assert_eq!(names(&scored), ["sklearn-mlp.onnx", "mlp.onnx", "opset7.onnx"]);
    let ranked = gradalign(&format!("rank fixtures/extra/opset7.onnx models/*mlp.onnx {options}"));
    assert_eq!(names(&ranked.json(0)), ["sklearn-mlp.onnx", "mlp.onnx", "opset7.onnx"]);
    let ranks = scored["models"].as_array().unwrap().iter();
    let ranks: Vec<_> = ranks.map(|row| row["scores"]["params"]["rank"].as_u64()).collect();
    assert_eq!(ranks, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_file_that_is_not_there_is_a_row_of_score_and_refused_by_rank() {
    let options = format!("--data {DIGITS} --metric params --format json");
    let report = gradalign(&format!("score {SMALL} nowhere.onnx {options}")).json(1);
    assert_eq!(row(&report, "nowhere.onnx")["error"]["kind"], "io");
    gradalign(&format!("rank {SMALL} nowhere.onnx {options}"))
        .refused(&["no model found in 'nowhere.onnx'"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let empty = TempDir::new().unwrap();
    let empty = empty.path().to_str().unwrap();
    gradalign(&format!("rank {empty} --data {DIGITS}")).refused(&["no model found", empty]);
    gradalign(&format!("rank {SMALL}")).refused(&["--data"]);
    gradalign("rank").refused(&["SOURCE"]);
    gradalign(&format!("rank {SMALL} --data nowhere.npz")).refused(&["nowhere.npz: No such file"]);
    gradalign(&format!("rank {SMALL} --data LICENSE")).refused(&["LICENSE", "not a known kind"]);
    let cases: [(&str, &[&str]); 18] = [
        ("--mean 125.3,123,113.9", &["scaled to [0, 1]", "0.4914,0.4824,0.4467"]),
        ("--mean -0.1", &["cannot be"]),
        ("--std 58.395", &["0.2290"]),
        ("--ntk-samples 1", &["--ntk-samples", "2 or above"]),
        ("--metric gradalign-3", &["'gradalign-3'", "choose from gradalign-1"]),
        ("--samples 0", &["--samples", "above 0"]),
        ("--samples some", &["'all'"]),
        ("--repeats 0 --init normal", &["--repeats", "above 0"]),
        ("--repeats 3", &["choose an --init"]),
        ("--bn batch", &["choose --bn running or --bn sample"]),
        ("--engine tract --device cuda", &["CPU only", "--engine ort"]),
        ("--engine torch", &["possible values: auto, ort, tract"]),
        ("--engine ort --ort-lib nowhere.so", &["nowhere.so", "pip install onnxruntime"]),
        ("--device gpu", &["--device"]),
        ("--memory plenty", &["such as 4GiB"]),
        ("--std 0", &["above 0"]),
        ("--shape input=1x1 --shape input=1x2", &["two shapes", "'input'"]),
        ("--format yaml", &["possible values"]),
    ];
    for (options, reasons) in cases {
        gradalign(&format!("rank {SMALL} --data {DIGITS} {options}")).refused(reasons);
    }
    if engines().contains(&"ort") && !gradalign("doctor").out.contains(", cuda") {
        gradalign(&format!("rank {SMALL} --data {DIGITS} --engine ort --device cuda"))
            .refused(&["cuda"]);
    }
}

#[test]
fn a_message_says_the_reason_once() {
    let run = gradalign(&format!("rank {SMALL} --data nowhere.npz"));
    assert_eq!(run.err.matches("No such file").count(), 1, "{}", run.err);
}

#[test]
fn the_truth_is_compared_with_every_score() {
    // By parameters: sklearn-mlp 4, mlp 3, opset7 2; the broken one counts as lowest. The truth
    // has them in the order mlp, sklearn-mlp, broken, opset7: of 6 pairs, 4 agree and 2 do not.
    let folder = TempDir::new().unwrap();
    let (path, truth) = inside(&folder, "truth.csv");
    let rows = "model,accuracy\nsklearn-mlp.onnx,80\nmlp,90.5\nopset7,60\nempty.onnx,70\n";
    std::fs::write(&path, rows).unwrap();
    let models = "models/sklearn-mlp.onnx models/mlp.onnx fixtures/extra/opset7.onnx";
    let rank = |models: &str, truth: &str, format: &str| {
        gradalign(&format!(
            "rank {models} --data {DIGITS} --samples 4 --metric params,flops --truth {truth} \
             --format {format}"
        ))
    };
    let all = format!("{models} fixtures/broken/empty.onnx");
    let report = rank(&all, &truth, "json").json(1);
    let found = &report["correlation"]["params"];
    assert!((found["kendall_tau"].as_f64().unwrap() - 2.0 / 6.0).abs() < 1e-12, "{found}");
    // Differences of ranks 1, 1, 1, 1: 1 − 6 · 4 / (4 · 15).
    assert!((found["spearman"].as_f64().unwrap() - 0.6).abs() < 1e-12, "{found}");
    assert_eq!(found["top1_accuracy"], 80.0);
    assert!(report["correlation"]["flops"].is_object());

    let table = rank(&all, &truth, "table");
    assert!(table.out.contains("Kendall's tau-b") && table.out.contains("0.333"), "{}", table.out);
    let unknown = rank(&format!("{all} models/vit.onnx"), &truth, "json");
    assert!(unknown.err.contains("no accuracy for 1 of 5 models"), "{}", unknown.err);
    let csv = rank(models, &truth, "csv");
    assert!(csv.err.contains("no place for the correlation"), "{}", csv.err);

    std::fs::write(&path, "name,accuracy\na,1\n").unwrap();
    rank(models, &truth, "json").refused(&["truth.csv", "no column 'model'"]);
    rank(models, "nowhere.csv", "json").refused(&["nowhere.csv"]);
}

/// Unix only: elsewhere an interruption cannot be sent to a single process.
#[cfg(unix)]
#[test]
fn an_interruption_prints_what_was_finished() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    const MODELS: usize = 400;
    let folder = TempDir::new().unwrap();
    for i in 0..MODELS {
        std::fs::copy(SMALL, folder.path().join(format!("{i}.onnx"))).unwrap();
    }
    let folder = folder.path().to_str().unwrap();
    let pages = TempDir::new().unwrap();
    let (page, html) = inside(&pages, "report.html");
    let arguments =
        format!("-vv rank {folder} --data {DIGITS} --engine tract --format json --report {html}");
    let mut child = super::command(&arguments.split(' ').collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The log has a line for each model begun; once there are two, one is finished.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let second = log.by_ref().filter(|line| line.contains("scoring ")).nth(1);
    assert!(second.is_some());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let rest = std::thread::spawn(move || log.collect::<Vec<_>>().join("\n"));
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: Value = serde_json::from_str(&out).unwrap();
    let rows = report["models"].as_array().unwrap();
    assert!((1..MODELS).contains(&rows.len()), "{} rows", rows.len());
    assert!(rows.iter().all(|row| row["error"].is_null()));
    assert!(rest.join().unwrap().contains("interrupted"));
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(read(embedded(&page), "page").unwrap().len(), rows.len());
}

/// A reader that leaves early, as `| head -1` does.
#[test]
fn a_closed_pipe_is_no_failure() {
    use std::io::Read;
    use std::process::Stdio;

    for arguments in ["ops", "metrics --format json", "completions bash"] {
        let mut child = super::command(&arguments.split(' ').collect::<Vec<_>>())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""), "{arguments}");
    }
}
