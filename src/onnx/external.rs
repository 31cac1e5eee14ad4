//! Tensor data in external files beside the model.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Take};
use std::path::{Component, Path, PathBuf};

use super::proto::{StringStringEntryProto, TensorProto};
use crate::error::{Error, Result};

/// The length of the external file of `tensor`, if it is a file in `folder`.
pub(super) fn length(tensor: &TensorProto, folder: &Path) -> Option<u64> {
    let location = tensor.external_data.iter().find(|e| e.key.as_deref() == Some("location"))?;
    let meta = folder.join(location.value.as_deref()?).metadata().ok()?;
    meta.is_file().then_some(meta.len())
}

/// Opens external files, which must lie in the model's folder.
pub(super) struct External {
    source: String,
    model: Option<PathBuf>,
    open: HashMap<String, Opened>,
}

struct Opened {
    file: File,
    path: PathBuf,
    length: u64,
}

impl External {
    /// For the model that messages call `source`. `model` is its path, or `None` if it is not a file.
    pub(super) fn new(source: &str, model: Option<&Path>) -> Self {
        External {
            source: source.to_owned(),
            model: model.map(Path::to_owned),
            open: HashMap::new(),
        }
    }

    /// The files opened so far, by location.
    pub(super) fn files(&self) -> BTreeMap<String, PathBuf> {
        self.open.iter().map(|(location, opened)| (location.clone(), opened.path.clone())).collect()
    }

    /// A reader of the `bytes` bytes of tensor `name`, whose external file, offset and length are in
    /// `entries`. Errs, before anything is read, when the file is missing, too short, or outside the
    /// model's folder.
    pub(super) fn reader(
        &mut self,
        name: &str,
        entries: &[StringStringEntryProto],
        bytes: u64,
    ) -> Result<Take<&mut File>> {
        let source = self.source.clone();
        let fail = |why: String| Error::InvalidModel(format!("{source}: tensor '{name}': {why}"));
        let entry = |key: &str| {
            entries.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| -> Result<Option<u64>> {
            entry(key)
                .map(|text| text.trim().parse().map_err(|_| fail(format!("bad {key} '{text}'"))))
                .transpose()
        };
        let location =
            entry("location").ok_or_else(|| fail("external data without a location".into()))?;
        let offset = number("offset")?.unwrap_or(0);
        if let Some(length) = number("length")?
            && length != bytes
        {
            let why = format!("its shape needs {bytes} bytes, its external data has {length}");
            return Err(fail(why));
        }
        if !self.open.contains_key(location) {
            let opened = open_inside(self.model.as_deref(), location).map_err(fail)?;
            self.open.insert(location.to_owned(), opened);
        }
        let Some(Opened { file, length, .. }) = self.open.get_mut(location) else {
            return Err(fail(format!("the external file '{location}' could not be opened")));
        };
        if offset.checked_add(bytes).is_none_or(|end| end > *length) {
            return Err(fail(format!(
                "bytes {offset} to {} of the external file '{location}' are needed but it has only \
                 {length}; it is truncated or belongs to another model",
                offset.saturating_add(bytes)
            )));
        }
        file.seek(SeekFrom::Start(offset)).map_err(|e| fail(format!("'{location}': {e}")))?;
        Ok(file.take(bytes))
    }
}

/// Opens `location` in the folder of `model`. Errs, in words, when it lies outside that folder.
///
/// A link may lead to the folder of the model's own file after resolving links: caches keep the model
/// and its data as links into one folder.
fn open_inside(model: Option<&Path>, location: &str) -> Result<Opened, String> {
    let refused = |why| {
        format!(
            "the external file '{location}' is refused: {why}; place it in the model's folder and \
             export the model again"
        )
    };
    let model = model.ok_or_else(|| refused("the model was not read from a file"))?;
    let relative = Path::new(location);
    let inside =
        relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(refused("it is not a path inside the model's folder"));
    }
    let missing = |e: std::io::Error| {
        format!(
            "its data is in the external file '{location}', which cannot be opened ({e}); keep it \
             beside the model"
        )
    };
    let folder = folder_of(model);
    let path = folder.join(relative).canonicalize().map_err(missing)?;
    let content = model.canonicalize().map_err(missing)?;
    let within = path.starts_with(folder.canonicalize().map_err(missing)?);
    if !within && path.parent() != content.parent() {
        return Err(refused("a link leads it outside the model's folder"));
    }
    // Check before opening: opening a pipe would wait for its writer.
    if !path.metadata().map_err(missing)?.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let file = File::open(&path).map_err(missing)?;
    let length = file.metadata().map_err(missing)?.len();
    Ok(Opened { file, path, length })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
