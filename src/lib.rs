//! Training-free performance inference for neural networks given as ONNX files.

pub mod emit;
pub mod engine;
pub mod error;
pub mod graph;
pub mod onnx;
pub mod ops;
pub mod tensor;
pub mod transform;

pub use error::{Error, Result};
