//! `gradalign grad`.

use std::io::Write;
use std::path::PathBuf;

use super::output::OutFile;
use super::{Outcome, args};
use crate::emit::{self, Files};
use crate::error::Error;
use crate::graph::Graph;
use crate::onnx;
use crate::ops::BatchNormMode;
use crate::score::network;
use crate::transform::{LABELS, batch_norm, target_name};
use crate::transform::{Reduction, training_graph};

pub(super) fn run(args: args::Grad) -> anyhow::Result<Outcome> {
    let options = args.reading.resolve()?;
    let out = OutFile::new(&args.out)?;
    let model = onnx::load(&args.model)?;
    let sources = || [&args.model].into_iter().chain(model.external.values()).map(PathBuf::as_path);
    out.spare(sources())?;
    let (imported, loss) = network(&model, &options, args.loss.explicit())?;
    let mode = args.bn.explicit().unwrap_or(BatchNormMode::Running);
    if mode == BatchNormMode::Batch && !args.mean && imported.batch_norms > 0 {
        return Err(Error::Usage(
            "with --bn batch the loss of a sample depends on all of them, so it has no gradient \
             of its own: choose --mean, or --bn running or sample"
                .into(),
        )
        .into());
    }
    let (decided, notes) = batch_norm(&imported.graph, mode)?;
    let graph = decided.graph;
    let reduction = if args.mean { Reduction::Mean } else { Reduction::PerSample };
    let training = training_graph(&graph, loss, args.batch.get(), reduction)?;
    let training = training.with_batch_axes(&imported.batch_axes)?;
    check_names(&training.graph)?;
    let targets = target_name(&graph);
    if targets != LABELS {
        tracing::warn!(
            "the model has an input '{LABELS}' of its own, so the targets of the loss are given by \
             '{targets}'"
        );
    }
    for warning in model.warnings.iter().chain(&imported.warnings).chain(&notes) {
        tracing::warn!("{warning}");
    }
    let name = args.out.file_name().unwrap_or_default().to_string_lossy();
    let beside = format!("{name}.data");
    let Files { model: bytes, data } =
        emit::emit_files(&training.graph, &beside, emit::MOST_IN_ONE)?;
    if let Some(data) = data {
        let tensors = OutFile::new(&args.out.with_file_name(beside))?;
        tensors.spare(sources())?;
        tensors.write(|file| data.write_to(file))?;
        tracing::info!("{}: the tensors; it belongs beside the model", tensors.path().display());
    }
    out.write(|file| file.write_all(&bytes))?;
    tracing::info!(
        "{}: {loss} and the gradients of {} parameters for {} samples",
        out.path().display(),
        training.parameters.len(),
        args.batch
    );
    Ok(Outcome::Done)
}

/// Errs where an input of the model has a name that an output of the training graph must have.
fn check_names(graph: &Graph) -> Result<(), Error> {
    match graph.outputs().iter().find(|output| graph.input(&output.name).is_some()) {
        Some(output) => Err(Error::UnsupportedModel(format!(
            "the model has an input '{0}', and '{0}' is what the training graph calls one of its \
             outputs; rename the input in the model",
            output.name
        ))),
        None => Ok(()),
    }
}
