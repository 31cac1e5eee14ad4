//! Options of `gradalign store` and `gradalign merge`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::report::Format;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Store {
    /// List the runs in a store, the latest first
    List(StoreList),
    /// Write the results of a run as 'rank' does, or with --format jsonl those of all runs
    Export(StoreExport),
    /// Take results out
    Prune(StorePrune),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StoreList {
    /// The store
    #[arg(value_name = "FILE")]
    pub store: PathBuf,

    /// How to write the table
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StoreExport {
    /// The store
    #[arg(value_name = "FILE")]
    pub store: PathBuf,

    /// The run, by the beginning of the digest that 'list' shows [default: the only one]
    #[arg(long, value_name = "DIGEST")]
    pub run: Option<String>,

    /// How to write the result
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,

    /// Write the result into a file, whole or not at all [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true)))]
pub(in crate::cli) struct StorePrune {
    /// The store
    #[arg(value_name = "FILE")]
    pub store: PathBuf,

    /// Results of models that failed
    #[arg(long, group = "which")]
    pub failed: bool,

    /// Results of other versions of gradalign, which are not used any more
    #[arg(long, group = "which")]
    pub other_versions: bool,

    /// Results older than this, such as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = age, group = "which")]
    pub older_than: Option<Duration>,

    /// Results of this run, by the beginning of the digest that 'list' shows
    #[arg(long, value_name = "DIGEST", group = "which")]
    pub run: Option<String>,

    /// Only say how many there are
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Merge {
    /// Stores, such as those of shards
    #[arg(required = true, value_name = "STORE")]
    pub stores: Vec<PathBuf>,

    /// The store that takes in their results; it is made where there is none
    #[arg(short, long, value_name = "STORE")]
    pub out: PathBuf,
}

/// A worker's own options: the limits that the results of its run are valid within.
#[derive(Debug, Args)]
pub(in crate::cli) struct Worker {
    /// Tell events to a process that starts, watches and kills workers, and log as JSON
    #[arg(long)]
    pub child: bool,

    /// The store whose results need not be computed again
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,

    /// The time that a model may take, in milliseconds
    #[arg(long, value_name = "MS")]
    pub timeout: Option<u64>,

    /// The memory that all processes together may take, in bytes
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<u64>,

    /// A folder of this machine that a registry may name files in
    #[arg(long, value_name = "PREFIX")]
    pub allow_local: Vec<PathBuf>,
}

fn age(text: &str) -> Result<Duration, String> {
    const FORM: &str = "give an age such as 30d, 12h or 90m";
    let number = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    let unit = match text.chars().last() {
        Some('d') => 24 * 60 * 60,
        Some('h') => 60 * 60,
        Some('m') => 60,
        _ => return Err(FORM.into()),
    };
    let seconds = number.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| FORM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("2d"), Ok(Duration::from_secs(2 * 86400)));
        assert_eq!(age("90m"), Ok(Duration::from_secs(5400)));
        for text in ["", "d", "-1d", "1.5d", "2 weeks", "3", "99999999999999999999d", "é"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
