//! Reductions of gradients against the interpreter, in as many runs as memory asks for.

use std::num::NonZeroUsize;

use ndarray::Array2;

use super::fit::PREFERRED_LANES;
use super::*;
use crate::engine::all_for_tests;
use crate::graph::{Builder, Fact, eval};
use crate::ops::Window;
use crate::probe::combine::Handle;
use crate::probe::gradients::{behind_moves, outer_product};
use crate::probe::memory::{Need, copies};
use crate::probe::plan::{Plan, Shares, beside_samples};
use crate::probe::{GramKind, Grams, Selection};
use crate::tensor::DType;
use crate::transform::{Loss, training_graph};

const SAMPLES: usize = 11;

fn noise(shape: &[usize]) -> Tensor {
    let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
    Tensor::f32(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

/// A convolution with a bias, a ReLU, and a linear layer on all of it.
fn model() -> Graph {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 2, 5, 5]));
    let w = b.parameter("w", noise(&[3, 2, 3, 3]));
    let bias = b.parameter("bias", noise(&[3, 1, 1]));
    let v = b.parameter("v", noise(&[27, 4]));
    let window = Window::plain(2);
    let y = b.conv(x, w, window).unwrap();
    let y = b.add(y, bias).unwrap();
    let y = b.relu(y).unwrap();
    let y = b.reshape(y, &[1, 27]).unwrap();
    let y = b.matmul(y, v).unwrap();
    b.output("logits", y);
    b.finish()
}

/// Two classes, one of them large.
fn batch() -> Batch {
    let classes: Vec<i64> = (0..SAMPLES as i64).map(|i| i64::from(i >= 3)).collect();
    Batch {
        inputs: vec![noise(&[SAMPLES, 2, 5, 5])],
        targets: Tensor::index(classes.iter().copied()),
        classes,
    }
}

/// A reduction of the gradients.
#[derive(Clone, Copy, Debug)]
enum Reduction {
    Grams(GramKind, Selection),
    SignSums(Selection),
}

/// Its result.
#[derive(Debug)]
enum Reduced {
    Grams(Grams),
    SignSum(f64),
}

enum Asked {
    Grams(Handle<Grams>),
    SignSum(Handle<f64>),
}

const REDUCTIONS: [Reduction; 4] = [
    Reduction::Grams(GramKind::Sign, Selection::All),
    Reduction::Grams(GramKind::Raw, Selection::Weights),
    Reduction::SignSums(Selection::Weights),
    Reduction::SignSums(Selection::All),
];

/// Adds all of [`REDUCTIONS`], and says how their results are found.
fn ask(gradients: &mut PairGradients) -> Vec<Asked> {
    let ask = |reduction: Reduction| match reduction {
        Reduction::Grams(kind, selection) => {
            Asked::Grams(gradients.grams(kind, selection).unwrap())
        }
        Reduction::SignSums(selection) => Asked::SignSum(gradients.sign_sums(selection).unwrap()),
    };
    REDUCTIONS.map(ask).into()
}

fn read(asked: &[Asked], results: &Results) -> Vec<Reduced> {
    let read = |asked: &Asked| match asked {
        Asked::Grams(handle) => Reduced::Grams(results.get(*handle).unwrap().clone()),
        Asked::SignSum(handle) => Reduced::SignSum(*results.get(*handle).unwrap()),
    };
    asked.iter().map(read).collect()
}

fn samples<'a>(model: &'a Graph, roles: &'a Roles, batch: &'a Batch) -> Samples<'a> {
    let (objective, memory) = (Loss::CrossEntropy.into(), Memory::default());
    Samples { model, roles, batch, objective, pairs: Pairs::OfClasses, memory }
}

/// A graph with [`REDUCTIONS`], ready to be run.
struct Ready {
    prepared: Prepared,
    asked: Vec<Asked>,
}

fn build(
    samples: &Samples,
    memory: Option<u64>,
    shares: Shares,
    engine: &dyn Engine,
) -> Result<Ready> {
    let mut asked = Vec::new();
    let mut look = |gradients: &mut PairGradients| asked = ask(gradients);
    let prepared = samples.build(&samples.groups(), &mut look, &|| memory, shares, engine)?;
    Ok(Ready { prepared, asked })
}

fn run(samples: &Samples, ready: Ready, engine: &dyn Engine) -> Vec<Reduced> {
    let results = samples.run_plan(ready.prepared, &samples.groups(), engine).unwrap();
    read(&ready.asked, &results.unwrap())
}

