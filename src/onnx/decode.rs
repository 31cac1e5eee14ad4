//! Converts protobuf messages to a [`Model`]. Messages are consumed, so that the bytes and the values of
//! only one tensor at a time are in memory together.

use std::collections::BTreeMap;

use super::external::External;
use super::model::{
    Attribute, Dim, Function, Graph, Initializer, Literal, Model, Node, Opsets, Type, ValueInfo,
};
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::dimension;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, ValueInfoProto, type_proto,
};
use super::tensor;
use crate::error::{Error, Result};

/// Decodes a model, which messages call `source`.
pub(super) fn model(proto: ModelProto, source: &str, external: External) -> Result<Model> {
    let mut decoder = Decoder { source: source.to_owned(), external, stored: BTreeMap::new() };
    let graph = proto.graph.ok_or_else(|| {
        Error::InvalidModel(format!("{source}: not an ONNX model: there is no graph in it"))
    })?;
    let producer = [proto.producer_name, proto.producer_version].into_iter().flatten();
    let mut model = Model {
        source: source.to_owned(),
        ir_version: proto.ir_version.unwrap_or(0),
        producer: producer.filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
        opsets: opsets(proto.opset_import),
        graph: decoder.graph(graph)?,
        metadata: metadata(proto.metadata_props),
        ..Model::default()
    };
    for function in proto.functions {
        let key = (
            domain(function.domain.clone()),
            function.name.clone().unwrap_or_default(),
            function.overload.clone().unwrap_or_default(),
        );
        let mut function = decoder.function(function)?;
        if function.opsets.is_empty() {
            function.opsets.clone_from(&model.opsets);
        }
        model.functions.insert(key, function);
    }
    model.external = decoder.external.files();
    let narrowed = decoder.stored.get(&DataType::Double).copied().unwrap_or(0);
    if narrowed > 0 {
        model.warnings.push(format!("{narrowed} float64 tensors are taken in float32"));
    }
    Ok(model)
}

fn domain(domain: Option<String>) -> String {
    domain.filter(|d| d != "ai.onnx").unwrap_or_default()
}

fn opsets(imports: Vec<OperatorSetIdProto>) -> Opsets {
    imports.into_iter().map(|o| (domain(o.domain), o.version.unwrap_or(1))).collect()
}

fn metadata(entries: Vec<StringStringEntryProto>) -> Vec<(String, String)> {
    let text = Option::unwrap_or_default;
    entries.into_iter().map(|entry| (text(entry.key), text(entry.value))).collect()
}

struct Decoder<'a> {
    source: String,
    external: External<'a>,
    /// The number of tensors decoded, by element type.
    stored: BTreeMap<DataType, usize>,
}

