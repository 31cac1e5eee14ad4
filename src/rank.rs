//! Many models, scored so that none can harm another.

use std::any::Any;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::Result;
use crate::onnx;
use crate::probe::{Memory, STACK};
use crate::report::{ModelRow, RowError};
use crate::score::{Scored, Settings, score_model};

pub use crate::find::find_models;

/// Who is told how [`score_models`] gets on. A closure is told of the beginnings.
pub trait Observer: Send {
    /// Comes before the model at `path` is scored, with the number of those finished. Can break off.
    fn next(&mut self, finished: usize, path: &Path) -> ControlFlow<()>;

    /// Comes after the model at `position` in the list is scored.
    fn finished(&mut self, _position: usize, _row: &ModelRow) {}
}

impl<F: FnMut(usize, &Path) -> ControlFlow<()> + Send> Observer for F {
    fn next(&mut self, finished: usize, path: &Path) -> ControlFlow<()> {
        self(finished, path)
    }
}

/// Scores models, as many at once as share the memory in `settings`; the rows are in the order of
/// `models`. A model that fails, or even panics, costs only its own row.
///
/// `observer` is told of each model and can break off; then the rows of the models finished by then,
/// or under way, are returned.
pub fn score_models(
    models: &[PathBuf],
    dataset: &Dataset,
    settings: &Settings,
    engine: &dyn Engine,
    observer: impl Observer,
) -> Vec<ModelRow> {
    let queue = Queue::new(models, observer);
    let scored = |path: &Path, memory: Memory| {
        let settings = Settings { memory, ..settings.clone() };
        let mut short = false;
        let row = row(path, memory, |model| {
            let scored = score_model(model, dataset, &settings, engine);
            short = scored.as_ref().is_ok_and(|scored| scored.short_of_memory);
            scored
        });
        let short = short || row.error.as_ref().is_some_and(|error| error.kind == "memory");
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
struct Queue<'a, O>(Mutex<State<'a, O>>);

struct State<'a, O> {
    models: &'a [PathBuf],
    observer: O,
    begun: usize,
    back: Vec<usize>,
    rows: BTreeMap<usize, ModelRow>,
    stopped: bool,
}

impl<'a, O: Observer> Queue<'a, O> {
    fn new(models: &'a [PathBuf], observer: O) -> Self {
        let (back, rows) = (Vec::new(), BTreeMap::new());
        Queue(Mutex::new(State { models, observer, begun: 0, back, rows, stopped: false }))
    }

    /// Scoring catches its panics, so that nothing is half done where a thread gave up the lock.
    fn lock(&self) -> MutexGuard<'_, State<'a, O>> {
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
        let mut state = self.lock();
        state.observer.finished(position, &row);
        state.rows.insert(position, row);
    }

    fn put_back(&self, position: usize) {
        self.lock().back.push(position);
    }

    fn rows(self) -> Vec<ModelRow> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.rows.into_values().collect()
    }
}

impl<'a, O: Observer> State<'a, O> {
    fn begin(&mut self, position: usize) -> Option<&'a Path> {
        let path = self.models.get(position)?;
        let finished = self.rows.len();
        self.stopped = self.stopped || self.observer.next(finished, path).is_break();
        (!self.stopped).then_some(path)
    }
}

/// The row of the model at `path`, which is read within `memory`, whatever comes of `score`.
fn row(path: &Path, memory: Memory, score: impl FnOnce(onnx::Model) -> Result<Scored>) -> ModelRow {
    let start = Instant::now();
    let mut row = ModelRow::new(path);
    let sha256 = &mut row.sha256;
    let work = || {
        let model = onnx::load_within(path, memory.free());
        let none = BTreeMap::new();
        let external = model.as_ref().map_or(&none, |model| &model.external);
        // A file that cannot be read has failed above, with the reason.
        *sha256 = onnx::sha256(path, external).ok();
        score(model?)
    };
    match contained(work) {
        Ok(scored) => fill(&mut row, scored),
        Err(error) => row.fail(error),
    }
    row.seconds = start.elapsed().as_secs_f64();
    row
}

/// What `work` on one model comes to; a panic fails this model alone.
pub(crate) fn contained<T>(work: impl FnOnce() -> Result<T>) -> Result<T, RowError> {
    // What a panic leaves half done belongs to the model, and is dropped with it.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| RowError::from(&error)),
        Err(payload) => Err(RowError {
            kind: "internal".into(),
            message: format!("a fault in gradalign: {}; please report it", text(&*payload)),
        }),
    }
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
    use super::*;
    use crate::data;
    use crate::engine::all_for_tests;
    use crate::error::Error;
    use crate::metric::{self, Size};
    use crate::score::Score;
    use crate::transform::Loss;

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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mlp.onnx");
        let scored = Scored {
            output: "y".into(),
            scores: vec![Score::new("params", 3.0)],
            size: Size { parameters: 3, flops: 4 },
            loss: Loss::CrossEntropy,
            warnings: vec!["careful".into()],
            short_of_memory: false,
        };
        let good = row(&path, Memory::default(), |_| Ok(scored));
        assert_eq!(
            (good.value("params"), good.parameters, good.flops),
            (Some(3.0), Some(3), Some(4))
        );
        assert_eq!(good.sha256.unwrap().len(), 64);
        assert!(good.error.is_none());

        let failed =
            row(&path, Memory::default(), |_| Err(Error::Data("no".into()))).error.unwrap();
        assert_eq!((failed.kind.as_str(), failed.message.as_str()), ("data", "no"));
        let panicked = row(&path, Memory::default(), |_| panic!("index {}", 3)).error.unwrap();
        assert_eq!(panicked.kind, "internal");
        assert!(panicked.message.contains("index 3"));
        let missing =
            row(Path::new("nowhere.onnx"), Memory::default(), |_| panic!("not to be called"));
        assert_eq!((missing.error.unwrap().kind.as_str(), missing.sha256), ("io", None));
    }
}
