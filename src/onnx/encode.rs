//! Converts a [`Model`] back to protobuf messages: the inverse of `decode`.

use std::collections::BTreeMap;

use prost::Message;

use super::model::{
    Attribute, Dim, Function, Graph, Literal, Model, Node, Opsets, Type, ValueInfo,
};
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// A protobuf message has at most so many bytes.
const MOST: usize = i32::MAX as usize;

/// The bytes of `model` as an ONNX file. Tensors are written in the dtypes of the IR, whatever their
/// element types were in the file that the model was read from.
///
/// # Errors
/// When a tensor or attribute could not be read, or the file would be larger than the 2 GiB that an
/// ONNX file can have.
pub fn encode(model: &Model) -> Result<Vec<u8>> {
    let proto = Encoder { source: &model.source }.model(model)?;
    match proto.encoded_len() {
        ..=MOST => Ok(proto.encode_to_vec()),
        bytes => Err(Error::UnsupportedModel(format!(
            "{}: the model takes {} MiB, and an ONNX file can have {} MiB at most",
            model.source,
            bytes >> 20,
            MOST >> 20
        ))),
    }
}

struct Encoder<'a> {
    /// What messages call the model.
    source: &'a str,
}

impl Encoder<'_> {
    fn model(&self, model: &Model) -> Result<ModelProto> {
        // In one order, so that equal models have equal bytes.
        let functions: BTreeMap<_, _> = model.functions.iter().collect();
        let functions = functions.into_iter().map(|((domain, name, overload), function)| {
            let function = self.function(function)?;
            let (domain, name, overload) = (text(domain), text(name), text(overload));
            Ok(FunctionProto { domain, name, overload, ..function })
        });
        Ok(ModelProto {
            ir_version: Some(model.ir_version),
            producer_name: text(&model.producer),
            opset_import: opsets(&model.opsets),
            graph: Some(self.graph(&model.graph)?),
            metadata_props: metadata(&model.metadata),
            functions: functions.collect::<Result<_>>()?,
            ..ModelProto::default()
        })
    }

    fn function(&self, function: &Function) -> Result<FunctionProto> {
        let defaults = function.defaults.iter().map(|(name, value)| self.attribute(name, value));
        Ok(FunctionProto {
            input: function.inputs.clone(),
            output: function.outputs.clone(),
            attribute_proto: defaults.collect::<Result<_>>()?,
            opset_import: opsets(&function.opsets),
            node: self.nodes(&function.nodes)?,
            ..FunctionProto::default()
        })
    }

    fn graph(&self, graph: &Graph) -> Result<GraphProto> {
        let initializers = graph.initializers.iter().map(|i| self.tensor(&i.name, &i.literal));
        Ok(GraphProto {
            node: self.nodes(&graph.nodes)?,
            // ONNX asks for a name.
            name: Some("graph".into()),
            initializer: initializers.collect::<Result<_>>()?,
            input: self.value_infos(&graph.inputs)?,
            output: self.value_infos(&graph.outputs)?,
            value_info: self.value_infos(&graph.values)?,
            metadata_props: metadata(&graph.metadata),
            ..GraphProto::default()
        })
    }

    fn nodes(&self, nodes: &[Node]) -> Result<Vec<NodeProto>> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn node(&self, node: &Node) -> Result<NodeProto> {
        let attributes = node.attributes.iter().map(|(name, value)| self.attribute(name, value));
        Ok(NodeProto {
            input: node.inputs.clone(),
            output: node.outputs.clone(),
            name: text(&node.name),
            op_type: Some(node.op.clone()),
            domain: text(&node.domain),
            overload: text(&node.overload),
            attribute: attributes.collect::<Result<_>>()?,
            metadata_props: metadata(&node.metadata),
        })
    }

    fn attribute(&self, name: &str, value: &Attribute) -> Result<AttributeProto> {
        let mut proto = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
        let kind = match value {
            Attribute::Float(value) => {
                proto.f = Some(*value);
                AttributeType::Float
            }
            Attribute::Int(value) => {
                proto.i = Some(*value);
                AttributeType::Int
            }
            Attribute::String(value) => {
                proto.s = Some(value.clone().into());
                AttributeType::String
            }
            Attribute::Tensor(literal) => {
                proto.t = Some(self.tensor("", literal)?);
                AttributeType::Tensor
            }
            Attribute::Graph(graph) => {
                proto.g = Some(self.graph(graph)?);
                AttributeType::Graph
            }
            Attribute::Floats(values) => {
                proto.floats.clone_from(values);
                AttributeType::Floats
            }
            Attribute::Ints(values) => {
                proto.ints.clone_from(values);
                AttributeType::Ints
            }
            Attribute::Strings(values) => {
                proto.strings = values.iter().map(|value| value.clone().into()).collect();
                AttributeType::Strings
            }
            Attribute::Reference(of) => {
                proto.ref_attr_name = Some(of.clone());
                return Ok(proto);
            }
            Attribute::Other(kind) => {
                return Err(self.fail(&format!("attribute '{name}' is {kind}, which is not kept")));
            }
        };
        proto.set_type(kind);
        Ok(proto)
    }

    fn tensor(&self, name: &str, literal: &Literal) -> Result<TensorProto> {
        let tensor = match &literal.tensor {
            Ok(tensor) => tensor,
            Err(why) => return Err(self.fail(&format!("tensor '{name}' is not kept: {why}"))),
        };
        let stored = match tensor.dtype() {
            DType::F32 => DataType::Float,
            DType::F64 => DataType::Double,
            DType::I32 => DataType::Int32,
            DType::I64 => DataType::Int64,
            DType::Bool => DataType::Bool,
        };
        Ok(TensorProto {
            dims: tensor.shape().iter().map(|&d| d as i64).collect(),
            data_type: Some(stored as i32),
            name: text(name),
            raw_data: Some(tensor.to_le_bytes().into()),
            ..TensorProto::default()
        })
    }

    fn value_infos(&self, infos: &[ValueInfo]) -> Result<Vec<ValueInfoProto>> {
        let proto = |info: &ValueInfo| {
            let value = match &info.ty {
                Type::Tensor(stored, dims) => {
                    let shape = dims.as_ref().map(|dims| shape(dims));
                    let tensor = type_proto::Tensor { elem_type: Some(*stored as i32), shape };
                    Some(type_proto::Value::TensorType(tensor))
                }
                Type::Other("unknown") => None,
                Type::Other(kind) => {
                    return Err(self.fail(&format!("'{}' is {kind}, which is not kept", info.name)));
                }
            };
            Ok(ValueInfoProto { name: text(&info.name), r#type: Some(TypeProto { value }) })
        };
        infos.iter().map(proto).collect()
    }

    fn fail(&self, why: &str) -> Error {
        Error::UnsupportedModel(format!("{}: the model cannot be written: {why}", self.source))
    }
}

/// A text, unless it is empty.
fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn opsets(opsets: &Opsets) -> Vec<OperatorSetIdProto> {
    let opset = |(domain, &version): (&String, &i64)| OperatorSetIdProto {
        domain: Some(domain.clone()),
        version: Some(version),
    };
    opsets.iter().map(opset).collect()
}

fn shape(dims: &[Dim]) -> TensorShapeProto {
    let dim = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Fixed(size) => Some(dimension::Value::DimValue(*size as i64)),
            Dim::Named(name) => Some(dimension::Value::DimParam(name.clone())),
            Dim::Unknown => None,
        },
    };
    TensorShapeProto { dim: dims.iter().map(dim).collect() }
}

