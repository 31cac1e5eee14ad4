//! How much memory a graph takes to run.

use crate::graph::Graph;
use crate::ops::{Op, Primitive};
use crate::tensor::DType;

/// What engines hold beside the values alive: memory freed but not given back, and packed operands.
const SLACK: f64 = 1.3;

/// How much of `limit` bytes a run may use for the values of its graph: what is left beside the
/// process as it is now and the engine's copies of the parameters of `model`.
pub(crate) fn budget(limit: u64, model: &Graph) -> u64 {
    let parameters: u64 =
        model.parameters().map(|(_, p)| (p.tensor.len() * p.tensor.dtype().size()) as u64).sum();
    let taken = resident().unwrap_or(parameters) + 2 * parameters;
    (limit.saturating_sub(taken) as f64 / SLACK) as u64
}

/// The bytes of memory that this process holds, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The largest total size in bytes of the values alive at one moment, when nodes run in graph
/// order and a value is freed after its last use; parameters and constants are not counted.
pub fn peak_bytes(graph: &Graph) -> u64 {
    let live = graph.live();
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
    let bytes = |i: usize| {
        let node = &graph.nodes[i];
        match &node.op {
            Op::Parameter(_) | Op::Constant(_) => 0,
            // Views in both engines.
            Op::Apply(Primitive::Reshape(_) | Primitive::Detach(_)) => 0,
            _ => (node.fact.len() * node.fact.dtype.size()) as u64,
        }
    };
    // A reshape keeps what it is a view of alive.
    for (value, node) in graph.nodes().rev() {
        if let Op::Apply(Primitive::Reshape(_) | Primitive::Detach(_)) = &node.op {
            let source = node.inputs[0].index();
            last_use[source] = last_use[source].max(last_use[value.index()]);
        }
    }
    let mut dying: Vec<Vec<usize>> = vec![Vec::new(); graph.nodes().len()];
    let (mut now, mut peak) = (0u64, 0u64);
    for (value, node) in graph.nodes() {
        let i = value.index();
        if !live[i] {
            continue;
        }
        now += bytes(i);
        peak = peak.max(now + workspace(graph, i));
        if last_use[i] < dying.len() {
            dying[last_use[i].max(i)].push(i);
        }
        let _ = node;
        for dead in std::mem::take(&mut dying[i]) {
            now -= bytes(dead);
        }
    }
    peak
}

/// What a node needs beside its operands and result while it runs.
fn workspace(graph: &Graph, i: usize) -> u64 {
    let node = &graph.nodes[i];
    match &node.op {
        // The input unfolded over the kernel's positions.
        Op::Apply(Primitive::ConvWeightGrad(op)) => {
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
