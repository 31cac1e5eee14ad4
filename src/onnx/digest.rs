//! What identifies a model: its file, and the files that hold its tensors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::external::Sidecars;
use crate::error::Result;
use crate::file;

/// The SHA-256, in hex, of the model at `path` whose external data is in the files `external`, by
/// their locations.
///
/// Without external data it is that of the file. Otherwise it is that of a text with a line for each
/// file, as `sha256sum` writes them: the model itself as `-`, then the others in the order of their
/// locations. In the model's folder,
/// `{ sha256sum < model.onnx; sha256sum LOCATION…; } | sha256sum` gives the same.
///
/// # Errors
/// When one of the files cannot be read.
pub fn sha256(path: &Path, external: &BTreeMap<String, PathBuf>) -> Result<String> {
    let of_model = file::sha256(path)?;
    let of_file =
        |(location, path): (&String, &PathBuf)| Ok((location.clone(), file::sha256(path)?));
    let of_files = external.iter().map(of_file).collect::<Result<Vec<_>>>()?;
    Ok(together(of_model, &of_files))
}

/// The same for a model in memory.
pub fn sha256_of(model: &[u8], sidecars: &Sidecars) -> String {
    let hex = |bytes: &[u8]| file::hex(Sha256::new_with_prefix(bytes));
    let of_files = sidecars.iter().map(|(location, bytes)| (location.clone(), hex(bytes)));
    together(hex(model), &of_files.collect::<Vec<_>>())
}

fn together(of_model: String, of_files: &[(String, String)]) -> String {
    if of_files.is_empty() {
        return of_model;
    }
    let mut listing = format!("{of_model}  -\n");
    for (location, digest) in of_files {
        // Writing to a string cannot fail.
        let _ = writeln!(listing, "{digest}  {location}");
    }
    file::hex(Sha256::new_with_prefix(listing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let model = at("m.onnx", "");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(&model, &BTreeMap::new()).unwrap(), empty);

        let files = |data: &str| {
            let (b, a) = (at("b.bin", "b"), at("a.bin", data));
            BTreeMap::from([("b.bin".into(), b), ("a.bin".into(), a)])
        };
        // { sha256sum < m.onnx; sha256sum a.bin b.bin; } | sha256sum
        let expected = "1e84853eb9306408b2aa94dd8d7e3cd8353245d9a6407602ff7c65b83da7881b";
        assert_eq!(sha256(&model, &files("a")).unwrap(), expected);
        let in_memory =
            Sidecars::from([("b.bin".into(), b"b".into()), ("a.bin".into(), b"a".into())]);
        assert_eq!(sha256_of(b"", &in_memory), expected);
        assert_eq!(sha256_of(b"", &Sidecars::new()), empty);
        assert_ne!(sha256(&model, &files("c")).unwrap(), expected);
        let missing = BTreeMap::from([("x".into(), folder.path().join("x"))]);
        assert!(sha256(&model, &missing).is_err());
    }
}
