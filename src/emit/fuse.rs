//! Which elementwise operations become one kernel, [`Map`].
//!
//! A result that only other maps of as many values use is not written: each of them computes it
//! again, which costs less than memory does. What is written together with it from the same operands
//! comes out of one pass over them.

use std::collections::HashMap;

use super::{Attr, Emitter};
use crate::graph::{Fact, Graph, Value};
use crate::kernel::{Axis, Blocks, Elementwise, Form, Map, Output, Source, Step};
use crate::ops::{Binary, CleanSum, Op, Primitive, Reduce, Reduction, Unary};
use crate::tensor::DType;

/// What is computed inside maps has at most so many steps.
const MOST_STEPS: usize = 16;

/// A single sum of more values than this is left to the engine.
const LONGEST_SUM: usize = 1 << 16;

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// An operator by itself.
    Alone,
    /// Written by a map.
    Written,
    /// Computed inside the maps that use it.
    Inside,
}

/// The operation of a map that a primitive is.
fn elementwise(op: &Primitive) -> Option<Elementwise> {
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
fn primitive(graph: &Graph, value: Value) -> Option<&Primitive> {
    match &graph.node(value).op {
        Op::Apply(op) => Some(op),
        _ => None,
    }
}

/// Whether a primitive hands on its operand's elements, one or many times.
fn is_view(op: &Primitive) -> bool {
    match op {
        Primitive::Reshape(_) | Primitive::Expand(_) | Primitive::Detach(_) => true,
        Primitive::Cast(cast) => cast.to == DType::F32,
        _ => false,
    }
}

fn is_float_or_truth(fact: &Fact) -> bool {
    matches!(fact.dtype, DType::F32 | DType::Bool) && !fact.is_empty()
}

/// Whether a map can sum values of dtype and shape `x` over `axes`.
pub(crate) fn is_mapped(x: &Fact, axes: &[usize]) -> bool {
    x.dtype == DType::F32 && !x.is_empty() && Blocks::new(&x.shape, axes).is_some()
}

/// The sum that a value is, as far as maps compute such.
fn sum(graph: &Graph, value: Value) -> Option<Form> {
    let op = primitive(graph, value)?;
    let (Primitive::CleanSum(CleanSum { axes }) | Primitive::Reduce(Reduce { axes, .. })) = op
    else {
        return None;
    };
    let x = graph.fact(graph.node(value).inputs[0]);
    let blocks = Blocks::new(&x.shape, axes).filter(|_| is_mapped(x, axes))?;
    let (scale, cancelled) = match op {
        Primitive::CleanSum(_) => (1.0, CleanSum::CANCELLED as f32),
        // One long sum is for the engine, which cuts it for its threads.
        _ if blocks.outer == 1 && blocks.size() > LONGEST_SUM => return None,
        Primitive::Reduce(Reduce { kind: Reduction::Sum, .. }) => (1.0, 0.0),
        Primitive::Reduce(Reduce { kind: Reduction::Mean, .. }) => {
            (1.0 / blocks.length as f32, 0.0)
        }
        _ => return None,
    };
    Some(Form::Sum { blocks, scale, cancelled })
}

/// The number of values that the map passes over which computes `value`.
fn values(graph: &Graph, value: Value) -> usize {
    match sum(graph, value) {
        Some(_) => graph.fact(graph.node(value).inputs[0]).len(),
        None => graph.fact(value).len(),
    }
}

/// What becomes of each value of `graph`.
fn fates(graph: &Graph, live: &[bool]) -> Vec<Fate> {
    // What depends on no input is for the engine to compute once.
    let varies = graph.dependents(graph.inputs());
    let (mut can, mut steps) = (vec![false; live.len()], vec![0; live.len()]);
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
            && !joins_convolution(graph, value, &varies);
        let is_sum = sum(graph, value).is_some();
        can[i] = plain || is_sum && (varies[i] || matches!(op, Primitive::CleanSum(_)));
        if plain {
            let before: usize = node.inputs.iter().map(|v| steps[v.index()]).sum();
            steps[i] = before + usize::from(!is_view(op));
        }
        if steps[i] > MOST_STEPS {
            (asked[i], steps[i]) = (true, 0);
        }
    }
    let mut fates = vec![Fate::Alone; live.len()];
    for (value, node) in graph.nodes().rev().filter(|(v, _)| live[v.index()]) {
        let i = value.index();
        fates[i] = match &node.op {
            Op::Apply(_) if can[i] && !asked[i] && sum(graph, value).is_none() => Fate::Inside,
            Op::Apply(op) if can[i] && !is_view(op) && node.fact.dtype == DType::F32 => {
                Fate::Written
            }
            _ => Fate::Alone,
        };
        let len = values(graph, value);
        for &input in &node.inputs {
            asked[input.index()] |= fates[i] == Fate::Alone || graph.fact(input).len() != len;
        }
    }
    fates
}

