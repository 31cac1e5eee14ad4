//! What every score makes of degenerate models and data, and identities that tie scores to the
//! models they are computed from. Values of real models are compared with PyTorch's in
//! `tests/scores.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::engine::{Compiled, Description, Engine, Session, all_for_tests};
use crate::graph::{Builder, Fact, Graph};
use crate::ops::{BatchNorm, Window};
use crate::probe::{Batch, Memory};
use crate::score::{Resolved, Scored, score};
use crate::tensor::DType;
use crate::transform::Loss;

const SAMPLES: usize = 6;
const CLASSES: usize = 3;

fn values(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 613 + 13) % 101) as f32 / 50.0 - 1.0;
    Tensor::f32(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

/// How a small network is damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    None,
    /// The features are multiplied by zero: nothing reaches the output but the last bias.
    Cut,
    /// The output does not depend on the features at all.
    Disconnected,
    /// All weights are zero.
    ZeroWeights,
    /// There is no rectifier, normalisation or convolution.
    Linear,
    /// Weights so large that float32 overflows.
    Huge,
}

/// Convolution, batch normalisation, ReLU, global mean, linear layer.
fn model(damage: Damage) -> Graph {
    let weights = |shape: &[usize], seed: usize| match damage {
        Damage::ZeroWeights => Tensor::full(DType::F32, shape, 0.0),
        Damage::Huge => {
            Tensor::from_f64(values(shape, seed).to_f64().mapv(|v| v * 1e30), DType::F32)
        }
        _ => values(shape, seed),
    };
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 2, 4, 4]));
    b.set_scope("features");
    let features = if damage == Damage::Linear {
        b.reshape(x, &[1, 32]).unwrap()
    } else if damage == Damage::Disconnected {
        b.constant(Tensor::full(DType::F32, &[1, 5], 0.0))
    } else {
        let w = b.parameter("conv.weight", weights(&[5, 2, 3, 3], 1));
        let window = Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::plain(2) };
        let y = b.conv(x, w, window).unwrap();
        let scale = b.parameter("norm.weight", Tensor::full(DType::F32, &[5], 1.0));
        let shift = b.parameter("norm.bias", Tensor::full(DType::F32, &[5], 0.0));
        let mean = b.constant(Tensor::full(DType::F32, &[5], 0.0));
        let variance = b.constant(Tensor::full(DType::F32, &[5], 1.0));
        let norm = BatchNorm { epsilon: 1e-5.into(), mode: BatchNormMode::Running };
        let y = b.push(norm, &[y, scale, shift, mean, variance]).unwrap();
        let y = b.relu(y).unwrap();
        let y = if damage == Damage::Cut { b.scale(y, 0.0).unwrap() } else { y };
        let y = b.reduce_mean(y, &[2, 3]).unwrap();
        b.reshape(y, &[1, 5]).unwrap()
    };
    b.set_scope("head");
    let width = b.shape(features)[1];
    let w = b.parameter("head.weight", weights(&[width, CLASSES], 2));
    let bias = b.parameter("head.bias", values(&[CLASSES], 3));
    let y = b.matmul(features, w).unwrap();
    let y = b.add(y, bias).unwrap();
    b.output("logits", y);
    b.finish()
}

fn batch(inputs: Tensor, classes: [i64; SAMPLES]) -> Batch {
    Batch { inputs: vec![inputs], targets: Tensor::index(classes), classes: classes.to_vec() }
}

fn inputs() -> Tensor {
    let noise = |i: usize| (((i * i * 31 + i * 17 + 7) % 1009) as f32 / 500.0) - 1.0;
    Tensor::f32(&[SAMPLES, 2, 4, 4], (0..SAMPLES * 32).map(noise).collect()).unwrap()
}

/// The same sample throughout.
fn one_input() -> Tensor {
    let first = inputs().to_f64();
    let first = first.index_axis(ndarray::Axis(0), 0);
    let shape = [SAMPLES, 2, 4, 4];
    Tensor::from_f64(first.broadcast(ndarray::IxDyn(&shape)).unwrap().to_owned(), DType::F32)
}

const BALANCED: [i64; SAMPLES] = [0, 1, 2, 0, 1, 2];

/// Every score, on each engine.
fn all_scores(model: &Graph, batch: &Batch) -> Vec<Scored> {
    let settings = Resolved { metrics: select(&["all"]).unwrap(), ..Resolved::default() };
    all_for_tests()
        .iter()
        .map(|engine| score(model, batch, Loss::CrossEntropy, &settings, &**engine).unwrap())
        .collect()
}

