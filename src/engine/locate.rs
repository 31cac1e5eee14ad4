//! Finding ONNX Runtime's shared library.
//!
//! Nothing is run or loaded here: folders are listed, in a fixed order, and every place looked at
//! is kept, so that a user can be told why a library was not found. The current directory is left
//! out on purpose: scoring somebody else's folder of models must not load code from it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the project into which `scripts/fetch-onnxruntime.sh` puts the library.
pub(super) const DOWNLOADS: &str = ".onnxruntime";

/// The variable by which a user names the library.
pub(super) const VARIABLE: &str = "ORT_DYLIB_PATH";

/// One place where the library was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which rule of the search order this is.
    pub source: &'static str,
    /// The file or folder; `None` where the rule does not apply (a variable that is not set).
    pub path: Option<PathBuf>,
    /// The libraries there, the newest version first.
    pub libraries: Vec<PathBuf>,
}

/// What the search depends on besides the file system, so that tests can supply it.
pub(super) struct Surroundings<'a> {
    /// Reads an environment variable.
    pub var: &'a dyn Fn(&str) -> Option<OsString>,
    /// The running program.
    pub executable: Option<PathBuf>,
}

/// All places in the order in which they are tried. An explicit path is the only place.
pub(super) fn places(explicit: Option<&Path>) -> Vec<Place> {
    let surroundings = Surroundings {
        var: &|name| std::env::var_os(name),
        executable: std::env::current_exe().ok(),
    };
    places_in(explicit, &surroundings)
}

pub(super) fn places_in(explicit: Option<&Path>, around: &Surroundings) -> Vec<Place> {
    if let Some(path) = explicit {
        return vec![place("`ort-lib`", path.to_path_buf())];
    }
    let var = |name| (around.var)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places = vec![match var(VARIABLE) {
        Some(path) => place(VARIABLE, path),
        None => Place { source: VARIABLE, path: None, libraries: Vec::new() },
    }];

    if let Some(folder) = around.executable.as_deref().and_then(Path::parent) {
        places.push(place("beside the program", folder.to_path_buf()));
        places.push(place("beside the program", folder.join("lib")));
        let mut above = folder.ancestors().map(|ancestor| ancestor.join(DOWNLOADS));
        let downloads = above.find(|d| d.is_dir()).unwrap_or_else(|| folder.join(DOWNLOADS));
        places.push(place("download folder", downloads));
    }
    // Set by `cargo run` and `cargo test`, whose target folder may be anywhere.
    places
        .extend(var("CARGO_MANIFEST_DIR").map(|dir| place("download folder", dir.join(DOWNLOADS))));

    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = var(name) {
            places.extend(python_packages(name, &prefix));
            places.extend((name == "CONDA_PREFIX").then(|| place(name, prefix.join("lib"))));
        }
    }
    for folder in folders_of(var("PATH")).map(|folder| resolved(&folder)) {
        let python = ["python3", "python", "python.exe"].iter().any(|p| folder.join(p).is_file());
        if python {
            // `<prefix>/bin/python3` on Unix; `<prefix>\python.exe`, `<prefix>\Scripts` on Windows.
            for prefix in [Some(folder.as_path()), folder.parent()].into_iter().flatten() {
                places.extend(python_packages("python on PATH", prefix));
            }
        }
    }
    if let Some(home) = var("HOME") {
        places.extend(python_packages("user's Python packages", &home.join(".local")));
    }

    for name in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        places.extend(folders_of(var(name)).map(|folder| place(name, folder)));
    }
    for folder in system_folders() {
        places.push(place("system folder", folder));
    }
    first_mentions(places)
}

/// The folders that a variable lists, without the empty ones, which stand for the current directory.
fn folders_of(list: Option<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<_> = list.iter().flat_map(std::env::split_paths).collect();
    folders.into_iter().filter(|folder| !folder.as_os_str().is_empty())
}

/// The same folder may be reached by several rules; the first one names it.
fn first_mentions(places: Vec<Place>) -> Vec<Place> {
    let mut seen = HashSet::new();
    places
        .into_iter()
        .filter(|place| place.path.as_ref().is_none_or(|path| seen.insert(resolved(path))))
        .collect()
}

fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

fn place(source: &'static str, path: PathBuf) -> Place {
    let libraries = if path.is_dir() {
        libraries_in(&path)
    } else if path.is_file() {
        vec![path.clone()]
    } else {
        Vec::new()
    };
    Place { source, path: Some(path), libraries }
}

/// The `onnxruntime` package in the site-packages of the Python installed under `prefix`.
fn python_packages(source: &'static str, prefix: &Path) -> Vec<Place> {
    let mut pythons: Vec<PathBuf> = ["lib", "lib64", "Lib"]
        .iter()
        .flat_map(|lib| {
            let lib = prefix.join(lib);
            let versions = entries(&lib).into_iter().filter(|p| name_of(p).starts_with("python3"));
            versions.chain([lib.clone()]).collect::<Vec<_>>()
        })
        .collect();
    pythons.sort_by_key(|path| std::cmp::Reverse(version_in(name_of(path))));
    pythons
        .iter()
        .flat_map(|p| [p.join("site-packages"), p.join("dist-packages")])
        .filter(|packages| packages.is_dir())
        .map(|packages| place(source, packages.join("onnxruntime").join("capi")))
        .collect()
}

