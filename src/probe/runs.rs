//! Runs of one model on many inputs, some of them at the same time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::engine::{Compiled, Engine};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Bytes of stack of a thread that reads or runs models: what the main thread has, as models may
/// nest graphs.
pub(crate) const STACK: usize = 8 << 20;

/// Runs `model` `runs` times on what `inputs` gives for each, `side_by_side` at a time on sessions that
/// share the threads of `engine`. `collect` is given the outputs in the order of the runs, whichever
/// of them ends first, so that nothing depends on that.
///
/// # Errors
/// The error of the first run that has one, or of a session that cannot be made.
pub(crate) fn run_all(
    model: Compiled,
    runs: usize,
    side_by_side: usize,
    engine: &dyn Engine,
    inputs: impl Fn(usize) -> Result<Vec<Tensor>> + Sync,
    collect: impl FnMut(usize, Vec<Tensor>) -> Result<()> + Send,
) -> Result<()> {
    let share = engine.threads() / side_by_side.max(1);
    let shared = match side_by_side {
        0 | 1 => None,
        _ => engine.with_threads(NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)),
    };
    let helpers = shared.as_ref().map_or(0, |_| side_by_side - 1);
    let engine = shared.as_deref().unwrap_or(engine);
    let queue = Queue::new(runs, collect);
    let work = |model: Arc<Compiled>| {
        let loaded = engine.load(&model);
        // The last session to be made frees what they are made of.
        drop(model);
        match loaded {
            Ok(mut session) => {
                while let Some(run) = queue.take() {
                    queue.put(run, inputs(run).and_then(|inputs| session.run(&inputs)));
                }
            }
            Err(error) => queue.fail(None, error),
        }
    };
    thread::scope(|scope| {
        let model = Arc::new(model);
        let mut threads = Vec::new();
        for _ in 0..helpers {
            let (helper, model) = (thread::Builder::new().stack_size(STACK), Arc::clone(&model));
            match helper.spawn_scoped(scope, || work(model)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!("fewer runs at once than there are threads for: {error}");
                    break;
                }
            }
        }
        work(model);
        for thread in threads {
            // The caller hears of a panic as if it were its own.
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    queue.finish()
}

/// Runs to be done and the outputs of those that are, shared between threads.
struct Queue<C>(Mutex<State<C>>);

struct State<C> {
    runs: usize,
    begun: usize,
    collected: usize,
    /// Outputs of runs that ended before an earlier one.
    ahead: BTreeMap<usize, Vec<Tensor>>,
    collect: C,
    /// The error of the earliest run that has one; that of a session comes before all.
    failure: Option<(Option<usize>, Error)>,
}

impl<C: FnMut(usize, Vec<Tensor>) -> Result<()>> Queue<C> {
    fn new(runs: usize, collect: C) -> Self {
        let ahead = BTreeMap::new();
        Queue(Mutex::new(State { runs, begun: 0, collected: 0, ahead, collect, failure: None }))
    }

    /// What a panic in `collect` leaves half done is never looked at: the panic goes on to the caller.
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next run, unless there is none, or one has failed. As runs begin in order, those before
    /// the one that failed are done or under way.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        let run = state.begun;
        (run < state.runs && state.failure.is_none()).then(|| {
            state.begun += 1;
            run
        })
    }

    fn put(&self, run: usize, outputs: Result<Vec<Tensor>>) {
        match outputs {
            Ok(outputs) => self.lock().put(run, outputs),
            Err(error) => self.fail(Some(run), error),
        }
    }

    fn fail(&self, run: Option<usize>, error: Error) {
        self.lock().fail(run, error);
    }

    fn finish(self) -> Result<()> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl<C: FnMut(usize, Vec<Tensor>) -> Result<()>> State<C> {
    fn put(&mut self, run: usize, outputs: Vec<Tensor>) {
        self.ahead.insert(run, outputs);
        while let Some(outputs) = self.ahead.remove(&self.collected) {
            if let Err(error) = (self.collect)(self.collected, outputs) {
                self.fail(Some(self.collected), error);
            }
            self.collected += 1;
        }
    }

    fn fail(&mut self, run: Option<usize>, error: Error) {
        if self.failure.as_ref().is_none_or(|(first, _)| run < *first) {
            self.failure = Some((run, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, Condvar};
    use std::time::Duration;

    use super::*;
    use crate::engine::{Description, Session};

    /// What happens in a run.
    type Run = dyn Fn(usize) -> Result<usize> + Send + Sync;

    /// An engine of two threads whose sessions take the number of a run and do something with it.
    #[derive(Clone)]
    struct Scripted {
        run: Arc<Run>,
        threads: usize,
        sessions: Arc<AtomicUsize>,
    }

    struct Script(Arc<Run>);

    impl Engine for Scripted {
        fn describe(&self) -> Description {
            let (version, device) = (String::new(), String::new());
            Description { name: "scripted".into(), version, device, note: None }
        }

        fn threads(&self) -> usize {
            self.threads
        }

        fn with_threads(&self, threads: NonZeroUsize) -> Option<Box<dyn Engine>> {
            Some(Box::new(Scripted { threads: threads.get(), ..self.clone() }))
        }

        fn load(&self, _: &Compiled) -> Result<Box<dyn Session>> {
            self.sessions.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Script(Arc::clone(&self.run))))
        }
    }

    impl Session for Script {
        fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
            let run = inputs[0].scalar().unwrap() as usize;
            Ok(vec![number((self.0)(run)?)])
        }
    }

    fn number(n: usize) -> Tensor {
        Tensor::index([n as i64])
    }

    fn failed(run: usize) -> Error {
        Error::Score(format!("run {run}"))
    }

    fn engine(run: impl Fn(usize) -> Result<usize> + Send + Sync + 'static) -> Scripted {
        Scripted { run: Arc::new(run), threads: 2, sessions: Arc::default() }
    }

    /// What is collected of `runs` runs, two at a time.
    fn collected(engine: &Scripted, runs: usize) -> Result<Vec<(usize, f64)>> {
        let mut all = Vec::new();
        let model = Compiled::from_onnx(Vec::new());
        let inputs = |run| Ok(vec![number(run)]);
        run_all(model, runs, 2, engine, inputs, |run, outputs| {
            all.push((run, outputs[0].scalar().unwrap()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn outputs_come_in_the_order_of_the_runs() {
        // The first run waits for the fourth.
        let (done, waiting) = (Mutex::new(0), Condvar::new());
        let engine = engine(move |run| {
            let mut done = done.lock().unwrap();
            *done = run.max(*done);
            waiting.notify_all();
            if run == 0 {
                let limit = Duration::from_secs(60);
                drop(waiting.wait_timeout_while(done, limit, |done| *done < 3).unwrap());
            }
            Ok(10 * run)
        });
        let expected: Vec<_> = (0..5).map(|run| (run, 10.0 * run as f64)).collect();
        assert_eq!(collected(&engine, 5).unwrap(), expected);
        assert_eq!(engine.sessions.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_first_run_that_fails_is_told_of_and_none_begins_after_it() {
        let both = Barrier::new(2);
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let engine = engine(move |run| {
            counted.fetch_add(1, Ordering::Relaxed);
            both.wait();
            Err(failed(run))
        });
        assert_eq!(collected(&engine, 2).unwrap_err().to_string(), "run 0");
        begun.store(0, Ordering::Relaxed);
        assert_eq!(collected(&engine, 100).unwrap_err().to_string(), "run 0");
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_panic_of_a_helper_reaches_the_caller() {
        let (both, caller) = (Barrier::new(2), thread::current().id());
        let engine = engine(move |run| {
            both.wait();
            assert_eq!(thread::current().id(), caller, "not the caller");
            Ok(run)
        });
        let panic = catch_unwind(AssertUnwindSafe(|| collected(&engine, 2))).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("not the caller"));
    }

    #[test]
    fn without_a_choice_of_threads_one_session_takes_all_runs() {
        /// Says nothing of threads.
        struct Plain(Scripted);

        impl Engine for Plain {
            fn describe(&self) -> Description {
                self.0.describe()
            }

            fn load(&self, model: &Compiled) -> Result<Box<dyn Session>> {
                self.0.load(model)
            }
        }

        let plain = Plain(engine(Ok));
        let inputs = |run| Ok(vec![number(run)]);
        run_all(Compiled::from_onnx(Vec::new()), 3, 2, &plain, inputs, |_, _| Ok(())).unwrap();
        assert_eq!(plain.0.sessions.load(Ordering::Relaxed), 1);
    }
}
