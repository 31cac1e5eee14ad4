//! A node being lowered: its operands by role, and its attributes by type.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use super::batch::Watch;
use super::importer::{Binding, Importer, MAX_ELEMENTS};
use super::literal::Role;
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::onnx::{Attribute, Graph, Literal, Node};
use crate::ops::{Op, Unary};
use crate::tensor::Tensor;

/// How deep unfolded constant expressions are computed.
const MAX_EVALUATION_DEPTH: usize = 32;

/// How many elements unfolded constant expressions may have in all.
const MAX_EVALUATED: usize = 1 << 24;

/// Tensors that are made at import have at most this many elements.
pub(crate) const MAX_MADE: usize = 1 << 24;

/// Loops, recurrences and sequences are taken apart into at most this many steps or elements.
pub(crate) const MAX_UNROLLED: usize = 4096;

/// An operator's application in the model. It reads as the [`Builder`] of the graph that it is
/// lowered into: `c.relu(x)` adds a node.
pub(crate) struct Call<'a, 'm> {
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
    /// The application `node` to `inputs`.
    pub fn new(
        importer: &'a mut Importer<'m>,
        node: &'m Node,
        inputs: Vec<Option<Binding>>,
        opset: i64,
    ) -> Self {
        Call { importer, node, inputs, opset }
    }

    /// What a copy of `binding` stands for. Some exporters store equal tensors once, and every
    /// fresh network has many: all the other parameters are copies of the stored one, under their
    /// own names. A stored tensor that is read elsewhere too is therefore stored again.
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

    // Messages

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

