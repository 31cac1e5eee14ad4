//! Where each value is computed: by an operator of its own, by a map, or inside the maps that use it.

use crate::graph::{Fact, Graph, Op, Value};
use crate::kernel::{Blocks, Elementwise, OutputLayout};
use crate::ops::{Binary, Primitive, Reduce, Reduction, Unary};
use crate::tensor::DType;

/// What is computed inside maps has at most so many steps.
pub(super) const MOST_STEPS: usize = 40;

/// A value is written where computing it for each of its uses reads more than so many tensors beside
/// the one it is.
const MOST_READ_AGAIN: usize = 3;

/// A single sum of more values than this is left to the engine.
const LONGEST_SUM: usize = 1 << 16;

/// Where a value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine::ort) enum Placement {
    /// An operator by itself.
    Alone,
    /// Written by a map.
    Written,
    /// Computed inside the maps that use it.
    Inside,
}

/// The operation of a map that a primitive is.
pub(super) fn elementwise(op: &Primitive) -> Option<Elementwise> {
    use Elementwise as E;
    Some(match op {
        Primitive::Binary(op) => match op {
            Binary::Add => E::Add,
            Binary::And => E::And,
            Binary::Div => E::Div,
            Binary::Equal => E::Equal,
            Binary::Greater => E::Greater,
            Binary::GreaterOrEqual => E::GreaterOrEqual,
            Binary::Less => E::Less,
            Binary::LessOrEqual => E::LessOrEqual,
            Binary::Max => E::Max,
            Binary::Min => E::Min,
            Binary::Mul => E::Mul,
            Binary::Or => E::Or,
            Binary::Sub => E::Sub,
            Binary::Mod | Binary::Pow | Binary::Xor => return None,
        },
        Primitive::Unary(op) => match op {
            Unary::Abs => E::Abs,
            Unary::Exp => E::Exp,
            Unary::Neg => E::Neg,
            Unary::Not => E::Not,
            Unary::Reciprocal => E::Reciprocal,
            Unary::Relu => E::Relu,
            Unary::Sign => E::Sign,
            Unary::Sqrt => E::Sqrt,
            _ => return None,
        },
        Primitive::Where(_) => E::Select,
        _ => return None,
    })
}

/// The operation that a value is.
pub(super) fn primitive(graph: &Graph, value: Value) -> Option<&Primitive> {
    match &graph.node(value).op {
        Op::Apply(op) => Some(op),
        _ => None,
    }
}

/// Whether a primitive hands on its operand's elements, one or many times.
pub(super) fn is_view(op: &Primitive) -> bool {
    match op {
        Primitive::Reshape(_) | Primitive::Expand(_) | Primitive::Detach(_) => true,
        Primitive::Cast(cast) => cast.to == DType::F32,
        _ => false,
    }
}

/// The value whose elements `value` has, in another shape.
pub(super) fn reshaped(graph: &Graph, mut value: Value) -> Value {
    while let Some(Primitive::Reshape(_) | Primitive::Detach(_)) = primitive(graph, value) {
        value = graph.node(value).inputs[0];
    }
    value
}

fn is_float_or_truth(fact: &Fact) -> bool {
    matches!(fact.dtype, DType::F32 | DType::Bool) && !fact.is_empty()
}

/// Whether a map can sum values of dtype and shape `x` over `axes`.
fn is_mapped(x: &Fact, axes: &[usize]) -> bool {
    x.dtype == DType::F32 && !x.is_empty() && Blocks::new(&x.shape, axes).is_some()
}

/// The sum that a value is, as far as maps compute such.
pub(super) fn sum(graph: &Graph, value: Value) -> Option<OutputLayout> {
    let Primitive::Reduce(Reduce { kind, axes }) = primitive(graph, value)? else { return None };
    let x = graph.fact(graph.node(value).inputs[0]);
    let blocks = Blocks::new(&x.shape, axes).filter(|_| is_mapped(x, axes))?;
    let scale = match kind {
        // One long sum is for the engine, which cuts it for its threads.
        _ if blocks.outer == 1 && blocks.size() > LONGEST_SUM => return None,
        Reduction::Sum => 1.0,
        Reduction::Mean => 1.0 / blocks.length as f32,
        _ => return None,
    };
    Some(OutputLayout::Sum { blocks, scale })
}

