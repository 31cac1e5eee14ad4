//! Before anything is lowered: which output is taken, which nodes it needs, and which of those
//! cannot be lowered.

use std::collections::HashSet;

use super::ImportOptions;
use super::quantised::quantised_weight;
use super::table::{Lowering, lookup};
use crate::error::{Error, Result};
use crate::onnx::{DataType, Function, Graph, Model, Node, Opsets, Type, dtype_of};

/// How deep functions and branches may be nested.
pub(crate) const MAX_DEPTH: usize = 64;

/// An operator in a model that stands in the way of scoring it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The node's name, or its first output where it has none.
    pub node: String,
    /// The operator, with its domain where it is not `ai.onnx`.
    pub op: String,
    /// The opset version the model declares for the operator's domain.
    pub opset: i64,
    /// Why it is not supported.
    pub reason: String,
}

impl Problem {
    /// A problem of the model as a whole.
    pub(crate) fn general(error: &Error) -> Self {
        Problem { node: String::new(), op: String::new(), opset: 0, reason: error.to_string() }
    }
}

/// The nodes that compute `wanted`, in order, and all names needed for that.
pub(crate) fn live_nodes<'m>(
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

/// All names that a branch mentions: those that it does not define itself are taken from outside.
fn add_names<'m>(graph: &'m Graph, names: &mut HashSet<&'m str>) {
    names.extend(graph.outputs.iter().map(|o| o.name.as_str()));
    for node in &graph.nodes {
        names.extend(node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty()));
        node.subgraphs().for_each(|graph| add_names(graph, names));
    }
}

/// The local function that `node` calls, if it calls one.
pub(crate) fn function_of<'m>(model: &'m Model, node: &Node) -> Option<&'m Function> {
    if model.functions.is_empty() {
        return None;
    }
    let key = (node.domain.clone(), node.op.clone(), node.overload.clone());
    model.functions.get(&key)
}

/// The output that `options` name, or the one that is taken where they name none.
pub(crate) fn wanted_output(model: &Model, options: &ImportOptions) -> Result<String> {
    match &options.output {
        Some(name) => named_output(model, name),
        None => default_output(model),
    }
}

/// The output that is taken where none is named: of those of floating-point numbers the first whose
/// name says that it is a prediction, or else the first that is not something else by its name. Class
/// labels are passed over, and so are the other parts of what classifiers of scikit-learn put out.
pub fn default_output(model: &Model) -> Result<String> {
    let candidates = float_outputs(model);
    // The first of equals is the last of them from the end.
    match candidates.iter().rev().max_by_key(|name| prediction_like(name)) {
        Some(output) => Ok((*output).to_owned()),
        None if model.graph.outputs.is_empty() => {
            Err(Error::InvalidModel(format!("{}: the model has no outputs", model.source)))
        }
        None => Err(Error::UnsupportedModel(format!(
            "{}: the model has no floating-point output",
            model.source
        ))),
    }
}

/// The outputs of floating-point numbers.
fn float_outputs(model: &Model) -> Vec<&str> {
    let zip_maps: HashSet<&str> = model
        .graph
        .nodes
        .iter()
        .filter(|node| node.op == "ZipMap")
        .flat_map(|node| node.outputs.iter().map(String::as_str))
        .collect();
    let is_float = |ty: &Type| match ty {
        Type::Tensor(DataType::Undefined, _) | Type::Other("unknown") => true,
        Type::Tensor(stored, _) => {
            dtype_of(*stored).is_some_and(super::super::tensor::DType::is_float)
        }
        Type::Other(_) => false,
    };
    let outputs = model.graph.outputs.iter();
    let float = outputs.filter(|o| is_float(&o.ty) || zip_maps.contains(o.name.as_str()));
    float.map(|o| o.name.as_str()).collect()
}

/// How much the name of an output says that a loss of classes is of it; below 0 where it is something
/// else: places, and last states or heads that only help in training.
fn prediction_like(name: &str) -> i32 {
    let name = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match () {
        () if has(&["present", "past", "hidden", "state", "aux"]) => NO_PREDICTION,
        () if has(&["box", "coord", "offset", "landmark"]) => -1,
        () if has(&["logit"]) => 2,
        () if has(&["prob", "score", "class", "cls"]) => 1,
        () => 0,
    }
}

/// What [`prediction_like`] gives states and the like.
const NO_PREDICTION: i32 = -2;

/// What the user should know of the choice of `output` among several: which others there are.
pub(crate) fn choice_of_output(model: &Model, output: &str) -> Option<String> {
    let candidates = float_outputs(model);
    let others: Vec<String> = candidates
        .iter()
        .filter(|name| **name != output && prediction_like(name) > NO_PREDICTION)
        .map(|name| format!("'{name}'"))
        .collect();
    (!others.is_empty()).then(|| {
        format!(
            "the output '{output}' is taken; the model also has {}, which --tensor NAME takes",
            others.join(", ")
        )
    })
}

/// Checks that there is a value called `name`, and returns the name.
pub(crate) fn named_output(model: &Model, name: &str) -> Result<String> {
    let graph = &model.graph;
    let inner = graph.nodes.iter().flat_map(|node| &node.outputs);
    let outputs = graph.outputs.iter().map(|o| &o.name);
    if outputs.clone().chain(inner).any(|n| n == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = outputs.map(String::as_str).collect();
    Err(Error::Usage(format!(
        "{}: there is no output '{name}'; the outputs are: {}",
        model.source,
        names.join(", ")
    )))
}

/// Errs where `outputs` need an operator that is not supported, naming all of them.
pub(crate) fn check(model: &Model, outputs: &[&str]) -> Result<()> {
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
pub(crate) fn is_quantised(op: &str) -> bool {
    let name = op.rsplit('.').next().unwrap_or(op);
    name.starts_with("QLinear")
        || name.starts_with("DynamicQuantize")
        || ["QGemm", "QAttention", "QuantizeLinear", "DequantizeLinear"].contains(&name)
        || ["ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"].contains(&name)
        || ["MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"].contains(&name)
}

/// The operators that `outputs` need and that are not supported, those inside local functions and
/// branches included.
pub(crate) fn problems<'m>(model: &'m Model, outputs: &[&'m str]) -> Vec<Problem> {
    let mut scan = Scan { model, seen: HashSet::new(), problems: Vec::new() };
    scan.nodes(&model.graph.nodes, outputs, &model.opsets, "", 0);
    scan.problems
}

struct Scan<'m> {
    model: &'m Model,
    /// Functions already looked into, each with the outputs wanted of it.
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
