//! Operands that are known at import: stored tensors and expressions of them.

use std::collections::HashMap;

use super::Call;
use crate::error::Result;
use crate::graph::Value;
use crate::import::importer::Binding;
use crate::import::literal::Role;
use crate::ops::Op;
use crate::tensor::Tensor;

/// The maximum depth of constant expressions that are evaluated.
const MAX_EVALUATION_DEPTH: usize = 32;

/// The most elements that the parts of a constant expression may have in total.
const MAX_EVALUATED: usize = 1 << 24;

impl Call<'_, '_> {
    /// The value of operand `i`, if it depends on neither inputs nor parameters.
    pub fn known(&mut self, i: usize) -> Result<Option<Tensor>> {
        let binding = self.binding(i)?;
        self.known_of(&binding)
    }

    /// The value of a binding, if it depends on neither inputs nor parameters.
    pub fn known_of(&mut self, binding: &Binding) -> Result<Option<Tensor>> {
        if let Binding::Stored(id) = binding
            && let Ok(tensor) = &self.importer.stored(*id).tensor
        {
            return Ok(Some(tensor.clone()));
        }
        let value = self.value_of(binding, Role::Fixed)?;
        self.evaluate(value, false)
    }

    /// Evaluates `value`, if it is a constant expression that is not too large. With `of_parameters`,
    /// parameters count as constants.
    fn evaluate(&self, value: Value, of_parameters: bool) -> Result<Option<Tensor>> {
        let (mut results, mut budget) = (HashMap::new(), MAX_EVALUATED);
        if of_parameters {
            let parameters = self.graph().parameters();
            results.extend(parameters.map(|(value, p)| (value, Some(p.tensor.clone()))));
        }
        self.evaluate_part(value, 0, &mut results, &mut budget)
    }

    /// Evaluates each part once, since expressions share their parts.
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

    /// The value of operand `i`, which must not depend on the model's inputs; messages call it `what`. It
    /// may depend on stored tensors that are parameters elsewhere.
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

    /// The value of operand `i` as integers.
    pub fn known_ints(&mut self, i: usize, what: &str) -> Result<Vec<i64>> {
        let tensor = self.tensor(i, what)?;
        match tensor.to_i64() {
            Some(values) => Ok(values.iter().copied().collect()),
            None => Err(self.invalid(format_args!("its {what} must be integers"))),
        }
    }

    /// The value of operand `i` as floats.
    pub fn known_floats(&mut self, i: usize, what: &str) -> Result<Vec<f64>> {
        Ok(self.tensor(i, what)?.to_f64().iter().copied().collect())
    }

    /// The value of operand `i` as a single integer.
    pub fn known_int(&mut self, i: usize, what: &str) -> Result<i64> {
        match self.known_ints(i, what)?[..] {
            [value] => Ok(value),
            _ => Err(self.invalid(format_args!("its {what} must be one integer"))),
        }
    }

    /// Integers that older operator sets give as attribute `name` and newer ones as operand `i`.
    pub fn ints_or_operand(&mut self, name: &str, i: usize) -> Result<Option<Vec<i64>>> {
        match self.ints(name)? {
            Some(values) => Ok(Some(values)),
            None if self.has(i) => self.known_ints(i, name).map(Some),
            None => Ok(None),
        }
    }
}
