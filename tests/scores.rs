//! The scores that are made of whole batches against PyTorch's, computed in float64 from their
//! definitions by `scripts/make_score_references.py`, on both engines.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use gradalign::data::{self, Dataset, Samples};
use gradalign::engine::{self, Device, Engine, EngineChoice, EngineOptions, all_for_tests};
use gradalign::metric::{self, Metric, Options, RegionInputs, ZenForm};
use gradalign::ops::BatchNormMode;
use gradalign::probe::{
    BatchView, Features, Inputs, Memory, Network, Parameters, Roles, has_batch_norm,
};
use gradalign::score::{Resolved, ScoreValue, score, score_file};
use gradalign::tensor::Tensor;
use serde::Deserialize;
use support::{load, root, splitmix64};

/// Largest relative error of a score.
const TOLERANCE: f64 = 1e-3;

/// The same for sums of signs where some gradients are zero in exact arithmetic because of the values
/// of a sample: between batch normalisation by the sample's statistics and a global mean, a ReLU that
/// is active everywhere lets no gradient back. In float32 that is noise, whose signs count.
const NOISY_TOLERANCE: f64 = 1e-2;

/// The model where this happens.
const NOISY: &str = "models/keras-cnn.onnx";

/// Relative error of the singular values of the gradients beside the largest one, in float32. The
/// least one, whose square is the least eigenvalue of the tangent kernel, is wrong by this times
/// the square root of the condition number.
const GRADIENT_ERROR: f64 = 1e-6;

#[derive(Deserialize)]
struct Reference {
    model: PathBuf,
    data: PathBuf,
    /// By score, by what becomes of batch normalisation.
    scores: BTreeMap<String, BTreeMap<String, Option<Expected>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Value(f64),
    Eigenvalues { min: f64, max: f64 },
    Zen { paper: f64, reference: f64 },
}

fn references() -> Vec<Reference> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join("fixtures/scores"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let references: Vec<Reference> = paths.iter().map(read).collect();
    assert!(references.len() >= 8, "only {} references", references.len());
    references
}

fn mode(name: &str) -> Option<BatchNormMode> {
    match name {
        "running" => Some(BatchNormMode::Running),
        "sample" => Some(BatchNormMode::Sample),
        "batch" => Some(BatchNormMode::Batch),
        "removed" => None,
        other => panic!("unknown batch-norm mode {other}"),
    }
}

fn expect(context: &str, value: f64, expected: f64, tolerance: f64) {
    let error = (value - expected).abs() / expected.abs().max(1e-12);
    assert!(error <= tolerance, "{context}: {value} is not {expected}, relative error {error:.1e}");
}

/// The largest relative error of a score of a model.
fn tolerance(model: &Path, score: &str, mode: &str) -> f64 {
    let counts_signs = ["gradalign-1", "gradalign-2", "gradsign"].contains(&score);
    if counts_signs && mode == "sample" && model == Path::new(NOISY) {
        return NOISY_TOLERANCE;
    }
    TOLERANCE
}

/// Compares a score with the reference.
fn compare(context: &str, score: &ScoreValue, expected: Option<&Expected>, tolerance: f64) {
    match expected {
        None => {
            assert!(score.value.is_nan(), "{context}: {} where there is no value", score.value);
            assert!(score.reason.is_some(), "{context}: no reason");
        }
        Some(Expected::Value(expected)) => expect(context, score.value, *expected, tolerance),
        Some(Expected::Eigenvalues { min, max }) => {
            let condition = max / min;
            let tolerance = TOLERANCE.max(GRADIENT_ERROR * condition.sqrt());
            expect(context, score.value, -condition, tolerance);
        }
        Some(Expected::Zen { .. }) => panic!("{context}: not compared here"),
    }
}

/// All scores but zen, which draws its parameters.
fn check(reference: &Reference, engine: &dyn Engine) {
    let (graph, batch, loss) = load(&reference.model, &reference.data);
    for name in ["running", "sample", "batch", "removed"] {
        let mode = mode(name);
        let asked: Vec<(&str, Option<&Expected>)> = reference
            .scores
            .iter()
            .filter(|(score, _)| *score != "zen")
            .filter_map(|(score, by_mode)| Some((score.as_str(), by_mode.get(name)?.as_ref())))
            .collect();
        if asked.is_empty() {
            continue;
        }
        let names: Vec<&str> = asked.iter().map(|(score, _)| *score).collect();
        let settings = Resolved {
            // All of the models have one score at least, so that none fails as a whole.
            metrics: metric::select(&[&names[..], &["params"]].concat()).unwrap(),
            options: Options {
                batch_norm: mode,
                regions: RegionInputs::Samples,
                ..Options::default()
            },
            ..Resolved::default()
        };
        let scored = score(&graph, &batch, loss, &settings, engine).unwrap();
        for ((_, expected), score) in asked.iter().zip(&scored.scores) {
            let context = format!(
                "{} {} --bn {name} on {}",
                reference.model.display(),
                score.name,
                engine.describe().name
            );
            let tolerance = tolerance(&reference.model, score.name, name);
            compare(&context, score, *expected, tolerance);
            let treatment = score.batch_norm.map(|treatment| treatment.to_string());
            let expected = has_batch_norm(&graph).then(|| name.to_owned());
            assert_eq!(treatment, expected, "{context}");
        }
    }
}

