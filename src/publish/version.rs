//! Tags of a version, and metrics of its run.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PREFIX, Published, Scored, Writer, now, pair};
use crate::error::Result;
use crate::http::Patience;
use crate::score::Run;
use crate::source::NOTICE;
use crate::source::mlflow::Version;

/// Asks for each version, and says of each whether its run has no other scores than its own: several
/// versions may be of one run, whose metrics can be those of one only.
pub(super) fn shared_runs<'a>(
    published: &mut Published,
    writer: &Writer,
    versions: Vec<Scored<'a>>,
) -> Vec<(Scored<'a>, Version, bool)> {
    let mut known = Vec::new();
    for scored in versions {
        match writer.server.version(&scored.name, scored.number) {
            Ok(version) => known.push((scored, version)),
            Err(error) => published.failures.push(scored.failed(&error)),
        }
    }
    let mut runs: BTreeMap<String, Vec<Vec<(String, f64)>>> = BTreeMap::new();
    for (scored, version) in &known {
        let of_run = runs.entry(version.run_id.clone()).or_default();
        of_run.push(values(scored));
    }
    let is_own = |version: &Version| {
        let all = runs.get(&version.run_id).map(Vec::as_slice).unwrap_or_default();
        all.windows(2).all(|pair| pair[0] == pair[1])
    };
    known
        .into_iter()
        .map(|(scored, version)| {
            let is_own = is_own(&version);
            (scored, version, is_own)
        })
        .collect()
}

/// The finite scores of a model.
fn values(scored: &Scored) -> Vec<(String, f64)> {
    let scores = scored.result.scores.iter();
    scores.filter_map(|(name, entry)| Some((name.to_owned(), entry.value?))).collect()
}

/// Writes what is not there yet.
pub(super) fn write(
    writer: &mut Writer,
    run: &Run,
    scored: &Scored,
    version: &Version,
    has_own_run: bool,
) -> Result<()> {
    let values = values(scored);
    tag(writer, run, scored, version, &values)?;
    if version.run_id.is_empty() {
        tracing::debug!("{} is of no run, and gets no metrics", scored.result.name);
        return Ok(());
    }
    if !has_own_run {
        tracing::info!(
            target: NOTICE,
            "{}: its run is also that of other versions with other scores, and gets no metrics",
            scored.result.name
        );
        return Ok(());
    }
    log(writer, version, &values)
}

fn tag(
    writer: &mut Writer,
    run: &Run,
    scored: &Scored,
    version: &Version,
    values: &[(String, f64)],
) -> Result<()> {
    let mut wanted: Vec<(String, String)> =
        values.iter().map(|(score, value)| (score.clone(), format!("{value:?}"))).collect();
    wanted.push(("settings".into(), run.settings_digest.clone()));
    wanted.push(("run".into(), run.digest()));
    wanted.push(("version".into(), run.tool.version.clone()));
    for (key, value) in wanted {
        let key = format!("{PREFIX}{key}");
        let is_there = version.tags.iter().any(|tag| tag.key == key && tag.value == value);
        if !is_there {
            let mut body = pair(&key, &value);
            body["name"] = json!(scored.name);
            body["version"] = json!(scored.number.to_string());
            let client = writer.server.registry();
            writer.post(client, "model-versions/set-tag", &body, Patience::Retry)?;
        }
    }
    Ok(())
}

fn log(writer: &mut Writer, version: &Version, values: &[(String, f64)]) -> Result<()> {
    let run = writer.server.run(&version.run_id)?;
    if run.info.lifecycle_stage == "deleted" {
        tracing::info!(
            target: NOTICE,
            "{}@{}: its run was deleted, and gets no metrics",
            version.name,
            version.version
        );
        return Ok(());
    }
    // A model that was logged to the run shows them as its own, too.
    let model = version.source.strip_prefix("models:/").filter(|id| id.starts_with("m-"));
    let now = now();
    let metric = |(score, value): &(String, f64)| {
        let key = format!("{PREFIX}{score}");
        let known = run.data.metrics.iter().filter(|metric| metric.key == key);
        if known.into_iter().any(|metric| metric.value.as_f64() == Some(*value)) {
            return None;
        }
        let mut metric = json!({ "key": key, "value": value, "timestamp": now, "step": 0 });
        if let Some(model) = model {
            metric["model_id"] = json!(model);
        }
        Some(metric)
    };
    let metrics: Vec<Value> = values.iter().filter_map(metric).collect();
    if !metrics.is_empty() {
        let body = json!({ "run_id": version.run_id, "metrics": metrics });
        let client = writer.server.tracking();
        writer.post(client, "runs/log-batch", &body, Patience::Retry)?;
    }
    Ok(())
}
