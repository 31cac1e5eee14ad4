//! Which elementwise operations become one kernel, [`Map`].
//!
//! A result that only other maps of as many values use is not written: each of them computes it
//! again, which costs less than memory does. What is written together with it from the same operands
//! comes out of one pass over them; so does what is made of sums over its rows, as a normalisation is
//! of mean and variance.

use std::collections::HashMap;
use std::iter::zip;

use super::{Attr, Emitter};
use crate::graph::{Fact, Graph, Value};
use crate::kernel::{Axis, Blocks, Elementwise, Form, Map, Output, Source, Step};
use crate::ops::{Binary, Op, Primitive, Reduce, Reduction, Unary};
use crate::tensor::DType;

/// What is computed inside maps has at most so many steps.
const MOST_STEPS: usize = 40;

/// A value is written where computing it for each of its uses reads more than so many tensors beside
/// the one it is.
const MOST_READ_AGAIN: usize = 3;

/// So many of those that read a value are looked at for what can be written together with another:
/// with all of them, a value that everything reads would be looked at by everything.
const MOST_READERS: usize = 256;

/// A single sum of more values than this is left to the engine.
const LONGEST_SUM: usize = 1 << 16;

/// Rows of more values than this have left the cache when their sum is known.
const LONGEST_ROW: usize = 1 << 14;

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

/// The value whose elements `value` has, in another shape.
fn reshaped(graph: &Graph, mut value: Value) -> Value {
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
fn sum(graph: &Graph, value: Value) -> Option<Form> {
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
    Some(Form::Sum { blocks, scale })
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
            if fates[i] == Fate::Alone {
                asked[input.index()] = true;
            } else if graph.fact(input).len() != len {
                // Maps read it in any shape.
                asked[reshaped(graph, input).index()] = true;
            }
        }
    }
    fates
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

/// A map that is put together from values of a graph.
struct Draft<'a> {
    graph: &'a Graph,
    fates: &'a [Fate],
    map: Map,
    /// The length of rows, where there are sums over such.
    row: Option<usize>,
    /// The values that are read.
    operands: Vec<Value>,
    /// The values that are written.
    outputs: Vec<Value>,
    found: HashMap<Value, Source>,
}

impl<'a> Draft<'a> {
    fn new(graph: &'a Graph, fates: &'a [Fate], len: usize) -> Self {
        let map = Map {
            len,
            views: vec![],
            truths: vec![],
            constants: vec![],
            steps: vec![],
            outputs: vec![],
        };
        let (operands, outputs, found) = (Vec::new(), Vec::new(), HashMap::new());
        Draft { graph, fates, map, row: None, operands, outputs, found }
    }

    /// Adds a value that is written.
    fn write(&mut self, value: Value) {
        let (source, form) = match (sum(self.graph, value), self.row) {
            (Some(form), _) => {
                let terms = self.graph.node(value).inputs[0];
                (self.source(terms, self.graph.shape(terms)), form)
            }
            (None, Some(length)) if self.graph.fact(value).len() != self.map.len => {
                (self.compute(value), Form::Row { length })
            }
            (None, _) => (self.compute(value), Form::Whole),
        };
        if let Form::Sum { blocks: Blocks { length, inner: 1, .. }, .. } = form
            && (2..=LONGEST_ROW).contains(&length)
        {
            self.row = Some(length);
            self.found.insert(value, Source::Sum(self.outputs.len()));
        }
        self.outputs.push(value);
        self.map.outputs.push(Output { source, form });
    }

