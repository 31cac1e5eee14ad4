//! `gradalign experiment`.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::output::OutFile;
use super::progress::{self, Progress};
use super::score::{for_one_of, jobs};
use super::{NOTICE, Outcome, args, interrupt, page, print, settings};
use crate::engine::{self, Device, EngineOptions};
use crate::error::{Error, Result};
use crate::experiment::{self, Experiment, Means, Plan, Results, Watch, tables};
use crate::probe::Memory;
use crate::report::Format;
use crate::score::ModelResult;
use crate::store::Store;

pub(super) const HELP: &str = "Examples:
  gradalign experiment recipes/nasbench201-cifar10.toml --truth truth.csv --data cifar10.npz --out results
  gradalign experiment plan.toml --draw 300

docs/experiments.md describes the file and what is written. What was stopped goes on with the same command.

Exit codes: 0 all fine, 1 some networks failed, 2 nothing could be done, 130 interrupted (what was finished
  is kept).";

/// The options of `experiment`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is scored, and what the scores are compared with: see docs/experiments.md
    #[arg(value_name = "FILE.toml")]
    pub plan: PathBuf,

    /// Where the images are, as for 'rank'; of one benchmark where its name stands in front. May be
    /// repeated
    #[arg(long, value_name = "[NAME=]SOURCE")]
    pub data: Vec<String>,

    /// The file with the accuracies, CSV or JSON; of one benchmark where its name stands in front. May
    /// be repeated
    #[arg(long, value_name = "[NAME=]FILE")]
    pub truth: Vec<String>,

    /// Take only the benchmark of this name; may be repeated
    #[arg(long, value_name = "NAME")]
    pub benchmark: Vec<String>,

    /// Take only N of the architectures, drawn by the plan's seed
    #[arg(long, value_name = "N")]
    pub draw: Option<NonZeroUsize>,

    /// The folder that tables, page and results are written into [default: FILE without .toml, in the
    /// current folder]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,

    /// Keep results in this file [default: results.db in the folder]
    #[arg(long, value_name = "FILE", env = "GRADALIGN_STORE")]
    pub store: Option<PathBuf>,

    /// Score only the I-th of N parts of the networks, and write no tables; 'auto' in a job array of
    /// Slurm or an indexed job of Kubernetes
    #[arg(long, value_name = "I/N|auto", value_parser = args::WhichShard::from_str)]
    pub shard: Option<args::WhichShard>,

    /// The number of parts, where --shard auto cannot tell: in Kubernetes
    #[arg(long, value_name = "N", requires = "shard")]
    pub shards: Option<u64>,

    #[command(flatten)]
    pub engine: args::Engine,
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    let Args { plan: file, data, truth, benchmark, draw, out, store, shard, shards, engine } = args;
    let mut plan = Plan::read(&file)?;
    for source in &data {
        for benchmark in named(&mut plan, source)? {
            benchmark.0.data = Some(benchmark.1.to_owned());
        }
    }
    for path in &truth {
        for benchmark in named(&mut plan, path)? {
            benchmark.0.truth.file = Some(benchmark.1.into());
        }
    }
    for name in &benchmark {
        plan.benchmark_mut(name)?;
    }
    plan.benchmarks.retain(|of| benchmark.is_empty() || benchmark.contains(&of.name));
    if let Some(count) = draw {
        plan.architectures.draw = Some(count.get());
    }
    let shard = settings::shard(shard, shards)?.map(|(shard, _)| shard);
    let (experiment, warnings) = Experiment::new(plan)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let folder = out.unwrap_or_else(|| {
        file.with_extension("").file_name().map_or("experiment".into(), PathBuf::from)
    });
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let files = Files::in_folder(&folder)?;
    files.spare(&file, experiment.plan())?;
    let path = store.unwrap_or_else(|| folder.join("results.db"));
    let store = Store::open(&path)?;
    let total = experiment.networks(shard)?;
    let args::Engine { engine, device, threads, jobs: asked, memory, ort_lib } = engine;
    let options = EngineOptions {
        standard: false,
        device,
        threads: settings::threads(threads),
        spinning: true,
        ort_lib,
    };
    let asked = NonZeroUsize::new(asked);
    let jobs = jobs(asked, &options, total);
    let engine = engine::open(engine, &for_one_of(jobs, &options))?;
    let mut memory = memory.map_or_else(Memory::default, Memory::up_to);
    // A GPU works for one network at a time, unless it was told otherwise.
    if asked.is_some() || engine.describe().device == Device::Cpu.to_string() {
        memory.sharers = jobs;
    }
    let computed = Arc::new(AtomicUsize::new(0));
    let means = Means { engine: &*engine, memory, store: Some(&store), shard, computed: &computed };

    let finished = Arc::new(AtomicUsize::new(0));
    let kept = Kept { finished: Arc::clone(&finished), total, store: path };
    let rescue = kept.clone();
    interrupt::arm(move || {
        progress::clear();
        rescue.tell();
    });
    let mut watch = Watching {
        progress: Progress::new(total),
        finished,
        total,
        computed: Arc::clone(&computed),
        start: Instant::now(),
        has_estimated: false,
    };
    let outcome = experiment.run(&means, &mut watch);
    drop(watch);
    interrupt::disarm();
    match outcome? {
        experiment::Outcome::Done(results) => files.write(&results),
        experiment::Outcome::Partly(_) if interrupt::requested() => {
            kept.tell();
            Ok(Outcome::Interrupted)
        }
        experiment::Outcome::Partly(_) => {
            let parts = shard.map(|shard| format!("shard {shard}: ")).unwrap_or_default();
            tracing::info!(
                target: NOTICE,
                "{parts}{total} networks are in {}; put the stores of all parts together with 'gradalign \
                 merge', and run the experiment on the result without --shard",
                kept.store.display()
            );
            Ok(Outcome::Done)
        }
    }
}

