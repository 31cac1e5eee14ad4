//! Interruption: the first one ends the run after the current model, the second at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::INTERRUPTED;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Starts to listen for interruptions. Errs when the system does not allow it.
pub(super) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if COUNT.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
        tracing::warn!("interrupted: the current model is finished; once more to stop at once");
    })?;
    Ok(())
}

/// Whether an interruption has come.
pub(super) fn requested() -> bool {
    COUNT.load(Ordering::SeqCst) > 0
}
