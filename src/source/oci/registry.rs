//! The pull side of the OCI distribution interface: a manifest, blobs, and who asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::header::{ACCEPT, HeaderName, WWW_AUTHENTICATE};

use super::super::cache::Folder;
use crate::error::{Error, Result};
use crate::file;
use crate::http::{Answer, Client, Manners, Origin, Patience, Settings, encoded};

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// How the path of a layer's file is noted, by those who do.
const NAMES: [&str; 3] =
    ["org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath"];

/// A repository of a registry.
pub(super) struct Registry {
    client: Client,
    repository: String,
}

/// What an artifact consists of.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Manifest {
    pub layers: Vec<Layer>,
    /// Of an index.
    manifests: Vec<Layer>,
    /// `sha256:` and the digest of the manifest itself.
    #[serde(skip)]
    pub digest: String,
}

/// A part, by its digest.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Layer {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
}

impl Layer {
    /// The path of its file.
    pub fn name(&self) -> Option<&str> {
        NAMES.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }

    /// Whether it may hold files, rather than be one that is named.
    pub fn may_be_archive(&self) -> bool {
        let has_extension = self.name().is_some_and(|name| Path::new(name).extension().is_some());
        let is_packed = [".tar", ".tgz", ".tar.gz", ".zip"];
        !has_extension
            || self.name().is_some_and(|name| is_packed.iter().any(|end| name.ends_with(end)))
    }
}

impl Registry {
    /// The repository on `host`, and the manifest at a tag or digest.
    pub fn open(host: &str, repository: &str, reference: &str) -> Result<(Self, Manifest)> {
        let credentials = saved(host);
        Registry::open_as(host, repository, reference, credentials)
    }

    pub(super) fn open_as(
        host: &str,
        repository: &str,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<(Self, Manifest)> {
        // As other clients have it: registries on this machine need no encryption.
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is_local = name == "localhost" || name.starts_with("127.") || name == "[::1]";
        let scheme = if is_local { "http" } else { "https" };
        let origin = Origin::parse(&format!("{scheme}://{host}"))
            .ok_or_else(|| Error::Usage(format!("'{host}' is no host with a port")))?;
        let repository = repository.to_owned();
        let anonymous = Client::new(origin.clone(), settings(None))?;
        let mut registry = Registry { client: anonymous, repository };
        let mut answer = registry.manifest(reference)?;
        if answer.status() == 401 {
            let challenge = answer.header(WWW_AUTHENTICATE).unwrap_or_default().to_owned();
            let Some(authorization) = registry.answer_to(&challenge, credentials)? else {
                return Err(answer.refusal());
            };
            registry.client = Client::new(origin, settings(Some(authorization)))?;
            answer = registry.manifest(reference)?;
        }
        let (bytes, digest) = checked(answer, reference)?;
        let manifest: Manifest = parsed(&bytes)?;
        let manifest = match manifest.manifests.as_slice() {
            [] => Manifest { digest, ..manifest },
            [only] => {
                let (bytes, digest) = checked(registry.manifest(&only.digest)?, &only.digest)?;
                Manifest { digest, ..parsed(&bytes)? }
            }
            several => {
                let all: Vec<&str> = several.iter().map(|m| m.digest.as_str()).collect();
                return Err(Error::Remote(format!(
                    "it is an index of {} artifacts: name one by its digest: {}",
                    all.len(),
                    all.join(", ")
                )));
            }
        };
        Ok((registry, manifest))
    }

    fn manifest(&self, reference: &str) -> Result<Answer> {
        let path = format!("/v2/{}/manifests/{reference}", self.repository);
        let accept: [(HeaderName, String); 1] = [(ACCEPT, MANIFESTS.into())];
        self.client.get_with(&path, &accept, Patience::Retry)
    }

    /// What to send as `Authorization` after a challenge; `None` where that needs credentials that are
    /// not there.
    fn answer_to(
        &self,
        challenge: &str,
        credentials: Option<Credentials>,
    ) -> Result<Option<String>> {
        if let Some(Credentials { token: Some(token), .. }) = &credentials {
            return Ok(Some(format!("Bearer {token}")));
        }
        let basic = credentials.and_then(|c| c.basic).map(|basic| format!("Basic {basic}"));
        let Some(parameters) = challenge.strip_prefix("Bearer ") else { return Ok(basic) };
        let get = |key: &str| parameter(parameters, key).unwrap_or_default();
        let realm = get("realm");
        let place = self.client.origin().led("", &realm);
        let place = place
            .filter(|(server, _)| server.is_encrypted() || !self.client.origin().is_encrypted());
        let (server, path) = place.ok_or_else(|| {
            Error::Remote(format!("it sends to '{realm}' for a token, which is not asked"))
        })?;
        let scope = format!("repository:{}:pull", self.repository);
        let path = format!(
            "{path}{}service={}&scope={}",
            if path.contains('?') { '&' } else { '?' },
            encoded(&get("service")),
            encoded(&scope)
        );
        #[derive(Deserialize)]
        struct Token {
            #[serde(alias = "access_token")]
            token: String,
        }
        let client = Client::new(server, settings(basic))?;
        let token: Token = client.get_with(&path, &[], Patience::Retry)?.or(&[])?.json()?;
        Ok(Some(format!("Bearer {}", token.token)))
    }

    /// Has the content of a layer at `name` in `folder`, checked by its digest.
    pub fn blob(&self, layer: &Layer, folder: &Folder, name: &str) -> Result<PathBuf> {
        let target = folder.at(name);
        let is_there = |path: &Path| -> Result<bool> {
            Ok(path.is_file() && format!("sha256:{}", file::sha256(path)?) == layer.digest)
        };
        if is_there(&target)? {
            return Ok(target);
        }
        let path = format!("/v2/{}/blobs/{}", self.repository, layer.digest);
        let got = folder.fetch(&self.client, &path, name, Some(layer.size), Patience::Retry)?;
        let got =
            got.ok_or_else(|| Error::Remote(format!("the layer {} is missing", layer.digest)))?;
        if is_there(&got)? {
            return Ok(got);
        }
        // It must not be taken for the file the next time.
        let _ = std::fs::remove_file(&got);
        Err(Error::Remote(format!(
            "what was got as {} has another digest: it was damaged or replaced on its way",
            layer.digest
        )))
    }
}

/// The bytes of a manifest with their digest, which is `reference` if that is one.
fn checked(answer: Answer, reference: &str) -> Result<(Vec<u8>, String)> {
    let bytes = answer.or(&[])?.bytes()?;
    let digest = format!("sha256:{}", file::hex(Sha256::new_with_prefix(&bytes)));
    if reference.contains(':') && reference != digest {
        return Err(Error::Remote(format!(
            "the manifest that was asked for is {reference}, and what came is {digest}"
        )));
    }
    Ok((bytes, digest))
}

fn parsed(bytes: &[u8]) -> Result<Manifest> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Remote(format!("its manifest is not as it should be ({e})")))
}

