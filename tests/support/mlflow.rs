//! As much of an MLflow server as the tests need. The shapes of its answers are those of version 3.17.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::http::{Asked, Double, Reply};

/// The password that it wants, of the user `me`.
pub const PASSWORD: &str = "hunter2";

const API: &str = "/api/2.0/mlflow/";
const ARTIFACTS: &str = "/api/2.0/mlflow-artifacts/artifacts";

/// What the server knows.
#[derive(Default)]
pub struct State {
    pub versions: Vec<Value>,
    /// Tags by model, version and key.
    pub tags: BTreeMap<(String, String, String), String>,
    /// Files by path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Metrics by run and key.
    pub metrics: BTreeMap<(String, String), Vec<f64>>,
    /// Runs by their `info`.
    pub runs: Vec<Value>,
    pub has_experiment: bool,
    /// Whether answers need no password.
    pub is_open: bool,
    /// Whether nothing is answered any more but the list of versions.
    pub is_down: bool,
    /// Downloads that break off in the middle, so many times.
    pub breaks: usize,
}

/// The server.
pub struct Mlflow {
    double: Double,
    state: Arc<Mutex<State>>,
}

impl Mlflow {
    pub fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let double = Double::start(move |asked| answer(&mut shared.lock().unwrap(), asked));
        Mlflow { double, state }
    }

    pub fn host(&self) -> String {
        self.double.host()
    }

    pub fn url(&self) -> String {
        self.double.url()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.double.asked()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Registers the next version of `name`, with files from `source`.
    pub fn register(&self, name: &str, source: &str, run: &str) {
        let mut state = self.state();
        let number = state.versions.iter().filter(|v| v["name"] == name).count() + 1;
        state.versions.push(json!({
            "name": name, "version": number.to_string(), "source": source, "run_id": run,
            "status": "READY", "current_stage": "None", "creation_timestamp": 1,
        }));
    }

    /// Puts a file where the server hands it out.
    pub fn put(&self, path: &str, content: &[u8]) {
        self.state().files.insert(path.to_owned(), content.to_vec());
    }
}

fn missing(what: &str) -> Reply {
    Reply::json(
        &json!({ "error_code": "RESOURCE_DOES_NOT_EXIST", "message": format!("{what} not found") }),
    )
    .status(404)
}

fn answer(state: &mut State, asked: &Asked) -> Reply {
    let login = "Basic bWU6aHVudGVyMg==";
    if !state.is_open && asked.header("authorization") != Some(login) {
        let page = "<!doctype html><title>401 Unauthorized</title>";
        return Reply::bytes(401, "text/html", page.as_bytes());
    }
    if state.is_down && !asked.path.contains("model-versions/search") {
        return Reply::broken();
    }
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let query: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decoded(value)))
        .collect();
    let get = |key: &str| {
        query.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value.as_str())
    };
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    match (asked.method.as_str(), path.strip_prefix(API)) {
        ("GET", Some("model-versions/search")) => search(state, get("filter"), get("page_token")),
        ("GET", Some("model-versions/get")) => version(state, get("name"), get("version")),
        ("GET", Some("registered-models/alias")) if get("alias") == "best" => {
            version(state, get("name"), "1")
        }
        ("GET", Some("registered-models/alias")) => missing("alias").status(400),
        ("GET", Some("model-versions/get-download-uri")) => {
            let found = state
                .versions
                .iter()
                .find(|v| v["name"] == get("name") && v["version"] == get("version"));
            found.map_or_else(
                || missing("version"),
                |v| Reply::json(&json!({ "artifact_uri": v["source"] })),
            )
        }
        ("GET", Some("runs/get")) => run(state, get("run_id")),
        ("GET", Some("experiments/get-by-name")) => match state.has_experiment {
            true => Reply::json(&json!({ "experiment": {
                "experiment_id": "9", "artifact_location": "mlflow-artifacts:/9",
                "lifecycle_stage": "active" } })),
            false => missing("experiment"),
        },
        ("POST", Some("experiments/create")) => {
            state.has_experiment = true;
            Reply::json(&json!({ "experiment_id": "9" }))
        }
        ("POST", Some("model-versions/set-tag")) => {
            let text = |key: &str| body[key].as_str().unwrap().to_owned();
            state.tags.insert((text("name"), text("version"), text("key")), text("value"));
            Reply::json(&json!({}))
        }
        ("POST", Some("runs/log-batch")) => {
            let run = body["run_id"].as_str().unwrap();
            for metric in body["metrics"].as_array().unwrap() {
                let key = (run.to_owned(), metric["key"].as_str().unwrap().to_owned());
                state.metrics.entry(key).or_default().push(metric["value"].as_f64().unwrap());
            }
            Reply::json(&json!({}))
        }
        ("POST", Some("runs/search")) => {
            let filter = body["filter"].as_str().unwrap();
            let fits = |run: &&Value| filter.contains(run["digest"].as_str().unwrap());
            let runs: Vec<_> =
                state.runs.iter().filter(fits).map(|i| json!({ "info": i })).collect();
            Reply::json(&json!({ "runs": runs }))
        }
        ("POST", Some("runs/create")) => {
            let info = json!({
                "run_id": "report", "status": "RUNNING", "digest": body["tags"][0]["value"],
                "artifact_uri": "mlflow-artifacts:/9/report/artifacts" });
            state.runs.push(info.clone());
            Reply::json(&json!({ "run": { "info": info } }))
        }
        ("POST", Some("runs/update")) => {
            let run = state.runs.iter_mut().find(|run| run["run_id"] == body["run_id"]).unwrap();
            run["status"] = body["status"].clone();
            Reply::json(&json!({}))
        }
        _ => files(state, asked, path, get("path")),
    }
}

