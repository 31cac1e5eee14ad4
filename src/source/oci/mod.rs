//! Models in a registry of containers: `oci://HOST/REPO[:TAG|@DIGEST][!/PATH]`.
//!
//! What the layers of an artifact are is judged by their names and contents, since tools disagree on media
//! types: a file of its own, or an archive.

mod registry;

use std::path::{Path, PathBuf};

use super::address::INSIDE;
use super::archive::Archive;
use super::cache::{self, Folder};
use super::{EXTENSION, Fetched};
use crate::error::{Error, Result};
use crate::onnx;
use registry::{Layer, Registry};

pub(super) const SCHEME: &str = "oci";

/// What an address names.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    host: &'a str,
    repository: &'a str,
    /// A tag or a digest.
    reference: &'a str,
    /// A file in it.
    path: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// Of what follows the scheme.
    fn parse(text: &'a str) -> Result<Self> {
        let refused = || {
            Error::Usage(format!(
                "oci://{} is no address of an artifact: give oci://HOST/REPO, oci://HOST/REPO:TAG or \
                 oci://HOST/REPO@sha256:DIGEST; credentials are those of 'docker login'",
                // A password may be before it.
                text.rsplit_once('@').map_or(text, |(_, after)| after)
            ))
        };
        let (whole, path) = text.split_once(INSIDE).map_or((text, None), |(w, p)| (w, Some(p)));
        let (host, rest) = whole.split_once('/').ok_or_else(refused)?;
        let (repository, reference) = match rest.split_once('@') {
            Some((repository, digest)) => {
                (repository.split(':').next().unwrap_or(repository), digest)
            }
            None => rest.split_once(':').unwrap_or((rest, "latest")),
        };
        let is_part = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let digest = reference.strip_prefix("sha256:");
        let is_digest = digest.is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        let is_fine = !host.is_empty()
            && !host.contains('@')
            && repository.split('/').all(is_part)
            && (is_digest || is_part(reference));
        is_fine.then_some(Reference { host, repository, reference, path }).ok_or_else(refused)
    }
}

/// The address of the artifact, with its tag.
pub(super) fn list(rest: &str) -> Result<Vec<String>> {
    let Reference { host, repository, reference, path } = Reference::parse(rest)?;
    let mark = if reference.starts_with("sha256:") { '@' } else { ':' };
    let path = path.map(|path| format!("{INSIDE}{path}")).unwrap_or_default();
    Ok(vec![format!("{SCHEME}://{host}/{repository}{mark}{reference}{path}")])
}

/// The model at an address.
pub(super) fn fetch(address: &str, rest: &str) -> Result<Fetched> {
    fetch_to(&cache::root()?, address, rest).map_err(|error| match error {
        Error::Remote(why) => Error::Remote(format!("{address}: {why}")),
        other => other,
    })
}

fn fetch_to(cache: &Path, address: &str, rest: &str) -> Result<Fetched> {
    let parsed = Reference::parse(rest)?;
    let (registry, manifest) = Registry::open(parsed.host, parsed.repository, parsed.reference)?;
    let parts = [SCHEME, parsed.host, parsed.repository, &manifest.digest];
    let artifact = Artifact {
        layers: &manifest.layers,
        folder: Folder::open(cache, &parts)?,
        registry,
        address,
    };
    artifact.model(parsed.path)
}

struct Artifact<'a> {
    layers: &'a [Layer],
    folder: Folder,
    registry: Registry,
    address: &'a str,
}

impl Artifact<'_> {
    /// The model at `wanted`, or else the only one.
    fn model(&self, wanted: Option<&str>) -> Result<Fetched> {
        let names = self.layers.iter().filter_map(|layer| Some((layer.name()?, layer)));
        let mut models: Vec<(&str, &Layer)> = match wanted {
            Some(path) => names.filter(|(name, _)| *name == path).collect(),
            None => names.filter(|(name, _)| is_model(name)).collect(),
        };
        models.sort_by_key(|(name, _)| *name);
        match models.as_slice() {
            [] => self.packed(wanted),
            [(name, layer)] => self.with_external_data(name, layer),
            several => Err(self
                .several(&several.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>())),
        }
    }

    fn several(&self, names: &[String]) -> Error {
        let whole = self.address.split(INSIDE).next().unwrap_or_default();
        Error::Remote(format!(
            "it has {} models: {}; name one, as in {whole}{INSIDE}{}",
            names.len(),
            names.join(", "),
            names.first().map_or("", String::as_str)
        ))
    }

    /// A layer that is a file, with those that it names for its tensors.
    fn with_external_data(&self, name: &str, layer: &Layer) -> Result<Fetched> {
        let path = self.get(layer, name)?;
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        // What is wrong with the file itself, or missing beside it, is told where it is read.
        for location in onnx::external_locations(&path).unwrap_or_default() {
            let location = location.trim_start_matches("./");
            let full = if parent.is_empty() {
                location.to_owned()
            } else {
                format!("{parent}/{location}")
            };
            if let Some(layer) = self.layers.iter().find(|layer| layer.name() == Some(&full)) {
                self.get(layer, &full)?;
            }
        }
        Ok(Fetched::file(path).called(self.address))
    }

    /// A model in a layer that is an archive, or the only layer, if it has no name.
    fn packed(&self, wanted: Option<&str>) -> Result<Fetched> {
        let mut found = Vec::new();
        for (i, layer) in self.layers.iter().enumerate().filter(|(_, layer)| layer.may_be_archive())
        {
            let path = self.get(layer, &format!(".layer-{i}"))?;
            match Archive::sniffed(&path)? {
                Some(archive) => {
                    for address in archive.list()? {
                        let inside = address.split_once(INSIDE).map_or("", |(_, inside)| inside);
                        if wanted.is_none_or(|wanted| wanted == inside) {
                            found.push((archive.clone(), inside.to_owned()));
                        }
                    }
                }
                None if self.layers.len() == 1 && wanted.is_none() => {
                    return Ok(Fetched::file(path).called(self.address));
                }
                None => {}
            }
        }
        match found.as_slice() {
            [(archive, inside)] => Ok(archive.fetch(inside)?.called(self.address)),
            [] => Err(Error::Remote(match wanted {
                Some(path) => format!("it has no file '{path}'"),
                None => "none of its layers is or has an .onnx file".into(),
            })),
            several => {
                Err(self.several(&several.iter().map(|(_, i)| i.clone()).collect::<Vec<_>>()))
            }
        }
    }

    fn get(&self, layer: &Layer, name: &str) -> Result<PathBuf> {
        let is_fine =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
        if !name.split('/').all(is_fine) {
            return Err(Error::Remote(format!(
                "a layer has the name '{name}', which leads out of its folder"
            )));
        }
        self.registry.blob(layer, &self.folder, name)
    }
}

fn is_model(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION))
}

#[cfg(test)]
mod tests;
