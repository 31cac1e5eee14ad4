//! Addresses as text: of paths and back, and of registries as names are taken from them.
//!
//! A path that is not UTF-8 is written as `file:` with percent escapes, and so is one that begins like
//! that itself, or looks like the address of another source.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(super) const SCHEME: &str = "file:";

/// What stands between the path of an archive and that of a model in it.
pub(super) const INSIDE: &str = "!/";

/// What begins the address of a model that MLflow's environment says the server of.
pub(super) const MODELS: &str = "models:/";

/// The scheme of the address of another source than files, with what follows it.
pub(super) fn scheme(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix(MODELS) {
        return Some(("models", rest));
    }
    let (scheme, rest) = address.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some((scheme, rest))
}

/// An address as the name of its model is taken from it: a version of a registered model is
/// `NAME@VERSION`.
pub(super) fn label(address: &str) -> Cow<'_, str> {
    let Some((scheme @ ("mlflow" | "mlflows" | "models"), rest)) = scheme(address) else {
        return address.into();
    };
    let before =
        if scheme == "models" { 0 } else { rest.find('/').map_or(rest.len(), |at| at + 1) };
    match rest[before..].split_once('/') {
        Some((name, version)) => format!("{}{name}@{version}", &rest[..before]).into(),
        None => address.into(),
    }
}

/// The address of the file at `path`.
pub(super) fn of_path(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !is_special(text) => text.to_owned(),
        _ => escaped(path),
    }
}

fn is_special(text: &str) -> bool {
    [SCHEME, MODELS].iter().any(|start| text.starts_with(start))
        || ["://", INSIDE].iter().any(|part| text.contains(part))
}

/// The path that `address` is of.
pub(super) fn to_path(address: &str) -> PathBuf {
    address.strip_prefix(SCHEME).map_or_else(|| address.into(), unescaped)
}

/// The path that was given as `text`: itself, or what it is the address of where there is no such file.
pub(super) fn given(text: &OsStr) -> PathBuf {
    let path = Path::new(text);
    match text.to_str().filter(|text| text.starts_with(SCHEME)) {
        Some(address) if path.symlink_metadata().is_err() => to_path(address),
        _ => path.to_owned(),
    }
}

fn escaped(path: &Path) -> String {
    let mut address = String::from(SCHEME);
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'%' | b':' | b'!' | 0x80.. => address += &format!("%{byte:02X}"),
            byte => address.push(char::from(byte)),
        }
    }
    address
}

fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                path.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                path.push(byte);
                at += 1;
            }
        }
    }
    from_bytes(path)
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// Elsewhere paths are Unicode.
#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive() {
        for plain in ["a/b.onnx", "/größe 100%/b.onnx", "./a", "a:b"] {
            assert_eq!(of_path(Path::new(plain)), plain);
            assert_eq!(to_path(plain), Path::new(plain));
        }
        for odd in ["file:x", "file:", "file:%41", "models:/x", "a.zip!/b.onnx", "x://y"] {
            let address = of_path(Path::new(odd));
            assert_ne!(address, odd);
            assert_eq!(to_path(&address), Path::new(odd));
        }
    }

    #[test]
    fn versions_are_named_after_their_models() {
        for (address, expected) in [
            ("mlflow://h:1/cnn/3", "h:1/cnn@3"),
            ("mlflow://h/cnn/3/a/m.onnx", "h/cnn@3/a/m.onnx"),
            ("models:/cnn/3", "cnn@3"),
            ("mlflow://h/cnn", "mlflow://h/cnn"),
            ("a/b.onnx", "a/b.onnx"),
            ("hf://o/n@c/m.onnx", "hf://o/n@c/m.onnx"),
        ] {
            assert_eq!(label(address), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_survive() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"a/\xff %2.onnx"));
        assert_eq!(of_path(path), "file:a/%FF %252.onnx");
        assert_eq!(to_path(&of_path(path)), path);
        assert_eq!(given(OsStr::new(&of_path(path))), path);
    }
}
