//! An application of an operator that is being lowered: its operands by role, its attributes by type.

mod attributes;
mod known;

use std::ops::{Deref, DerefMut};

use super::batch::BatchCheck;
use super::importer::{Binding, Importer, MAX_ELEMENTS};
use super::literal::Role;
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::onnx::{Graph, Node};
use crate::ops::Unary;
use crate::tensor::Tensor;

/// The most elements of a tensor that the import itself creates.
pub(super) const MAX_MADE: usize = 1 << 24;

/// The most iterations, time steps or elements that loops, recurrent layers and sequences are unrolled
/// to.
pub(super) const MAX_UNROLLED: usize = 4096;

/// An application of an operator that is being lowered. It dereferences to the [`Builder`] of the graph,
/// so that `c.relu(x)` adds a node.
pub(super) struct Call<'a, 'm> {
    importer: &'a mut Importer<'m>,
    node: &'m Node,
    inputs: Vec<Option<Binding>>,
    /// The version of the operator set that the node is written in.
    pub opset: i64,
}

impl Deref for Call<'_, '_> {
    type Target = Builder;

    fn deref(&self) -> &Builder {
        &self.importer.b
    }
}

impl DerefMut for Call<'_, '_> {
    fn deref_mut(&mut self) -> &mut Builder {
        &mut self.importer.b
    }
}

impl<'a, 'm> Call<'a, 'm> {
    /// The application of `node` to `inputs`.
    pub fn new(
        importer: &'a mut Importer<'m>,
        node: &'m Node,
        inputs: Vec<Option<Binding>>,
        opset: i64,
    ) -> Self {
        Call { importer, node, inputs, opset }
    }

    /// The binding of a copy of `binding`. Some exporters store equal tensors once, and write the other
    /// parameters as copies of it under their own names. So a stored tensor that other nodes read too
    /// is stored again, as a parameter of its own.
    pub fn copy(&mut self, binding: Binding) -> Binding {
        let (Some(source), Some(name)) = (self.node.inputs.first(), self.node.outputs.first())
        else {
            return binding;
        };
        match binding {
            Binding::Stored(id) if self.importer.readers(source) > 1 => {
                self.importer.store_again(id, name)
            }
            binding => binding,
        }
    }

    /// An error about a form of the operator that is not supported.
    pub fn unsupported(&self, reason: impl Into<String>) -> Error {
        Error::UnsupportedOp {
            node: self.node.label().to_owned(),
            op: self.node.full_op(),
            opset: self.opset,
            reason: reason.into(),
        }
    }

    /// An error about a node that breaks the operator's definition.
    pub fn invalid(&self, why: impl std::fmt::Display) -> Error {
        let node = self.node.label();
        Error::InvalidModel(format!("node '{node}' ({}): {why}", self.node.full_op()))
    }

    /// Counts a batch normalisation.
    pub fn count_batch_norm(&mut self) {
        self.importer.batch_norms += 1;
    }

