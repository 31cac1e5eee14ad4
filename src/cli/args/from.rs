//! Options on where models come from.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Registry")]
pub(in crate::cli) struct From {
    /// Only versions that meet a condition, in MLflow's language, such as "tags.task = 'vision'"
    #[arg(long = "filter", value_name = "CONDITION")]
    pub versions: Option<String>,

    /// Read model files that a registry names on this machine, if they are in this folder; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub allow_local: Vec<PathBuf>,

    /// Write the scores back: tags of each version, metrics of its run, and the report as files of a run of
    /// its own
    #[arg(long)]
    pub write_back: bool,

    /// Only show what --write-back would send
    #[arg(long, requires = "write_back")]
    pub dry_run: bool,
}
