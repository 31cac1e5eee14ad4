//! Writing a graph as an ONNX model.
//!
//! Opset 17 of `ai.onnx` only: every ONNX runtime knows it. Each primitive is written as its rule
//! says ([`Rule::emit`](crate::ops::Rule::emit)); an engine may take a graph apart in another way first
//! (`rewritten`) and write some values by itself (`Target`). This module knows no engine.

mod files;
mod proto;
mod writer;

use prost::Message;

pub use self::files::{ExternalData, Files, MOST_IN_ONE, emit_files};
pub(crate) use self::writer::ModelWriter;
use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Node, Op, Value};
use crate::onnx::proto::{ModelProto, OperatorSetIdProto};
use crate::ops::Primitive;
use crate::tensor::Tensor;

/// The version of `ai.onnx` that is written.
pub const OPSET: i64 = 17;

/// Tensors by name.
pub type Weights = Vec<(String, Tensor)>;

/// Tensors with at least this many elements are large.
pub(crate) const LARGE: usize = 1 << 16;

/// `graph` as an ONNX model. Its inputs and outputs keep their names, and so do parameters, unless an
/// input or output has the name already: an ONNX graph has each name once.
///
/// # Errors
/// When two inputs or outputs have one name, or an operation cannot be written.
pub fn emit(graph: &Graph) -> Result<ModelProto> {
    write(&standard(graph)?, &Standard, None)
}

/// `graph` as the bytes of an ONNX model.
///
/// # Errors
/// As [`emit`].
pub fn emit_bytes(graph: &Graph) -> Result<Vec<u8>> {
    let mut weights = Weights::new();
    let model = write(&standard(graph)?, &Standard, Some((&mut weights, LARGE)))?;
    files::joined(model, &weights, u64::MAX)
        .map_err(|_| Error::Shape("a model of no length".into()))
}

/// The bytes of an ONNX model and, by name, its large tensors, which are external data in the model.
/// `graph` has only operations that `target` or standard ONNX have operators for.
pub(crate) fn split(graph: &Graph, target: &dyn Target) -> Result<(Vec<u8>, Weights)> {
    let mut weights = Weights::new();
    let model = write(graph, target, Some((&mut weights, LARGE)))?;
    Ok((model.encode_to_vec(), weights))
}

/// How an engine writes values that it has operators of its own for.
pub(crate) trait Target {
    /// The domain of its operators, if it has any beside the standard ones.
    fn domain(&self) -> Option<&'static str> {
        None
    }

    /// Writes `value`, which is `op` applied to operands that are written, or leaves it to the rule.
    fn write(&self, w: &mut ModelWriter, value: Value, op: &Primitive) -> Result<Written>;
}

/// What a [`Target`] has done with a value.
pub(crate) enum Written {
    /// Nothing: the standard nodes of its rule are to be written.
    ByRule,
    /// It is the tensor of this name.
    As(String),
    /// It has its name already, or needs none, as nothing reads it.
    Done,
}

/// Standard operators only.
pub(crate) struct Standard;

impl Target for Standard {
    fn write(&self, _: &mut ModelWriter, _: Value, _: &Primitive) -> Result<Written> {
        Ok(Written::ByRule)
    }
}

/// `graph` with each operation replaced by what `rewrite` makes of it, given the operands in the new
/// graph; those that it makes nothing of are copied.
pub(crate) fn rewritten(
    graph: &Graph,
    rewrite: impl Fn(&mut Builder, &Primitive, &[Value], &Node) -> Result<Option<Value>>,
) -> Result<Graph> {
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| match &node.op {
        Op::Apply(op) => rewrite(b, op, inputs, node),
        _ => Ok(None),
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(b.finish())
}

/// `graph` with the operations that standard ONNX has no operators for taken apart into others.
pub(crate) fn standard(graph: &Graph) -> Result<Graph> {
    rewritten(graph, |b, op, inputs, _| op.rule().decompose(b, inputs))
}

/// Writes `graph`. With `weights`, tensors of at least the number of elements beside it are put there.
fn write(
    graph: &Graph,
    target: &dyn Target,
    weights: Option<(&mut Weights, usize)>,
) -> Result<ModelProto> {
    let live = graph.live();
    let mut w = ModelWriter::new(graph, &live, weights)?;
    for (value, node) in graph.nodes() {
        if !live[value.index()] || w.is_named(value) || w.begin(value, node) {
            continue;
        }
        let Op::Apply(op) = &node.op else { continue };
        let name = match target.write(&mut w, value, op)? {
            Written::ByRule => op.rule().emit(&mut w, &node.inputs, &node.fact)?,
            Written::As(name) => name,
            Written::Done => continue,
        };
        w.set_name(value, name);
    }
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    let own = target.domain().map(|domain| opset(domain, 1));
    Ok(ModelProto {
        ir_version: Some(8),
        producer_name: Some("gradalign".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        opset_import: [opset("", OPSET)].into_iter().chain(own).collect(),
        graph: Some(w.finish()?),
        ..Default::default()
    })
}
