//! `gradalign grad`.

use std::io::{self, Write};
use std::path::Path;

use super::{Outcome, args};
use crate::emit::emit_bytes;
use crate::error::Error;
use crate::graph::Graph;
use crate::onnx;
use crate::ops::BatchNormMode;
use crate::pass::{Reduction, training_graph};
use crate::score::network;
use crate::transform::{LABELS, batch_norm, target_name};

pub(super) fn run(args: args::Grad) -> anyhow::Result<Outcome> {
    let options = args.reading.resolve()?;
    let model = onnx::load(&args.model)?;
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
    let (graph, notes) = batch_norm(&imported.graph, mode)?;
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
    write(&args.out, &emit_bytes(&training.graph)?)?;
    tracing::info!(
        "{}: {loss} and the gradients of {} parameters for {} samples",
        args.out.display(),
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

/// Writes beside the file first, so that a failure leaves no half of it behind.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |e: io::Error| Error::io(path, e);
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What matters is the first failure.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}
