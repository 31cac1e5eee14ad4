//! Interruption, by Ctrl-C or a request to terminate: the first one ends the process in two moments at the
//! latest, the second at once.
//!
//! Models under way when the first one comes have that moment to finish. Then what is finished is
//! written without them: a model may take hours, or wait for something that never comes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{INTERRUPTED, output};
use crate::rank::isolate;

/// How long models under way may take to finish, and then their report to be written.
const MOMENT: Duration = Duration::from_millis(900);

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether the process is about to end: whatever fails from now on fails for that reason.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether the process is about to end.
pub(super) fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Whether the result is being written, of models that are all finished.
static WRITING: AtomicBool = AtomicBool::new(false);

type Rescue = Box<dyn FnOnce() + Send>;

/// Writes what is finished; there while there may be something. Whoever takes it writes.
static RESCUE: Mutex<Option<Rescue>> = Mutex::new(None);

fn take() -> Option<Rescue> {
    RESCUE.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Starts to listen for interruptions. Errs when the system does not allow it.
pub(super) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let first = COUNT.fetch_add(1, Ordering::SeqCst) == 0;
        let saving = RESCUE.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let writing = WRITING.load(Ordering::SeqCst);
        if !first || !(saving || writing) {
            end();
        }
        tracing::warn!("interrupted: what is finished is written; once more to stop at once");
        // The handler itself stays free for the second one.
        let waiting = thread::Builder::new().spawn(|| {
            thread::sleep(MOMENT);
            match take() {
                Some(rescue) => rescue(),
                // The models have finished, and their report is being written. A reader may never
                // take it.
                None => thread::sleep(MOMENT),
            }
            end();
        });
        if waiting.is_err() {
            end();
        }
    })?;
    Ok(())
}

/// Whether an interruption has come.
pub(super) fn requested() -> bool {
    COUNT.load(Ordering::SeqCst) > 0
}

/// From now on an interruption calls `rescue`, which writes what is finished by then, until
/// [`disarm`].
pub(super) fn arm(rescue: impl FnOnce() + Send + 'static) {
    *RESCUE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(rescue));
}

/// Takes over the writing. Does not return where it has begun already: the process ends with it.
pub(super) fn disarm() {
    WRITING.store(true, Ordering::SeqCst);
    if take().is_none() {
        loop {
            thread::park();
        }
    }
}

fn end() -> ! {
    ENDING.store(true, Ordering::SeqCst);
    isolate::kill_all();
    output::discard_parts();
    std::process::exit(i32::from(INTERRUPTED));
}
