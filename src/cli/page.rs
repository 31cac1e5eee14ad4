//! The page that `--report` writes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use super::output::OutFile;
use crate::error::Result;
use crate::rank::{Ranking, Truth};
use crate::report::{Page, printable};

/// A page to be written.
#[derive(Clone, Debug)]
pub(super) struct PageFile {
    pub file: OutFile,
    /// The accuracies of the models, where they are known.
    pub truth: Option<Truth>,
    command: String,
}

impl PageFile {
    /// Errs where no file can be written at `path`.
    pub(super) fn new(path: &Path) -> Result<Self> {
        Ok(PageFile { file: OutFile::new(path)?, truth: None, command: command_line() })
    }

    /// Writes the page of a ranking of those of `asked` models that were finished.
    pub(super) fn write(&self, ranking: &Ranking, asked: usize) -> anyhow::Result<()> {
        let mut page = Page::new(ranking).command(&self.command).asked(asked);
        if let Some(truth) = &self.truth {
            page = page.truth(truth);
        }
        let html = page.html()?;
        Ok(self.file.write(|file| file.write_all(html.as_bytes()))?)
    }
}

/// How this process was started, as a shell takes it.
pub(super) fn command_line() -> String {
    let arguments = std::env::args_os().skip(1);
    arguments.fold("gradalign".to_owned(), |line, word| line + " " + &quoted(&word))
}

/// A word as a shell takes it.
fn quoted(word: &OsStr) -> String {
    let bytes = word.as_encoded_bytes();
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(b);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Ok(text) if printable(text) == text => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        // What cannot be shown is written as escapes.
        _ => {
            let mut out = String::from("$'");
            for byte in bytes {
                match byte {
                    b'\'' | b'\\' => out.extend(['\\', char::from(*byte)]),
                    b' '..=b'~' => out.push(char::from(*byte)),
                    // Writing to a string cannot fail.
                    byte => drop(write!(out, "\\x{byte:02x}")),
                }
            }
            out + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, expected) in [
            ("models/a.onnx", "models/a.onnx"),
            ("", "''"),
            ("models/*.onnx", "'models/*.onnx'"),
            ("it's", r"'it'\''s'"),
            ("größe x", "'größe x'"),
            ("\u{202e}", r"$'\xe2\x80\xae'"),
            ("a\nb'\\ ä", r"$'a\x0ab\'\\ \xc3\xa4'"),
        ] {
            assert_eq!(quoted(OsStr::new(word)), expected);
        }
    }
}
