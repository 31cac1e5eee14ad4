//! Progress on standard error, and a log that does not run through it.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::flags::with_flags;
use crate::report::printable;

/// The bar on the screen, if there is one: the log makes way for it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Whether there is to be no bar.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Shows no bar from now on.
pub(super) fn hide() {
    HIDDEN.store(true, Ordering::Relaxed);
}

/// A progress bar over models; invisible where standard error is not a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `models` models.
    pub(super) fn new(models: usize) -> Self {
        let hidden = HIDDEN.load(Ordering::Relaxed);
        let target =
            if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(models as u64), target);
        let style =
            ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed}, {eta} left {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Ok(mut shown) = SHOWN.lock() {
            *shown = Some(bar.clone());
        }
        Progress(bar)
    }

    /// Tells that `done` models are finished and that the one called `name` is next.
    pub(super) fn next(&self, done: usize, name: &str) {
        self.0.set_position(done as u64);
        self.0.set_message(printable(name).into_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        clear();
    }
}

/// Takes the bar off the screen, if there is one.
pub(super) fn clear() {
    let shown = SHOWN.lock().ok().and_then(|mut shown| shown.take());
    if let Some(bar) = shown {
        bar.finish_and_clear();
    }
}

/// Does what writes to the terminal, with the bar out of the way.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    let bar = SHOWN.lock().ok().and_then(|shown| shown.clone());
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error, with the bar out of the way while it is written to.
pub(super) struct LogWriter;

impl Write for LogWriter {
    /// `text` is a whole line.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(text);
        aside(|| io::stderr().write_all(with_flags(&line).as_bytes()))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
