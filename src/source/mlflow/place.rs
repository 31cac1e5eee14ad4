//! What the addresses mean that a server gives for files.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::http::{Origin, encoded};

/// The part of the server's interface that hands out files by their place, and takes them.
pub(crate) const ARTIFACTS: &str = "/api/2.0/mlflow-artifacts/artifacts";

/// Where files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below this path, from where the server hands them out.
    Proxied(String),
    /// On a disk: the server's, or that of whoever registered the version.
    Disk(PathBuf),
    /// At an address that only the server may have access to.
    Foreign(String),
}

impl Place {
    /// What an address of MLflow's means to the server of runs at `origin`.
    pub fn of(uri: &str, origin: &Origin) -> Result<Self> {
        if let Some(rest) = uri.strip_prefix("mlflow-artifacts:") {
            let path = match rest.strip_prefix("//") {
                None => rest,
                Some(rest) => {
                    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                    let is_own = ["http", "https"].iter().any(|scheme| {
                        let other = Origin::parse(&format!("{scheme}://{host}"));
                        other.is_some_and(|other| other.is_same_server(origin))
                    });
                    if !host.is_empty() && !is_own {
                        return Err(elsewhere(uri));
                    }
                    path
                }
            };
            return Ok(Place::Proxied(inside(path.trim_matches('/'))?.to_owned()));
        }
        if let Some(path) = uri.strip_prefix("file:") {
            return Ok(Place::Disk(path.strip_prefix("//").unwrap_or(path).into()));
        }
        match uri.split_once(':') {
            None => Ok(Place::Disk(uri.into())),
            // The letter of a disk.
            Some((scheme, _)) if scheme.len() == 1 => Ok(Place::Disk(uri.into())),
            Some(("http" | "https", _)) => {
                let path =
                    uri.split_once(ARTIFACTS).map(|(server, path)| (Origin::parse(server), path));
                match path {
                    Some((Some(server), path)) if server.is_same_server(origin) => {
                        Ok(Place::Proxied(inside(path.trim_matches('/'))?.to_owned()))
                    }
                    _ => Err(elsewhere(uri)),
                }
            }
            Some(_) => Ok(Place::Foreign(uri.to_owned())),
        }
    }
}

fn elsewhere(uri: &str) -> Error {
    let server = uri.split('/').nth(2).unwrap_or_default();
    Error::Remote(format!(
        "its files are on another server, {server}, which is not asked: name that server, or register the \
         version again with files on this one"
    ))
}

/// A path from a server, which must stay inside.
pub(super) fn inside(path: &str) -> Result<&str> {
    let is_fine = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    let is_drive = path.as_bytes().get(1) == Some(&b':');
    if !is_drive && path.split('/').all(is_fine) {
        return Ok(path);
    }
    Err(Error::Remote(format!("the server names a file '{path}', which leads out of its folder")))
}

/// The path below [`ARTIFACTS`] that an address of a folder means; `None` where the server keeps files
/// elsewhere.
pub(crate) fn artifact_path(uri: &str) -> Option<String> {
    let path = uri.strip_prefix("mlflow-artifacts:/").filter(|path| !path.starts_with('/'))?;
    let parts: Vec<String> = inside(path.trim_matches('/')).ok()?.split('/').map(encoded).collect();
    Some(parts.join("/"))
}

/// A path in a folder, either of which may be empty.
pub(super) fn joined(folder: &str, path: &str) -> String {
    match (folder, path) {
        ("", path) => path.to_owned(),
        (folder, "") => folder.to_owned(),
        (folder, path) => format!("{folder}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let origin = Origin::parse("http://h:5000").unwrap();
        let of = |uri| Place::of(uri, &origin);
        let proxied = |path: &str| Place::Proxied(path.into());
        for (uri, expected) in [
            ("mlflow-artifacts:/1/r/artifacts/m", proxied("1/r/artifacts/m")),
            ("mlflow-artifacts://h:5000/1/m", proxied("1/m")),
            ("http://h:5000/api/2.0/mlflow-artifacts/artifacts/1/m", proxied("1/m")),
            ("file:///srv/m", Place::Disk("/srv/m".into())),
            ("/srv/m", Place::Disk("/srv/m".into())),
            ("s3://b/m", Place::Foreign("s3://b/m".into())),
            ("dbfs:/m", Place::Foreign("dbfs:/m".into())),
        ] {
            assert_eq!(of(uri).unwrap(), expected, "{uri}");
        }
        for uri in [
            "mlflow-artifacts://other/1/m",
            "http://other/api/2.0/mlflow-artifacts/artifacts/1/m",
            "https://h:5000/m",
            "mlflow-artifacts:/1/../2",
        ] {
            assert!(of(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        assert!(inside("a/b.data").is_ok());
        for path in ["", "/a", "../a", "a/../../b", "a//b", "C:x", "a\\b", "."] {
            assert!(inside(path).is_err(), "{path}");
        }
    }
}
