//! Training-free performance inference for neural networks given as ONNX files.

pub mod data;
pub mod emit;
pub mod engine;
pub mod error;
pub mod graph;
pub mod onnx;
pub mod ops;
pub mod report;
pub mod stats;
pub mod tensor;
pub mod transform;

#[cfg(test)]
mod testing;

pub use error::{Error, Result};
