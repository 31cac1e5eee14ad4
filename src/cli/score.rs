//! `gradalign score`, and what it shares with `gradalign rank`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::anyhow;

use super::output::OutFile;
use super::progress::{self, Progress};
use super::results::Results;
use super::settings::Request;
use super::{NOTICE, Outcome, args, interrupt, sources};
use crate::data::Dataset;
use crate::engine::{self, Description, Device, EngineOptions};
use crate::onnx;
use crate::probe;
use crate::rank::isolate::{Isolation, score_isolated};
use crate::rank::{Observer, Ranking, Shard, score_each};
use crate::score::{EngineSettings, Record, Scorer};
use crate::source::{AnySource, ModelRef, Source, Sources};
use crate::store::{Limits, Store};

/// How many models are scored at once, at most, unless it was said: each takes memory.
const JOBS: usize = 4;

pub(super) fn run(args: args::Score) -> anyhow::Result<Outcome> {
    let mut request = args.scoring.resolve()?;
    let (source, write_back) = args.from.resolve();
    let sources = Sources::named(&sources::all(args.models)?, source)?;
    let models = sources.list()?;
    write_back.map_or(Ok(()), |write_back| write_back.check(&models))?;
    request.write_back = write_back;
    score_all(&sources, &models, &request, |_| {})
}

/// Scores `models`, which are those of `sources`, and writes the ranking that `arrange` has put in
/// order.
pub(super) fn score_all(
    sources: &Sources,
    models: &[ModelRef],
    request: &Request,
    arrange: impl Fn(&mut Ranking) + Send + Sync + 'static,
) -> anyhow::Result<Outcome> {
    let running = &request.running;
    let store = running.store.as_deref().map(Store::open).transpose()?;
    for out in request.written() {
        let data = file_in(Path::new(&request.data), out);
        let tensors = tensors_beside(sources.files(), out);
        let library = libraries(request.engine_options.ort_lib.as_deref());
        let read = sources.files().iter().chain(&data).chain(&tensors).chain(&library);
        let read = read.chain(&running.store).map(PathBuf::as_path);
        out.spare(read.chain([Path::new(&request.data)]))?;
    }
    let options = request.settings.data_options(request.memory.free());
    let dataset = Dataset::open(&request.data, &options)?;
    for warning in dataset.warnings() {
        tracing::warn!("{warning}");
    }
    let models = part(models, running.shard.as_ref());
    let jobs = jobs(request.jobs, &request.engine_options, models.len());
    let engine = engine::open(request.engine, &for_one_of(jobs, &request.engine_options))?;
    let mut memory = request.memory;
    // A GPU works for one model at a time, unless it was told otherwise.
    if request.jobs.is_some() || engine.describe().device == Device::Cpu.to_string() {
        memory.sharers = jobs;
    }
    let scorer = Scorer::new(&request.settings, &dataset, &*engine, memory)?;
    let limits = Limits::new(running.timeout, memory.limit);
    let results = Arc::new(Results::new(scorer.run().clone(), models.len(), arrange, request));
    let rescued = Arc::clone(&results);
    interrupt::arm(move || {
        progress::clear();
        if let Err(error) = rescued.write() {
            tracing::error!("{error}");
        }
        rescued.close();
    });

    let kept =
        store.as_ref().map(|store| Kept { store, limits: limits.clone(), has_failed: false });
    let watch = Watch { progress: Progress::new(models.len()), results: &results, kept };
    if running.isolate == Some(true) {
        let isolation = Isolation {
            program: std::env::current_exe()?,
            arguments: worker_arguments(request, sources.any()),
            run: scorer.run().clone(),
            data: request.data.clone(),
            settings: request.settings.clone(),
            engine: engine_settings(request, jobs, &engine.describe())?,
            timeout: running.timeout,
            memory,
        };
        drop(scorer);
        score_isolated(&models, &isolation, watch);
    } else {
        let recall = store.as_ref().map(|store| store.recall(scorer.run(), limits));
        let scorer = match &recall {
            Some(recall) => scorer.with_memo(recall),
            None => scorer,
        };
        score_each(sources, &models, &scorer, watch);
    }
    interrupt::disarm();
    if let Some(bytes) = probe::peak_resident() {
        tracing::info!("peak memory {} MiB", bytes.div_ceil(1 << 20));
    }
    let ranking = request.write_back.map(|write_back| (write_back, results.ranking()));
    let outcome = results.write()?;
    match ranking {
        Some(_) if outcome == Outcome::Interrupted => {
            tracing::warn!("nothing is written back, since the run was interrupted");
            Ok(outcome)
        }
        Some((write_back, ranking)) => Ok(outcome.and(write_back.write(ranking)?)),
        None => Ok(outcome),
    }
}

/// The models of a shard. They keep the names that they have among all.
fn part(models: &[ModelRef], shard: Option<&(Shard, Option<String>)>) -> Vec<ModelRef> {
    let Some((shard, told)) = shard else { return models.to_vec() };
    let part: Vec<_> = models.iter().filter(|model| shard.contains(model)).cloned().collect();
    let told = told.as_deref().map(|told| format!(", as {told} says,")).unwrap_or_default();
    let (n, all) = (part.len(), models.len());
    tracing::info!(target: NOTICE, "shard {shard}{told} has {n} of {all} models");
    part
}

