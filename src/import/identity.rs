//! Which parameter of the network a stored tensor stands for, as far as the exporter says.
//!
//! A file names tensors, a network has parameters, and the two are not the same. PyTorch's dynamo
//! exporter stores equal tensors once, stores what it computes of a parameter under a name of its
//! own, and leaves out biases of zeros; but the nodes say which parameters they were made for
//! (`pkg.torch.onnx.fx_node`), and the graph says what is a parameter and what a buffer. The
//! TorchScript exporter stores a copy of a matrix for each use, and names nodes by module.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::literal::{generated, is_filled};
use super::ties::{digest, related};
use crate::onnx::{Model, Node};
use crate::tensor::Tensor;

const FX_NODE: &str = "pkg.torch.onnx.fx_node";
const SIGNATURE: &str = "pkg.torch.export.ExportedProgram.graph_signature";
const RULE: &str = "pkg.onnxscript.rewriter.rule_name";

/// What a stored tensor belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The parameter of this name.
    Parameter(String),
    /// Some parameter of the module of this name.
    Module(String),
    /// The file does not say.
    Unknown,
}

impl Home {
    /// Whether tensors of these homes that are equal can be one parameter.
    pub fn may_be(&self, other: &Home) -> bool {
        match (self, other) {
            (Home::Parameter(a), Home::Parameter(b)) | (Home::Module(a), Home::Module(b)) => a == b,
            _ => true,
        }
    }
}

/// What the exporter says of the stored tensors of a model's main graph.
#[derive(Default)]
pub(super) struct Identities<'m> {
    /// By the first result of a node and the operand: the name of the parameter that it reads,
    /// where that is stored under the name of another.
    copies: HashMap<(&'m str, usize), Arc<str>>,
    /// By the first result of a node: the bias of zeros that it was made without.
    biases: HashMap<&'m str, Arc<str>>,
    /// By the name of a tensor, or of a copy of it: the parameter.
    targets: HashMap<Arc<str>, &'m str>,
    /// Whether it is trained, by the name of what the network has.
    trained: HashMap<&'m str, bool>,
    /// Whether every parameter is read as such, so that what else is read is none.
    complete: bool,
    /// Whether the file lists its parameters.
    declared: bool,
    /// Whether the file is PyTorch's.
    of_pytorch: bool,
    scopes: Option<Scopes<'m>>,
    /// Tensors that may be several parameters.
    pub warnings: Vec<String>,
}

impl<'m> Identities<'m> {
    /// What `model` says.
    pub fn new(model: &'m Model) -> Self {
        let nodes = &model.graph.nodes;
        let stored = stored_floats(model);
        let of_pytorch = model.producer.starts_with("pytorch");
        let mut identities = Identities { of_pytorch, ..Identities::default() };
        let signature = Signature::new(model, &stored);
        if nodes.iter().any(|node| text(&node.metadata, FX_NODE).is_some()) {
            identities.read_fx_nodes(model, &signature, &stored);
        } else if of_pytorch {
            identities.scopes = Some(Scopes::new(model, &stored));
        }
        identities.declared = signature.declared;
        identities.trained.extend(signature.trained);
        identities.recognise_copies(&stored);
        identities.suspect(nodes, &stored);
        identities
    }

