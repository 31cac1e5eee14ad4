//! Many models: finding them, and scoring them so that none can harm another.

use std::any::Any;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use glob::MatchOptions;

use crate::data::{self, Dataset};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::pass::{Memory, STACK};
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

/// Scores models, as many at once as share the memory in `settings`; the rows are in the order of
/// `models`. A model that fails, or even panics, costs only its own row.
///
/// `next` is told of each model before it is scored, with the number of those finished, and can
/// break off; then the rows of the models finished by then, or under way, are returned.
pub fn score_models(
    models: &[PathBuf],
    dataset: &Dataset,
    settings: &Settings,
    engine: &dyn Engine,
    next: impl FnMut(usize, &Path) -> ControlFlow<()> + Send,
) -> Vec<ModelRow> {
    let queue = Queue::new(models, next);
    let scored = |path: &Path, memory: Memory| {
        let settings = Settings { memory, ..settings.clone() };
        let mut short = false;
        let row = row(path, || {
            let scored = score_file(path, dataset, &settings, engine);
            short = match &scored {
                Ok(scored) => scored.short_of_memory,
                Err(error) => matches!(error, Error::Memory(_)),
            };
            scored
        });
        (row, short)
    };
    let Memory { limit, sharers } = settings.memory;
    let work = || {
        while let Some((position, path)) = queue.take() {
            match scored(path, settings.memory) {
                (_, true) if sharers > NonZeroUsize::MIN => queue.put_back(position),
                (row, _) => queue.put(position, row),
            }
        }
    };
    let helpers = sharers.get().min(models.len()).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            let helper = thread::Builder::new().stack_size(STACK);
            if let Err(error) = helper.spawn_scoped(scope, work) {
                tracing::warn!("fewer models than --jobs are scored at once: {error}");
                break;
            }
        }
        work();
    });
    // What its share of the memory was too little for has all of it now.
    while let Some((position, path)) = queue.take_back() {
        queue.put(position, scored(path, Memory { limit, sharers: NonZeroUsize::MIN }).0);
    }
    queue.rows()
}

/// Models to be scored and the rows of those that are, shared between threads.
struct Queue<'a, N>(Mutex<State<'a, N>>);

struct State<'a, N> {
    models: &'a [PathBuf],
    next: N,
    begun: usize,
    back: Vec<usize>,
    rows: BTreeMap<usize, ModelRow>,
    stopped: bool,
}

impl<'a, N: FnMut(usize, &Path) -> ControlFlow<()>> Queue<'a, N> {
    fn new(models: &'a [PathBuf], next: N) -> Self {
        let (back, rows) = (Vec::new(), BTreeMap::new());
        Queue(Mutex::new(State { models, next, begun: 0, back, rows, stopped: false }))
    }

    /// Scoring catches its panics, so that nothing is half done where a thread gave up the lock.
    fn lock(&self) -> MutexGuard<'_, State<'a, N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next model with its position, unless there is none, or a stop was asked for.
    fn take(&self) -> Option<(usize, &'a Path)> {
        let mut state = self.lock();
        let position = state.begun;
        let path = state.begin(position)?;
        state.begun += 1;
        Some((position, path))
    }

    /// One that was put back.
    fn take_back(&self) -> Option<(usize, &'a Path)> {
        let mut state = self.lock();
        let position = state.back.pop()?;
        Some((position, state.begin(position)?))
    }

    fn put(&self, position: usize, row: ModelRow) {
        self.lock().rows.insert(position, row);
    }

    fn put_back(&self, position: usize) {
        self.lock().back.push(position);
    }

    fn rows(self) -> Vec<ModelRow> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.rows.into_values().collect()
    }
}

impl<'a, N: FnMut(usize, &Path) -> ControlFlow<()>> State<'a, N> {
    fn begin(&mut self, position: usize) -> Option<&'a Path> {
        let path = self.models.get(position)?;
        let finished = self.rows.len();
        self.stopped = self.stopped || (self.next)(finished, path).is_break();
        (!self.stopped).then_some(path)
    }
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
    row.output = Some(scored.output);
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
    use crate::engine::all_for_tests;
    use crate::metric::{self, Size};
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
    fn a_share_of_the_memory_that_is_too_small_costs_no_score() {
        let models = ["models/mlp.onnx", "fixtures/extra/opset11.onnx", "missing.onnx"];
        let models: Vec<PathBuf> =
            models.iter().map(|m| Path::new(env!("CARGO_MANIFEST_DIR")).join(m)).collect();
        let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits-30.npz");
        let dataset = Dataset::open(digits, &data::Options::default()).unwrap();
        let go_on = |_: usize, _: &Path| ControlFlow::Continue(());
        let values = |row: &ModelRow| ["snip", "gradalign-1"].map(|name| row.value(name));
        for engine in all_for_tests() {
            let rows = |sharers| {
                let memory = Memory { sharers: NonZeroUsize::new(sharers).unwrap(), limit: None };
                let metrics = metric::select(&["snip", "gradalign-1"]).unwrap();
                let settings = Settings { metrics, memory, ..Settings::default() };
                score_models(&models, &dataset, &settings, &*engine, go_on)
            };
            let (alone, shared) = (rows(1), rows(usize::MAX));
            assert_eq!(alone.len(), 3);
            for (alone, shared) in alone.iter().zip(&shared) {
                assert_eq!(alone.model, shared.model);
                assert_eq!(values(alone), values(shared));
                assert_eq!(alone.error.is_some(), shared.error.is_some());
            }
            assert!(values(&shared[0]).iter().all(Option::is_some));
        }
    }

    #[test]
    fn a_stop_keeps_what_was_begun() {
        let models: Vec<PathBuf> = (0..5).map(|i| format!("missing-{i}.onnx").into()).collect();
        let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits-30.npz");
        let dataset = Dataset::open(digits, &data::Options::default()).unwrap();
        for sharers in [1, 2, 7] {
            let memory = Memory { sharers: NonZeroUsize::new(sharers).unwrap(), limit: None };
            let settings = Settings { memory, ..Settings::default() };
            let mut told = Vec::new();
            let next = |_: usize, path: &Path| {
                told.push(path.to_path_buf());
                if told.len() > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let engine = &*all_for_tests()[0];
            let rows = score_models(&models, &dataset, &settings, engine, next);
            assert_eq!(told, models[..4]);
            assert_eq!(rows.len(), 3);
        }
    }

    #[test]
    fn rows_hold_scores_or_reasons() {
        let folder = folder_with(&["a.onnx"]);
        let path = folder.path().join("a.onnx");
        let scored = Scored {
            output: "y".into(),
            scores: vec![Score::new("params", 3.0)],
            size: Size { parameters: 3, flops: 4 },
            loss: Loss::CrossEntropy,
            warnings: vec!["careful".into()],
            short_of_memory: false,
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
