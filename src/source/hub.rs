//! Models in the cache of the Hugging Face Hub: `hf://ORG/NAME[@REV][/PATH]`.
//!
//! Nothing is downloaded. The cache keeps each file once, by its digest, in `blobs/`; a snapshot of a
//! repository is a folder of links there, and `refs/` says which snapshot a branch is.

use std::path::{Path, PathBuf};

use super::{Fetched, NOTICE, files};
use crate::error::{Error, Result};

pub(super) const SCHEME: &str = "hf";

/// Ends of the names of files that exporters put beside a model as another form of it: with its weights
/// quantised, or two models joined into one.
const VARIANTS: [&str; 7] = ["_quantized", "_merged", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4"];

/// A repository, and what of it an address names.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    owner: &'a str,
    name: &'a str,
    revision: &'a str,
    path: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Of what follows the scheme.
    fn parse(text: &'a str) -> Result<Self> {
        let refused = || {
            Error::Usage(format!(
                "hf://{text} is no address of a repository: give hf://ORG/NAME, hf://ORG/NAME@REVISION \
                 or hf://ORG/NAME/FILE.onnx"
            ))
        };
        let (owner, rest) = text.split_once('/').ok_or_else(refused)?;
        let (name, path) = rest.split_once('/').map_or((rest, None), |(n, p)| (n, Some(p)));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let is_plain = |part: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(is_part)
        };
        let goes_down = |path: &str| path.split('/').all(|p| !matches!(p, "" | "." | ".."));
        let path = path.filter(|path| !path.is_empty());
        let is_fine =
            [owner, name, revision].into_iter().all(is_plain) && path.is_none_or(goes_down);
        is_fine.then_some(Place { owner, name, revision, path }).ok_or_else(refused)
    }

    /// The commit that the revision is, and the folder with its files.
    fn snapshot(&self, cache: &Path) -> Result<(String, PathBuf)> {
        let Place { owner, name, revision, .. } = self;
        let repository = cache.join(format!("models--{owner}--{name}"));
        let reference = std::fs::read_to_string(repository.join("refs").join(revision));
        let commit =
            reference.map_or_else(|_| (*revision).to_owned(), |text| text.trim().to_owned());
        let folder = repository.join("snapshots").join(&commit);
        // What a file says is not trusted to be a name.
        if commit.chars().all(|c| c.is_ascii_alphanumeric()) && folder.is_dir() {
            return Ok((commit, folder));
        }
        Err(Error::Usage(format!(
            "hf://{owner}/{name}@{revision} is not in the cache {}: fetch it with 'hf download \
             {owner}/{name}', or set HF_HOME or HF_HUB_CACHE to where it is",
            cache.display()
        )))
    }
}

/// The addresses of the models that `place`, which follows the scheme, stands for, by commit.
pub(super) fn list(place: &str) -> Result<Vec<String>> {
    list_in(&cache()?, place)
}

fn list_in(cache: &Path, place: &str) -> Result<Vec<String>> {
    let place = Place::parse(place)?;
    let (commit, folder) = place.snapshot(cache)?;
    let below = place.path.map_or_else(|| folder.clone(), |path| folder.join(path));
    let mut paths = Vec::new();
    if below.is_dir() {
        files::walk(&below, &mut paths)?;
        paths.sort();
        paths = without_variants(paths);
    } else {
        paths.push(below);
    }
    let Place { owner, name, .. } = place;
    let address = |path: &PathBuf| {
        let inside = path.strip_prefix(&folder).ok()?.to_str()?;
        Some(format!("{SCHEME}://{owner}/{name}@{commit}/{inside}"))
    };
    Ok(paths.iter().filter_map(address).collect())
}

/// The file that `address` is of, if it is in the cache.
pub(super) fn file(address: &str) -> Option<PathBuf> {
    let place = Place::parse(address.strip_prefix(SCHEME)?.strip_prefix("://")?).ok()?;
    let (_, folder) = place.snapshot(&cache().ok()?).ok()?;
    Some(folder.join(place.path?))
}

/// The model at `place`.
pub(super) fn fetch(place: &str) -> Result<Fetched> {
    fetch_in(&cache()?, place)
}

