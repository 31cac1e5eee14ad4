//! Options of `gradalign space`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::values::{names, positive};
use crate::space::ALL;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true)))]
pub(in crate::cli) struct Space {
    /// The search space
    #[arg(value_name = "SPACE", value_parser = names(&ALL.map(|space| space.name())))]
    pub space: String,

    /// The folder for the files, which is made if it is not there; or, for a single network, a file
    #[arg(short, value_name = "DIR|FILE.onnx")]
    pub out: PathBuf,

    /// Architectures by their places in the order of the space, from 0
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        group = "which",
        help_heading = "Which"
    )]
    pub index: Vec<usize>,

    /// An architecture, as the space writes it
    #[arg(long, value_name = "STRING", group = "which", help_heading = "Which")]
    pub arch: Vec<String>,

    /// A file with an architecture as the space writes it, or with a JSON list of some
    #[arg(long, value_name = "FILE", group = "which", help_heading = "Which")]
    pub arch_file: Vec<PathBuf>,

    /// So many different architectures, drawn by the seed
    #[arg(long, value_name = "N", group = "which", value_parser = positive, help_heading = "Which")]
    pub random: Option<NonZeroUsize>,

    /// How many classes the networks tell apart
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Networks")]
    pub classes: usize,

    /// The rows and columns of the images that they take
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Networks")]
    pub image_size: usize,

    /// The channels of the stem, in nasbench101: 128 as in the benchmark, or 16 as in the code of NASWOT
    /// and GradSign, with their initialisation [default: 128]
    #[arg(long, value_name = "N", help_heading = "Networks")]
    pub stem: Option<usize>,

    /// Seed of the parameters, and of what is drawn
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Networks")]
    pub seed: u64,
}
