//! Weights with random values that are equal, or transposes of each other.

use std::collections::HashMap;

use super::Tie;
use crate::graph::{Graph, Parameter, Value};
use crate::import::provenance::Owner;
use crate::ops::Op;
use crate::tensor::Tensor;

/// The number of elements that are sampled to tell random values from a pattern.
const SAMPLED: usize = 512;

/// A tensor that begins with more values in sorted order than this is a table.
const ORDERED: usize = 6;

/// Ties between parameters with random values that are equal or transposes of each other.
pub(super) fn equal_weights(graph: &Graph, owner: impl Fn(&str) -> Owner) -> HashMap<Value, Tie> {
    let mut by_length: HashMap<usize, Vec<(Value, &Parameter)>> = HashMap::new();
    for (value, parameter) in graph.parameters() {
        by_length.entry(parameter.tensor.len()).or_default().push((value, parameter));
    }
    let mut ties = HashMap::new();
    for same in by_length.into_values().filter(|same| same.len() > 1) {
        let mut by_digest: HashMap<u64, Vec<Class>> = HashMap::new();
        for (value, parameter) in same {
            let Some(values) = parameter.tensor.f32_slice().filter(|v| is_drawn(v)) else {
                continue;
            };
            let classes = by_digest.entry(digest(values)).or_default();
            let owner = owner(&parameter.name);
            let found = classes.iter_mut().find_map(|class| {
                let first = class.members.first()?.value;
                let fits = class.admits(&owner).then(|| relation(graph, first, value));
                Some((class, fits.flatten()?))
            });
            match found {
                Some((class, transposed)) => class.add(value, owner, transposed),
                None => {
                    let mut class = Class::default();
                    class.add(value, owner, false);
                    classes.push(class);
                }
            }
        }
        for Class { members, named, .. } in by_digest.into_values().flatten() {
            // Prefer the name that a module gives to the parameter.
            let Some(&to) = members.get(named.unwrap_or(0)) else { continue };
            for member in members.iter().filter(|member| member.value != to.value) {
                let transposed = member.transposed != to.transposed;
                ties.insert(member.value, Tie { to: to.value, transposed });
            }
        }
    }
    ties
}

/// Tensors that are one parameter: equal or transposes of each other, with compatible owners.
#[derive(Default)]
struct Class {
    members: Vec<Member>,
    /// The first member whose owner is a parameter.
    named: Option<usize>,
    /// The distinct owners of the members.
    owners: Vec<Owner>,
}

/// A tensor in a class.
#[derive(Clone, Copy)]
struct Member {
    value: Value,
    /// Whether it is the transpose of the first member.
    transposed: bool,
}

impl Class {
    fn admits(&self, owner: &Owner) -> bool {
        self.owners.iter().all(|known| known.is_compatible(owner))
    }

    fn add(&mut self, value: Value, owner: Owner, transposed: bool) {
        if matches!(owner, Owner::Parameter(_)) {
            self.named.get_or_insert(self.members.len());
        }
        self.members.push(Member { value, transposed });
        if !self.owners.contains(&owner) {
            self.owners.push(owner);
        }
    }
}

/// The axes of a shape that are longer than 1.
pub(super) fn long_axes(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&d| d != 1).collect()
}

/// [`related`] for two parameters of a graph.
fn relation(graph: &Graph, a: Value, b: Value) -> Option<bool> {
    match (&graph.node(a).op, &graph.node(b).op) {
        (Op::Parameter(p), Op::Parameter(q)) => related(&p.tensor, &q.tensor),
        _ => None,
    }
}

/// `Some(false)` for equal tensors, `Some(true)` for transposes of each other, else `None`. Axes of
/// length 1 are ignored: a layer folded on zeros leaves its bias with a batch axis.
pub(in crate::import) fn related(a: &Tensor, b: &Tensor) -> Option<bool> {
    let (x, y) = (a.f32_slice()?, b.f32_slice()?);
    let (of_a, of_b) = (long_axes(a.shape()), long_axes(b.shape()));
    if of_a == of_b && x == y {
        return Some(false);
    }
    match (&of_a[..], &of_b[..]) {
        (&[rows, columns], &[r, c]) if (rows, columns) == (c, r) => {
            let turned = |i: usize| y.iter().skip(i).step_by(rows);
            x.chunks(columns).enumerate().all(|(i, row)| row.iter().eq(turned(i))).then_some(true)
        }
        _ => None,
    }
}

/// A hash of the values that does not depend on their order: a sum of scrambled bits.
pub(in crate::import) fn digest(values: &[f32]) -> u64 {
    let scrambled = |v: &f32| {
        let x = u64::from(v.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    values.iter().fold(0, |sum, v| sum.wrapping_add(scrambled(v)))
}

/// Whether the values look random: most of them differ, and they are not sorted.
fn is_drawn(values: &[f32]) -> bool {
    let step = values.len().div_ceil(SAMPLED).max(1);
    let mut sample: Vec<u32> = values.iter().step_by(step).map(|v| v.to_bits()).collect();
    let sampled = sample.len();
    sample.sort_unstable();
    sample.dedup();
    let start = &values[..values.len().min(64)];
    let ordered = start.len() > ORDERED && (start.is_sorted() || start.is_sorted_by(|a, b| a >= b));
    sampled > 1 && sample.len() * 2 > sampled && !ordered
}
