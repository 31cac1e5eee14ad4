//! Tensors stored in the model, and the decision which of them are trainable.

use std::sync::Arc;

use glob::Pattern;

use super::ImportOptions;
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::tensor::Tensor;

/// Values beyond this are there to mask, not to be trained.
const HUGE: f32 = 1e4;

/// A tensor of the model file. What it becomes in the graph is decided where it is used.
pub(crate) struct Stored {
    /// The initializer's name, or that of the constant node's output.
    pub name: Arc<str>,
    /// The values, or why there are none.
    pub tensor: Result<Tensor, String>,
    /// Whether it is an initializer, not the value of a constant node.
    pub initializer: bool,
    /// Whether the values of constant nodes of this file can be parameters.
    nodes_train: bool,
    /// Whether the user's patterns decide, and how.
    forced: Option<bool>,
    parameter: Option<Value>,
    constant: Option<Value>,
    mask: Option<bool>,
}

/// How an operator uses a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A position for weights: trainable.
    Weight,
    /// An operand like any other: trainable if it is an initializer with several elements that
    /// does not look like a mask.
    Operand,
    /// A position for constants, such as the branches of a selection.
    Table,
    /// Never trainable: running statistics, indices, what is compared with.
    Fixed,
}

impl Stored {
    fn is_float(&self) -> bool {
        matches!(&self.tensor, Ok(Tensor::F32(_)))
    }

    /// Whether the values look like a mask: not finite, huge, zeros beside one negative number
    /// that suppresses, or zeros and ones.
    pub fn is_mask(&mut self) -> bool {
        if self.mask.is_none() {
            self.mask = Some(self.tensor.as_ref().is_ok_and(looks_like_mask));
        }
        self.mask == Some(true)
    }

    fn is_parameter(&mut self, role: Role) -> bool {
        let len = self.tensor.as_ref().map_or(0, Tensor::len);
        if !self.is_float() || len == 0 || role == Role::Fixed {
            return false;
        }
        self.forced.unwrap_or_else(|| match role {
            Role::Weight if self.is_filler() => false,
            Role::Weight => self.initializer || (len > 1 && self.nodes_train),
            Role::Operand => self.initializer && len > 1 && !self.is_mask() && !self.is_filler(),
            Role::Table | Role::Fixed => false,
        })
    }

    /// Whether an exporter seems to have made this up: equal elements under a name that it gave
    /// itself. Such are the scales of normalisations written out by others, and empty masks.
    fn is_filler(&self) -> bool {
        let Ok(tensor @ Tensor::F32(values)) = &self.tensor else { return false };
        let first = values.first();
        tensor.len() > 1 && generated(&self.name) && values.iter().all(|v| Some(v) == first)
    }

    /// The tensor's value in the graph for a use as `role`. Errs, in words, where the tensor
    /// cannot be used at all.
    pub fn value(&mut self, b: &mut Builder, role: Role) -> Result<Value, String> {
        let parameter = self.is_parameter(role);
        let tensor = self.tensor.clone()?;
        let slot = if parameter { &mut self.parameter } else { &mut self.constant };
        Ok(*slot.get_or_insert_with(|| match parameter {
            true => b.parameter(self.name.clone(), tensor),
            false => b.constant(tensor),
        }))
    }

    /// Declares the tensor as a parameter already now, so that parameters keep the file's order.
    /// Those never used as such are pruned in the end.
    pub fn reserve(&mut self, b: &mut Builder) {
        if let Ok(tensor) = &self.tensor
            && self.is_float()
            && self.forced != Some(false)
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

/// Whether a tensor's name is one that PyTorch's exporters give to what they compute themselves:
/// `val_12`, `zeros_like_1`, `/layer/Constant_1_output_0`. Parameters keep the names of modules.
fn generated(name: &str) -> bool {
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

/// The user's patterns for what is a parameter.
pub(crate) struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    nodes_train: bool,
}

impl Patterns {
    /// The patterns for a file made by `producer`. PyTorch stores all parameters as initializers.
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
            nodes_train: !producer.starts_with("pytorch"),
        })
    }

    /// A stored tensor, with what the patterns say of it.
    pub fn store(
        &self,
        name: Arc<str>,
        tensor: Result<Tensor, String>,
        initializer: bool,
    ) -> Stored {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(&name));
        let forced = if matches(&self.exclude) {
            Some(false)
        } else if self.include.is_empty() {
            None
        } else {
            Some(matches(&self.include))
        };
        Stored {
            name,
            tensor,
            initializer,
            nodes_train: self.nodes_train,
            forced,
            parameter: None,
            constant: None,
            mask: None,
        }
    }
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
