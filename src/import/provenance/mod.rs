//! Which parameter of the network each stored tensor is, as far as the exporter recorded it.
//!
//! Stored tensors and parameters do not correspond one to one:
//!
//! - PyTorch's dynamo exporter stores equal tensors once, stores tensors that it computed from a
//!   parameter under a new name, and removes biases that are all zeros. Each node records the operation
//!   that it was made for ([`fx`]), and the graph records which tensors are parameters and which are
//!   buffers.
//! - PyTorch's TorchScript exporter stores a copy of a matrix for each use. Its nodes are named after
//!   modules ([`scopes`]).

mod fx;
mod scopes;

use std::collections::HashMap;
use std::sync::Arc;

use super::literal::is_filled;
use super::ties::{digest, related};
use crate::onnx::{Model, Node};
use crate::tensor::Tensor;
use fx::{FX_NODE, Signature};
use scopes::{Scopes, of_module};

/// What a stored tensor belongs to in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The parameter of this name.
    Parameter(String),
    /// Some parameter of the module of this name.
    Module(String),
    /// The file does not say.
    Unknown,
}

impl Owner {
    /// Whether two equal tensors with these owners can be the same parameter.
    pub fn is_compatible(&self, other: &Owner) -> bool {
        match (self, other) {
            (Owner::Parameter(a), Owner::Parameter(b)) | (Owner::Module(a), Owner::Module(b)) => {
                a == b
            }
            _ => true,
        }
    }
}

/// What the exporter recorded about the tensors stored in the main graph.
#[derive(Default)]
pub(super) struct Provenance<'m> {
    /// The parameters that were merged with an equal tensor: by the first result of a node and the
    /// index of the operand that reads the parameter, its name.
    merged: HashMap<(&'m str, usize), Arc<str>>,
    /// The biases of zeros that were removed: by the first result of the node, the name of the bias.
    removed_biases: HashMap<&'m str, Arc<str>>,
    /// By the name of a stored or merged tensor, the name of its parameter or buffer in the network.
    targets: HashMap<Arc<str>, &'m str>,
    /// By the name of a parameter or buffer, whether it is trained.
    trained: HashMap<&'m str, bool>,
    /// Whether the readers of all parameters are known, so that no other tensor is a parameter.
    complete: bool,
    /// Whether the file lists its parameters.
    declared: bool,
    from_pytorch: bool,
    scopes: Option<Scopes<'m>>,
    /// Warnings about tensors that may be several parameters.
    pub warnings: Vec<String>,
}

impl<'m> Provenance<'m> {
    /// Reads the records of `model`.
    pub fn new(model: &'m Model) -> Self {
        let nodes = &model.graph.nodes;
        let stored = stored_floats(model);
        let from_pytorch = model.producer.starts_with("pytorch");
        let mut provenance = Provenance { from_pytorch, ..Provenance::default() };
        let signature = Signature::new(model, &stored);
        if nodes.iter().any(|node| text(&node.metadata, FX_NODE).is_some()) {
            provenance.read_fx_nodes(model, &signature, &stored);
        } else if from_pytorch {
            provenance.scopes = Some(Scopes::new(model, &stored));
        }
        provenance.declared = signature.declared;
        provenance.trained.extend(signature.trained);
        provenance.recognise_copies(&stored);
        provenance.warn_of_merged(nodes, &stored);
        provenance
    }

    /// Finds tensors that the exporter computed from a parameter but that hold the same values: a layer
    /// applied to zeros is its bias, an output head may be the transposed embedding. Their record is
    /// dropped, so that [`ties`](super::super::ties) ties them to the parameter. Warns of those that
    /// hold the values of a parameter in another order.
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

    /// The parameter that operand `i` of `node` reads, if it was merged with an equal tensor.
    pub fn merged<'a>(&'a self, node: &'a Node, i: usize) -> Option<&'a Arc<str>> {
        self.merged.get(&(node.outputs.first()?.as_str(), i))
    }

    /// The bias of zeros that the exporter removed from `node`.
    pub fn removed_bias<'a>(&'a self, node: &'a Node) -> Option<&'a Arc<str>> {
        self.removed_biases.get(node.outputs.first()?.as_str())
    }

    /// Whether the tensor `name` is a parameter; `None` if the file does not say.
    pub fn trained(&self, name: &str) -> Option<bool> {
        let target = self.targets.get(name).copied();
        let is_computed = self.complete && target == Some(name);
        self.trained.get(target.unwrap_or(name)).copied().or(is_computed.then_some(false))
    }

    /// The owner of the tensor `name`.
    pub fn owner(&self, name: &str) -> Owner {
        match (self.targets.get(name), &self.scopes) {
            (Some(target), _) => Owner::Parameter((*target).to_owned()),
            (None, Some(scopes)) => scopes.owner(name),
            // A folded constant is named after the result of the layer that computed it.
            (None, None) if self.declared && !self.trained.contains_key(name) => Owner::Unknown,
            (None, None) if self.from_pytorch && of_module(name) => {
                Owner::Parameter(name.to_owned())
            }
            (None, None) => Owner::Unknown,
        }
    }

    /// Warns of scales and biases that several nodes read although no record says that they are one
    /// parameter. Some optimisers merge equal tensors.
    fn warn_of_merged(&mut self, nodes: &'m [Node], stored: &HashMap<&'m str, &'m Tensor>) {
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

/// The value of a metadata entry.
fn text<'m>(metadata: &'m [(String, String)], key: &str) -> Option<&'m str> {
    metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
}

/// The float tensors stored in the main graph by name: initializers and constant nodes.
fn stored_floats(model: &Model) -> HashMap<&str, &Tensor> {
    let floats = model.graph.stored().filter_map(|(name, literal)| match &literal.tensor {
        Ok(tensor @ Tensor::F32(_)) => Some((name, tensor)),
        _ => None,
    });
    floats.collect()
}

/// The indices of the operands that are scales or biases.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_one_unless_two_of_a_kind_differ() {
        let parameter = |name: &str| Owner::Parameter(name.into());
        let module = |name: &str| Owner::Module(name.into());
        assert!(
            parameter("a").is_compatible(&parameter("a"))
                && !parameter("a").is_compatible(&parameter("b"))
        );
        assert!(
            module("a").is_compatible(&module("a")) && !module("a").is_compatible(&module("b"))
        );
        assert!(parameter("a.weight").is_compatible(&module("b")));
        assert!(
            Owner::Unknown.is_compatible(&parameter("a"))
                && module("a").is_compatible(&Owner::Unknown)
        );
    }
}