/// Rows of per-sample gradients of the selected parameters, by the interpreter.
fn gradients(model: &Graph, batch: &Batch, selection: Selection) -> Array2<f64> {
    let training =
        training_graph(model, Loss::CrossEntropy, SAMPLES, crate::transform::Reduction::PerSample)
            .unwrap();
    let all: Vec<usize> = (0..SAMPLES).collect();
    let gradients = eval(&training.graph, &batch.rows(&all).unwrap()).unwrap();
    let roles = Roles::of(model);
    let selected = training
        .parameters
        .iter()
        .zip(&gradients[1..])
        .filter(|((name, _), _)| roles.is_in(selection, name));
    let rows: Vec<Array2<f64>> = selected
        .map(|((_, size), g)| {
            let rows = g.reshape(&[SAMPLES, *size]).unwrap().to_f64();
            rows.into_dimensionality::<ndarray::Ix2>().unwrap()
        })
        .collect();
    let views: Vec<_> = rows.iter().map(|r| r.view()).collect();
    ndarray::concatenate(ndarray::Axis(1), &views).unwrap()
}

fn signs(rows: &Array2<f64>) -> Array2<f64> {
    rows.mapv(|v| if v == 0.0 { 0.0 } else { v.signum() })
}

fn expect_grams(reduced: &Reduced, expected: &Array2<f64>) {
    let Reduced::Grams(grams) = reduced else { panic!("{reduced:?}") };
    assert_eq!(grams.len(), 2);
    for (class, from) in [(0, 0), (1, 3)] {
        for ((i, j), value) in grams[class].gram.indexed_iter() {
            let expected = expected[[from + i, from + j]];
            assert!((value - expected).abs() < 1e-4 * expected.abs().max(1.0));
        }
    }
}

#[test]
fn reductions_are_those_of_the_gradients() {
    let (model, batch) = (model(), batch());
    let all = signs(&gradients(&model, &batch, Selection::All));
    let weights = gradients(&model, &batch, Selection::Weights);
    assert_eq!((all.ncols(), weights.ncols()), (54 + 3 + 108, 54 + 108));
    let alignment = |signs: &Array2<f64>| -> f64 {
        signs.sum_axis(ndarray::Axis(0)).iter().map(|v| v.abs()).sum()
    };
    let roles = Roles::of(&model);
    let samples = samples(&model, &roles, &batch);
    for engine in of_some_threads() {
        let mut asked = Vec::new();
        let results = samples.run(&mut |g| asked = ask(g), &*engine).unwrap();
        let reduced = read(&asked, &results);
        expect_grams(&reduced[0], &all.dot(&all.t()));
        expect_grams(&reduced[1], &weights.dot(&weights.t()));
        for (reduced, expected) in
            reduced[2..].iter().zip([alignment(&signs(&weights)), alignment(&all)])
        {
            let Reduced::SignSum(value) = reduced else { panic!("{reduced:?}") };
            assert_eq!(*value, expected);
        }
    }
}

/// Each engine on one thread, on two and on as many as there are, where it has a say.
fn of_some_threads() -> Vec<Box<dyn Engine>> {
    let engines = all_for_tests().into_iter().flat_map(|engine| {
        let with = |threads| engine.with_threads(NonZeroUsize::new(threads).unwrap());
        let some = [with(1), with(2)];
        some.into_iter().flatten().chain([engine]).collect::<Vec<_>>()
    });
    engines.collect()
}

/// Small classes, several of which fit into a run.
fn many_classes() -> Batch {
    const N: usize = 32;
    let classes: Vec<i64> = (0..N as i64).map(|i| i % 10).collect();
    Batch {
        inputs: vec![noise(&[N, 2, 5, 5])],
        targets: Tensor::index(classes.iter().map(|class| class % 4)),
        classes,
    }
}

/// Up to rounding where gradients themselves are multiplied, and exactly where their signs are.
fn expect_same(one: &[Reduced], other: &[Reduced]) {
    for ((one, other), reduction) in one.iter().zip(other).zip(REDUCTIONS) {
        match (one, other) {
            (Reduced::Grams(one), Reduced::Grams(other)) => {
                let exact = matches!(reduction, Reduction::Grams(GramKind::Sign, _));
                let error = if exact { 0.0 } else { 1e-5 };
                assert_eq!(one.len(), other.len());
                for (one, other) in one.iter().zip(other) {
                    assert_eq!(one.class, other.class);
                    let off = (&one.gram - &other.gram).mapv(f64::abs);
                    assert!(off.iter().all(|&off| off <= error), "{off}");
                }
            }
            (Reduced::SignSum(one), Reduced::SignSum(other)) => assert_eq!(one, other),
            (one, other) => panic!("{one:?} {other:?}"),
        }
    }
}

