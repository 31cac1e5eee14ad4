//! Models of an MLflow server: `mlflow://HOST[:PORT]/NAME[/VERSION|@ALIAS]` and `models:/NAME…`.
//!
//! All is asked of the server by HTTP, as MLflow's own client does, and by the environment variables that
//! it knows. An address that is listed names a version by its number, so that a process that knows the
//! address alone fetches the same.

mod address;
mod api;
mod artifacts;
mod environment;
mod place;

use super::{AnySource, Fetched, cache};
use crate::error::{Error, Result};

pub(crate) use address::{Address, Which};
pub(crate) use api::{Server, Version};
pub(crate) use place::{ARTIFACTS, artifact_path};

use artifacts::Files;
use environment::Environment;

/// The address of a registered model that `text` is, if it looks like one.
pub(crate) fn parse(text: &str) -> Option<Result<Address>> {
    match super::address::scheme(text)? {
        (scheme @ ("mlflow" | "mlflows" | "models"), rest) => Some(Address::parse(scheme, rest)),
        _ => None,
    }
}

/// The server that an address names, as the environment says to ask it.
pub(crate) fn server(address: &Address) -> Result<Server> {
    let variable = |name: &str| std::env::var(name).ok();
    Environment::new(&variable, environment::saved_credentials()).server(&address.server)
}

/// The addresses of the versions that `rest`, which follows the scheme, stands for.
pub(super) fn list(scheme: &str, rest: &str, filter: Option<&str>) -> Result<Vec<String>> {
    let address = Address::parse(scheme, rest)?;
    if let (Address { name: Some(name), which: Which::Version { number, path }, .. }, None) =
        (&address, filter)
    {
        return Ok(vec![address.of_version(name, *number, path.as_deref())]);
    }
    let server = server(&address)?;
    let versions = match (&address.name, &address.which) {
        (Some(name), Which::Alias(alias)) => vec![server.by_alias(name, alias)?],
        (Some(name), which) => {
            let all = server.versions(&of_model(name, filter))?;
            let mut fitting: Vec<Version> =
                all.into_iter().filter(|version| version.name == *name).collect();
            match which {
                Which::Version { number, .. } => {
                    fitting.retain(|version| version.version == number.to_string());
                }
                Which::Stage(stage) => {
                    let is_latest = stage.eq_ignore_ascii_case("latest");
                    fitting.retain(|v| is_latest || v.current_stage.eq_ignore_ascii_case(stage));
                    fitting.drain(..fitting.len().saturating_sub(1));
                }
                Which::All | Which::Alias(_) => {}
            }
            fitting
        }
        (None, _) => server.versions(filter.unwrap_or_default())?,
    };
    if versions.is_empty() {
        return Err(Error::Usage(format!(
            "{}: no version of a registered model fits {scheme}:{}{rest}",
            server.registry().origin(),
            if scheme == "models" { "/" } else { "//" },
        )));
    }
    let path = match &address.which {
        Which::Version { path, .. } => path.as_deref(),
        _ => None,
    };
    let of_version = |v: &Version| Ok(address.of_version(&v.name, v.number()?, path));
    versions.iter().map(of_version).collect()
}

/// The condition that a version is of the model `name`, and meets `filter`.
fn of_model(name: &str, filter: Option<&str>) -> String {
    let quote = if name.contains('\'') { '"' } else { '\'' };
    let name = format!("name = {quote}{name}{quote}");
    filter.map(|filter| format!("{name} AND {filter}")).unwrap_or(name)
}

/// The model at an address, on this machine.
pub(super) fn fetch(
    address: &str,
    scheme: &str,
    rest: &str,
    source: &AnySource,
) -> Result<Fetched> {
    let parsed = Address::parse(scheme, rest)?;
    let (Some(name), Which::Version { number, path }) = (&parsed.name, &parsed.which) else {
        return Err(Error::Usage(format!(
            "{address} is no single version: name it as NAME/VERSION"
        )));
    };
    let server = server(&parsed)?;
    let version = server.version(name, *number)?;
    if !matches!(version.status.as_str(), "READY" | "") {
        let said = if version.status_message.is_empty() { "" } else { ": " };
        return Err(Error::Remote(format!(
            "{address}: the version is not ready, but {}{said}{}",
            version.status, version.status_message
        )));
    }
    let files = Files {
        server: &server,
        version: &version,
        number: *number,
        allow_local: &source.allow_local,
        cache: &cache::root()?,
    };
    let model = files.model(path.as_deref()).map_err(|error| match error {
        Error::Remote(why) => Error::Remote(format!("{address}: {why}")),
        other => other,
    })?;
    Ok(Fetched::file(model).called(address))
}
