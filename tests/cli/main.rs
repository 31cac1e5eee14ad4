//! The command line end to end, on real files and on every engine.

#![allow(clippy::unwrap_used)]

mod cases;
mod commands;
mod compare;
mod data;
mod experiment;
mod formats;
mod inspect;
mod isolate;
mod made;
mod memory;
mod options;
mod outside;
mod page;
mod paper;
mod rank;
mod records;
mod registry;
mod schema;
mod shapes;
mod sources;
mod space;
mod store;

#[path = "../support/http.rs"]
mod http;
#[path = "../support/mlflow.rs"]
mod mlflow;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use gradalign::engine::all_for_tests;
use serde_json::Value;
use tempfile::TempDir;

/// A small network with batch norm, and samples for it.
const SMALL: &str = "fixtures/extra/opset11.onnx";
const DIGITS: &str = "fixtures/digits-30.npz";

/// What a run of the program came to.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// The report on standard output, after checking the exit code.
    #[track_caller]
    fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }

    /// Checks that nothing was done, and that standard error alone says why.
    #[track_caller]
    fn refused(&self, reasons: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{}", self.err);
        for reason in reasons {
            assert!(self.err.contains(reason), "no '{reason}' in: {}", self.err);
        }
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program in the project's folder, without what the surroundings may set.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradalign"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Run {
    command(arguments).output().unwrap().into()
}

/// Runs `gradalign` with arguments parted by spaces.
fn gradalign(arguments: &str) -> Run {
    run(&arguments.split_whitespace().collect::<Vec<_>>())
}

/// The report of `score` on [`SMALL`] with the embedded engine.
#[track_caller]
fn small(options: &str) -> Value {
    let tract = "--engine tract --format json";
    gradalign(&format!("score {SMALL} --data {DIGITS} {tract} {options}")).json(0)
}

/// The names of the engines that are there, as `--engine` takes them.
fn engines() -> Vec<&'static str> {
    let name = |name: String| if name == "tract" { "tract" } else { "ort" };
    all_for_tests().iter().map(|engine| name(engine.describe().name)).collect()
}

/// The row of a model.
#[track_caller]
fn row<'a>(report: &'a Value, model: &str) -> &'a Value {
    let rows = report["models"].as_array().unwrap();
    rows.iter().find(|row| row["model"] == model).unwrap_or_else(|| panic!("no row of {model}"))
}

#[track_caller]
fn value(row: &Value, score: &str) -> f64 {
    row["scores"][score]["value"].as_f64().unwrap_or_else(|| panic!("no {score} in {row}"))
}

/// A file's path in a temporary folder.
fn inside(folder: &TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}
