//! Results kept in a file: what has been computed once is not computed again.
//!
//! A [`Store`] is an SQLite database. Each result is committed when it is finished, so that a run that
//! is killed loses only what was under way. Several processes of one machine may use a store at the same
//! time; on a network file system SQLite cannot lock reliably, so that machines have a store each, to
//! be put together with [`Store::merge`].
//!
//! A store holds [`Run`]s, by [`Run::digest`], and the results of each by address and content. A
//! [`Recall`] gives a [`Scorer`](crate::score::Scorer) those that are still valid: the content of a
//! model and the run are what a result depends on, wherever the model lies.

mod contents;
mod recall;
mod schema;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::error::{Error, Result};
use crate::score::{ModelResult, Record, Run};

pub use contents::StoredRun;
pub use recall::{Limits, Recall};
pub use upkeep::Prune;

/// How long a process waits for others that write.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file of results.
///
/// ```
/// use gradalign::data::Dataset;
/// use gradalign::engine::{EngineChoice, EngineOptions, open};
/// use gradalign::probe::Memory;
/// use gradalign::rank::score_models;
/// use gradalign::score::{ScoreSettings, Scorer};
/// use gradalign::source::{Files, Source};
/// use gradalign::store::{Limits, Store};
///
/// # fn main() -> gradalign::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("results.db");
/// let settings = ScoreSettings::new().metrics(["params"]);
/// let digits = Dataset::open("fixtures/digits-30.npz", &settings.data_options(None))?;
/// let engine = open(EngineChoice::Tract, &EngineOptions::default())?;
/// let scorer = Scorer::new(&settings, &digits, &*engine, Memory::default())?;
/// let files = Files::find(&["models/mlp.onnx"])?;
///
/// let (store, limits) = (Store::open(&path)?, Limits::default());
/// let recall = store.recall(scorer.run(), limits.clone());
/// let scorer = scorer.with_memo(&recall);
/// for record in score_models(&files, &files.list()?, &scorer) {
///     store.put(&record, &limits)?;
/// }
/// // Now it is known.
/// let again = score_models(&files, &files.list()?, &scorer);
/// assert_eq!(again, store.records(&store.runs()?[0].digest)?);
/// # Ok(())
/// # }
/// ```
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Store {
    /// The store in the file at `path`, which is made where there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is no store, or is one of another version.
    pub fn open(path: &Path) -> Result<Self> {
        Store::connect(path, true)
    }

    /// The store in the file at `path`.
    ///
    /// # Errors
    /// As [`Store::open`], and when there is no such file.
    pub fn existing(path: &Path) -> Result<Self> {
        Store::connect(path, false)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the result of a record. `limits` are those it was computed within.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, record: &Record, limits: &Limits) -> Result<()> {
        let Record { run, result } = record;
        let (digest, content) = (run.digest(), result.sha256.as_deref().unwrap_or_default());
        let address = &result.path;
        let known: Option<(String, bool)> = self.with(|connection| {
            let found = "SELECT result, finished = (
                    SELECT max(finished) FROM results WHERE run = ?1 AND address = ?2
                ) FROM results WHERE run = ?1 AND address = ?2 AND content = ?3";
            let columns = |row: &Row| Ok((row.get(0)?, row.get(1)?));
            connection.query_row(found, params![digest, address, content], columns).optional()
        })?;
        // What was recalled is there, unless the address had another content in between. Only what it
        // is called depends on the models beside it.
        let is_same = |known: &str| {
            let known = serde_json::from_str::<ModelResult>(known).ok();
            known.is_some_and(|k| ModelResult { name: result.name.clone(), ..k } == *result)
        };
        if known.is_some_and(|(known, is_latest)| is_latest && is_same(&known)) {
            return Ok(());
        }
        let limits = if recall::depends_on_limits(result) { limits.text() } else { "" };
        let (head, body) = (json(run), json(result));
        self.change(|transaction| {
            transaction.execute(
                "INSERT INTO runs (digest, run) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                params![digest, head],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO results
                 (run, address, content, key, failed, limits, finished, result)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    digest,
                    address,
                    content,
                    result.key,
                    result.error.is_some(),
                    limits,
                    now(),
                    body
                ],
            )
        })?;
        Ok(())
    }

    /// What is known of models that are scored in `run` within `limits`.
    pub fn recall(&self, run: &Run, limits: Limits) -> Recall<'_> {
        Recall::new(self, run.digest(), limits)
    }

    fn connect(path: &Path, make: bool) -> Result<Self> {
        let connection = schema::connect(path, make, PATIENCE)?;
        Ok(Store { path: path.to_path_buf(), connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic left is rolled back where it is dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `read` gives.
    fn with<T>(&self, read: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&mut self.lock()).map_err(|e| self.failed(&e))
    }

    /// Does `change` in one transaction, which takes its lock at the start: two that read first and
    /// then both want to write would wait for each other.
    fn change<T>(&self, change: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn failed(&self, error: &rusqlite::Error) -> Error {
        schema::failed(&self.path, error)
    }
}

/// Only maps whose keys are not text cannot be written, and there are none.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Microseconds since 1970: of two results for one address, the later one must be told.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}
