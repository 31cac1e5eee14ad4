//! Training-free performance inference for neural networks given as ONNX files.

#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod emit;
pub mod engine;
pub mod error;
pub mod graph;
pub mod import;
pub mod linalg;
pub mod metric;
pub mod onnx;
pub mod ops;
pub mod pass;
pub mod rank;
pub mod report;
pub mod score;
pub mod stats;
pub mod tensor;
pub mod transform;

#[cfg(test)]
mod testing;

pub use error::{Error, Result};
