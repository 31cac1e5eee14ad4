//! Scores written back to the registry that the models came from.
//!
//! A version gets tags, its run metrics, and a run of its own the report of the whole ranking. What is
//! there already is not written again, and nothing else is touched: no stage, no alias, and no file of a
//! model.

mod report;
mod version;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::http::{Client, Patience};
use crate::rank::Ranking;
use crate::score::ModelResult;
use crate::source::mlflow::{self, Address, Server, Which};

/// What is before the names of tags and metrics.
const PREFIX: &str = "gradalign.";

/// How scores are written back.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Whether what would be sent is only shown.
    pub dry_run: bool,
    /// A page about the ranking, which is kept as a file of a run.
    pub page: String,
}

/// What was written, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Versions whose tags and metrics are as they should be.
    pub versions: usize,
    /// Requests that changed something.
    pub changes: usize,
    /// What went wrong, by version.
    pub failures: Vec<String>,
}

/// Whether the address of a model is that of a version in a registry, which can be written to.
pub fn is_registered(address: &str) -> bool {
    version_of(address).is_some()
}

/// The version that an address names.
fn version_of(address: &str) -> Option<(Address, String, u64)> {
    let parsed = mlflow::parse(address)?.ok()?;
    match (parsed.name.clone(), &parsed.which) {
        (Some(name), &Which::Version { number, .. }) => Some((parsed, name, number)),
        _ => None,
    }
}

/// A version of a ranking.
struct Scored<'a> {
    name: String,
    number: u64,
    result: &'a ModelResult,
}

impl Publication {
    /// Writes the scores of those models of `ranking` that are of a registry and have some. What fails
    /// for one version is among the failures.
    ///
    /// # Errors
    /// When the environment does not say how to ask a server.
    pub fn publish(&self, ranking: &Ranking) -> Result<Published> {
        let mut servers: BTreeMap<String, (Address, Vec<Scored>)> = BTreeMap::new();
        for result in ranking.models.iter().filter(|model| model.error.is_none()) {
            if let Some((address, name, number)) = version_of(&result.path) {
                let server = address.of_server();
                let (_, versions) = servers.entry(server).or_insert_with(|| (address, Vec::new()));
                versions.push(Scored { name, number, result });
            }
        }
        let mut published = Published::default();
        for (address, versions) in servers.into_values() {
            let server = mlflow::server(&address)?;
            let mut writer = Writer { server: &server, dry_run: self.dry_run, changes: 0 };
            let runs = version::shared_runs(&mut published, &writer, versions);
            for (scored, version, has_own_run) in &runs {
                match version::write(&mut writer, &ranking.run, scored, version, *has_own_run) {
                    Ok(()) => published.versions += 1,
                    Err(error) => published.failures.push(scored.failed(&error)),
                }
            }
            if let Err(error) = report::write(&mut writer, ranking, &self.page) {
                published.failures.push(format!("the report: {error}"));
            }
            published.changes += writer.changes;
        }
        Ok(published)
    }
}

impl Scored<'_> {
    fn failed(&self, error: &Error) -> String {
        format!("{}: {error}", self.result.name)
    }
}

/// Sends what changes something, or shows it.
struct Writer<'a> {
    server: &'a Server,
    dry_run: bool,
    changes: usize,
}

impl Writer<'_> {
    /// POST of `body`; the answer is `None` where it is only shown.
    fn post(
        &mut self,
        client: &Client,
        path: &str,
        body: &Value,
        patience: Patience,
    ) -> Result<Option<Value>> {
        self.changes += 1;
        if self.dry_run {
            self.show(&format!("POST {path} {body}"));
            return Ok(None);
        }
        self.server.post(client, path, body, patience).map(Some)
    }

    fn show(&self, what: &str) {
        tracing::info!(target: crate::source::NOTICE, "would send {what}");
    }
}

/// A pair as MLflow writes it.
fn pair(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": value })
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}
