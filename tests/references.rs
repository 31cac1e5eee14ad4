//! Gradients and scores of every shipped model against PyTorch's, computed in float64 by
//! `scripts/make_references.py` in a loop over single samples.
//!
//! Gradients are compared by sketches: the reference holds 16 projections of each gradient on
//! random signs, and the root mean square of the projections of a difference estimates its norm.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use gradalign::data::{Dataset, Options, Samples};
use gradalign::emit::emit_bytes;
use gradalign::engine::{Compiled, Engine, all_for_tests};
use gradalign::graph::Graph;
use gradalign::metric;
use gradalign::ops::BatchNormMode;
use gradalign::probe::Batch;
use gradalign::score::{Resolved, prepare, score};
use gradalign::tensor::Tensor;
use gradalign::transform::{Loss, batch_norm};
use gradalign::transform::{Reduction, training_graph};
use serde::Deserialize;
use support::{load, root, splitmix64};

/// Largest relative error in norm of a gradient.
const TOLERANCE: f64 = 1e-4;

/// Gradients smaller than this share of the sample's largest are compared with the largest.
const NEGLIGIBLE: f64 = 1e-6;

/// Largest relative error of a score.
const SCORE_TOLERANCE: f64 = 1e-3;

/// The same where some gradients are zero in exact arithmetic because of the values of a sample:
/// between batch normalisation by the sample's statistics and a global mean, a ReLU that is active
/// everywhere lets no gradient back. In float32 that is noise, whose signs count.
const NOISY_SCORE_TOLERANCE: f64 = 1e-2;

#[derive(Deserialize)]
struct Reference {
    model: PathBuf,
    data: PathBuf,
    parameters: u64,
    bn: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    loss: Vec<f64>,
    batch_loss: f64,
    #[serde(rename = "gradalign-1")]
    gradalign_1: Option<f64>,
    #[serde(rename = "gradalign-2")]
    gradalign_2: Option<f64>,
    gradients: BTreeMap<String, Gradient>,
    /// Half-open ranges of the elements whose gradient is zero in exact arithmetic.
    structurally_zero: BTreeMap<String, Vec<[usize; 2]>>,
    /// Entries of the gradient matrix that are zero in exact arithmetic for some samples only.
    noisy_entries: u64,
}

impl Expected {
    /// What the error of a gradient is measured by: its own norm, unless that is negligible beside
    /// the sample's largest, or rounding noise alone.
    fn scale(&self, parameter: &str, norm: f64, size: usize, largest: f64) -> f64 {
        let ranges = self.structurally_zero.get(parameter);
        let zeros: usize = ranges.iter().flat_map(|r| r.iter()).map(|[a, b]| b - a).sum();
        if zeros == size { largest } else { norm.max(NEGLIGIBLE * largest) }
    }
}

#[derive(Deserialize)]
struct Gradient {
    norm: Vec<f64>,
    sketch: Vec<[f64; 16]>,
    batch: BatchGradient,
}

#[derive(Deserialize)]
struct BatchGradient {
    norm: f64,
    sketch: [f64; 16],
}

fn references() -> Vec<Reference> {
    let folder = root().join("fixtures/references");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let references: Vec<Reference> = paths.iter().map(read).collect();
    assert!(references.len() >= 10, "only {} references", references.len());
    references
}

fn mode(name: &str) -> BatchNormMode {
    match name {
        "running" => BatchNormMode::Running,
        "sample" => BatchNormMode::Sample,
        other => panic!("unknown batch-norm mode {other}"),
    }
}

fn sketch(gradient: &[f64]) -> [f64; 16] {
    std::array::from_fn(|k| {
        let sign = |i: usize| {
            let bit = splitmix64(((k as u64) << 32) + i as u64) >> 63;
            if bit == 0 { 1.0 } else { -1.0 }
        };
        gradient.iter().enumerate().map(|(i, g)| sign(i) * g).sum()
    })
}

/// The estimated norm of the difference of two sketched gradients.
fn distance(a: &[f64; 16], b: &[f64; 16]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum();
    (squares / 16.0).sqrt()
}

fn run(engine: &dyn Engine, graph: &Graph, inputs: &[Tensor]) -> BTreeMap<String, Tensor> {
    let mut session = engine.load(&Compiled::from_onnx(emit_bytes(graph).unwrap())).unwrap();
    let outputs = session.run(inputs).unwrap();
    graph.outputs().iter().map(|o| o.name.clone()).zip(outputs).collect()
}

/// The first `n` samples, as the inputs of a training graph.
fn first(batch: &Batch, n: usize) -> Vec<Tensor> {
    let rows = |t: &Tensor| {
        let values = t.to_f64().slice_axis(ndarray::Axis(0), (0..n).into()).to_owned();
        Tensor::from_f64(values, t.dtype())
    };
    batch.inputs.iter().chain([&batch.targets]).map(rows).collect()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1e-12)
}

