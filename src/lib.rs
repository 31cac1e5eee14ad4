//! Training-free performance inference for neural networks given as ONNX files.

pub mod data;
pub mod engine;
pub mod error;
pub mod report;
pub mod stats;
pub mod tensor;

pub use error::{Error, Result};
