//! Panics of an engine, turned into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which calls into `engine`; a panic there becomes an error.
pub(super) fn guarded<T>(engine: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    silence_guarded_panics();
    let before = GUARDED.replace(true);
    // Nothing that a panic leaves half done is used again: the session or library is dropped.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.unwrap_or_else(|payload| {
        Err(Error::Engine { engine, message: format!("panicked: {}", text(&*payload)) })
    })
}

/// Keeps a guarded panic, which is reported as an error, from also being printed by the default
/// hook. All other panics reach whatever hook was there.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                others(info);
            }
        }));
    });
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors_and_the_thread_is_unguarded_afterwards() {
        for outcome in [
            guarded::<()>("tract", || panic!("index {} out of range", 3)),
            guarded::<()>("tract", || guarded("tract", || panic!("index 3 out of range"))),
        ] {
            let message = outcome.unwrap_err().to_string();
            assert_eq!(message, "tract: panicked: index 3 out of range");
        }
        assert!(!GUARDED.get());
    }
}