    /// Forgets the origin of what was made of others where it is a parameter once more: a layer applied
    /// to zeros is its bias, a head that is the embedding's transpose is stored as such. It is tied to that
    /// later. Of one that is a parameter in another order there is a warning.
    fn recognise_copies(&mut self, stored: &HashMap<&'m str, &'m Tensor>) {
        let varied = |tensor: &Tensor| {
            tensor.f32_slice().is_some_and(|values| values.iter().any(|v| *v != values[0]))
        };
        let mut by_digest: HashMap<u64, Vec<(&str, &Tensor)>> = HashMap::new();
        for (name, _) in self.trained.iter().filter(|(_, trained)| **trained) {
            if let Some(tensor) = stored.get(name).filter(|tensor| varied(tensor)) {
                let digest = digest(tensor.f32_slice().unwrap_or_default());
                by_digest.entry(digest).or_default().push((name, tensor));
            }
        }
        let (trained, warnings) = (&self.trained, &mut self.warnings);
        self.targets.retain(|name, target| {
            if **name != **target || trained.contains_key(*target) {
                return true;
            }
            let Some(tensor) = stored.get(*target) else { return true };
            let values = tensor.f32_slice().unwrap_or_default();
            let Some(alike) = by_digest.get(&digest(values)) else { return true };
            if alike.iter().any(|(_, parameter)| related(parameter, tensor).is_some()) {
                return false;
            }
            if let Some((parameter, _)) = alike.iter().find(|(_, p)| p.len() == tensor.len()) {
                warnings.push(format!(
                    "the exporter made '{target}' of the parameter '{parameter}', whose gradient through \
                     it is missing: export again with torch.onnx.export(…, optimize=False)"
                ));
            }
            true
        });
    }

    /// The parameter that operand `i` of `node` reads, where that is stored as another.
    pub fn copy<'a>(&'a self, node: &'a Node, i: usize) -> Option<&'a Arc<str>> {
        self.copies.get(&(node.outputs.first()?.as_str(), i))
    }

    /// The bias of zeros that the exporter has taken from `node`.
    pub fn bias<'a>(&'a self, node: &'a Node) -> Option<&'a Arc<str>> {
        self.biases.get(node.outputs.first()?.as_str())
    }

    /// Whether the tensor called `name` is a parameter, if the file says.
    pub fn trained(&self, name: &str) -> Option<bool> {
        let target = self.targets.get(name).copied();
        let made_of_others = self.complete && target == Some(name);
        self.trained.get(target.unwrap_or(name)).copied().or(made_of_others.then_some(false))
    }

    /// What the parameter called `name` belongs to.
    pub fn home(&self, name: &str) -> Home {
        match (self.targets.get(name), &self.scopes) {
            (Some(target), _) => Home::Parameter((*target).to_owned()),
            (None, Some(scopes)) => scopes.home(name),
            // What a layer made of a constant is folded to has the name of the layer's result.
            (None, None) if self.declared && !self.trained.contains_key(name) => Home::Unknown,
            (None, None) if self.of_pytorch && of_module(name) => Home::Parameter(name.to_owned()),
            (None, None) => Home::Unknown,
        }
    }

    fn read_fx_nodes(
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
        // All nodes made for one operation of the network have one text.
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
                self.biases
                    .insert(nodes[n].outputs.first().map_or("", String::as_str), bias.into());
            }
        }
        self.complete = missing.is_empty() && signature.declared;
        for (tensor, mut uses) in readers {
            // A view of a parameter, such as its transpose, is read where that is stored. Values that
            // are all equal may be those of others.
            if signature.declared && stored.get(tensor).is_some_and(|tensor| !is_filled(tensor)) {
                let is_named = |target: &str| {
                    signature.trained.contains_key(target) || stored.contains_key(target)
                };
                if uses.iter().any(|(_, _, target)| is_named(target)) {
                    uses.retain(|(_, _, target)| is_named(target));
                }
            }
            self.take_apart(nodes, tensor, &uses, stored);
        }
    }

    /// Names the parameters that the tensor stands for: the first keeps the tensor, the others are
    /// copies of it.
    fn take_apart(
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
            self.copies.insert((result, operand), name);
        }
    }

    /// Warns of scales and biases that several nodes read and nothing is known of: equal ones are
    /// one tensor after some optimisers.
    fn suspect(&mut self, nodes: &'m [Node], stored: &HashMap<&'m str, &'m Tensor>) {
        let mut readers: HashMap<&str, usize> = HashMap::new();
        for node in nodes {
            // The TorchScript exporter keeps parameters apart.
            let by_scope = node.name.starts_with('/') || node.name.starts_with(&node.op);
            if (by_scope && self.scopes.is_some()) || text(&node.metadata, FX_NODE).is_some() {
                continue;
            }
            for &i in scales_and_biases(node) {
                if let Some(name) = node.inputs.get(i)
                    && stored.get(name.as_str()).is_some_and(|t| t.len() > 1 && is_filled(t))
                {
                    *readers.entry(name).or_default() += 1;
                }
            }
        }
        let mut several: Vec<&str> =
            readers.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| name).collect();
        several.sort_unstable();
        if let Some(first) = several.first() {
            self.warnings.push(format!(
                "{} of equal elements that several layers read, such as '{first}', may each be \
                 several parameters that the exporter has merged, and count as one; export again \
                 without merging equal tensors (PyTorch: optimize=False)",
                match several.len() {
                    1 => "a tensor".to_owned(),
                    n => format!("{n} tensors"),
                }
            ));
        }
    }
}

