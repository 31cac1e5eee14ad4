//! Which of the files of a version is the model, and how they are got.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::cache::Folder;
use super::api::{Listed, Server, Version};
use super::place::{ARTIFACTS, Place, inside, joined};
use crate::error::{Error, Result};
use crate::file;
use crate::http::{Patience, encoded};
use crate::onnx;

/// What lists the model in a folder that MLflow wrote.
const DESCRIPTION: &str = "MLmodel";

/// What MLflow calls a model.
const USUAL: &str = "model.onnx";

/// The most folders that are looked through for a model.
const MOST_FOLDERS: usize = 200;

/// What it takes to get the files of one version.
pub(super) struct Files<'a> {
    pub server: &'a Server,
    pub version: &'a Version,
    pub number: u64,
    /// The folders of this machine that may be read.
    pub allow_local: &'a [PathBuf],
    /// Where downloads are kept.
    pub cache: &'a Path,
}

impl Files<'_> {
    /// The model file of the version: the one at `wanted`, or else the only one. It is on this
    /// machine then, with its external data beside it.
    pub fn model(&self, wanted: Option<&str>) -> Result<PathBuf> {
        let uri = self.server.place(&self.version.name, self.number)?;
        let (uri, run) = match uri.strip_prefix("runs:/") {
            None => (uri, None),
            Some(rest) => {
                let (run, path) = rest.split_once('/').unwrap_or((rest, ""));
                let root = self.server.run(run)?.info.artifact_uri;
                (
                    format!("{}/{path}", root.trim_end_matches('/')),
                    Some((run.to_owned(), path.to_owned())),
                )
            }
        };
        match Place::of(&uri, self.server.tracking().origin())? {
            Place::Proxied(root) => self.proxied(&root, wanted),
            Place::Disk(path) => match self.allowed(&path)? {
                Some(path) => local(&path, wanted),
                None => self.through_server(&uri, run.as_ref(), wanted).map_err(|error| {
                    Error::Remote(format!(
                        "its files are on the disk of a machine, at {}, and the server does not hand \
                         them out ({error}); if that is this machine, allow it with `allow-local`",
                        path.display()
                    ))
                }),
            },
            Place::Foreign(uri) => {
                self.through_server(&uri, run.as_ref(), wanted).map_err(|error| {
                    Error::Remote(format!(
                        "its files are at {}, which is not read from here, and the server does not hand \
                         them out ({error}); let the server do so (its option serve-artifacts, with \
                         artifacts-destination), or copy them to a folder and name that",
                        plain(&uri)
                    ))
                })
            }
        }
    }

    /// `path` by way of no links, if it is in one of the folders that may be read.
    fn allowed(&self, path: &Path) -> Result<Option<PathBuf>> {
        // What is not on this machine may be on the server's.
        let Ok(real) = path.canonicalize() else { return Ok(None) };
        for folder in self.allow_local {
            if real.starts_with(folder.canonicalize().map_err(|e| Error::io(folder, e))?) {
                return Ok(Some(real));
            }
        }
        Ok(None)
    }

    /// From below `root`, where the server lists files and hands them out.
    fn proxied(&self, root: &str, wanted: Option<&str>) -> Result<PathBuf> {
        let client = self.server.tracking();
        let (root, wanted) = match (wanted, is_model(root)) {
            // The address is that of the file itself.
            (None, true) => root.rsplit_once('/').map_or(("", Some(root)), |(r, f)| (r, Some(f))),
            _ => (root, wanted),
        };
        let list = |folder: &str| self.server.files(ARTIFACTS, &[("path", &joined(root, folder))]);
        let (model, size) = match wanted {
            Some(path) => (path.to_owned(), None),
            None => self.find(list)?,
        };
        let address = |path: &str| {
            let parts = joined(root, path);
            let parts: Vec<String> = parts.split('/').map(encoded).collect();
            format!("{ARTIFACTS}/{}", parts.join("/"))
        };
        let folder = self.folder()?;
        let get =
            |path: &str, size| folder.fetch(client, &address(path), path, size, Patience::Retry);
        self.with_external_data(&folder, &model, size, get)
    }

    /// The server reads the files itself, and sends them. It cannot always list them.
    fn through_server(
        &self,
        root: &str,
        run: Option<&(String, String)>,
        wanted: Option<&str>,
    ) -> Result<PathBuf> {
        let folder = self.folder()?;
        let number = self.number.to_string();
        let is_file = is_model(root);
        let address = |path: &str| match run {
            Some((run, root)) => {
                let root = match is_file {
                    true => root.rsplit_once('/').map_or("", |(folder, _)| folder),
                    false => root,
                };
                format!(
                    "/get-artifact?run_id={}&path={}",
                    encoded(run),
                    encoded(&joined(root, path))
                )
            }
            None => format!(
                "/model-versions/get-artifact?name={}&version={number}&path={}",
                encoded(&self.version.name),
                encoded(path)
            ),
        };
        let client = match run {
            Some(_) => self.server.tracking(),
            None => self.server.registry(),
        };
        // A server that cannot reach the files says 500 each time.
        let get =
            |path: &str, size| folder.fetch(client, &address(path), path, size, Patience::Once);
        let model = match wanted {
            Some(path) => path.to_owned(),
            None if is_file => root.rsplit('/').next().unwrap_or(root).to_owned(),
            None => match get(DESCRIPTION, None)? {
                Some(path) => {
                    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
                    described(&text).unwrap_or_else(|| USUAL.to_owned())
                }
                None => USUAL.to_owned(),
            },
        };
        self.with_external_data(&folder, &model, None, get)
    }

    /// Gets the model file and then what it names.
    fn with_external_data(
        &self,
        folder: &Folder,
        model: &str,
        size: Option<u64>,
        get: impl Fn(&str, Option<u64>) -> Result<Option<PathBuf>>,
    ) -> Result<PathBuf> {
        let missing = || {
            Error::Remote(format!(
                "the server has no file '{model}' of this version, or none at all"
            ))
        };
        let path = get(inside(model)?, size)?.ok_or_else(missing)?;
        let parent = model.rsplit_once('/').map_or("", |(parent, _)| parent);
        // What is wrong with the file itself is told where it is read.
        for location in onnx::external_locations(&path).unwrap_or_default() {
            // What leads out of the folder is refused, and what is missing told, where it is read.
            let Ok(location) = inside(location.trim_start_matches("./")) else { continue };
            let location = joined(parent, location);
            if get(&location, None)?.is_none() {
                // What an earlier state of the version had is not taken for it.
                let _ = std::fs::remove_file(folder.at(&location));
            }
        }
        Ok(path)
    }

    /// The only model in the folders that `list` lists, by its path and size.
    fn find(&self, list: impl Fn(&str) -> Result<Vec<Listed>>) -> Result<(String, Option<u64>)> {
        let (mut open, mut seen, mut any) = (vec![String::new()], 0, false);
        while !open.is_empty() {
            let (mut models, mut below) = (Vec::new(), Vec::new());
            for folder in &open {
                seen += 1;
                if seen > MOST_FOLDERS {
                    return Err(Error::Remote(format!(
                        "it has more than {MOST_FOLDERS} folders: name the file, as in NAME/VERSION/PATH"
                    )));
                }
                for Listed { path, is_dir, file_size } in list(folder)? {
                    any = true;
                    let path = joined(folder, inside(&path)?);
                    match is_dir {
                        true => below.push(path),
                        false if is_model(&path) => models.push((path, file_size)),
                        false => {}
                    }
                }
            }
            match models.len() {
                0 => open = below,
                1 => return Ok(models.remove(0)),
                _ => {
                    models.sort();
                    let names: Vec<&str> = models.iter().map(|(path, _)| path.as_str()).collect();
                    return Err(Error::Remote(format!(
                        "it has {} models: {}; name one, as in NAME/VERSION/{}",
                        names.len(),
                        names.join(", "),
                        names[0]
                    )));
                }
            }
        }
        Err(Error::Remote(match any {
            true => "there is no .onnx file among its files".into(),
            false => "it has no files".into(),
        }))
    }

    fn folder(&self) -> Result<Folder> {
        let server = self.server.registry().origin().server();
        let Version { name, source, .. } = self.version;
        let digest = &file::hex(Sha256::new_with_prefix(source))[..12];
        let version = format!("{}-{digest}", self.number);
        Folder::open(self.cache, &["mlflow", &server, name, &version])
    }
}

