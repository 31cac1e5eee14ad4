//! Attributes, tensors and declarations as messages of ONNX.

use crate::graph::Fact;
use crate::onnx::proto::{
    AttributeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::{DataLocation, DataType},
    tensor_shape_proto, type_proto,
};
use crate::ops::Attr;
use crate::tensor::{DType, Tensor};

pub(super) fn attribute(name: &str, value: &Attr) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.into()), ..Default::default() };
    let kind = match value {
        Attr::Int(v) => {
            proto.i = Some(*v);
            AttributeType::Int
        }
        Attr::Ints(v) => {
            proto.ints.clone_from(v);
            AttributeType::Ints
        }
        Attr::Float(v) => {
            proto.f = Some(*v);
            AttributeType::Float
        }
        Attr::Floats(v) => {
            proto.floats.clone_from(v);
            AttributeType::Floats
        }
        Attr::Str(v) => {
            proto.s = Some((*v).into());
            AttributeType::String
        }
        Attr::DType(v) => {
            proto.i = Some(i64::from(onnx_dtype(*v)));
            AttributeType::Int
        }
    };
    proto.set_type(kind);
    proto
}

/// The ONNX element type of a dtype.
fn onnx_dtype(dtype: DType) -> i32 {
    let kind = match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::I32 => DataType::Int32,
        DType::I64 => DataType::Int64,
        DType::Bool => DataType::Bool,
    };
    kind as i32
}

pub(super) fn tensor_proto(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(onnx_dtype(tensor.dtype())),
        raw_data: Some(tensor.to_le_bytes().into()),
        ..Default::default()
    }
}

/// A tensor whose values are found under its own name.
pub(super) fn external_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    let location =
        StringStringEntryProto { key: Some("location".into()), value: Some(name.into()) };
    TensorProto {
        name: Some(name.into()),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(onnx_dtype(tensor.dtype())),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![location],
        ..Default::default()
    }
}

pub(super) fn value_info(name: &str, fact: &Fact) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value::DimValue};
    let dim = fact.shape.iter().map(|&d| Dimension { value: Some(DimValue(d as i64)) }).collect();
    let tensor = type_proto::Tensor {
        elem_type: Some(onnx_dtype(fact.dtype)),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }),
    }
}
