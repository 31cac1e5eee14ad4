//! `gradalign grad`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

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
    let model = onnx::load(&args.model)?;
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
    let Files { model, data } = emit::emit_files(&training.graph, &beside, emit::MOST_IN_ONE)?;
    if let Some(data) = data {
        let path = args.out.with_file_name(beside);
        write(&path, |file| data.write_to(file))?;
        tracing::info!("{}: the tensors; it belongs beside the model", path.display());
    }
    write(&args.out, |file| file.write_all(&model))?;
    tracing::info!(
        "{}: {loss} and the gradients of {} parameters for {} samples",
        args.out.display(),
        training.parameters.len(),
        args.batch
    );
    Ok(Outcome::Done)
}

/// Writes beside the file first, so that a failure leaves no half of it behind.
fn write(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    let failed = |e: io::Error| Error::io(path, e);
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = File::create(&beside)
        .and_then(|mut file| content(&mut file))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What matters is the first failure.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}