fn text<'m>(metadata: &'m [(String, String)], key: &str) -> Option<&'m str> {
    metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// The float tensors of the main graph by name, whether initializers or constant nodes.
fn stored_floats(model: &Model) -> HashMap<&str, &Tensor> {
    let floats = model.graph.stored().filter_map(|(name, literal)| match &literal.tensor {
        Ok(tensor @ Tensor::F32(_)) => Some((name, tensor)),
        _ => None,
    });
    floats.collect()
}

/// The names in the text of a node of PyTorch's graph, each with whether the text defines it:
/// `%linear : [num_users=1] = call_function[…](args = (%x, %p_weight), kwargs = {})`.
fn fx_names(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.split('%').skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        (name, rest.trim_start().starts_with(':'))
    })
}

/// What the names of PyTorch's graph stand for.
struct Signature<'m> {
    targets: HashMap<&'m str, &'m str>,
    trained: HashMap<&'m str, bool>,
    /// By the name that a stored tensor has as an operand, where the file has no signature.
    operands: HashMap<String, &'m str>,
    inputs: HashSet<&'m str>,
    declared: bool,
}

impl<'m> Signature<'m> {
    /// Reads lines like `p_head_weight: PARAMETER target='head.weight'`.
    fn new(model: &'m Model, stored: &HashMap<&'m str, &'m Tensor>) -> Self {
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

/// Which of the parameters `open` of an operation each stored operand of its nodes is. A tensor is
/// the parameter that it is named after; if that is none of them, the one with the same last part
/// of its name, `weight` or `bias`; those left go by their order, if there are as many.
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
        // Group norm is written as an instance norm with scales and shifts of its own.
        left.retain(|&(node, _, _)| nodes[node].op != "InstanceNormalization");
    }
    // Those of a recurrent layer are made of several parameters each.
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

/// Whether the exporter has taken a bias of zeros from `node`.
fn lost_its_bias(node: &Node) -> bool {
    text(&node.metadata, RULE).is_some_and(|rules| rules.contains("RemoveOptionalBiasFrom"))
        && matches!(node.op.as_str(), "Conv" | "ConvTranspose" | "Gemm")
        && node.inputs.len() == 2
}

/// The operands of a node that are scales and biases.
fn scales_and_biases(node: &Node) -> &'static [usize] {
    match node.op.as_str() {
        "BatchNormalization"
        | "GroupNormalization"
        | "InstanceNormalization"
        | "LayerNormalization" => &[1, 2],
        "Conv" | "ConvTranspose" | "Gemm" => &[2],
        _ => &[],
    }
}

/// The modules that the nodes and tensors of PyTorch's TorchScript exporter are named after.
struct Scopes<'m> {
    /// The node that reads a tensor under a name of the exporter, and the bias of its layer.
    readers: HashMap<&'m str, (&'m Node, Option<&'m str>)>,
    /// The parts of names of modules, as parameters tell.
    parts: HashSet<&'m str>,
    /// The parts of names of nodes.
    called: HashSet<&'m str>,
}

