//! Reads model files, with clear errors for files that cannot be used.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use prost::Message;
use prost::bytes::{Buf, Bytes};

use super::external::{Beside, External, Sidecars};
use super::model::{Literal, Model, Opsets};
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{GraphProto, ModelProto, TensorProto};
use super::{decode, names, tensor};
use crate::error::{Error, Result};
use crate::file;

/// The oldest supported version of the `ai.onnx` operator set. Before 7, operators do not broadcast.
const OLDEST_OPSET: i64 = 7;

/// The newest version of the `ai.onnx` operator set against which the import rules were checked.
pub const NEWEST_KNOWN_OPSET: i64 = 28;

/// The newest version of the `ai.onnx` operator set that is accepted, with a warning.
const NEWEST_OPSET: i64 = 30;

/// Reads the ONNX model at `path`, with its external data.
///
/// # Errors
/// When the file is missing, is not ONNX, is damaged, or has an unsupported version.
pub fn load(path: impl AsRef<Path>) -> Result<Model> {
    load_within(path, None)
}

/// Like [`load`], with at most `room` bytes of memory for the model.
///
/// # Errors
/// As [`load`], and when the file and its external data do not fit. The sizes are checked before that
/// memory is used.
pub fn load_within(path: impl AsRef<Path>, room: Option<u64>) -> Result<Model> {
    let path = path.as_ref();
    load_as(path, &path.display().to_string(), room)
}

/// As [`load_within`]; `source` is what messages call the model.
pub(crate) fn load_as(path: &Path, source: &str, room: Option<u64>) -> Result<Model> {
    let (proto, length) = decode_within(path, source, room)?;
    finish(proto, source, Beside::File(path), length, room)
}

/// The messages of the model at `path`.
#[cfg(feature = "data")]
pub(super) fn decode_file(path: &Path) -> Result<ModelProto> {
    decode_within(path, &path.display().to_string(), None).map(|(proto, _)| proto)
}

/// The messages of a model in memory.
pub(super) fn decode_bytes(bytes: &[u8], source: &str) -> Result<ModelProto> {
    check_head(&bytes[..bytes.len().min(64)], source)?;
    checked(ModelProto::decode(bytes), source)
}

/// The messages of the model at `path`, and the length of the file, which is within `room`.
fn decode_within(path: &Path, source: &str, room: Option<u64>) -> Result<(ModelProto, u64)> {
    let (mut file, length) = file::open(path)?;
    check_room(length, room, source)?;
    let mut head = Vec::new();
    file.by_ref().take(64).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    check_head(&head, source)?;
    let mut buffer = Stream::new(head, file, length);
    let decoded = ModelProto::decode(&mut buffer);
    if let Some(error) = buffer.error {
        return Err(Error::io(path, error));
    }
    Ok((checked(decoded, source)?, length))
}

/// Errs in words for what could not be decoded.
fn checked(decoded: Result<ModelProto, prost::DecodeError>, source: &str) -> Result<ModelProto> {
    decoded.map_err(|e| {
        Error::InvalidModel(format!(
            "{source}: the file is truncated, damaged, or not ONNX ({e}); copy or export it again"
        ))
    })
}

/// Errs if `bytes` exceed `room`.
fn check_room(bytes: u64, room: Option<u64>, source: &str) -> Result<()> {
    match room {
        Some(room) if bytes > room => Err(Error::Memory(format!(
            "{source}: the model takes {} MiB to be read, of which {} are available: raise `memory`",
            bytes.div_ceil(1 << 20),
            room >> 20
        ))),
        _ => Ok(()),
    }
}

/// The memory that decoded tensors take in addition to the bytes of the file: all of an external tensor,
/// and for others the growth when they are widened to a dtype of the IR.
fn tensor_bytes(graph: &GraphProto, beside: Beside) -> u64 {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let constants = attributes.filter_map(|attribute| attribute.t.as_ref());
    let tensors = graph.initializer.iter().chain(constants);
    tensors.fold(0, |sum: u64, tensor| {
        let stored = DataType::try_from(tensor.data_type.unwrap_or_default());
        let Some((stored, dtype)) = stored.ok().and_then(|s| Some((s, tensor::dtype_of(s)?)))
        else {
            return sum;
        };
        let (width, size) = (tensor::width(stored), dtype.size() as u64);
        let bytes = match &tensor.raw_data {
            _ if tensor.data_location == Some(DataLocation::External as i32) => {
                let sizes = tensor.dims.iter().map(|&d| u64::try_from(d).unwrap_or(0));
                let len = sizes.fold(1u64, u64::saturating_mul);
                // A tensor larger than its file is an error that is reported later.
                let file = beside.length(tensor).unwrap_or(0);
                match len.saturating_mul(width) <= file {
                    true => len.saturating_mul(size),
                    false => 0,
                }
            }
            Some(raw) => (raw.len() as u64 / width).saturating_mul(size.saturating_sub(width)),
            None => 0,
        };
        sum.saturating_add(bytes)
    })
}

