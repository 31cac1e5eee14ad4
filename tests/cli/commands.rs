//! The commands beside `score` and `rank`.

use serde_json::Value;
use tempfile::TempDir;

use super::{SMALL, gradalign, inside};

#[test]
fn inspect_shows_what_a_model_consists_of() {
    let text = gradalign(&format!("inspect {SMALL}"));
    assert_eq!((text.code, text.err.as_str()), (0, ""));
    for what in ["opset ai.onnx 11", "parameters   778", "batch norms", "can be scored, with"] {
        assert!(text.out.contains(what), "no '{what}' in: {}", text.out);
    }
    let json = gradalign(&format!("inspect {SMALL} --format json")).json(0);
    assert_eq!((json["scorable"].as_bool(), &json["error"]), (Some(true), &Value::Null));
    assert_eq!(json["network"]["trainable"], 778);
}

#[test]
fn inspect_lists_all_that_is_unsupported() {
    let json = gradalign("inspect fixtures/broken/quantised.onnx --format json").json(1);
    assert_eq!(json["scorable"], false);
    assert_eq!(json["error"]["kind"], "unsupported-model");
    let ops = json["unsupported"].as_array().unwrap().iter();
    let ops: Vec<_> = ops.map(|problem| problem["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]);
    let text = gradalign("inspect fixtures/broken/unsupported-op.onnx").out;
    assert!(text.contains("com.example.Entangle (opset 1) at 'mystery'"), "{text}");
    assert!(text.contains("cannot be scored"), "{text}");
}

/// Operators, forms of operators and nodes behind those that cannot be imported, in one go.
#[test]
fn inspect_lists_problems_behind_problems() {
    let json = gradalign("inspect fixtures/broken/many-problems.onnx --format json").json(1);
    let found = json["unsupported"].as_array().unwrap().iter();
    let mut found: Vec<_> = found
        .map(|p| (p["node"].as_str().unwrap(), p["reason"].as_str().unwrap().to_owned()))
        .collect();
    found.sort_unstable();
    let nodes: Vec<_> = found.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, ["crop", "flatten", "mystery", "noise"]);
    for ((_, reason), remedy) in
        found.iter().zip(["crop by Slice", "fixed shapes", "standard operators", "model.eval()"])
    {
        assert!(reason.contains(remedy), "{reason}");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let folder = TempDir::new().unwrap();
    let (_, out) = inside(&folder, "out.onnx");
    for file in ["truncated", "empty", "not-onnx", "missing-external", "escaping-external"] {
        let path = format!("fixtures/broken/{file}.onnx");
        let run = gradalign(&format!("inspect {path}"));
        assert_eq!(run.code, 1, "{}", run.err);
        assert!(run.out.contains(&format!("cannot be scored: {path}: ")), "{}", run.out);
        gradalign(&format!("grad {path} -o {out} --batch 2")).refused(&[&path]);
    }
    gradalign("inspect nowhere.onnx").refused(&["no model found in 'nowhere.onnx'"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn grad_writes_a_model() {
    let folder = TempDir::new().unwrap();
    let (path, out) = inside(&folder, "out.onnx");
    let mut outputs = Vec::new();
    for options in ["", "--per-sample", "--mean", "--mean --bn batch", "--bn sample"] {
        let run = gradalign(&format!("grad {SMALL} -o {out} --batch 3 {options}"));
        assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
        let model = gradalign::onnx::load(&path).unwrap();
        let inputs: Vec<_> = model.graph.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(inputs, ["input", "labels"]);
        let names = model.graph.outputs.iter().map(|output| output.name.clone());
        outputs.push(names.collect::<Vec<_>>());
    }
    assert_eq!(outputs[0][0], "loss");
    assert!(outputs[0][1..].iter().all(|name| name.starts_with("grad.")));
    assert!(outputs.iter().all(|names| *names == outputs[0]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn grad_leaves_nothing_behind_when_it_fails() {
    let folder = TempDir::new().unwrap();
    let (path, out) = inside(&folder, "out.onnx");
    gradalign(&format!("grad {SMALL} -o {out} --batch 3 --bn batch"))
        .refused(&["choose --mean, or --bn running or sample"]);
    gradalign(&format!("grad {SMALL} -o {out} --batch 0")).refused(&["--batch", "above 0"]);
    gradalign(&format!("grad {SMALL} -o {out} --batch 2 --mean --per-sample"))
        .refused(&["cannot be used with"]);
    gradalign(&format!("grad fixtures/broken/unsupported-op.onnx -o {out} --batch 2"))
        .refused(&["'mystery'"]);
    gradalign(&format!("grad {SMALL} -o {out}/nowhere/out.onnx --batch 2")).refused(&["out.onnx"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    std::fs::create_dir(&path).unwrap();
    gradalign(&format!("grad {SMALL} -o {out} --batch 2")).refused(&["out.onnx"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lists_come_in_every_format() {
    for (list, entry) in [("ops", "Conv"), ("metrics", "gradalign-1")] {
        for format in ["table", "json", "jsonl", "csv", "markdown"] {
            let run = gradalign(&format!("{list} --format {format}"));
            assert_eq!((run.code, run.err.as_str()), (0, ""));
            assert!(run.out.contains(entry), "{list} as {format}");
        }
        assert!(gradalign(&format!("{list} --format json")).json(0).as_array().unwrap().len() > 3);
    }
}

#[test]
fn doctor_says_what_it_found() {
    let text = gradalign("doctor");
    assert_eq!((text.code, text.err.as_str()), (0, ""));
    assert!(text.out.contains("tract") && text.out.contains("ORT_DYLIB_PATH"), "{}", text.out);
    let json = gradalign("doctor --format json").json(0);
    assert_eq!(json["tool"]["name"], "gradalign");
    let absent = gradalign("doctor --ort-lib nowhere.so");
    assert_eq!(absent.code, 0);
    assert!(absent.out.contains("nowhere.so") && absent.out.contains("pip install"));
}

#[test]
fn help_version_and_completions() {
    for help in ["--help", "-h", "help"] {
        let run = gradalign(help);
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        for command in ["score", "rank", "inspect", "grad", "ops", "metrics", "doctor"] {
            assert!(run.out.contains(command), "{command}");
        }
    }
    let help = gradalign("rank --help").out;
    for what in ["--truth", "--out", "--tensor", "Examples:", "gradalign-1, gradalign-2, gradsign"]
    {
        assert!(help.contains(what), "{what}");
    }
    for command in ["", "score", "rank", "inspect", "grad"] {
        let help = gradalign(&format!("{command} --help")).out;
        assert!(help.contains("Exit codes: 0"), "{help}");
    }
    for list in ["metrics", "ops"] {
        let table = gradalign(list).out;
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    }
    assert_eq!(gradalign("--version").out, format!("gradalign {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        assert!(gradalign(&format!("completions {shell}")).out.contains("gradalign"));
    }
    gradalign("").refused(&["Usage"]);
    gradalign("frobnicate").refused(&["'frobnicate'"]);
}

/// What is said of a file in an import is said where a user looks at it first, and of every score.
#[test]
fn folded_batch_norm_is_told_by_every_command() {
    for (file, folded) in [("folded-dynamo", true), ("kept-dynamo", false)] {
        let file = format!("fixtures/folded/{file}.onnx");
        let text = gradalign(&format!("inspect {file}"));
        assert_eq!(text.code, 0);
        assert_eq!(
            text.out.contains("batch norm was folded into 2 layers"),
            folded,
            "{}",
            text.out
        );
        let score = gradalign(&format!("score {file} --data synthetic --samples 8 --format json"));
        let warnings = score.json(0)["models"][0]["warnings"].to_string();
        assert_eq!(warnings.contains("optimize=False"), folded, "{warnings}");
    }
}