impl<'m> Scopes<'m> {
    fn new(model: &'m Model, stored: &HashMap<&'m str, &'m Tensor>) -> Self {
        let nodes = &model.graph.nodes;
        let mut named: HashSet<&str> = stored.keys().copied().collect();
        for node in nodes {
            if let ("Identity", [from], [to]) =
                (node.op.as_str(), &node.inputs[..], &node.outputs[..])
                && named.contains(from.as_str())
            {
                named.insert(to);
            }
        }
        let mut scopes = Scopes {
            readers: HashMap::new(),
            parts: HashSet::new(),
            called: nodes.iter().flat_map(|node| node.name.split('/')).collect(),
        };
        for name in named.iter().filter(|name| of_module(name)) {
            scopes.parts.extend(name.split('.'));
        }
        let mut added: HashMap<&str, &str> = HashMap::new();
        for node in nodes.iter().filter(|node| node.op == "Add") {
            if let [a, b] = &node.inputs[..] {
                for (value, bias) in [(a, b), (b, a)] {
                    if named.contains(bias.as_str()) && of_module(bias) {
                        added.entry(value).or_insert(bias);
                    }
                }
            }
        }
        for node in nodes.iter().filter(|node| node.op != "Identity") {
            let result = node.outputs.first().map_or("", String::as_str);
            for name in node.inputs.iter().filter(|name| named.contains(name.as_str())) {
                scopes.readers.entry(name).or_insert((node, added.get(result).copied()));
            }
        }
        scopes
    }

    fn home(&self, name: &str) -> Home {
        if of_module(name) {
            return Home::Parameter(name.to_owned());
        }
        let Some((node, bias)) = self.readers.get(name) else { return Home::Unknown };
        if let Some((module, _)) = bias.and_then(|bias| bias.rsplit_once('.')) {
            return Home::Module(module.to_owned());
        }
        match node.name.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
            Some((path, _)) => {
                let parts: Vec<&str> = path.split('/').map(|part| self.once(part)).collect();
                Home::Module(parts.join("."))
            }
            None => Home::Unknown,
        }
    }

    /// A part of a node's name without the number of the call: `block_2` is the third call of
    /// `block`, unless there is a module of this name or no first call.
    fn once<'a>(&self, part: &'a str) -> &'a str {
        match part.rsplit_once('_') {
            Some((name, call))
                if !call.is_empty()
                    && call.bytes().all(|c| c.is_ascii_digit())
                    && self.called.contains(name)
                    && !self.parts.contains(part) =>
            {
                name
            }
            _ => part,
        }
    }
}

/// Whether the name is that of a parameter of a PyTorch module, not one that an exporter made up.
fn of_module(name: &str) -> bool {
    !generated(name)
        && !name.starts_with("onnx::")
        && !name.starts_with('/')
        && !name.bytes().all(|c| c.is_ascii_digit())
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

    #[test]
    fn homes_are_one_unless_two_of_a_kind_differ() {
        let parameter = |name: &str| Home::Parameter(name.into());
        let module = |name: &str| Home::Module(name.into());
        assert!(parameter("a").may_be(&parameter("a")) && !parameter("a").may_be(&parameter("b")));
        assert!(module("a").may_be(&module("a")) && !module("a").may_be(&module("b")));
        assert!(parameter("a.weight").may_be(&module("b")));
        assert!(Home::Unknown.may_be(&parameter("a")) && module("a").may_be(&Home::Unknown));
    }

    #[test]
    fn calls_of_a_module_are_told_from_modules_with_numbers() {
        let scopes = Scopes {
            readers: HashMap::new(),
            parts: HashSet::from(["conv_1", "weight"]),
            called: HashSet::from(["block", "block_2", "conv", "head_1"]),
        };
        for (part, once) in [
            ("block_2", "block"),
            ("conv_1", "conv_1"),
            ("head_1", "head_1"),
            ("layers.0", "layers.0"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(scopes.once(part), once);
        }
    }

    #[test]
    fn names_of_modules_are_told_from_those_of_exporters() {
        for name in ["layers.0.weight", "scale", "token"] {
            assert!(of_module(name), "{name}");
        }
        for name in ["onnx::MatMul_12", "12", "val_3", "/a/Mul_output_0"] {
            assert!(!of_module(name), "{name}");
        }
    }
}
