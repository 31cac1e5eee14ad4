//! A model as files hold it: all in one, or with the tensors in another beside it.
//!
//! Tensors are not copied on the way but once, into the bytes of the model, or not at all, where they
//! are written to a file of their own.

use std::collections::HashMap;
use std::io::{self, Write};

use prost::{Message, encode_length_delimiter, length_delimiter_len};

use super::{Standard, Weights, standard, write};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use crate::tensor::Tensor;

/// A protobuf message has at most so many bytes. Nothing reads a longer one.
pub const MOST_IN_ONE: u64 = i32::MAX as u64;

/// Tensors with at least this many elements are kept apart from the rest of the model.
const APART: usize = 256;

/// Where tensors begin in a file beside the model: engines map such places into memory.
const ALIGNMENT: u64 = 4096;

/// A model, and what is beside it.
pub struct Files {
    /// The model file.
    pub model: Vec<u8>,
    /// The tensors, where they are not in the model file.
    pub data: Option<ExternalData>,
}

/// Tensors that a model file refers to.
pub struct ExternalData(Vec<(u64, Tensor)>);

impl ExternalData {
    /// Writes the file that holds them.
    ///
    /// # Errors
    /// When `file` fails.
    pub fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, tensor) in &self.0 {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), file)?;
            tensor.write_le_bytes(file)?;
            at = offset + bytes(tensor);
        }
        Ok(())
    }
}

/// `graph` as a standard ONNX model in one file of at most `most` bytes, or else with its tensors in a
/// file beside it that will be called `beside`.
///
/// # Errors
/// When an operation cannot be written, or the model has more than `most` bytes even without tensors.
pub fn emit_files(graph: &Graph, beside: &str, most: u64) -> Result<Files> {
    let mut weights = Weights::new();
    let model = write(&standard(graph)?, &Standard, Some((&mut weights, APART)))?;
    match joined(model, &weights, most) {
        Ok(model) => Ok(Files { model, data: None }),
        Err(model) => parted(*model, weights, beside, most),
    }
}

/// `model` with `weights` in it, unless it is longer than `most` then.
pub(super) fn joined(
    mut model: ModelProto,
    weights: &Weights,
    most: u64,
) -> Result<Vec<u8>, Box<ModelProto>> {
    let graph = model.graph.take();
    let rest = model.encoded_len();
    let mut graph = graph.unwrap_or_default();
    let stored = std::mem::take(&mut graph.initializer);
    let tensors: HashMap<&str, &Tensor> =
        weights.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let initializers: Vec<(TensorProto, Option<&Tensor>)> = stored
        .iter()
        .map(|proto| match tensors.get(proto.name()) {
            Some(&tensor) => {
                let (name, dims) = (proto.name.clone(), proto.dims.clone());
                let data_type = proto.data_type;
                (TensorProto { name, dims, data_type, ..Default::default() }, Some(tensor))
            }
            None => (proto.clone(), None),
        })
        .collect();
    let lengths = initializers.iter().map(|(proto, tensor)| {
        proto.encoded_len() + tensor.map_or(0, |t| field_len(bytes(t) as usize))
    });
    let lengths: Vec<usize> = lengths.collect();
    let length = graph.encoded_len() + lengths.iter().map(|&n| field_len(n)).sum::<usize>();
    let total = rest + field_len(length);
    if total as u64 > most {
        graph.initializer = stored;
        return Err(Box::new(ModelProto { graph: Some(graph), ..model }));
    }
    let mut out = Vec::with_capacity(total);
    let encoded = model.encode(&mut out).and_then(|()| {
        begin(MODEL_GRAPH, length, &mut out)?;
        graph.encode(&mut out)?;
        for ((proto, tensor), &length) in initializers.iter().zip(&lengths) {
            begin(GRAPH_INITIALIZER, length, &mut out)?;
            proto.encode(&mut out)?;
            if let Some(tensor) = tensor {
                begin(TENSOR_RAW_DATA, bytes(tensor) as usize, &mut out)?;
                // A vector takes all that is written to it.
                let _ = tensor.write_le_bytes(&mut out);
            }
        }
        Ok(())
    });
    // A vector grows as it has to.
    debug_assert!(encoded.is_ok() && out.len() == total);
    Ok(out)
}

