//! Finding the value that an equal operation has already.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::{Node, Op, Operation, Value};

/// The operations of a graph by their hashes. The graph itself holds what they are, so that
/// nothing is stored twice.
#[derive(Default)]
pub(super) struct Known {
    hasher: RandomState,
    values: HashMap<u64, Value>,
}

impl Known {
    /// The operations of `nodes`; of equal ones the first.
    pub(super) fn of<P: Operation>(nodes: &[Node<P>]) -> Self {
        let operations = nodes.iter().enumerate().filter_map(|(i, node)| match &node.op {
            Op::Apply(op) => Some((Value(i as u32), op, &node.inputs)),
            _ => None,
        });
        let mut known = Known::default();
        known.values.reserve(nodes.len());
        for (value, op, inputs) in operations {
            if let Err(place) = known.find(nodes, op, inputs) {
                known.add(place, value);
            }
        }
        known
    }

    /// The value among `nodes` that is `op` of `inputs`, or the place to add one at.
    pub(super) fn find<P: Operation>(
        &self,
        nodes: &[Node<P>],
        op: &P,
        inputs: &[Value],
    ) -> Result<Value, u64> {
        let mut place = self.hasher.hash_one((op, inputs));
        // Others with this hash stand at the places that follow.
        while let Some(&value) = self.values.get(&place) {
            let node = &nodes[value.index()];
            if node.inputs == inputs && matches!(&node.op, Op::Apply(other) if other == op) {
                return Ok(value);
            }
            place = place.wrapping_add(1);
        }
        Err(place)
    }

    /// Adds a value at a place that [`Known::find`] gave.
    pub(super) fn add(&mut self, place: u64, value: Value) {
        self.values.insert(place, value);
    }
}