#[test]
fn per_sample_gradients_are_those_of_pytorch() {
    for reference in references() {
        let (model, batch, loss) = load(&reference.model, &reference.data);
        for (name, expected) in &reference.bn {
            let n = expected.loss.len();
            let graph = batch_norm(&model, mode(name)).unwrap().0.graph;
            let training = training_graph(&graph, loss, n, Reduction::PerSample).unwrap();
            for engine in all_for_tests() {
                let at =
                    format!("{} ({name}) on {}", reference.model.display(), engine.describe().name);
                let outputs = run(&*engine, &training.graph, &first(&batch, n));
                for (value, expected) in outputs["loss"].to_f64().iter().zip(&expected.loss) {
                    assert!(close(*value, *expected, TOLERANCE), "{at}: loss {value} {expected}");
                }
                assert_eq!(outputs.len(), expected.gradients.len() + 1, "{at}: parameters");
                for sample in 0..n {
                    let norms = expected.gradients.values().map(|g| g.norm[sample]);
                    let largest = norms.fold(0.0, f64::max);
                    for (parameter, gradient) in &expected.gradients {
                        let all = outputs[&format!("grad.{parameter}")].to_f64();
                        let own = all.index_axis(ndarray::Axis(0), sample);
                        let own: Vec<f64> = own.iter().copied().collect();
                        let error = distance(&sketch(&own), &gradient.sketch[sample])
                            / expected.scale(parameter, gradient.norm[sample], own.len(), largest);
                        assert!(error < TOLERANCE, "{at}: {parameter}, sample {sample}: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn batch_gradients_are_those_of_pytorch() {
    for reference in references() {
        let (model, batch, loss) = load(&reference.model, &reference.data);
        for (name, expected) in &reference.bn {
            let n = expected.loss.len();
            let graph = batch_norm(&model, mode(name)).unwrap().0.graph;
            let training = training_graph(&graph, loss, n, Reduction::Mean).unwrap();
            for engine in all_for_tests() {
                let at =
                    format!("{} ({name}) on {}", reference.model.display(), engine.describe().name);
                let outputs = run(&*engine, &training.graph, &first(&batch, n));
                let value = outputs["loss"].scalar().unwrap();
                assert!(close(value, expected.batch_loss, TOLERANCE), "{at}: loss {value}");
                let norms = expected.gradients.values().map(|g| g.batch.norm);
                let largest = norms.fold(0.0, f64::max);
                for (parameter, gradient) in &expected.gradients {
                    let own = outputs[&format!("grad.{parameter}")].to_f64();
                    let own: Vec<f64> = own.iter().copied().collect();
                    let error = distance(&sketch(&own), &gradient.batch.sketch)
                        / expected.scale(parameter, gradient.batch.norm, own.len(), largest);
                    assert!(error < TOLERANCE, "{at}: {parameter}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn scores_are_those_of_pytorch() {
    for reference in references() {
        let (model, batch, loss) = load(&reference.model, &reference.data);
        for (name, expected) in &reference.bn {
            for engine in all_for_tests() {
                let at =
                    format!("{} ({name}) on {}", reference.model.display(), engine.describe().name);
                let options =
                    metric::Options { batch_norm: Some(mode(name)), ..metric::Options::default() };
                let settings = Resolved { options, ..Resolved::default() };
                let scored = score(&model, &batch, loss, &settings, &*engine).unwrap();
                assert_eq!(scored.size.parameters, reference.parameters, "{at}");
                let wanted = [expected.gradalign_1, expected.gradalign_2];
                let tolerance = if expected.noisy_entries > 0 {
                    NOISY_SCORE_TOLERANCE
                } else {
                    SCORE_TOLERANCE
                };
                for (score, wanted) in scored.scores.iter().zip(wanted) {
                    let value = score.value;
                    match wanted {
                        Some(wanted) => assert!(
                            close(value, wanted, tolerance),
                            "{at}: {} is {value}, PyTorch has {wanted}",
                            score.name
                        ),
                        None => assert!(!value.is_finite(), "{at}: {} is {value}", score.name),
                    }
                }
            }
        }
    }
}

/// `keras-cnn` ends in a softmax, which belongs to a cross-entropy and not to a mean squared error.
#[test]
fn the_final_activation_is_part_of_the_output_for_a_squared_error() {
    let options = Options { samples: Samples::All, ..Options::default() };
    let data = root().join("fixtures/digits-30.npz");
    let dataset = Dataset::open(data.to_str().unwrap(), &options).unwrap();
    let model = gradalign::onnx::load(root().join("models/keras-cnn.onnx")).unwrap();
    for (loss, is_distribution) in [
        (None, false),
        (Some(Loss::CrossEntropy), false),
        (Some(Loss::BinaryCrossEntropy), false),
        (Some(Loss::MeanSquaredError), true),
    ] {
        let settings = Resolved { loss, ..Resolved::default() };
        let (imported, batch, ..) = prepare(&model, &dataset, &settings).unwrap();
        let first = batch.inputs[0].to_f64();
        let first = first.slice_axis(ndarray::Axis(0), (0..1).into()).to_owned();
        let first = Tensor::from_f64(first, batch.inputs[0].dtype());
        let output = gradalign::graph::eval(&imported.graph, &[first]).unwrap()[0].to_f64();
        assert_eq!((output.sum() - 1.0).abs() < 1e-6, is_distribution, "{loss:?}: {output}");
        assert_eq!(imported.final_activation.is_none(), is_distribution);
    }
}