fn settings(authorization: Option<String>) -> Settings {
    let secret = authorization.into_iter().map(|value| ("authorization", value));
    let secret: Vec<_> = secret.collect();
    let hidden = secret.iter().filter_map(|(_, value)| Some(value.split_once(' ')?.1.to_owned()));
    let manners = Manners {
        hidden: hidden.collect(),
        login: "log in with 'docker login' or 'oras login'",
        trust: "its certificate is not one of the public web",
    };
    let timeout = Some(Duration::from_secs(120));
    Settings { secret, manners, timeout, retries: 4, backoff: 0.5, ..Settings::default() }
}

/// A parameter of a challenge: `key="value"`.
fn parameter(text: &str, key: &str) -> Option<String> {
    let start = format!("{key}=\"");
    let from = text
        .match_indices(&start)
        .map(|(at, _)| at)
        .find(|&at| at == 0 || text[..at].ends_with([',', ' ']))?
        + start.len();
    text[from..].split_once('"').map(|(value, _)| value.to_owned())
}

/// What a registry is told of who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    /// Name and password in base64.
    pub basic: Option<String>,
    pub token: Option<String>,
}

/// What `docker login` or `oras login` saved for a registry.
fn saved(host: &str) -> Option<Credentials> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let folder = || variable("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(std::env::home_dir()?.join(".docker"));
    let path = named.or_else(|| Some(folder().or_else(home)?.join("config.json")))?;
    credentials(&std::fs::read(path).ok()?, host)
}

fn credentials(config: &[u8], host: &str) -> Option<Credentials> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Saved>,
    }
    #[derive(Clone, Default, Deserialize)]
    #[serde(default)]
    struct Saved {
        auth: String,
        username: String,
        password: String,
        registrytoken: String,
    }
    let config: Config = serde_json::from_slice(config).ok()?;
    let is_host = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next() == Some(host)
    };
    let saved = config.auths.into_iter().find(|(key, _)| is_host(key))?.1;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let Saved { auth, username, password, registrytoken } = saved;
    let both = || some(username).map(|user| BASE64_STANDARD.encode(format!("{user}:{password}")));
    Some(Credentials { basic: some(auth).or_else(both), token: some(registrytoken) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_and_saved_credentials_are_read() {
        let text = r#"realm="http://h/t?a=b",service="reg, x",scope="repository:a/b:pull""#;
        assert_eq!(parameter(text, "realm").as_deref(), Some("http://h/t?a=b"));
        assert_eq!(parameter(text, "service").as_deref(), Some("reg, x"));
        assert_eq!(parameter(text, "error"), None);
        let config = br#"{"auths": {"https://h:5000/v2/": {"auth": "bWU6cHc="},
            "other": {"username": "me", "password": "pw"}, "t": {"registrytoken": "tok"}}}"#;
        let basic = |host| credentials(config, host).and_then(|found| found.basic);
        assert_eq!(basic("h:5000").as_deref(), Some("bWU6cHc="));
        assert_eq!(basic("other").as_deref(), Some("bWU6cHc="));
        assert_eq!(credentials(config, "t").unwrap().token.as_deref(), Some("tok"));
        assert!(credentials(config, "h").is_none());
    }
}
