//! A small model made by hand, with the names that a test is about.

use gradalign::onnx::DataType;
use gradalign::onnx::proto::tensor_proto::DataLocation;
use gradalign::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use gradalign::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;

/// `y = x · weight`, from 16 × 16 pixels to 3 classes.
pub struct Linear<'a> {
    pub weight: &'a str,
    pub node: &'a str,
    pub op: &'a str,
    /// The file that the weight is in, beside the model; in the model where it is `None`.
    pub external: Option<&'a str>,
}

impl Default for Linear<'_> {
    fn default() -> Self {
        Linear { weight: "weight", node: "product", op: "MatMul", external: None }
    }
}

/// The bytes of the weight.
pub fn values() -> Vec<u8> {
    (0..256 * 3).flat_map(|i| ((i as f32 * 1.7).sin() / 9.0).to_le_bytes()).collect()
}

impl Linear<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut weight = TensorProto {
            name: Some(self.weight.into()),
            dims: vec![256, 3],
            data_type: Some(DataType::Float as i32),
            ..TensorProto::default()
        };
        match self.external {
            None => weight.raw_data = Some(values().into()),
            Some(file) => {
                weight.data_location = Some(DataLocation::External as i32);
                weight.external_data = vec![StringStringEntryProto {
                    key: Some("location".into()),
                    value: Some(file.into()),
                }];
            }
        }
        let node = NodeProto {
            name: Some(self.node.into()),
            op_type: Some(self.op.into()),
            input: vec!["x".into(), self.weight.into()],
            output: vec!["y".into()],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            node: vec![node],
            initializer: vec![weight],
            input: vec![slot("x", 256)],
            output: vec![slot("y", 3)],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

fn slot(name: &str, size: i64) -> ValueInfoProto {
    let sizes = [dimension::Value::DimParam("N".into()), dimension::Value::DimValue(size)];
    let dim = sizes.map(|size| Dimension { value: Some(size) });
    let shape = Some(TensorShapeProto { dim: dim.to_vec() });
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value });
    ValueInfoProto { name: Some(name.into()), r#type }
}