    /// What the elements of `value`, broadcast to `shape`, are read from or computed by. `shape` has an
    /// element for each value or for each row.
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
        if let Some(&source) = self.found.get(&reshaped(graph, value)) {
            return source;
        }
        let node = graph.node(value);
        if node.fact.len() != shape.iter().product::<usize>() {
            return self.operand(value, shape);
        }
        match primitive(graph, value) {
            Some(Primitive::Reshape(_) | Primitive::Detach(_)) => {
                self.source(node.inputs[0], graph.shape(node.inputs[0]))
            }
            Some(op) if self.fates[value.index()] == Fate::Inside => match is_view(op) {
                true => self.source(node.inputs[0], &node.fact.shape),
                false => self.compute(value),
            },
            _ => self.operand(value, shape),
        }
    }

    /// The step that computes `value`.
    fn compute(&mut self, value: Value) -> Source {
        let node = self.graph.node(value);
        let arguments: Vec<Source> =
            node.inputs.iter().map(|&v| self.source(v, &node.fact.shape)).collect();
        let Some(op) = primitive(self.graph, value).and_then(elementwise) else {
            unreachable!("only elementwise operations are fated to be computed by maps");
        };
        let arguments = [0, 1, 2].map(|i: usize| arguments[i.min(arguments.len() - 1)]);
        self.map.steps.push(Step { op, arguments });
        let source = Source::Step(self.map.steps.len() - 1);
        self.found.insert(value, source);
        source
    }

    fn operand(&mut self, value: Value, shape: &[usize]) -> Source {
        let (mut from, mut to) = (self.graph.shape(value).to_vec(), shape.to_vec());
        if let Some(row) = self.row
            && to.iter().product::<usize>() != self.map.len
        {
            from.push(1);
            to.push(row);
        }
        let (value, view) = (reshaped(self.graph, value), view(&from, &to));
        let known = self.operands.iter().zip(&self.map.views);
        let known = known.into_iter().position(|(v, seen)| *v == value && *seen == view);
        Source::Operand(known.unwrap_or_else(|| {
            if self.graph.fact(value).dtype == DType::Bool {
                self.map.truths.push(self.operands.len());
            }
            self.operands.push(value);
            self.map.views.push(view);
            self.operands.len() - 1
        }))
    }

    /// Whether `value`, for which `reads` are read, can be written from the same pass, given those
    /// that are written already.
    fn fits(&self, value: Value, reads: &[Read], is_written: impl Fn(Value) -> bool) -> bool {
        let Draft { graph, map, .. } = self;
        let len = values(graph, value);
        let rows = self.row.map_or(0, |row| map.len / row);
        let is_of_rows = len == rows && sum(graph, value).is_none();
        let size = |form: Form| match form {
            Form::Sum { blocks, .. } => Some((blocks.length, blocks.inner)),
            _ => None,
        };
        let size_of_sums = map.outputs.iter().find_map(|output| size(output.form));
        let has_size = |form| size_of_sums.is_none() || size(form) == size_of_sums;
        let is_here = |read: &Read| self.found.contains_key(&read.value);
        // What is found here has the place of the value or of its row.
        let is_in_place = |read: &Read| {
            let from = graph.fact(read.value).len();
            let row = if from == len { 1 } else { map.len / from };
            is_here(read) && read.view == view(&[from, 1], &[from, row])
        };
        map.steps.len() < MOST_STEPS
            && (len == map.len || is_of_rows && reads.iter().any(is_here))
            && sum(graph, value).is_none_or(has_size)
            && reads.iter().all(|read| is_written(read.value) || is_in_place(read))
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

/// A value that a map reads, and how it is repeated.
struct Read {
    value: Value,
    view: Vec<Axis>,
}

/// What a graph is written as where maps are.
pub(super) struct Plan {
    fates: Vec<Fate>,
    /// The shapes of written values that others than maps only take in that shape.
    shapes: HashMap<Value, Vec<usize>>,
    /// By a value that is read, those that are written from it.
    readers: HashMap<Value, Vec<Value>>,
    /// By a value that is written, those that are read for it.
    reads: HashMap<Value, Vec<Read>>,
}

impl Plan {
    pub(super) fn fate(&self, value: Value) -> Fate {
        self.fates[value.index()]
    }

    /// Whether the tensor that is written for `value` has this shape.
    pub(super) fn is_shaped(&self, value: Value, shape: &[usize]) -> bool {
        self.shapes.get(&value).is_some_and(|own| own == shape)
    }

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
                let read = |(value, view)| Read { value, view };
                reads.insert(value, zip(draft.operands, draft.map.views).map(read).collect());
            }
        }
        let shapes = shapes(graph, live, &fates);
        Plan { fates, shapes, readers, reads }
    }
}

