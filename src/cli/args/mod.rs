//! The options as they are given.
//!
//! One definition serves the parser, the help and the completions. What they mean together is
//! worked out in [`settings`](super::settings).

mod from;
mod running;
mod space;
mod store;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data::Samples;
use crate::engine::{Device, EngineChoice};
use crate::metric::{RegionInputs, ZenForm};
use crate::ops::BatchNormMode;
use crate::probe::GramKind;
use crate::rank::Aggregate;
use crate::report::Format;
use crate::transform::{Init, Loss};

pub(super) use from::From;
pub(super) use running::{Running, Shown, WhichShard};
pub(super) use space::Space;
pub(super) use store::{Merge, Store, StoreExport, StoreList, StorePrune, Worker};
pub(super) use values::{Auto, Plain};
use values::{
    batch_axis, batch_norm, fix, gram, init, loss, memory, names, pattern, positive, ridge,
    samples, several, shape,
};

/// Scores neural networks given as ONNX files without training them.
#[derive(Debug, Parser)]
#[command(name = "gradalign", version, max_term_width = 100, after_help = CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Say more on standard error; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Say nothing but errors on standard error
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// How to write the log on standard error
    #[arg(long, value_name = "FORMAT", global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For reading in a terminal
    #[default]
    Text,
    /// A line of JSON an event
    Json,
}

const CODES: &str = "Exit codes: 0 all fine, 1 some models failed (their rows say why), 2 nothing \
    could be done (usage, data, environment), 130 interrupted (what was finished is written).";

const SCORING: &str = "Examples:
  gradalign rank models --data probe.npz
  gradalign rank 'models/*.onnx' --data images/train --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  gradalign score a.onnx b.onnx --data synthetic --samples 32 --init kaiming-normal --repeats 3
  gradalign rank models --data probe.npz --metric paper --aggregate --format csv --out ranking.csv

Scores: gradalign-1, gradalign-2, gradsign, naswot, te-nas, te-nas-ntk, te-nas-regions, zen,
  grad-norm, snip, grasp, synflow, fisher, jacob-cov, zico-samples, params, flops, params-live, flops-live;
  'gradalign metrics' explains them.

";

const INSPECTING: &str = "Examples:
  gradalign inspect model.onnx
  gradalign inspect models --format json

Exit codes: 0 all can be scored, 1 some cannot, 2 nothing could be done.";

const WRITING: &str = "Examples:
  gradalign grad model.onnx -o training.onnx --batch 32
  gradalign grad model.onnx -o training.onnx --batch 32 --mean --bn batch

Exit codes: 0 written, 2 not written.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Score models, in the order given
    #[command(after_help = format!("{SCORING}{CODES}"))]
    Score(Score),
    /// Score every model found and rank them, best first
    #[command(after_help = format!("{SCORING}{CODES}"))]
    Rank(Rank),
    /// Measure how well scores rank the networks of a search space whose accuracies are known
    #[command(after_help = super::experiment::HELP)]
    Experiment(super::experiment::Args),
    /// Show which models moved between two results, how far, and what else differs
    #[command(after_help = super::compare::HELP)]
    Compare(super::compare::Args),
    /// Show what models consist of and whether they can be scored
    #[command(after_help = INSPECTING)]
    Inspect(Inspect),
    /// Write a model's training graph as a standard ONNX file
    #[command(after_help = WRITING)]
    Grad(Grad),
    /// Build networks of a search space as ONNX files, at initialisation
    #[command(after_help = super::space::help())]
    Space(Space),
    /// List the operators and how gradients pass them
    Ops(List),
    /// List the scores: formula, needs, direction, source
    Metrics(List),
    /// Show which engines and devices were found, and what to do about missing ones
    Doctor(Doctor),
    /// Look into a store of results
    #[command(subcommand)]
    Store(Store),
    /// Put stores together, such as those of shards
    Merge(Merge),
    /// Score the jobs on standard input, a line of JSON each, and print a record for each
    #[command(hide = true)]
    Worker(Worker),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(super) struct Score {
    /// Model files, archives, or addresses as 'rank' takes them
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<OsString>,

    #[command(flatten)]
    pub from: From,

    #[command(flatten)]
    pub scoring: Scoring,
}

