//! What a worker does to itself.

use crate::error::{Error, Result};

/// The memory that a process may map beside what it may hold, in bytes.
#[cfg(unix)]
const MAPPED: u64 = 256 << 20;

/// Lets the process end with its parent, and makes allocations beyond `memory` bytes fail. Called once,
/// at the start of a worker.
///
/// The limit is one of data (`RLIMIT_DATA`), not of address space, of which engines reserve much more
/// than they use. It is looser than `memory`: how much a worker really holds is watched by its parent.
/// With a GPU there is no such limit: its driver maps host memory as it likes.
///
/// # Errors
/// When the system refuses it.
#[cfg(unix)]
pub fn confine(memory: Option<u64>, uses_gpu: bool) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let refused = |e: rustix::io::Errno| {
        Error::Usage(format!("the system does not let a worker be confined: {e}"))
    };
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused)?;
        // The parent may have died just before.
        if getppid().is_none_or(rustix::process::Pid::is_init) {
            return Err(Error::Usage("a worker needs the process that started it".into()));
        }
    }
    if let Some(memory) = memory.filter(|_| !uses_gpu) {
        let most = memory.saturating_add(memory / 4).saturating_add(MAPPED);
        let before = getrlimit(Resource::Data);
        let most = before.maximum.map_or(most, |maximum| most.min(maximum));
        let limit = Rlimit { current: Some(most), maximum: before.maximum };
        setrlimit(Resource::Data, limit).map_err(refused)?;
    }
    Ok(())
}

/// Nothing: the system has no such limits.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn confine(_memory: Option<u64>, _uses_gpu: bool) -> Result<()> {
    Ok(())
}
