//! Where models come from: a [`Source`] lists [`ModelRef`]s and fetches the models that they name.

mod address;
mod architectures;
mod fetched;
mod files;
mod memory;
mod names;

use serde::{Deserialize, Serialize};

pub use architectures::Architectures;
pub use fetched::Fetched;
pub use files::Files;
pub use memory::InMemory;
pub use names::names;

use crate::error::{Error, Result};
use crate::space;

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
        let names = names(&addresses);
        names.into_iter().zip(addresses).map(|(name, address)| ModelRef { name, address }).collect()
    }

    /// A reference to one model.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        ModelRef { name: names(&[&address]).remove(0), address }
    }

    /// The last component of the address.
    pub fn file_name(&self) -> &str {
        let name = names::last(&self.address);
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

/// Whatever source an address names: that of files, or that of networks of search spaces.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnySource;

impl Source for AnySource {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Err(Error::Usage("name the models: there is no list of all".into()))
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        let scheme = model.address.split_once("://").map(|(scheme, _)| scheme);
        let is_scheme = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        };
        match scheme.filter(|scheme| is_scheme(scheme)) {
            Some(space::SCHEME) => Architectures::default().fetch(model),
            Some(scheme) => Err(Error::Usage(format!(
                "no source knows addresses that begin with {scheme}://: give the path of a file"
            ))),
            None => Files::default().fetch(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_unknown_schemes_are_refused() {
        let fetch = |address: &str| AnySource.fetch(&ModelRef::new(address));
        assert!(fetch("oci://host/repo:1").unwrap_err().to_string().contains("oci://"));
        assert!(fetch("models/mlp.onnx").is_ok());
        assert!(AnySource.list().is_err());
    }

    #[test]
    fn the_file_name_is_the_last_component() {
        for (address, name) in [("a/b.onnx", "b.onnx"), ("file:%FF.onnx", "%FF.onnx"), ("/", "/")] {
            assert_eq!(ModelRef::new(address).file_name(), name);
        }
    }
}
