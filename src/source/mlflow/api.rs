//! The part of MLflow's REST interface that is used here.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::http::{Client, Patience};

const API: &str = "/api/2.0/mlflow";

/// How many versions a page has, at most.
const PAGE: &str = "1000";

/// An MLflow server, or two: one for registered models, one for runs and their files.
pub(crate) struct Server {
    registry: Client,
    tracking: Client,
}

/// A version of a registered model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    pub name: String,
    pub version: String,
    pub source: String,
    pub run_id: String,
    pub status: String,
    pub status_message: String,
    pub current_stage: String,
    pub tags: Vec<Tag>,
}

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Tag {
    pub key: String,
    pub value: String,
}

/// A run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Run {
    pub info: RunInfo,
    pub data: RunData,
}

/// What a run is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunInfo {
    pub run_id: String,
    pub artifact_uri: String,
    pub lifecycle_stage: String,
}

/// What was logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunData {
    pub metrics: Vec<Metric>,
}

/// The latest value of a metric.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Metric {
    pub key: String,
    /// `null`, or text, where it is not finite.
    pub value: serde_json::Value,
}

/// A file or folder of a run or a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Listed {
    pub path: String,
    pub is_dir: bool,
    #[serde(deserialize_with = "number")]
    pub file_size: Option<u64>,
}

/// A number, which some servers write as text.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok())))
}

impl Version {
    /// Its number.
    ///
    /// # Errors
    /// When the server gives none.
    pub fn number(&self) -> Result<u64> {
        self.version.parse().map_err(|_| {
            Error::Remote(format!(
                "a version of the model '{}' has the number '{}', which is none",
                self.name, self.version
            ))
        })
    }
}

impl Server {
    pub(super) fn new(registry: Client, tracking: Client) -> Self {
        Server { registry, tracking }
    }

    /// The server of registered models.
    pub fn registry(&self) -> &Client {
        &self.registry
    }

    /// The server of runs and files.
    pub fn tracking(&self) -> &Client {
        &self.tracking
    }

    /// All versions that meet `filter`, by name and number.
    pub fn versions(&self, filter: &str) -> Result<Vec<Version>> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Page {
            model_versions: Vec<Version>,
            next_page_token: String,
        }
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            // In an order that changes during the work do not touch: pages are counted by position.
            let mut query = vec![
                ("filter", filter),
                ("max_results", PAGE),
                ("order_by", "name ASC"),
                ("order_by", "version_number ASC"),
                ("page_token", &token),
            ];
            query.retain(|(_, value)| !value.is_empty());
            let path = format!("{API}/model-versions/search");
            let page: Page = self.registry.get(&path, &query, &[])?.json()?;
            all.extend(page.model_versions);
            if page.next_page_token.is_empty() {
                break;
            }
            if page.next_page_token == token {
                return Err(Error::Remote(format!(
                    "{}: its pages of versions have no end",
                    self.registry.origin()
                )));
            }
            token = page.next_page_token;
        }
        let mut numbered = Vec::with_capacity(all.len());
        for version in all {
            numbered.push((version.name.clone(), version.number()?, version));
        }
        numbered.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        numbered.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
        Ok(numbered.into_iter().map(|(_, _, version)| version).collect())
    }

    /// One version, with its tags.
    pub fn version(&self, name: &str, number: u64) -> Result<Version> {
        let number = number.to_string();
        self.one(&self.registry, "model-versions/get", &[("name", name), ("version", &number)])
    }

    /// The version that has an alias.
    pub fn by_alias(&self, name: &str, alias: &str) -> Result<Version> {
        self.one(&self.registry, "registered-models/alias", &[("name", name), ("alias", alias)])
    }

    fn one(&self, client: &Client, path: &str, query: &[(&str, &str)]) -> Result<Version> {
        #[derive(Deserialize)]
        struct One {
            model_version: Version,
        }
        let one: One = client.get(&format!("{API}/{path}"), query, &[])?.json()?;
        Ok(one.model_version)
    }

    /// Where the files of a version are.
    pub fn place(&self, name: &str, number: u64) -> Result<String> {
        #[derive(Deserialize)]
        struct Place {
            artifact_uri: String,
        }
        let (path, number) = (format!("{API}/model-versions/get-download-uri"), number.to_string());
        let query = [("name", name), ("version", &number)];
        let place: Place = self.registry.get(&path, &query, &[])?.json()?;
        Ok(place.artifact_uri)
    }

    /// A run.
    pub fn run(&self, id: &str) -> Result<Run> {
        #[derive(Deserialize)]
        struct One {
            run: Run,
        }
        let one: One =
            self.tracking.get(&format!("{API}/runs/get"), &[("run_id", id)], &[])?.json()?;
        Ok(one.run)
    }

    /// What is in a folder: at `path`, with `query`, which answers with `files`.
    pub fn files(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Listed>> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Files {
            files: Vec<Listed>,
        }
        let files: Files = self.tracking.get(path, query, &[])?.json()?;
        Ok(files.files)
    }

    /// POST to the server of runs, or of registered models.
    pub fn post<T: DeserializeOwned>(
        &self,
        client: &Client,
        path: &str,
        body: &serde_json::Value,
        patience: Patience,
    ) -> Result<T> {
        client.post(&format!("{API}/{path}"), body, patience)
    }
}
