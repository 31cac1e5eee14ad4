//! Writing a graph for ONNX Runtime.

use super::cuda::Cuda;
use super::kernels::{Kernels, with_kernels};
use crate::engine::Compiled;
use crate::engine::compiled::{self, peak_bytes, specialised};
use crate::error::Result;
use crate::graph::Graph;

/// Which operators a graph is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OperatorSet {
    /// Standard ones, as for any other runtime.
    #[default]
    Standard,
    /// Standard ones, so that a CUDA device finds what all others find.
    Cuda,
    /// Standard ones and this project's kernels for the CPU.
    Kernels,
}

/// `graph` in these operators.
pub(crate) fn compile(graph: &Graph, operators: OperatorSet) -> Result<Compiled> {
    match operators {
        OperatorSet::Standard => Compiled::standard(graph),
        OperatorSet::Cuda => {
            let written = specialised(graph, |b, op, inputs| op.rule().decompose(b, inputs))?;
            Compiled::new(&written, &Cuda, peak_bytes(graph, &compiled::Standard))
        }
        OperatorSet::Kernels => {
            let written = specialised(graph, with_kernels)?;
            let peak = peak_bytes(graph, &Kernels::of(graph));
            Compiled::new(&written, &Kernels::of(&written), peak)
        }
    }
}
