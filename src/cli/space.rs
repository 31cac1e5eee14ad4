//! `gradalign space`.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::output::OutFile;
use super::{Outcome, args, interrupt, print};
use crate::error::{Error, Result};
use crate::import::{ImportOptions, import};
use crate::onnx;
use crate::probe;
use crate::report::printable;
use crate::space::{self, Architecture, BuildOptions, Space};

/// What the help says of the spaces.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Examples:
  gradalign space nasbench201 -o networks --index 0,1,1462
  gradalign space natsbench-size -o network.onnx --arch 8:8:8:16:40 --classes 100
  gradalign space darts -o networks --arch-file DARTS.json
  gradalign space nasbench101 -o networks --random 20 --stem 16

Spaces:
",
    );
    for space in space::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}\n      --arch: {}", space.name(), space.form());
        if let Some(order) = space.order() {
            let _ = writeln!(text, "      --index: {order}");
        }
    }
    text + "\nExit codes: 0 all written, 2 not all written, 130 interrupted."
}

pub(super) fn run(args: args::Space) -> anyhow::Result<Outcome> {
    let space = space::named(&args.space)?;
    let architectures = wanted(space, &args)?;
    let options = BuildOptions {
        classes: args.classes,
        image_size: args.image_size,
        stem: args.stem,
        seed: args.seed,
    };
    let is_file = args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    let file = (is_file && !args.out.is_dir()).then_some(args.out.as_path());
    if file.is_some() && architectures.len() > 1 {
        return Err(anyhow!(
            "{}: {} networks do not go into one file: name a folder",
            args.out.display(),
            architectures.len()
        ));
    }
    for architecture in architectures {
        if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
        let model = architecture.build(&options)?;
        let bytes = onnx::encode(&model)?;
        let path = match file {
            Some(file) => file.to_owned(),
            None => inside(&args.out, &*architecture)?,
        };
        write(&path, &bytes)?;
        let (all, live) = (space::parameters(&model), live_parameters(&model)?);
        let of_these = if live == all { String::new() } else { format!(", {live} of them in use") };
        let line = format!("{}: {all} parameters{of_these}", path.display());
        print(format!("{}\n", printable(&line)).as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The architectures that are asked for, each once.
fn wanted(space: &dyn Space, args: &args::Space) -> anyhow::Result<Vec<Box<dyn Architecture>>> {
    let mut all = Vec::new();
    for &index in &args.index {
        all.push(space.nth(index)?);
    }
    for text in &args.arch {
        all.push(space.parse(text)?);
    }
    for path in &args.arch_file {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        all.extend(space::read(space, &text).map_err(|e| anyhow!("{}: {e}", path.display()))?);
    }
    if let Some(count) = args.random {
        all.extend(space::sample(space, count.get(), args.seed)?);
    }
    let mut names = std::collections::HashSet::new();
    all.retain(|architecture| names.insert(architecture.name()));
    Ok(all)
}

/// The file of `architecture` in `folder`, which is made.
fn inside(folder: &Path, architecture: &dyn Architecture) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    Ok(folder.join(format!("{}.onnx", architecture.name())))
}

/// Writes a file, unless it is there already. Errs where another one is.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let out = OutFile::new(path)?;
    match std::fs::read(path) {
        Ok(known) if known == bytes => Ok(()),
        Ok(_) => Err(Error::Usage(format!(
            "{}: another file is there, and is not written over: take it away, or name another place",
            path.display()
        ))),
        Err(_) => out.write(|file| file.write_all(bytes)),
    }
}

/// The parameters that the output depends on, which are those that scores are of.
fn live_parameters(model: &onnx::Model) -> Result<u64> {
    Ok(probe::parameters(&import(model, &ImportOptions::default())?.graph))
}