/// The benchmarks that `given` is for, each with what is given: one, where its name and `=` stand in
/// front, else all.
fn named<'a>(
    plan: &'a mut Plan,
    given: &'a str,
) -> Result<Vec<(&'a mut experiment::Benchmark, &'a str)>> {
    let one =
        given.split_once('=').filter(|(name, _)| plan.benchmarks.iter().any(|b| b.name == *name));
    match one {
        Some((name, given)) => Ok(vec![(plan.benchmark_mut(name)?, given)]),
        None => Ok(plan.benchmarks.iter_mut().map(|benchmark| (benchmark, given)).collect()),
    }
}

/// How much is kept, and where.
#[derive(Clone)]
struct Kept {
    finished: Arc<AtomicUsize>,
    total: usize,
    store: PathBuf,
}

impl Kept {
    fn tell(&self) {
        tracing::warn!(
            "{} of {} networks are finished, and kept in {}: the same command goes on from there",
            self.finished.load(Ordering::SeqCst),
            self.total,
            self.store.display()
        );
    }
}

/// Shows how far an experiment is, and stops it.
struct Watching {
    progress: Progress,
    finished: Arc<AtomicUsize>,
    total: usize,
    /// How many were not known.
    computed: Arc<AtomicUsize>,
    start: Instant,
    has_estimated: bool,
}

/// After how long the time that is left is estimated.
const ESTIMATED_AFTER: Duration = Duration::from_secs(20);

impl Watch for Watching {
    fn next(&mut self, finished: usize, network: &str) -> ControlFlow<()> {
        if interrupt::requested() {
            return ControlFlow::Break(());
        }
        self.finished.store(finished, Ordering::SeqCst);
        self.progress.next(finished, network);
        let elapsed = self.start.elapsed();
        let computed = self.computed.load(Ordering::Relaxed);
        if !self.has_estimated && elapsed > ESTIMATED_AFTER && computed > 0 {
            self.has_estimated = true;
            let left = elapsed.mul_f64((self.total - finished) as f64 / computed as f64);
            tracing::info!(
                target: NOTICE,
                "{finished} of {} networks are known, {computed} of them computed in {}: about {} more at this \
                 rate",
                self.total,
                time(elapsed),
                time(left)
            );
        }
        ControlFlow::Continue(())
    }

    fn finished(&mut self, _: &ModelResult) {
        self.finished.fetch_add(1, Ordering::SeqCst);
    }
}

/// A time for people.
fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What is written.
struct Files {
    markdown: OutFile,
    csv: OutFile,
    json: OutFile,
    networks: OutFile,
    page: OutFile,
}

impl Files {
    /// Errs where one cannot be written.
    fn in_folder(folder: &Path) -> Result<Self> {
        let file = |name: &str| OutFile::new(&folder.join(name));
        Ok(Files {
            markdown: file("tables.md")?,
            csv: file("tables.csv")?,
            json: file("tables.json")?,
            networks: file("networks.csv")?,
            page: file("page.html")?,
        })
    }

    /// Errs where one is what is read.
    fn spare(&self, plan: &Path, of: &Plan) -> Result<()> {
        let truths = of.benchmarks.iter().filter_map(|benchmark| benchmark.truth.file.as_deref());
        let data = of.benchmarks.iter().filter_map(|b| b.data.as_deref().map(Path::new));
        let read: Vec<&Path> =
            truths.chain(data).chain(of.architectures.file.as_deref()).chain([plan]).collect();
        let Files { markdown, csv, json, networks, page } = self;
        let written = [markdown, csv, json, networks, page];
        written.into_iter().try_for_each(|file| file.spare(read.iter().copied()))
    }

    fn write(&self, results: &Results) -> anyhow::Result<Outcome> {
        let written = |content: &dyn Fn(&mut dyn Write) -> io::Result<()>| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            content(&mut bytes)?;
            Ok(bytes)
        };
        let markdown = written(&|out| tables::write(results, Format::Markdown, out))?;
        let csv = written(&|out| tables::csv(results, out))?;
        let networks = written(&|out| tables::networks(results, out))?;
        let mut json = serde_json::to_vec_pretty(results)?;
        json.push(b'\n');
        let html = experiment::page(results, Some(&page::command_line()))?;
        for (file, content) in [
            (&self.markdown, &*markdown),
            (&self.csv, &csv),
            (&self.json, &json),
            (&self.networks, &networks),
            (&self.page, html.as_bytes()),
        ] {
            file.write(|out| out.write_all(content))?;
        }
        print(&written(&|out| tables::write(results, Format::Table, out))?)?;
        let any_failed = results.benchmarks.iter().any(|benched| !benched.failures.is_empty());
        Ok(if any_failed { Outcome::SomeFailed } else { Outcome::Done })
    }
}
