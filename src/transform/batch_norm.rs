//! Deciding which statistics batch normalisation uses.

use crate::error::Result;
use crate::graph::{Builder, Graph};
use crate::ops::{BatchNorm, BatchNormMode, Op, Primitive};

/// `graph` with its batch normalisations using the statistics of `mode`, and the warnings that
/// this gives rise to. Running and sample statistics are decomposed into other operations; batch
/// statistics stay one node each, until `vmap` decomposes them.
///
/// A sample with a single position per channel has no variance: there the running statistics are
/// used, with a warning.
pub fn batch_norm(graph: &Graph, mode: BatchNormMode) -> Result<(Graph, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| {
        let Op::Apply(Primitive::BatchNorm(norm)) = &node.op else { return Ok(None) };
        let mut norm = BatchNorm { mode, ..*norm };
        let positions: usize =
            node.fact.shape.iter().product::<usize>() / node.fact.shape[1].max(1);
        if mode == BatchNormMode::Batch {
            return b.push(norm, inputs).map(Some);
        }
        if mode == BatchNormMode::Sample && positions == 1 {
            norm.mode = BatchNormMode::Running;
            warnings.push(format!(
                "batch normalisation '{}' sees one position per channel, whose variance is zero: \
                 the running statistics are used there",
                node.scope
            ));
        }
        norm.decompose(b, inputs, 1).map(Some)
    })?;
    for output in graph.outputs() {
        if let Some(value) = map[output.value.index()] {
            b.output(output.name.clone(), value);
        }
    }
    Ok((b.finish(), warnings))
}
