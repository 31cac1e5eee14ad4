//! Per-sample gradients, reduced inside the graph: to the Gram matrices of their signs inside each
//! class, to how far the signs of all samples add up.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use ndarray::Array2;

use super::memory::{Memory, Need, copies};
use super::plan::{Plan, Shares, beside_samples, members, plan};
use super::runs::run_all;
use super::size::{flops, parameters};
use super::training::{Objective, Reduction, TrainingGraph, training_graph};
use super::{Batch, Roles, Selection};
use crate::engine::{Compiled, Engine};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Output, Value};
use crate::ops::{Op, Primitive, Unary};
use crate::tensor::{DType, Tensor};

/// Runs at one time have no more samples than this together, unless a class has: more at once do not run
/// faster.
const PREFERRED_LANES: usize = 32;

/// One part in so many of the memory is for what sessions beside the first hold of parameters.
const COPIES: u64 = 4;

/// More threads than this are not planned for, whatever number a user gives.
const MOST_THREADS: usize = 1024;

/// The input by which each lane is counted or not: one that only fills a free place, or repeats a
/// sample of an earlier run, weighs 0.
const COUNTED: &str = "gradalign.counted";

/// What the Gram matrix is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GramKind {
    /// The signs of the gradients.
    #[default]
    Sign,
    /// The gradients themselves.
    Raw,
}

/// Which samples are compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// Those of one class.
    Classes,
    /// All of them.
    Whole,
}

/// A reduction of the per-sample gradients `gᵢ` of the selected parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// The inner products inside each group: [`Reduced::Grams`].
    Gram(GramKind, Selection),
    /// `Σ_p |Σᵢ sign(gᵢ)_p|` over all samples: [`Reduced::Alignment`].
    Alignment(Selection),
}

/// What is asked of [`per_sample`].
#[derive(Clone, Debug)]
pub struct PerSampleRequest {
    /// What is differentiated.
    pub objective: Objective,
    /// Which samples are compared.
    pub grouping: Grouping,
    /// The reductions wanted; all come from the same runs.
    pub products: Vec<Product>,
    /// How much memory the runs may take.
    pub memory: Memory,
}

/// The Gram matrix of the gradients of one group.
#[derive(Clone, Debug)]
pub struct ClassGram {
    /// The class; 0 where all samples form one group.
    pub class: i64,
    /// `[n, n]`: inner products of the gradients of its `n` samples, in the order of the batch.
    pub gram: Array2<f64>,
}

/// The result of a [`Product`].
#[derive(Clone, Debug)]
pub enum Reduced {
    /// The Gram matrix of each group, by class.
    Grams(Vec<ClassGram>),
    /// How far signs add up.
    Alignment(f64),
}

impl Reduced {
    fn is_finite(&self) -> bool {
        match self {
            Reduced::Grams(grams) => {
                grams.iter().all(|g| g.gram.iter().all(|product| product.is_finite()))
            }
            Reduced::Alignment(sum) => sum.is_finite(),
        }
    }
}

/// The products of the per-sample gradients of `model`, in the order asked for.
///
/// `model` has its batch normalisation decided (see [`transform::batch_norm`]) and its prediction
/// as first output. Signs, inner products and sums are computed in the graph, and a weight whose
/// per-sample gradient is an outer product `x·δᵀ` contributes `(X Xᵀ) ∘ (Δ Δᵀ)` without that
/// product being formed.
///
/// # Errors
/// When the model cannot be differentiated, the engine fails, a gradient is not finite, or a
/// product selects no parameter that has one.
///
/// [`transform::batch_norm`]: crate::transform::batch_norm
pub fn per_sample(
    model: &Graph,
    roles: &Roles,
    samples: &Batch,
    request: &PerSampleRequest,
    engine: &dyn Engine,
) -> Result<Vec<Reduced>> {
    let groups = groups(&samples.classes, request);
    let free = || request.memory.free();
    let shares = shares(model, free(), engine);
    let prepared = build(model, roles, &groups, request, &free, shares, engine)?;
    let plan = prepared.plan.clone();
    let reduced = run_plan(prepared, &groups, samples, request, engine)?;
    match reduced.iter().all(Reduced::is_finite) {
        true => Ok(reduced),
        false => Err(blame(model, samples, request, &plan, engine)),
    }
}