/// For each written value that others than maps use only by reshapes to one shape, that shape.
fn shapes(graph: &Graph, live: &[bool], fates: &[Fate]) -> HashMap<Value, Vec<usize>> {
    let mut shapes: HashMap<Value, Option<Vec<usize>>> = HashMap::new();
    for (value, node) in graph.nodes() {
        if !live[value.index()] || fates[value.index()] != Fate::Alone {
            continue;
        }
        let shape = match &node.op {
            Op::Apply(Primitive::Reshape(op)) => Some(&op.shape),
            _ => None,
        };
        for &input in node.inputs.iter().filter(|v| fates[v.index()] == Fate::Written) {
            let known = shapes.entry(input).or_insert_with(|| shape.cloned());
            if known.as_ref() != shape {
                *known = None;
            }
        }
    }
    for output in graph.outputs() {
        shapes.remove(&output.value);
    }
    shapes.into_iter().filter_map(|(value, shape)| Some((value, shape?))).collect()
}

impl Emitter<'_> {
    /// Writes `value` and, from the same pass over the operands, whatever else can be had of them.
    pub(super) fn emit_map(&mut self, value: Value, plan: &Plan) {
        let graph = self.graph;
        let mut draft = Draft::new(graph, &plan.fates, values(graph, value));
        draft.write(value);
        let mut next = 0;
        // Operands and results alike may be read by others.
        while let Some(&read) = draft.operands.iter().chain(&draft.outputs).nth(next) {
            next += 1;
            let readers = plan.readers.get(&read).map_or(&[][..], Vec::as_slice);
            // They are in graph order.
            let later = &readers[readers.partition_point(|&other| other <= value)..];
            for &other in later.iter().take(MOST_READERS) {
                let is_written = |v: Value| self.names[v.index()].is_some();
                if !is_written(other)
                    && !draft.outputs.contains(&other)
                    && draft.fits(other, &plan.reads[&other], is_written)
                {
                    draft.write(other);
                }
            }
        }
        let Draft { map, operands, outputs, .. } = draft;
        let names: Vec<String> = operands.iter().map(|&v| self.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let shape = |v: &Value| plan.shapes.get(v).map_or(graph.shape(*v), Vec::as_slice);
        let shapes: Vec<&[usize]> = outputs.iter().map(shape).collect();
        let written = self.kernels("Map", &names, outputs.len(), &attributes(&map, &shapes));
        for (output, name) in outputs.iter().zip(written) {
            self.names[output.index()] = Some(name);
        }
    }
}

