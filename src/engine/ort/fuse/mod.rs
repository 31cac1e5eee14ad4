//! Which elementwise operations become one kernel, [`FusedMap`](crate::kernel::FusedMap).
//!
//! A result that only other maps of as many values use is not written: each of them computes it
//! again, which costs less than memory does. What is written together with it from the same operands
//! comes out of one pass over them; so does what is computed from sums over its rows, as a
//! normalisation is from mean and variance.

mod draft;
mod placement;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::iter::zip;

use self::draft::Draft;
pub(super) use self::placement::Placement;
use self::placement::{placements, values};
use crate::graph::{Graph, Op, Value};
use crate::kernel::Axis;
use crate::ops::Primitive;

/// A value that a map reads, and how it is repeated.
struct Read {
    value: Value,
    view: Vec<Axis>,
}

/// Which values of a graph are fused into maps.
pub(super) struct Fusion {
    placements: Vec<Placement>,
    /// The shapes of written values that others than maps only take in that shape.
    shapes: HashMap<Value, Vec<usize>>,
    /// By a value that is read, those that are written from it.
    readers: HashMap<Value, Vec<Value>>,
    /// By a value that is written, those that are read for it.
    reads: HashMap<Value, Vec<Read>>,
}

impl Fusion {
    pub(super) fn placement(&self, value: Value) -> Placement {
        self.placements[value.index()]
    }

    /// Whether the tensor that is written for `value` has this shape.
    pub(super) fn is_shaped(&self, value: Value, shape: &[usize]) -> bool {
        self.shapes.get(&value).is_some_and(|own| own == shape)
    }

    pub(super) fn new(graph: &Graph, live: &[bool]) -> Self {
        let placements = placements(graph, live);
        let (mut readers, mut reads) = (HashMap::<Value, Vec<Value>>::new(), HashMap::new());
        for (value, _) in graph.nodes() {
            if placements[value.index()] == Placement::Written {
                let mut draft = Draft::new(graph, &placements, values(graph, value));
                draft.write(value);
                for &operand in &draft.operands {
                    readers.entry(operand).or_default().push(value);
                }
                let read = |(value, view)| Read { value, view };
                reads.insert(value, zip(draft.operands, draft.map.views).map(read).collect());
            }
        }
        let shapes = shapes(graph, live, &placements);
        Fusion { placements, shapes, readers, reads }
    }
}

/// For each written value that others than maps use only by reshapes to one shape, that shape.
fn shapes(graph: &Graph, live: &[bool], placements: &[Placement]) -> HashMap<Value, Vec<usize>> {
    let mut shapes: HashMap<Value, Option<Vec<usize>>> = HashMap::new();
    for (value, node) in graph.nodes() {
        if !live[value.index()] || placements[value.index()] != Placement::Alone {
            continue;
        }
        let shape = match &node.op {
            Op::Apply(Primitive::Reshape(op)) => Some(&op.shape),
            _ => None,
        };
        for &input in node.inputs.iter().filter(|v| placements[v.index()] == Placement::Written) {
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
