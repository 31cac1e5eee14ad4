//! Checks before lowering: the nodes that the outputs depend on, and which of them cannot be lowered.

use std::collections::HashSet;

use super::quantised::quantised_weight;
use super::table::{Lowering, lookup};
use crate::error::{Error, Result};
use crate::onnx::{Function, Graph, Model, Node, Opsets};

/// The maximum nesting depth of functions and branches.
pub(super) const MAX_DEPTH: usize = 64;

/// A reason why a model cannot be imported, usually an unsupported operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The node's name, or its first output if it has no name. Empty for a problem of the whole model.
    pub node: String,
    /// The operator, with its domain unless that is `ai.onnx`.
    pub op: String,
    /// The opset version that the model declares for the operator's domain.
    pub opset: i64,
    /// Why it is not supported.
    pub reason: String,
}

impl Problem {
    /// A problem of the model as a whole.
    pub(super) fn general(error: &Error) -> Self {
        Problem { node: String::new(), op: String::new(), opset: 0, reason: error.to_string() }
    }
}

/// The indices of the nodes that `wanted` depends on, in order, and all names that they need.
pub(super) fn live_nodes<'m>(
    nodes: &'m [Node],
    wanted: impl IntoIterator<Item = &'m str>,
) -> (Vec<usize>, HashSet<&'m str>) {
    let mut needed: HashSet<&str> = wanted.into_iter().filter(|name| !name.is_empty()).collect();
    let mut live = Vec::new();
    for (i, node) in nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|output| needed.contains(output.as_str())) {
            live.push(i);
            needed.extend(node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty()));
            node.subgraphs().for_each(|graph| add_names(graph, &mut needed));
        }
    }
    live.reverse();
    (live, needed)
}

/// Adds all names that a branch mentions. Those that it does not define come from the outer graph.
fn add_names<'m>(graph: &'m Graph, names: &mut HashSet<&'m str>) {
    names.extend(graph.outputs.iter().map(|o| o.name.as_str()));
    for node in &graph.nodes {
        names.extend(node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty()));
        node.subgraphs().for_each(|graph| add_names(graph, names));
    }
}

/// The local function that `node` calls, if any.
pub(super) fn function_of<'m>(model: &'m Model, node: &Node) -> Option<&'m Function> {
    if model.functions.is_empty() {
        return None;
    }
    let key = (node.domain.clone(), node.op.clone(), node.overload.clone());
    model.functions.get(&key)
}

/// Errs if `outputs` depend on unsupported operators. The message names all of them.
pub(super) fn check(model: &Model, outputs: &[&str]) -> Result<()> {
    let problems = problems(model, outputs);
    let quantised = problems.iter().find(|p| is_quantised(&p.op));
    if let Some(Problem { node, op, .. }) = quantised {
        return Err(Error::UnsupportedModel(format!(
            "{}: the model is quantised (node '{node}' is {op}); gradients need the floating-point \
             model, exported before quantisation",
            model.source
        )));
    }
    if let Some(Problem { node, op, reason, .. }) = quantised_weight(model, outputs) {
        let source = &model.source;
        return Err(Error::UnsupportedModel(format!("{source}: node '{node}' ({op}): {reason}")));
    }
    let Some((first, rest)) = problems.split_first() else { return Ok(()) };
    let mut others: Vec<&str> = rest.iter().map(|p| p.op.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    others.retain(|op| *op != first.op);
    let mut reason = first.reason.clone();
    if !others.is_empty() {
        reason += &format!(" (also not supported: {})", others.join(", "));
    }
    Err(Error::UnsupportedOp {
        node: first.node.clone(),
        op: first.op.clone(),
        opset: first.opset,
        reason,
    })
}

/// Whether an operator computes on quantised values.
pub(super) fn is_quantised(op: &str) -> bool {
    let name = op.rsplit('.').next().unwrap_or(op);
    name.starts_with("QLinear")
        || name.starts_with("DynamicQuantize")
        || ["QGemm", "QAttention", "QuantizeLinear", "DequantizeLinear"].contains(&name)
        || ["ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"].contains(&name)
        || ["MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"].contains(&name)
}

/// The unsupported operators that `outputs` depend on, including those inside local functions and
/// branches.
pub(super) fn problems<'m>(model: &'m Model, outputs: &[&'m str]) -> Vec<Problem> {
    let mut scan = Scan { model, seen: HashSet::new(), problems: Vec::new() };
    scan.nodes(&model.graph.nodes, outputs, &model.opsets, "", 0);
    scan.problems
}

struct Scan<'m> {
    model: &'m Model,
    /// The functions already scanned, each with the outputs that were wanted.
    seen: HashSet<(*const Function, Vec<&'m str>)>,
    problems: Vec<Problem>,
}

impl<'m> Scan<'m> {
    fn nodes(
        &mut self,
        nodes: &'m [Node],
        wanted: &[&'m str],
        opsets: &'m Opsets,
        path: &str,
        depth: usize,
    ) {
        let (live, needed) = live_nodes(nodes, wanted.iter().copied());
        for node in live.into_iter().map(|i| &nodes[i]) {
            let label = match path {
                "" => node.label().to_owned(),
                path => format!("{path}/{}", node.label()),
            };
            let mut problem = |reason: &str| {
                self.problems.push(Problem {
                    node: label.clone(),
                    op: node.full_op(),
                    opset: opsets.get(&node.domain).copied().unwrap_or(1),
                    reason: reason.to_owned(),
                });
            };
            if depth >= MAX_DEPTH {
                return problem("functions and branches are nested too deep, or call themselves");
            }
            if let Some(function) = function_of(self.model, node) {
                let pairs = function.outputs.iter().zip(&node.outputs);
                let wanted: Vec<&str> = pairs
                    .filter(|(_, outer)| needed.contains(outer.as_str()))
                    .map(|(inner, _)| inner.as_str())
                    .collect();
                if self.seen.insert((std::ptr::from_ref(function), wanted.clone())) {
                    self.nodes(&function.nodes, &wanted, &function.opsets, &label, depth + 1);
                }
                continue;
            }
            match lookup(&node.domain, &node.op).map(|entry| entry.lowering) {
                Some(Lowering::Refused(reason)) => problem(reason),
                Some(_) => {
                    for graph in node.subgraphs() {
                        let wanted: Vec<&str> =
                            graph.outputs.iter().map(|o| o.name.as_str()).collect();
                        self.nodes(&graph.nodes, &wanted, opsets, &label, depth + 1);
                    }
                }
                None if is_quantised(&node.op) => problem("it computes on quantised values"),
                None if node.domain.is_empty() => {
                    problem("it is not an operator that gradalign knows");
                }
                None if node.domain.starts_with("com.microsoft.nchwc")
                    || node.domain.starts_with("com.ms.internal") =>
                {
                    problem(
                        "ONNX Runtime has optimised the file for one kind of machine; take the file \
                         that it was given, or one that it writes with optimisations disabled",
                    );
                }
                None => problem(
                    "operators of this domain are not known and the file has no function that \
                     defines it; export the model with standard operators",
                ),
            }
        }
    }
}
