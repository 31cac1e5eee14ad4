//! Many models, scored so that none can harm another.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::probe::{Memory, STACK};
use crate::score::{Record, Scorer};
use crate::source::{ModelRef, Source};

/// Who is told how [`score_each`] gets on, and receives the records. Either method can break off.
pub trait Observer: Send {
    /// Comes before `model` is scored, with the number of those finished.
    fn next(&mut self, finished: usize, model: &ModelRef) -> ControlFlow<()> {
        let _ = (finished, model);
        ControlFlow::Continue(())
    }

    /// Comes when the model at `position` in the list is scored, with its record.
    fn finished(&mut self, position: usize, record: Record) -> ControlFlow<()>;
}

/// Scores models of `source`, as many at once as share the memory of `scorer`, and hands on each
/// record as soon as there is one. A model that fails, or even panics, costs only its own scores.
///
/// After `observer` breaks off, models under way are still finished, and their records handed on.
pub fn score_each(
    source: &dyn Source,
    models: &[ModelRef],
    scorer: &Scorer,
    observer: impl Observer,
) {
    let score = |model: &ModelRef, memory| scorer.score_within(model, source, memory);
    each(models, scorer.memory(), || score, observer);
}

/// Has models scored, as many at once as share `memory`, in a thread each. `worker` makes what a thread
/// scores with, within the memory that it is given.
///
/// What its share of the memory was too little for is scored again when the others are finished, with
/// all of it.
pub(super) fn each<W: FnMut(&ModelRef, Memory) -> Record>(
    models: &[ModelRef],
    memory: Memory,
    worker: impl Fn() -> W + Sync,
    observer: impl Observer,
) {
    let queue = Queue::new(models, observer);
    let is_shared = memory.sharers > NonZeroUsize::MIN;
    let work = |score: &mut W| {
        while let Some((position, model)) = queue.take() {
            let record = score(model, memory);
            if record.result.short_of_memory && is_shared {
                queue.put_back(position);
            } else {
                queue.put(position, record);
            }
        }
    };
    let mut own = worker();
    let helpers = memory.sharers.get().min(models.len()).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            let helper = thread::Builder::new().stack_size(STACK);
            if let Err(error) = helper.spawn_scoped(scope, || work(&mut worker())) {
                tracing::warn!("fewer models are scored at once than were to be: {error}");
                break;
            }
        }
        work(&mut own);
    });
    let alone = Memory { sharers: NonZeroUsize::MIN, ..memory };
    while let Some((position, model)) = queue.take_back() {
        queue.put(position, own(model, alone));
    }
}

/// As [`score_each`]; the records are in the order of `models`.
pub fn score_models(source: &dyn Source, models: &[ModelRef], scorer: &Scorer) -> Vec<Record> {
    let mut records = BTreeMap::new();
    score_each(source, models, scorer, Collect(&mut records));
    records.into_values().collect()
}

/// Keeps the records by position.
struct Collect<'a>(&'a mut BTreeMap<usize, Record>);

impl Observer for Collect<'_> {
    fn finished(&mut self, position: usize, record: Record) -> ControlFlow<()> {
        self.0.insert(position, record);
        ControlFlow::Continue(())
    }
}

/// Models to be scored, shared between threads.
struct Queue<'a, O>(Mutex<State<'a, O>>);

struct State<'a, O> {
    models: &'a [ModelRef],
    observer: O,
    begun: usize,
    finished: usize,
    /// Positions of models that were short of memory.
    back: Vec<usize>,
    stopped: bool,
}

impl<'a, O: Observer> Queue<'a, O> {
    fn new(models: &'a [ModelRef], observer: O) -> Self {
        let back = Vec::new();
        Queue(Mutex::new(State { models, observer, begun: 0, finished: 0, back, stopped: false }))
    }

    /// Scoring catches its panics, so that nothing is half done where a thread gave up the lock.
    fn lock(&self) -> MutexGuard<'_, State<'a, O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next model with its position, unless there is none, or a stop was asked for.
    fn take(&self) -> Option<(usize, &'a ModelRef)> {
        let mut state = self.lock();
        let position = state.begun;
        let model = state.begin(position)?;
        state.begun += 1;
        Some((position, model))
    }

