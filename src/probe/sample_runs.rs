//! Running the gradients of samples that do not depend on each other, as many at once as are fastest or
//! as memory allows.

use std::num::NonZeroUsize;

use super::combine::{Results, Run, Watched};
use super::gradients::{Gradient, PairGradients, SampleGradients, Schedule};
use super::gram::ClassPositions;
use super::memory::{Memory, Need, copies};
use super::plan::{Plan, Shares, beside_samples, members, plan};
use super::runs::run_all;
use super::size::{flops, parameters};
use super::{Batch, Roles};
use crate::engine::{Compiled, Engine};
use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Output};
use crate::tensor::Tensor;
use crate::transform::{Objective, Reduction, TrainingGraph, training_graph};

/// Runs at one time have no more samples than this together, unless a class has: more at once do not run
/// faster.
const PREFERRED_LANES: usize = 32;

/// One part in this number of the memory is for what sessions beside the first hold of parameters.
const COPIES: u64 = 4;

/// More threads than this are not planned for, whatever number a user gives.
const MOST_THREADS: usize = 1024;

/// Which samples must meet in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pairs {
    /// None: each sample is taken alone.
    None,
    /// Every two of a class.
    OfClasses,
    /// Every two.
    All,
}

/// What gradients are taken of.
pub(super) struct Samples<'a> {
    /// Has its batch normalisation decided (see [`transform::batch_norm`]) and its prediction as first
    /// output.
    ///
    /// [`transform::batch_norm`]: crate::transform::batch_norm
    pub model: &'a Graph,
    pub roles: &'a Roles,
    pub batch: &'a Batch,
    pub objective: Objective,
    pub pairs: Pairs,
    pub memory: Memory,
}

/// Adds the values that probes watch to the gradients. It is called for each graph that is tried.
pub(super) type Look<'a> = &'a mut dyn FnMut(&mut PairGradients);

