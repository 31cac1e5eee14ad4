//! Whether a model's outputs turn out to be probabilities where the loss expects logits.

use ndarray::Axis;

use super::Resolved;
use crate::engine::Engine;
use crate::error::Result;
use crate::graph::Graph;
use crate::import::{Imported, bounds};
use crate::ops::BatchNormMode;
use crate::probe::{Batch, BatchView, Probe, Roles, Subject, evaluate};
use crate::transform::Loss;

/// How many samples are looked at.
const SAMPLES: usize = 16;

/// How far float32 may be off.
const TOLERANCE: f64 = 1e-4;

/// A warning where the outputs look like probabilities on real samples though no activation was
/// recognised at the end of the model. What ends in a linear layer, as nearly all models do, is
/// known not to be probabilities; only others are run, once, on a few samples.
pub(super) fn taken_for_logits(
    imported: &Imported,
    batch: &Batch,
    loss: Loss,
    settings: &Resolved,
    engine: &dyn Engine,
) -> Option<String> {
    let graph = &imported.graph;
    let output = graph.outputs().first()?.value;
    let bounds = bounds(graph, output);
    let is_open = imported.final_activation.is_none() && !settings.import.keep_activation;
    // The import has warned of those that are probabilities whatever the samples.
    if !is_open || !loss.is_of_logits() || bounds.low.is_infinite() || bounds.is_probability() {
        return None;
    }
    match look_like_probabilities(graph, batch, loss, settings, engine) {
        Ok(Some(sign)) => Some(format!(
            "the outputs '{}' {sign} on all samples looked at: they seem to be probabilities, which \
             are taken for logits here since the activation that makes them is not recognised; take \
             what goes into it, by `tensor` NAME",
            imported.output
        )),
        Ok(None) => None,
        Err(error) => {
            tracing::debug!("the outputs could not be looked at: {error}");
            None
        }
    }
}

/// What shows that the outputs are probabilities, in words.
fn look_like_probabilities(
    graph: &Graph,
    batch: &Batch,
    loss: Loss,
    settings: &Resolved,
    engine: &dyn Engine,
) -> Result<Option<&'static str>> {
    let batch = batch.thinned(SAMPLES)?;
    let probe = Probe::of_batch(BatchView::samples(BatchNormMode::Running), |network| {
        let outputs = network.outputs();
        let outputs = network.tensor(outputs);
        Ok(Box::new(move |results| Ok(results.get(outputs)?.to_f64())))
    });
    let (roles, seed, memory) = (&Roles::of(graph), settings.seed, settings.memory);
    let subject = Subject { model: graph, roles, samples: &batch, loss, seed, memory, engine };
    let Some(outputs) = evaluate(&[&probe], &subject, &mut Vec::new()).pop().transpose()? else {
        return Ok(None);
    };
    let within = |&v: &f64| (-TOLERANCE..=1.0 + TOLERANCE).contains(&v);
    if outputs.is_empty() || !outputs.iter().all(within) {
        return Ok(None);
    }
    // Positions have their classes last; otherwise the first axis of several elements, after that
    // of the samples, holds the classes.
    let axis = match loss {
        Loss::BinaryCrossEntropy => return Ok(Some("lie between 0 and 1")),
        Loss::TokenCrossEntropy => outputs.ndim().checked_sub(1),
        _ => (1..outputs.ndim()).find(|&i| outputs.shape()[i] > 1),
    };
    let sums = axis.map(|axis| outputs.sum_axis(Axis(axis)));
    let sums_to_one = |sum: &f64| (sum - 1.0).abs() <= TOLERANCE;
    let sum_to_one = sums.is_some_and(|sums| sums.iter().all(sums_to_one));
    Ok(sum_to_one.then_some("are positive and sum to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::all_for_tests;
    use crate::import::made::Made;
    use crate::import::{ImportOptions, import};
    use crate::onnx::DataType;
    use crate::tensor::Tensor;

    /// What is said, on every engine alike, of a linear model with `end` behind its logits `z`.
    fn said(end: &str, loss: Loss) -> Option<String> {
        let ones = Tensor::f32(&[3, 1], vec![1.0; 3]).unwrap();
        let model = Made::new(&[0, 4])
            .weight("w", &[4, 3])
            .store("ones", DataType::Float, ones)
            .scalar("hundred", 100.0)
            .nodes("MatMul x w -> z")
            .nodes(&end.replace("; ", "\n"))
            .output("y");
        let imported = import(&model, &ImportOptions::default()).unwrap();
        assert_eq!((&imported.warnings[..], imported.final_activation), (&[][..], None), "{end}");
        let n = 20;
        let x = (0..n * 4).map(|i: usize| (1.7 * i as f32).cos()).collect();
        let targets = match loss {
            Loss::CrossEntropy => Tensor::index((0..n as i64).map(|i| i % 3)),
            _ => Tensor::f32(&[n, 3], vec![0.0; 3 * n]).unwrap(),
        };
        let inputs = vec![Tensor::f32(&[n, 4], x).unwrap()];
        let batch = Batch { inputs, targets, classes: vec![0; n] };
        let settings = Resolved::default();
        let said: Vec<_> = all_for_tests()
            .iter()
            .map(|engine| taken_for_logits(&imported, &batch, loss, &settings, &**engine))
            .collect();
        assert!(said.iter().all(|s| *s == said[0]), "{end}: {said:?}");
        said[0].clone()
    }

    #[test]
    fn outputs_that_turn_out_to_be_probabilities_are_warned_of() {
        // A softmax whose sum is a product with ones is not recognised.
        let softmax = "Exp z -> e; MatMul e ones -> t; Log t -> s; Sub z s -> l; Exp l -> y";
        let square = "Mul z z -> q; Div q hundred -> y";
        let (classes, binary) = (Loss::CrossEntropy, Loss::BinaryCrossEntropy);
        for (end, loss, wanted) in [
            (softmax, classes, Some("sum to 1")),
            (square, binary, Some("between 0 and 1")),
            (square, classes, None),
            ("Exp z -> y", classes, None),
            ("Exp z -> y", binary, None),
            ("Relu z -> r; Mul r hundred -> y", binary, None),
            ("Identity z -> y", classes, None),
            (softmax, Loss::MeanSquaredError, None),
        ] {
            match (said(end, loss), wanted) {
                (Some(said), Some(wanted)) => assert!(said.contains(wanted), "{end}: {said}"),
                (None, None) => {}
                (said, _) => panic!("{end} with {loss}: {said:?}"),
            }
        }
    }
}