/// A map as attributes: lists of lists are flat, each with its length before it.
fn attributes(map: &Map, shapes_of: &[&[usize]]) -> Vec<(&'static str, Attr)> {
    let number = |source: Source| match source {
        Source::Operand(i) => 4 * i,
        Source::Constant(i) => 4 * i + 1,
        Source::Step(i) => 4 * i + 2,
        Source::Sum(i) => 4 * i + 3,
    };
    let (mut views, mut steps, mut results, mut shapes) = (vec![], vec![], vec![], vec![]);
    for view in &map.views {
        views.push(view.len());
        views.extend(view.iter().flat_map(|axis| [axis.length, axis.stride]));
    }
    for step in &map.steps {
        steps.push(step.op as usize);
        steps.extend(step.arguments.map(number));
    }
    let mut factors = Vec::new();
    for (output, &shape) in map.outputs.iter().zip(shapes_of) {
        results.push(number(output.source));
        match output.form {
            Form::Whole => results.extend([0; 3]),
            Form::Row { length } => results.extend([map.len / length, length, 0]),
            Form::Sum { blocks, scale } => {
                results.extend([blocks.outer, blocks.length, blocks.inner]);
                factors.push(scale);
            }
        }
        shapes.push(shape.len());
        shapes.extend(shape);
    }
    vec![
        ("len", Attr::Int(map.len as i64)),
        ("views", Attr::from(views.as_slice())),
        ("truths", Attr::from(map.truths.as_slice())),
        ("constants", Attr::Floats(map.constants.clone())),
        ("steps", Attr::from(steps.as_slice())),
        ("results", Attr::from(results.as_slice())),
        ("factors", Attr::Floats(factors)),
        ("shapes", Attr::from(shapes.as_slice())),
    ]
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::emit::{Dialect, emit_split};
    use crate::error::Result;
    use crate::graph::Builder;
    use crate::onnx::proto::ModelProto;
    use crate::ops::Window;
    use crate::testing::Case;

    /// The operators that a graph is written as.
    fn operators(graph: &Graph) -> Vec<String> {
        use prost::Message;
        let (bytes, _) = emit_split(graph, Dialect::Fused).unwrap();
        let model = ModelProto::decode(bytes.as_slice()).unwrap();
        model.graph.unwrap().node.into_iter().map(|node| node.op_type.unwrap()).collect()
    }

    #[test]
    fn a_normalisation_and_its_sums_are_one_pass() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2, 3, 4, 4]));
        let c = b.input("c", Fact::new(DType::F32, [3, 1, 1]));
        let centred = b.sub(x, c).unwrap();
        let scaled = b.mul(centred, c).unwrap();
        let y = b.unary(Unary::Relu, scaled).unwrap();
        let sum = b.reduce_sum(scaled, &[2, 3]).unwrap();
        let rows = b.reshape(sum, &[2, 3]).unwrap();
        b.output("y", y);
        b.output("rows", rows);
        assert_eq!(operators(&b.finish()), ["Map"]);
    }

    /// `x` normalised over its last axis, and the deviation.
    fn normalised(b: &mut Builder, x: Value, axis: usize) -> Result<[Value; 2]> {
        let mean = b.reduce_mean(x, &[axis])?;
        let centred = b.sub(x, mean)?;
        let square = b.mul(centred, centred)?;
        let variance = b.reduce_mean(square, &[axis])?;
        let variance = b.shift(variance, 0.1)?;
        let deviation = b.sqrt(variance)?;
        Ok([b.div(centred, deviation)?, deviation])
    }

    #[test]
    fn what_is_made_of_sums_over_rows_is_one_kernel_with_them() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2, 3, 50]));
        let [y, deviation] = normalised(&mut b, x, 2).unwrap();
        let twice = b.add(deviation, deviation).unwrap();
        let twice = b.reshape(twice, &[6]).unwrap();
        let back = b.reshape(twice, &[2, 3, 1]).unwrap();
        let z = b.mul(y, back).unwrap();
        b.output("z", z);
        b.output("twice", twice);
        assert_eq!(operators(&b.finish()), ["Map"]);
    }

    /// The sums are there after all values only, or have another place than the values of their row.
    #[test]
    fn what_is_made_of_other_sums_is_a_kernel_of_its_own() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [4, 3, 4]));
        let [y, _] = normalised(&mut b, x, 1).unwrap();
        b.output("y", y);
        assert_eq!(operators(&b.finish()), ["Map"; 4]);
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [4, 4]));
        let sums = b.reduce_sum(x, &[1]).unwrap();
        let across = b.reshape(sums, &[1, 4]).unwrap();
        let y = b.mul(x, across).unwrap();
        b.output("y", y);
        assert_eq!(operators(&b.finish()), ["Map"; 2]);
    }

    #[test]
    fn normalisations_have_the_same_values() {
        for shape in [[2, 3, 1], [3, 2, 7], [5, 40, 60], [2, 2, 3000]] {
            for axis in [1, 2] {
                Case::new(format!("{shape:?}, {axis}"))
                    .input(&shape, -1.0, 1.0)
                    .input(&shape[1..], -1.0, 1.0)
                    .check_forward(|b, x| {
                        let [y, deviation] = normalised(b, x[0], axis)?;
                        let y = b.mul(y, x[1])?;
                        let sum = b.reduce_sum(y, &[axis])?;
                        let scaled = b.mul(sum, deviation)?;
                        b.add(y, scaled)
                    });
            }
        }
    }

    #[test]
    fn what_a_convolution_does_on_the_way_is_left_to_it() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 1, 4, 4]));
        let w = b.parameter("w", crate::tensor::Tensor::full(DType::F32, &[2, 1, 3, 3], 0.5));
        let bias = b.parameter("bias", crate::tensor::Tensor::full(DType::F32, &[2, 1, 1], 0.5));
        let y = b.conv(x, w, Window::plain(2)).unwrap();
        let y = b.add(y, bias).unwrap();
        let y = b.relu(y).unwrap();
        b.output("y", y);
        assert_eq!(operators(&b.finish()), ["Conv", "Add", "Relu"]);
    }

    #[test]
    fn a_value_that_a_convolution_takes_has_its_shape() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [3, 1, 1, 4, 4]));
        let w = b.parameter("w", crate::tensor::Tensor::full(DType::F32, &[2, 1, 3, 3], 0.5));
        let y = b.add(x, x).unwrap();
        let y = b.relu(y).unwrap();
        let y = b.reshape(y, &[3, 1, 4, 4]).unwrap();
        let y = b.conv(y, w, Window::plain(2)).unwrap();
        b.output("y", y);
        let operators = operators(&b.finish());
        assert!(operators.iter().all(|op| op == "Map" || op == "Conv" || op == "Reshape"));
        assert_eq!(operators.last().unwrap(), "Conv");
    }

    /// A tangle of elementwise operations, sums and shapes, of which some values are asked for.
    fn tangle(b: &mut Builder, x: &[Value], seed: u64) -> Result<Value> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = x.to_vec();
        for _ in 0..rng.random_range(4..30) {
            let p = values[rng.random_range(0..values.len())];
            let q = values[rng.random_range(0..values.len())];
            let rank = b.rank(p);
            let axis = rng.random_range(0..rank.max(1));
            let made = match rng.random_range(0..12) {
                0 => b.add(p, q),
                1 => b.sub(p, q),
                2 => b.mul(p, q),
                3 => b.max(p, q),
                4 => b.unary(Unary::Relu, p),
                5 => b.neg(p),
                6 => {
                    let size = b.unary(Unary::Abs, q)?;
                    let size = b.shift(size, 1.0)?;
                    b.div(p, size)
                }
                7 => match b.less_or_equal(p, q) {
                    Ok(less) => b.select(less, p, q),
                    Err(mismatch) => Err(mismatch),
                },
                8 if rank > 0 => b.reduce_sum(p, &[axis]),
                9 if rank > 1 => b.reduce_mean(p, &[axis, (axis + 1) % rank]),
                10 => {
                    let mut shape = b.shape(p);
                    shape.insert(axis, 1);
                    b.reshape(p, &shape)
                }
                _ => b.expand(p, &[&[2], b.shape(p).as_slice()].concat()),
            };
            // Not all shapes broadcast; values must not grow without end.
            if let Ok(value) = made
                && b.fact(value).len() < 2000
            {
                let bounded = b.unary(Unary::Tanh, value)?;
                values.push(if rng.random_range(0..4) == 0 { bounded } else { value });
            }
        }
        let mut parts = Vec::new();
        let last = values[values.len() - 1];
        for value in values {
            if value != last && rng.random_range(0..3) > 0 {
                continue;
            }
            let len = b.fact(value).len();
            parts.push(b.reshape(value, &[len])?);
        }
        b.concat(&parts, 0)
    }

    #[test]
    fn whatever_is_fused_has_the_same_values() {
        for seed in 0..40 {
            Case::new(format!("tangle {seed}"))
                .input(&[2, 3, 4], -1.0, 1.0)
                .input(&[3, 1], -1.0, 1.0)
                .input(&[4], -1.0, 1.0)
                .check_forward(|b, x| tangle(b, x, seed));
        }
    }
}
