//! Tensors stored in the file, and the decision which of them are parameters.

use std::sync::Arc;

use glob::Pattern;

use super::ImportOptions;
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::tensor::Tensor;

/// Larger values occur in masks, not in weights.
const HUGE: f32 = 1e4;

/// A tensor stored in the file. Each use decides whether it is a parameter or a constant there.
pub(super) struct Stored {
    /// The name of the initializer, or of the constant node's result.
    pub name: Arc<str>,
    /// The values, or why there are none.
    pub tensor: Result<Tensor, String>,
    /// Whether it is a number in the source code of the network, not a tensor of a module.
    in_code: bool,
    /// Whether it is a parameter by the user's patterns, if they decide.
    by_pattern: Option<bool>,
    /// Whether it is a parameter by the file's own word, if it says.
    by_file: Option<bool>,
    parameter: Option<Value>,
    constant: Option<Value>,
    mask: Option<bool>,
}

/// How an operator uses a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The weight or bias of an operator: a parameter.
    Weight,
    /// Any other operand: a parameter if it has several elements and does not look like a mask.
    Operand,
    /// An operand that is usually constant, such as a branch of a selection: a parameter only if the
    /// user or the file says so.
    Table,
    /// Never a parameter: running statistics, indices, operands of comparisons.
    Fixed,
}

impl Stored {
    fn is_float(&self) -> bool {
        matches!(&self.tensor, Ok(Tensor::F32(_)))
    }

    /// Whether the values look like a mask: some are not finite or huge, or all are 0 or 1, or all are
    /// 0 or one number of at most −10.
    pub fn is_mask(&mut self) -> bool {
        if self.mask.is_none() {
            self.mask = Some(self.tensor.as_ref().is_ok_and(looks_like_mask));
        }
        self.mask == Some(true)
    }

    /// Whether the tensor is a parameter when used in `role`. Initializers and constant nodes are
    /// treated alike.
    fn is_parameter(&mut self, role: Role) -> bool {
        let (len, rank) = self.tensor.as_ref().map_or((0, 0), |t| (t.len(), t.shape().len()));
        if !self.is_float() || len == 0 || role == Role::Fixed {
            return false;
        }
        if let Some(decided) = self.by_pattern.or(self.by_file) {
            return decided;
        }
        match role {
            Role::Weight => rank > 0 && !self.in_code && !self.is_filler(),
            Role::Operand => len > 1 && !self.in_code && !self.is_mask() && !self.is_filler(),
            Role::Table | Role::Fixed => false,
        }
    }

    /// Whether the tensor is a parameter in some role.
    pub fn can_train(&mut self) -> bool {
        self.is_parameter(Role::Weight) || self.is_parameter(Role::Operand)
    }

    /// Whether the exporter seems to have added this tensor: its name is generated, and its elements
    /// are all equal or it is a single 0 or 1. Examples are neutral scales of normalisations and empty
    /// masks.
    fn is_filler(&self) -> bool {
        let Ok(tensor @ Tensor::F32(_)) = &self.tensor else { return false };
        let neutral = || tensor.f32_slice().is_some_and(|v| matches!(v, [0.0 | 1.0]));
        (tensor.len() > 1 || neutral()) && generated(&self.name) && is_filled(tensor)
    }

    /// The value of the tensor in the graph when used in `role`. Errs, in words, if the tensor has no
    /// usable values.
    pub fn value(&mut self, b: &mut Builder, role: Role) -> Result<Value, String> {
        let parameter = self.is_parameter(role);
        let tensor = self.tensor.clone()?;
        let slot = if parameter { &mut self.parameter } else { &mut self.constant };
        Ok(*slot.get_or_insert_with(|| match parameter {
            true => b.parameter(self.name.clone(), tensor),
            false => b.constant(tensor),
        }))
    }

    /// Adds the tensor to the graph as a parameter before its first use, so that parameters keep the
    /// order of the file. Unused ones are pruned at the end.
    pub fn reserve(&mut self, b: &mut Builder) {
        if let Ok(tensor) = &self.tensor
            && self.is_float()
            && self.by_pattern != Some(false)
        {
            self.parameter = Some(b.parameter(self.name.clone(), tensor.clone()));
        }
    }
}

fn looks_like_mask(tensor: &Tensor) -> bool {
    let Some(values) = tensor.f32_slice() else { return false };
    if values.iter().any(|v| !v.is_finite() || v.abs() >= HUGE) {
        return true;
    }
    let Some(&other) = values.iter().find(|&&v| v != 0.0) else { return false };
    let suppresses = other <= -10.0 || other == 1.0;
    suppresses && values.contains(&0.0) && values.iter().all(|&v| v == 0.0 || v == other)
}

/// Whether all elements of a float32 tensor are equal.
pub(super) fn is_filled(tensor: &Tensor) -> bool {
    let Some(values) = tensor.f32_slice() else { return false };
    values.iter().all(|v| Some(v) == values.first())
}