/// Whether `value` is the bias or the ReLU after a convolution that is used for nothing else: ONNX
/// Runtime's convolutions do these on the way.
fn joins_convolution(graph: &Graph, value: Value, varies: &[bool]) -> bool {
    let inputs = &graph.node(value).inputs;
    match primitive(graph, value) {
        Some(Primitive::Conv(_)) => true,
        Some(Primitive::Reshape(_)) => joins_convolution(graph, inputs[0], varies),
        Some(Primitive::Unary(Unary::Relu)) => joins_convolution(graph, inputs[0], varies),
        Some(Primitive::Binary(Binary::Add)) => match inputs[..] {
            [a, b] if !varies[b.index()] => joins_convolution(graph, a, varies),
            [a, b] if !varies[a.index()] => joins_convolution(graph, b, varies),
            _ => false,
        },
        _ => false,
    }
}

/// A map that is put together from values of a graph.
struct Draft<'a> {
    graph: &'a Graph,
    fates: &'a [Fate],
    map: Map,
    /// The values that are read.
    operands: Vec<Value>,
    /// The values that are written.
    outputs: Vec<Value>,
    found: HashMap<Value, Source>,
}

impl<'a> Draft<'a> {
    fn new(graph: &'a Graph, fates: &'a [Fate], len: usize) -> Self {
        let map = Map { len, views: vec![], constants: vec![], steps: vec![], outputs: vec![] };
        let (operands, outputs, found) = (Vec::new(), Vec::new(), HashMap::new());
        Draft { graph, fates, map, operands, outputs, found }
    }

    /// Adds a value that is written.
    fn write(&mut self, value: Value) {
        let (source, form) = match sum(self.graph, value) {
            None => (self.compute(value), Form::Whole),
            Some(form) => {
                let terms = self.graph.node(value).inputs[0];
                (self.source(terms, self.graph.shape(terms)), form)
            }
        };
        self.outputs.push(value);
        self.map.outputs.push(Output { source, form });
    }

    /// What the elements of `value`, broadcast to `shape`, are read from or computed by.
    fn source(&mut self, value: Value, shape: &[usize]) -> Source {
        let graph = self.graph;
        if let Some(number) = graph.uniform(value) {
            let number = number as f32;
            let same = |c: &f32| c.to_bits() == number.to_bits();
            let constants = &mut self.map.constants;
            let known = constants.iter().position(same);
            return Source::Constant(known.unwrap_or_else(|| {
                constants.push(number);
                constants.len() - 1
            }));
        }
        if graph.fact(value).len() != self.map.len {
            return self.operand(value, view(graph.shape(value), shape));
        }
        if let Some(&source) = self.found.get(&value) {
            return source;
        }
        let node = graph.node(value);
        match primitive(graph, value) {
            Some(Primitive::Reshape(_) | Primitive::Detach(_)) => {
                self.source(node.inputs[0], graph.shape(node.inputs[0]))
            }
            Some(op) if self.fates[value.index()] == Fate::Inside => match is_view(op) {
                true => self.source(node.inputs[0], &node.fact.shape),
                false => self.compute(value),
            },
            _ => self.operand(value, view(graph.shape(value), shape)),
        }
    }

    /// The step that computes `value`.
    fn compute(&mut self, value: Value) -> Source {
        let node = self.graph.node(value);
        let arguments: Vec<Source> =
            node.inputs.iter().map(|&v| self.source(v, &node.fact.shape)).collect();
        let op = primitive(self.graph, value).and_then(elementwise).unwrap_or(Elementwise::Add);
        let source = self.step(op, &arguments);
        self.found.insert(value, source);
        source
    }
    fn step(&mut self, op: Elementwise, arguments: &[Source]) -> Source {
        let argument = |i: usize| arguments.get(i).or(arguments.first()).copied();
        let arguments = [0, 1, 2].map(|i| argument(i).unwrap_or(Source::Constant(0)));
        self.map.steps.push(Step { op, arguments });
        Source::Step(self.map.steps.len() - 1)
    }

    fn operand(&mut self, value: Value, view: Vec<Axis>) -> Source {
        let known = self.operands.iter().zip(&self.map.views);
        let known = known.into_iter().position(|(v, seen)| *v == value && *seen == view);
        Source::Operand(known.unwrap_or_else(|| {
            self.operands.push(value);
            self.map.views.push(view);
            self.operands.len() - 1
        }))
    }
}

/// How a tensor of shape `from` is repeated to `to`, with neighbouring axes joined where they can be.
fn view(from: &[usize], to: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut stride = 1;
    for (i, &length) in to.iter().enumerate().rev() {
        let own = (i + from.len()).checked_sub(to.len()).map_or(1, |j| from[j]);
        if length == 1 {
            continue;
        }
        let step = if own == 1 { 0 } else { stride };
        stride *= own;
        match axes.last_mut() {
            // Axes are gathered from the last on.
            Some(axis) if step == axis.stride * axis.length => axis.length *= length,
            _ => axes.push(Axis { length, stride: step }),
        }
    }
    axes.reverse();
    axes
}

