//! Which results are still valid.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use super::Store;
use crate::error::{Error, Result};
use crate::score::{Memo, ModelResult};
use crate::source::ModelRef;

/// What models may take in a run. A result that was cut short by it is valid within the same limits
/// only: with more time or memory there might be another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(String);

impl Limits {
    /// Limits of `time` for a model and of `memory`, in bytes, for all processes together.
    pub fn new(time: Option<Duration>, memory: Option<u64>) -> Self {
        let number = |n: Option<u128>| n.map_or_else(|| "none".into(), |n| n.to_string());
        let time = number(time.map(|time| time.as_millis()));
        Limits(format!("time {time} ms, memory {}", number(memory.map(Into::into))))
    }

    /// As they are kept, never empty.
    pub(super) fn text(&self) -> &str {
        if self.0.is_empty() { "none" } else { &self.0 }
    }
}

/// Whether a result might be another within other limits, or on another day.
pub(super) fn depends_on_limits(result: &ModelResult) -> bool {
    /// Kinds of failures that the model and the run alone decide.
    const CERTAIN: [&str; 8] = [
        "invalid-model",
        "unsupported-op",
        "unsupported-model",
        "shape",
        "not-differentiable",
        "data",
        "score",
        "usage",
    ];
    let error = result.error.as_ref();
    result.short_of_memory || error.is_some_and(|error| !CERTAIN.contains(&&*error.kind))
}

/// What a store knows of the models of a run.
pub struct Recall<'a> {
    store: &'a Store,
    run: String,
    limits: Limits,
    /// Whether a failure to read the store has been told.
    told: AtomicBool,
}

impl<'a> Recall<'a> {
    pub(super) fn new(store: &'a Store, run: String, limits: Limits) -> Self {
        Recall { store, run, limits, told: AtomicBool::new(false) }
    }

    /// What cannot be read is computed again.
    fn or_none(&self, found: Result<Option<String>>) -> Option<ModelResult> {
        let found = found.and_then(|found| {
            let parse = |text: String| serde_json::from_str(&text);
            found.map(parse).transpose().map_err(|e| Error::io(self.store.path(), e.into()))
        });
        found.unwrap_or_else(|error| {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!("{error}; what it may hold is computed again");
            }
            None
        })
    }
}

impl Memo for Recall<'_> {
    fn of_content(&self, model: &ModelRef, sha256: &str) -> Option<ModelResult> {
        // The message of a failure names the file.
        const FOUND: &str = "
            SELECT result FROM results
            WHERE run = ?1 AND content = ?2 AND limits IN ('', ?3) AND (NOT failed OR address = ?4)
            ORDER BY address = ?4 DESC, address LIMIT 1";
        let found = self.store.with(|connection| {
            let values = params![self.run, sha256, self.limits.text(), model.address];
            connection.prepare(FOUND)?.query_row(values, text).optional()
        });
        self.or_none(found)
    }

    fn of_key(&self, key: &str) -> Option<ModelResult> {
        const FOUND: &str = "
            SELECT result FROM results
            WHERE run = ?1 AND key = ?2 AND limits IN ('', ?3) AND NOT failed
            ORDER BY address LIMIT 1";
        let found = self.store.with(|connection| {
            let values = params![self.run, key, self.limits.text()];
            connection.prepare(FOUND)?.query_row(values, text).optional()
        });
        self.or_none(found)
    }
}

fn text(row: &Row) -> rusqlite::Result<String> {
    row.get(0)
}
