//! Models in files, folders, and what glob patterns match.
//!
//! Folders are listed here rather than by a library, since names need not be UTF-8, and since
//! links, which may lead in a circle, must not be followed on the way down.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::{EXTENSION, Fetched, ModelRef, Source, address};
use crate::error::{Error, Result};

/// Model files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    paths: Vec<PathBuf>,
}

impl Files {
    /// The models that `sources` stand for, each once: a file stands for itself, a folder for the
    /// `.onnx` files in it and in its folders, a glob pattern for what it matches. What one source
    /// yields is sorted by path. Neither hidden folders nor links to folders are gone into, unless
    /// they are named.
    ///
    /// # Errors
    /// When a source yields no model, or a folder cannot be read.
    pub fn find<S: AsRef<OsStr>>(sources: &[S]) -> Result<Self> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for source in sources.iter().map(AsRef::as_ref) {
            let models = models_of(source)?;
            if models.is_empty() {
                return Err(Error::Usage(format!(
                    "no model found in '{}'; give .onnx files, folders that hold some, or a \
                     pattern such as 'models/*.onnx'",
                    source.display()
                )));
            }
            paths.extend(models);
        }
        // `x`, `./x` and the absolute path are one; two links to one file are two.
        let mut seen = HashSet::new();
        paths
            .retain(|path| seen.insert(std::path::absolute(path).unwrap_or_else(|_| path.clone())));
        Ok(Files { paths })
    }

    /// The files at `paths`, in this order; the address of a file serves as well. A file that is
    /// missing fails when it is fetched.
    pub fn at(paths: Vec<PathBuf>) -> Self {
        Files { paths: paths.iter().map(|path| address::given(path.as_os_str())).collect() }
    }

    /// Their paths.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl Source for Files {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Ok(ModelRef::all(self.paths.iter().map(|path| address::of_path(path))))
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        Ok(Fetched::file(address::to_path(&model.address)))
    }
}

/// The models that a file, a folder or a pattern stands for, sorted by path.
pub(super) fn models_of(source: &OsStr) -> Result<Vec<PathBuf>> {
    let path = &address::given(source);
    let mut models = Vec::new();
    if path.is_dir() {
        walk(path, &mut models)?;
    } else if path.exists() {
        models.push(path.clone());
    } else if let Some(pattern) = source.to_str() {
        for path in matches(pattern)? {
            if path.is_dir() {
                walk(&path, &mut models)?;
            } else {
                models.push(path);
            }
        }
    }
    models.sort();
    Ok(models)
}

/// Adds the models in `folder` and in its folders.
pub(super) fn walk(folder: &Path, models: &mut Vec<PathBuf>) -> Result<()> {
    for Entry { path, is_folder } in entries(folder)? {
        if is_folder {
            walk(&path, models)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION)) {
            models.push(path);
        }
    }
    Ok(())
}

/// The paths that a glob pattern matches. As in a shell, a wildcard does not stand for what is
/// hidden.
fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let refused = |e: glob::PatternError| {
        Error::Usage(format!("'{pattern}' is not a file, nor a pattern: {e}"))
    };
    Pattern::new(pattern).map_err(refused)?;
    let mut found = vec![PathBuf::new()];
    for component in Path::new(pattern).components() {
        let mut next = Vec::new();
        for path in found {
            match component {
                Component::Normal(name) if name == "**" => below(path, &mut next)?,
                Component::Normal(name) if is_wild(name) => {
                    let part = Pattern::new(&name.to_string_lossy()).map_err(refused)?;
                    let options =
                        MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
                    let fits = |path: &Path| {
                        let name = path.file_name().unwrap_or_default();
                        part.matches_with(&name.to_string_lossy(), options)
                    };
                    let all = if path.is_dir() || path.as_os_str().is_empty() {
                        all_entries(&path)?
                    } else {
                        Vec::new()
                    };
                    next.extend(all.into_iter().map(|e| e.path).filter(|path| fits(path)));
                }
                other => {
                    let path = path.join(other);
                    next.extend(path.symlink_metadata().is_ok().then_some(path));
                }
            }
        }
        found = next;
    }
    Ok(found)
}

fn is_wild(name: &OsStr) -> bool {
    name.as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// Adds `folder` and all folders below it.
fn below(folder: PathBuf, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        for entry in entries(&folder)?.into_iter().filter(|entry| entry.is_folder) {
            below(entry.path, found)?;
        }
        found.push(folder);
    }
    Ok(())
}

/// What a folder holds.
struct Entry {
    path: PathBuf,
    /// Whether it is a folder, and not a link to one.
    is_folder: bool,
}