/// What a graph is written as where maps are: for each value that is written, the values that are
/// read for it.
pub(super) struct Plan {
    pub fates: Vec<Fate>,
    /// By a value that is read, those that are written from it.
    readers: HashMap<Value, Vec<Value>>,
    reads: HashMap<Value, Vec<Value>>,
}

impl Plan {
    pub(super) fn new(graph: &Graph, live: &[bool]) -> Self {
        let fates = fates(graph, live);
        let (mut readers, mut reads) = (HashMap::<Value, Vec<Value>>::new(), HashMap::new());
        for (value, _) in graph.nodes() {
            if fates[value.index()] == Fate::Written {
                let mut draft = Draft::new(graph, &fates, values(graph, value));
                draft.write(value);
                for &operand in &draft.operands {
                    readers.entry(operand).or_default().push(value);
                }
                reads.insert(value, draft.operands);
            }
        }
        Plan { fates, readers, reads }
    }
}

impl Emitter<'_> {
    /// Writes `value` and, from the same pass over the operands, whatever else can be had of them.
    pub(super) fn emit_map(&mut self, value: Value, plan: &Plan) {
        let graph = self.graph;
        let len = values(graph, value);
        let block = |v: Value| match sum(graph, v) {
            Some(Form::Sum { blocks, .. }) => Some(blocks.size()),
            _ => None,
        };
        let mut draft = Draft::new(graph, &plan.fates, len);
        draft.write(value);
        let mut blocks = block(value);
        let mut next = 0;
        // Operands and results alike may be read by others.
        while let Some(&read) = draft.operands.iter().chain(&draft.outputs).nth(next) {
            next += 1;
            for &other in plan.readers.get(&read).into_iter().flatten() {
                let is_ready = |v: &Value| {
                    self.names[v.index()].is_some() || draft.outputs.contains(v)
                };
                let fits = other > value
                    && self.names[other.index()].is_none()
                    && !draft.outputs.contains(&other)
                    && values(graph, other) == len
                    && (blocks.is_none() || block(other).is_none() || block(other) == blocks)
                    && draft.map.steps.len() < MOST_STEPS
                    && plan.reads.get(&other).is_some_and(|reads| reads.iter().all(is_ready));
                if fits {
                    draft.write(other);
                    blocks = blocks.or(block(other));
                }
            }
        }
        let Draft { map, operands, outputs, .. } = draft;
        let names: Vec<String> = operands.iter().map(|&v| self.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let written = self.nodes("Map", &names, outputs.len(), &attributes(&map, graph, &outputs));
        if let Some(node) = self.proto.node.last_mut() {
            node.domain = Some(super::KERNELS.into());
        }
        for (output, name) in outputs.iter().zip(written) {
            self.names[output.index()] = Some(name);
        }
    }
}

/// A map as attributes: lists of lists are flat, each with its length before it.
fn attributes(map: &Map, graph: &Graph, outputs: &[Value]) -> Vec<(&'static str, Attr)> {
    let number = |source: Source| match source {
        Source::Operand(i) => 3 * i,
        Source::Constant(i) => 3 * i + 1,
        Source::Step(i) => 3 * i + 2,
    };
    let (mut views, mut steps, mut results, mut shapes) = (vec![], vec![], vec![], vec![]);
    for view in &map.views {
        views.push(view.len());
        views.extend(view.iter().flat_map(|axis| [axis.length, axis.stride]));
    }
    for step in &map.steps {
        steps.push(Elementwise::ALL.iter().position(|&op| op == step.op).unwrap_or(0));
        steps.extend(step.arguments.map(number));
    }
    let mut factors = Vec::new();
    for (output, &value) in map.outputs.iter().zip(outputs) {
        results.push(number(output.source));
        match output.form {
            Form::Whole => results.extend([0; 3]),
            Form::Sum { blocks, scale, cancelled } => {
                results.extend([blocks.outer, blocks.length, blocks.inner]);
                factors.extend([scale, cancelled]);
            }
        }
        let shape = graph.shape(value);
        shapes.push(shape.len());
        shapes.extend(shape);
    }
    vec![
        ("len", Attr::Int(map.len as i64)),
        ("views", Attr::from(views.as_slice())),
        ("constants", Attr::Floats(map.constants.clone())),
        ("steps", Attr::from(steps.as_slice())),
        ("results", Attr::from(results.as_slice())),
        ("factors", Attr::Floats(factors)),
        ("shapes", Attr::from(shapes.as_slice())),
    ]
}
