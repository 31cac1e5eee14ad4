//! What MLflow's own environment variables say: where the server is, and how it is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::address::ServerName;
use super::api::Server;
use crate::error::{Error, Result};
use crate::http::{Client, Manners, Origin, Settings, Tls};

const LOGIN: &str =
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN";

const TRUST: &str = "for an authority or a client certificate of your own set \
    MLFLOW_TRACKING_SERVER_CERT_PATH or MLFLOW_TRACKING_CLIENT_CERT_PATH";

/// Variables and the file of credentials.
pub(super) struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    /// The content of `~/.mlflow/credentials`, if there is such a file.
    credentials: Option<String>,
}

impl<'a> Environment<'a> {
    pub fn new(variable: &'a dyn Fn(&str) -> Option<String>, credentials: Option<String>) -> Self {
        Environment { variable, credentials }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The server that is meant.
    ///
    /// # Errors
    /// When the environment does not say where it is, or contradicts itself.
    pub fn server(&self, name: &ServerName) -> Result<Server> {
        match name {
            ServerName::Host { is_encrypted, host } => {
                let scheme = if *is_encrypted { "https" } else { "http" };
                let origin = Origin::parse(&format!("{scheme}://{host}")).ok_or_else(|| {
                    Error::Usage(format!("'{host}' is no host with a port: give it as HOST:PORT"))
                })?;
                let client = || Client::new(origin.clone(), self.settings(&origin)?);
                Ok(Server::new(client()?, client()?))
            }
            ServerName::Environment => {
                let tracking = self.origin("MLFLOW_TRACKING_URI")?;
                let registry = self.origin("MLFLOW_REGISTRY_URI")?;
                let registry = registry.or_else(|| tracking.clone()).ok_or_else(|| {
                    Error::Usage(
                        "models:/ needs to know the server: set MLFLOW_TRACKING_URI, or give \
                         mlflow://HOST:PORT/NAME"
                            .into(),
                    )
                })?;
                let tracking = tracking.unwrap_or_else(|| registry.clone());
                let client = |origin: Origin| {
                    let settings = self.settings(&origin)?;
                    Client::new(origin, settings)
                };
                Ok(Server::new(client(registry)?, client(tracking)?))
            }
        }
    }

    fn origin(&self, name: &str) -> Result<Option<Origin>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        // What stands there may have a password in it, and is not shown.
        Origin::parse(&text).map(Some).ok_or_else(|| {
            Error::Usage(format!(
                "{name} is no http:// or https:// address of a server, without a user name in it: other \
                 stores cannot be read; for the name there is MLFLOW_TRACKING_USERNAME"
            ))
        })
    }

    /// How the server at `origin` is asked.
    fn settings(&self, origin: &Origin) -> Result<Settings> {
        for plugin in ["MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_AUTH"] {
            if self.get(plugin).is_some_and(|value| !is_false(&value)) {
                return Err(Error::Usage(format!(
                    "{plugin} asks for a plugin of MLflow's Python package, which is not known here; \
                     {LOGIN}"
                )));
            }
        }
        let mut secret = Vec::new();
        let mut hidden = Vec::new();
        if self.is_meant(origin) {
            let user = self.get("MLFLOW_TRACKING_USERNAME").or_else(|| self.saved("username"));
            let password = self.get("MLFLOW_TRACKING_PASSWORD").or_else(|| self.saved("password"));
            // As in MLflow's code, and not as in its documentation, a password goes before a token.
            match (user, password, self.get("MLFLOW_TRACKING_TOKEN")) {
                (Some(user), Some(password), _) => {
                    let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
                    secret.push(("authorization", format!("Basic {both}")));
                    hidden.extend([password, both]);
                }
                (_, _, Some(token)) => {
                    secret.push(("authorization", format!("Bearer {token}")));
                    hidden.push(token);
                }
                _ => {}
            }
        } else {
            tracing::debug!("{origin} is not MLFLOW_TRACKING_URI, and is sent no credentials");
        }
        if let Some(workspace) = self.get("MLFLOW_WORKSPACE") {
            secret.push(("x-mlflow-workspace", workspace));
        }
        let seconds = self.number("MLFLOW_HTTP_REQUEST_TIMEOUT", 120.0)?;
        Ok(Settings {
            secret,
            manners: Manners { hidden, login: LOGIN, trust: TRUST },
            tls: self.tls()?,
            timeout: Duration::try_from_secs_f64(seconds).ok().filter(|t| !t.is_zero()),
            retries: self.number("MLFLOW_HTTP_REQUEST_MAX_RETRIES", 4.0)? as u32,
            backoff: self.number("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", 0.5)?,
        })
    }

    /// Whether the credentials of the environment are for this server: they are unless it names
    /// another one.
    fn is_meant(&self, origin: &Origin) -> bool {
        let uris = ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"].map(|name| self.get(name));
        let mut named = uris.iter().flatten().filter_map(|uri| Origin::parse(uri)).peekable();
        named.peek().is_none() || named.any(|named| named.is_same_server(origin))
    }