    /// What follows the samples of a batch that the file fixes.
    pub fn watch(&self) -> &Watch<'m> {
        self.importer.watch()
    }

    // Operands

    /// How many operands are listed, left-out ones included.
    pub fn operands(&self) -> usize {
        self.inputs.len()
    }

    /// How many results are listed, unwanted ones included.
    pub fn results(&self) -> usize {
        self.node.outputs.len()
    }

    /// Whether result `i` has a name.
    pub fn wants_result(&self, i: usize) -> bool {
        self.node.outputs.get(i).is_some_and(|name| !name.is_empty())
    }

    /// Whether operand `i` is there.
    pub fn has(&self, i: usize) -> bool {
        matches!(self.inputs.get(i), Some(Some(binding)) if !matches!(binding, Binding::Absent(_)))
    }

    /// What operand `i` is. Errs when it is not there.
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

    /// The value of a binding, for a use as `role`.
    pub fn value_of(&mut self, binding: &Binding, role: Role) -> Result<Value> {
        match binding {
            Binding::Value(value) => Ok(*value),
            Binding::Stored(id) => self.importer.stored_value(*id, role),
            Binding::List(_) => Err(self.invalid("an operand is a sequence, not a tensor")),
            Binding::Absent(why) => Err(self.unsupported(format!("an operand is missing: {why}"))),
        }
    }

    /// Operand `i`.
    pub fn operand(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Operand)
    }

    /// Operand `i`, which stands where weights stand.
    pub fn weight(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Weight)
    }

    /// Operand `i`, which stands where constants stand.
    pub fn table(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Table)
    }

    /// Operand `i`, which is never trained.
    pub fn fixed(&mut self, i: usize) -> Result<Value> {
        self.value_as(i, Role::Fixed)
    }

    /// Operand `i` if it is there.
    pub fn optional_weight(&mut self, i: usize) -> Result<Option<Value>> {
        if self.has(i) { self.weight(i).map(Some) } else { Ok(None) }
    }

    /// Whether operand `i` is a tensor of the file that is declared as an input too.
    pub fn is_declared_input(&mut self, i: usize) -> bool {
        let name = self.node.inputs.get(i).map(String::as_str);
        matches!(self.binding(i), Ok(Binding::Stored(_)))
            && name.is_some_and(|name| self.importer.declares(name))
    }

    /// Whether operand `i` is a tensor of the file that looks like a mask.
    pub fn is_mask(&mut self, i: usize) -> bool {
        match self.binding(i) {
            Ok(Binding::Stored(id)) => self.importer.stored(id).is_mask(),
            _ => false,
        }
    }

    /// The shape of operand `i` if it is a tensor of the file.
    pub fn stored_shape(&mut self, i: usize) -> Option<Vec<usize>> {
        match self.binding(i) {
            Ok(Binding::Stored(id)) => {
                self.importer.stored(id).tensor.as_ref().ok().map(|t| t.shape().to_vec())
            }
            _ => None,
        }
    }

    /// The tensor that operand `i` is known to be, if it does not depend on the model's inputs.
    pub fn known(&mut self, i: usize) -> Result<Option<Tensor>> {
        let binding = self.binding(i)?;
        self.known_of(&binding)
    }

    /// The tensor that a binding is known to be.
    pub fn known_of(&mut self, binding: &Binding) -> Result<Option<Tensor>> {
        if let Binding::Stored(id) = binding
            && let Ok(tensor) = &self.importer.stored(*id).tensor
        {
            return Ok(Some(tensor.clone()));
        }
        let value = self.value_of(binding, Role::Fixed)?;
        self.evaluate(value, false)
    }

    /// What `value` is, if it is a constant expression that is not too large; `of_parameters` takes
    /// parameters for constants, too.
    fn evaluate(&self, value: Value, of_parameters: bool) -> Result<Option<Tensor>> {
        let (mut results, mut budget) = (HashMap::new(), MAX_EVALUATED);
        if of_parameters {
            let parameters = self.graph().parameters();
            results.extend(parameters.map(|(value, p)| (value, Some(p.tensor.clone()))));
        }
        self.evaluate_part(value, 0, &mut results, &mut budget)
    }

    /// Expressions share their parts, so each part is computed once.
    fn evaluate_part(
        &self,
        value: Value,
        depth: usize,
        results: &mut HashMap<Value, Option<Tensor>>,
        budget: &mut usize,
    ) -> Result<Option<Tensor>> {
        if let Some(result) = results.get(&value) {
            return Ok(result.clone());
        }
        let node = self.graph().node(value);
        let op = match &node.op {
            Op::Constant(tensor) => return Ok(Some(tensor.clone())),
            Op::Apply(op) if depth < MAX_EVALUATION_DEPTH => op,
            _ => return Ok(None),
        };
        let mut operands = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            match self.evaluate_part(input, depth + 1, results, budget)? {
                Some(tensor) => operands.push(tensor),
                None => {
                    results.insert(value, None);
                    return Ok(None);
                }
            }
        }
        let Some(left) = budget.checked_sub(node.fact.len()) else { return Ok(None) };
        *budget = left;
        let result = op.rule().eval(&operands.iter().collect::<Vec<_>>(), &node.fact)?;
        results.insert(value, Some(result.clone()));
        Ok(Some(result))
    }

    /// The tensor that operand `i`, called `what`, must be known to be. What is computed of stored
    /// tensors is, whether they train elsewhere or not.
    pub fn tensor(&mut self, i: usize, what: &str) -> Result<Tensor> {
        if let Some(tensor) = self.known(i)? {
            return Ok(tensor);
        }
        let value = self.fixed(i)?;
        self.evaluate(value, true)?.ok_or_else(|| {
            self.unsupported(format!(
                "its {what} depends on the model's inputs; export the model with fixed shapes"
            ))
        })
    }

    /// The known integers of operand `i`.
    pub fn known_ints(&mut self, i: usize, what: &str) -> Result<Vec<i64>> {
        let tensor = self.tensor(i, what)?;
        match tensor.to_i64() {
            Some(values) => Ok(values.iter().copied().collect()),
            None => Err(self.invalid(format_args!("its {what} must be integers"))),
        }
    }

    /// The known numbers of operand `i`.
    pub fn known_floats(&mut self, i: usize, what: &str) -> Result<Vec<f64>> {
        Ok(self.tensor(i, what)?.to_f64().iter().copied().collect())
    }

    /// The known single integer of operand `i`.
    pub fn known_int(&mut self, i: usize, what: &str) -> Result<i64> {
        match self.known_ints(i, what)?[..] {
            [value] => Ok(value),
            _ => Err(self.invalid(format_args!("its {what} must be one integer"))),
        }
    }

    /// The integers given as attribute `name` in older operator sets and as operand `i` since.
    pub fn ints_or_operand(&mut self, name: &str, i: usize) -> Result<Option<Vec<i64>>> {
        match self.ints(name)? {
            Some(values) => Ok(Some(values)),
            None if self.has(i) => self.known_ints(i, name).map(Some),
            None => Ok(None),
        }
    }

    /// The function of operand 0.
    pub fn apply(&mut self, f: Unary) -> Result<Value> {
        let x = self.operand(0)?;
        self.unary(f, x)
    }

    // Attributes

    /// The attribute `name`, looked up in the calling node where the function's body says so.
    fn attribute(&self, name: &str) -> Option<&'m Attribute> {
        match self.node.attribute(name)? {
            Attribute::Reference(outer) => self.importer.outer_attribute(outer),
            value => Some(value),
        }
    }

    fn wrong_kind(&self, name: &str, value: &Attribute, wanted: &str) -> Error {
        self.invalid(format_args!("attribute '{name}' is {}, not {wanted}", value.kind()))
    }

    /// Whether attribute `name` is there.
    pub fn has_attribute(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// The integer `name`, if given.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_kind(name, other, "an integer")),
        }
    }

    /// The integer `name`.
    pub fn int(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.optional_int(name)?.unwrap_or(default))
    }

    /// The integer `name` as a truth value.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// The float `name`, if given.
    pub fn optional_float(&self, name: &str) -> Result<Option<f64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(f64::from(*value))),
            Some(other) => Err(self.wrong_kind(name, other, "a float")),
        }
    }

    /// The float `name`.
    pub fn float(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    /// The integers `name`, if given.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(other) => Err(self.wrong_kind(name, other, "a list of integers")),
        }
    }

    /// The floats `name`, if given.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => {
                Ok(Some(values.iter().map(|&v| f64::from(v)).collect()))
            }
            Some(other) => Err(self.wrong_kind(name, other, "a list of floats")),
        }
    }

    /// The string `name`.
    pub fn text(&self, name: &str, default: &'m str) -> Result<&'m str> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::String(value)) => Ok(value),
            Some(other) => Err(self.wrong_kind(name, other, "a string")),
        }
    }

    /// The strings `name`, if given.
    pub fn strings(&self, name: &str) -> Result<Option<&'m [String]>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Strings(values)) => Ok(Some(values)),
            Some(other) => Err(self.wrong_kind(name, other, "a list of strings")),
        }
    }

    /// The tensor `name`, if given.
    pub fn literal(&self, name: &str) -> Result<Option<&'m Literal>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(literal)) => Ok(Some(literal)),
            Some(other) => Err(self.wrong_kind(name, other, "a tensor")),
        }
    }

    /// The graph `name`. Errs when it is missing.
    pub fn subgraph(&self, name: &str) -> Result<&'m Graph> {
        match self.attribute(name) {
            Some(Attribute::Graph(graph)) => Ok(graph),
            Some(other) => Err(self.wrong_kind(name, other, "a graph")),
            None => Err(self.invalid(format_args!("attribute '{name}' is missing"))),
        }
    }

    /// Lowers a branch and returns its outputs.
    pub fn lower_graph(&mut self, graph: &'m Graph) -> Result<Vec<Binding>> {
        self.importer.lower_graph(graph, self.node.label())
    }

    /// Lowers a turn of a loop, and returns its outputs.
    pub fn lower_turn(&mut self, graph: &'m Graph, inputs: Vec<Binding>) -> Result<Vec<Binding>> {
        let outputs = self.importer.lower_turn(graph, self.node.label(), inputs);
        // The body has left its own scope behind.
        let scope = self.importer.scope(self.node);
        self.importer.b.set_scope(scope);
        outputs
    }

    /// Stores a tensor as the node's first result, with `suffix` after its name.
    pub fn store_as(&mut self, suffix: &str, tensor: Tensor) -> Binding {
        let name = self.node.outputs.first().map_or("", String::as_str);
        self.importer.store_constant(&format!("{name}{suffix}"), Ok(tensor))
    }

    /// Stores a tensor as the node's first result.
    pub fn store(&mut self, tensor: Result<Tensor, String>) -> Binding {
        let name = self.node.outputs.first().map_or("", String::as_str);
        self.importer.store_constant(name, tensor)
    }

    // Axes and sizes

    /// `axis` counted from the front; negative ones count from the back.
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

    /// `shape` if a tensor of it may be made at import. Errs when it has too many elements: the
    /// sizes come from the file, the elements would come from us.
    pub fn made(&self, shape: Vec<usize>) -> Result<Vec<usize>> {
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match len {
            Some(n) if n <= MAX_MADE => Ok(shape),
            _ => Err(self.unsupported(format!(
                "it needs a table of shape {shape:?}, which is too large to be made at import"
            ))),
        }
    }

    /// `shape` if its elements can be counted. Errs when there are too many.
    pub fn bounded(&self, shape: Vec<usize>) -> Result<Vec<usize>> {
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        match len {
            Some(n) if n <= MAX_ELEMENTS => Ok(shape),
            _ => Err(self.invalid(format_args!("a tensor of shape {shape:?} is too large"))),
        }
    }
}
