//! What PyTorch's dynamo exporter records: each node names the operation of the traced program that it
//! was made for, with its operands, and the graph has the signature of that program.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Provenance, text};
use crate::import::literal::is_filled;
use crate::onnx::{Model, Node};
use crate::tensor::Tensor;

/// The metadata key of the operation that a node was made for.
pub(super) const FX_NODE: &str = "pkg.torch.onnx.fx_node";

/// The metadata key of the program's signature.
const SIGNATURE: &str = "pkg.torch.export.ExportedProgram.graph_signature";

/// The metadata key of the optimiser rules applied to a node.
const RULE: &str = "pkg.onnxscript.rewriter.rule_name";

impl<'m> Provenance<'m> {
    /// Finds the parameter that each operand reads, the removed biases, and the merged parameters.
    pub(super) fn read_fx_nodes(
        &mut self,
        model: &'m Model,
        signature: &Signature<'m>,
        stored: &HashMap<&'m str, &'m Tensor>,
    ) {
        let nodes = &model.graph.nodes;
        let mut missing: HashSet<&str> = signature.parameters().collect();
        let mut computed: HashSet<&str> =
            model.graph.inputs.iter().map(|info| info.name.as_str()).collect();
        computed.retain(|name| !stored.contains_key(name));
        // All nodes made for one operation carry the same text.
        let mut texts: Vec<&'m str> = Vec::new();
        let mut made_for: HashMap<&'m str, Vec<usize>> = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            if node.stored().is_none() {
                computed.extend(node.outputs.iter().map(String::as_str));
            }
            let Some(text) = text(&node.metadata, FX_NODE) else { continue };
            computed.extend(fx_names(text).filter(|(_, defined)| *defined).map(|(name, _)| name));
            let group = made_for.entry(text).or_insert_with(|| {
                texts.push(text);
                Vec::new()
            });
            group.push(n);
        }
        let mut readers: HashMap<&'m str, Vec<(usize, usize, &'m str)>> = HashMap::new();
        for text in texts {
            let mut open: Vec<&'m str> = Vec::new();
            for (name, defined) in fx_names(text) {
                if let Some(target) = signature.target(name).filter(|_| !defined)
                    && !computed.contains(target)
                    && !open.contains(&target)
                {
                    missing.remove(target);
                    if !signature.declared && name.starts_with("p_") {
                        self.trained.insert(target, true);
                    }
                    open.push(target);
                }
            }
            let group = &made_for[text];
            for use_of in assign(nodes, group, stored, &mut open) {
                readers.entry(use_of.tensor).or_default().push((
                    use_of.node,
                    use_of.operand,
                    use_of.target,
                ));
            }
            if let [bias] = open[..]
                && let Some(&n) = group.iter().find(|&&n| lost_its_bias(&nodes[n]))
                && !stored.contains_key(bias)
            {
                self.removed_biases
                    .insert(nodes[n].outputs.first().map_or("", String::as_str), bias.into());
            }
        }
        self.complete = missing.is_empty() && signature.declared;
        for (tensor, mut uses) in readers {
            // An operation may read a stored view of a parameter, such as its transpose, under a name of
            // its own. Drop such names, unless all values are equal: the tensor may be merged.
            if signature.declared && stored.get(tensor).is_some_and(|tensor| !is_filled(tensor)) {
                let is_named = |target: &str| {
                    signature.trained.contains_key(target) || stored.contains_key(target)
                };
                if uses.iter().any(|(_, _, target)| is_named(target)) {
                    uses.retain(|(_, _, target)| is_named(target));
                }
            }
            self.unmerge(nodes, tensor, &uses, stored);
        }
    }

    /// Names the parameters that were merged into one tensor. One of them keeps the tensor, the others
    /// become copies of it.
    fn unmerge(
        &mut self,
        nodes: &'m [Node],
        tensor: &'m str,
        uses: &[(usize, usize, &'m str)],
        stored: &HashMap<&'m str, &'m Tensor>,
    ) {
        let own = uses.iter().map(|(_, _, target)| *target).find(|target| *target == tensor);
        let Some(own) = own.or_else(|| uses.first().map(|(_, _, target)| *target)) else { return };
        self.targets.insert(tensor.into(), own);
        for &(node, operand, target) in uses {
            let Some(result) = nodes[node].outputs.first().filter(|_| target != own) else {
                continue;
            };
            let name: Arc<str> = match stored.contains_key(target) {
                true => format!("{tensor}/{target}").into(),
                false => target.into(),
            };
            self.targets.insert(name.clone(), target);
            self.merged.insert((result, operand), name);
        }
    }
}

/// The names in the text of an operation, each with whether the text defines it:
/// `%linear : [num_users=1] = call_function[…](args = (%x, %p_weight), kwargs = {})`.
fn fx_names(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.split('%').skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        (name, rest.trim_start().starts_with(':'))
    })
}

/// The signature of the traced program: what the names of its operands refer to.
pub(super) struct Signature<'m> {
    /// By the name of an operand, the parameter or buffer.
    targets: HashMap<&'m str, &'m str>,
    /// By the name of a parameter or buffer, whether it is trained.
    pub trained: HashMap<&'m str, bool>,
    /// By the operand name that PyTorch would give it, each stored tensor. For files without signature.
    operands: HashMap<String, &'m str>,
    inputs: HashSet<&'m str>,
    /// Whether the file has a signature.
    pub declared: bool,
}

