//! Deciding which statistics batch normalisation uses.

use super::means::known_mean;
use super::shifts::without_shifts;
use crate::error::Result;
use crate::graph::{Builder, Derived, Graph};
use crate::ops::{BatchNorm, BatchNormMode, Op, Primitive};

/// `graph` with its batch normalisations using the statistics of `mode`, and the warnings that
/// this gives rise to. Running and sample statistics are decomposed into other operations; batch
/// statistics stay one node each, until `vmap` decomposes them.
///
/// A sample with a single position per channel has no variance: there the running statistics are
/// used, with a warning.
///
/// Subtracting a mean takes out what is the same at all positions, such as the bias of the layer
/// before. Such summands are left out in front of every normalisation and softmax, so that their
/// parameters have no gradient rather than one of rounding noise; with running statistics, so are
/// means over positions of what another normalisation has centred over them.
pub fn batch_norm(graph: &Graph, mode: BatchNormMode) -> Result<(Derived, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| {
        let Op::Apply(Primitive::BatchNorm(norm)) = &node.op else {
            return match mode {
                BatchNormMode::Running => known_mean(b, node, inputs),
                BatchNormMode::Sample | BatchNormMode::Batch => Ok(None),
            };
        };
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
        norm.in_primitives(b, inputs, 1).map(Some)
    })?;
    b.copy_outputs(graph, &map)?;
    let next = without_shifts(&b.finish().verified())?;
    Ok((Derived { map: map.then(&next.map), graph: next.graph }, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval};
    use crate::tensor::{DType, Tensor};

    /// `batch_norm(x + bias)` on `[1, 2, 3]`.
    fn model() -> Graph {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 2, 3]));
        let bias = b.parameter("bias", Tensor::f64(&[2, 1], vec![3.0, -1.0]).unwrap());
        let shifted = b.add(x, bias).unwrap();
        let vector =
            |b: &mut Builder, v: [f64; 2]| b.constant(Tensor::f64(&[2], v.into()).unwrap());
        let scale = vector(&mut b, [2.0, 1.0]);
        let shift = vector(&mut b, [0.5, 0.0]);
        let mean = vector(&mut b, [1.0, 2.0]);
        let variance = vector(&mut b, [4.0, 1.0]);
        let norm = BatchNorm { epsilon: 0.0.into(), mode: BatchNormMode::Running };
        let y = b.push(norm, &[shifted, scale, shift, mean, variance]).unwrap();
        b.output("y", y);
        b.finish()
    }

    fn run(mode: BatchNormMode) -> (Graph, Vec<f64>) {
        let (Derived { graph, .. }, warnings) = batch_norm(&model(), mode).unwrap();
        assert!(warnings.is_empty());
        let x = Tensor::f64(&[1, 2, 3], vec![0.0, 1.0, 2.0, 4.0, 4.0, 7.0]).unwrap();
        let y = eval(&graph, &[x]).unwrap();
        let y = y[0].to_f64().into_raw_vec_and_offset().0;
        (graph, y)
    }

    #[test]
    fn running_statistics_are_those_of_the_file() {
        let (_, y) = run(BatchNormMode::Running);
        assert_eq!(y, [2.5, 3.5, 4.5, 1.0, 1.0, 4.0]);
    }

    #[test]
    fn sample_statistics_are_over_positions_and_take_out_the_bias() {
        let (graph, y) = run(BatchNormMode::Sample);
        let r = 1.5f64.sqrt();
        let q = 2f64.sqrt();
        for (v, expected) in y.iter().zip([0.5 - 2.0 * r, 0.5, 0.5 + 2.0 * r, -1. / q, -1. / q, q])
        {
            assert!((v - expected).abs() < 1e-12, "{v} {expected}");
        }
        assert_eq!(graph.pruned().parameters().count(), 0);
    }

    #[test]
    fn a_single_position_falls_back_with_a_warning() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 2]));
        let ones = b.constant(Tensor::full(DType::F64, &[2], 1.0));
        let norm = BatchNorm { epsilon: 0.0.into(), mode: BatchNormMode::Running };
        let y = b.push(norm, &[x, ones, ones, ones, ones]).unwrap();
        b.output("y", y);
        let (_, warnings) = batch_norm(&b.finish(), BatchNormMode::Sample).unwrap();
        assert!(warnings[0].contains("running statistics"));
    }
}
