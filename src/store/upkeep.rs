//! Putting stores together, and taking results out.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Transaction, params};

use super::{Store, now};
use crate::error::{Error, Result};
use crate::score::Tool;

/// Which results to take out: those to which all that is set applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Those of models that failed.
    pub failed: bool,
    /// Those of other versions of gradalign, which are never used again.
    pub other_versions: bool,
    /// Those that were finished longer ago than this.
    pub older_than: Option<Duration>,
    /// Those of the run with this digest.
    pub run: Option<String>,
}

impl Store {
    /// Takes in the results of the store at `path`. Where both have one for the same model and run, the
    /// later one stays. Returns the number of results taken in.
    ///
    /// # Errors
    /// When `path` is no store, or a file cannot be read or written. Nothing is taken in then.
    pub fn merge(&self, path: &Path) -> Result<usize> {
        // Says what is wrong with it, and makes an end of what a killed process may have left.
        drop(Store::existing(path)?);
        let name = path.to_str().ok_or_else(|| {
            Error::Usage(format!("{}: the path of a store must be UTF-8", path.display()))
        })?;
        self.with(|connection| connection.execute("ATTACH ?1 AS other", [name]))?;
        let merged = self.change(|transaction| {
            transaction.execute_batch(
                "INSERT INTO runs SELECT * FROM other.runs WHERE true ON CONFLICT DO NOTHING",
            )?;
            transaction.execute(
                "INSERT INTO results SELECT * FROM other.results WHERE true
                 ON CONFLICT DO UPDATE SET
                    key = excluded.key, failed = excluded.failed, limits = excluded.limits,
                    finished = excluded.finished, result = excluded.result
                 WHERE excluded.finished > results.finished",
                [],
            )
        });
        self.with(|connection| connection.execute_batch("DETACH other"))?;
        merged
    }

    /// Takes out the results that `prune` tells, or only counts them where `dry`. Returns their
    /// number.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn prune(&self, prune: &Prune, dry: bool) -> Result<usize> {
        let this = Tool::this().version;
        let before = prune.older_than.map_or(i64::MAX, |age| {
            now().saturating_sub(age.as_micros().try_into().unwrap_or(i64::MAX))
        });
        let which = "FROM results WHERE (NOT ?1 OR failed) AND finished < ?2
             AND (?3 IS NULL OR run = ?3)
             AND (NOT ?4 OR run IN (
                SELECT digest FROM runs WHERE json_extract(run, '$.tool.version') <> ?5))";
        let values = params![prune.failed, before, prune.run, prune.other_versions, this];
        if dry {
            let count = format!("SELECT count(*) {which}");
            let found: i64 =
                self.with(|connection| connection.query_row(&count, values, |row| row.get(0)))?;
            return Ok(found.try_into().unwrap_or(0));
        }
        let take_out = |transaction: &Transaction| {
            let taken = transaction.execute(&format!("DELETE {which}"), values)?;
            transaction
                .execute("DELETE FROM runs WHERE digest NOT IN (SELECT run FROM results)", [])?;
            Ok(taken)
        };
        let taken = self.change(take_out)?;
        self.with(|connection| connection.execute_batch("VACUUM"))?;
        Ok(taken)
    }
}