/// What `folder` holds, without what is hidden.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = all_entries(folder)?;
    let hidden =
        |path: &Path| path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b".");
    entries.retain(|entry| !hidden(&entry.path));
    Ok(entries)
}

/// All that `folder` holds; the empty path is the current folder.
fn all_entries(folder: &Path) -> Result<Vec<Entry>> {
    let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |e| Error::io(listed, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(listed).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        entries.push(Entry { path: folder.join(entry.file_name()), is_folder });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn folder_with(files: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        folder
    }

    fn names(folder: &TempDir, sources: &[&str]) -> Vec<String> {
        let sources: Vec<PathBuf> = sources.iter().map(|s| folder.path().join(s)).collect();
        let relative = |path: PathBuf| {
            path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned()
        };
        Files::find(&sources).unwrap().paths.into_iter().map(relative).collect()
    }

    #[test]
    fn folders_patterns_and_files_are_searched_in_order() {
        let folder = folder_with(&[
            "b.onnx",
            "a.ONNX",
            "sub/c.onnx",
            "sub/notes.txt",
            "sub/deep/d.onnx",
            ".hidden/d.onnx",
            "e.bin",
        ]);
        let all = ["a.ONNX", "b.onnx", "sub/c.onnx", "sub/deep/d.onnx"];
        assert_eq!(names(&folder, &[""]), all);
        assert_eq!(names(&folder, &["**"]), all);
        assert_eq!(names(&folder, &["*.onnx"]), ["b.onnx"]);
        assert_eq!(names(&folder, &["**/*.onnx"]), all[1..]);
        assert_eq!(names(&folder, &["**/[cd].onnx", "**/c.onnx"]), all[2..]);
        assert_eq!(names(&folder, &["s*/../b.onn?"]), ["sub/../b.onnx"]);
        assert_eq!(names(&folder, &["*/c.onnx"]), ["sub/c.onnx"]);
        assert_eq!(names(&folder, &["s*"]), ["sub/c.onnx", "sub/deep/d.onnx"]);
        assert_eq!(names(&folder, &[".h*/*"]), [".hidden/d.onnx"]);
        assert_eq!(
            names(&folder, &["e.bin", "sub/deep", "b.onnx", "sub/deep"]),
            ["e.bin", "sub/deep/d.onnx", "b.onnx"]
        );
    }

    #[test]
    fn a_file_named_in_three_ways_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mlp.onnx");
        let sources = [Path::new("models/mlp.onnx"), Path::new("./models/mlp.onnx"), &root];
        assert_eq!(Files::find(&sources).unwrap().paths, [sources[0]]);
    }

    #[test]
    fn a_source_without_models_is_an_error() {
        let folder = folder_with(&["x/notes.txt"]);
        for source in ["x", "y", "*.onnx", "[", "x/***", "x/notes.txt/*"] {
            let error = Files::find(&[folder.path().join(source)]).unwrap_err();
            assert_eq!(error.kind(), "usage", "{error}");
        }
    }

    /// By the way down, not by the number of files, a link to a folder above would be followed as
    /// often as the system allows.
    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_in_circles() {
        let folder = folder_with(&["a.onnx", "sub/b.onnx"]);
        std::os::unix::fs::symlink("..", folder.path().join("sub/up")).unwrap();
        std::os::unix::fs::symlink("sub", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("a.onnx", folder.path().join("c.onnx")).unwrap();
        for source in ["", "**", "**/*.onnx"] {
            assert_eq!(names(&folder, &[source]), ["a.onnx", "c.onnx", "sub/b.onnx"], "{source}");
        }
        // A link that is named is a folder like any other.
        assert_eq!(names(&folder, &["link"]), ["link/b.onnx"]);
        assert_eq!(names(&folder, &["li*/*.onnx"]), ["link/b.onnx"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;
        let folder = folder_with(&["a.onnx", "sub/b.onnx"]);
        let odd = folder.path().join(OsStr::from_bytes(b"\xff.onnx"));
        std::fs::write(&odd, "x").unwrap();
        for source in ["", "*.onnx", "?.onnx", "**/*.onnx"] {
            let found = Files::find(&[folder.path().join(source)]).unwrap();
            assert!(found.paths.contains(&odd), "{source}: {found:?}");
            // The address leads back to the file.
            let models = found.list().unwrap();
            let model = models.iter().find(|model| model.name == "%FF.onnx").unwrap();
            assert_eq!(address::to_path(&model.address), odd);
        }
        assert_eq!(Files::find(&[&odd]).unwrap().paths(), std::slice::from_ref(&odd));
        let missing = folder.path().join(OsStr::from_bytes(b"\xfe*.onnx"));
        assert_eq!(Files::find(&[missing]).unwrap_err().kind(), "usage");
    }
}