/// `model` with `weights` as external data.
fn parted(mut model: ModelProto, weights: Weights, beside: &str, most: u64) -> Result<Files> {
    let (mut places, mut tensors, mut end) = (HashMap::new(), Vec::new(), 0u64);
    for (name, tensor) in weights {
        let offset = end.next_multiple_of(ALIGNMENT);
        end = offset + bytes(&tensor);
        places.insert(name, (offset, bytes(&tensor)));
        tensors.push((offset, tensor));
    }
    for proto in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let Some((offset, length)) = places.get(proto.name()) else { continue };
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value),
        };
        proto.external_data = vec![
            entry("location", beside.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
    }
    let length = model.encoded_len() as u64;
    if length > most {
        return Err(Error::UnsupportedModel(format!(
            "the graph takes {} MiB without its tensors, and no program reads an ONNX file of more \
             than {} MiB: choose a smaller `batch`, or another `tensor`",
            length >> 20,
            most >> 20
        )));
    }
    Ok(Files { model: model.encode_to_vec(), data: Some(ExternalData(tensors)) })
}

/// Numbers of fields in the protobuf messages of ONNX.
const MODEL_GRAPH: u8 = 7;
const GRAPH_INITIALIZER: u8 = 5;
const TENSOR_RAW_DATA: u8 = 9;

/// The bytes of a field of `length` bytes with its number and length before it.
fn field_len(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

/// Begins a field of `length` bytes.
fn begin(field: u8, length: usize, out: &mut Vec<u8>) -> Result<(), prost::EncodeError> {
    // Two stands for a field that says its own length.
    out.push(field << 3 | 2);
    encode_length_delimiter(length, out)
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.len() * tensor.dtype().size()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::emit;
    use crate::graph::{Builder, Fact, eval};
    use crate::import::{Given, lower};
    use crate::tensor::DType;

    /// A layer with parameters large and small, and a tensor of each dtype that can be stored.
    fn graph() -> Graph {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 20]));
        let values = |n: usize| (0..n).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let w = b.parameter("w", Tensor::f32(&[20, 30], values(600)).unwrap());
        let bias = b.parameter("bias", Tensor::f32(&[30], values(30)).unwrap());
        let rows = b.constant(Tensor::i64(&[300], (0..300).map(|i| i % 30).collect()).unwrap());
        let y = b.matmul(x, w).unwrap();
        let y = b.add(y, bias).unwrap();
        let y = b.reshape(y, &[30]).unwrap();
        let y = b.gather(y, rows, 0).unwrap();
        b.output("y", y);
        b.finish()
    }

    #[test]
    fn one_file_holds_what_the_message_does() {
        let graph = graph();
        let files = emit_files(&graph, "m.onnx.data", MOST_IN_ONE).unwrap();
        assert!(files.data.is_none());
        let decoded = ModelProto::decode(files.model.as_slice()).unwrap();
        assert_eq!(decoded, emit(&graph).unwrap());
        // No byte more than the limit.
        let length = files.model.len() as u64;
        assert!(emit_files(&graph, "m.onnx.data", length).unwrap().data.is_none());
        assert!(emit_files(&graph, "m.onnx.data", length - 1).unwrap().data.is_some());
    }

    #[test]
    fn tensors_beside_the_model_are_found_again() {
        let graph = graph();
        let files = emit_files(&graph, "m.onnx.data", 2000).unwrap();
        assert!(files.model.len() <= 2000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, &files.model).unwrap();
        let mut file = std::fs::File::create(folder.path().join("m.onnx.data")).unwrap();
        files.data.unwrap().write_to(&mut file).unwrap();
        let model = crate::onnx::load(&path).unwrap();
        let given = Given::Open(Fact::new(DType::F32, [1, 20]));
        let read = lower(&model, &HashMap::from([("x".to_owned(), given)])).unwrap();
        let x = Tensor::f32(&[1, 20], (0..20).map(|i| i as f32 / 7.0).collect()).unwrap();
        let at = &[x];
        let (want, got) = (eval(&graph, at).unwrap(), eval(&read, at).unwrap());
        assert_eq!(want, got);
    }

    #[test]
    fn a_graph_that_is_too_long_without_tensors_is_refused() {
        let error = emit_files(&graph(), "m.onnx.data", 100).map(drop).unwrap_err();
        assert!(error.to_string().contains("`batch`"), "{error}");
    }
}
