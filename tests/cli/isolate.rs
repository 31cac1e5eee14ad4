//! Models in processes of their own: what happens to one is in its row, and the others keep theirs.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{DIGITS, SMALL, command, engines, gradalign, inside, row};

/// Never ends: it draws parameters again and again.
const ENDLESS: &str = "--init normal --repeats 4000000000 --metric params,gradalign-1";

#[test]
fn processes_give_the_records_that_one_gives() {
    for engine in engines() {
        let rank = |how: &str| {
            let options = format!("--data {DIGITS} --engine {engine} --metric all --format json");
            let models = "models/mlp.onnx models/plain-cnn.onnx fixtures/extra/external.onnx";
            gradalign(&format!("rank {models} {options} {how}"))
        };
        let rows = |report: Value| {
            let mut rows = report["models"].as_array().unwrap().clone();
            rows.iter_mut().for_each(|row| row["seconds"] = 0.into());
            rows
        };
        let (apart, together) = (rank("--isolate --jobs 2"), rank("--no-isolate --jobs 2"));
        assert_eq!(apart.code, together.code, "{}", apart.err);
        assert_eq!(apart.err, together.err, "{engine}");
        let parse = |run: super::Run| serde_json::from_str::<Value>(&run.out).unwrap();
        assert_eq!(rows(parse(apart)), rows(parse(together)), "{engine}");
    }
}

#[test]
fn a_model_that_never_ends_costs_its_own_row() {
    for engine in engines() {
        let start = Instant::now();
        let report = gradalign(&format!(
            "rank {SMALL} nowhere.onnx models/README.md --data {DIGITS} --engine {engine} {ENDLESS} \
             --timeout 2 --format json"
        ));
        assert_eq!(report.code, 2, "a name that is no file: {}", report.err);
        let report = gradalign(&format!(
            "score {SMALL} nowhere.onnx models/README.md --data {DIGITS} --engine {engine} {ENDLESS} \
             --timeout 2 --format json"
        ))
        .json(1);
        let error = |model: &str| row(&report, model)["error"]["kind"].clone();
        assert_eq!(error("nowhere.onnx"), "io");
        assert_eq!(error("README.md"), "invalid-model");
        let slow = row(&report, SMALL.rsplit('/').next().unwrap());
        assert_eq!(slow["error"]["kind"], "timeout");
        let message = slow["error"]["message"].as_str().unwrap();
        assert!(message.contains("2 s") && message.contains("--timeout"), "{message}");
        assert!(slow["sha256"].is_string());
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

/// A run whose only model never ends, with the processes that it has started.
fn endless() -> (Child, Vec<u32>) {
    endless_with("")
}

// Who asks for it waits for it.
#[allow(clippy::zombie_processes)]
fn endless_with(options: &str) -> (Child, Vec<u32>) {
    let arguments = format!(
        "score {SMALL} --data {DIGITS} --engine tract {ENDLESS} --isolate --format json {options}"
    );
    let child = command(&arguments.split_whitespace().collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        let workers = children(child.id());
        if !workers.is_empty() {
            // It has begun by then.
            std::thread::sleep(Duration::from_secs(1));
            return (child, workers);
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no worker was started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // After the name, which is in parentheses: the state, and the parent.
        let of: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (of == parent).then_some(process)
    });
    processes.collect()
}

fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.unwrap().success());
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_that_crashes_has_a_row_that_says_so() {
    for (name, kind, part) in [("-ABRT", "crash", "abort"), ("-KILL", "memory", "kill")] {
        let (child, workers) = endless();
        workers.iter().for_each(|&worker| signal(worker, name));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = &report["models"][0]["error"];
        assert_eq!(error["kind"], kind, "{error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_outlives_the_run() {
    for name in ["-TERM", "-INT", "-KILL"] {
        let (mut child, workers) = endless();
        let start = Instant::now();
        signal(child.id(), name);
        let status = child.wait().unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{name}: {:?}", start.elapsed());
        if name != "-KILL" {
            assert_eq!(status.code(), Some(130));
            let mut out = String::new();
            child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
            let report: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(report["models"], Value::Array(Vec::new()));
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(workers.iter().all(|&worker| !is_alive(worker)), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_is_there_outlives_a_run_without_one() {
    let folder = TempDir::new().unwrap();
    let (path, out) = inside(&folder, "old.json");
    std::fs::write(&path, "old").unwrap();
    let (child, _) = endless_with(&format!("--out {out}"));
    signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no model was finished"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn paths_that_look_like_addresses_are_paths() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir_all(folder.path().join("oci:/host")).unwrap();
    let (path, text) = inside(&folder, "oci://host/m.onnx");
    std::fs::copy(SMALL, path).unwrap();
    for how in ["--isolate", "--no-isolate"] {
        let run = gradalign(&format!("score {text} --data {DIGITS} --engine tract {how}"));
        assert_eq!(run.code, 0, "{how}: {}{}", run.out, run.err);
    }
}

#[test]
fn what_fails_before_the_model_has_its_own_reason() {
    let report = gradalign(&format!(
        "score {SMALL} --data {DIGITS} --engine tract --isolate --memory 8MiB --format json"
    ))
    .json(1);
    let error = &report["models"][0]["error"];
    assert_eq!(error["kind"], "memory", "{error}");
}

#[test]
fn a_run_can_stop_at_the_first_failure() {
    let models = format!("nowhere.onnx {SMALL} {SMALL}");
    for how in ["--isolate", "--no-isolate"] {
        let run = gradalign(&format!(
            "score {models} --data {DIGITS} --engine tract --jobs 1 --fail-fast --format jsonl {how}"
        ));
        assert_eq!((run.code, run.out.lines().count()), (1, 1), "{}", run.err);
    }
    // A warning is a failure where that is asked for.
    let warned = "score models/mlp.onnx --data synthetic --samples 3 --metric zen --engine tract";
    let (plain, strict) = (gradalign(warned), gradalign(&format!("{warned} --strict")));
    let has_warnings =
        plain.err.contains("warning") || plain.out.contains("null") || plain.out.contains('-');
    assert_eq!((plain.code, has_warnings), (0, strict.code == 1), "{}{}", plain.out, plain.err);
}