/// The number of values that the map passes over which computes `value`.
pub(super) fn values(graph: &Graph, value: Value) -> usize {
    match sum(graph, value) {
        Some(_) => graph.fact(graph.node(value).inputs[0]).len(),
        None => graph.fact(value).len(),
    }
}

/// Where each value of `graph` is computed.
pub(super) fn placements(graph: &Graph, live: &[bool]) -> Vec<Placement> {
    // What depends on no input is for the engine to compute once.
    let varies = graph.dependents(graph.inputs());
    let (mut can, mut steps) = (vec![false; live.len()], vec![0; live.len()]);
    // How many tensors of its own size a value is computed from, and how often it is used.
    let (mut reads, mut uses) = (vec![1; live.len()], vec![0; live.len()]);
    for (_, node) in graph.nodes().filter(|(v, _)| live[v.index()]) {
        node.inputs.iter().for_each(|v| uses[v.index()] += 1);
    }
    let joins = joining_products(graph, &varies);
    // Values that something asks for as tensors.
    let mut asked = vec![false; live.len()];
    for output in graph.outputs() {
        asked[output.value.index()] = true;
    }
    for (value, node) in graph.nodes() {
        let i = value.index();
        let Op::Apply(op) = &node.op else { continue };
        let plain = varies[i]
            && (elementwise(op).is_some() || is_view(op))
            && is_float_or_truth(&node.fact)
            && node.inputs.iter().all(|&v| is_float_or_truth(graph.fact(v)))
            && !joins[i];
        let is_sum = sum(graph, value).is_some();
        can[i] = plain || is_sum && varies[i];
        if !plain {
            continue;
        }
        let whole = node.inputs.iter().filter(|&&v| graph.fact(v).len() == node.fact.len());
        let whole: Vec<usize> = whole.map(|v| v.index()).collect();
        reads[i] = whole.iter().map(|&v| reads[v]).sum();
        steps[i] = whole.iter().map(|&v| steps[v]).sum::<usize>() + usize::from(!is_view(op));
        // Computing it again takes more reading than writing it once.
        let costly = (reads[i].max(1) - 1) * (uses[i].max(1) - 1) > MOST_READ_AGAIN;
        if steps[i] > MOST_STEPS || costly {
            (asked[i], steps[i], reads[i]) = (true, 0, 1);
        }
    }
    let mut placements = vec![Placement::Alone; live.len()];
    for (value, node) in graph.nodes().rev().filter(|(v, _)| live[v.index()]) {
        let i = value.index();
        placements[i] = match &node.op {
            Op::Apply(_) if can[i] && !asked[i] && sum(graph, value).is_none() => Placement::Inside,
            Op::Apply(op) if can[i] && !is_view(op) && node.fact.dtype == DType::F32 => {
                Placement::Written
            }
            _ => Placement::Alone,
        };
        let len = values(graph, value);
        for &input in &node.inputs {
            if placements[i] == Placement::Alone {
                asked[input.index()] = true;
            } else if graph.fact(input).len() != len {
                // Maps read it in any shape.
                asked[reshaped(graph, input).index()] = true;
            }
        }
    }
    placements
}

/// For each value, whether it is what ONNX Runtime does on the way: the bias or the ReLU after a
/// convolution, the bias after a matrix product.
fn joining_products(graph: &Graph, varies: &[bool]) -> Vec<bool> {
    let mut joins = vec![false; varies.len()];
    for (value, node) in graph.nodes() {
        let bias = |x: Value, bias: Value| !varies[bias.index()] && joins[x.index()];
        joins[value.index()] = match (primitive(graph, value), node.inputs.as_slice()) {
            (Some(Primitive::Conv(_)), _) => true,
            (Some(Primitive::MatMul(_)), &[p, q]) => {
                graph.fact(p).rank() == 2 && !varies[q.index()]
            }
            (Some(Primitive::Reshape(_)), &[p]) => joins[p.index()],
            (Some(Primitive::Unary(Unary::Relu)), &[p]) => {
                graph.fact(p).rank() > 2 && joins[p.index()]
            }
            (Some(Primitive::Binary(Binary::Add)), &[p, q]) => bias(p, q) || bias(q, p),
            _ => false,
        };
    }
    joins
}
