//! The command line: a thin layer over the library.
//!
//! Results go to standard output, everything else to standard error.

mod args;
mod compare;
mod doctor;
mod experiment;
mod flags;
mod grad;
mod inspect;
mod interrupt;
mod metrics;
mod ops;
mod output;
mod page;
mod progress;
mod rank;
mod results;
mod score;
mod settings;
mod sources;
mod space;
mod store;
mod worker;
mod write_back;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;

use args::{Cli, Command, LogFormat};
use flags::with_flags;
use progress::LogWriter;

use crate::report::printable;
/// The target of what is told unless `--quiet` is given, though nothing is wrong.
use crate::source::NOTICE;

/// How a command came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All fine.
    Done,
    /// Some models failed; their rows say why.
    SomeFailed,
    /// Interrupted; what was finished is printed.
    Interrupted,
}

impl Outcome {
    /// The worse of two.
    fn and(self, other: Outcome) -> Outcome {
        if other == Outcome::Done { self } else { other }
    }
}

/// Exit code where nothing could be done: usage, data, environment.
const NOTHING_DONE: u8 = 2;

/// The most columns of text, in tables and in the help.
const WIDTH: u16 = 100;

/// Exit code after an interruption, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the program with the process's arguments. Wrong usage, `--help` and `--version` end the
/// process here.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_child = matches!(&cli.command, Command::Worker(worker) if worker.child);
    let format = if is_child { LogFormat::Json } else { cli.log_format };
    start_log(cli.verbose, cli.quiet, format);
    if cli.quiet {
        progress::hide();
    }
    match interrupt::listen().and_then(|()| run(cli.command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            // Nobody is left to be told where standard error is closed as well.
            let text = error.to_string();
            let _ = writeln!(io::stderr(), "gradalign: {}", printable(&with_flags(&text)));
            ExitCode::from(NOTHING_DONE)
        }
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Score(args) => score::run(args),
        Command::Rank(args) => rank::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Grad(args) => grad::run(args),
        Command::Ops(args) => ops::run(args),
        Command::Metrics(args) => metrics::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Space(args) => space::run(args),
        Command::Experiment(args) => experiment::run(args),
        Command::Store(command) => store::run(command),
        Command::Merge(args) => store::merge(args),
        Command::Worker(args) => worker::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gradalign", &mut script);
            print(&script)?;
            Ok(Outcome::Done)
        }
    }
}

/// Writes a result to standard output. A reader that has seen enough is no failure.
fn print(result: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(result).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// How wide tables of text are: as the help, unless the terminal is said to be narrower.
fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    columns.map_or(WIDTH, |columns: u16| columns.clamp(60, WIDTH))
}

/// Sends the log to standard error: warnings, more with `verbose`, only errors with `quiet`.
/// `RUST_LOG` overrides both.
fn start_log(verbose: u8, quiet: bool, format: LogFormat) {
    let default = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,gradalign::notice=info",
        (false, 1) => "warn,gradalign=info",
        (false, _) => "info,gradalign=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogWriter);
    let log = log.with_target(false);
    if format == LogFormat::Json {
        return log.json().init();
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && io::IsTerminal::is_terminal(&io::stderr());
    // What the log says may come from files. Escape sequences of its own are not in the fields.
    let fields = debug_fn(|out, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(out, "{}", printable(&value)),
            name => write!(out, "{name}={}", printable(&value)),
        }
    });
    log.fmt_fields(fields.delimited(" ")).with_ansi(colour).without_time().init();
}
