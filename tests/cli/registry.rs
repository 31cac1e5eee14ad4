//! `rank` on a registry: a server that answers as MLflow does.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::mlflow::{Mlflow, PASSWORD};
use super::{DIGITS, Run, SMALL, row, value};

fn file(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Six versions of three models, of which two cannot be had.
fn registry() -> Mlflow {
    let server = Mlflow::start();
    server.put("1/m/artifacts/model.onnx", &file("models/mlp.onnx"));
    server.put("1/m/artifacts/MLmodel", b"flavors:\n  onnx:\n    data: model.onnx\n");
    server.put("1/run/artifacts/deep/er/external.onnx", &file("fixtures/extra/external.onnx"));
    server.put("1/run/artifacts/deep/er/external.bin", &file("fixtures/extra/external.bin"));
    server.put("1/run/artifacts/a b.onnx", &file(SMALL));
    server.register("net", "mlflow-artifacts:/1/m/artifacts", "r1");
    server.register("net", "runs:/run/deep", "r2");
    server.register("net", "runs:/run/a b.onnx", "");
    server.register("größe", "mlflow-artifacts:/1/m/artifacts", "r1");
    server.register("bad", "s3://bucket/model", "");
    server.register("bad", "runs:/run/nothing", "");
    server
}

/// `gradalign` with a cache in `folder`, and what `environment` adds.
fn gradalign(arguments: &str, folder: &Path, environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradalign"));
    command.args(arguments.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let names = std::env::vars().map(|(name, _)| name);
    for name in names.filter(|name| name.starts_with("MLFLOW_") || name.starts_with("GRADALIGN_")) {
        command.env_remove(name);
    }
    command.env("GRADALIGN_CACHE", folder.join("cache")).env("HOME", folder);
    command.env("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0.01").env("NO_PROXY", "127.0.0.1");
    command.envs(environment.iter().copied());
    let run: Run = command.stdin(Stdio::null()).output().unwrap().into();
    assert!(!run.err.contains(PASSWORD) && !run.out.contains(PASSWORD), "{}", run.err);
    run
}

const LOGIN: [(&str, &str); 2] =
    [("MLFLOW_TRACKING_USERNAME", "me"), ("MLFLOW_TRACKING_PASSWORD", PASSWORD)];

fn options() -> String {
    format!("--data {DIGITS} --metric params,naswot --engine tract --format json")
}

fn names(report: &Value) -> Vec<&str> {
    let rows = report["models"].as_array().unwrap();
    let mut names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn all_versions_are_ranked_and_scores_written_back_once() {
    let (server, folder) = (registry(), TempDir::new().unwrap());
    server.state().breaks = 1;
    let command = format!(
        "rank mlflow://{} {} --write-back --store {}",
        server.host(),
        options(),
        folder.path().join("s.db").display()
    );
    let run = gradalign(&command, folder.path(), &LOGIN);
    let report = run.json(1);
    assert_eq!(names(&report), ["bad@1", "bad@2", "größe@1", "net@1", "net@2", "net@3"]);
    let by_name = |name: &str| {
        report["models"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()
    };
    let local = super::gradalign(&format!(
        "rank models/mlp.onnx fixtures/extra/external.onnx {SMALL} {}",
        options()
    ))
    .json(0);
    for (name, file) in
        [("net@1", "mlp.onnx"), ("net@2", "external.onnx"), ("net@3", "opset11.onnx")]
    {
        assert_eq!(value(by_name(name), "naswot"), value(row(&local, file), "naswot"), "{name}");
    }
    for (name, says) in [("bad@1", "s3://bucket/model"), ("bad@2", "it has no files")] {
        let error = &by_name(name)["error"];
        assert_eq!(error["kind"], "remote");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }

    {
        let state = server.state();
        let tag = |version: &str, key: &str| {
            let key = ("net".to_owned(), version.to_owned(), format!("gradalign.{key}"));
            state.tags.get(&key).cloned()
        };
        let score: f64 = tag("1", "naswot").unwrap().parse().unwrap();
        assert_eq!(score, value(by_name("net@1"), "naswot"));
        assert_eq!(tag("3", "settings").as_deref(), report["settings_digest"].as_str());
        assert_eq!(tag("2", "version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        // Two versions of one run have the same scores, which are logged once.
        let logged = &state.metrics[&("r1".to_owned(), "gradalign.naswot".to_owned())];
        assert_eq!(logged, &[score]);
        let page = &state.files["9/report/artifacts/gradalign/report.html"];
        assert!(String::from_utf8_lossy(page).contains("net@2"));
        assert!(state.files.contains_key("9/report/artifacts/gradalign/ranking.json"));
        assert_eq!(state.runs[0]["status"], "FINISHED");
        assert!(!state.tags.keys().any(|(name, ..)| name == "bad"));
    }

    let before = server.asked().len();
    let again = gradalign(&format!("{command} -v"), folder.path(), &LOGIN);
    let report_again = again.json(1);
    assert_eq!(names(&report_again), names(&report));
    assert!(again.err.contains("all was there already"), "{}", again.err);
    assert!(!again.err.contains("downloading"), "{}", again.err);
    let asked = server.asked().split_off(before);
    let writes =
        asked.iter().filter(|asked| asked.method != "GET" && !asked.path.ends_with("runs/search"));
    assert_eq!(writes.count(), 0);
    let is_file = |path: &str| path.contains("mlflow-artifacts") && path.ends_with(".onnx");
    let whole = asked.iter().filter(|a| is_file(&a.path) && a.header("range").is_none());
    assert_eq!(whole.count(), 0);

    // Another content of the same size is fetched again.
    let mut changed = file("models/mlp.onnx");
    *changed.last_mut().unwrap() ^= 1;
    server.put("1/m/artifacts/model.onnx", &changed);
    let changed = gradalign(&format!("{command} -v"), folder.path(), &LOGIN);
    assert!(changed.err.contains("downloading"), "{}", changed.err);
}

#[test]
fn versions_are_named_by_number_alias_and_environment() {
    let (server, folder) = (registry(), TempDir::new().unwrap());
    let uri = server.url();
    let environment = [LOGIN[0], LOGIN[1], ("MLFLOW_TRACKING_URI", uri.as_str())];
    let host = server.host();
    for (source, address) in [
        (format!("mlflow://{host}/net@best"), format!("mlflow://{host}/net/1")),
        (format!("mlflow://{host}/net/2"), format!("mlflow://{host}/net/2")),
        ("models:/net/latest".into(), "models:/net/3".into()),
        ("models:/größe".into(), "models:/größe/1".into()),
        (
            format!("mlflow://{host}/net/2/er/external.onnx"),
            format!("mlflow://{host}/net/2/er/external.onnx"),
        ),
    ] {
        let report =
            gradalign(&format!("rank {source} {}", options()), folder.path(), &environment).json(0);
        assert_eq!(report["models"][0]["path"], address);
    }
    let dry = gradalign(
        &format!("score mlflow://{host}/net/2 {} --write-back --dry-run", options()),
        folder.path(),
        &environment,
    );
    dry.json(0);
    assert!(
        dry.err.contains("would send POST model-versions/set-tag {\"key\":\"gradalign.params\"")
    );
    assert!(server.state().tags.is_empty() && !server.state().has_experiment);
}

#[test]
fn what_cannot_be_asked_is_refused_before_the_work() {
    let (server, folder) = (registry(), TempDir::new().unwrap());
    let host = server.host();
    let run = |source: &str, environment: &[(&str, &str)]| {
        gradalign(&format!("rank {source} {}", options()), folder.path(), environment)
    };
    let all = format!("mlflow://{host}");
    run(&all, &[]).refused(&["HTTP 401", "set MLFLOW_TRACKING_USERNAME"]);
    let wrong = [LOGIN[0], ("MLFLOW_TRACKING_PASSWORD", "wrong-one")];
    let refused = run(&all, &wrong);
    refused.refused(&["does not accept these credentials"]);
    assert!(!refused.err.contains("wrong-one"));
    // Credentials are for the server that the environment names.
    let other = [LOGIN[0], LOGIN[1], ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")];
    run(&all, &other).refused(&["HTTP 401"]);
    run(&format!("{all}/nothing"), &LOGIN).refused(&["no version of a registered model fits"]);
    run(&format!("{all}/net@worst"), &LOGIN).refused(&["alias not found"]);
    run(&format!("mlflow://me:{PASSWORD}@{host}/net"), &LOGIN).refused(&["no place in an address"]);
    run("models:/net", &LOGIN).refused(&["set MLFLOW_TRACKING_URI"]);
    run("mlflow://127.0.0.1:9/net", &LOGIN).refused(&["connection refused"]);
    let files = gradalign(&format!("rank {SMALL} {} --write-back", options()), folder.path(), &[]);
    files.refused(&["--write-back is for models of a registry"]);
}

#[test]
fn a_server_that_goes_down_costs_rows() {
    let (server, folder) = (registry(), TempDir::new().unwrap());
    server.state().is_down = true;
    let once = [LOGIN[0], LOGIN[1], ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")];
    let run = gradalign(
        &format!("rank mlflow://{}/net {} {SMALL} --write-back", server.host(), options()),
        folder.path(),
        &once,
    );
    let report = run.json(1);
    for name in ["net@1", "net@2", "net@3"] {
        assert_eq!(row(&report, name)["error"]["kind"], "remote");
    }
    assert!(row(&report, "opset11.onnx")["error"].is_null());
    assert!(run.err.contains("trying again") && server.state().tags.is_empty(), "{}", run.err);
}

#[test]
fn files_that_a_registry_names_on_this_machine_need_leave() {
    let (server, folder) = (registry(), TempDir::new().unwrap());
    let (allowed, secret) = (folder.path().join("allowed"), folder.path().join("secret"));
    for place in [&allowed, &secret] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("m.onnx"), file(SMALL)).unwrap();
    }
    server.register("here", allowed.to_str().unwrap(), "");
    server.register("here", &format!("file://{}", secret.display()), "");
    server.register("here", &format!("{}/../secret/m.onnx", allowed.display()), "");
    let rank = |options: &str| {
        let host = server.host();
        gradalign(&format!("rank mlflow://{host}/here {options}"), folder.path(), &LOGIN).json(1)
    };
    let errors = |report: &Value| -> Vec<bool> {
        let rows = (1..4).map(|i| format!("here@{i}"));
        rows.map(|name| !row(report, &name)["error"].is_null()).collect()
    };
    assert_eq!(errors(&rank(&options())), [true, true, true]);
    let report = rank(&format!("{} --allow-local {}", options(), allowed.display()));
    assert_eq!(errors(&report), [false, true, true]);
    let message = row(&report, "here@2")["error"]["message"].clone();
    assert!(message.as_str().unwrap().contains("--allow-local"), "{message}");
    assert_eq!(
        row(&report, "here@1")["scores"]["params"]["value"],
        json!(value(row(&report, "here@1"), "params"))
    );
}
