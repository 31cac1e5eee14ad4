//! What the options of `score` and `rank` do to the scores.

use serde_json::{Value, json};

use super::{DIGITS, SMALL, engines, gradalign, row, small, value};

fn scores(report: &Value) -> &Value {
    &row(report, "opset11.onnx")["scores"]
}

fn first(report: &Value) -> f64 {
    value(row(report, "opset11.onnx"), "gradalign-1")
}

fn second(report: &Value) -> f64 {
    value(row(report, "opset11.onnx"), "gradalign-2")
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let options = "--samples 20 --init pytorch --seed";
    let report = small(&format!("{options} 1"));
    assert_eq!(scores(&report), scores(&small(&format!("{options} 1"))));
    assert_ne!(scores(&report), scores(&small(&format!("{options} 2"))));
    // With the file's own parameters, the seed decides the samples alone.
    assert_ne!(scores(&small("--samples 20 --seed 1")), scores(&small("--samples 20 --seed 2")));
    let all = small("--samples all --seed 1");
    assert_eq!(scores(&all), scores(&small("--samples all --seed 2")));
    assert_eq!(all["data"]["samples"], 30);
}

#[test]
fn scores_are_chosen_by_name() {
    let report = small("--samples 20 --metric params,flops,gradalign-1");
    let names: Vec<_> = scores(&report).as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 3);
    let row = row(&report, "opset11.onnx");
    assert_eq!(value(row, "params"), row["parameters"].as_f64().unwrap());
    assert_eq!(value(row, "flops"), row["flops"].as_f64().unwrap());
    assert_eq!(scores(&report)["params"]["bn"], Value::Null);
    let report = small("--samples 20 --metric grad_norm,grad-norm,jacob_cov");
    let names: Vec<_> = scores(&report).as_object().unwrap().keys().collect();
    assert_eq!(names, ["grad-norm", "jacob-cov"]);
}

#[test]
fn options_reach_the_settings() {
    let report = small(
        "--samples all --mean 0.5 --std 0.25 --bn sample --normalize --off-diagonal --gram raw \
         --ridge 2 --zen reference --features x --regions samples --ntk-samples 3 \
         --shape input=1x1x16x16 --batch-axis input=0 --params * --no-params bias --tensor logits --metric params",
    );
    let expected = json!({
        "metric": ["params"],
        "seed": 0, "init": "keep", "repeats": 1, "loss": "auto", "samples": "all",
        "mean": [0.5], "std": [0.25], "bn": "sample", "normalize": true, "off-diagonal": true,
        "gram": "raw", "ridge": 2.0, "zen": "reference", "features": "x", "regions": "samples",
        "ntk-samples": 3, "shape": {"input": [1, 1, 16, 16]}, "fix": {},
        "batch-axis": {"input": 0}, "params": ["*"], "no-params": ["bias"], "tensor": "logits"
    });
    assert_eq!(report["settings"], expected);
    let alias = small("--metric params --output logits");
    assert_eq!(alias["settings"]["tensor"], "logits");
    let options = format!("--data {DIGITS} --metric params --aggregate --format json");
    let ranked = gradalign(&format!("rank {SMALL} {options}")).json(0);
    assert_eq!(ranked["aggregate"], "borda");
}

#[test]
fn every_scheme_draws_the_same_again() {
    let kept = small("--samples 10 --metric gradalign-1");
    for scheme in [
        "pytorch",
        "kaiming-normal",
        "kaiming-uniform",
        "xavier-normal",
        "xavier-uniform",
        "lecun-normal",
        "orthogonal",
        "normal",
    ] {
        let options = format!("--samples 10 --metric gradalign-1 --init {scheme}");
        let report = small(&options);
        assert_eq!(report["settings"]["init"], scheme);
        assert_eq!(scores(&report), scores(&small(&options)), "{scheme}");
        assert_ne!(scores(&report), scores(&kept), "{scheme}");
    }
}

#[test]
fn repeats_are_averaged() {
    // The samples are drawn by the seed as well: all of them are taken.
    let options = "--samples all --metric gradalign-1 --init pytorch";
    let each = [0, 1, 2].map(|seed| first(&small(&format!("{options} --seed {seed}"))));
    let report = small(&format!("{options} --repeats 3"));
    assert_eq!(report["settings"]["repeats"], 3);
    let mean = each.iter().sum::<f64>() / 3.0;
    let std = (each.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
    assert!((first(&report) / mean - 1.0).abs() < 1e-9);
    let found = scores(&report)["gradalign-1"]["std"].as_f64().unwrap();
    assert!((found / std - 1.0).abs() < 1e-6, "{found} and {std}");
}

#[test]
fn options_of_the_scores_change_what_they_mean() {
    let plain = small("--samples 20");
    let parameters = row(&plain, "opset11.onnx")["parameters"].as_f64().unwrap();
    let normalised = small("--samples 20 --normalize");
    assert!((first(&normalised) * parameters / first(&plain) - 1.0).abs() < 1e-9);
    assert!(first(&small("--samples 20 --off-diagonal")) < first(&plain));
    assert_ne!(first(&small("--samples 20 --gram raw")), first(&plain));
    assert!(second(&small("--samples 20 --ridge 5")) > second(&plain));
    let sample = small("--samples 20 --bn sample");
    assert_eq!(scores(&sample)["gradalign-1"]["bn"], "sample");
    assert_ne!(first(&sample), first(&plain));
}

#[test]
fn losses_are_chosen() {
    let mut seen = Vec::new();
    for loss in ["cross-entropy", "bce", "mse"] {
        let report = small(&format!("--samples 20 --loss {loss}"));
        assert_eq!(report["settings"]["loss"], loss);
        assert!(!seen.contains(&first(&report)));
        seen.push(first(&report));
    }
    let run = gradalign(&format!("score {SMALL} --data {DIGITS} --loss token-cross-entropy"));
    assert_eq!(run.code, 1);
    assert!(run.out.contains("choose another --loss"), "{}", run.out);
}

#[test]
fn parameters_are_chosen_by_pattern() {
    let whole = row(&small("--metric params"), "opset11.onnx")["parameters"].as_u64().unwrap();
    let parameters = |options: &str| {
        let report = small(&format!("--samples 20 --metric gradalign-1 {options}"));
        row(&report, "opset11.onnx")["parameters"].as_u64().unwrap()
    };
    let (biases, others) = (parameters("--params *bias"), parameters("--no-params *bias"));
    assert!(biases > 0 && biases < others);
    assert_eq!(biases + others, whole);
    let none = gradalign(&format!("score {SMALL} --data {DIGITS} --no-params *"));
    assert!(none.code == 1 && none.out.contains("no parameter is left"), "{}", none.out);
}

#[test]
fn a_memory_limit_changes_how_but_not_what() {
    for engine in engines() {
        let run = |memory: &str| {
            let options = format!("--samples all --engine {engine} --format json {memory}");
            gradalign(&format!("score {SMALL} --data {DIGITS} {options}"))
        };
        let free = run("").json(0);
        // Enough for the process and some samples, wherever that begins on this machine.
        let limited = [30, 45, 60, 80, 100, 150, 250, 400]
            .iter()
            .map(|mib| run(&format!("--memory {mib}MiB")))
            .find(|run| run.code == 0)
            .unwrap()
            .json(0);
        assert_eq!(scores(&limited), scores(&free), "{engine}");
        let report = run("--memory 1MiB").json(1);
        let error = &row(&report, "opset11.onnx")["error"];
        assert!(error["message"].as_str().unwrap().contains("raise --memory"), "{error}");
        assert_eq!(scores(&report), &json!({}));
    }
}
