//! Options on how a run goes: what is kept, how models are kept apart, when it stops.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::rank::{Filter, Shard};

#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(in crate::cli) struct Running {
    /// Keep each result in this file as soon as it is there, and compute none again that it holds
    #[arg(long, value_name = "FILE", env = "GRADALIGN_STORE")]
    pub store: Option<PathBuf>,

    /// Use no store, though GRADALIGN_STORE names one
    #[arg(long)]
    pub no_store: bool,

    /// Score in processes of their own, so that a crash costs one model [default for 'rank']
    #[arg(long, overrides_with = "no_isolate")]
    pub isolate: bool,

    /// Score in this process [default for 'score']
    #[arg(long, overrides_with = "isolate")]
    pub no_isolate: bool,

    /// How long a model may take, in seconds; implies --isolate
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "no_isolate")]
    pub timeout: Option<Duration>,

    /// Stop at the first model that fails
    #[arg(long)]
    pub fail_fast: bool,

    /// Warnings count as failures in the exit code, and for --fail-fast
    #[arg(long)]
    pub strict: bool,

    /// Score only the I-th of N parts of the models, counted from 1; 'auto' in a job array of Slurm or
    /// an indexed job of Kubernetes
    #[arg(long, value_name = "I/N|auto", value_parser = WhichShard::from_str)]
    pub shard: Option<WhichShard>,

    /// The number of parts, where --shard auto cannot tell: in Kubernetes
    #[arg(long, value_name = "N", requires = "shard")]
    pub shards: Option<u64>,
}

/// What of a ranking is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(in crate::cli) struct Shown {
    /// Show only the N best models
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,

    /// Show only models that meet a condition, such as 'params < 5e6 and flops < 1e9'; ranks are those
    /// among all
    #[arg(long = "where", value_name = "CONDITION", value_parser = Filter::from_str)]
    pub filter: Option<Filter>,
}

/// A part of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum WhichShard {
    /// What the environment of a job array says.
    Auto,
    This(Shard),
}

impl FromStr for WhichShard {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(WhichShard::Auto),
            text => text.parse().map(WhichShard::This),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "give a number of seconds above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["0", "-1", "nan", "inf", "1e400", "soon", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shards() {
        assert_eq!("auto".parse::<WhichShard>().unwrap(), WhichShard::Auto);
        let second = Shard::new(2, 3).unwrap();
        assert_eq!("2/3".parse::<WhichShard>().unwrap(), WhichShard::This(second));
        assert!("4/3".parse::<WhichShard>().is_err());
    }
}
