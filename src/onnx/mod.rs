//! Reads and checks ONNX files.
//!
//! [`load`] decodes the protobuf messages to a [`Model`] with typed attributes and decoded tensors,
//! external data included; [`encode`] writes one back. [`crate::import`] lowers a model to the graph IR.

mod declared;
mod decode;
mod digest;
mod encode;
mod external;
mod load;
#[cfg(feature = "data")]
mod locations;
mod model;
mod names;
pub mod proto;
mod tensor;

pub(crate) use declared::non_initializers;
pub use declared::{DeclaredInput, declared_inputs};
pub use digest::{sha256, sha256_of};
pub use encode::encode;
pub use external::Sidecars;
pub(crate) use load::load_as;
pub use load::{NEWEST_KNOWN_OPSET, load, load_within, read, read_tensor, read_within};
#[cfg(feature = "data")]
pub(crate) use locations::{external_files, external_locations, external_locations_of};
pub use model::{
    Attribute, Dim, Function, FunctionKey, Graph, Initializer, Literal, Model, Node, Opsets, Type,
    ValueInfo,
};
pub use proto::tensor_proto::DataType;
pub use tensor::dtype_of;
