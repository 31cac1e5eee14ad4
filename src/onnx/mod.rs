//! The ONNX file format.

#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto;