    /// Tracks the batch axis of values if the file fixes a batch size.
    pub fn batch_check(&self) -> &BatchCheck<'m> {
        self.importer.batch_check()
    }

    /// The number of operands listed, including omitted ones.
    pub fn operands(&self) -> usize {
        self.inputs.len()
    }

    /// The number of results listed, including unwanted ones.
    pub fn results(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether result `i` has a name.
    pub fn wants_result(&self, i: usize) -> bool {
        self.node.outputs.get(i).is_some_and(|name| !name.is_empty())
    }

    /// Whether operand `i` is given.
    pub fn has(&self, i: usize) -> bool {
        matches!(self.inputs.get(i), Some(Some(binding)) if !matches!(binding, Binding::Absent(_)))
    }

    /// The binding of operand `i`. Errs when it is omitted.
    pub fn binding(&self, i: usize) -> Result<Binding> {
        match self.inputs.get(i) {
            Some(Some(binding)) => Ok(binding.clone()),
            _ => Err(self.invalid(format_args!("operand {i} is missing"))),
        }
    }

    fn value_as(&mut self, i: usize, role: Role) -> Result<Value> {
        let binding = self.binding(i)?;
        self.value_of(&binding, role)
    }

    /// The value of a binding when used in `role`.
    pub fn value_of(&mut self, binding: &Binding, role: Role) -> Result<Value> {
        match binding {
            Binding::Value(value) => Ok(*value),
            Binding::Stored(id) => self.importer.stored_value(*id, role),
            Binding::List(_) => Err(self.invalid("an operand is a sequence, not a tensor")),
            Binding::Absent(why) => Err(self.unsupported(format!("an operand is missing: {why}"))),
        }
    }

    /// The value of operand `i` as an ordinary operand ([`Role::Operand`]).
    pub fn operand(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Operand)
    }

    /// The value of operand `i` as a weight ([`Role::Weight`]).
    pub fn weight(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Weight)
    }

    /// The value of operand `i` as a table ([`Role::Table`]).
    pub fn table(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Table)
    }

    /// The value of operand `i`, which is never a parameter ([`Role::Fixed`]).
    pub fn fixed(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Fixed)
    }

    /// [`Call::weight`], if operand `i` is given.
    pub fn optional_weight(&mut self, i: usize) -> Result<Option<Value>> {
        if self.has(i) { self.weight(i).map(Some) } else { Ok(None) }
    }

    /// Whether operand `i` is a stored tensor that is also declared as an input.
    pub fn is_declared_input(&mut self, i: usize) -> bool {
        let name = self.node.inputs.get(i).map(String::as_str);
        matches!(self.binding(i), Ok(Binding::Stored(_)))
            && name.is_some_and(|name| self.importer.declares(name))
    }

    /// Whether operand `i` is a stored tensor that looks like a mask.
    pub fn is_mask(&mut self, i: usize) -> bool {
        match self.binding(i) {
            Ok(Binding::Stored(id)) => self.importer.stored(id).is_mask(),
            _ => false,
        }
    }

    /// The shape of operand `i`, if it is a stored tensor.
    pub fn stored_shape(&mut self, i: usize) -> Option<Vec<usize>> {
        match self.binding(i) {
            Ok(Binding::Stored(id)) => {
                self.importer.stored(id).tensor.as_ref().ok().map(|t| t.shape().to_vec())
            }
            _ => None,
        }
    }

    /// Applies `f` to operand 0.
    pub fn apply(&mut self, f: Unary) -> Result<Value> {
        let x = self.operand(0)?;
        self.unary(f, x)
    }

    /// Lowers a branch and returns its outputs.
    pub fn lower_graph(&mut self, graph: &'m Graph) -> Result<Vec<Binding>> {
        self.importer.lower_graph(graph, self.node.label())
    }

    /// Lowers one iteration of a loop and returns its outputs.
    pub fn lower_iteration(
        &mut self,
        graph: &'m Graph,
        inputs: Vec<Binding>,
    ) -> Result<Vec<Binding>> {
        let outputs = self.importer.lower_iteration(graph, self.node.label(), inputs);
        // Lowering the body changed the scope.
        let scope = self.importer.scope(self.node);
        self.importer.b.set_scope(scope);
        outputs
    }

    /// Stores a tensor under the name of the node's first result followed by `suffix`.
    pub fn store_as(&mut self, suffix: &str, tensor: Tensor) -> Binding {
        let name = self.node.outputs.first().map_or("", String::as_str);
        self.importer.store_constant(&format!("{name}{suffix}"), Ok(tensor))
    }

    /// Stores a tensor under the name of the node's first result.
    pub fn store(&mut self, tensor: Result<Tensor, String>) -> Binding {
        let name = self.node.outputs.first().map_or("", String::as_str);
        self.importer.store_constant(name, tensor)
    }

    /// `axis` counted from the front. A negative axis counts from the back.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(i) if i < rank => Ok(i),
            _ => Err(self.invalid(format_args!("axis {axis} does not exist in {rank} dimensions"))),
        }
    }

    /// `axes` counted from the front.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        axes.iter().map(|&axis| self.axis(axis, rank)).collect()
    }

    /// `values` as sizes or counts. Errs when one is negative.
    pub fn sizes(&self, values: &[i64], what: &str) -> Result<Vec<usize>> {
        let sizes = values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<Vec<_>>>();
        sizes.ok_or_else(|| self.invalid(format_args!("negative {what} in {values:?}")))
    }

    /// `shape`, if the import may create a tensor of that shape. Errs when it has more than [`MAX_MADE`]
    /// elements: a small file must not make us fill memory.
    pub fn made(&self, shape: Vec<usize>) -> Result<Vec<usize>> {
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match len {
            Some(n) if n <= MAX_MADE => Ok(shape),
            _ => Err(self.unsupported(format!(
                "it needs a table of shape {shape:?}, which is too large to be made at import"
            ))),
        }
    }

    /// `shape`, if it has at most [`MAX_ELEMENTS`] elements. Errs otherwise.
    pub fn bounded(&self, shape: Vec<usize>) -> Result<Vec<usize>> {
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match len {
            Some(n) if n <= MAX_ELEMENTS => Ok(shape),
            _ => Err(self.invalid(format_args!("a tensor of shape {shape:?} is too large"))),
        }
    }
}