    /// One that was put back.
    fn take_back(&self) -> Option<(usize, &'a ModelRef)> {
        let mut state = self.lock();
        let position = state.back.pop()?;
        Some((position, state.begin(position)?))
    }

    fn put(&self, position: usize, record: Record) {
        let mut state = self.lock();
        state.finished += 1;
        let stop = state.observer.finished(position, record).is_break();
        state.stopped |= stop;
    }

    fn put_back(&self, position: usize) {
        self.lock().back.push(position);
    }
}

impl<'a, O: Observer> State<'a, O> {
    fn begin(&mut self, position: usize) -> Option<&'a ModelRef> {
        let model = self.models.get(position)?;
        self.stopped = self.stopped || self.observer.next(self.finished, model).is_break();
        (!self.stopped).then_some(model)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::Dataset;
    use crate::engine::{Engine, all_for_tests};
    use crate::score::ScoreSettings;
    use crate::source::Files;

    /// What `work` does with a scorer on the digits.
    fn with_scorer<T>(
        settings: &ScoreSettings,
        engine: &dyn Engine,
        sharers: usize,
        work: impl FnOnce(&Scorer) -> T,
    ) -> T {
        let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits-30.npz");
        let dataset = Dataset::open(digits, &settings.data_options(None)).unwrap();
        let sharers = NonZeroUsize::new(sharers).unwrap();
        let memory = Memory { sharers, ..Memory::default() };
        work(&Scorer::new(settings, &dataset, engine, memory).unwrap())
    }

    #[test]
    fn a_share_of_the_memory_that_is_too_small_costs_no_score() {
        let models = ["models/mlp.onnx", "fixtures/extra/opset11.onnx", "missing.onnx"];
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = Files::at(models.iter().map(|m| root.join(m)).collect());
        let models = files.list().unwrap();
        let settings = ScoreSettings::new().metrics(["snip", "gradalign-1"]);
        let values =
            |record: &Record| ["snip", "gradalign-1"].map(|name| record.result.value(name));
        for engine in all_for_tests() {
            let records = |sharers| {
                with_scorer(&settings, &*engine, sharers, |scorer| {
                    score_models(&files, &models, scorer)
                })
            };
            let (alone, shared) = (records(1), records(usize::MAX));
            assert_eq!(alone.len(), 3);
            for (alone, shared) in alone.iter().zip(&shared) {
                assert_eq!(alone.result.model, shared.result.model);
                assert_eq!(values(alone), values(shared));
                assert_eq!(alone.result.error.is_some(), shared.result.error.is_some());
            }
            assert!(values(&shared[0]).iter().all(Option::is_some));
        }
    }

    /// Breaks off before one model or after another.
    struct Stop {
        told: Vec<String>,
        before: usize,
        after: usize,
        records: usize,
    }

    impl Observer for &mut Stop {
        fn next(&mut self, _: usize, model: &ModelRef) -> ControlFlow<()> {
            self.told.push(model.name.clone());
            if self.told.len() > self.before {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }

        fn finished(&mut self, _: usize, _: Record) -> ControlFlow<()> {
            self.records += 1;
            if self.records >= self.after {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }

    #[test]
    fn a_stop_keeps_what_was_begun() {
        let files = Files::at((0..5).map(|i| format!("missing-{i}.onnx").into()).collect());
        let models = files.list().unwrap();
        let engine = &*all_for_tests()[0];
        for sharers in [1, 2, 7] {
            with_scorer(&ScoreSettings::new(), engine, sharers, |scorer| {
                let mut stop = Stop { told: Vec::new(), before: 3, after: 9, records: 0 };
                score_each(&files, &models, scorer, &mut stop);
                let names: Vec<_> = models[..4].iter().map(|model| model.name.clone()).collect();
                assert_eq!((stop.told, stop.records), (names, 3));
            });
        }
        with_scorer(&ScoreSettings::new(), engine, 1, |scorer| {
            let mut stop = Stop { told: Vec::new(), before: 9, after: 2, records: 0 };
            score_each(&files, &models, scorer, &mut stop);
            assert_eq!((stop.told.len(), stop.records), (2, 2));
        });
    }
}
