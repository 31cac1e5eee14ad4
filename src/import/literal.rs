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
    /// Whether it is a number in the code of the network, not one of its tensors.
    written: bool,
    /// Whether the user's patterns decide, and how.
    forced: Option<bool>,
    /// Whether the file says what it is, and what.
    said: Option<bool>,
    parameter: Option<Value>,
    constant: Option<Value>,
    mask: Option<bool>,
}

/// How an operator uses a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A position for weights: trainable.
    Weight,
    /// An operand like any other: trainable if it has several elements and does not look like a
    /// mask.
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

    /// Whether the tensor is a parameter where it is used as `role`. How it is stored, as an
    /// initializer or a constant node, makes no difference.
    fn is_parameter(&mut self, role: Role) -> bool {
        let (len, rank) = self.tensor.as_ref().map_or((0, 0), |t| (t.len(), t.shape().len()));
        if !self.is_float() || len == 0 || role == Role::Fixed {
            return false;
        }
        if let Some(decided) = self.forced.or(self.said) {
            return decided;
        }
        match role {
            Role::Weight => rank > 0 && !self.written && !self.is_filler(),
            Role::Operand => len > 1 && !self.written && !self.is_mask() && !self.is_filler(),
            Role::Table | Role::Fixed => false,
        }
    }

    /// Whether the tensor is a parameter in some role.
    pub fn can_train(&mut self) -> bool {
        self.is_parameter(Role::Weight) || self.is_parameter(Role::Operand)
    }

    /// Whether an exporter seems to have made this up: equal elements under a name that it gave
    /// itself, or a single 0 or 1. Such are the scales of normalisations written out by others, and
    /// empty masks.
    fn is_filler(&self) -> bool {
        let Ok(tensor @ Tensor::F32(_)) = &self.tensor else { return false };
        let neutral = || tensor.f32_slice().is_some_and(|v| matches!(v, [0.0 | 1.0]));
        (tensor.len() > 1 || neutral()) && generated(&self.name) && is_filled(tensor)
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

/// Whether all elements of a float32 tensor are equal.
pub(super) fn is_filled(tensor: &Tensor) -> bool {
    let Some(values) = tensor.f32_slice() else { return false };
    values.iter().all(|v| Some(v) == values.first())
}

/// Whether PyTorch's TorchScript exporter calls so what the code of a network has as numbers:
/// `/layer/Constant_1_output_0`, also where an optimiser has made an initializer of it.
fn written(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let number = last.strip_prefix("Constant").and_then(|rest| rest.strip_suffix("_output_0"));
    number.is_some_and(|n| {
        n.is_empty() || n.strip_prefix('_').is_some_and(|n| n.bytes().all(|c| c.is_ascii_digit()))
    })
}

/// Whether a tensor's name is one that PyTorch's exporters give to what they compute themselves:
/// `val_12`, `zeros_like_1`, `/layer/Constant_1_output_0`. Parameters keep the names of modules.
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

/// Where a tensor of the file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside the nodes of a graph.
    Initializer,
    /// In a constant node of the main graph.
    Node,
    /// In a constant node of a branch, or the body of a loop or function.
    InnerNode,
}

/// The user's patterns for what is a parameter.
pub(crate) struct Patterns {
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

    /// A stored tensor, with what the patterns say of it, and the file, if it does.
    pub fn store(
        &self,
        name: Arc<str>,
        tensor: Result<Tensor, String>,
        place: Place,
        said: Option<bool>,
    ) -> Stored {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(&name));
        let forced = if matches(&self.exclude) {
            Some(false)
        } else if self.include.is_empty() {
            None
        } else {
            Some(matches(&self.include))
        };
        let written = written(&name) || (self.pytorch && is_in_code(&name, place));
        Stored { name, tensor, written, forced, said, parameter: None, constant: None, mask: None }
    }
}

/// Whether a tensor in a file of PyTorch's is a number in the code of the network. Early exporters
/// number all values, weights and numbers alike, and later ones call some `onnx::Mul_12`: there the
/// place tells, since PyTorch stores all weights as initializers.
fn is_in_code(name: &str, place: Place) -> bool {
    let numbered = name.bytes().all(|c| c.is_ascii_digit()) || name.starts_with("onnx::");
    place == Place::InnerNode || (place == Place::Node && numbered)
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
            assert!(written(name), "{name}");
        }
        for name in ["/a/Mul_output_0", "Constant", "/Constant_x_output_0", "Constant_1.weight"] {
            assert!(!written(name), "{name}");
        }
        assert!(is_in_code("12", Place::Node) && !is_in_code("12", Place::Initializer));
        assert!(!is_in_code("layer.weight", Place::Node));
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
