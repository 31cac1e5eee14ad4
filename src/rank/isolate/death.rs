//! Why a worker has died, as a reason in its model's record.

use std::process::ExitStatus;
use std::time::Duration;

use crate::error::Error;
use crate::score::{Failure, ModelResult};

/// What engines and the standard library say when the system gives them no memory, or no thread.
const SHORT_OF_MEMORY: [&str; 7] = [
    "bad_alloc",
    "memory allocation of",
    "failed to allocate",
    "Failed to allocate",
    "Cannot allocate memory",
    "out of memory",
    "failed to spawn thread",
];

fn is_short_of_memory(text: &str) -> bool {
    SHORT_OF_MEMORY.iter().any(|sign| text.contains(sign))
}

/// The failure of a worker that took too long.
pub(super) fn timeout(after: Duration) -> Failure {
    Failure {
        kind: "timeout".into(),
        message: format!(
            "no result within the {} s that `timeout` allows: raise it, or take fewer samples",
            after.as_secs_f64()
        ),
    }
}

/// The failure of a worker that held more than `allowed` bytes.
pub(super) fn too_large(allowed: u64) -> Failure {
    let mib = allowed >> 20;
    memory(format!("its process held more than the {mib} MiB that there are for it"))
}

fn memory(why: String) -> Failure {
    Failure {
        kind: Error::MEMORY.into(),
        message: format!(
            "{why}: raise `memory`, take fewer samples, or a machine with more memory"
        ),
    }
}

/// The failure of a worker that ended by itself, with the last that it said on standard error.
pub(super) fn ended<'a>(
    status: ExitStatus,
    last_words: impl Iterator<Item = &'a String>,
) -> Failure {
    let how = how(status);
    let last_words: Vec<&str> = last_words.map(String::as_str).collect();
    let told = last_words.iter().rev().find(|line| is_short_of_memory(line));
    if let Some(told) = told {
        return memory(format!("its process {how} ({told})"));
    }
    if signal(status) == Some(9) {
        return memory(format!("its process {how}, as the system does when memory runs out"));
    }
    let words = last_words.join(" ");
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    Failure { kind: "crash".into(), message: format!("its process {how}{words}") }
}

/// Gives a failure its right kind where an engine met the limit and survived.
pub(super) fn explain(result: &mut ModelResult) {
    if let Some(error) = &result.error
        && ["engine", "internal"].contains(&&*error.kind)
        && is_short_of_memory(&error.message)
    {
        let failure = memory(error.message.clone());
        result.fail(failure);
    }
}

fn how(status: ExitStatus) -> String {
    let named = |signal| match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 | 10 => " (bus error)",
        8 => " (arithmetic fault)",
        9 => " (kill)",
        11 => " (segmentation fault)",
        15 => " (request to terminate)",
        _ => "",
    };
    match (signal(status), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}{}", named(signal)),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".into(),
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn deaths_have_reasons() {
        let signal = ExitStatus::from_raw;
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        for (status, said, kind, part) in [
            (signal(11), "", "crash", "ended by signal 11 (segmentation fault)"),
            (signal(6), "free(): invalid pointer", "crash", "(abort): free(): invalid pointer"),
            (signal(6), "memory allocation of 64 bytes failed", "memory", "raise `memory`"),
            (signal(9), "", "memory", "when memory runs out"),
            (code(101), "failed to spawn thread: no", "memory", "exit code 101"),
            (code(3), "odd", "crash", "exit code 3: odd"),
        ] {
            let failure = ended(status, [said.to_owned()].iter());
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(failure.message.contains(part), "{failure:?}");
        }
    }

    #[test]
    fn an_engine_that_survives_the_limit_is_short_of_memory() {
        let mut result = ModelResult::default();
        result.fail(Failure { kind: "engine".into(), message: "ort: std::bad_alloc".into() });
        explain(&mut result);
        assert!(result.short_of_memory && result.error.unwrap().kind == "memory");
    }
}
