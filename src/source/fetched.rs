//! The content of a model, wherever it came from.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::onnx::{self, Model, Sidecars};

/// A model that can be read: a file with those beside it, bytes in memory, or a model that was built.
pub struct Fetched {
    content: Content,
    /// What messages call the model.
    called: String,
    /// What must last as long as the content, such as a temporary folder.
    kept: Option<Box<dyn Any + Send>>,
}

enum Content {
    File(PathBuf),
    Memory(Arc<Bytes>),
    Built(Box<Model>),
}

/// A model in memory.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub model: Vec<u8>,
    pub sidecars: Sidecars,
}

impl Fetched {
    /// A file; its external data is in the same folder.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let called = path.display().to_string();
        Fetched { content: Content::File(path), called, kept: None }
    }

    /// The bytes of a model, and those of the files with its external data. Messages call it
    /// `called`.
    pub fn memory(model: Vec<u8>, sidecars: Sidecars, called: impl Into<String>) -> Self {
        Fetched::shared(Arc::new(Bytes { model, sidecars }), called)
    }

    pub(super) fn shared(bytes: Arc<Bytes>, called: impl Into<String>) -> Self {
        Fetched { content: Content::Memory(bytes), called: called.into(), kept: None }
    }

    /// A model that was never a file. Messages call it `called`.
    pub fn built(model: Model, called: impl Into<String>) -> Self {
        let called = called.into();
        let model = Model { source: called.clone(), ..model };
        Fetched { content: Content::Built(Box::new(model)), called, kept: None }
    }

    /// The same under another name in messages: for a file that was downloaded, its address.
    #[must_use]
    pub fn called(mut self, called: impl Into<String>) -> Self {
        self.called = called.into();
        self
    }

    /// The same, with something that is dropped after the content, such as the temporary folder that
    /// it is in.
    #[must_use]
    pub fn keeping(mut self, kept: impl Any + Send) -> Self {
        self.kept = Some(Box::new(kept));
        self
    }

    /// Reads the model, within `room` bytes of memory. Tensors are read piece by piece, so that
    /// beside them only small buffers are held.
    ///
    /// # Errors
    /// When a file is missing, is not ONNX, is damaged, of a version that is not supported, or takes
    /// more than `room`.
    pub fn load(&self, room: Option<u64>) -> Result<Model> {
        match &self.content {
            Content::File(path) => onnx::load_as(path, &self.called, room),
            Content::Memory(bytes) => {
                onnx::read_within(&bytes.model, &bytes.sidecars, &self.called, room)
            }
            // Its tensors are shared. What they take is taken already.
            Content::Built(model) => Ok((**model).clone()),
        }
    }

    /// The SHA-256 in hex of the content, external data included: see [`onnx::sha256`]. Of a model that
    /// was built it is that of the file which [`onnx::encode`] makes of it. `model` is
    /// what [`Fetched::load`] gave; of a model that could not be read, only the file itself is
    /// known.
    ///
    /// # Errors
    /// When a file cannot be read, or a model that was built cannot be written.
    pub fn sha256(&self, model: Option<&Model>) -> Result<String> {
        match &self.content {
            Content::File(path) => match model {
                Some(model) => onnx::sha256(path, &model.external),
                None => crate::file::sha256(path),
            },
            Content::Memory(bytes) => Ok(onnx::sha256_of(&bytes.model, &bytes.sidecars)),
            Content::Built(model) => Ok(onnx::sha256_of(&onnx::encode(model)?, &Sidecars::new())),
        }
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.is_some();
        f.debug_struct("Fetched").field("called", &self.called).field("kept", &kept).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_files_give_one_model_and_one_digest() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/extra");
        let at = |name: &str| std::path::Path::new(folder).join(name);
        let bytes = |name: &str| std::fs::read(at(name)).unwrap();
        let sidecars = Sidecars::from([("external.bin".into(), bytes("external.bin"))]);
        let file = Fetched::file(at("external.onnx"));
        let memory = Fetched::memory(bytes("external.onnx"), sidecars, "made");
        let (of_file, of_memory) = (file.load(None).unwrap(), memory.load(None).unwrap());
        assert_eq!(of_memory.source, "made");
        let stored = |model: &Model| {
            let stored = model.graph.stored();
            stored.map(|(n, l)| (n.to_owned(), l.tensor.clone().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(stored(&of_file), stored(&of_memory));
        assert_eq!(file.sha256(Some(&of_file)).unwrap(), memory.sha256(Some(&of_memory)).unwrap());

        let alone = Fetched::memory(bytes("external.onnx"), Sidecars::new(), "made");
        let error = alone.load(None).unwrap_err().to_string();
        assert!(error.contains("'external.bin', which was not given"), "{error}");
        let error = memory.load(Some(100)).unwrap_err();
        assert_eq!(error.kind(), "memory", "{error}");
    }

    #[test]
    fn a_temporary_folder_lasts_as_long_as_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, "not ONNX").unwrap();
        let fetched = Fetched::file(&path).called("oci://host/m").keeping(folder);
        assert!(fetched.load(None).unwrap_err().to_string().contains("oci://host/m"));
        assert!(path.exists());
        drop(fetched);
        assert!(!path.exists());
    }
}