/// The folders in which a package manager or a user may have installed the library.
fn system_folders() -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![PathBuf::from(r"C:\Program Files\onnxruntime\lib")];
    }
    let mut folders: Vec<PathBuf> =
        ["/usr/local/lib", "/opt/onnxruntime/lib", "/usr/lib", "/usr/lib64", "/opt/homebrew/lib"]
            .map(PathBuf::from)
            .to_vec();
    folders.push(PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
    folders
}

/// ONNX Runtime's libraries in a folder, the newest version first. A link and the file it leads to
/// count once.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = entries(folder)
        .into_iter()
        .filter(|p| is_library_name(name_of(p)) && p.is_file())
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse((version_in(name_of(path)), path.clone())));
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(resolved(path)));
    found
}

/// Whether a file name is that of the runtime itself, and not of one of its provider libraries.
fn is_library_name(name: &str) -> bool {
    name == "onnxruntime.dll"
        || name == "libonnxruntime.so"
        || name.starts_with("libonnxruntime.so.")
        || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
}

/// The numbers in a file name: `libonnxruntime.so.1.32.0` gives `[1, 32, 0]`.
pub(super) fn version_in(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

pub(super) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The entries of a folder; none where it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        path
    }

    fn sources(places: &[Place]) -> Vec<&'static str> {
        places.iter().filter(|p| !p.libraries.is_empty()).map(|p| p.source).collect()
    }

    #[test]
    fn an_explicit_path_is_the_only_place() {
        let dir = tempfile::tempdir().unwrap();
        let library = touch(dir.path().join("libonnxruntime.so.1.32.0"));
        for path in [&library, dir.path()] {
            let places = places(Some(path));
            assert_eq!(places.len(), 1);
            assert_eq!(places[0].source, "`ort-lib`");
            assert_eq!(places[0].libraries, [library.as_path()]);
        }
        let places = places(Some(&dir.path().join("absent.so")));
        assert!(places[0].libraries.is_empty());
    }

    #[test]
    fn the_order_is_variable_program_downloads_python() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let named = touch(root.join("named/libonnxruntime.so"));
        let beside = touch(root.join("project/target/debug/libonnxruntime.so.1"));
        let fetched = touch(root.join("project/.onnxruntime/libonnxruntime.so.1.32.0"));
        let packages = "lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0";
        let venv = touch(root.join("venv").join(packages));
        let python = touch(root.join("python").join(packages));
        touch(root.join("python/bin/python3"));
        let var = |name: &str| match name {
            "ORT_DYLIB_PATH" => Some(named.clone().into()),
            "VIRTUAL_ENV" => Some(root.join("venv").into()),
            "PATH" => Some(root.join("python/bin").into()),
            _ => None,
        };
        let executable = Some(root.join("project/target/debug/gradalign"));
        let places = places_in(None, &Surroundings { var: &var, executable });
        let found: Vec<_> = places.iter().flat_map(|p| p.libraries.clone()).collect();
        assert_eq!(found[..5], [named, beside, fetched, venv, python]);
        assert_eq!(
            sources(&places)[..5],
            [
                "ORT_DYLIB_PATH",
                "beside the program",
                "download folder",
                "VIRTUAL_ENV",
                "python on PATH"
            ]
        );
    }

    #[test]
    fn cargo_runs_find_the_download_folder_wherever_the_target_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path().join(".onnxruntime/libonnxruntime.so.1.32.0"));
        let var = |name: &str| (name == "CARGO_MANIFEST_DIR").then(|| dir.path().into());
        let places = places_in(None, &Surroundings { var: &var, executable: None });
        assert_eq!(sources(&places)[0], "download folder");
        assert_eq!(places[0].path, None, "an unset variable is reported as such");
    }

    #[test]
    fn newest_first_and_links_once_and_no_provider_libraries() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.32.0", "notes.txt"] {
            touch(dir.path().join(name));
        }
        touch(dir.path().join("libonnxruntime_providers_shared.so"));
        #[cfg(unix)]
        std::os::unix::fs::symlink(
            "libonnxruntime.so.1.32.0",
            dir.path().join("libonnxruntime.so"),
        )
        .unwrap();
        let names: Vec<_> =
            libraries_in(dir.path()).iter().map(|p| name_of(p).to_owned()).collect();
        assert_eq!(names, ["libonnxruntime.so.1.32.0", "libonnxruntime.so.1.9.0"]);
    }

    #[test]
    fn names_on_other_systems() {
        assert!(is_library_name("onnxruntime.dll"));
        assert!(is_library_name("libonnxruntime.1.32.0.dylib"));
        assert!(!is_library_name("onnxruntime_providers_cuda.dll"));
        assert!(!is_library_name("libonnxruntime_providers_cuda.so"));
    }
}