#[test]
fn runs_side_by_side_have_the_same_results() {
    let (model, batch) = (model(), many_classes());
    let roles = Roles::of(&model);
    let samples = samples(&model, &roles, &batch);
    for engine in all_for_tests() {
        let ready = |engine: &dyn Engine, memory| {
            // As if the model had more work for each of its parameters.
            let run = beside_samples(0, 1);
            let shares = Shares { run, ..shares(&model, memory, engine) };
            build(&samples, memory, shares, engine).unwrap()
        };
        let engine_of = |threads| engine.with_threads(NonZeroUsize::new(threads).unwrap());
        let (Some(one), Some(two)) = (engine_of(1), engine_of(2)) else {
            assert_eq!(ready(&*engine, None).prepared.plan.side_by_side, 1);
            continue;
        };
        let alone = ready(&*one, None);
        assert_eq!(alone.prepared.plan.side_by_side, 1);
        let expected = run(&samples, alone, &*one);
        let pair = ready(&*two, None);
        let plan = pair.prepared.plan.clone();
        assert_eq!(plan.side_by_side, 2);
        assert!(2 * plan.lanes() <= PREFERRED_LANES);
        let half = pair.prepared.need().total() / 2;
        expect_same(&expected, &run(&samples, pair, &*two));
        let limited = ready(&*two, Some(half));
        assert!(limited.prepared.need().total() <= half);
        let samples_of = |plan: &Plan| plan.side_by_side * plan.lanes();
        let fewer = &limited.prepared.plan;
        assert!(samples_of(fewer) < samples_of(&plan), "{fewer:?}");
        expect_same(&expected, &run(&samples, limited, &*two));
    }
}

#[test]
fn parameters_that_memory_holds_once_have_one_session() {
    let model = model();
    for engine in all_for_tests() {
        let Some(two) = engine.with_threads(NonZeroUsize::new(2).unwrap()) else { continue };
        let sessions = |memory| shares(&model, memory, &*two).sessions;
        assert_eq!(sessions(None), 2);
        assert_eq!(sessions(Some(100 * copies(&model))), 2);
        assert_eq!(sessions(Some(copies(&model))), 1);
    }
}

#[test]
fn little_memory_takes_more_runs_to_the_same_result() {
    let (model, batch) = (model(), batch());
    let roles = Roles::of(&model);
    let samples = samples(&model, &roles, &batch);
    for engine in all_for_tests() {
        let build = |memory| build(&samples, memory, shares(&model, memory, &*engine), &*engine);
        let whole = build(None).unwrap();
        let need = whole.prepared.need();
        let third = Need { sessions: 1, values: need.values / 3, ..need }.total();
        let parts = build(Some(third)).unwrap();
        let (few, many) = (&whole.prepared.plan.runs, &parts.prepared.plan.runs);
        assert!(many.len() > few.len(), "{many:?}");
        assert!(parts.prepared.need().total() <= third);
        assert!(matches!(build(Some(1)), Err(Error::Memory(_))));
        expect_same(&run(&samples, whole, &*engine), &run(&samples, parts, &*engine));
    }
}

#[test]
fn samples_that_are_not_compared_run_in_any_order() {
    let (model, batch) = (model(), batch());
    let roles = Roles::of(&model);
    let alone = Samples { pairs: Pairs::None, ..samples(&model, &roles, &batch) };
    assert_eq!(alone.groups(), (0..SAMPLES as i64).collect::<Vec<_>>());
}

#[test]
fn layers_on_one_row_are_outer_products() {
    let training =
        training_graph(&model(), Loss::CrossEntropy, 4, crate::transform::Reduction::PerSample)
            .unwrap();
    let is_outer = |name: &str| {
        let gradient = training.graph.output(name).unwrap();
        outer_product(&training.graph, behind_moves(&training.graph, gradient)).is_some()
    };
    assert!(is_outer("grad.v") && !is_outer("grad.w") && !is_outer("grad.bias"));
}
