//! Genotypes: two cells, and how wide and deep a network of them is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ops::Op;

/// The cells of a network, as NDS writes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Genotype {
    normal: Vec<(Op, usize)>,
    normal_concat: Vec<usize>,
    reduce: Vec<(Op, usize)>,
    reduce_concat: Vec<usize>,
}

/// A genotype with a width and a depth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Network {
    pub genotype: Genotype,
    /// The channels of the first cell.
    pub width: usize,
    /// How many cells there are.
    pub depth: usize,
}

/// One kind of cell.
#[derive(Clone, Copy)]
pub(super) struct CellRef<'a> {
    /// Two operations for each node, with the state that each reads.
    pub edges: &'a [(Op, usize)],
    /// The states that are put side by side.
    pub concat: &'a [usize],
}

impl Genotype {
    /// The cells of these edges, which are joined as `concat` says.
    pub fn of(
        normal: Vec<(Op, usize)>,
        reduce: Vec<(Op, usize)>,
        concat: impl Fn(&[(Op, usize)]) -> Vec<usize>,
    ) -> Self {
        let (normal_concat, reduce_concat) = (concat(&normal), concat(&reduce));
        Genotype { normal, normal_concat, reduce, reduce_concat }
    }

    pub fn normal(&self) -> CellRef<'_> {
        CellRef { edges: &self.normal, concat: &self.normal_concat }
    }

    pub fn reduce(&self) -> CellRef<'_> {
        CellRef { edges: &self.reduce, concat: &self.reduce_concat }
    }
}

impl Network {
    /// What a record of NDS, or the fields of a network alone, say. Errs in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let record: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let network = record.get("net").unwrap_or(&record);
        if network.get("aux").and_then(Value::as_bool) == Some(true) {
            return Err("it has an auxiliary head, which is not built".into());
        }
        Network::deserialize(network).map_err(|e| e.to_string())
    }
}

impl CellRef<'_> {
    /// Errs in words where it is no cell of `nodes` nodes with operations out of `ops`.
    pub fn check(&self, nodes: usize, ops: &[Op]) -> Result<(), String> {
        if self.edges.len() != 2 * nodes {
            return Err(format!(
                "a cell has {} operations, and must have two for each of {nodes} nodes",
                self.edges.len()
            ));
        }
        for (i, (op, state)) in self.edges.iter().enumerate() {
            if !ops.contains(op) {
                let names: Vec<String> = ops.iter().map(ToString::to_string).collect();
                return Err(format!("\"{op}\" is not among its operations, {}", names.join(", ")));
            }
            if *state >= i / 2 + 2 {
                return Err(format!("node {} reads state {state}, which is not there", i / 2 + 2));
            }
        }
        let mut states = self.concat.to_vec();
        states.sort_unstable();
        states.dedup();
        let is_there = states.iter().all(|&state| state < nodes + 2);
        if states.is_empty() || states.len() != self.concat.len() || !is_there {
            return Err(format!("{:?} are not the states that a cell can join", self.concat));
        }
        Ok(())
    }
}
