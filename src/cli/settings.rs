//! The options as they are meant: defaults filled in, contradictions refused.

use std::num::NonZeroUsize;
use std::thread;

use clap::ValueEnum;

use super::args;
use super::output::OutFile;
use crate::data;
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::metric;
use crate::probe::{GramKind, Memory};
use crate::report::{self, Aggregate};
use crate::score;

/// What `score` and `rank` work with.
#[derive(Debug)]
pub(super) struct Settings {
    pub source: String,
    pub data: data::Options,
    pub score: score::Settings,
    pub engine: EngineChoice,
    pub engine_options: EngineOptions,
    /// How many models are scored at once; `None` for what is best.
    pub jobs: Option<NonZeroUsize>,
    pub format: report::Format,
    /// Where the result goes; `None` for standard output.
    pub out: Option<OutFile>,
    /// How one ranking is made of several, where it is.
    pub aggregate: Option<Aggregate>,
}

impl Settings {
    /// What the report says of the settings.
    pub(super) fn describe(&self) -> report::Settings {
        let score::Settings { options, import, .. } = &self.score;
        let auto = || "auto".into();
        report::Settings {
            seed: self.score.seed,
            init: self.score.init.to_string(),
            repeats: self.score.repeats,
            loss: self.score.loss.map_or_else(auto, |loss| loss.to_string()),
            samples: self.data.samples,
            mean: self.data.mean.clone(),
            std: self.data.std.clone(),
            bn: options.batch_norm.map_or_else(auto, |mode| mode.to_string()),
            normalize: options.normalize,
            off_diagonal: options.off_diagonal,
            gram: match options.gram {
                GramKind::Sign => "sign".into(),
                GramKind::Raw => "raw".into(),
            },
            ridge: options.ridge,
            zen: name(&options.zen),
            features: options.features.clone(),
            regions: name(&options.regions),
            ntk_samples: options.ntk_samples,
            shape: import.shapes.clone().into_iter().collect(),
            fix: import.fixed.clone().into_iter().collect(),
            batch_axis: import.batch_axes.clone().into_iter().collect(),
            params: import.include.clone(),
            no_params: import.exclude.clone(),
            tensor: import.output.clone(),
            aggregate: self.aggregate.as_ref().map(name),
        }
    }
}

impl args::Scoring {
    /// Errs when the options contradict each other.
    pub(super) fn resolve(self) -> Result<Settings> {
        let args::Scoring { data, metric, model, engine, format, out } = self;
        let out = out.as_deref().map(OutFile::new).transpose()?;
        let names: Vec<&str> = metric.metric.iter().map(|name| name.trim()).collect();
        let metrics = metric::select(&names)?;
        let options = metric::Options {
            batch_norm: metric.bn.explicit(),
            gram: metric.gram,
            normalize: metric.normalize,
            off_diagonal: metric.off_diagonal,
            ridge: metric.ridge,
            zen: metric.zen,
            features: metric.features,
            regions: metric.regions,
            ntk_samples: metric.ntk_samples,
        };
        // An option that a score refuses is refused now, not once for each model.
        metrics.iter().try_for_each(|metric| metric.probe(&options).map(drop))?;
        let score = score::Settings {
            metrics,
            options,
            init: metric.init,
            seed: data.seed,
            repeats: metric.repeats.get(),
            loss: metric.loss.explicit(),
            memory: engine.memory.map_or_else(Memory::default, Memory::up_to),
            import: model.resolve()?,
        };
        score::check_repeats(&score)?;
        Ok(Settings {
            source: data.data,
            data: data::Options {
                samples: data.samples,
                seed: data.seed,
                mean: data.mean,
                std: data.std,
                memory: score.memory.free(),
            },
            score,
            engine: engine.engine,
            engine_options: EngineOptions {
                standard: false,
                device: engine.device,
                threads: threads(engine.threads),
                spinning: true,
                ort_lib: engine.ort_lib,
            },
            jobs: NonZeroUsize::new(engine.jobs),
            format,
            out,
            aggregate: None,
        })
    }
}

/// A choice as the command line calls it.
fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// No more threads than there are cores: those beyond only wait, and keep others waiting.
fn threads(asked: usize) -> usize {
    let cores = thread::available_parallelism().map_or(asked, NonZeroUsize::get);
    if asked > cores {
        tracing::warn!("--threads {asked}: this machine has {cores} cores, and as many are used");
    }
    asked.min(cores)
}

impl args::Model {
    /// Errs when an input is given two shapes, values or batch axes.
    pub(super) fn resolve(self) -> Result<ImportOptions> {
        let mut options = ImportOptions {
            output: self.tensor,
            include: self.params,
            exclude: self.no_params,
            ..ImportOptions::default()
        };
        for (name, shape) in self.shape {
            if options.shapes.insert(name.clone(), shape).is_some() {
                return Err(Error::Usage(format!("two shapes are given for the input '{name}'")));
            }
        }
        for (name, values) in self.fix {
            if options.fixed.insert(name.clone(), values).is_some() {
                return Err(Error::Usage(format!("two values are given for the input '{name}'")));
            }
        }
        for (name, axis) in self.batch_axis {
            if options.batch_axes.insert(name.clone(), axis).is_some() {
                return Err(Error::Usage(format!(
                    "two batch axes are given for the input '{name}'"
                )));
            }
        }
        Ok(options)
    }
}
