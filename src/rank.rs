//! Many models: finding them, and scoring one after the other so that none can harm another.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use glob::MatchOptions;

use crate::data::{self, Dataset};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::report::{ModelRow, RowError};
use crate::score::{Scored, Settings, score_file};

/// The extension of model files, by which they are found in folders.
const EXTENSION: &str = "onnx";

/// The models that `sources` stand for, each once: a file stands for itself, a folder for the
/// `.onnx` files in it and in its folders, a glob pattern for what it matches. What one source
/// yields is sorted by path.
///
/// # Errors
/// When a source yields no model, or a folder cannot be read.
pub fn find_models<S: AsRef<str>>(sources: &[S]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for source in sources.iter().map(AsRef::as_ref) {
        let models = models_of(source)?;
        if models.is_empty() {
            return Err(Error::Usage(format!(
                "no model found in '{source}'; give .onnx files, folders that hold some, or a \
                 pattern such as 'models/*.onnx'"
            )));
        }
        found.extend(models);
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok(found)
}

fn models_of(source: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(source);
    let mut models = Vec::new();
    if path.is_dir() {
        walk(path, &mut models)?;
    } else if path.exists() {
        models.push(path.to_path_buf());
    } else {
        // As in a shell, a wildcard does not stand for what is hidden.
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        let matches = glob::glob_with(source, options)
            .map_err(|e| Error::Usage(format!("'{source}' is not a file, nor a pattern: {e}")))?;
        for matched in matches {
            let path = matched.map_err(|e| Error::io(e.path().to_path_buf(), e.into()))?;
            if path.is_dir() {
                walk(&path, &mut models)?;
            } else {
                models.push(path);
            }
        }
    }
    models.sort();
    Ok(models)
}

/// Adds the models in `folder`, going into its folders except hidden ones and links, which could
/// lead in a circle.
fn walk(folder: &Path, models: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e| Error::io(folder, e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&path, models)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION)) {
            models.push(path);
        }
    }
    Ok(())
}

/// Scores models one after the other. A model that fails, or even panics, costs only its own row.
///
/// `next` is told of each model before it is scored, with its position, and can break off; then
/// the rows so far are returned.
pub fn score_models(
    models: &[PathBuf],
    dataset: &Dataset,
    settings: &Settings,
    engine: &dyn Engine,
    mut next: impl FnMut(usize, &Path) -> ControlFlow<()>,
) -> Vec<ModelRow> {
    let mut rows = Vec::with_capacity(models.len());
    for (position, path) in models.iter().enumerate() {
        if next(position, path).is_break() {
            break;
        }
        rows.push(row(path, || score_file(path, dataset, settings, engine)));
    }
    rows
}

/// The row of the model at `path`, whatever comes of `score`.
fn row(path: &Path, score: impl FnOnce() -> Result<Scored>) -> ModelRow {
    let start = Instant::now();
    let mut row = ModelRow::new(path);
    // A file that cannot be read fails in `score` as well, with the reason.
    row.sha256 = data::sha256(path).ok();
    // What a panic leaves half done belongs to this model, and is dropped with it.
    match catch_unwind(AssertUnwindSafe(score)) {
        Ok(Ok(scored)) => fill(&mut row, scored),
        Ok(Err(error)) => row.fail(RowError::from(&error)),
        Err(payload) => row.fail(RowError {
            kind: "internal".into(),
            message: format!("a fault in gradalign: {}; please report it", text(&*payload)),
        }),
    }
    row.seconds = start.elapsed().as_secs_f64();
    row
}

fn fill(row: &mut ModelRow, scored: Scored) {
    row.parameters = Some(scored.size.parameters);
    row.flops = Some(scored.size.flops);
    row.loss = Some(scored.loss.to_string());
    row.warnings = scored.warnings;
    scored.scores.iter().for_each(|score| row.add_score(score));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::metric::Size;
    use crate::score::Score;
    use crate::transform::Loss;

    fn folder_with(files: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        folder
    }

    fn names(folder: &TempDir, sources: &[&str]) -> Vec<String> {
        let sources: Vec<String> =
            sources.iter().map(|s| folder.path().join(s).to_str().unwrap().to_owned()).collect();
        let relative =
            |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
        find_models(&sources).unwrap().into_iter().map(relative).collect()
    }

    #[test]
    fn folders_patterns_and_files_are_searched_in_order() {
        let folder = folder_with(&[
            "b.onnx",
            "a.ONNX",
            "sub/c.onnx",
            "sub/notes.txt",
            ".hidden/d.onnx",
            "e.bin",
        ]);
        assert_eq!(names(&folder, &[""]), ["a.ONNX", "b.onnx", "sub/c.onnx"]);
        assert_eq!(names(&folder, &["*.onnx"]), ["b.onnx"]);
        assert_eq!(names(&folder, &["**/*.onnx"]), ["b.onnx", "sub/c.onnx"]);
        assert_eq!(names(&folder, &["s*"]), ["sub/c.onnx"]);
        assert_eq!(
            names(&folder, &["e.bin", "sub", "b.onnx", "sub"]),
            ["e.bin", "sub/c.onnx", "b.onnx"]
        );
    }

    #[test]
    fn a_source_without_models_is_an_error() {
        let folder = folder_with(&["x/notes.txt"]);
        for source in ["x", "y", "*.onnx", "[", "x/***"] {
            let source = folder.path().join(source);
            let error = find_models(&[source.to_str().unwrap()]).unwrap_err();
            assert_eq!(error.kind(), "usage", "{error}");
        }
    }

    #[test]
    fn rows_hold_scores_or_reasons() {
        let folder = folder_with(&["a.onnx"]);
        let path = folder.path().join("a.onnx");
        let scored = Scored {
            scores: vec![Score::new("params", 3.0)],
            size: Size { parameters: 3, flops: 4 },
            loss: Loss::CrossEntropy,
            warnings: vec!["careful".into()],
        };
        let good = row(&path, || Ok(scored));
        assert_eq!(
            (good.value("params"), good.parameters, good.flops),
            (Some(3.0), Some(3), Some(4))
        );
        assert_eq!(good.sha256.unwrap().len(), 64);
        assert!(good.error.is_none());

        let failed = row(&path, || Err(Error::Data("no".into()))).error.unwrap();
        assert_eq!((failed.kind.as_str(), failed.message.as_str()), ("data", "no"));
        let panicked = row(&path, || panic!("index {}", 3)).error.unwrap();
        assert_eq!(panicked.kind, "internal");
        assert!(panicked.message.contains("index 3"));
    }
}