#[test]
fn scores_are_those_of_pytorch() {
    for reference in references() {
        for engine in all_for_tests() {
            check(&reference, &*engine);
        }
    }
}

/// With kernels of its own an engine finds what it finds by standard operators alone.
#[test]
fn kernels_move_no_score() {
    let plain = EngineOptions { standard: true, device: Device::Cpu, ..EngineOptions::default() };
    for engine in all_for_tests() {
        if engine.describe().name != "onnxruntime" {
            continue;
        }
        let plain = engine::open(EngineChoice::Ort, &plain).unwrap();
        for reference in references() {
            let (graph, batch, loss) = load(&reference.model, &reference.data);
            for mode in ["running", "sample"] {
                if mode == "sample" && !has_batch_norm(&graph) {
                    continue;
                }
                let settings = Resolved {
                    metrics: metric::select(&["gradalign-1", "gradalign-2", "gradsign"]).unwrap(),
                    options: Options { batch_norm: self::mode(mode), ..Options::default() },
                    ..Resolved::default()
                };
                let find = |engine: &dyn Engine| {
                    score(&graph, &batch, loss, &settings, engine).unwrap().scores
                };
                for (ours, plain) in find(&*engine).iter().zip(find(&*plain)) {
                    let context = format!("{} {} {mode}", reference.model.display(), ours.name);
                    let tolerance = tolerance(&reference.model, ours.name, mode);
                    expect(&context, ours.value, plain.value, tolerance);
                }
            }
        }
    }
}

/// Every score of models with tied parameters, and of exports of other forms, is the same on all engines.
/// Where it is undefined, it is so on all of them.
#[test]
fn engines_agree_on_every_score() {
    const AGREEMENT: f64 = 1e-4;
    let samples = Samples::Count(NonZeroUsize::new(16).unwrap());
    let options = data::Options { samples, ..data::Options::default() };
    let dataset = Dataset::open("synthetic", &options).unwrap();
    let settings = Resolved { metrics: metric::all().to_vec(), ..Resolved::default() };
    let mut models: Vec<PathBuf> = ["fixtures/ties", "fixtures/extra"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    models.sort();
    assert!(models.len() >= 25, "only {} models", models.len());
    let engines = all_for_tests();
    for model in &models {
        let find = |engine: &dyn Engine| {
            score_file(model, &dataset, &settings, engine)
                .unwrap_or_else(|e| panic!("{}: {e}", model.display()))
                .scores
        };
        let first = find(&*engines[0]);
        for engine in &engines[1..] {
            for (one, other) in first.iter().zip(find(&**engine)) {
                let context = format!("{} {}", model.display(), one.name);
                if one.value.is_finite() || other.value.is_finite() {
                    expect(&context, other.value, one.value, AGREEMENT);
                }
            }
        }
    }
}

/// Numbers in [-1, 1) that float32 holds exactly.
fn uniform(i: usize, stream: u64) -> f64 {
    (splitmix64(i as u64 + (stream << 32)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

/// Zen's pass over the weights of the file and inputs that PyTorch is given as well.
#[test]
fn zen_is_that_of_pytorch() {
    const LANES: usize = 16;
    let zen: &dyn Metric = metric::select(&["zen"]).unwrap()[0];
    for reference in references() {
        let (graph, _, loss) = load(&reference.model, &reference.data);
        let expected = reference.scores["zen"].values().next().unwrap();
        let Some(Expected::Zen { paper, reference: published }) = expected else {
            panic!("{}: zen has two forms", reference.model.display());
        };
        let roles = Roles::of(&graph);
        let input = graph.shape(graph.inputs()[0]).to_vec();
        let size = LANES * input.iter().product::<usize>();
        let moved = (0..2 * size).map(|i| {
            let (half, i) = (i / size, i % size);
            (uniform(i, 0) + half as f64 * 0.01 * uniform(i, 1)) as f32
        });
        let shape = [&[2, LANES], &input[1..]].concat();
        let inputs = [Tensor::f32(&shape, moved.collect()).unwrap()];
        for engine in all_for_tests() {
            for (form, expected) in [(ZenForm::Paper, paper), (ZenForm::Reference, published)] {
                let options = Options { zen: form, ..Options::default() };
                let perturbed = Inputs::Perturbed { count: LANES, alpha: 0.01.into() };
                let view = BatchView::new(Parameters::Given, perturbed, BatchNormMode::Batch)
                    .with_features(Features::Found);
                let network = Network::new(&graph, &roles, &view, loss, LANES).unwrap();
                let probe = zen.probe(&options).unwrap();
                let value = probe.on(network, &inputs, Memory::default(), &*engine).unwrap().value;
                let context = format!("{} zen {form:?}", reference.model.display());
                // A logarithm: its absolute error is the relative one of what it is taken of.
                assert!((value - expected).abs() < TOLERANCE, "{context}: {value}, not {expected}");
            }
        }
    }
}
