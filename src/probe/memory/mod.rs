//! How much memory a graph takes to run, and how much there is.

#[cfg(target_os = "linux")]
mod cgroup;
mod system;

use std::num::NonZeroUsize;

use crate::engine::Compiled;
use crate::error::{Error, Result};
use crate::graph::Graph;

pub use system::peak_resident;
#[cfg(feature = "workers")]
pub(crate) use system::resident_of;
use system::{available, resident};

/// What engines hold beside the values alive: memory freed but not given back, and packed operands.
const SLACK: f64 = 1.3;

/// How often a session holds its weights while it is made: its own copy, one laid out for its kernels,
/// one on the way from that to this, and what is lost between large pieces of memory.
const COPIES: f64 = 3.4;

/// What a session holds for each byte of a model without its weights: the graph as read, as taken
/// apart, and its kernels.
const NODES: u64 = 4;

/// What a session holds however small the model: its threads, and the room that kernels compute in.
const SESSION: u64 = 32 << 20;

/// What bounds the memory that a model's runs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that the process may take, all in all; `None` for what the system has available.
    pub limit: Option<u64>,
    /// The bytes among these that are this process's own, where other processes take the rest.
    pub own: Option<u64>,
    /// How many models are scored at once: each takes its share of what is free.
    pub sharers: NonZeroUsize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { limit: None, own: None, sharers: NonZeroUsize::MIN }
    }
}

impl Memory {
    /// At most this many bytes for the whole process.
    pub fn up_to(bytes: u64) -> Self {
        Memory { limit: Some(bytes), ..Memory::default() }
    }

    /// How many bytes one of the sharers may take beside all that the process holds now; `None`
    /// where there is no limit and the system does not tell what it has.
    pub fn free(self) -> Option<u64> {
        let free = match self.own.or(self.limit) {
            Some(most) => most.saturating_sub(resident().unwrap_or(0)),
            None => available()?,
        };
        Some(free / self.sharers.get() as u64)
    }

    /// `Ok` where `need` fits into what is free.
    ///
    /// # Errors
    /// Where it does not: says that `what` takes too much, how much there must be, and the remedies.
    pub(crate) fn check(self, need: Need, what: &str) -> Result<()> {
        match self.free() {
            Some(free) if need.total() > free => Err(self.refusal(need, free, what)),
            _ => Ok(()),
        }
    }

    /// The error of a `need` that is more than what is `free`.
    pub(crate) fn refusal(self, need: Need, free: u64, what: &str) -> Error {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Error::Memory(match self.limit {
            Some(limit) => {
                let elsewhere = limit.saturating_sub(self.own.unwrap_or(limit));
                let held = resident().unwrap_or(0).saturating_add(elsewhere);
                format!(
                    "{what} take {} MiB beside the {} MiB that are held already, and `memory` allows \
                     for {} MiB in all: raise `memory` to {} MiB, or take fewer samples",
                    mib(need.total()),
                    mib(held),
                    limit >> 20,
                    mib(held + need.total()),
                )
            }
            None => format!(
                "{what} take {} MiB, of which {} are available: take fewer samples, or a machine \
                 with more memory",
                mib(need.total()),
                free >> 20,
            ),
        })
    }
}

/// What runs take beside all that the process holds when they begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// What each session holds.
    pub session: u64,
    /// The values of a run.
    pub values: u64,
    /// How many sessions there are, each with a run.
    pub sessions: u64,
    /// Whatever else.
    pub more: u64,
}

impl Need {
    /// That of `sessions` sessions of `model`, each with a run.
    pub fn of(model: &Compiled, sessions: usize) -> Self {
        let Compiled { model, weights, peak_bytes: values } = model;
        let weights = weights.iter().map(|(_, t)| (t.len() * t.dtype().size()) as u64);
        let weights = (COPIES * weights.sum::<u64>() as f64) as u64;
        let session = weights + NODES * model.len() as u64 + SESSION;
        Need { session, values: *values, sessions: sessions as u64, more: 0 }
    }

    /// All of it.
    pub fn total(self) -> u64 {
        self.sessions * (self.session + (self.values as f64 * SLACK) as u64) + self.more
    }
}

/// The bytes that a session takes at least for the parameters of `model`.
pub(crate) fn copies(model: &Graph) -> u64 {
    let bytes = model.parameters().map(|(_, p)| p.tensor.len() * p.tensor.dtype().size());
    2 * bytes.sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn refused(memory: Memory) -> String {
        let need = Need { session: 0, values: 0, sessions: 0, more: 64 * GIB };
        memory.check(need, "runs").unwrap_err().to_string()
    }

    #[test]
    fn a_share_counts_what_others_hold() {
        let whole = Memory::up_to(4 * GIB);
        let part = Memory { own: Some(GIB), ..whole };
        assert!(whole.free().unwrap() > 3 * GIB && part.free().unwrap() < GIB);
        let why = refused(part);
        assert!(why.contains("allows for 4096 MiB in all"), "{why}");
        // What others hold, 3 GiB, is part of what there must be.
        let raise = why.split("raise `memory` to ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(raise.parse::<u64>().unwrap() >= (64 + 3) << 10, "{why}");
    }

    #[test]
    fn a_limit_that_nobody_gave_cannot_be_raised() {
        let why = refused(Memory { own: Some(GIB), ..Memory::default() });
        assert!(why.contains("are available") && !why.contains("raise"), "{why}");
    }
}
