//! Writing a graph as a standard ONNX model.
//!
//! Opset 17 of `ai.onnx` only: both engines know it, and so does every other ONNX runtime. An
//! engine that has the kernels of this project as operators may be given them beside it.

mod files;
mod fuse;

use std::collections::{HashMap, HashSet};

use prost::Message;

pub use self::files::{ExternalData, Files, MOST_IN_ONE, emit_files};
use self::fuse::Fate;
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Node, Value};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::{DataLocation, DataType},
    tensor_shape_proto, type_proto,
};
use crate::ops::{Op, Primitive};
use crate::tensor::{DType, Tensor};

/// The version of `ai.onnx` that is written.
pub const OPSET: i64 = 17;

/// The domain of the operators that [`Dialect::Fused`] adds.
pub(crate) const KERNELS: &str = "gradalign";

/// Which operators a graph is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Standard ones, which every runtime knows.
    #[default]
    Standard,
    /// Standard ones, so that ONNX Runtime on a CUDA device finds what all others find.
    Cuda,
    /// Standard ones, but for those that tract computes wrongly far from 0 or close to it.
    Tract,
    /// Standard ones and this project's kernels for the CPU.
    Fused,
}

/// An attribute of an ONNX node.
#[derive(Clone, Debug)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A string.
    Str(&'static str),
}

impl From<&[usize]> for Attr {
    fn from(values: &[usize]) -> Self {
        Attr::Ints(values.iter().map(|&v| v as i64).collect())
    }
}

impl From<&'static str> for Attr {
    fn from(value: &'static str) -> Self {
        Attr::Str(value)
    }
}

/// Collects the ONNX nodes that a graph is written as.
pub struct Emitter<'a> {
    graph: &'a Graph,
    dialect: Dialect,
    /// The values that are computed as packed signs, since nothing else of them is used.
    packed: Vec<bool>,
    /// The value at hand.
    current: usize,
    names: Vec<Option<String>>,
    proto: GraphProto,
    /// Where tensors of at least so many elements are put, if not into the model.
    weights: Option<(&'a mut Weights, usize)>,
    constants: HashMap<(DType, Vec<usize>, Vec<u8>), String>,
    scope: String,
    counter: usize,
    /// The names of inputs, outputs and parameters, which nothing else may have.
    reserved: HashSet<String>,
}

/// Tensors by name.
pub type Weights = Vec<(String, Tensor)>;

/// Tensors with at least this many elements are large.
const LARGE: usize = 1 << 16;

/// `graph` as an ONNX model. Its inputs and outputs keep their names, and so do parameters, unless an
/// input or output has the name already: an ONNX graph has each name once.
///
/// # Errors
/// When two inputs or outputs have one name, or an operation cannot be written.
pub fn emit(graph: &Graph) -> Result<ModelProto> {
    write(graph, Dialect::Standard, None)
}