/// Reads an ONNX model from memory. Messages call it `source`. External data is refused.
///
/// # Errors
/// As [`load`].
pub fn read(bytes: &[u8], source: &str) -> Result<Model> {
    finish(decode_bytes(bytes, source)?, source, Beside::Nothing, 0, None)
}

/// As [`read`], with the external data in `sidecars`, and at most `room` bytes of memory for the model
/// beside what is given.
///
/// # Errors
/// As [`load_within`].
pub fn read_within(
    bytes: &[u8],
    sidecars: &Sidecars,
    source: &str,
    room: Option<u64>,
) -> Result<Model> {
    let length = bytes.len() as u64;
    check_room(length, room, source)?;
    let proto = decode_bytes(bytes, source)?;
    finish(proto, source, Beside::Memory(sidecars), length, room)
}

/// Reads a tensor from the bytes of a `TensorProto`. Messages call it `source`. External data is refused.
///
/// # Errors
/// When the bytes are not a tensor, or its data does not match its shape.
pub fn read_tensor(bytes: &[u8], source: &str) -> Result<Literal> {
    let proto = TensorProto::decode(bytes).map_err(|e| {
        Error::InvalidModel(format!("{source}: the file is truncated, damaged, or no tensor ({e})"))
    })?;
    tensor::decode(proto, &mut External::new(source, Beside::Nothing), source)
}

/// The model that was read of `length` bytes, within `room`.
fn finish(
    proto: ModelProto,
    source: &str,
    beside: Beside,
    length: u64,
    room: Option<u64>,
) -> Result<Model> {
    check_ir_version(&proto, source)?;
    let tensors = proto.graph.as_ref().filter(|_| room.is_some());
    let tensors = tensors.map_or(0, |graph| tensor_bytes(graph, beside));
    check_room(length.saturating_add(tensors), room, source)?;
    let mut model = decode::model(proto, source, External::new(source, beside))?;
    names::check(&model)?;
    let sets = std::iter::once(&model.opsets).chain(model.functions.values().map(|f| &f.opsets));
    let mut newest = 0;
    for set in sets {
        check_opset(set, source)?;
        newest = newest.max(set.get("").copied().unwrap_or(0));
    }
    if newest > NEWEST_KNOWN_OPSET {
        model.warnings.push(format!(
            "opset {newest} is newer than {NEWEST_KNOWN_OPSET}, the newest that was checked"
        ));
    }
    Ok(model)
}

/// Recognises files of other formats by their first bytes.
fn check_head(head: &[u8], source: &str) -> Result<()> {
    let what = match head {
        [] => "it is empty",
        [b'P', b'K', 3, 4, ..] => {
            "it is a ZIP archive, such as a PyTorch checkpoint or a Keras model; export it to ONNX"
        }
        [0x80, 2..=5, ..] => "it is a Python pickle; export the model to ONNX",
        [0x89, b'H', b'D', b'F', ..] => "it is an HDF5 file; export the model to ONNX",
        [0x1f, 0x8b, ..] => "it is compressed with gzip; unpack it",
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => "it is a TensorFlow Lite model",
        [_, _, _, _, b'O', b'R', b'T', b'M', ..] => {
            "it is in ONNX Runtime's own format; use the .onnx file it was made from"
        }
        _ if head.starts_with(b"version https://git-lfs") => {
            "it is a Git LFS pointer; fetch the file with 'git lfs pull'"
        }
        [b'<' | b'{' | b'[' | b'#', ..] if head.is_ascii() => "it is a text file",
        _ => return Ok(()),
    };
    Err(Error::InvalidModel(format!("{source}: not an ONNX model: {what}")))
}

fn check_ir_version(proto: &ModelProto, source: &str) -> Result<()> {
    match proto.ir_version {
        Some(3..) => Ok(()),
        Some(version) => Err(Error::InvalidModel(format!(
            "{source}: IR version {version} is older than 3, the oldest supported; convert the \
             model with a newer onnx package"
        ))),
        None => Err(Error::InvalidModel(format!("{source}: not an ONNX model: no IR version"))),
    }
}

