//! Models of several sources, each named as a user does.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::{AnySource, Fetched, ModelRef, Source, address, files, hub};
use crate::error::{Error, Result};

/// Models from files, archives, caches and registries.
///
/// ```
/// use gradalign::source::{AnySource, Source, Sources};
///
/// let models = Sources::find(&["models/mlp.onnx", "models/vit.onnx"], AnySource::default()).unwrap();
/// assert_eq!(models.list().unwrap()[1].name, "vit.onnx");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sources {
    models: Vec<ModelRef>,
    /// The files among them, those in caches too, and the archives.
    files: Vec<PathBuf>,
    any: AnySource,
}

impl Sources {
    /// The models that `sources` stand for, each once. What one source yields is sorted by address. A
    /// source is
    ///
    /// - a file, a folder or a pattern, as [`Files::find`](super::Files::find) has it;
    /// - an archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`), or a model in one: `FILE.tar.gz!/a/model.onnx`;
    /// - a repository in the cache of the Hugging Face Hub, or a file of one: `hf://ORG/NAME[@REV][/PATH]`;
    /// - with the feature `registry`, registered models of an MLflow server:
    ///   `mlflow://HOST[:PORT][/NAME[/VERSION|@ALIAS]]`, or `models:/NAME…`; and artifacts of an OCI
    ///   registry: `oci://HOST/REPO[:TAG|@DIGEST]`.
    ///
    /// # Errors
    /// When a source yields no model, cannot be read, or does not answer.
    pub fn find<S: AsRef<OsStr>>(sources: &[S], any: AnySource) -> Result<Self> {
        Sources::collect(sources, any, Found::default(), files::models_of)
    }

    /// The same, with files taken as they are named: one that is missing fails when it is fetched, and
    /// one that is named twice is there twice.
    ///
    /// # Errors
    /// As [`Sources::find`], for what is no file.
    pub fn named<S: AsRef<OsStr>>(sources: &[S], any: AnySource) -> Result<Self> {
        let found = Found { repeats: true, ..Found::default() };
        Sources::collect(sources, any, found, |path| Ok(vec![address::given(path)]))
    }

    /// The files with the models, and the archives that hold some.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What fetches them.
    pub fn any(&self) -> &AnySource {
        &self.any
    }

    fn collect<S: AsRef<OsStr>>(
        sources: &[S],
        any: AnySource,
        mut found: Found,
        files: impl Fn(&OsStr) -> Result<Vec<PathBuf>>,
    ) -> Result<Self> {
        for source in sources.iter().map(AsRef::as_ref) {
            let before = found.offered;
            found.add(source, &any, &files)?;
            if found.offered == before {
                return Err(Error::Usage(format!(
                    "no model found in '{}'; give .onnx files, folders or archives that hold some, or a \
                     pattern such as 'models/*.onnx'",
                    source.display()
                )));
            }
        }
        Ok(Sources { models: ModelRef::all(found.addresses), files: found.files, any })
    }
}

impl Source for Sources {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Ok(self.models.clone())
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        self.any.fetch(model)
    }
}

#[derive(Default)]
struct Found {
    addresses: Vec<String>,
    files: Vec<PathBuf>,
    seen: HashSet<PathBuf>,
    /// Whether a model that was found already is added again.
    repeats: bool,
    /// How many models there were, again found ones included.
    offered: usize,
}

impl Found {
    fn add(
        &mut self,
        source: &OsStr,
        any: &AnySource,
        files: impl Fn(&OsStr) -> Result<Vec<PathBuf>>,
    ) -> Result<()> {
        let text = source.to_str().unwrap_or_default();
        if let Some(models) = any.list_at(text) {
            let models = models?;
            self.files.extend(models.iter().filter_map(|address| hub::file(address)));
            self.extend(models);
            return Ok(());
        }
        if let Some((archive, _)) = Archive::of_address(text)
            && archive.path().is_file()
        {
            if self.push(text, text.to_owned()) {
                self.files.push(archive.path().to_path_buf());
            }
            return Ok(());
        }
        let mut paths = files(source)?;
        if hub::is_snapshot(Path::new(source)) && Path::new(source).is_dir() {
            paths = hub::without_variants(paths);
        }
        for path in paths {
            match Archive::at(&path).filter(|_| path.is_file()) {
                Some(archive) => {
                    self.files.push(path);
                    self.extend(archive.list()?);
                }
                None => {
                    let address = address::of_path(&path);
                    if self.push(&path, address) {
                        self.files.push(path);
                    }
                }
            }
        }
        Ok(())
    }

    fn extend(&mut self, addresses: Vec<String>) {
        for address in addresses {
            self.push(address.clone(), address);
        }
    }

    /// Adds a model unless it is there, by its path or what looks like one: `x`, `./x` and the absolute
    /// path are one; two links to one file are two.
    fn push(&mut self, path: impl AsRef<Path>, address: String) -> bool {
        self.offered += 1;
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let is_new = self.seen.insert(path) || self.repeats;
        if is_new {
            self.addresses.push(address);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTRA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/extra");

    #[test]
    fn archives_and_files_are_found_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nets.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for name in ["external.onnx", "external.bin", "opset11.onnx"] {
            builder.append_path_with_name(format!("{EXTRA}/{name}"), format!("a/{name}")).unwrap();
        }
        builder.finish().unwrap();
        let archive = path.to_str().unwrap();
        let one = format!("{archive}!/a/opset11.onnx");
        let file = format!("{EXTRA}/opset11.onnx");
        let sources = [archive, &file, &one, &file];
        let found = Sources::find(&sources, AnySource::default()).unwrap();
        let models = found.list().unwrap();
        let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["external.onnx", "a/opset11.onnx", "extra/opset11.onnx"]);
        assert_eq!(found.files(), [path, file.into()]);
        assert_eq!(models[1].file_name(), "opset11.onnx");
        for model in &models {
            found.fetch(model).unwrap().load(None).unwrap();
            // A worker knows the address alone.
            AnySource::default().fetch(model).unwrap().load(None).unwrap();
        }
    }

    #[test]
    fn sources_without_models_are_errors() {
        let find = |source: &str| Sources::find(&[source], AnySource::default()).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.tar");
        std::fs::write(&empty, [0; 1024]).unwrap();
        for source in [empty.to_str().unwrap(), "nowhere/*.onnx", "nowhere.zip!/a.onnx"] {
            assert!(find(source).to_string().contains("no model found"), "{source}");
        }
        assert!(find("s3://bucket/model.onnx").to_string().contains("s3://"));
        let named = Sources::named(&["nowhere.onnx"], AnySource::default()).unwrap();
        assert_eq!(named.list().unwrap().len(), 1);
    }
}
