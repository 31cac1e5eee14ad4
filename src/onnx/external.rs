//! Tensor data in external files beside the model.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::proto::{StringStringEntryProto, TensorProto};
use crate::error::{Error, Result};

/// Files beside a model that are held in memory, by the locations that the model gives them.
pub type Sidecars = BTreeMap<String, Vec<u8>>;

/// Where a model's external data is looked for.
#[derive(Clone, Copy)]
pub(super) enum Beside<'a> {
    /// There is none.
    Nothing,
    /// In the folder of this model file.
    File(&'a Path),
    /// In memory.
    Memory(&'a Sidecars),
}

impl Beside<'_> {
    /// The length of the external file of `tensor`, if there is one.
    pub(super) fn length(self, tensor: &TensorProto) -> Option<u64> {
        let location =
            tensor.external_data.iter().find(|e| e.key.as_deref() == Some("location"))?;
        let location = location.value.as_deref()?;
        match self {
            Beside::Nothing => None,
            Beside::File(model) => {
                let meta = folder_of(model).join(location).metadata().ok()?;
                meta.is_file().then_some(meta.len())
            }
            Beside::Memory(files) => Some(in_memory(files, location)?.len() as u64),
        }
    }
}

/// Opens external files, which must lie in the model's folder.
pub(super) struct External<'a> {
    source: String,
    beside: Beside<'a>,
    open: HashMap<String, Opened<'a>>,
}

enum Opened<'a> {
    File { file: File, path: PathBuf, length: u64 },
    Memory(&'a [u8]),
}

impl<'a> External<'a> {
    /// For the model that messages call `source`.
    pub(super) fn new(source: &str, beside: Beside<'a>) -> Self {
        External { source: source.to_owned(), beside, open: HashMap::new() }
    }

    /// The files opened so far, by location.
    pub(super) fn files(&self) -> BTreeMap<String, PathBuf> {
        let files = self.open.iter().filter_map(|(location, opened)| match opened {
            Opened::File { path, .. } => Some((location.clone(), path.clone())),
            Opened::Memory(_) => None,
        });
        files.collect()
    }

    /// A reader of the `bytes` bytes of tensor `name`, whose external file, offset and length are in
    /// `entries`. Errs, before anything is read, when the file is missing, too short, or outside the
    /// model's folder.
    pub(super) fn reader(
        &mut self,
        name: &str,
        entries: &[StringStringEntryProto],
        bytes: u64,
    ) -> Result<Box<dyn Read + '_>> {
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
            let opened = open_beside(self.beside, location).map_err(fail)?;
            self.open.insert(location.to_owned(), opened);
        }
        let Some(opened) = self.open.get_mut(location) else {
            return Err(fail(format!("the external file '{location}' could not be opened")));
        };
        let length = match opened {
            Opened::File { length, .. } => *length,
            Opened::Memory(content) => content.len() as u64,
        };
        let end = offset.checked_add(bytes).filter(|&end| end <= length).ok_or_else(|| {
            fail(format!(
                "bytes {offset} to {} of the external file '{location}' are needed but it has only \
                 {length}; it is truncated or belongs to another model",
                offset.saturating_add(bytes)
            ))
        })?;
        Ok(match opened {
            Opened::File { file, .. } => {
                file.seek(SeekFrom::Start(offset))
                    .map_err(|e| fail(format!("'{location}': {e}")))?;
                Box::new(file.take(bytes))
            }
            // Both fit, since they lie within what is in memory.
            Opened::Memory(content) => Box::new(&content[offset as usize..end as usize]),
        })
    }
}

/// Opens `location` beside a model. Errs in words when that leads outside the model's folder.
fn open_beside<'a>(beside: Beside<'a>, location: &str) -> Result<Opened<'a>, String> {
    let why = match beside {
        Beside::Nothing => "the model was not read from a file",
        _ if !is_inside(location) => "it is not a path inside the model's folder",
        Beside::File(model) => return open_inside(model, location),
        Beside::Memory(files) => {
            return in_memory(files, location).map(Opened::Memory).ok_or_else(|| {
                format!(
                    "its data is in the external file '{location}', which was not given; keep it \
                     beside the model"
                )
            });
        }
    };
    Err(refused(location, why))
}

fn refused(location: &str, why: &str) -> String {
    format!(
        "the external file '{location}' is refused: {why}; place it in the model's folder and \
         export the model again"
    )
}

fn is_inside(location: &str) -> bool {
    let mut components = Path::new(location).components();
    !location.is_empty()
        && components.all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

/// The file in memory at `location`, by whatever spelling of its path.
fn in_memory<'a>(files: &'a Sidecars, location: &str) -> Option<&'a [u8]> {
    let same = || files.iter().find(|(name, _)| Path::new(name) == Path::new(location));
    files.get(location).or_else(|| same().map(|(_, content)| content)).map(Vec::as_slice)
}

/// Opens the file at `location` in the folder of `model`.
///
/// A link may lead to the folder of the model's own file after resolving links: caches keep the model
/// and its data as links into one folder.
fn open_inside<'a>(model: &Path, location: &str) -> Result<Opened<'a>, String> {
    let missing = |e: std::io::Error| {
        format!(
            "its data is in the external file '{location}', which cannot be opened ({e}); keep it \
             beside the model"
        )
    };
    let folder = folder_of(model);
    let path = folder.join(location).canonicalize().map_err(missing)?;
    let content = model.canonicalize().map_err(missing)?;
    let within = path.starts_with(folder.canonicalize().map_err(missing)?);
    if !within && path.parent() != content.parent() {
        return Err(refused(location, "a link leads it outside the model's folder"));
    }
    // Check before opening: opening a pipe would wait for its writer.
    if !path.metadata().map_err(missing)?.is_file() {
        return Err(refused(location, "it is not a regular file"));
    }
    let file = File::open(&path).map_err(missing)?;
    let length = file.metadata().map_err(missing)?.len();
    Ok(Opened::File { file, path, length })
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
