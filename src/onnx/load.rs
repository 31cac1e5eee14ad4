//! Reading model files, and saying what is wrong with those that cannot be used.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use prost::Message;
use prost::bytes::{Buf, Bytes};

use super::external::External;
use super::model::{Literal, Model, Opsets};
use super::proto::{ModelProto, TensorProto};
use super::{decode, tensor};
use crate::error::{Error, Result};
use crate::file;

/// The oldest accepted version of the `ai.onnx` operator set: since 7, operators broadcast.
const OLDEST_OPSET: i64 = 7;

/// The newest version of the `ai.onnx` operator set that every rule has been checked against.
pub const NEWEST_KNOWN_OPSET: i64 = 28;

/// The newest version of the `ai.onnx` operator set that is tried, with a warning.
const NEWEST_OPSET: i64 = 30;

/// Reads the ONNX model at `path`, with its external data. Errs when the file is missing, is not
/// ONNX, is damaged, or is of a version that is not supported; the message says which.
pub fn load(path: impl AsRef<Path>) -> Result<Model> {
    let path = path.as_ref();
    let source = path.display().to_string();
    let (mut file, length) = file::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(64).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    check_head(&head, &source)?;
    let mut buffer = Stream::new(head, file, length);
    let decoded = ModelProto::decode(&mut buffer);
    if let Some(error) = buffer.error {
        return Err(Error::io(path, error));
    }
    finish(decoded, &source, External::new(&source, Some(path)))
}

/// Reads an ONNX model from memory; `source` is what messages call it. External data is refused.
pub fn read(bytes: &[u8], source: &str) -> Result<Model> {
    check_head(&bytes[..bytes.len().min(64)], source)?;
    finish(ModelProto::decode(bytes), source, External::new(source, None))
}

/// Reads a tensor from the bytes of a `TensorProto`; `source` is what messages call it. External
/// data is refused.
pub fn read_tensor(bytes: &[u8], source: &str) -> Result<Literal> {
    let proto = TensorProto::decode(bytes).map_err(|e| {
        Error::InvalidModel(format!("{source}: the file is truncated, damaged, or no tensor ({e})"))
    })?;
    tensor::decode(proto, &mut External::new(source, None), source)
}

fn finish(
    decoded: Result<ModelProto, prost::DecodeError>,
    source: &str,
    external: External,
) -> Result<Model> {
    let proto = decoded.map_err(|e| {
        Error::InvalidModel(format!(
            "{source}: the file is truncated, damaged, or not ONNX ({e}); copy or export it again"
        ))
    })?;
    check_ir_version(&proto, source)?;
    let mut model = decode::model(proto, source, external)?;
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

/// Recognises files of other kinds by their first bytes.
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

/// A file as a protobuf buffer: bytes fields are read straight into memory of their own, so the
/// file is never held as a whole beside the tensors.
struct Stream {
    chunk: Vec<u8>,
    at: usize,
    file: File,
    /// Bytes not yet consumed, those of the chunk included.
    remaining: u64,
    /// The first failure. What follows it is read as zeros, which no protobuf message survives.
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
            // The chunk that `advance` just loaded comes first, the rest directly from the file.
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
