//! What a store holds.

use rusqlite::params;
use serde::Serialize;

use super::Store;
use crate::error::{Error, Result};
use crate::score::{Record, Run};
use crate::source::names;

/// A run in a store, and how many results of it there are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredRun {
    /// [`Run::digest`].
    pub digest: String,
    /// The run.
    pub run: Run,
    /// The number of models that have been scored.
    pub scored: u64,
    /// The number of models that failed.
    pub failed: u64,
    /// When the last of the results was finished: `YYYY-MM-DD HH:MM:SS`, in UTC.
    pub finished: String,
}

/// The results of a run: of each address the latest.
const LATEST: &str = "
    SELECT address, result, max(finished) FROM results
    WHERE run = ?1 GROUP BY address ORDER BY address";

impl Store {
    /// The runs, the latest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn runs(&self) -> Result<Vec<StoredRun>> {
        let rows = self.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT digest, runs.run, count(*) - sum(failed), sum(failed),
                        datetime(max(finished) / 1000000, 'unixepoch')
                 FROM runs JOIN results ON results.run = digest
                 GROUP BY digest ORDER BY max(finished) DESC, digest",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<(String, String, i64, i64, String)>>>()
        })?;
        let rows = rows.into_iter().map(|(digest, run, scored, failed, finished)| {
            let run = self.parse(&run)?;
            let (scored, failed) = (scored.unsigned_abs(), failed.unsigned_abs());
            Ok(StoredRun { digest, run, scored, failed, finished })
        });
        rows.collect()
    }

    /// The run whose digest begins with `prefix`; without one, the only run that there is.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn run(&self, prefix: Option<&str>) -> Result<StoredRun> {
        let mut runs = self.runs()?;
        runs.retain(|run| run.digest.starts_with(prefix.unwrap_or_default()));
        let path = self.path().display();
        match (runs.len(), prefix) {
            (1, _) => Ok(runs.remove(0)),
            (0, None) => Err(Error::Usage(format!("{path}: there are no results in it"))),
            (0, Some(prefix)) => Err(Error::Usage(format!(
                "{path}: no run begins with '{prefix}'; 'gradalign store list' shows them"
            ))),
            (n, _) => Err(Error::Usage(format!(
                "{path}: there are {n} runs, whose scores cannot be compared: choose one by `run`, as \
                 'gradalign store list' shows them"
            ))),
        }
    }

    /// The records of the run with this digest, by address. Of an address whose content has changed
    /// there is the latest.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn records(&self, digest: &str) -> Result<Vec<Record>> {
        let (run, rows) = self.with(|connection| {
            let head = "SELECT run FROM runs WHERE digest = ?1";
            let head: String = connection.query_row(head, [digest], |row| row.get(0))?;
            let mut statement = connection.prepare(LATEST)?;
            let rows =
                statement.query_map(params![digest], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((head, rows.collect::<rusqlite::Result<Vec<(String, String)>>>()?))
        })?;
        let run: Run = self.parse(&run)?;
        let addresses: Vec<&str> = rows.iter().map(|(address, _)| address.as_str()).collect();
        let names = names(&addresses);
        let records = rows.iter().zip(names).map(|((_, result), name)| {
            let mut record = Record { run: run.clone(), result: self.parse(result)? };
            record.result.name = name;
            Ok(record)
        });
        records.collect()
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|e| Error::io(self.path(), e.into()))
    }
}
