//! The address of a server.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands for itself in a part of a path or of a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A part of a path, or a value of a query, as it is sent.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A server by scheme, host and port, and the path that all its own begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    is_encrypted: bool,
    /// In lower case, an IPv6 address in brackets.
    host: String,
    port: u16,
    /// Empty, or from `/` on.
    base: String,
}

impl Origin {
    /// Of `http://HOST[:PORT][/BASE]`. `None` where it is anything else; one with a user's name in it
    /// is, too.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let is_encrypted = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, if is_encrypted { 443 } else { 80 }),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        let is_fine = !host.is_empty()
            && host.chars().all(is_host)
            && (host.starts_with('[') || !host.contains(':'))
            && !base.contains(['?', '#']);
        let (host, base) = (host.to_ascii_lowercase(), base.trim_end_matches('/').to_owned());
        is_fine.then_some(Origin { is_encrypted, host, port, base })
    }

    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    pub fn is_same_server(&self, other: &Origin) -> bool {
        self.server() == other.server()
    }

    /// Scheme, host and port.
    pub fn server(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let default = if self.is_encrypted { 443 } else { 80 };
        match self.port == default {
            true => format!("{scheme}://{}", self.host),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }

    /// `path` below the base.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Where a redirect of `path` leads: a server without a base, and a path there.
    pub fn led(&self, path: &str, to: &str) -> Option<(Origin, String)> {
        let to = to.split('#').next().unwrap_or_default();
        let absolute = match to.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if self.is_encrypted { "https" } else { "http" }),
            None => to.to_owned(),
        };
        if absolute.contains("://") {
            let after = absolute.find("://")? + 3;
            let end = absolute[after..].find(['/', '?']).map_or(absolute.len(), |at| after + at);
            let origin = Origin::parse(&absolute[..end])?;
            let path = &absolute[end..];
            let slash = if path.starts_with('/') { "" } else { "/" };
            return Some((origin, format!("{slash}{path}")));
        }
        let here = Origin { base: String::new(), ..self.clone() };
        if to.starts_with('/') {
            return Some((here, to.to_owned()));
        }
        let folder = path.split('?').next()?.rsplit_once('/')?.0;
        (!to.is_empty()).then(|| (here, format!("{folder}/{to}")))
    }
}

/// Scheme, host and port.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (url, server, base) in [
            ("http://Host", "http://host", ""),
            ("http://h:5000/", "http://h:5000", ""),
            ("HTTPS://h:443/mlflow/", "https://h", "/mlflow"),
            ("http://[::1]:80/a/b", "http://[::1]", "/a/b"),
        ] {
            let origin = Origin::parse(url).unwrap();
            assert_eq!((origin.server().as_str(), origin.base.as_str()), (server, base), "{url}");
        }
        for url in [
            "h",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h:x",
            "http://h:99999",
            "http://h/?a=b",
        ] {
            assert!(Origin::parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses() {
        let here = Origin::parse("http://h:1/base").unwrap();
        for (to, expected) in [
            ("/x?y#z", "http://h:1/x?y"),
            ("x", "http://h:1/a/x"),
            ("https://other/p?q", "https://other/p?q"),
            ("//other", "http://other/"),
            ("http://other?q", "http://other/?q"),
        ] {
            let (origin, path) = here.led("/a/b?c", to).unwrap();
            assert_eq!(format!("{origin}{path}"), expected);
        }
        for to in ["", "ftp://x", "http://u:p@x/"] {
            assert!(here.led("/a/b", to).is_none(), "{to}");
        }
        assert_eq!(encoded("a b/ü.~"), "a%20b%2F%C3%BC.~");
    }
}