impl Decoder<'_> {
    fn graph(&mut self, proto: GraphProto) -> Result<Graph> {
        let mut initializers = Vec::with_capacity(proto.initializer.len());
        for tensor in proto.initializer {
            let name = tensor.name.clone().unwrap_or_default();
            initializers.push(Initializer { name, literal: self.literal(tensor)? });
        }
        for sparse in proto.sparse_initializer {
            let name = sparse.values.and_then(|v| v.name).unwrap_or_default();
            let tensor = Err("it is stored as a sparse tensor; export it dense".to_owned());
            let literal = Literal { stored: DataType::Undefined, tensor };
            initializers.push(Initializer { name, literal });
        }
        Ok(Graph {
            nodes: self.nodes(proto.node)?,
            initializers,
            inputs: proto.input.into_iter().map(value_info).collect(),
            outputs: proto.output.into_iter().map(value_info).collect(),
            values: proto.value_info.into_iter().map(value_info).collect(),
            metadata: metadata(proto.metadata_props),
        })
    }

    fn function(&mut self, proto: FunctionProto) -> Result<Function> {
        Ok(Function {
            inputs: proto.input,
            outputs: proto.output,
            defaults: self.attributes(proto.attribute_proto)?,
            opsets: opsets(proto.opset_import),
            nodes: self.nodes(proto.node)?,
        })
    }

    fn nodes(&mut self, protos: Vec<NodeProto>) -> Result<Vec<Node>> {
        protos.into_iter().map(|proto| self.node(proto)).collect()
    }

    fn node(&mut self, proto: NodeProto) -> Result<Node> {
        Ok(Node {
            name: proto.name.unwrap_or_default(),
            op: proto.op_type.unwrap_or_default(),
            domain: domain(proto.domain),
            overload: proto.overload.unwrap_or_default(),
            inputs: proto.input,
            outputs: proto.output,
            attributes: self.attributes(proto.attribute)?,
            metadata: metadata(proto.metadata_props),
        })
    }

    fn attributes(&mut self, protos: Vec<AttributeProto>) -> Result<Vec<(String, Attribute)>> {
        protos
            .into_iter()
            .map(|mut proto| Ok((proto.name.take().unwrap_or_default(), self.attribute(proto)?)))
            .collect()
    }

    fn attribute(&mut self, proto: AttributeProto) -> Result<Attribute> {
        if let Some(name) = proto.ref_attr_name.filter(|name| !name.is_empty()) {
            return Ok(Attribute::Reference(name));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(match AttributeType::try_from(proto.r#type.unwrap_or_default()) {
            Ok(AttributeType::Float) => Attribute::Float(proto.f.unwrap_or_default()),
            Ok(AttributeType::Int) => Attribute::Int(proto.i.unwrap_or_default()),
            Ok(AttributeType::String) => Attribute::String(text(&proto.s.unwrap_or_default())),
            Ok(AttributeType::Tensor) => match proto.t {
                Some(tensor) => Attribute::Tensor(self.literal(tensor)?),
                None => Attribute::Other("a tensor without data"),
            },
            Ok(AttributeType::Graph) => match proto.g {
                Some(graph) => Attribute::Graph(Box::new(self.graph(graph)?)),
                None => Attribute::Other("a graph without nodes"),
            },
            Ok(AttributeType::Floats) => Attribute::Floats(proto.floats),
            Ok(AttributeType::Ints) => Attribute::Ints(proto.ints),
            Ok(AttributeType::Strings) => {
                Attribute::Strings(proto.strings.iter().map(|s| text(s)).collect())
            }
            Ok(AttributeType::SparseTensor | AttributeType::SparseTensors) => {
                Attribute::Other("a sparse tensor")
            }
            Ok(AttributeType::TypeProto | AttributeType::TypeProtos) => Attribute::Other("a type"),
            Ok(AttributeType::Tensors) => Attribute::Other("a list of tensors"),
            Ok(AttributeType::Graphs) => Attribute::Other("a list of graphs"),
            Ok(AttributeType::Undefined) | Err(_) => Attribute::Other("of an unknown kind"),
        })
    }

    fn literal(&mut self, proto: super::proto::TensorProto) -> Result<Literal> {
        let literal = tensor::decode(proto, &mut self.external, &self.source)?;
        *self.stored.entry(literal.stored).or_default() += 1;
        Ok(literal)
    }
}

fn value_info(proto: ValueInfoProto) -> ValueInfo {
    use type_proto::Value;
    let ty = match proto.r#type.and_then(|t| t.value) {
        Some(Value::TensorType(tensor)) => {
            let stored = DataType::try_from(tensor.elem_type.unwrap_or_default());
            let dims = tensor.shape.map(|shape| {
                let dims = shape.dim.into_iter();
                dims.map(|d| match d.value {
                    Some(dimension::Value::DimValue(n)) => {
                        usize::try_from(n).map_or(Dim::Unknown, Dim::Fixed)
                    }
                    Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::Named(name),
                    _ => Dim::Unknown,
                })
                .collect()
            });
            Type::Tensor(stored.unwrap_or(DataType::Undefined), dims)
        }
        Some(Value::SequenceType(_)) => Type::Other("a sequence"),
        Some(Value::MapType(_)) => Type::Other("a map"),
        Some(Value::OptionalType(_)) => Type::Other("an optional value"),
        Some(Value::SparseTensorType(_)) => Type::Other("a sparse tensor"),
        Some(Value::OpaqueType(_)) => Type::Other("an opaque value"),
        None => Type::Other("unknown"),
    };
    ValueInfo { name: proto.name.unwrap_or_default(), ty }
}