    /// A value of the file of credentials.
    fn saved(&self, what: &str) -> Option<String> {
        let wanted = format!("mlflow_tracking_{what}");
        let mut in_section = false;
        for line in self.credentials.as_deref()?.lines() {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[') {
                in_section = section.trim_end_matches(']') == "mlflow";
            } else if in_section
                && let Some((key, value)) = line.split_once(['=', ':'])
                && key.trim().eq_ignore_ascii_case(&wanted)
            {
                return Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            }
        }
        None
    }

    fn tls(&self) -> Result<Tls> {
        let path = |name: &str| self.get(name).map(PathBuf::from);
        let accepts_any =
            self.get("MLFLOW_TRACKING_INSECURE_TLS").is_some_and(|value| !is_false(&value));
        let own = path("MLFLOW_TRACKING_SERVER_CERT_PATH");
        if accepts_any && own.is_some() {
            return Err(Error::Usage(
                "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH are both set: set one"
                    .into(),
            ));
        }
        // Python's requests, which MLflow's client is built on, knows the others.
        let authorities =
            own.or_else(|| path("REQUESTS_CA_BUNDLE")).or_else(|| path("CURL_CA_BUNDLE"));
        Ok(Tls { authorities, identity: path("MLFLOW_TRACKING_CLIENT_CERT_PATH"), accepts_any })
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.trim().parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
        number.ok_or_else(|| Error::Usage(format!("{name} is '{text}', which is no number")))
    }
}

fn is_false(value: &str) -> bool {
    ["false", "0"].contains(&value.trim().to_ascii_lowercase().as_str())
}

/// The content of the file that MLflow's client keeps credentials in.
pub(super) fn saved_credentials() -> Option<String> {
    let path = std::env::home_dir()?.join(Path::new(".mlflow/credentials"));
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "[other]\nmlflow_tracking_username = no\n[mlflow]\n\
                         mlflow_tracking_username = filed\nmlflow_tracking_password = kept=1\n";

    fn settings(set: &[(&str, &str)], saved: Option<&str>) -> Result<Settings> {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let environment = Environment::new(&variable, saved.map(str::to_owned));
        environment.settings(&Origin::parse("http://h:5000").unwrap())
    }

    fn authorization(set: &[(&str, &str)], saved: Option<&str>) -> Option<String> {
        let settings = settings(set, saved).unwrap();
        settings.secret.iter().find(|(name, _)| *name == "authorization").map(|(_, v)| v.clone())
    }

    #[test]
    fn credentials_have_the_precedence_that_they_have_in_mlflow() {
        const USER: (&str, &str) = ("MLFLOW_TRACKING_USERNAME", "me");
        const PASSWORD: (&str, &str) = ("MLFLOW_TRACKING_PASSWORD", "pw");
        const TOKEN: (&str, &str) = ("MLFLOW_TRACKING_TOKEN", "tok");
        let basic = |both: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(both)));
        assert_eq!(authorization(&[], None), None);
        assert_eq!(authorization(&[USER], None), None);
        assert_eq!(authorization(&[USER, PASSWORD, TOKEN], None), basic("me:pw"));
        assert_eq!(authorization(&[USER, TOKEN], None), Some("Bearer tok".into()));
        assert_eq!(authorization(&[], Some(SAVED)), basic("filed:kept=1"));
        assert_eq!(authorization(&[USER], Some(SAVED)), basic("me:kept=1"));
    }

    #[test]
    fn credentials_are_for_the_server_that_the_environment_names() {
        const TOKEN: (&str, &str) = ("MLFLOW_TRACKING_TOKEN", "tok");
        let with = |uri| authorization(&[TOKEN, ("MLFLOW_TRACKING_URI", uri)], None);
        assert!(with("http://h:5000/").is_some() && with("sqlite:///x.db").is_some());
        for other in ["http://h", "https://h:5000", "http://other:5000"] {
            assert_eq!(with(other), None, "{other}");
        }
    }

    #[test]
    fn contradictions_and_plugins_are_refused() {
        for (set, says) in [
            (vec![("MLFLOW_TRACKING_AWS_SIGV4", "true")], "plugin"),
            (vec![("MLFLOW_TRACKING_AUTH", "x")], "plugin"),
            (vec![("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")], "no number"),
            (
                vec![
                    ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
                    ("MLFLOW_TRACKING_SERVER_CERT_PATH", "ca.pem"),
                ],
                "both set",
            ),
        ] {
            let error = settings(&set, None).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(settings(&[("MLFLOW_TRACKING_AWS_SIGV4", "false")], None).is_ok());
        let variable =
            |name: &str| (name == "MLFLOW_TRACKING_URI").then(|| "http://me:hunter2@h".to_owned());
        let error = Environment::new(&variable, None).server(&ServerName::Environment);
        let error = error.err().unwrap().to_string();
        assert!(!error.contains("hunter2") && error.contains("MLFLOW_TRACKING_URI"), "{error}");
    }
}
