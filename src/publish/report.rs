//! The report of a ranking, as files of a run.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{PREFIX, Writer, now, pair};
use crate::error::{Error, Result};
use crate::http::Patience;
use crate::rank::Ranking;
use crate::report::Format;
use crate::source::mlflow::{ARTIFACTS, artifact_path};

/// The experiment that runs with reports are in.
const EXPERIMENT: &str = "gradalign";

/// The folder in such a run.
const FOLDER: &str = "gradalign";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Experiment {
    experiment_id: String,
    artifact_location: String,
    lifecycle_stage: String,
}

/// Writes the report, unless there is one of the same results.
pub(super) fn write(writer: &mut Writer, ranking: &Ranking, page: &str) -> Result<()> {
    let digest = digest(ranking);
    let Some(experiment) = experiment(writer)? else {
        // It is not there, and only what would be sent is shown.
        create(writer, "…", &digest)?;
        return Ok(());
    };
    if experiment.lifecycle_stage == "deleted" {
        return Err(Error::Remote(format!(
            "the experiment '{EXPERIMENT}' was deleted: restore it, or delete it for good"
        )));
    }
    if artifact_path(&experiment.artifact_location).is_none() {
        return Err(Error::Remote(format!(
            "the server takes no files: those of the experiment '{EXPERIMENT}' are at {}",
            experiment.artifact_location
        )));
    }
    let run = match find(writer, &experiment.experiment_id, &digest)? {
        Some(run) if run["info"]["status"] == "FINISHED" => return Ok(()),
        // The work on it broke off.
        Some(run) => Some(run),
        None => create(writer, &experiment.experiment_id, &digest)?,
    };
    let Some(run) = run else { return Ok(()) };
    let text = |key: &str| run["info"][key].as_str().unwrap_or_default().to_owned();
    let (id, place) = (text("run_id"), text("artifact_uri"));
    let root = artifact_path(&place).ok_or_else(|| {
        Error::Remote(format!("the server takes no files: those of a new run are at {place}"))
    })?;
    let mut json = Vec::new();
    let written = Format::Json.renderer().ranking(ranking, &mut json);
    written.map_err(|e| Error::io("ranking.json", e))?;
    for (name, content) in [("report.html", page.as_bytes()), ("ranking.json", &json)] {
        let path = format!("{ARTIFACTS}/{root}/{FOLDER}/{name}");
        writer.changes += 1;
        if writer.dry_run {
            writer.show(&format!("PUT {path} ({} bytes)", content.len()));
        } else {
            writer.server.tracking().put(&path, content)?;
        }
    }
    let end = json!({ "run_id": id, "status": "FINISHED", "end_time": now() });
    writer.post(writer.server.tracking(), "runs/update", &end, Patience::Retry)?;
    Ok(())
}

/// What two reports have in common that say the same, whenever they were made.
fn digest(ranking: &Ranking) -> String {
    let mut models: Vec<Value> = ranking
        .models
        .iter()
        .map(|m| {
            let values: Vec<_> = m.scores.iter().map(|(name, s)| (name, s.value)).collect();
            json!([m.path, m.key, values, m.error.as_ref().map(|e| &e.kind)])
        })
        .collect();
    models.sort_by_key(Value::to_string);
    let text = json!([ranking.run.digest(), models]).to_string();
    crate::file::hex(Sha256::new_with_prefix(text))
}

/// The experiment, which is made where there is none; `None` where that is only shown.
fn experiment(writer: &mut Writer) -> Result<Option<Experiment>> {
    #[derive(Deserialize)]
    struct One {
        experiment: Experiment,
    }
    let path = "/api/2.0/mlflow/experiments/get-by-name";
    let get = |writer: &Writer| -> Result<Option<Experiment>> {
        let answer =
            writer.server.tracking().get(path, &[("experiment_name", EXPERIMENT)], &[404])?;
        match answer.status() {
            404 => Ok(None),
            _ => Ok(Some(answer.json::<One>()?.experiment)),
        }
    };
    if let Some(found) = get(writer)? {
        return Ok(Some(found));
    }
    let client = writer.server.tracking();
    writer.post(client, "experiments/create", &json!({ "name": EXPERIMENT }), Patience::Once)?;
    get(writer)
}

fn find(writer: &Writer, experiment: &str, digest: &str) -> Result<Option<Value>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Found {
        runs: Vec<Value>,
    }
    let body = json!({
        "experiment_ids": [experiment],
        "filter": format!("tags.`{PREFIX}report` = '{digest}'"),
        "max_results": 1,
    });
    let client = writer.server.tracking();
    let found: Found = writer.server.post(client, "runs/search", &body, Patience::Retry)?;
    Ok(found.runs.into_iter().next())
}

/// A run for the report; `None` where it is only shown.
fn create(writer: &mut Writer, experiment: &str, digest: &str) -> Result<Option<Value>> {
    let body = json!({
        "experiment_id": experiment,
        "run_name": "gradalign",
        "start_time": now(),
        "tags": [
            pair(&format!("{PREFIX}report"), digest),
            pair(&format!("{PREFIX}version"), env!("CARGO_PKG_VERSION")),
        ],
    });
    let client = writer.server.tracking();
    let made = writer.post(client, "runs/create", &body, Patience::Once)?;
    Ok(made.map(|mut made| made["run"].take()))
}