impl Samples<'_> {
    /// Runs the values that `look` watches, over all samples.
    ///
    /// # Errors
    /// When the model cannot be differentiated, the engine fails, or a gradient is not finite.
    pub fn run(&self, look: Look, engine: &dyn Engine) -> Result<Results> {
        let groups = self.groups();
        let free = || self.memory.free();
        let shares = shares(self.model, free(), engine);
        let prepared = self.build(&groups, look, &free, shares, engine)?;
        let plan = prepared.plan.clone();
        match self.run_plan(prepared, &groups, engine)? {
            Some(results) => Ok(results),
            None => Err(self.blame(&plan, engine)),
        }
    }

    /// The group of each sample: samples of one group meet in a run.
    fn groups(&self) -> Vec<i64> {
        let classes = &self.batch.classes;
        match self.pairs {
            Pairs::None => (0..classes.len() as i64).collect(),
            Pairs::OfClasses => classes.clone(),
            Pairs::All => vec![0; classes.len()],
        }
    }

    /// Runs the graph over all groups of the plan and combines the results; `None` where a value is
    /// not finite.
    fn run_plan(
        &self,
        prepared: Prepared,
        groups: &[i64],
        engine: &dyn Engine,
    ) -> Result<Option<Results>> {
        let Prepared { plan, compiled, mut watched, counted } = prepared;
        if watched.values().is_empty() {
            return watched.finish().map(Some);
        }
        let (plan, positions) = (&plan, ClassPositions::of(groups));
        let first = first_lanes(plan, self.batch.len());
        let inputs = |run: usize| {
            let mut inputs = self.inputs(&slots(plan, &plan.runs[run]))?;
            if counted {
                let weights = first[run].iter().map(|&first| f32::from(u8::from(first)));
                inputs.push(Tensor::f32(&[plan.lanes()], weights.collect())?);
            }
            Ok(inputs)
        };
        let mut finite = true;
        let collect = |run: usize, outputs: Vec<Tensor>| {
            let Some((losses, values)) = outputs.split_first() else {
                return Err(Error::Score(
                    "the engine returned other outputs than asked for".into(),
                ));
            };
            check_finite(losses)?;
            finite &= values.iter().all(is_finite);
            let (groups, first) = (&plan.runs[run], &first[run]);
            watched.add(&Run { size: plan.size, groups, first, positions: &positions }, values)
        };
        run_all(compiled, plan.runs.len(), plan.side_by_side, engine, inputs, collect)?;
        if !finite {
            return Ok(None);
        }
        watched.finish().map(Some)
    }

    /// The inputs of a training graph for the given samples.
    fn inputs(&self, slots: &[usize]) -> Result<Vec<Tensor>> {
        match self.objective {
            Objective::Loss(_) => self.batch.rows(slots),
            Objective::OutputSum => self.batch.input_rows(slots),
        }
    }

    /// The largest plan that fits into the memory that is `free`, with its graph.
    fn build(
        &self,
        groups: &[i64],
        look: Look,
        free: &dyn Fn() -> Option<u64>,
        mut shares: Shares,
        engine: &dyn Engine,
    ) -> Result<Prepared> {
        let largest = members(groups).values().map(Vec::len).max().unwrap_or(1);
        let mut most = largest.max(PREFERRED_LANES).min(groups.len().max(1));
        // Samples that are compared must meet.
        let least = largest.clamp(1, 2);
        loop {
            let plan = plan(groups, most, shares)?;
            let prepared = self.prepare(plan, look, engine)?;
            let (side_by_side, lanes) = (prepared.plan.side_by_side, prepared.plan.lanes());
            let need = prepared.need();
            let Some(free) = free() else { return Ok(prepared) };
            tracing::debug!(
                "{side_by_side} runs of {lanes} samples take {} bytes of {free}: {need:?}",
                need.total()
            );
            if need.total() <= free {
                return Ok(prepared);
            }
            if side_by_side > 1 {
                // Each session has copies of the parameters.
                shares.sessions = side_by_side / 2;
                continue;
            }
            if lanes <= least {
                let what = if least == 1 {
                    "the gradients of a sample"
                } else {
                    "the gradients of two samples"
                };
                return Err(self.memory.refusal(need, free, what));
            }
            let fixed = Need { values: 0, ..need }.total();
            let fitting = (lanes as u64).saturating_mul(free.saturating_sub(fixed))
                / (need.total() - fixed).max(1);
            most = usize::try_from(fitting).unwrap_or(usize::MAX).min(lanes - 1).max(least);
        }
    }

    /// The graph for a plan: the training graph with the outputs `gradalign.loss` `[n]` and, for each
    /// value watched, `gradalign.<i>`.
    fn prepare(&self, plan: Plan, look: Look, engine: &dyn Engine) -> Result<Prepared> {
        let training =
            training_graph(self.model, self.objective, plan.lanes(), Reduction::PerSample)?;
        let loss = training.graph.output("loss")?;
        let schedule =
            Schedule::Groups { groups: plan.groups, size: plan.size, runs: plan.runs.len() };
        let parameters = parameters(self.model);
        let (b, gradients) = gradients(&training)?;
        let scene = SampleGradients::new(b, schedule, self.roles, gradients, parameters);
        let mut scene = PairGradients(scene);
        look(&mut scene);
        let (graph, watched, counted) = scene.0.finish();
        let output = |name: &str, value| Output { name: name.into(), value };
        let values = watched.values().iter().enumerate();
        let values = values.map(|(i, &v)| output(&format!("gradalign.{i}"), v));
        let outputs = [output("gradalign.loss", loss)].into_iter().chain(values);
        let graph = graph.with_outputs(outputs.collect());
        Ok(Prepared { plan, compiled: engine.compile(&graph)?, watched, counted })
    }

    /// The error that names the parameter whose gradient is not finite, found by running once more.
    fn blame(&self, plan: &Plan, engine: &dyn Engine) -> Error {
        let find = || -> Result<Option<String>> {
            let training =
                training_graph(self.model, self.objective, plan.lanes(), Reduction::PerSample)?;
            let mut b = Builder::new(training.graph.clone());
            let mut outputs = Vec::new();
            let gradients = training.graph.outputs().iter().skip(1);
            for ((name, size), gradient) in training.parameters.iter().zip(gradients) {
                if *size > 0 {
                    outputs.push(Output { name: name.clone(), value: b.sum_all(gradient.value)? });
                }
            }
            let names: Vec<String> = outputs.iter().map(|o| o.name.clone()).collect();
            let graph = b.finish().with_outputs(outputs);
            let compiled = engine.compile(&graph)?;
            self.memory.check(Need::of(&compiled, 1), "whole gradients")?;
            let mut session = engine.load(&compiled)?;
            for run in &plan.runs {
                let sums = session.run(&self.inputs(&slots(plan, run))?)?;
                let bad = sums.iter().position(|sum| sum.to_f64().iter().any(|v| !v.is_finite()));
                if let Some(i) = bad {
                    return Ok(Some(names[i].clone()));
                }
            }
            Ok(None)
        };
        let which = find().ok().flatten().map_or("a parameter".into(), |name| format!("'{name}'"));
        Error::Score(format!(
            "the gradient of {which} is not finite: check the model's weights and the data's scale"
        ))
    }
}

