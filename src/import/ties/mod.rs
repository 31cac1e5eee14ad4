//! Tied parameters: several stored tensors that are one parameter of the network.
//!
//! Exporters store a tensor computed from a weight, often its transpose, once for each use. A layer
//! applied three times then has three matrices, and an output head tied to the embedding has its own.
//!
//! Random values are not equal by chance. So equal tensors become one parameter, and a transpose becomes
//! a view of it, unless the file says that they belong to different modules: layers may be initialised
//! as copies of each other. Tensors with a single value, such as scales of 1 and biases of 0, are equal
//! by chance. Such a bias is tied if the weight of its layer is.

mod biases;
mod equal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::biases::biases_of_tied;
pub(super) use self::equal::{digest, related};
use self::equal::{equal_weights, long_axes};
use super::provenance::Owner;
use crate::error::Result;
use crate::graph::{Builder, Graph, Value};
use crate::ops::Op;

/// The number of ties that a note lists by name.
const LISTED: usize = 3;

/// The parameter that another one is tied to.
#[derive(Clone, Copy)]
struct Tie {
    to: Value,
    transposed: bool,
}

/// Ties parameters that are equal or transposes of each other. Returns the new graph, and a note that
/// lists the ties, if there are any. `owner` is what the file says about the owner of a tensor.
pub(super) fn tie(graph: Graph, owner: impl Fn(&str) -> Owner) -> Result<(Graph, Option<String>)> {
    let mut ties = equal_weights(&graph, owner);
    if ties.is_empty() {
        return Ok((graph, None));
    }
    biases_of_tied(&graph, &mut ties);
    let note = describe(&graph, &ties);
    let mut b = Builder::default();
    let mut made: HashMap<Value, Value> = HashMap::new();
    let map = b.import(&graph, |b, value, node, _| {
        if !matches!(node.op, Op::Parameter(_)) {
            return Ok(None);
        }
        let Tie { to, transposed } =
            ties.get(&value).copied().unwrap_or(Tie { to: value, transposed: false });
        let one = *made.entry(to).or_insert_with(|| {
            b.append(graph.node(to).op.clone(), Vec::new(), graph.fact(to).clone())
        });
        let one = match long_axes(graph.shape(value))[..] {
            [rows, columns] if transposed => {
                let matrix = b.reshape(one, &[columns, rows])?;
                b.transpose(matrix, &[1, 0])?
            }
            _ => one,
        };
        b.reshape(one, graph.shape(value)).map(Some)
    })?;
    b.copy_outputs(&graph, &map)?;
    Ok((b.finish(), Some(note)))
}

fn describe(graph: &Graph, ties: &HashMap<Value, Tie>) -> String {
    let name = |value: Value| graph.name(value).unwrap_or_default();
    let mut all: Vec<(Value, Tie)> = ties.iter().map(|(&value, &tie)| (value, tie)).collect();
    all.sort_unstable_by_key(|(value, _)| *value);
    let each = all.iter().take(LISTED).map(|(value, tie)| {
        let turned = if tie.transposed { ", transposed" } else { "" };
        format!("'{}' is '{}'{turned}", name(*value), name(tie.to))
    });
    let mut list: Vec<String> = each.collect();
    if all.len() > LISTED {
        list.push(format!("and {} more", all.len() - LISTED));
    }
    format!("equal tensors are taken as one parameter, tied: {}", list.join(", "))
}
