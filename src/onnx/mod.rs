//! ONNX files: reading and checking them, and a plain representation of what they hold.
//!
//! Protobuf ends here. [`load`] yields a [`Model`] whose tensors are decoded, whose external data
//! is read, and whose attributes are typed; [`crate::import`] lowers it to the graph IR.

mod decode;
mod digest;
mod external;
mod load;
mod model;
mod names;
pub mod proto;
mod tensor;

pub use digest::sha256;
pub use load::{NEWEST_KNOWN_OPSET, load, load_within, read, read_tensor};
pub use model::{
    Attribute, Dim, Function, FunctionKey, Graph, Initializer, Literal, Model, Node, Opsets, Type,
    ValueInfo,
};
pub use proto::tensor_proto::DataType;
pub use tensor::dtype_of;