/// Writes `graph`. With `weights`, tensors of at least the number of elements beside it are put there.
fn write(
    graph: &Graph,
    dialect: Dialect,
    weights: Option<(&mut Weights, usize)>,
) -> Result<ModelProto> {
    let graph = &decomposed(graph, dialect)?;
    let live = graph.live();
    let mut e = Emitter {
        graph,
        dialect,
        packed: match dialect {
            Dialect::Standard | Dialect::Cuda | Dialect::Tract => vec![false; graph.nodes().len()],
            Dialect::Fused => packed(graph, &live),
        },
        current: 0,
        names: vec![None; graph.nodes().len()],
        proto: GraphProto { name: Some("gradalign".into()), ..Default::default() },
        weights,
        constants: HashMap::new(),
        scope: String::new(),
        counter: 0,
        reserved: HashSet::new(),
    };
    let parameters = e.reserve(&live)?;
    for &input in graph.inputs() {
        let name = graph.name(input).unwrap_or_default().to_string();
        e.proto.input.push(value_info(&name, graph.fact(input)));
        e.names[input.index()] = Some(name);
    }
    let fused = match dialect {
        Dialect::Standard | Dialect::Cuda | Dialect::Tract => None,
        Dialect::Fused => Some(fuse::Plan::new(graph, &live)),
    };
    for (value, node) in graph.nodes() {
        if !live[value.index()] || e.names[value.index()].is_some() {
            continue;
        }
        e.scope = node.scope.to_string();
        e.current = value.index();
        let name = match &node.op {
            Op::Input(_) => continue,
            Op::Parameter(parameter) => {
                let own = parameter.name.to_string();
                let name = parameters.get(&value).cloned().unwrap_or(own);
                e.initializer(&name, &parameter.tensor);
                name
            }
            Op::Constant(tensor) => e.tensor(tensor),
            Op::Apply(Primitive::Reshape(_)) if e.packed[e.current] => e.name(node.inputs[0]),
            Op::Apply(op) => match (&fused, op) {
                (Some(plan), _) if plan.fate(value) == Fate::Inside => continue,
                (Some(plan), _) if plan.fate(value) == Fate::Written => {
                    e.emit_map(value, plan);
                    continue;
                }
                (Some(plan), Primitive::Reshape(op))
                    if plan.is_shaped(node.inputs[0], &op.shape) =>
                {
                    e.name(node.inputs[0])
                }
                _ => op.rule().emit(&mut e, &node.inputs, &node.fact)?,
            },
        };
        e.names[value.index()] = Some(name);
    }
    let mut proto = e.finish()?;
    proto.node.shrink_to_fit();
    Ok(ModelProto {
        ir_version: Some(8),
        producer_name: Some("gradalign".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: match dialect {
            Dialect::Standard | Dialect::Cuda | Dialect::Tract => vec![opset("", OPSET)],
            Dialect::Fused => vec![opset("", OPSET), opset(KERNELS, 1)],
        },
        graph: Some(proto),
        ..Default::default()
    })
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

/// `graph` with the operations that `dialect` has no operators for taken apart into others, and
/// without those that parameters alone go through.
fn decomposed(graph: &Graph, dialect: Dialect) -> Result<Graph> {
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| match &node.op {
        Op::Apply(op) => match known(b.graph(), op, inputs, &node.fact, dialect)? {
            Some(tensor) => Ok(Some(b.constant(tensor))),
            None => op.rule().decompose(b, inputs, dialect),
        },
        _ => Ok(None),
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(b.finish())
}

/// What `op` makes of parameters, where that is cheap to compute: once here, faster than by an engine
/// that has to look for such operations. A graph for others keeps its parameters as they are.
fn known(
    graph: &Graph,
    op: &Primitive,
    inputs: &[Value],
    fact: &Fact,
    dialect: Dialect,
) -> Result<Option<Tensor>> {
    let cheap = match op {
        Primitive::Reshape(_) | Primitive::Transpose(_) => true,
        Primitive::Unary(_) | Primitive::Binary(_) | Primitive::Detach(_) => fact.len() < LARGE,
        _ => false,
    };
    if dialect == Dialect::Standard || !cheap || inputs.is_empty() {
        return Ok(None);
    }
    let operands: Option<Vec<&Tensor>> = inputs.iter().map(|&v| tensor_of(graph, v)).collect();
    operands.map(|operands| op.rule().eval(&operands, fact)).transpose()
}

/// The tensor that a value is known to be: a constant or a parameter.
fn tensor_of(graph: &Graph, value: Value) -> Option<&Tensor> {
    match &graph.node(value).op {
        Op::Constant(tensor) => Some(tensor),
        Op::Parameter(parameter) => Some(&parameter.tensor),
        _ => None,
    }
}

/// The bytes that a run keeps for each value of `graph`; `None` for a value that is a view of another
/// or is computed where it is used. Parameters and constants are not counted.
pub(crate) fn stored_bytes(graph: &Graph, dialect: Dialect) -> Vec<Option<u64>> {
    let live = graph.live();
    let (plan, packed) = match dialect {
        Dialect::Standard | Dialect::Cuda | Dialect::Tract => (None, vec![false; live.len()]),
        Dialect::Fused => (Some(fuse::Plan::new(graph, &live)), packed(graph, &live)),
    };
    let bytes = |(value, node): (Value, &Node)| match &node.op {
        Op::Parameter(_) | Op::Constant(_) => Some(0),
        // Views in all engines.
        Op::Apply(Primitive::Reshape(_) | Primitive::Detach(_)) => None,
        _ if plan.as_ref().is_some_and(|plan| plan.fate(value) == Fate::Inside) => None,
        // Two bits for each element.
        _ if packed[value.index()] => Some(node.fact.len().div_ceil(4) as u64),
        _ => Some((node.fact.len() * node.fact.dtype.size()) as u64),
    };
    graph.nodes().map(bytes).collect()
}

/// For each value, whether it is the gradient of a convolution or of a matrix, maybe reshaped, of
/// which only the signs are used.
fn packed(graph: &Graph, live: &[bool]) -> Vec<bool> {
    let mut only_signs = live.to_vec();
    for output in graph.outputs() {
        only_signs[output.value.index()] = false;
    }
    for (value, node) in graph.nodes().rev().filter(|(v, _)| live[v.index()]) {
        let passes = match &node.op {
            Op::Apply(Primitive::SignGram(_)) => true,
            Op::Apply(Primitive::Reshape(_)) => {
                only_signs[value.index()]
                    && graph.shape(node.inputs[0]).first() == node.fact.shape.first()
            }
            _ => false,
        };
        for input in &node.inputs {
            only_signs[input.index()] &= passes;
        }
    }
    let mut packed = vec![false; only_signs.len()];
    for (value, node) in graph.nodes() {
        packed[value.index()] = only_signs[value.index()]
            && match &node.op {
                Op::Apply(Primitive::ConvWeightGrad(op)) => {
                    op.has_kernel(graph.fact(node.inputs[0]))
                }
                Op::Apply(Primitive::MatMul(op)) => {
                    op.has_signs(graph.fact(node.inputs[0]), graph.fact(node.inputs[1]))
                }
                Op::Apply(Primitive::Reshape(_)) => packed[node.inputs[0].index()],
                _ => false,
            };
    }
    packed
}

/// `graph` as the bytes of an ONNX model.
pub fn emit_bytes(graph: &Graph) -> Result<Vec<u8>> {
    let mut weights = Weights::new();
    let model = write(graph, Dialect::Standard, Some((&mut weights, LARGE)))?;
    files::joined(model, &weights, u64::MAX)
        .map_err(|_| Error::Shape("a model of no length".into()))
}

/// `graph` as the bytes of an ONNX model and, by name, its large tensors, which are external data in
/// the model: what [`Engine::load_with`](crate::engine::Engine::load_with) takes of an
/// engine that knows `dialect`.
pub fn emit_split(graph: &Graph, dialect: Dialect) -> Result<(Vec<u8>, Weights)> {
    let mut weights = Vec::new();
    let model = write(graph, dialect, Some((&mut weights, LARGE)))?;
    Ok((model.encode_to_vec(), weights))
}

impl Emitter<'_> {
    /// The name of an earlier value.
    pub fn name(&self, value: Value) -> String {
        self.names[value.index()].clone().unwrap_or_default()
    }

    /// Dtype and shape of a value.
    pub fn fact(&self, value: Value) -> &Fact {
        self.graph.fact(value)
    }

    /// The tensor that a value is known to be: a constant or a parameter.
    pub fn constant(&self, value: Value) -> Option<&Tensor> {
        tensor_of(self.graph, value)
    }

    /// Whether the value at hand is wanted as packed signs.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed[self.current]
    }

    /// The operators that may be used.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether this project's own kernels may be used.
    pub(crate) fn is_fused(&self) -> bool {
        self.dialect == Dialect::Fused
    }

    /// Adds one of this project's kernels, with one output, and returns that output's name.
    pub(crate) fn kernel(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        self.kernels(op, inputs, 1, attrs).swap_remove(0)
    }

    /// Adds one of this project's kernels and returns the names of its outputs.
    fn kernels(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attrs: &[(&str, Attr)],
    ) -> Vec<String> {
        let names = self.nodes(op, inputs, outputs, attrs);
        if let Some(node) = self.proto.node.last_mut() {
            node.domain = Some(KERNELS.into());
        }
        names
    }

    /// Keeps the names of inputs, outputs and live parameters from being given to anything else.
    /// Returns other names for the parameters that share theirs.
    fn reserve(&mut self, live: &[bool]) -> Result<HashMap<Value, String>> {
        let graph = self.graph;
        let inputs = graph.inputs().iter().filter_map(|&v| graph.name(v));
        for name in inputs.chain(graph.outputs().iter().map(|o| o.name.as_str())) {
            if !self.reserved.insert(name.to_owned()) {
                return Err(Error::InvalidModel(format!(
                    "two inputs or outputs are called '{name}'"
                )));
            }
        }
        let mut renamed = HashMap::new();
        for (value, parameter) in graph.parameters().filter(|(v, _)| live[v.index()]) {
            let own = parameter.name.to_string();
            let mut name = own.clone();
            while !self.reserved.insert(name.clone()) {
                name += ".parameter";
            }
            if name != own {
                renamed.insert(value, name);
            }
        }
        Ok(renamed)
    }

    fn fresh(&mut self, op: &str) -> String {
        loop {
            self.counter += 1;
            let name = match self.scope.is_empty() {
                true => format!("{op}_{}", self.counter),
                false => format!("{}/{op}_{}", self.scope, self.counter),
            };
            if !self.reserved.contains(&name) {
                return name;
            }
        }
    }

    /// Adds a node with one output and returns that output's name.
    pub fn node(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        self.nodes(op, inputs, 1, attrs).swap_remove(0)
    }

    /// Adds a node with `outputs` outputs and returns their names.
    pub fn nodes(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attrs: &[(&str, Attr)],
    ) -> Vec<String> {
        let name = self.fresh(op);
        let outputs: Vec<String> = match outputs {
            1 => vec![name.clone()],
            n => (0..n).map(|i| format!("{name}:{i}")).collect(),
        };
        self.proto.node.push(NodeProto {
            name: Some(name),
            op_type: Some(op.into()),
            input: inputs.iter().map(|&s| s.to_string()).collect(),
            output: outputs.clone(),
            attribute: attrs.iter().map(|(name, value)| attribute(name, value)).collect(),
            ..Default::default()
        });
        outputs
    }

    /// The name of an initializer that holds `tensor`; equal small ones are shared.
    pub fn tensor(&mut self, tensor: &Tensor) -> String {
        let key = (tensor.len() <= 64)
            .then(|| (tensor.dtype(), tensor.shape().to_vec(), tensor.to_le_bytes()));
        if let Some(name) = key.as_ref().and_then(|key| self.constants.get(key)) {
            return name.clone();
        }
        let scope = std::mem::take(&mut self.scope);
        let name = self.fresh("constant");
        self.scope = scope;
        self.initializer(&name, tensor);
        if let Some(key) = key {
            self.constants.insert(key, name.clone());
        }
        name
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor) {
        let initializer = match &mut self.weights {
            Some((weights, large)) if tensor.len() >= *large => {
                weights.push((name.to_owned(), tensor.clone()));
                external_tensor(name, tensor)
            }
            _ => tensor_proto(name, tensor),
        };
        self.proto.initializer.push(initializer);
    }

    /// The name of a one-dimensional int64 initializer.
    pub fn i64s(&mut self, values: &[i64]) -> String {
        self.tensor(&Tensor::index(values.iter().copied()))
    }

    /// The name of a one-dimensional int64 initializer of sizes or axes.
    pub fn i64s_of(&mut self, values: &[usize]) -> String {
        self.tensor(&Tensor::index(values.iter().map(|&v| v as i64)))
    }

    /// The name of a scalar initializer.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> String {
        self.tensor(&Tensor::full(dtype, &[], value))
    }

    /// Adds a reshape of the tensor called `x`.
    pub fn reshape(&mut self, x: &str, shape: &[usize]) -> String {
        let shape = self.i64s_of(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Adds zeros of dtype and shape `fact`.
    pub fn zeros(&mut self, fact: &Fact) -> String {
        let zero = self.scalar(fact.dtype, 0.0);
        let shape = self.i64s_of(&fact.shape);
        self.node("Expand", &[&zero, &shape], &[])
    }

    /// Names the outputs as the graph does.
    fn finish(mut self) -> Result<GraphProto> {
        let mut renamed: HashMap<String, String> = HashMap::new();
        let made: HashSet<String> =
            self.proto.node.iter().flat_map(|n| n.output.iter().cloned()).collect();
        self.scope.clear();
        for output in self.graph.outputs() {
            let source = self.name(output.value);
            // An input, an initializer or a tensor that is an output already is copied.
            if !made.contains(&source) || renamed.contains_key(&source) {
                let copied = renamed.get(&source).cloned().unwrap_or(source);
                let copy = self.node("Identity", &[&copied], &[]);
                if let Some(node) = self.proto.node.last_mut() {
                    node.output = vec![output.name.clone()];
                    debug_assert_ne!(copy, output.name);
                }
            } else {
                renamed.insert(source, output.name.clone());
            }
            self.proto.output.push(value_info(&output.name, self.graph.fact(output.value)));
        }
        for node in &mut self.proto.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if let Some(new) = renamed.get(name) {
                    new.clone_into(name);
                }
            }
        }
        self.drop_unread();
        Ok(self.proto)
    }

    /// Takes out the tensors that no node reads, since another form of them is: an engine would, and
    /// then miss those that are handed over beside the model.
    fn drop_unread(&mut self) {
        let read: HashSet<&str> =
            self.proto.node.iter().flat_map(|n| n.input.iter().map(String::as_str)).collect();
        self.proto.initializer.retain(|i| read.contains(i.name()));
        if let Some((weights, _)) = &mut self.weights {
            weights.retain(|(name, _)| read.contains(name.as_str()));
        }
    }
}

fn attribute(name: &str, value: &Attr) -> AttributeProto {
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
    };
    proto.set_type(kind);
    proto
}

/// The ONNX element type of a dtype.
pub(crate) fn onnx_dtype(dtype: DType) -> i32 {
    let kind = match dtype {
        DType::F32 => DataType::Float,
        DType::F64 => DataType::Double,
        DType::I32 => DataType::Int32,
        DType::I64 => DataType::Int64,
        DType::Bool => DataType::Bool,
    };
    kind as i32
}

fn tensor_proto(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(onnx_dtype(tensor.dtype())),
        raw_data: Some(tensor.to_le_bytes().into()),
        ..Default::default()
    }
}

/// A tensor whose values are found under its own name.
fn external_tensor(name: &str, tensor: &Tensor) -> TensorProto {
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

fn value_info(name: &str, fact: &Fact) -> ValueInfoProto {
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