fn metadata(entries: &[(String, String)]) -> Vec<StringStringEntryProto> {
    let entry = |(key, value): &(String, String)| StringStringEntryProto {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    entries.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{load, read};

    /// What was read, written and read again is the same.
    #[test]
    fn files_survive() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        for path in [
            "models/resnet20.onnx",
            "models/vit.onnx",
            "models/jax-cnn.onnx",
            "models/sklearn-mlp.onnx",
            "fixtures/extra/local-functions.onnx",
            "fixtures/extra/external.onnx",
            "fixtures/extra/dynamo-shared.onnx",
        ] {
            let model = load(format!("{root}{path}")).unwrap();
            let again = read(&encode(&model).unwrap(), &model.source).unwrap();
            let known = Model { external: BTreeMap::new(), ..model };
            assert_eq!(format!("{:?}", Sorted(&again)), format!("{:?}", Sorted(&known)), "{path}");
        }
    }

    /// A model with its functions in order.
    #[derive(Debug)]
    #[allow(dead_code)]
    struct Shown<'a>(&'a Model, BTreeMap<&'a crate::onnx::FunctionKey, &'a Function>);

    struct Sorted<'a>(&'a Model);

    impl std::fmt::Debug for Sorted<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let alone = Model { functions: Default::default(), ..self.0.clone() };
            Shown(&alone, self.0.functions.iter().collect()).fmt(f)
        }
    }

    #[test]
    fn what_was_not_read_is_not_written() {
        let mut model = load(concat!(env!("CARGO_MANIFEST_DIR"), "/models/mlp.onnx")).unwrap();
        model.graph.initializers[0].literal.tensor = Err("it holds strings".into());
        let error = encode(&model).unwrap_err().to_string();
        assert!(error.contains("it holds strings"), "{error}");
    }
}