/// The group of each sample. Where nothing is compared, each is its own.
fn groups(classes: &[i64], request: &PerSampleRequest) -> Vec<i64> {
    let compares = request.products.iter().any(|p| matches!(p, Product::Gram(..)));
    match request.grouping {
        _ if !compares => (0..classes.len() as i64).collect(),
        Grouping::Classes => classes.to_vec(),
        Grouping::Whole => vec![0; classes.len()],
    }
}

/// What the runs of `model` share: the threads of `engine`, by as many sessions as may have copies of
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

/// A graph with the schedule it is made for.
#[derive(Clone)]
struct Prepared {
    plan: Plan,
    graph: Graph,
    compiled: Compiled,
}

impl Prepared {
    fn need(&self) -> Need {
        Need::of(&self.compiled, self.plan.side_by_side)
    }
}

/// Runs the graph over all groups of the plan and puts the results together.
fn run_plan(
    prepared: Prepared,
    groups: &[i64],
    samples: &Batch,
    request: &PerSampleRequest,
    engine: &dyn Engine,
) -> Result<Vec<Reduced>> {
    let Prepared { plan, graph, compiled } = prepared;
    let plan = &plan;
    let members = members(groups);
    let mut grams = vec![empty_grams(&members); request.products.len()];
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); request.products.len()];
    // Where each sample stands: its group and its place in it.
    let mut place = vec![(0, 0); samples.len()];
    for (c, members) in members.values().enumerate() {
        for (i, &sample) in members.iter().enumerate() {
            place[sample] = (c, i);
        }
    }
    let counted = match graph.input(COUNTED) {
        Some(_) => counted(plan, samples.len())?,
        None => Vec::new(),
    };
    let inputs = |run: usize| {
        let mut inputs = inputs(samples, request.objective, &slots(plan, &plan.runs[run]))?;
        inputs.extend(counted.get(run).cloned());
        Ok(inputs)
    };
    let collect = |run: usize, outputs: Vec<Tensor>| {
        let run = &plan.runs[run];
        let Some((losses, products)) = outputs.split_first() else {
            return Err(Error::Score("the engine returned other outputs than asked for".into()));
        };
        check_finite(losses)?;
        for (p, (product, output)) in request.products.iter().zip(products).enumerate() {
            let output = output.to_f64();
            match product {
                Product::Gram(..) => {
                    for (g, group) in run.iter().enumerate() {
                        for (i, &a) in group.iter().enumerate() {
                            for (j, &b) in group.iter().enumerate() {
                                let ((class_a, i_a), (class_b, i_b)) = (place[a], place[b]);
                                if class_a == class_b {
                                    grams[p][class_a].gram[[i_a, i_b]] = output[[g, i, j]];
                                }
                            }
                        }
                    }
                }
                Product::Alignment(_) => {
                    sums[p].resize(output.len(), 0.0);
                    sums[p].iter_mut().zip(&output).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        Ok(())
    };
    run_all(compiled, plan.runs.len(), plan.side_by_side, engine, inputs, collect)?;
    let products = request.products.iter().zip(grams).zip(sums);
    Ok(products
        .map(|((product, grams), sums)| match product {
            Product::Gram(..) => Reduced::Grams(grams),
            Product::Alignment(_) => Reduced::Alignment(sums.iter().map(|v| v.abs()).sum()),
        })
        .collect())
}

fn empty_grams(members: &BTreeMap<i64, Vec<usize>>) -> Vec<ClassGram> {
    let empty = |(&class, members): (&i64, &Vec<usize>)| ClassGram {
        class,
        gram: Array2::zeros((members.len(), members.len())),
    };
    members.iter().map(empty).collect()
}

/// For each run, 1 for each lane whose sample no earlier one has, 0 for the others.
fn counted(plan: &Plan, samples: usize) -> Result<Vec<Tensor>> {
    let mut seen = vec![false; samples];
    let of_run = |run: &Vec<Vec<usize>>| {
        let mut counted = vec![0.0; plan.lanes()];
        for (g, group) in run.iter().enumerate() {
            for (i, &sample) in group.iter().enumerate() {
                if !std::mem::replace(&mut seen[sample], true) {
                    counted[g * plan.size + i] = 1.0;
                }
            }
        }
        Tensor::f32(&[plan.lanes()], counted)
    };
    plan.runs.iter().map(of_run).collect()
}

/// The samples of a run, one for each lane; free places repeat the first.
fn slots(plan: &Plan, run: &[Vec<usize>]) -> Vec<usize> {
    let first = run.first().and_then(|group| group.first()).copied().unwrap_or(0);
    let mut slots = vec![first; plan.lanes()];
    for (g, group) in run.iter().enumerate() {
        slots[g * plan.size..][..group.len()].copy_from_slice(group);
    }
    slots
}

/// The inputs of a training graph for the given samples.
fn inputs(samples: &Batch, objective: Objective, slots: &[usize]) -> Result<Vec<Tensor>> {
    match objective {
        Objective::Loss(_) => samples.rows(slots),
        Objective::OutputSum => samples.input_rows(slots),
    }
}

fn check_finite(losses: &Tensor) -> Result<()> {
    match losses.to_f64().iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(Error::Score(format!(
            "the loss of a sample is {bad}: check the model's weights and the data's scale"
        ))),
        None => Ok(()),
    }
}

/// The error that names the parameter whose gradient is not finite, found by running once more.
fn blame(
    model: &Graph,
    samples: &Batch,
    request: &PerSampleRequest,
    plan: &Plan,
    engine: &dyn Engine,
) -> Error {
    let objective = request.objective;
    let find = || -> Result<Option<String>> {
        let training = training_graph(model, objective, plan.lanes(), Reduction::PerSample)?;
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
        let need = Need::of(&compiled, 1);
        request.memory.check(need, "whole gradients")?;
        let mut session = engine.load(&compiled)?;
        for run in &plan.runs {
            let sums = session.run(&inputs(samples, objective, &slots(plan, run))?)?;
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

/// The largest plan that fits into the memory that is `free`, with its graph.
fn build(
    model: &Graph,
    roles: &Roles,
    groups: &[i64],
    request: &PerSampleRequest,
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
        let training =
            training_graph(model, request.objective, plan.lanes(), Reduction::PerSample)?;
        let graph = with_products(&training, &plan, roles, &request.products)?;
        let compiled = engine.compile(&graph)?;
        let (side_by_side, lanes) = (plan.side_by_side, plan.lanes());
        let prepared = Prepared { plan, graph, compiled };
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
            return Err(request.memory.refusal(need, free, what));
        }
        let fixed = Need { values: 0, ..need }.total();
        let fitting = (lanes as u64).saturating_mul(free.saturating_sub(fixed))
            / (need.total() - fixed).max(1);
        most = usize::try_from(fitting).unwrap_or(usize::MAX).min(lanes - 1).max(least);
    }
}

/// The training graph with the outputs `gradalign.loss` `[n]` and, for each product,
/// `gradalign.<i>`: a Gram matrix `[groups, size, size]`, or sums of signs over the lanes. They are NaN where a gradient is
/// not finite.
fn with_products(
    training: &TrainingGraph,
    plan: &Plan,
    roles: &Roles,
    products: &[Product],
) -> Result<Graph> {
    let graph = &training.graph;
    let loss = graph.output("loss")?;
    let outputs = graph.outputs().iter().map(|output| output.value);
    let mut b = Builder::new(graph.clone());
    b.set_scope("reduce");
    let mut gradients = Vec::new();
    // Behind the loss there is one for each parameter.
    for ((name, size), value) in training.parameters.iter().zip(outputs.skip(1)) {
        if b.as_uniform(value) != Some(0.0) && *size > 0 {
            gradients.push((value, name, *size));
        }
    }
    // In the order in which the backward pass gets to them: products of the first can be computed, and
    // what they are made of be freed, before it comes to the last.
    gradients.sort_by_key(|(value, ..)| value.index());
    let gradients = gradients.into_iter();
    let gradients = gradients
        .map(|(value, name, size)| Gradient::new(&mut b, name, value, size))
        .collect::<Result<Vec<_>>>()?;
    let counted = products
        .iter()
        .any(|p| matches!(p, Product::Alignment(_)))
        .then(|| b.input(COUNTED, Fact::new(DType::F32, [plan.lanes()])));
    let mut values = Vec::new();
    for product in products {
        let (Product::Gram(_, selection) | Product::Alignment(selection)) = product;
        let selected: Vec<&Gradient> =
            gradients.iter().filter(|g| roles.is_in(*selection, &g.name)).collect();
        if selected.is_empty() {
            return Err(Error::Score(format!(
                "{selection} have no gradient: is the loss independent of them all?"
            )));
        }
        values.push(match (product, counted) {
            (Product::Alignment(_), Some(counted)) => sign_sums(&mut b, &selected, plan, counted)?,
            (Product::Gram(kind, _), _) => gram(&mut b, &selected, plan, *kind)?,
            (Product::Alignment(_), None) => continue,
        });
    }
    let output = |name: &str, value| Output { name: name.into(), value };
    let mut outputs = vec![output("gradalign.loss", loss)];
    outputs.extend(values.iter().enumerate().map(|(i, &v)| output(&format!("gradalign.{i}"), v)));
    Ok(b.finish().with_outputs(outputs))
}

/// The per-sample gradients of a parameter.
struct Gradient {
    name: String,
    form: Form,
}

enum Form {
    /// `[lanes, size]`.
    Rows(Value),
    /// The factors `[lanes, m, 1]` and `[lanes, 1, n]` of an outer product in every lane.
    Outer(Value, Value),
}

impl Gradient {
    fn new(b: &mut Builder, name: &str, value: Value, size: usize) -> Result<Self> {
        let value = unmoved(b.graph(), value);
        let form = match outer_product(b.graph(), value) {
            Some((x, d)) => Form::Outer(x, d),
            None => {
                let lanes = b.fact(value).len() / size;
                Form::Rows(b.reshape(value, &[lanes, size])?)
            }
        };
        Ok(Gradient { name: name.to_owned(), form })
    }
}

/// `[groups, size, size]`, in float64: the inner products of `gradients` inside each group.
fn gram(b: &mut Builder, gradients: &[&Gradient], plan: &Plan, kind: GramKind) -> Result<Value> {
    let mut terms = Vec::new();
    let mut rows = Vec::new();
    for gradient in gradients {
        match gradient.form {
            Form::Outer(x, d) => {
                let (x, d) = (gram_of(b, &[x], plan, kind)?, gram_of(b, &[d], plan, kind)?);
                terms.push(b.mul(x, d)?);
            }
            Form::Rows(value) => rows.push(value),
        }
    }
    if !rows.is_empty() {
        terms.push(gram_of(b, &rows, plan, kind)?);
    }
    let mut total = terms[0];
    for &term in &terms[1..] {
        total = b.add(total, term)?;
    }
    Ok(total)
}

/// The sums over the counted lanes of the signs of `gradients`, `[parameters]`; where one run sees
/// all samples, their magnitudes' sums, one for each gradient.
fn sign_sums(
    b: &mut Builder,
    gradients: &[&Gradient],
    plan: &Plan,
    counted: Value,
) -> Result<Value> {
    let lanes = plan.lanes();
    let mut parts = Vec::new();
    for gradient in gradients {
        // 0, or NaN where an element is not finite: its sign is.
        let spoilt = match gradient.form {
            Form::Rows(rows) => b.not_finite(rows, &[0, 1])?,
            Form::Outer(x, d) => {
                let (x, d) = (b.not_finite(x, &[0, 1, 2])?, b.not_finite(d, &[0, 1, 2])?);
                b.add(x, d)?
            }
        };
        let sum = match gradient.form {
            Form::Rows(rows) => {
                let signs = b.sign(rows)?;
                let weights = b.reshape(counted, &[1, lanes])?;
                b.matmul(weights, signs)?
            }
            Form::Outer(x, d) => {
                let (x, d) = (b.sign(x)?, b.sign(d)?);
                let weights = b.reshape(counted, &[lanes, 1, 1])?;
                let x = b.mul(x, weights)?;
                let (width, height) = (b.fact(x).len() / lanes, b.fact(d).len() / lanes);
                let (x, d) = (b.reshape(x, &[lanes, width])?, b.reshape(d, &[lanes, height])?);
                b.matmul_t(x, d, true, false)?
            }
        };
        let sum = if plan.runs.len() == 1 {
            let size = b.unary(Unary::Abs, sum)?;
            b.sum_all(size)?
        } else {
            sum
        };
        let len = b.fact(sum).len();
        let sum = b.reshape(sum, &[len])?;
        let spoilt = b.reshape(spoilt, &[1])?;
        parts.push(b.add(sum, spoilt)?);
    }
    b.concat(&parts, 0)
}

/// `[groups, size, size]` in float64: inner products of the rows of `[lanes, …]`, laid side by side,
/// inside each group.
fn gram_of(b: &mut Builder, values: &[Value], plan: &Plan, kind: GramKind) -> Result<Value> {
    let lanes = plan.lanes();
    let mut rows = Vec::new();
    for &value in values {
        let width = b.fact(value).len() / lanes;
        rows.push(b.reshape(value, &[lanes, width])?);
    }
    if kind == GramKind::Sign {
        return b.sign_gram(&rows, plan.groups, plan.size);
    }
    // The small eigenvalues of the Gram matrix are squares of small singular values, which
    // products in float32 would drown.
    let rows = b.concat(&rows, 1)?;
    let rows = b.cast(rows, DType::F64)?;
    let width = b.shape(rows)[1];
    let rows = b.reshape(rows, &[plan.groups, plan.size, width])?;
    b.matmul_t(rows, rows, false, true)
}

/// The value that `gradient` is, its elements only put into another order inside each lane: that
/// changes neither signs nor inner products.
fn unmoved(graph: &Graph, mut gradient: Value) -> Value {
    loop {
        let node = graph.node(gradient);
        let inner = match &node.op {
            Op::Apply(Primitive::Reshape(_)) => node.inputs[0],
            Op::Apply(Primitive::Transpose(op)) if op.perm.first() == Some(&0) => node.inputs[0],
            _ => return gradient,
        };
        if graph.shape(inner).first() != graph.shape(gradient).first() {
            return gradient;
        }
        gradient = inner;
    }
}

/// The factors of a per-sample gradient that is an outer product in every lane.
fn outer_product(graph: &Graph, gradient: Value) -> Option<(Value, Value)> {
    let node = graph.node(gradient);
    match &node.op {
        Op::Apply(Primitive::MatMul(op)) if !op.trans_a && !op.trans_b => {
            let (x, d) = (node.inputs[0], node.inputs[1]);
            match (graph.shape(x), graph.shape(d)) {
                ([n, _, 1], [m, 1, _]) if n == m => Some((x, d)),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::all_for_tests;
    use crate::graph::eval;
    use crate::ops::Window;
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

    fn request(products: &[Product]) -> PerSampleRequest {
        PerSampleRequest {
            objective: Loss::CrossEntropy.into(),
            grouping: Grouping::Classes,
            products: products.to_vec(),
            memory: Memory::default(),
        }
    }

    const PRODUCTS: [Product; 4] = [
        Product::Gram(GramKind::Sign, Selection::All),
        Product::Gram(GramKind::Raw, Selection::Weights),
        Product::Alignment(Selection::Weights),
        Product::Alignment(Selection::All),
    ];

    /// Rows of per-sample gradients of the selected parameters, by the interpreter.
    fn gradients(model: &Graph, batch: &Batch, selection: Selection) -> Array2<f64> {
        let training =
            training_graph(model, Loss::CrossEntropy, SAMPLES, Reduction::PerSample).unwrap();
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
    fn products_are_those_of_the_gradients() {
        let (model, batch) = (model(), batch());
        let all = signs(&gradients(&model, &batch, Selection::All));
        let weights = gradients(&model, &batch, Selection::Weights);
        assert_eq!((all.ncols(), weights.ncols()), (54 + 3 + 108, 54 + 108));
        let alignment = |signs: &Array2<f64>| -> f64 {
            signs.sum_axis(ndarray::Axis(0)).iter().map(|v| v.abs()).sum()
        };
        for engine in of_some_threads() {
            let roles = Roles::of(&model);
            let reduced =
                per_sample(&model, &roles, &batch, &request(&PRODUCTS), &*engine).unwrap();
            expect_grams(&reduced[0], &all.dot(&all.t()));
            expect_grams(&reduced[1], &weights.dot(&weights.t()));
            for (reduced, expected) in
                reduced[2..].iter().zip([alignment(&signs(&weights)), alignment(&all)])
            {
                let Reduced::Alignment(value) = reduced else { panic!("{reduced:?}") };
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
    fn expect_same(one: &[Reduced], other: &[Reduced], products: &[Product]) {
        for ((one, other), product) in one.iter().zip(other).zip(products) {
            match (one, other) {
                (Reduced::Grams(one), Reduced::Grams(other)) => {
                    let exact = matches!(product, Product::Gram(GramKind::Sign, _));
                    let error = if exact { 0.0 } else { 1e-5 };
                    assert_eq!(one.len(), other.len());
                    for (one, other) in one.iter().zip(other) {
                        assert_eq!(one.class, other.class);
                        let off = (&one.gram - &other.gram).mapv(f64::abs);
                        assert!(off.iter().all(|&off| off <= error), "{off}");
                    }
                }
                (Reduced::Alignment(one), Reduced::Alignment(other)) => assert_eq!(one, other),
                (one, other) => panic!("{one:?} {other:?}"),
            }
        }
    }

    #[test]
    fn runs_side_by_side_have_the_same_results() {
        let (model, batch) = (model(), many_classes());
        let (roles, request) = (Roles::of(&model), request(&PRODUCTS));
        let groups = groups(&batch.classes, &request);
        for engine in all_for_tests() {
            let prepared = |engine: &dyn Engine, memory| {
                // As if the model had more work for each of its parameters.
                let run = beside_samples(0, 1);
                let shares = Shares { run, ..shares(&model, memory, engine) };
                build(&model, &roles, &groups, &request, &|| memory, shares, engine).unwrap()
            };
            let run = |prepared: &Prepared, engine: &dyn Engine| {
                run_plan(prepared.clone(), &groups, &batch, &request, engine).unwrap()
            };
            let engine_of = |threads| engine.with_threads(NonZeroUsize::new(threads).unwrap());
            let (Some(one), Some(two)) = (engine_of(1), engine_of(2)) else {
                assert_eq!(prepared(&*engine, None).plan.side_by_side, 1);
                continue;
            };
            let alone = prepared(&*one, None);
            assert_eq!(alone.plan.side_by_side, 1);
            let expected = run(&alone, &*one);
            let pair = prepared(&*two, None);
            assert_eq!(pair.plan.side_by_side, 2);
            assert!(2 * pair.plan.lanes() <= PREFERRED_LANES);
            expect_same(&expected, &run(&pair, &*two), &PRODUCTS);
            let half = pair.need().total() / 2;
            let limited = prepared(&*two, Some(half));
            assert!(limited.need().total() <= half);
            let samples = |plan: &Plan| plan.side_by_side * plan.lanes();
            assert!(samples(&limited.plan) < samples(&pair.plan), "{:?}", limited.plan);
            expect_same(&expected, &run(&limited, &*two), &PRODUCTS);
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
        let (roles, request) = (Roles::of(&model), request(&PRODUCTS));
        let groups = groups(&batch.classes, &request);
        for engine in all_for_tests() {
            let build = |memory| {
                let shares = shares(&model, memory, &*engine);
                build(&model, &roles, &groups, &request, &|| memory, shares, &*engine)
            };
            let whole = build(None).unwrap();
            let need = whole.need();
            let third = Need { sessions: 1, values: need.values / 3, ..need }.total();
            let parts = build(Some(third)).unwrap();
            assert!(parts.plan.runs.len() > whole.plan.runs.len(), "{:?}", parts.plan);
            assert!(parts.need().total() <= third);
            assert!(matches!(build(Some(1)), Err(Error::Memory(_))));
            let run = |prepared: &Prepared| {
                run_plan(prepared.clone(), &groups, &batch, &request, &*engine).unwrap()
            };
            expect_same(&run(&whole), &run(&parts), &PRODUCTS);
        }
    }

    #[test]
    fn what_is_not_compared_runs_in_any_order() {
        let batch = batch();
        let request = request(&PRODUCTS[2..]);
        assert_eq!(groups(&batch.classes, &request), (0..SAMPLES as i64).collect::<Vec<_>>());
    }

    #[test]
    fn layers_on_one_row_are_outer_products() {
        let training =
            training_graph(&model(), Loss::CrossEntropy, 4, Reduction::PerSample).unwrap();
        let is_outer = |name: &str| {
            let gradient = training.graph.output(name).unwrap();
            outer_product(&training.graph, unmoved(&training.graph, gradient)).is_some()
        };
        assert!(is_outer("grad.v") && !is_outer("grad.w") && !is_outer("grad.bias"));
    }
}
