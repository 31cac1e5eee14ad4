//! What pages have in common: one file that loads nothing, whose policy forbids it and allows its own
//! script alone, by digest.

use std::io;

use sha2::{Digest, Sha256};

use super::text::base64;

const STYLE: &str = include_str!("style.css");

/// `template` with `{{name}}` replaced by `part(name)`, and by the style, `script` and its policy. What is
/// put in is not looked through again.
pub(crate) fn document(
    template: &str,
    script: &str,
    part: impl Fn(&str) -> io::Result<Option<String>>,
) -> io::Result<String> {
    let (style, script) = (lines(STYLE), lines(script));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        base64(&Sha256::digest(&script))
    );
    let mut pieces = template.split("{{");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once("}}") {
            Some((name, rest)) => {
                out += &match name {
                    "policy" => policy.clone(),
                    "style" => style.clone(),
                    "script" => script.clone(),
                    name => part(name)?.ok_or_else(|| {
                        io::Error::other(format!("the page has no part '{name}'"))
                    })?,
                };
                out += rest;
            }
            None => out += piece,
        }
    }
    Ok(out)
}

/// With the ends of lines that browsers see, whatever the source was checked out with: the digest of
/// the script is of these.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}