impl<'m> Signature<'m> {
    /// Reads lines like `p_head_weight: PARAMETER target='head.weight'`.
    pub(super) fn new(model: &'m Model, stored: &HashMap<&'m str, &'m Tensor>) -> Self {
        let mut signature = Signature {
            targets: HashMap::new(),
            trained: HashMap::new(),
            operands: HashMap::new(),
            inputs: HashSet::new(),
            declared: false,
        };
        let declared = text(&model.graph.metadata, SIGNATURE);
        for line in declared.unwrap_or_default().lines() {
            let Some((name, rest)) = line.split_once(": ") else { continue };
            let target = rest.split('\'').nth(1);
            match (rest.split(' ').next(), target) {
                (Some("USER_INPUT"), _) => {
                    signature.inputs.insert(name);
                }
                (Some(kind @ ("PARAMETER" | "BUFFER" | "CONSTANT_TENSOR")), Some(target)) => {
                    signature.targets.insert(name, target);
                    signature.trained.insert(target, kind == "PARAMETER");
                }
                _ => {}
            }
        }
        signature.declared = !signature.trained.is_empty();
        if !signature.declared {
            let operand = |name: &&'m str| (format!("p_{}", name.replace('.', "_")), *name);
            signature.operands = stored.keys().map(operand).collect();
        }
        signature
    }

    fn parameters(&self) -> impl Iterator<Item = &'m str> {
        self.trained.iter().filter(|(_, trained)| **trained).map(|(target, _)| *target)
    }

    fn target(&self, name: &'m str) -> Option<&'m str> {
        if self.inputs.contains(name) {
            return None;
        }
        let known = self.targets.get(name).or_else(|| self.operands.get(name)).copied();
        Some(known.unwrap_or(name))
    }
}

/// A node's reading of a stored tensor as a parameter.
struct Use<'m> {
    node: usize,
    operand: usize,
    tensor: &'m str,
    target: &'m str,
}

/// Assigns the parameters in `open`, which an operation reads, to the stored operands of its nodes: by
/// name, then by the last part of the name, such as `weight` or `bias`, then by order if the numbers
/// that are left agree. Assigned parameters are removed from `open`.
fn assign<'m>(
    nodes: &'m [Node],
    group: &[usize],
    stored: &HashMap<&'m str, &'m Tensor>,
    open: &mut Vec<&'m str>,
) -> Vec<Use<'m>> {
    let mut left: Vec<(usize, usize, &'m str)> = Vec::new();
    for &node in group {
        let operands = nodes[node].inputs.iter().enumerate();
        let operands = operands.filter_map(|(i, name)| {
            stored.get_key_value(name.as_str()).map(|(name, _)| (node, i, *name))
        });
        left.extend(operands);
    }
    let mut uses = Vec::new();
    let mut assigned = Vec::new();
    left.retain(|&(node, operand, tensor)| {
        let own = open.contains(&tensor);
        if own {
            uses.push(Use { node, operand, tensor, target: tensor });
            assigned.push(tensor);
        }
        !own
    });
    open.retain(|target| !assigned.contains(target));
    let leaf = |name: &'m str| name.rsplit('.').next().unwrap_or(name);
    left.retain(|&(node, operand, tensor)| {
        let at = open.iter().position(|target| leaf(target) == leaf(tensor));
        if let Some(at) = at {
            uses.push(Use { node, operand, tensor, target: open.remove(at) });
        }
        at.is_none()
    });
    if left.len() != open.len() {
        // Group norm is exported as an instance norm, whose neutral scales and shifts are no parameters.
        left.retain(|&(node, _, _)| nodes[node].op != "InstanceNormalization");
    }
    // Each operand of a recurrent layer is concatenated from several parameters.
    let recurrent = |n: usize| matches!(nodes[n].op.as_str(), "GRU" | "LSTM" | "RNN");
    if left.len() == open.len() && !left.iter().any(|&(node, _, _)| recurrent(node)) {
        let rest = left.iter().zip(open.drain(..));
        uses.extend(rest.map(|(&(node, operand, tensor), target)| Use {
            node,
            operand,
            tensor,
            target,
        }));
    }
    uses
}

/// Whether the exporter removed a bias of zeros from `node`.
fn lost_its_bias(node: &Node) -> bool {
    text(&node.metadata, RULE).is_some_and(|rules| rules.contains("RemoveOptionalBiasFrom"))
        && matches!(node.op.as_str(), "Conv" | "ConvTranspose" | "Gemm")
        && node.inputs.len() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_nodes_name_what_they_define_and_read() {
        let text = "%lin_1 : [num_users=1] = call_function[target=torch.ops.aten.linear.default]\
                    (args = (%x, %p_0_weight, [%a, %b]), kwargs = {})";
        let names: Vec<_> = fx_names(text).collect();
        let read = ["x", "p_0_weight", "a", "b"].map(|name| (name, false));
        assert_eq!(names, [&[("lin_1", true)][..], &read].concat());
    }
}
