//! Opening the files that a user names: only regular ones. A pipe without a writer, or a device
//! without an end, would be read for ever.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Opens a regular file to read, and says how long it is. Errs for any other kind before it is
/// opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let failed = |e| Error::io(path, e);
    let length = std::fs::metadata(path).map_err(failed).and_then(|meta| {
        meta.is_file().then_some(meta.len()).ok_or_else(|| not_regular(path, meta.is_dir()))
    })?;
    Ok((File::open(path).map_err(failed)?, length))
}

/// The content of a regular file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

/// The SHA-256 of a file, in hex. Errs when it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let failed = |e| Error::io(path, e);
    let (mut file, _) = open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hex(digest)),
            n => digest.update(&buffer[..n]),
        }
    }
}

/// A digest as text.
pub(crate) fn hex(digest: impl Digest) -> String {
    digest.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn not_regular(path: &Path, folder: bool) -> Error {
    let reason = if folder {
        "it is a folder, not a file"
    } else {
        "not a regular file but a pipe or a device; save what it yields to a file first"
    };
    Error::io(path, std::io::Error::other(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_alone_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read(&path).unwrap(), b"text");
        assert_eq!(open(&path).unwrap().1, 4);
        assert!(open(folder.path()).unwrap_err().to_string().contains("it is a folder"));
        assert_eq!(open(&folder.path().join("b")).unwrap_err().kind(), "io");
        #[cfg(unix)]
        for device in ["/dev/null", "/dev/zero"] {
            let error = open(Path::new(device)).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }
}