fn fetch_in(cache: &Path, place: &str) -> Result<Fetched> {
    let parsed = Place::parse(place)?;
    let (_, folder) = parsed.snapshot(cache)?;
    let path = parsed.path.ok_or_else(|| {
        Error::Usage(format!("{SCHEME}://{place} is a repository: name a file in it"))
    })?;
    Ok(Fetched::file(folder.join(path)).called(format!("{SCHEME}://{place}")))
}

/// Those of the models in a folder that are no other form of one beside them.
pub(super) fn without_variants(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_variant = |path: &Path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        VARIANTS.iter().any(|variant| stem.ends_with(variant))
    };
    let variants = paths.extract_if(.., |path| is_variant(path)).collect::<Vec<_>>();
    if let Some(first) = variants.first() {
        tracing::info!(
            target: NOTICE,
            "quantised or merged forms of models are skipped: {}, such as {}; to rank one, name it",
            variants.len(),
            first.display()
        );
    }
    paths
}

/// Whether `folder` is, or is in, a snapshot in a cache.
pub(super) fn is_snapshot(folder: &Path) -> bool {
    let path = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    path.ancestors().any(|above| {
        let is_repository = |path: &Path| {
            path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"models--"))
        };
        above.ends_with("snapshots") && above.parent().is_some_and(is_repository)
    })
}

/// Where the cache is, as Hugging Face's own library looks for it.
fn cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(variable);
    let home = || variable("HF_HOME").map(|home| Path::new(&home).join("hub"));
    let user = || {
        let folder = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(folder.join("huggingface/hub"))
    };
    named.map(PathBuf::from).or_else(home).or_else(user).ok_or_else(|| {
        Error::Usage(
            "there is no home folder to look for the cache of the Hub in: set HF_HOME".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let place = |text| Place::parse(text).unwrap();
        let (owner, name) = ("org", "net-1.5");
        assert_eq!(place("org/net-1.5"), Place { owner, name, revision: "main", path: None });
        let path = Some("onnx/model.onnx");
        assert_eq!(
            place("org/net-1.5@v2/onnx/model.onnx"),
            Place { owner, name, revision: "v2", path }
        );
        for text in
            ["", "org", "org/", "/x", "../x", "o/..", "o/n@", "o/n@../x", "o/n/../../x", "o/n/a//b"]
        {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn snapshots_are_links_into_blobs() {
        use std::os::unix::fs::symlink;
        let cache = tempfile::tempdir().unwrap();
        let (owner, name) = ("org", "net");
        let repository = cache.path().join(format!("models--{owner}--{name}"));
        let onnx = repository.join("snapshots/c0ffee/onnx");
        for folder in [&repository.join("blobs"), &repository.join("refs"), &onnx] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(repository.join("refs/main"), "c0ffee\n").unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/extra");
        for (file, blob) in [("external.onnx", "aa"), ("external.bin", "bb")] {
            std::fs::copy(fixtures.join(file), repository.join("blobs").join(blob)).unwrap();
            symlink(format!("../../../blobs/{blob}"), onnx.join(file)).unwrap();
        }
        for variant in ["model_quantized.onnx", "decoder_model_merged.onnx"] {
            symlink("../../../blobs/aa", onnx.join(variant)).unwrap();
        }

        let expected = "hf://org/net@c0ffee/onnx/external.onnx";
        for place in ["org/net", "org/net@c0ffee", "org/net/onnx"] {
            assert_eq!(list_in(cache.path(), place).unwrap(), [expected], "{place}");
        }
        let named = list_in(cache.path(), "org/net/onnx/model_quantized.onnx").unwrap();
        assert_eq!(named, ["hf://org/net@c0ffee/onnx/model_quantized.onnx"]);
        let fetched = fetch_in(cache.path(), "org/net@c0ffee/onnx/external.onnx").unwrap();
        let model = fetched.load(None).unwrap();
        assert_eq!((model.source.as_str(), model.external.len()), (expected, 1));
        assert!(is_snapshot(&onnx) && !is_snapshot(&fixtures));

        for (place, says) in
            [("org/other", "hf download org/other"), ("org/net@v9", "@v9 is not in the cache")]
        {
            let error = list_in(cache.path(), place).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(fetch_in(cache.path(), "org/net").is_err());
    }
}
