//! Addresses of registered models.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// `mlflow://HOST[:PORT][/NAME[/VERSION[/PATH]|@ALIAS]]`, the same with `mlflows` for https, and
/// `models:/NAME…` for the server that MLflow's environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub server: ServerName,
    /// Of all models, if there is none.
    pub name: Option<String>,
    pub which: Which,
}

/// Where a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// `HOST[:PORT]`, by https or not.
    Host { is_encrypted: bool, host: String },
    /// Where the environment says.
    Environment,
}

/// Which versions of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// One, and the file in it, if that was said.
    Version {
        number: u64,
        path: Option<String>,
    },
    Alias(String),
    /// The latest in a stage, or, as `latest`, of all.
    Stage(String),
}

impl Address {
    /// Of what follows the scheme.
    pub fn parse(scheme: &str, rest: &str) -> Result<Self> {
        let refused = |why: &str| {
            // A password may be in it.
            let shown = rest.rsplit_once('@').filter(|(before, _)| before.contains(':'));
            let shown = shown.map_or(rest, |(_, after)| after);
            Error::Usage(format!(
                "{scheme}:{}{shown}: {why}; give mlflow://HOST:PORT/NAME, with /VERSION or @ALIAS after it \
                 for one version, or models:/NAME/VERSION",
                if scheme == "models" { "/" } else { "//" }
            ))
        };
        let (server, rest) = match scheme {
            "models" => (ServerName::Environment, rest),
            _ => {
                let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
                if host.contains('@') {
                    return Err(refused(
                        "credentials have no place in an address: set MLFLOW_TRACKING_USERNAME and \
                         MLFLOW_TRACKING_PASSWORD",
                    ));
                }
                if host.is_empty() {
                    return Err(refused("there is no host"));
                }
                let is_encrypted = scheme == "mlflows";
                (ServerName::Host { is_encrypted, host: host.to_owned() }, rest)
            }
        };
        let rest = rest.trim_end_matches('/');
        if rest.is_empty() {
            return match server {
                ServerName::Environment => Err(refused("there is no name of a model")),
                ServerName::Host { .. } => Ok(Address { server, name: None, which: Which::All }),
            };
        }
        let (name, which) = match rest.split_once('/') {
            Some((name, version)) => {
                let (version, path) =
                    version.split_once('/').map_or((version, None), |(v, p)| (v, Some(p)));
                let which = match version.parse() {
                    Ok(number) => Which::Version { number, path: path.map(str::to_owned) },
                    Err(_) if path.is_none() => Which::Stage(decoded(version)),
                    Err(_) => return Err(refused("the version is no number")),
                };
                (name, which)
            }
            None => match rest.rsplit_once('@') {
                Some((name, alias)) => (name, Which::Alias(decoded(alias))),
                None => (rest, Which::All),
            },
        };
        let is_path = |path: &str| path.split('/').all(|p| !matches!(p, "" | "." | ".."));
        if let Which::Version { path: Some(path), .. } = &which
            && !is_path(path)
        {
            return Err(refused("its path leads out of the version"));
        }
        match decoded(name) {
            name if name.is_empty() => Err(refused("there is no name of a model")),
            name => Ok(Address { server, name: Some(name), which }),
        }
    }

    /// The address of the server.
    pub fn of_server(&self) -> String {
        match &self.server {
            ServerName::Environment => "models:".to_owned(),
            ServerName::Host { is_encrypted: true, host } => format!("mlflows://{host}"),
            ServerName::Host { is_encrypted: false, host } => format!("mlflow://{host}"),
        }
    }

    /// The address of a version on the same server.
    pub fn of_version(&self, name: &str, number: u64, path: Option<&str>) -> String {
        let server = self.of_server();
        let path = path.map(|path| format!("/{path}")).unwrap_or_default();
        format!("{server}/{}/{number}{path}", encoded(name))
    }
}

/// A name as an address has it: all that a reader can read stays.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c {
            '%' | '@' | '/' => text += &format!("%{:02X}", u32::from(c)),
            c => text.push(c),
        }
    }
    text
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address> {
        let (scheme, rest) = super::super::super::address::scheme(text).unwrap();
        Address::parse(scheme, rest)
    }

    #[test]
    fn addresses_are_understood() {
        let version =
            |number, path: Option<&str>| Which::Version { number, path: path.map(str::to_owned) };
        for (text, name, which) in [
            ("mlflow://h:1", None, Which::All),
            ("mlflow://h:1/", None, Which::All),
            ("mlflow://h:1/a b", Some("a b"), Which::All),
            ("mlflow://h:1/a%40b@best", Some("a@b"), Which::Alias("best".into())),
            ("mlflow://h:1/net/3", Some("net"), version(3, None)),
            ("mlflow://h:1/net/3/a/m.onnx", Some("net"), version(3, Some("a/m.onnx"))),
            ("models:/net/Production", Some("net"), Which::Stage("Production".into())),
            ("models:/net@best", Some("net"), Which::Alias("best".into())),
        ] {
            let address = parse(text).unwrap();
            assert_eq!((address.name.as_deref(), address.which), (name, which), "{text}");
        }
        let address = parse("mlflows://h/größe%").unwrap();
        let version = address.of_version("größe%@/x y", 2, None);
        assert_eq!(version, "mlflows://h/größe%25%40%2Fx y/2");
        assert_eq!(parse(&version).unwrap().name.as_deref(), Some("größe%@/x y"));
        assert_eq!(
            parse("models:/a").unwrap().of_version("a", 1, Some("m.onnx")),
            "models:/a/1/m.onnx"
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_password() {
        for text in [
            "mlflow://",
            "mlflow:///net",
            "models:/",
            "mlflow://h/net/x/m.onnx",
            "mlflow://h/net/1/../m.onnx",
            "mlflow://user:hunter2@h/net",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains("mlflow://HOST"), "{error}");
        }
    }
}
