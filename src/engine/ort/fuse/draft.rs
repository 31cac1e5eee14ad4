//! Putting a map together.

use std::collections::HashMap;

use super::Read;
use super::placement::{
    MOST_STEPS, Placement, elementwise, is_view, primitive, reshaped, sum, values,
};
use crate::graph::{Graph, Value};
use crate::kernel::{Axis, Blocks, FusedMap, MapOutput, OutputLayout, Source, Step};
use crate::ops::Primitive;
use crate::tensor::DType;

/// Rows of more values than this have left the cache when their sum is known.
const LONGEST_ROW: usize = 1 << 14;

/// A map that is put together from values of a graph.
pub(super) struct Draft<'a> {
    graph: &'a Graph,
    placements: &'a [Placement],
    pub(super) map: FusedMap,
    /// The length of rows, where there are sums over such.
    row: Option<usize>,
    /// The values that are read.
    pub(super) operands: Vec<Value>,
    /// The values that are written.
    pub(super) outputs: Vec<Value>,
    found: HashMap<Value, Source>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(graph: &'a Graph, placements: &'a [Placement], len: usize) -> Self {
        let map = FusedMap {
            len,
            views: vec![],
            truths: vec![],
            constants: vec![],
            steps: vec![],
            outputs: vec![],
        };
        let (operands, outputs, found) = (Vec::new(), Vec::new(), HashMap::new());
        Draft { graph, placements, map, row: None, operands, outputs, found }
    }

    /// Adds a value that is written.
    pub(super) fn write(&mut self, value: Value) {
        let (source, layout) = match (sum(self.graph, value), self.row) {
            (Some(layout), _) => {
                let terms = self.graph.node(value).inputs[0];
                (self.source(terms, self.graph.shape(terms)), layout)
            }
            (None, Some(length)) if self.graph.fact(value).len() != self.map.len => {
                (self.compute(value), OutputLayout::Row { length })
            }
            (None, _) => (self.compute(value), OutputLayout::Whole),
        };
        if let OutputLayout::Sum { blocks: Blocks { length, inner: 1, .. }, .. } = layout
            && (2..=LONGEST_ROW).contains(&length)
        {
            self.row = Some(length);
            self.found.insert(value, Source::Sum(self.outputs.len()));
        }
        self.outputs.push(value);
        self.map.outputs.push(MapOutput { source, layout });
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
            Some(op) if self.placements[value.index()] == Placement::Inside => match is_view(op) {
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
    pub(super) fn fits(
        &self,
        value: Value,
        reads: &[Read],
        is_written: impl Fn(Value) -> bool,
    ) -> bool {
        let Draft { graph, map, .. } = self;
        let len = values(graph, value);
        let rows = self.row.map_or(0, |row| map.len / row);
        let is_of_rows = len == rows && sum(graph, value).is_none();
        let size = |layout: OutputLayout| match layout {
            OutputLayout::Sum { blocks, .. } => Some((blocks.length, blocks.inner)),
            _ => None,
        };
        let size_of_sums = map.outputs.iter().find_map(|output| size(output.layout));
        let has_size = |layout| size_of_sums.is_none() || size(layout) == size_of_sums;
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