/// What is expected of a score.
#[derive(Clone, Copy)]
enum Expected {
    /// Not a number, for a reason, or an infinite one with a warning, that contains this.
    Null(&'static str),
    Zero,
    Finite,
}
use Expected::{Finite, Null, Zero};

fn expect(model: &Graph, batch: &Batch, expected: &[(&str, Expected)]) {
    for scored in all_scores(model, batch) {
        for score in &scored.scores {
            let name = score.name;
            let value = score.value;
            let reason = score.reason.clone().unwrap_or_default();
            match expected.iter().find(|(expected, _)| *expected == name) {
                Some((_, Null(why))) => {
                    assert!(!value.is_finite(), "{name} is {value}");
                    let told = scored.warnings.iter().chain([&reason]).any(|w| w.contains(why));
                    assert!(told, "{name}: {reason:?}, {:?}", scored.warnings);
                }
                Some((_, Zero)) => assert_eq!(value, 0.0, "{name} {reason}"),
                Some((_, Finite)) | None => {
                    assert!(value.is_finite(), "{name} is {value}: {reason}");
                }
            }
        }
    }
}

#[test]
fn every_score_has_a_value_on_a_sound_model() {
    expect(&model(Damage::None), &batch(inputs(), BALANCED), &[]);
}

/// Of a network in which no gradient reaches a weight, or the input.
const UNREACHED: [(&str, Expected); 10] = [
    ("gradalign-2", Null("singular")),
    ("gradsign", Zero),
    ("zico-samples", Null("no gradient of a weight varies")),
    ("te-nas", Null("singular")),
    ("te-nas-ntk", Null("singular")),
    ("grad-norm", Zero),
    ("snip", Zero),
    ("grasp", Zero),
    ("synflow", Null("no flow")),
    ("jacob-cov", Null("constant for 6 of 6")),
];

#[test]
fn a_disconnected_network() {
    let own = [
        ("naswot", Null("no rectifier")),
        ("te-nas-regions", Null("no rectifier")),
        ("zen", Null("do not move")),
    ];
    let expected = [&UNREACHED[..], &own].concat();
    expect(&model(Damage::Disconnected), &batch(inputs(), BALANCED), &expected);
}

#[test]
fn a_network_cut_by_a_factor_of_zero() {
    // Rectifiers in front of the cut are looked at all the same.
    let expected = [&UNREACHED[..], &[("zen", Null("do not move"))]].concat();
    expect(&model(Damage::Cut), &batch(inputs(), BALANCED), &expected);
}

#[test]
fn zero_weights() {
    // The last bias alone has a gradient, and is what fisher sees in its layer's output. Zen draws
    // its own weights.
    let expected = [&UNREACHED[..], &[("naswot", Null("singular"))]].concat();
    expect(&model(Damage::ZeroWeights), &batch(inputs(), BALANCED), &expected);
}

#[test]
fn singular_kernels() {
    let expected = [
        ("gradalign-2", Null("singular")),
        ("naswot", Null("same activation pattern")),
        ("te-nas", Null("singular in float32")),
        ("te-nas-ntk", Null("singular in float32")),
    ];
    expect(&model(Damage::None), &batch(one_input(), BALANCED), &expected);
}

#[test]
fn one_class() {
    expect(&model(Damage::None), &batch(inputs(), [1; SAMPLES]), &[]);
}

#[test]
fn a_network_without_rectifiers() {
    let expected = [
        ("naswot", Null("no rectifier")),
        ("te-nas", Null("no rectifier")),
        ("te-nas-regions", Null("no rectifier")),
        // The gradient of a linear function is the same everywhere.
        ("jacob-cov", Finite),
    ];
    expect(&model(Damage::Linear), &batch(inputs(), BALANCED), &expected);
}

#[test]
fn numbers_out_of_range_are_not_reported() {
    for scored in all_scores(&model(Damage::Huge), &batch(inputs(), BALANCED)) {
        for score in &scored.scores {
            let value = score.value;
            // What is computed in spite of it is no larger than float32 holds; synflow is a
            // logarithm, of a scaled computation.
            assert!(!value.is_finite() || value.abs() < 1e32, "{} is {value}", score.name);
            if score.name == "synflow" {
                assert!(value.is_finite());
            }
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_into_memory_costs_its_scores() {
    let settings = Resolved {
        metrics: select(&["snip", "te-nas-ntk", "params"]).unwrap(),
        memory: Memory::up_to(1 << 10),
        ..Resolved::default()
    };
    let (model, batch) = (model(Damage::None), batch(inputs(), BALANCED));
    for engine in all_for_tests() {
        let scored = score(&model, &batch, Loss::CrossEntropy, &settings, &*engine).unwrap();
        for score in &scored.scores[..2] {
            assert!(score.reason.as_ref().is_some_and(|r| r.contains("`memory`")), "{score:?}");
        }
        assert!(scored.scores[2].value > 0.0);
    }
}

#[test]
fn synflow_is_conserved() {
    // Without biases each layer passes on the whole flow: two layers have twice the output.
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 7]));
    let (w, v) = (values(&[7, 5], 1), values(&[5, CLASSES], 2));
    let (first, second) = (b.parameter("w", w.clone()), b.parameter("v", v.clone()));
    let y = b.matmul(x, first).unwrap();
    let y = b.relu(y).unwrap();
    let y = b.matmul(y, second).unwrap();
    b.output("logits", y);
    let model = b.finish();
    let absolute = |t: &Tensor| t.to_f64().mapv(f64::abs).into_dimensionality().unwrap();
    let (w, v): (Array2<f64>, Array2<f64>) = (absolute(&w), absolute(&v));
    let flow = w.sum_axis(ndarray::Axis(0)).dot(&v).sum();
    let settings = Resolved { metrics: select(&["synflow"]).unwrap(), ..Resolved::default() };
    let batch = batch(values(&[SAMPLES, 7], 5), BALANCED);
    for engine in all_for_tests() {
        let scored = score(&model, &batch, Loss::CrossEntropy, &settings, &*engine).unwrap();
        let value = scored.scores[0].value;
        assert!((value - (2.0 * flow).ln()).abs() < 1e-5, "{value} {}", (2.0 * flow).ln());
    }
}

/// An engine that counts the sessions it makes.
struct Counting {
    inner: Box<dyn Engine>,
    sessions: AtomicUsize,
}

impl Engine for Counting {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn load(&self, model: &Compiled) -> Result<Box<dyn Session>> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.inner.load(model)
    }
}