/// A compiled graph with the schedule that it is built for.
struct Prepared {
    plan: Plan,
    compiled: Compiled,
    watched: Watched,
    /// Whether its last input counts lanes.
    counted: bool,
}

impl Prepared {
    fn need(&self) -> Need {
        let more = self.watched.bytes();
        Need { more, ..Need::of(&self.compiled, self.plan.side_by_side) }
    }
}

/// The gradients of the lanes of a training graph, in the order in which the backward pass computes
/// them: values of the first can be computed, and what they read be freed, before it comes to the last.
fn gradients(training: &TrainingGraph) -> Result<(Builder, Vec<Gradient>)> {
    let mut b = Builder::new(training.graph.clone());
    b.set_scope("reduce");
    // Behind the loss there is one for each parameter.
    let outputs = training.graph.outputs().iter().skip(1).map(|output| output.value);
    let named = training.parameters.iter().zip(outputs);
    let mut named: Vec<_> =
        named.filter(|&((_, size), value)| b.as_uniform(value) != Some(0.0) && *size > 0).collect();
    named.sort_by_key(|(_, value)| value.index());
    let gradients = named
        .into_iter()
        .map(|((name, size), value)| Gradient::new(&mut b, name, value, *size))
        .collect::<Result<_>>()?;
    Ok((b, gradients))
}

/// The threads of `engine` that the runs of `model` share, by as many sessions as may have copies of
/// the parameters.
fn shares(model: &Graph, memory: Option<u64>, engine: &dyn Engine) -> Shares {
    let threads = engine.threads().clamp(1, MOST_THREADS);
    let copies = copies(model).max(1);
    let others = memory.map_or(u64::MAX, |memory| memory / COPIES / copies);
    let others = match engine.with_threads(NonZeroUsize::MIN) {
        Some(_) => usize::try_from(others).unwrap_or(usize::MAX),
        None => 0,
    };
    let run = beside_samples(parameters(model), flops(model));
    Shares { run, threads, sessions: others.saturating_add(1).min(threads) }
}

/// For each run, for each lane, whether it is the first of all runs that holds its sample.
fn first_lanes(plan: &Plan, samples: usize) -> Vec<Vec<bool>> {
    let mut seen = vec![false; samples];
    let of_run = |run: &Vec<Vec<usize>>| {
        let mut first = vec![false; plan.lanes()];
        for (g, group) in run.iter().enumerate() {
            for (i, &sample) in group.iter().enumerate() {
                first[g * plan.size + i] = !std::mem::replace(&mut seen[sample], true);
            }
        }
        first
    };
    plan.runs.iter().map(of_run).collect()
}

/// The samples of a run, one for each lane; free lanes repeat the first.
fn slots(plan: &Plan, run: &[Vec<usize>]) -> Vec<usize> {
    let first = run.first().and_then(|group| group.first()).copied().unwrap_or(0);
    let mut slots = vec![first; plan.lanes()];
    for (g, group) in run.iter().enumerate() {
        slots[g * plan.size..][..group.len()].copy_from_slice(group);
    }
    slots
}

fn check_finite(losses: &Tensor) -> Result<()> {
    match losses.to_f64().iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(Error::Score(format!(
            "the loss of a sample is {bad}: check the model's weights and the data's scale"
        ))),
        None => Ok(()),
    }
}

/// Whether all elements are finite, where they are floats.
pub(super) fn is_finite(tensor: &Tensor) -> bool {
    match tensor {
        Tensor::F32(values) => values.iter().all(|v| v.is_finite()),
        Tensor::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::engine::all_for_tests;
    use crate::graph::{Fact, eval};
    use crate::ops::Window;
    use crate::probe::combine::Handle;
    use crate::probe::gradients::{behind_moves, outer_product};
    use crate::probe::{GramKind, Grams, Selection};
    use crate::tensor::DType;
    use crate::transform::Loss;

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
            Reduction::SignSums(selection) => {
                Asked::SignSum(gradients.sign_sums(selection).unwrap())
            }
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
        let training = training_graph(
            model,
            Loss::CrossEntropy,
            SAMPLES,
            crate::transform::Reduction::PerSample,
        )
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
            let build =
                |memory| build(&samples, memory, shares(&model, memory, &*engine), &*engine);
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
}
