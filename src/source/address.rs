//! Paths as text and back. A path that is not UTF-8 is written as `file:` with percent escapes, and so
//! is one that begins like that itself, or looks like the address of another source.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(super) const SCHEME: &str = "file:";

/// The address of the file at `path`.
pub(super) fn of_path(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.starts_with(SCHEME) && !text.contains("://") => text.to_owned(),
        _ => escaped(path),
    }
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
            b'%' | b':' | 0x80.. => address += &format!("%{byte:02X}"),
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
        for odd in ["file:x", "file:", "file:%41"] {
            let address = of_path(Path::new(odd));
            assert_ne!(address, odd);
            assert_eq!(to_path(&address), Path::new(odd));
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
