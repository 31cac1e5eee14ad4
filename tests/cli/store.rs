//! Stores of results: what is known is not computed again, whoever computed it.

use serde_json::Value;
use tempfile::TempDir;

use super::made::Linear;
use super::{DIGITS, SMALL, engines, gradalign, inside, run};

/// The rows of a document of JSON without what depends on when they were computed.
fn rows(report: &Value) -> Vec<Value> {
    let mut rows = report["models"].as_array().unwrap().clone();
    rows.iter_mut().for_each(|row| row["seconds"] = 0.into());
    rows
}

/// How long each model took when it was computed, which no second computation would take again.
fn times(report: &Value) -> Vec<f64> {
    report["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["seconds"].as_f64().unwrap())
        .collect()
}

const THREE: &str = "models/mlp.onnx models/plain-cnn.onnx models/jax-mixer.onnx nowhere.onnx";

#[test]
fn what_is_known_is_not_computed_again() {
    for engine in engines() {
        for how in ["--isolate", "--no-isolate"] {
            let folder = TempDir::new().unwrap();
            let (_, store) = inside(&folder, "results.db");
            let options =
                format!("--data synthetic --samples 8 --engine {engine} --format json {how}");
            let score = |models: &str, more: &str| {
                gradalign(&format!("score {models} {options} --metric te-nas,params {more}"))
                    .json(1)
            };
            let plain = score(THREE, "");
            let kept = format!("--store {store}");
            let (first, second) = (score(THREE, &kept), score(THREE, &kept));
            assert_eq!(rows(&first), rows(&plain), "{engine} {how}");
            assert_eq!(first["models"][0], second["models"][0]);
            assert_eq!(times(&first)[..3], times(&second)[..3], "{engine} {how}");
            // Other settings are another run, and so is what --no-store does.
            let other = score(THREE, &format!("{kept} --seed 1"));
            assert_ne!(times(&first)[0], times(&other)[0]);
            assert_ne!(times(&first)[0], times(&score(THREE, &format!("{kept} --no-store")))[0]);
            // Ranks are among the models at hand.
            let one = score("models/jax-mixer.onnx nowhere.onnx", &kept);
            assert_eq!(times(&one)[0], times(&first)[2]);
            assert_eq!(one["models"][0]["scores"]["params"]["rank"], 1);
        }
    }
}

#[test]
fn a_model_is_known_by_its_content_and_by_what_it_computes() {
    let folder = TempDir::new().unwrap();
    let (_, store) = inside(&folder, "results.db");
    let score = |path: &str| {
        let options = "--engine tract --format json --metric gradalign-1";
        gradalign(&format!("score {path} --data synthetic --samples 8 {options} --store {store}"))
            .json(0)
    };
    let write = |name: &str, model: &Linear| {
        let (path, text) = inside(&folder, name);
        std::fs::write(path, model.bytes()).unwrap();
        text
    };
    let first = score(&write("a.onnx", &Linear::default()));
    let renamed = score(&write("b.onnx", &Linear { node: "other", ..Linear::default() }));
    assert_ne!(first["models"][0]["sha256"], renamed["models"][0]["sha256"]);
    assert_eq!(times(&first), times(&renamed));
    assert_eq!(renamed["models"][0]["model"], "b.onnx");
    // A file that has changed is another model.
    std::fs::copy("models/mlp.onnx", folder.path().join("a.onnx")).unwrap();
    let changed = score(&inside(&folder, "a.onnx").1);
    assert_ne!(changed["models"][0]["key"], first["models"][0]["key"]);
    assert_ne!(times(&changed), times(&first));
    // There is the latest of each address, also where that was known before.
    let exported = || {
        let report = gradalign(&format!("store export {store}")).json(0);
        let rows = report["models"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 2);
        rows.iter().find(|row| row["model"] == "a.onnx").unwrap()["key"].clone()
    };
    assert_eq!(exported(), changed["models"][0]["key"]);
    let back = score(&write("a.onnx", &Linear::default()));
    assert_eq!(times(&back), times(&first));
    assert_eq!(exported(), first["models"][0]["key"]);
}

#[test]
fn shards_put_together_are_one_run() {
    let folder = TempDir::new().unwrap();
    // Equal names in several folders.
    for part in ["x", "y", "z"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        for model in ["mlp", "plain-cnn", "vit"] {
            let to = folder.path().join(part).join(format!("{model}.onnx"));
            std::fs::copy(format!("models/{model}.onnx"), to).unwrap();
        }
    }
    std::fs::write(folder.path().join("z/broken.onnx"), "broken").unwrap();
    let at = folder.path().to_str().unwrap();
    let rank = |more: &str| {
        let options = "--data synthetic --samples 8 --metric te-nas,gradalign-2 --format json";
        gradalign(&format!("rank {at} {options} --engine tract {more}"))
    };
    let whole = rank("").json(1);
    let mut stores = Vec::new();
    let mut seen = 0;
    for i in 1..=4 {
        let (_, store) = inside(&folder, &format!("shard-{i}.db"));
        let run = rank(&format!("--shard {i}/4 --store {store}"));
        assert!(run.err.contains(&format!("shard {i} of 4 has")), "{}", run.err);
        let report: Value = serde_json::from_str(&run.out).unwrap();
        seen += report["models"].as_array().unwrap().len();
        stores.push(store);
    }
    assert_eq!(seen, 10);
    let (_, merged) = inside(&folder, "merged.db");
    let merge = gradalign(&format!("merge {} -o {merged}", stores.join(" ")));
    assert_eq!(merge.code, 0, "{}", merge.err);
    let together = rank(&format!("--store {merged}")).json(1);
    assert_eq!(rows(&together), rows(&whole));
    let exported = gradalign(&format!("store export {merged}")).json(0);
    assert_eq!(rows(&exported), rows(&whole));

    let listed = gradalign(&format!("store list {merged} --format json")).json(0);
    assert_eq!((&listed[0]["scored"], &listed[0]["failed"]), (&9.into(), &1.into()));
    let prune = |more: &str| gradalign(&format!("store prune {merged} {more}"));
    assert_eq!(prune("--failed --dry-run").out, "1\n");
    assert_eq!(prune("--failed").out, "1\n");
    assert_eq!(prune("--failed").out, "0\n");
    assert_eq!(prune("--older-than 1d").out, "0\n");
    assert_eq!(prune("").code, 2);
    // Taking in again brings it back, and makes nothing twice.
    assert_eq!(gradalign(&format!("merge {} -o {merged}", stores.join(" "))).code, 0);
    assert_eq!(rows(&gradalign(&format!("store export {merged}")).json(0)), rows(&whole));
    assert_eq!(gradalign(&format!("merge {merged} -o {merged}")).code, 2);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let (path, text) = inside(&folder, "notes.txt");
    let content = "these are notes, and no store of results: ".repeat(40);
    std::fs::write(&path, &content).unwrap();
    let score = |store: &str| {
        gradalign(&format!("score {SMALL} --data {DIGITS} --engine tract --store {store}"))
    };
    let refused = score(&text);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("not a store of results"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    assert_eq!(score(folder.path().to_str().unwrap()).code, 2);
    assert_eq!(score("nowhere/results.db").code, 2);
    // Nor is a store replaced by a result.
    let (_, both) = inside(&folder, "both.db");
    let run = score(&format!("{both} --out {both}"));
    assert!(run.code == 2 && run.err.contains("would be lost"), "{}", run.err);
    let (_, missing) = inside(&folder, "missing.db");
    for command in ["store list", "store export", "store prune --failed"] {
        let run = gradalign(&format!("{command} {missing}"));
        assert_eq!(run.code, 2, "{command}");
    }
    assert!(!std::path::Path::new(&missing).exists());
}

#[test]
fn a_condition_and_a_number_of_models_are_shown() {
    let rank = |more: &[&str]| {
        let mut arguments =
            vec!["rank", "models/mlp.onnx", "models/vit.onnx", "models/plain-cnn.onnx"];
        arguments.extend(["--data", "synthetic", "--metric", "params,flops", "--format", "json"]);
        arguments.extend(["--engine", "tract"]);
        arguments.extend(more);
        run(&arguments)
    };
    let names = |report: &Value| {
        let rows = report["models"].as_array().unwrap();
        rows.iter().map(|row| row["model"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = rank(&[]).json(0);
    assert_eq!(names(&all), ["vit.onnx", "plain-cnn.onnx", "mlp.onnx"]);
    assert_eq!(names(&rank(&["--top", "2"]).json(0)), names(&all)[..2]);
    let small = rank(&["--where", "params < 3e4 and flops > 2e4"]);
    assert!(small.err.contains("2 of 3 models are not shown"), "{}", small.err);
    let small = small.json(0);
    assert_eq!(names(&small), ["plain-cnn.onnx"]);
    assert_eq!(small["models"][0]["scores"]["params"]["rank"], 2);
    let unknown = rank(&["--where", "zen > 1"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("--where has 'zen'"), "{}", unknown.err);
}