/// Whether the name is one that PyTorch's TorchScript exporter gives to numbers in the source code of
/// a network: `/layer/Constant_1_output_0`. Optimisers keep it when they make an initializer of it.
fn named_as_number(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let number = last.strip_prefix("Constant").and_then(|rest| rest.strip_suffix("_output_0"));
    number.is_some_and(|n| {
        n.is_empty() || n.strip_prefix('_').is_some_and(|n| n.bytes().all(|c| c.is_ascii_digit()))
    })
}

/// Whether the name is one that PyTorch's exporters generate for tensors they compute: `val_12`,
/// `zeros_like_1`, `/layer/Constant_1_output_0`. Parameters are named after their modules.
pub(super) fn generated(name: &str) -> bool {
    const MADE: [&str; 13] = [
        "val",
        "where",
        "zeros",
        "zeros_like",
        "ones",
        "ones_like",
        "full",
        "full_like",
        "new_full",
        "new_zeros",
        "new_ones",
        "masked_fill",
        "expand",
    ];
    if name.starts_with('/') {
        return name.contains("_output_");
    }
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let base = if base.len() < name.len() { base.trim_end_matches('_') } else { name };
    MADE.contains(&base)
}

/// How a tensor is stored in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// As an initializer.
    Initializer,
    /// In a constant node of the main graph.
    ConstantNode,
    /// In a constant node of a branch, loop body or function body.
    InnerConstantNode,
}

/// The user's glob patterns that say which tensors are parameters.
pub(super) struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    pytorch: bool,
}

impl Patterns {
    /// The patterns for a file made by `producer`.
    pub fn new(options: &ImportOptions, producer: &str) -> Result<Self> {
        let parse = |patterns: &[String]| -> Result<Vec<Pattern>> {
            let parsed = patterns.iter().map(|text| {
                Pattern::new(text).map_err(|e| {
                    Error::Usage(format!("'{text}' is not a pattern for parameter names: {e}"))
                })
            });
            parsed.collect()
        };
        Ok(Patterns {
            include: parse(&options.include)?,
            exclude: parse(&options.exclude)?,
            pytorch: producer.starts_with("pytorch"),
        })
    }

    /// A stored tensor. `by_file` says whether it is a parameter, if the file tells.
    pub fn store(
        &self,
        name: Arc<str>,
        tensor: Result<Tensor, String>,
        storage: Storage,
        by_file: Option<bool>,
    ) -> Stored {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(&name));
        let by_pattern = if matches(&self.exclude) {
            Some(false)
        } else if self.include.is_empty() {
            None
        } else {
            Some(matches(&self.include))
        };
        let in_code = named_as_number(&name) || (self.pytorch && is_in_code(&name, storage));
        Stored {
            name,
            tensor,
            in_code,
            by_pattern,
            by_file,
            parameter: None,
            constant: None,
            mask: None,
        }
    }
}

/// Whether a tensor in a file by PyTorch is a number in the source code of the network. Early
/// exporters name weights and numbers alike by a counter, later ones name some `onnx::Mul_12`. The
/// storage tells them apart, since PyTorch stores all weights as initializers.
fn is_in_code(name: &str, storage: Storage) -> bool {
    let numbered = name.bytes().all(|c| c.is_ascii_digit()) || name.starts_with("onnx::");
    storage == Storage::InnerConstantNode || (storage == Storage::ConstantNode && numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[f32]) -> bool {
        looks_like_mask(&Tensor::f32(&[values.len()], values.to_vec()).unwrap())
    }

    #[test]
    fn names_that_exporters_give_are_known() {
        for name in ["val_12", "zeros_like", "where_1", "full_like_3", "/a/Constant_1_output_0"] {
            assert!(generated(name), "{name}");
        }
        for name in ["layer.weight", "bias", "weight_1", "onnx::Conv_34", "interval_2", "/w"] {
            assert!(!generated(name), "{name}");
        }
    }

    #[test]
    fn numbers_in_the_code_of_a_network_are_known_by_their_names() {
        for name in ["/Constant_output_0", "/a/b/Constant_12_output_0", "Constant_output_0"] {
            assert!(named_as_number(name), "{name}");
        }
        for name in ["/a/Mul_output_0", "Constant", "/Constant_x_output_0", "Constant_1.weight"] {
            assert!(!named_as_number(name), "{name}");
        }
        assert!(is_in_code("12", Storage::ConstantNode));
        assert!(!is_in_code("12", Storage::Initializer));
        assert!(!is_in_code("layer.weight", Storage::ConstantNode));
    }

    #[test]
    fn masks_are_told_from_weights() {
        assert!(mask(&[0.0, f32::NEG_INFINITY]));
        assert!(mask(&[0.0, -100.0, 0.0]));
        assert!(mask(&[1.0, 0.0]));
        assert!(mask(&[-3.4e38, -3.4e38]));
        assert!(!mask(&[0.0, 0.0]));
        assert!(!mask(&[1.0, 1.0]));
        assert!(!mask(&[0.5, -0.25, 0.0]));
    }
}
