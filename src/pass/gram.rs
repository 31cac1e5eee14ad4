//! Gram matrices of per-sample gradients inside each class, reduced inside the graph.

use ndarray::Array2;

use super::Batch;
use super::memory::{budget, peak_bytes};
use super::plan::{Plan, members, plan};
use super::training::{Reduction, TrainingGraph, training_graph};
use crate::emit::emit_split;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Output, Value};
use crate::ops::{Binary, Op, Primitive, Reduce, Reduction as Reducing, Unary};
use crate::tensor::{DType, Tensor};
use crate::transform::Loss;

/// Float32 holds integers exactly up to here.
const EXACT: usize = 1 << 24;

/// Gradients with fewer elements than this are laid side by side and reduced together.
const SMALL: usize = 1 << 14;

/// A sum of gradients smaller than this share of the sum of their magnitudes counts as zero: it
/// is zero in exact arithmetic (a bias that a following normalisation or softmax takes out again)
/// and rounding noise in float32.
const CANCELLED: f64 = 4e-6;

/// Runs are no larger than this unless a class is: more samples at once do not run faster.
const PREFERRED_LANES: usize = 32;

/// What the Gram matrix is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GramKind {
    /// The signs of the gradients.
    #[default]
    Sign,
    /// The gradients themselves.
    Raw,
}

/// What is asked of [`class_grams`].
#[derive(Clone, Copy, Debug)]
pub struct GramRequest {
    /// The loss differentiated.
    pub loss: Loss,
    /// Signs or gradients.
    pub kind: GramKind,
    /// Bytes that the process may take, all in all; `None` for no limit.
    pub memory: Option<u64>,
}

/// The Gram matrix of the gradients of one class.
#[derive(Clone, Debug)]
pub struct ClassGram {
    /// The class.
    pub class: i64,
    /// `[n, n]`: inner products of the gradients of its `n` samples.
    pub gram: Array2<f64>,
}

/// The Gram matrices of the per-sample gradients of all parameters of `model`, class by class.
///
/// `model` has its batch normalisation decided (see [`transform::batch_norm`]) and its prediction
/// as first output. Only the matrices leave the engine: signs, inner products and their sum over
/// the parameters are computed in the graph, and a weight whose per-sample gradient is an outer
/// product `x·δᵀ` contributes `(X Xᵀ) ∘ (Δ Δᵀ)` without that product being formed.
///
/// # Errors
/// When the model cannot be differentiated, the engine fails, or a gradient is not finite.
///
/// [`transform::batch_norm`]: crate::transform::batch_norm
pub fn class_grams(
    model: &Graph,
    samples: &Batch,
    request: &GramRequest,
    engine: &dyn Engine,
) -> Result<Vec<ClassGram>> {
    let memory = request.memory.map(|limit| budget(limit, model));
    let (plan, graph, parameters) = build(model, samples, request, memory)?;
    run_plan(&plan, &graph, &parameters, samples, engine)
}

