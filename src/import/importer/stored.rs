//! The tensors stored in the file, and the parameters that the exporter merged or left out.

use super::{Binding, Importer};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::call::MAX_MADE;
use crate::import::literal::{Role, Storage, Stored};
use crate::onnx::{Attribute, Initializer, Node};
use crate::tensor::{DType, Tensor};

impl<'m> Importer<'m> {
    pub(super) fn bind_initializers(&mut self, initializers: &'m [Initializer]) {
        for Initializer { name, literal } in initializers {
            let qualified = self.qualified(name);
            let i = match self.shared.get(&qualified) {
                Some(&i) => i,
                None => {
                    let by_file =
                        self.is_outermost().then(|| self.provenance.trained(&qualified)).flatten();
                    let tensor = literal.tensor.clone();
                    let mut stored =
                        self.patterns.store(qualified, tensor, Storage::Initializer, by_file);
                    stored.reserve(&mut self.b);
                    self.keep(stored)
                }
            };
            self.bind(name, Binding::Stored(i));
        }
    }

    /// Stores the tensor of a constant node whose result is `name`.
    pub fn store_constant(&mut self, name: &str, tensor: Result<Tensor, String>) -> Binding {
        let name = self.qualified(name);
        if let Some(&i) = self.shared.get(&name) {
            return Binding::Stored(i);
        }
        let (storage, by_file) = match self.is_outermost() {
            true => (Storage::ConstantNode, self.provenance.trained(&name)),
            false => (Storage::InnerConstantNode, None),
        };
        let mut stored = self.patterns.store(name, tensor, storage, by_file);
        stored.reserve(&mut self.b);
        Binding::Stored(self.keep(stored))
    }

    /// Stores tensor `i` again under another name, as a tensor of its own.
    pub fn store_again(&mut self, i: usize, name: &str) -> Binding {
        let name = self.qualified(name);
        if let Some(&i) = self.shared.get(&name) {
            return Binding::Stored(i);
        }
        let tensor = self.stored[i].tensor.clone();
        let by_file = self.provenance.trained(&name);
        let mut copy = self.patterns.store(name, tensor, Storage::Initializer, by_file);
        copy.reserve(&mut self.b);
        Binding::Stored(self.keep(copy))
    }

    /// Adds a stored tensor and returns its index. Inside a loop, later iterations find it by name.
    pub(super) fn keep(&mut self, stored: Stored) -> usize {
        let i = self.stored.len();
        if self.unrolling > 0 {
            self.shared.insert(stored.name.clone(), i);
        }
        self.stored.push(stored);
        i
    }

    /// A stored tensor.
    pub fn stored(&mut self, i: usize) -> &mut Stored {
        &mut self.stored[i]
    }

    /// The value in the graph of stored tensor `i` when used in `role`.
    pub fn stored_value(&mut self, i: usize, role: Role) -> Result<Value> {
        let stored = &mut self.stored[i];
        let name = stored.name.clone();
        stored.value(&mut self.b, role).map_err(|why| {
            Error::UnsupportedModel(format!(
                "{}: tensor '{name}' cannot be used: {why}",
                self.model.source
            ))
        })
    }

    /// Whether the model declares an input `name`, which may also be an initializer.
    pub fn declares(&self, name: &str) -> bool {
        self.inputs.contains(name)
    }

    /// The number of operands called `name` in the main graph.
    pub fn readers(&self, name: &str) -> usize {
        self.readers.get(name).copied().unwrap_or(0)
    }

    /// Undoes the merging of equal tensors. If operand `i` of `node` is another parameter than the
    /// stored tensor that it reads, returns that parameter, otherwise `binding`.
    pub(super) fn unmerged(&mut self, node: &Node, i: usize, binding: Binding) -> Binding {
        let Binding::Stored(id) = binding else { return binding };
        let Some(name) = self.provenance.merged(node, i).filter(|_| self.is_outermost()) else {
            return binding;
        };
        let name = name.clone();
        if self.provenance.trained(&name) != Some(true) && !self.stored[id].can_train() {
            return binding;
        }
        if let Some(&copy) = self.copies.get(&name) {
            return Binding::Stored(copy);
        }
        let copy = self.store_again(id, &name);
        if let Binding::Stored(id) = copy {
            self.copies.insert(name, id);
        }
        copy
    }

    /// The bias of zeros that the exporter removed from `node`, which has the given inputs.
    pub(super) fn removed_bias(
        &mut self,
        node: &Node,
        inputs: &[Option<Binding>],
    ) -> Option<Binding> {
        let name = self.provenance.removed_bias(node).filter(|_| self.is_outermost())?.clone();
        let Some(Some(weight)) = inputs.get(1) else { return None };
        let shape = match weight {
            Binding::Value(value) => self.b.shape(*value),
            Binding::Stored(i) => self.stored[*i].tensor.as_ref().ok()?.shape().to_vec(),
            Binding::List(_) | Binding::Absent(_) => return None,
        };
        let int = |name: &str, default: i64| match node.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        };
        let groups = usize::try_from(int("group", 1)).unwrap_or(1);
        let channels = match (node.op.as_str(), &shape[..]) {
            ("Gemm", &[rows, columns]) => [columns, rows][usize::from(int("transB", 0) != 0)],
            ("Conv", &[channels, ..]) => channels,
            ("ConvTranspose", &[_, channels, ..]) => channels.checked_mul(groups)?,
            _ => return None,
        };
        if channels > MAX_MADE {
            return None;
        }
        let zeros = Tensor::full(DType::F32, &[channels], 0.0);
        let by_file = self.provenance.trained(&name);
        let mut bias = self.patterns.store(name, Ok(zeros), Storage::Initializer, by_file);
        bias.reserve(&mut self.b);
        Some(Binding::Stored(self.keep(bias)))
    }
}
