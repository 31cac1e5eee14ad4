//! `gradalign grad`.

use std::io::Write;
use std::path::PathBuf;

use super::output::OutFile;
use super::{Outcome, args};
use crate::emit::{self, Files};
use crate::error::Error;
use crate::import;
use crate::onnx;
use crate::ops::BatchNormMode;
use crate::pass::{Reduction, training_graph};
use crate::score::{output_fact, suggested_loss};
use crate::transform::batch_norm;

pub(super) fn run(args: args::Grad) -> anyhow::Result<Outcome> {
    let mut options = args.reading.resolve()?;
    options.keep_activation = args.loss.explicit().is_some_and(|loss| !loss.is_of_logits());
    let out = OutFile::new(&args.out)?;
    let model = onnx::load(&args.model)?;
    let sources =
        || [&args.model].into_iter().chain(model.external.values()).map(PathBuf::as_path);
    out.spare(sources())?;
    let imported = import::import(&model, &options)?;
    let loss = match args.loss.explicit() {
        Some(loss) => loss,
        None => suggested_loss(&imported, &output_fact(&imported.graph)?),
    };
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