#[derive(Debug, Args)]
pub(super) struct Rank {
    /// Model files; folders or archives (.tar, .tar.gz, .zip) that hold some; glob patterns; one model of
    /// an archive (FILE.zip!/a/model.onnx); a repository in Hugging Face's cache (hf://ORG/NAME);
    /// registered models of MLflow (mlflow://HOST:PORT/NAME, then /VERSION or @ALIAS for one;
    /// models:/NAME); an artifact of an OCI registry (oci://HOST/REPO:TAG); or '-' for a list of these
    /// on standard input, one a line
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<OsString>,

    #[command(flatten)]
    pub from: From,

    /// Known accuracies to compare the ranking with: a CSV file with the columns 'model' (a file
    /// name, with or without .onnx; or a path, or as much of its end as the output has) and 'accuracy'
    #[arg(long, value_name = "FILE.csv")]
    pub truth: Option<PathBuf>,

    /// Make one ranking out of several, and rank by it: 'borda' or 'log-rank' of all scores, or of some
    /// as in log-rank:params-live,naswot, which are computed, too; or 'live-jacob', whose limits
    /// 'gradalign metrics' states
    #[arg(
        long,
        value_name = "METHOD[:LIST]",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "borda"
    )]
    pub aggregate: Option<Aggregate>,

    #[command(flatten)]
    pub shown: Shown,

    #[command(flatten)]
    pub scoring: Scoring,
}

/// What `score` and `rank` share.
#[derive(Debug, Args)]
pub(super) struct Scoring {
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub metric: Metric,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub engine: Engine,
    #[command(flatten)]
    pub running: Running,

    /// How to write the result
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub format: Format,

    /// Write the result into a file, whole or not at all [default: standard output]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub out: Option<PathBuf>,

    /// Also write a page for a browser: the table to sort and filter, a plot, what failed and why, and
    /// how to repeat it, in one file that loads nothing
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct Data {
    /// Labelled samples: an .npz file (arrays 'images', 'x' or 'inputs', or one named after each
    /// model input; and 'labels' or 'y'), a folder of class folders with images, CIFAR binary
    /// files, or 'synthetic'
    #[arg(long, value_name = "SOURCE")]
    pub data: String,

    /// How many samples to draw, balanced over the classes; or 'all', in file order
    #[arg(long, value_name = "N", default_value = "128", value_parser = samples)]
    pub samples: Samples,

    /// Mean of each channel, subtracted from uint8 images after scaling to [0, 1] [default: 0]
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub mean: Vec<f32>,

    /// Standard deviation of each channel, by which they are divided then [default: 1]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub std: Vec<f32>,

    /// Seed of the draw of samples and of the initialisation
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Scores")]
pub(super) struct Metric {
    /// The scores, by the names that 'gradalign metrics' lists; 'paper' for those that the paper
    /// compares; or 'all'. The first one ranks
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "gradalign-1,gradalign-2"
    )]
    pub metric: Vec<String>,

    /// Where parameters come from: the file, or a fresh draw
    #[arg(long, value_name = "SCHEME", default_value = "keep", value_parser = init())]
    pub init: Init,

    /// How many draws of the parameters to average
    #[arg(long, value_name = "N", default_value = "1", value_parser = positive)]
    pub repeats: NonZeroUsize,

    /// The statistics that batch normalisation uses; 'auto' is each score's own default
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = batch_norm())]
    pub bn: Auto<BatchNormMode>,

    /// The loss; 'auto' is what the model's output suggests
    #[arg(long, value_name = "LOSS", default_value = "auto", value_parser = loss())]
    pub loss: Auto<Loss>,

    /// Divide GradAlign-I by the number of parameters
    #[arg(long)]
    pub normalize: bool,

    /// Leave the pairs of a sample with itself out of GradAlign-I
    #[arg(long)]
    pub off_diagonal: bool,

    /// What GradAlign's Gram matrices are made of: signs of gradients, or gradients
    #[arg(long, value_name = "KIND", default_value = "sign", value_parser = gram())]
    pub gram: GramKind,

    /// Added to the diagonal of GradAlign-II's Gram matrices
    #[arg(long, value_name = "LAMBDA", default_value = "0", value_parser = ridge)]
    pub ridge: f64,

    /// The variances that Zen-NAS multiplies with: of the batch, as in its paper, or the running
    /// ones, as in its code
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub zen: ZenForm,

    /// The node of the model whose result Zen-NAS takes for the features [default: what the last
    /// global pooling, or else the last layer, reads]
    #[arg(long, value_name = "NODE")]
    pub features: Option<String>,

    /// The inputs that TE-NAS counts linear regions on: as many random ones, or the samples
    #[arg(long, value_name = "INPUTS", value_enum, default_value_t)]
    pub regions: RegionInputs,

    /// How many samples TE-NAS's tangent kernel is over, at most, 2 or more; its cost grows with
    /// their square
    #[arg(long, value_name = "N", default_value = "64", value_parser = several)]
    pub ntk_samples: usize,
}

