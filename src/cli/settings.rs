//! The options as they are meant: defaults filled in, contradictions refused.

use std::num::NonZeroUsize;

use super::args;
use crate::data;
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::import::ImportOptions;
use crate::metric;
use crate::pass::Memory;
use crate::report;
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
}

impl Settings {
    /// What the report says of the settings.
    pub(super) fn describe(&self) -> report::Settings {
        report::Settings {
            seed: self.score.seed,
            init: self.score.init.to_string(),
            repeats: self.score.repeats,
            loss: self.score.loss.map_or_else(|| "auto".into(), |loss| loss.to_string()),
        }
    }
}

impl args::Scoring {
    /// Errs when the options contradict each other.
    pub(super) fn resolve(self) -> Result<Settings> {
        let args::Scoring { data, metric, model, engine, format } = self;
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
            ntk_samples: metric.ntk_samples.get(),
        };
        // An option that a score refuses is refused now, not once for each model.
        metrics.iter().try_for_each(|metric| metric.pass(&options).map(drop))?;
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
            },
            score,
            engine: engine.engine,
            engine_options: EngineOptions {
                standard: false,
                device: engine.device,
                threads: engine.threads,
                spinning: true,
                ort_lib: engine.ort_lib,
            },
            jobs: NonZeroUsize::new(engine.jobs),
            format,
        })
    }
}

impl args::Model {
    /// Errs when an input is given two shapes, values or batch axes.
    pub(super) fn resolve(self) -> Result<ImportOptions> {
        let mut options = ImportOptions {
            output: self.output,
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
