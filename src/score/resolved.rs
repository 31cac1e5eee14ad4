//! The settings of a scoring with every name looked up.

use crate::import::ImportOptions;
use crate::metric::{self, Metric, Options};
use crate::probe::Memory;
use crate::transform::{Init, Loss};

/// What is computed, and how: what [`ScoreSettings`](super::ScoreSettings) stand for.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The scores, in the order reported.
    pub metrics: Vec<&'static dyn Metric>,
    /// Choices that change what the scores mean.
    pub options: Options,
    /// Where the parameters come from.
    pub init: Init,
    /// Seed of the draw of parameters.
    pub seed: u64,
    /// How many draws are averaged.
    pub repeats: usize,
    /// The loss; `None` for the one that the model's output suggests.
    pub loss: Option<Loss>,
    /// How much memory the runs may take.
    pub memory: Memory,
    /// How models are imported.
    pub import: ImportOptions,
}

impl Default for Resolved {
    fn default() -> Self {
        Resolved {
            metrics: metric::select(&["gradalign-1", "gradalign-2"]).unwrap_or_default(),
            options: Options::default(),
            init: Init::Keep,
            seed: 0,
            repeats: 1,
            loss: None,
            memory: Memory::default(),
            import: ImportOptions::default(),
        }
    }
}