/// How a model is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(super) struct Model {
    /// The shape of an input of which the file leaves dimensions open, with a batch of 1;
    /// may be repeated
    #[arg(long, value_name = "NAME=1x3x32x32", value_parser = shape)]
    pub shape: Vec<(String, Vec<usize>)>,

    /// An input that is a setting and no data, with its value: a number for all its elements, or one
    /// for each, parted by commas; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = fix)]
    pub fix: Vec<(String, Vec<f64>)>,

    /// The axis of an input along which the samples lie, counted from 0, or 'none' for an input all
    /// of which is of one sample; may be repeated [default: guessed]
    #[arg(long, value_name = "NAME=AXIS|none", value_parser = batch_axis)]
    pub batch_axis: Vec<(String, Option<usize>)>,

    /// Names of the parameters, as glob patterns: only those that match count
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = pattern)]
    pub params: Vec<String>,

    /// Names of tensors that are not parameters, as glob patterns
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', value_parser = pattern)]
    pub no_params: Vec<String>,

    /// The output of the model that is taken, or any other tensor in it [default: of the outputs of
    /// floating-point numbers the one that is a prediction by its name, or else the first]
    #[arg(long, value_name = "NAME", visible_alias = "output")]
    pub tensor: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct Engine {
    /// What runs the models: ONNX Runtime where it is found, else the built-in tract
    #[arg(
        long,
        value_name = "ENGINE",
        default_value = "auto",
        value_parser = names(&["auto", "ort", "tract"]).try_map(|s| s.parse::<EngineChoice>())
    )]
    pub engine: EngineChoice,

    /// Where it computes: auto, cpu, cuda, cuda:N. 'auto' may fall back to the CPU, 'cuda' does
    /// not
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Device,

    /// Threads that score a model: within an operator, or for samples side by side; 0 for one for
    /// each core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,

    /// How many models are scored at once; they share the threads and the memory. 0 for as many as
    /// there are threads, up to 4, on the CPU, and one on a GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub jobs: usize,

    /// A cap on memory that decides how many samples run at once, such as 4GiB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,

    /// ONNX Runtime's library, or the folder that it is in
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Model files, folders that hold some, or glob patterns
    #[arg(required = true, value_name = "MODEL")]
    pub sources: Vec<OsString>,

    #[command(flatten)]
    pub reading: Model,

    /// How to write the result
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub format: Plain,
}

#[derive(Debug, Args)]
pub(super) struct Grad {
    /// The model file
    pub model: PathBuf,

    /// The file to write
    #[arg(short, value_name = "OUT.onnx")]
    pub out: PathBuf,

    /// How many samples the graph takes
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: NonZeroUsize,

    /// The loss and the gradients of each sample [default]
    #[arg(long, conflicts_with = "mean")]
    pub per_sample: bool,

    /// The mean loss and its gradients
    #[arg(long)]
    pub mean: bool,

    /// The loss; 'auto' is what the model's output suggests
    #[arg(long, value_name = "LOSS", default_value = "auto", value_parser = loss())]
    pub loss: Auto<Loss>,

    /// The statistics that batch normalisation uses; 'auto' is 'running'
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = batch_norm())]
    pub bn: Auto<BatchNormMode>,

    #[command(flatten)]
    pub reading: Model,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// How to write the table
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// ONNX Runtime's library, or the folder that it is in
    #[arg(long, value_name = "PATH")]
    pub ort_lib: Option<PathBuf>,

    /// How to write the findings
    #[arg(long, value_enum, default_value_t)]
    pub format: Plain,
}
