//! How much memory a graph takes to run.

use std::num::NonZeroUsize;

use crate::emit::{Dialect, stored_bytes};
use crate::error::{Error, Result};
use crate::graph::{Graph, Value};
use crate::ops::{Op, Primitive};
use crate::tensor::DType;

/// What engines hold beside the values alive: memory freed but not given back, and packed operands.
const SLACK: f64 = 1.3;

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
}

/// How many bytes a run may use for the values of its graph: what is free in `memory` beside the
/// process as it is now and one session's copies of the parameters of `model`. `None` where there
/// is no limit and the system does not tell.
pub(crate) fn room(memory: Memory, model: &Graph) -> Option<u64> {
    let parameters = parameter_bytes(model);
    let free = match memory.limit {
        Some(limit) => limit.saturating_sub(resident().unwrap_or(parameters)),
        None => available()?,
    };
    let free = free / memory.sharers.get() as u64;
    Some((free.saturating_sub(copies(model)) as f64 / SLACK) as u64)
}

/// The bytes that a session takes for the parameters of `model`: its own copy, and one packed for
/// its kernels.
pub(crate) fn copies(model: &Graph) -> u64 {
    2 * parameter_bytes(model)
}

fn parameter_bytes(model: &Graph) -> u64 {
    model.parameters().map(|(_, p)| (p.tensor.len() * p.tensor.dtype().size()) as u64).sum()
}

/// `Ok` where a run of `model` that takes `peak` bytes fits into `memory`.
///
/// # Errors
/// Where it does not, with the remedies.
pub(crate) fn check_fits(peak: u64, memory: Memory, model: &Graph) -> Result<()> {
    match room(memory, model) {
        Some(room) if peak > room => Err(Error::Memory(format!(
            "the whole batch takes {} MiB at once, of which {} are available: take fewer samples, \
             or allow for more by --memory",
            peak >> 20,
            room >> 20
        ))),
        _ => Ok(()),
    }
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
    match &node.op {
        Op::Apply(Primitive::ConvWeightGrad(op)) => {
            if dialect == Dialect::Fused && op.has_kernel(graph.fact(node.inputs[0])) {
                return 0;
            }
            // The input unfolded over the kernel's positions.
            let taps: usize = op.kernel.iter().product();
            let cotangent = graph.fact(node.inputs[1]);
            let channels = graph.shape(node.inputs[0])[1];
            let columns = cotangent.len() / cotangent.shape[1].max(1) * channels * taps;
            2 * (columns * DType::F32.size()) as u64
        }
        Op::Apply(Primitive::Conv(_) | Primitive::ConvInputGrad(_)) => {
            (node.fact.len() * node.fact.dtype.size()) as u64
        }
        _ => 0,
    }
}
