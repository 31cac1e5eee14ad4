//! Where models come from: a [`Source`] lists [`ModelRef`]s and fetches the models that they name.

mod address;
mod architectures;
mod archive;
#[cfg(feature = "registry")]
mod cache;
mod fetched;
mod files;
mod hub;
mod memory;
#[cfg(feature = "registry")]
pub(crate) mod mlflow;
mod names;
#[cfg(feature = "registry")]
mod oci;
mod sources;

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use architectures::Architectures;
pub use fetched::Fetched;
pub use files::Files;
pub use memory::InMemory;
pub use names::names;
pub use sources::Sources;

use crate::error::{Error, Result};
use crate::space;
use archive::Archive;

/// The extension of model files, by which they are found.
const EXTENSION: &str = "onnx";

/// The target of what is told though nothing is wrong.
pub(crate) const NOTICE: &str = "gradalign::notice";

/// A model by its address, and what outputs call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRef {
    /// The shortest end of the address that tells the model from the others listed with it: see
    /// [`names`].
    pub name: String,
    /// Where the model is: a path, or an address that its [`Source`] knows. A path that is not
    /// UTF-8 is written as `file:` with percent escapes.
    pub address: String,
}

impl ModelRef {
    /// References to the models at `addresses`, named so that no two have the same name.
    pub fn all(addresses: impl IntoIterator<Item = String>) -> Vec<ModelRef> {
        let addresses: Vec<String> = addresses.into_iter().collect();
        let labels: Vec<_> = addresses.iter().map(|address| address::label(address)).collect();
        let names = names(&labels);
        names.into_iter().zip(addresses).map(|(name, address)| ModelRef { name, address }).collect()
    }

    /// A reference to one model.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        ModelRef { name: names(&[address::label(&address)]).remove(0), address }
    }

    /// The last component of the address; of a version of a registered model `NAME@VERSION`.
    pub fn file_name(&self) -> &str {
        let name = match address::label(&self.address) {
            Cow::Borrowed(_) => names::last(&self.address),
            // What its name ends with.
            Cow::Owned(_) => names::last(&self.name),
        };
        name.strip_prefix(address::SCHEME).unwrap_or(name)
    }
}

/// Where models come from.
///
/// Listing is cheap: nothing of a model is read before it is fetched. A source that downloads keeps
/// small models in memory ([`Fetched::memory`]) and puts large ones into a temporary folder, which
/// lasts as long as the [`Fetched`] that keeps it.
pub trait Source: Send + Sync {
    /// The models, in order.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&self) -> Result<Vec<ModelRef>>;

    /// Makes the content of a model available.
    ///
    /// # Errors
    /// When the model is not there, or cannot be had.
    fn fetch(&self, model: &ModelRef) -> Result<Fetched>;
}

/// Whatever source an address names: what a process knows that is told addresses alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnySource {
    /// The condition that versions of registered models must meet, in the registry's own language.
    pub filter: Option<String>,
    /// The folders of this machine that a registry may name files in.
    pub allow_local: Vec<PathBuf>,
}

impl AnySource {
    /// The addresses of the models that `place` stands for, if it is of another source than files.
    fn list_at(&self, place: &str) -> Option<Result<Vec<String>>> {
        let (scheme, rest) = address::scheme(place)?;
        Some(match scheme {
            hub::SCHEME => hub::list(rest),
            #[cfg(feature = "registry")]
            "mlflow" | "mlflows" | "models" => mlflow::list(scheme, rest, self.filter.as_deref()),
            #[cfg(feature = "registry")]
            oci::SCHEME => oci::list(rest),
            unknown => Err(refused(unknown)),
        })
    }
}

impl Source for AnySource {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Err(Error::Usage("name the models: there is no list of all".into()))
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        let address = &model.address;
        match address::scheme(address) {
            Some((hub::SCHEME, rest)) => hub::fetch(rest),
            #[cfg(feature = "registry")]
            Some((scheme @ ("mlflow" | "mlflows" | "models"), rest)) => {
                mlflow::fetch(address, scheme, rest, self)
            }
            #[cfg(feature = "registry")]
            Some((oci::SCHEME, rest)) => oci::fetch(address, rest),
            Some((space::SCHEME, _)) => Architectures::default().fetch(model),
            Some((unknown, _)) => Err(refused(unknown)),
            None => match Archive::of_address(address) {
                Some((archive, inside)) => archive.fetch(inside),
                None => Files::default().fetch(model),
            },
        }
    }
}

fn refused(scheme: &str) -> Error {
    Error::Usage(format!(
        "no source knows addresses that begin with {scheme}://: give files, folders, archives, \
         hf://ORG/NAME, mlflow://HOST/NAME or oci://HOST/NAME:TAG"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_unknown_schemes_are_refused() {
        let fetch = |address: &str| AnySource::default().fetch(&ModelRef::new(address));
        assert!(fetch("ftp://host/repo:1").unwrap_err().to_string().contains("ftp://"));
        assert!(fetch("models/mlp.onnx").is_ok());
        assert!(AnySource::default().list().is_err());
    }

    #[test]
    fn the_file_name_is_the_last_component() {
        for (address, name) in [
            ("a/b.onnx", "b.onnx"),
            ("file:%FF.onnx", "%FF.onnx"),
            ("/", "/"),
            ("a.zip!/m.onnx", "m.onnx"),
            ("mlflow://host/cnn/3", "cnn@3"),
        ] {
            assert_eq!(ModelRef::new(address).file_name(), name);
        }
    }
}