#[test]
fn scores_that_are_shown_the_same_share_a_session() {
    let (model, batch) = (model(Damage::None), batch(inputs(), BALANCED));
    for inner in all_for_tests() {
        let engine = Counting { inner, sessions: AtomicUsize::new(0) };
        let sessions = |names: &[&str], options: Options| {
            let settings =
                Resolved { metrics: select(names).unwrap(), options, ..Resolved::default() };
            engine.sessions.store(0, Ordering::Relaxed);
            score(&model, &batch, Loss::CrossEntropy, &settings, &engine).unwrap();
            engine.sessions.load(Ordering::Relaxed)
        };
        let default = Options::default;
        let running = Options { batch_norm: Some(BatchNormMode::Running), ..Options::default() };
        let samples = Options { regions: RegionInputs::Samples, ..Options::default() };
        assert_eq!(sessions(&["gradalign-1", "gradalign-2"], default()), 1);
        assert_eq!(sessions(&["gradalign-1", "gradalign-2", "gradsign"], default()), 2);
        assert_eq!(sessions(&["gradalign-1", "gradalign-2", "gradsign"], running), 1);
        assert_eq!(sessions(&["naswot", "snip", "grad-norm", "fisher", "grasp"], default()), 1);
        assert_eq!(sessions(&["naswot", "te-nas-regions"], default()), 2);
        assert_eq!(sessions(&["naswot", "te-nas-regions"], samples), 1);
        // Two of per-sample gradients, the batch, the kernel, the regions, zen and synflow.
        assert_eq!(sessions(&["paper"], default()), 7);
        assert_eq!(sessions(&["params", "flops"], default()), 0);
    }
}

#[test]
fn repeats_vary_what_scores_draw_themselves() {
    let model = model(Damage::None);
    let batch = batch(inputs(), BALANCED);
    let settings = |names: &[&str]| Resolved {
        metrics: select(names).unwrap(),
        repeats: 3,
        ..Resolved::default()
    };
    for engine in all_for_tests() {
        let run = |settings: &Resolved| {
            score(&model, &batch, Loss::CrossEntropy, settings, &*engine).unwrap()
        };
        let scored = run(&settings(&["zen", "snip", "te-nas"]));
        let [zen, snip, te_nas] = scored.scores.as_slice() else { panic!("{scored:?}") };
        assert!(zen.std.is_some_and(|std| std > 0.0), "{zen:?}");
        assert_eq!(snip.std, None);
        assert_eq!(te_nas.parts.len(), 2);
        // The same seed draws the same.
        assert_eq!(run(&settings(&["zen"])).scores[0].value, zen.value);
    }
    let error = score(
        &model,
        &batch,
        Loss::CrossEntropy,
        &settings(&["snip"]),
        &*all_for_tests().remove(0),
    );
    assert!(matches!(error, Err(Error::Usage(_))));
}

#[test]
fn features_may_be_named() {
    let model = model(Damage::None);
    let batch = batch(inputs(), BALANCED);
    let zen = |features: Option<&str>| {
        let settings = Resolved {
            metrics: select(&["zen", "params"]).unwrap(),
            options: Options { features: features.map(str::to_owned), ..Options::default() },
            ..Resolved::default()
        };
        let engine = all_for_tests().remove(0);
        score(&model, &batch, Loss::CrossEntropy, &settings, &*engine).unwrap().scores.remove(0)
    };
    assert!(zen(Some("nowhere")).reason.unwrap().contains("no node 'nowhere'"));
    let found = zen(None).value;
    assert!(found.is_finite() && zen(Some("head")).value != found);
}

#[test]
fn the_paper_compares_twelve_scores() {
    assert_eq!(select(&["paper"]).unwrap().len(), PAPER.len());
    assert_eq!(select(&["all"]).unwrap().len(), all().len());
    let names: Vec<_> = select(&["zen", "paper"]).unwrap().iter().map(|m| m.info().name).collect();
    assert_eq!((names[0], names.len()), ("zen", PAPER.len()));
}