/// What makes this program a worker of itself.
fn worker_arguments(request: &Request, source: &AnySource) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["worker".into(), "--child".into()];
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    if let Some(store) = &request.running.store {
        add("--store", store.into());
        // Results are valid within limits: here they are those of all workers.
        if let Some(timeout) = request.running.timeout {
            add("--timeout", timeout.as_millis().to_string().into());
        }
        if let Some(memory) = request.memory.limit {
            add("--memory", memory.to_string().into());
        }
    }
    for folder in &source.allow_local {
        add("--allow-local", folder.into());
    }
    // How much is said is decided here: what is too much for this process is dropped in it.
    match tracing::level_filters::LevelFilter::current() {
        level if level >= tracing::Level::DEBUG => arguments.push("-vv".into()),
        level if level >= tracing::Level::INFO => arguments.push("-v".into()),
        _ => {}
    }
    arguments
}

/// The engine as a worker opens it: the one that was opened here, for one of `jobs`.
fn engine_settings(
    request: &Request,
    jobs: NonZeroUsize,
    opened: &Description,
) -> anyhow::Result<EngineSettings> {
    let options = for_one_of(jobs, &request.engine_options);
    let text = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|path| {
            anyhow!("{}: give the library by a path in UTF-8", Path::new(&path).display())
        })
    };
    Ok(EngineSettings {
        name: if opened.name == "tract" { "tract".into() } else { "ort".into() },
        device: opened.device.clone(),
        threads: options.threads,
        spinning: options.spinning,
        standard: options.standard,
        ort_lib: options.ort_lib.map(text).transpose()?,
    })
}

/// Shows how far the scoring is, stops it, and hands on what is finished.
struct Watch<'a> {
    progress: Progress,
    results: &'a Results,
    kept: Option<Kept<'a>>,
}

/// The store that records go to.
struct Kept<'a> {
    store: &'a Store,
    limits: Limits,
    /// Whether it could not be written.
    has_failed: bool,
}

impl Kept<'_> {
    fn put(&mut self, record: &Record) {
        if !self.has_failed
            && let Err(error) = self.store.put(record, &self.limits)
        {
            tracing::error!("{error}; results are written at the end, but not kept in the store");
            self.has_failed = true;
        }
    }
}

impl Observer for Watch<'_> {
    fn next(&mut self, finished: usize, model: &ModelRef) -> ControlFlow<()> {
        if interrupt::requested() {
            return ControlFlow::Break(());
        }
        self.progress.next(finished, &model.name);
        tracing::debug!("scoring {}", model.name);
        ControlFlow::Continue(())
    }

    fn finished(&mut self, position: usize, record: Record) -> ControlFlow<()> {
        // What has been killed has not failed.
        if interrupt::is_ending() {
            return ControlFlow::Break(());
        }
        if let Some(kept) = &mut self.kept {
            kept.put(&record);
            if kept.has_failed {
                self.results.not_kept();
            }
        }
        self.results.add(position, record)
    }
}

/// The file `out`, where it is in the folder of images `data`.
fn file_in(data: &Path, out: &OutFile) -> Option<PathBuf> {
    let (folder, file) = (data.canonicalize().ok()?, out.path().canonicalize().ok()?);
    (data.is_dir() && file.starts_with(folder) && !is_report(&file)).then_some(file)
}

/// The files with tensors of those models that may have `out` beside them.
fn tensors_beside(models: &[PathBuf], out: &OutFile) -> Vec<PathBuf> {
    let Ok(file) = out.path().canonicalize() else { return Vec::new() };
    let is_below = |model: &&PathBuf| {
        let folder = model.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        folder.is_some_and(|folder| file.starts_with(folder))
    };
    let tensors = models.iter().filter(is_below).filter_map(|path| onnx::external_files(path).ok());
    tensors.flatten().collect()
}

/// The library of an engine that was named, or those in the folder that was.
fn libraries(named: Option<&Path>) -> Vec<PathBuf> {
    let Some(named) = named else { return Vec::new() };
    let Ok(folder) = named.read_dir() else { return vec![named.to_owned()] };
    folder.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Whether a file has the name of a report, which may be written again.
fn is_report(file: &Path) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["csv", "html", "json", "jsonl", "md", "txt"].contains(&extension.to_ascii_lowercase().as_str())
}

/// How many of `models` models are scored at once. One thread for each makes better use of cores
/// than several for one: what is not parallel in scoring a model runs beside the others.
pub(super) fn jobs(
    asked: Option<NonZeroUsize>,
    options: &EngineOptions,
    models: usize,
) -> NonZeroUsize {
    let most = || match options.device {
        Device::Cuda(_) => 1,
        Device::Auto | Device::Cpu => threads(options).min(JOBS),
    };
    let jobs = asked.map_or_else(most, NonZeroUsize::get);
    NonZeroUsize::new(jobs.min(models)).unwrap_or(NonZeroUsize::MIN)
}

/// The threads that are shared by all.
fn threads(options: &EngineOptions) -> usize {
    match options.threads {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    }
}

/// The options of an engine that runs `jobs` models at once.
pub(super) fn for_one_of(jobs: NonZeroUsize, options: &EngineOptions) -> EngineOptions {
    match jobs.get() {
        1 => options.clone(),
        jobs => EngineOptions {
            threads: (threads(options) / jobs).max(1),
            spinning: false,
            ..options.clone()
        },
    }
}