fn search(state: &State, filter: &str, token: &str) -> Reply {
    const PAGE: usize = 2;
    let from: usize = token.parse().unwrap_or(0);
    let fits = |v: &&Value| {
        filter.is_empty() || filter.contains(&format!("'{}'", v["name"].as_str().unwrap()))
    };
    let fitting: Vec<_> = state.versions.iter().filter(fits).collect();
    let page: Vec<_> = fitting.iter().skip(from).take(PAGE).collect();
    let mut answer = json!({ "model_versions": page });
    if from + PAGE < fitting.len() {
        answer["next_page_token"] = json!((from + PAGE).to_string());
    }
    Reply::json(&answer)
}

fn version(state: &State, name: &str, number: &str) -> Reply {
    let found = state.versions.iter().find(|v| v["name"] == name && v["version"] == number);
    let Some(mut found) = found.cloned() else { return missing("version") };
    let of_version = state.tags.iter().filter(|((n, v, _), _)| n == name && v == number);
    found["tags"] = of_version.map(|((.., k), v)| json!({ "key": k, "value": v })).collect();
    Reply::json(&json!({ "model_version": found }))
}

fn run(state: &State, id: &str) -> Reply {
    if id == "gone" {
        return missing("run");
    }
    let of_run = state.metrics.iter().filter(|((run, _), _)| run == id);
    let metrics: Vec<_> =
        of_run.map(|((_, key), values)| json!({ "key": key, "value": values.last() })).collect();
    Reply::json(&json!({ "run": {
        "info": { "run_id": id, "artifact_uri": format!("mlflow-artifacts:/1/{id}/artifacts"),
                  "lifecycle_stage": "active" },
        "data": { "metrics": metrics } } }))
}

/// The server's files, listed, handed out and taken.
fn files(state: &mut State, asked: &Asked, path: &str, folder: &str) -> Reply {
    let Some(path) = path.strip_prefix(ARTIFACTS).map(decoded) else { return missing("route") };
    if path.is_empty() {
        let prefix = format!("{folder}/");
        let mut listed = BTreeMap::new();
        for (path, content) in &state.files {
            let Some(rest) = path.strip_prefix(&prefix) else { continue };
            match rest.split_once('/') {
                Some((below, _)) => listed.insert(below, json!({ "path": below, "is_dir": true })),
                None => listed.insert(
                    rest,
                    json!({ "path": rest, "is_dir": false, "file_size": content.len() }),
                ),
            };
        }
        let listed: Vec<_> = listed.into_values().collect();
        return Reply::json(&if listed.is_empty() {
            json!({})
        } else {
            json!({ "files": listed })
        });
    }
    let path = path.trim_start_matches('/');
    if asked.method == "PUT" {
        state.files.insert(path.to_owned(), asked.body.clone());
        return Reply::text(200, "");
    }
    let Some(content) = state.files.get(path) else { return missing("file") };
    let sum = content.iter().fold(7u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let etag = format!("\"{sum:x}\"");
    let range = asked.header("range").and_then(|range| range.strip_prefix("bytes="));
    if let Some((from, to)) = range.and_then(|range| range.split_once('-')) {
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(content.len(), |to: usize| to + 1);
        let range = format!("bytes {from}-{}/{}", to - 1, content.len());
        return Reply::bytes(206, "application/octet-stream", &content[from..to])
            .with("etag", &etag)
            .with("content-range", &range);
    }
    let reply = Reply::bytes(200, "application/octet-stream", content).with("etag", &etag);
    if state.breaks > 0 {
        state.breaks -= 1;
        return reply.cut(content.len() / 2);
    }
    reply
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
        bytes.push(hex.map_or(first, |hex| u8::from_str_radix(hex, 16).unwrap()));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
