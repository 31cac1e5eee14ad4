//! The options as they are meant: defaults filled in, contradictions refused.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;

use super::args::{self, Auto, WhichShard};
use super::output::OutFile;
use super::page::PageFile;
use super::write_back::WriteBack;
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::probe::{GramKind, Memory};
use crate::rank::Shard;
use crate::report::Format;
use crate::score::ScoreSettings;

/// What `score` and `rank` are asked to do.
#[derive(Debug)]
pub(super) struct Request {
    /// Where the data is.
    pub data: String,
    pub settings: ScoreSettings,
    pub engine: EngineChoice,
    pub engine_options: EngineOptions,
    pub memory: Memory,
    /// How many models are scored at once; `None` for what is best.
    pub jobs: Option<NonZeroUsize>,
    pub running: Running,
    pub format: Format,
    /// Where the result goes; `None` for standard output.
    pub out: Option<OutFile>,
    /// The page that is written beside the result.
    pub page: Option<PageFile>,
    /// What is written back to a registry; set by the command.
    pub write_back: Option<WriteBack>,
}

impl Request {
    /// The files that are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &OutFile> {
        self.out.iter().chain(self.page.iter().map(|page| &page.file))
    }
}

/// How a run goes.
#[derive(Debug)]
pub(super) struct Running {
    /// The file of results.
    pub store: Option<PathBuf>,
    /// Whether models are scored in processes of their own; `None` for the command's default.
    pub isolate: Option<bool>,
    pub timeout: Option<Duration>,
    pub fail_fast: bool,
    pub strict: bool,
    /// The part of the models, and where it was read from, if it was not given.
    pub shard: Option<(Shard, Option<String>)>,
}

// Every option is named below, so that one that is added must find its place: in the settings, where it
// changes a value.

impl args::Scoring {
    /// Errs when the options contradict each other.
    pub(super) fn resolve(self) -> Result<Request> {
        let args::Scoring { data, metric, model, engine, running, format, out, report } = self;
        let running = running.resolve()?;
        let args::Data { data, samples, mean, std, seed } = data;
        let args::Metric {
            metric: metrics,
            init,
            repeats,
            bn,
            loss,
            normalize,
            off_diagonal,
            gram,
            ridge,
            zen,
            features,
            regions,
            ntk_samples,
        } = metric;
        let args::Engine { engine, device, threads, jobs, memory, ort_lib } = engine;
        let model = model.settings()?;
        let settings = ScoreSettings {
            metrics,
            seed,
            init: init.to_string(),
            repeats: repeats.get(),
            loss: auto(loss),
            samples,
            mean,
            std,
            bn: auto(bn),
            normalize,
            off_diagonal,
            gram: match gram {
                GramKind::Sign => "sign".into(),
                GramKind::Raw => "raw".into(),
            },
            ridge,
            zen: name(&zen),
            features,
            regions: name(&regions),
            ntk_samples,
            ..model
        };
        let settings = settings.spelt_out()?;
        let memory = memory.map_or_else(Memory::default, Memory::up_to);
        settings.resolve(memory)?;
        let engine_options = EngineOptions {
            standard: false,
            device,
            threads: self::threads(threads),
            spinning: true,
            ort_lib,
        };
        let out = out.as_deref().map(OutFile::new).transpose()?;
        let page = report.as_deref().map(PageFile::new).transpose()?;
        if let (Some(out), Some(page)) = (&out, &page) {
            out.differs_from(&page.file)?;
        }
        let jobs = NonZeroUsize::new(jobs);
        Ok(Request {
            data,
            settings,
            engine,
            engine_options,
            memory,
            jobs,
            running,
            format,
            out,
            page,
            write_back: None,
        })
    }
}

impl args::Running {
    fn resolve(self) -> Result<Running> {
        let args::Running {
            store,
            no_store,
            isolate,
            no_isolate,
            timeout,
            fail_fast,
            strict,
            shard,
            shards,
        } = self;
        let isolate = match (isolate || timeout.is_some(), no_isolate) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let shard = self::shard(shard, shards)?;
        let store = store.filter(|_| !no_store);
        Ok(Running { store, isolate, timeout, fail_fast, strict, shard })
    }
}

/// The part that was asked for, and where it was read from, if it was not given.
pub(super) fn shard(
    shard: Option<WhichShard>,
    shards: Option<u64>,
) -> Result<Option<(Shard, Option<String>)>> {
    match shard {
        None => Ok(None),
        Some(WhichShard::This(_)) if shards.is_some() => {
            Err(Error::Usage("`shards` goes with --shard auto; I/N says both numbers".into()))
        }
        Some(WhichShard::This(shard)) => Ok(Some((shard, None))),
        Some(WhichShard::Auto) => {
            let variable = |name: &str| std::env::var(name).ok();
            let (shard, told) = Shard::of_environment(variable, shards)?;
            Ok(Some((shard, Some(told))))
        }
    }
}

impl args::Model {
    /// The settings that say how a model is read, beside defaults.
    fn settings(self) -> Result<ScoreSettings> {
        let args::Model { shape, fix, batch_axis, params, no_params, tensor } = self;
        Ok(ScoreSettings {
            shape: unique("shapes", shape)?,
            fix: unique("values", fix)?,
            batch_axis: unique("batch axes", batch_axis)?,
            params,
            no_params,
            tensor,
            ..ScoreSettings::new()
        })
    }

    /// Errs when an input is given two shapes, values or batch axes.
    pub(super) fn resolve(self) -> Result<ImportOptions> {
        Ok(self.settings()?.import_options())
    }
}

/// A choice as the command line calls it.
fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn auto(choice: Auto<impl ToString>) -> String {
    match choice {
        Auto::Auto => "auto".into(),
        Auto::This(choice) => choice.to_string(),
    }
}

/// Errs when an input is given two of `what`.
fn unique<T>(what: &str, given: Vec<(String, T)>) -> Result<BTreeMap<String, T>> {
    let mut by_name = BTreeMap::new();
    for (name, value) in given {
        if by_name.contains_key(&name) {
            return Err(Error::Usage(format!("two {what} are given for the input '{name}'")));
        }
        by_name.insert(name, value);
    }
    Ok(by_name)
}

/// No more threads than there are cores: those beyond only wait, and keep others waiting.
pub(super) fn threads(asked: usize) -> usize {
    let cores = thread::available_parallelism().map_or(asked, NonZeroUsize::get);
    if asked > cores {
        tracing::warn!("--threads {asked}: this machine has {cores} cores, and as many are used");
    }
    asked.min(cores)
}