/// The only model in a folder, or the file itself.
fn local(path: &Path, wanted: Option<&str>) -> Result<PathBuf> {
    if let Some(wanted) = wanted {
        return Ok(path.join(inside(wanted)?));
    }
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let mut models = Vec::new();
    super::super::files::walk(path, &mut models)?;
    match models.len() {
        1 => Ok(models.remove(0)),
        n => Err(Error::Remote(format!(
            "{}: {n} models are in this folder, where there should be one",
            path.display()
        ))),
    }
}

fn is_model(path: &str) -> bool {
    let extension = Path::new(path).extension();
    extension.is_some_and(|e| e.eq_ignore_ascii_case(super::super::EXTENSION))
}

/// An address without what may be a secret in it.
fn plain(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or_default()
}

/// The model file that an `MLmodel` names: `flavors.onnx.data`. It is YAML as one program writes it.
fn described(text: &str) -> Option<String> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let Some((key, value)) = trimmed.split_once(':') else { continue };
        let depth = line.len() - trimmed.len();
        path.retain(|(above, _)| *above < depth);
        path.push((depth, key));
        let is_data = path.iter().map(|(_, key)| *key).eq(["flavors", "onnx", "data"]);
        if is_data {
            return Some(value.trim().trim_matches(['\'', '"']).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_name_the_model() {
        let text = "artifact_path: x\nflavors:\n  python_function:\n    data: other\n  onnx:\n    code: \
                    null\n    data: 'net.onnx'\nrun_id: y\n";
        assert_eq!(described(text).as_deref(), Some("net.onnx"));
        assert_eq!(described("flavors:\n  sklearn:\n    data: x\ndata: y"), None);
    }
}
