//! A cell of NAS-Bench-101: a directed graph from its input to its output.

use md5::{Digest, Md5};

use crate::file;

/// What a cell has at most, when all that does nothing is taken out.
pub(super) const VERTICES: usize = 7;
const EDGES: usize = 9;

/// What a vertex does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Convolution of 3×3, batch norm, ReLU.
    Conv3,
    /// Convolution of 1×1, batch norm, ReLU.
    Conv1,
    /// Maximum of 3×3.
    MaxPool,
}

impl Op {
    pub const ALL: [Op; 3] = [Op::Conv3, Op::Conv1, Op::MaxPool];

    pub fn name(self) -> &'static str {
        match self {
            Op::Conv3 => "conv3x3-bn-relu",
            Op::Conv1 => "conv1x1-bn-relu",
            Op::MaxPool => "maxpool3x3",
        }
    }

    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }
}

/// A cell. Each of its vertices is reached from the input and reaches the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// By source and target, whether there is an edge.
    matrix: Vec<Vec<bool>>,
    /// What the vertices between input and output do.
    ops: Vec<Op>,
}

impl Cell {
    /// The cell of these edges, `matrix[source][target]`, with `ops` on the vertices between the first,
    /// the input, and the last, the output. Vertices that do nothing are taken out. Errs in words.
    pub fn new(matrix: Vec<Vec<bool>>, ops: Vec<Op>) -> Result<Self, String> {
        let count = matrix.len();
        let backward = |from: usize| matrix[from][..=from].contains(&true);
        if (0..count).any(backward) {
            return Err("edges must lead from a vertex to a later one".into());
        }
        let (mut reached, mut reaching) = (vec![false; count], vec![false; count]);
        (reached[0], reaching[count - 1]) = (true, true);
        for to in 1..count {
            reached[to] = (0..to).any(|from| reached[from] && matrix[from][to]);
        }
        for from in (0..count - 1).rev() {
            reaching[from] = (from + 1..count).any(|to| matrix[from][to] && reaching[to]);
        }
        if !reached[count - 1] {
            return Err("no way leads from the input to the output".into());
        }
        let kept: Vec<usize> = (0..count).filter(|&v| reached[v] && reaching[v]).collect();
        let row = |&from: &usize| kept.iter().map(|&to| matrix[from][to]).collect::<Vec<_>>();
        let pruned: Vec<Vec<bool>> = kept.iter().map(row).collect();
        let edges = pruned.iter().flatten().filter(|&&edge| edge).count();
        if kept.len() > VERTICES || edges > EDGES {
            return Err(format!(
                "it has {} vertices and {edges} edges, and may have {VERTICES} and {EDGES}",
                kept.len()
            ));
        }
        let ops = kept[1..kept.len() - 1].iter().map(|&vertex| ops[vertex - 1]).collect();
        Ok(Cell { matrix: pruned, ops })
    }

    pub fn matrix(&self) -> &[Vec<bool>] {
        &self.matrix
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn has_edge(&self, source: usize, target: usize) -> bool {
        self.matrix[source][target]
    }

    /// The channels of the vertices between input and output, in a cell of `channels`: those that the
    /// output reads share them, the first ones taking the remainder; another has as many as the widest
    /// that reads it.
    pub fn widths(&self, channels: usize) -> Vec<usize> {
        let output = self.ops.len() + 1;
        let read = (1..output).filter(|&vertex| self.has_edge(vertex, output)).count();
        let mut widths = vec![0; output];
        let mut left = channels.checked_rem(read).unwrap_or(0);
        let is_read = |(vertex, _): &(usize, &mut usize)| self.has_edge(*vertex, output);
        for (_, width) in widths.iter_mut().enumerate().skip(1).filter(is_read) {
            *width = channels / read + usize::from(left > 0);
            left = left.saturating_sub(1);
        }
        for vertex in (1..output).rev().filter(|&vertex| !self.has_edge(vertex, output)) {
            let readers = (vertex + 1..output).filter(|&to| self.has_edge(vertex, to));
            widths[vertex] = readers.map(|to| widths[to]).max().unwrap_or(0);
        }
        widths.split_off(1)
    }

    /// What the benchmark identifies the cell by, whatever the order of its vertices.
    pub fn hash(&self) -> String {
        let count = self.matrix.len();
        let labels = [-1].into_iter().chain(self.ops.iter().map(|&op| op as i32)).chain([-2]);
        let outward = |v: usize| (0..count).filter(move |&to| self.has_edge(v, to));
        let inward = |v: usize| (0..count).filter(move |&from| self.has_edge(from, v));
        let label =
            |(v, label)| md5(&format!("({}, {}, {label})", outward(v).count(), inward(v).count()));
        let mut hashes: Vec<String> = labels.enumerate().map(label).collect();
        for _ in 0..count {
            let sorted = |vertices: &mut dyn Iterator<Item = usize>| {
                let mut of: Vec<&str> = vertices.map(|v| hashes[v].as_str()).collect();
                of.sort_unstable();
                of.concat()
            };
            let next = |v: usize| {
                md5(&format!(
                    "{}|{}|{}",
                    sorted(&mut inward(v)),
                    sorted(&mut outward(v)),
                    hashes[v]
                ))
            };
            hashes = (0..count).map(next).collect();
        }
        hashes.sort_unstable();
        // As Python writes a list.
        md5(&format!("['{}']", hashes.join("', '")))
    }
}

/// The MD5 of a text in hex.
fn md5(text: &str) -> String {
    file::hex(Md5::new_with_prefix(text))
}