fn check_opset(opsets: &Opsets, source: &str) -> Result<()> {
    match opsets.get("") {
        None if opsets.is_empty() => Err(Error::InvalidModel(format!(
            "{source}: the model does not say which operator set it uses; it may be truncated"
        ))),
        Some(&version) if version < OLDEST_OPSET => Err(Error::InvalidModel(format!(
            "{source}: opset {version} is older than {OLDEST_OPSET}, the oldest supported; convert \
             the model with onnx.version_converter"
        ))),
        Some(&version) if version > NEWEST_OPSET => Err(Error::InvalidModel(format!(
            "{source}: opset {version} is newer than {NEWEST_OPSET}, the newest supported; export \
             the model again with opset {NEWEST_KNOWN_OPSET}"
        ))),
        _ => Ok(()),
    }
}

/// A file as a buffer for prost. Bytes fields are read directly into their own memory, so the whole file
/// is never in memory beside the tensors.
struct Stream {
    chunk: Vec<u8>,
    at: usize,
    file: File,
    /// The number of bytes not yet consumed, including those of the chunk.
    remaining: u64,
    /// The first read error. All later bytes read as zeros, which end the decoding with an error.
    error: Option<io::Error>,
}

impl Stream {
    const CHUNK: usize = 1 << 18;

    fn new(head: Vec<u8>, file: File, length: u64) -> Self {
        Stream { chunk: head, at: 0, file, remaining: length, error: None }
    }

    fn buffered(&self) -> usize {
        self.chunk.len() - self.at
    }

    fn fill(&mut self, into: &mut [u8]) {
        if self.error.is_none()
            && let Err(error) = self.file.read_exact(into)
        {
            self.error = Some(error);
            into.fill(0);
        }
    }

    fn next_chunk(&mut self) {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        chunk.resize(self.remaining.min(Self::CHUNK as u64) as usize, 0);
        self.fill(&mut chunk);
        (self.chunk, self.at) = (chunk, 0);
    }
}

impl Buf for Stream {
    fn remaining(&self) -> usize {
        usize::try_from(self.remaining).unwrap_or(usize::MAX)
    }

    fn chunk(&self) -> &[u8] {
        &self.chunk[self.at..]
    }

    fn advance(&mut self, mut count: usize) {
        count = count.min(self.remaining());
        while count > 0 {
            let step = count.min(self.buffered());
            self.at += step;
            self.remaining -= step as u64;
            count -= step;
            if self.buffered() == 0 {
                self.next_chunk();
            }
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let count = count.min(self.remaining());
        let mut bytes = vec![0; count];
        let ready = count.min(self.buffered());
        bytes[..ready].copy_from_slice(&self.chunk[self.at..self.at + ready]);
        self.advance(ready);
        if ready < count {
            // First the chunk that `advance` just loaded, then the rest directly from the file.
            let more = (count - ready).min(self.buffered());
            bytes[ready..ready + more].copy_from_slice(&self.chunk[self.at..self.at + more]);
            if ready + more < count {
                self.fill(&mut bytes[ready + more..]);
                self.remaining -= (count - ready) as u64;
                self.next_chunk();
            } else {
                self.advance(more);
            }
        }
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::emit_files;
    use crate::graph::{Builder, Fact};
    use crate::tensor::{DType, Tensor};

    /// A model of a megabyte, with its tensors in the file or beside it.
    fn stored(folder: &Path, most: u64) -> std::path::PathBuf {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 512]));
        let w = b.parameter("w", Tensor::full(DType::F32, &[512, 512], 0.5));
        let y = b.matmul(x, w).unwrap();
        b.output("y", y);
        let files = emit_files(&b.finish(), "m.onnx.data", most).unwrap();
        let path = folder.join("m.onnx");
        std::fs::write(&path, files.model).unwrap();
        if let Some(data) = files.data {
            data.write_to(&mut File::create(folder.join("m.onnx.data")).unwrap()).unwrap();
        }
        path
    }

    #[test]
    fn a_model_larger_than_memory_is_refused_unread() {
        for most in [u64::MAX, 10_000] {
            let folder = tempfile::tempdir().unwrap();
            let path = stored(folder.path(), most);
            let error = load_within(&path, Some(1 << 20)).unwrap_err();
            assert_eq!(error.kind(), "memory");
            assert!(error.to_string().contains("takes 2 MiB to be read, of which 1"), "{error}");
            assert!(load_within(&path, Some(2 << 20)).is_ok());
        }
    }
}
