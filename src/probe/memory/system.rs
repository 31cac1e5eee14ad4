//! What the system says of memory.

use std::process;

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The bytes of memory that this process can still get without swapping: those of the machine, or
/// fewer where a control group allows fewer. `None` where the system does not tell.
pub(super) fn available() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let machine = Some(system.available_memory()).filter(|&bytes| bytes > 0);
    #[cfg(target_os = "linux")]
    let group = super::cgroup::available();
    #[cfg(not(target_os = "linux"))]
    let group = None;
    machine.into_iter().chain(group).min()
}

/// The bytes of memory that this process holds, where the system tells.
pub(super) fn resident() -> Option<u64> {
    resident_of(process::id())
}

/// The bytes of memory that a process holds, where the system tells.
pub(crate) fn resident_of(process: u32) -> Option<u64> {
    let (mut system, id) = (System::new().ok()?, Pid::from_u32(process));
    let memory = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), false, memory);
    system.process(id).map(sysinfo::Process::memory)
}

/// The most bytes of memory that this process has held so far, where the system tells (Linux).
pub fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        let before = resident().unwrap();
        let held = vec![1_u8; 64 << 20];
        let after = resident().unwrap();
        assert!(after > before + (48 << 20), "{before} {after} {}", held.len());
        assert_eq!(resident_of(u32::MAX - 1), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_at_least_what_is_held() {
        // The kernel counts the two in different ways, which differ by some pages.
        let held = resident().unwrap();
        assert!(peak_resident().unwrap() > held - held / 8, "{held}");
    }
}