/// Runs `graph` over all groups of the plan and puts the classes' matrices together.
fn run_plan(
    plan: &Plan,
    graph: &Graph,
    parameters: &[String],
    samples: &Batch,
    engine: &dyn Engine,
) -> Result<Vec<ClassGram>> {
    let (proto, weights) = emit_split(graph)?;
    let mut session = engine.load_with(&proto, &weights)?;
    drop((proto, weights));
    let classes = members(&samples.classes);
    let mut grams: Vec<ClassGram> = classes
        .iter()
        .map(|(&class, members)| ClassGram {
            class,
            gram: Array2::zeros((members.len(), members.len())),
        })
        .collect();
    // Where each sample stands: its class and its place in it.
    let mut place = vec![(0, 0); samples.len()];
    for (c, members) in classes.values().enumerate() {
        for (i, &sample) in members.iter().enumerate() {
            place[sample] = (c, i);
        }
    }
    for run in &plan.runs {
        let outputs = session.run(&samples.rows(&slots(plan, run))?)?;
        let [losses, sums, gram] = outputs.as_slice() else {
            return Err(Error::Score("the engine returned other outputs than asked for".into()));
        };
        check_finite(losses, sums, parameters)?;
        let gram = gram.to_f64();
        for (g, group) in run.iter().enumerate() {
            for (i, &a) in group.iter().enumerate() {
                for (j, &b) in group.iter().enumerate() {
                    let ((class_a, i_a), (class_b, i_b)) = (place[a], place[b]);
                    if class_a == class_b {
                        grams[class_a].gram[[i_a, i_b]] = gram[[g, i, j]];
                    }
                }
            }
        }
    }
    Ok(grams)
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

fn check_finite(losses: &Tensor, sums: &Tensor, parameters: &[String]) -> Result<()> {
    if let Some(bad) = losses.to_f64().iter().find(|v| !v.is_finite()) {
        return Err(Error::Score(format!(
            "the loss of a sample is {bad}: check the model's weights and the data's scale"
        )));
    }
    match sums.to_f64().iter().position(|v| !v.is_finite()) {
        Some(i) => Err(Error::Score(format!(
            "the gradient of '{}' is not finite: check the model's weights and the data's scale",
            parameters.get(i).map_or("a parameter", String::as_str)
        ))),
        None => Ok(()),
    }
}

/// The largest plan whose values fit into `memory` bytes, with its graph and the parameters in the
/// order of the output `sums`.
fn build(
    model: &Graph,
    samples: &Batch,
    request: &GramRequest,
    memory: Option<u64>,
) -> Result<(Plan, Graph, Vec<String>)> {
    let largest = members(&samples.classes).values().map(Vec::len).max().unwrap_or(1);
    let mut most = largest.max(PREFERRED_LANES).min(samples.len().max(1));
    loop {
        let plan = plan(&samples.classes, most)?;
        let training = training_graph(model, request.loss, plan.lanes(), Reduction::PerSample)?;
        let (graph, parameters) = with_grams(&training, &plan, request.kind)?;
        let Some(memory) = memory else { return Ok((plan, graph, parameters)) };
        let peak = peak_bytes(&graph);
        tracing::debug!("{} samples at once take {peak} bytes of {memory}", plan.lanes());
        if peak <= memory {
            return Ok((plan, graph, parameters));
        }
        let fitting = (plan.lanes() as u64).saturating_mul(memory) / peak.max(1);
        most = usize::try_from(fitting).unwrap_or(usize::MAX).min(plan.lanes() - 1);
    }
}

/// The training graph with the outputs `loss` `[n]`, `sums` `[parameters]` (of all elements of
/// each gradient, to see whether they are finite) and `gram` `[groups, size, size]`.
fn with_grams(
    training: &TrainingGraph,
    plan: &Plan,
    kind: GramKind,
) -> Result<(Graph, Vec<String>)> {
    let graph = &training.graph;
    let loss = graph.output("loss")?;
    let mut b = Builder::new(graph.clone());
    b.set_scope("gram");
    let mut grams = Vec::new();
    let mut small = Vec::new();
    let mut sums = Vec::new();
    let mut names = Vec::new();
    for (name, size) in &training.parameters {
        let gradient = graph.output(&format!("grad.{name}"))?;
        if b.as_uniform(gradient) == Some(0.0) || *size == 0 {
            continue;
        }
        names.push(name.clone());
        if let Some((x, d)) = outer_product(b.graph(), gradient) {
            let sum_x = b.sum_all(x)?;
            let sum_d = b.sum_all(d)?;
            sums.push(b.add(sum_x, sum_d)?);
            let gram_x = gram_of(&mut b, x, plan, kind)?;
            let gram_d = gram_of(&mut b, d, plan, kind)?;
            let (gram_x, gram_d) = (b.cast(gram_x, DType::F64)?, b.cast(gram_d, DType::F64)?);
            grams.push(b.mul(gram_x, gram_d)?);
            continue;
        }
        sums.push(b.sum_all(gradient)?);
        let gradient = without_noise(&mut b, gradient)?;
        let rows = b.reshape(gradient, &[plan.lanes(), *size])?;
        if *size < SMALL {
            small.push(rows);
        } else {
            for start in (0..*size).step_by(EXACT) {
                let part = b.slice_axis(rows, 1, start, (*size).min(start + EXACT), 1)?;
                let gram = gram_of(&mut b, part, plan, kind)?;
                grams.push(b.cast(gram, DType::F64)?);
            }
        }
    }
    if !small.is_empty() {
        let rows = b.concat(&small, 1)?;
        let gram = gram_of(&mut b, rows, plan, kind)?;
        grams.push(b.cast(gram, DType::F64)?);
    }
    let Some((&first, rest)) = grams.split_first() else {
        return Err(Error::Score(
            "no parameter of the model has a gradient: is the loss independent of them all?".into(),
        ));
    };
    let mut total = first;
    for &gram in rest {
        total = b.add(total, gram)?;
    }
    let sums = sums.iter().map(|&s| b.reshape(s, &[1])).collect::<Result<Vec<_>>>()?;
    let sums = b.concat(&sums, 0)?;
    let output = |name: &str, value| Output { name: name.into(), value };
    let outputs = vec![output("loss", loss), output("sums", sums), output("gram", total)];
    Ok((b.finish().with_outputs(outputs), names))
}

/// `[groups, size, size]`: inner products of the rows of `[lanes, …]` inside each group.
fn gram_of(b: &mut Builder, rows: Value, plan: &Plan, kind: GramKind) -> Result<Value> {
    let width = b.fact(rows).len() / plan.lanes();
    let rows = match kind {
        GramKind::Sign => b.sign(rows)?,
        GramKind::Raw => rows,
    };
    let rows = b.reshape(rows, &[plan.groups, plan.size, width])?;
    b.matmul_t(rows, rows, false, true)
}

/// The factors of a per-sample gradient that is an outer product in every lane, possibly reshaped
/// or with its own axes permuted: neither changes inner products.
fn outer_product(graph: &Graph, gradient: Value) -> Option<(Value, Value)> {
    let node = graph.node(gradient);
    match &node.op {
        Op::Apply(Primitive::Reshape(_)) => {
            let inner = node.inputs[0];
            (graph.shape(inner).first() == graph.shape(gradient).first())
                .then(|| outer_product(graph, inner))?
        }
        Op::Apply(Primitive::Transpose(op)) if op.perm.first() == Some(&0) => {
            outer_product(graph, node.inputs[0])
        }
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

/// A gradient in which the sums that cancel to rounding noise are zero. Sums are looked for behind
/// whatever only moves elements or adds up contributions.
fn without_noise(b: &mut Builder, gradient: Value) -> Result<Value> {
    let node = b.graph().node(gradient).clone();
    let Op::Apply(op) = &node.op else { return Ok(gradient) };
    match op {
        Primitive::Reshape(_)
        | Primitive::Transpose(_)
        | Primitive::Slice(_)
        | Primitive::Pad(_)
        | Primitive::Concat(_)
        | Primitive::Binary(Binary::Add) => {
            let operands = node.inputs.iter();
            let cleaned = operands.map(|&v| without_noise(b, v)).collect::<Result<Vec<_>>>()?;
            if cleaned == node.inputs { Ok(gradient) } else { b.push(op.clone(), &cleaned) }
        }
        Primitive::Reduce(Reduce { kind: Reducing::Sum, axes }) => {
            let magnitudes = b.unary(Unary::Abs, node.inputs[0])?;
            let scale = b.reduce_sum(magnitudes, axes)?;
            let floor = b.scale(scale, CANCELLED)?;
            let size = b.unary(Unary::Abs, gradient)?;
            let cancelled = b.less_or_equal(size, floor)?;
            let zero = b.scalar_like(gradient, 0.0);
            b.select(cancelled, zero, gradient)
        }
        _ => Ok(gradient),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::all_for_tests;
    use crate::graph::{Fact, eval};
    use crate::ops::Window;

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
        let window = Window {
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads_begin: vec![0, 0],
            pads_end: vec![0, 0],
            groups: 1,
        };
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

    fn request(kind: GramKind) -> GramRequest {
        GramRequest { loss: Loss::CrossEntropy, kind, memory: None }
    }

    #[test]
    fn they_are_the_inner_products_of_the_gradients() {
        let (model, batch) = (model(), batch());
        let training =
            training_graph(&model, Loss::CrossEntropy, SAMPLES, Reduction::PerSample).unwrap();
        let all: Vec<usize> = (0..SAMPLES).collect();
        let gradients = eval(&training.graph, &batch.rows(&all).unwrap()).unwrap();
        for kind in [GramKind::Sign, GramKind::Raw] {
            let mut expected = Array2::<f64>::zeros((SAMPLES, SAMPLES));
            for gradient in &gradients[1..] {
                let size = gradient.len() / SAMPLES;
                let rows = gradient.reshape(&[SAMPLES, size]).unwrap().to_f64();
                let rows = rows.into_dimensionality::<ndarray::Ix2>().unwrap();
                let rows = match kind {
                    GramKind::Sign => rows.mapv(|v| if v == 0.0 { 0.0 } else { v.signum() }),
                    GramKind::Raw => rows,
                };
                expected += &rows.dot(&rows.t());
            }
            for engine in all_for_tests() {
                let grams = class_grams(&model, &batch, &request(kind), &*engine).unwrap();
                assert_eq!(grams.len(), 2);
                for (class, from) in [(0, 0), (1, 3)] {
                    for ((i, j), value) in grams[class].gram.indexed_iter() {
                        let expected = expected[[from + i, from + j]];
                        assert!((value - expected).abs() < 1e-4 * expected.abs().max(1.0));
                    }
                }
            }
        }
    }

    #[test]
    fn little_memory_takes_more_runs_to_the_same_result() {
        let (model, batch) = (model(), batch());
        let request = request(GramKind::Sign);
        let whole = build(&model, &batch, &request, None).unwrap();
        let parts = build(&model, &batch, &request, Some(peak_bytes(&whole.1) / 3)).unwrap();
        assert!(parts.0.runs.len() > whole.0.runs.len(), "{:?}", parts.0);
        assert!(peak_bytes(&parts.1) <= peak_bytes(&whole.1) / 3);
        for engine in all_for_tests() {
            let run = |(plan, graph, names): &(Plan, Graph, Vec<String>)| {
                run_plan(plan, graph, names, &batch, &*engine).unwrap()
            };
            for (one, many) in run(&whole).iter().zip(run(&parts)) {
                assert_eq!((one.class, &one.gram), (many.class, &many.gram));
            }
        }
        assert!(matches!(build(&model, &batch, &request, Some(1)), Err(Error::Usage(_))));
    }

    #[test]
    fn layers_on_one_row_are_outer_products() {
        let training =
            training_graph(&model(), Loss::CrossEntropy, 4, Reduction::PerSample).unwrap();
        let is_outer = |name: &str| {
            let gradient = training.graph.output(name).unwrap();
            outer_product(&training.graph, gradient).is_some()
        };
        assert!(is_outer("grad.v") && !is_outer("grad.w") && !is_outer("grad.bias"));
    }
}
