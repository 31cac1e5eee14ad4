//! How much memory a graph takes to run.

use std::num::NonZeroUsize;

use super::runs::Emitted;
use crate::emit::{Dialect, stored_bytes};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Op, Primitive};

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
    /// How many models are scored at once: each takes its share of what is free.
    pub sharers: NonZeroUsize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { limit: None, sharers: NonZeroUsize::MIN }
    }
}

impl Memory {
    /// So many bytes for the whole process.
    pub fn up_to(bytes: u64) -> Self {
        Memory { limit: Some(bytes), ..Memory::default() }
    }

    /// How many bytes one of the sharers may take beside all that the process holds now; `None`
    /// where there is no limit and the system does not tell what it has.
    pub fn free(self) -> Option<u64> {
        let free = match self.limit {
            Some(limit) => limit.saturating_sub(resident().unwrap_or(0)),
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
        let held = resident().unwrap_or(0);
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let all = mib(held + need.total());
        Error::Memory(match self.limit {
            Some(limit) => format!(
                "{what} take {} MiB beside the {} MiB that are held already, and --memory allows for \
                 {} MiB in all: raise --memory to {all} MiB, or take fewer samples",
                mib(need.total()),
                mib(held),
                limit >> 20,
            ),
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
    /// That of `sessions` sessions of the model `emitted`, each with runs whose values take `values`
    /// bytes.
    pub fn of(emitted: &Emitted, values: u64, sessions: usize) -> Self {
        let (model, weights) = emitted;
        let weights = weights.iter().map(|(_, t)| (t.len() * t.dtype().size()) as u64);
        let weights = (COPIES * weights.sum::<u64>() as f64) as u64;
        let session = weights + NODES * model.len() as u64 + SESSION;
        Need { session, values, sessions: sessions as u64, more: 0 }
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

/// The bytes of memory that programs can still get without swapping (Linux).
fn available() -> Option<u64> {
    kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The bytes of memory that this process holds, where the system tells.
fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most bytes of memory that this process has held so far, where the system tells (Linux).
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

fn status(entry: &str) -> Option<u64> {
    kib(&std::fs::read_to_string("/proc/self/status").ok()?, entry)
}

/// An entry of a table in KiB, in bytes.
fn kib(table: &str, entry: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(entry))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The largest total size in bytes of the values alive at one moment, when nodes run in graph
/// order and a value is freed after its last use; parameters and constants are not counted. What an
/// engine of `dialect` computes where it is used takes nothing, but keeps alive what it is made of.
pub fn peak_bytes(graph: &Graph, dialect: Dialect) -> u64 {
    let live = graph.live();
    let stored = stored_bytes(graph, dialect);
    let mut last_use = vec![0; graph.nodes().len()];
    for (value, node) in graph.nodes() {
        if live[value.index()] {
            for input in &node.inputs {
                last_use[input.index()] = value.index();
            }
        }
    }
    for output in graph.outputs() {
        last_use[output.value.index()] = usize::MAX;
    }
    for (value, node) in graph.nodes().rev() {
        if stored[value.index()].is_none() {
            for source in node.inputs.iter().map(|v| v.index()) {
                last_use[source] = last_use[source].max(last_use[value.index()]);
            }
        }
    }
    let mut dying: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes().len()];
    let (mut now, mut peak) = (0u64, 0u64);
    for (value, _) in graph.nodes() {
        let i = value.index();
        if !live[i] {
            continue;
        }
        now += stored[i].unwrap_or(0);
        peak = peak.max(now + workspace(graph, value, dialect));
        if last_use[i] < dying.len() {
            dying[last_use[i].max(i)].push(i);
        }
        for dead in std::mem::take(&mut dying[i]) {
            now -= stored[dead].unwrap_or(0);
        }
    }
    peak
}

/// What a node needs beside its operands and result while it runs.
fn workspace(graph: &Graph, value: Value, dialect: Dialect) -> u64 {
    let node = graph.node(value);
    let Op::Apply(op) = &node.op else { return 0 };
    if let Primitive::ConvWeightGrad(op) = op
        && dialect == Dialect::Fused
        && op.has_kernel(graph.fact(node.inputs[0]))
    {
        return 0;
    }
    let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.fact(v)).collect();
    op.cost(&inputs, &node.fact).workspace
}
