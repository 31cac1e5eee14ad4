//! The sources that a command is given, and those on standard input.

use std::ffi::OsString;
use std::io::{self, BufRead};

use super::args::From;
use super::write_back::WriteBack;
use crate::error::{Error, Result};
use crate::source::AnySource;

/// What `sources` are, with the lines of standard input in place of `-`.
pub(super) fn all(sources: Vec<OsString>) -> Result<Vec<OsString>> {
    let mut all = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        if source != "-" {
            all.push(source.clone());
        } else if sources[..i].iter().any(|source| source == "-") {
            return Err(Error::Usage("standard input is named twice as a list of models".into()));
        } else {
            all.extend(lines(&mut io::stdin().lock())?);
        }
    }
    match all.is_empty() {
        true => Err(Error::Usage("the list of models on standard input is empty".into())),
        false => Ok(all),
    }
}

impl From {
    /// What knows the models of any source, and what is written back to it.
    pub(super) fn resolve(self) -> (AnySource, Option<WriteBack>) {
        let From { versions: filter, allow_local, write_back, dry_run } = self;
        (AnySource { filter, allow_local }, write_back.then_some(WriteBack { dry_run }))
    }
}

/// The lines of a list, without empty ones. Paths need not be UTF-8.
fn lines(list: &mut dyn BufRead) -> Result<Vec<OsString>> {
    let mut found = Vec::new();
    for line in list.split(b'\n') {
        let line = line.map_err(|e| Error::io("standard input", e))?;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if !line.is_empty() {
            found.push(word(line)?);
        }
    }
    Ok(found)
}

#[cfg(unix)]
fn word(bytes: &[u8]) -> Result<OsString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(bytes).to_owned())
}

#[cfg(not(unix))]
fn word(bytes: &[u8]) -> Result<OsString> {
    let invalid = |e| Error::io("standard input", io::Error::new(io::ErrorKind::InvalidData, e));
    std::str::from_utf8(bytes).map(OsString::from).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_a_model_a_line() {
        let mut list: &[u8] = b"a.onnx\r\n\nhf://o/n\n  spaced \nlast";
        let expected = ["a.onnx", "hf://o/n", "  spaced ", "last"];
        assert_eq!(lines(&mut list).unwrap(), expected);
        assert_eq!(all(vec!["a".into(), "b".into()]).unwrap(), ["a", "b"]);
    }
}
