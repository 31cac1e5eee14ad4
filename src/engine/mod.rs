//! Running ONNX graphs: one trait, two engines.
//!
//! An engine takes a standard ONNX model with fixed shapes and runs it on named tensors. It knows
//! nothing of gradients or scores, and nothing outside this module names an engine's own types.

use crate::error::Result;
use crate::tensor::Tensor;

/// What an engine says of itself, for reports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// `onnxruntime` or `tract`.
    pub name: &'static str,
    /// The version of the library that runs.
    pub version: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
}

/// Something that can run ONNX models.
pub trait Engine: Send + Sync {
    /// Name, version and device.
    fn describe(&self) -> Description;

    /// Prepares a serialised `ModelProto`. Errs when the engine refuses or panics.
    fn load(&self, model: &[u8]) -> Result<Box<dyn Session>>;
}

/// A model made ready to run.
pub trait Session: Send {
    /// Runs on one tensor per input, in the order of the model's inputs; the results are in the
    /// order of its outputs. Errs when the engine fails or panics.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;
}
