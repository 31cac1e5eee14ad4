//! Scoring one model: import it, fit the data to it, and evaluate the probes of the metrics.
//!
//! As data, scoring is a function from a [`Job`] to a [`Record`]: both are names and numbers that can be
//! written down. [`ScoreSettings`] says what is computed; [`Scorer`] scores many models alike. Below
//! them, [`score`] takes a graph in memory and samples, and needs no file.

mod axes;
mod canonical;
mod evaluate;
mod indices;
mod job;
mod key;
mod memo;
mod prepare;
mod probabilities;
mod record;
mod resolved;
mod scorer;
mod settings;

use std::path::Path;

use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::Result;
use crate::import::Imported;
use crate::onnx;
use crate::probe::Batch;
use crate::transform::Loss;

pub use evaluate::{ScoreValue, Scored, score};
pub(crate) use evaluate::{check, check_repeats, mean_and_deviation};
pub use job::{EngineSettings, Job, Worker, run};
pub use key::Key;
pub use memo::Memo;
pub use prepare::{network, prepare};
pub(crate) use prepare::{output_fact, target};
pub(crate) use record::NULL;
pub use record::{Failure, ModelResult, Record, Run, SCHEMA, ScoreEntry, Tool};
pub use resolved::Resolved;
pub use scorer::Scorer;
#[cfg(feature = "cli")]
pub(crate) use scorer::contained;
pub use settings::ScoreSettings;

/// Scores the ONNX file at `path` on `dataset`.
///
/// # Errors
/// When the file cannot be read or imported, the data does not fit it, the engine fails, or a
/// loss or gradient is not finite.
pub fn score_file(
    path: &Path,
    dataset: &Dataset,
    settings: &Resolved,
    engine: &dyn Engine,
) -> Result<Scored> {
    score_model(onnx::load_within(path, settings.memory.free())?, dataset, settings, engine)
}

/// Scores a model that has been read, as [`score_file`] does.
///
/// # Errors
/// As [`score_file`].
pub fn score_model(
    model: onnx::Model,
    dataset: &Dataset,
    settings: &Resolved,
    engine: &dyn Engine,
) -> Result<Scored> {
    let prepared = prepare(&model, dataset, settings)?;
    drop(model);
    score_prepared(prepared, settings, engine)
}

/// Scores what [`prepare`] gave.
fn score_prepared(
    (imported, batch, loss, mut warnings): (Imported, Batch, Loss, Vec<String>),
    settings: &Resolved,
    engine: &dyn Engine,
) -> Result<Scored> {
    warnings.extend(probabilities::taken_for_logits(&imported, &batch, loss, settings, engine));
    let mut scored = score(&imported.graph, &batch, loss, settings, engine)?;
    warnings.append(&mut scored.warnings);
    scored.warnings = warnings;
    Ok(scored)
}
