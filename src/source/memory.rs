//! Models in memory.

use std::sync::Arc;

use super::fetched::Bytes;
use super::{Fetched, ModelRef, Source};
use crate::error::{Error, Result};
use crate::onnx::Sidecars;

/// Models in memory, by address.
///
/// ```
/// use gradalign::onnx::Sidecars;
/// use gradalign::source::{InMemory, Source};
///
/// let bytes = std::fs::read("models/mlp.onnx").unwrap();
/// let models = InMemory::default().with("mlp", bytes, Sidecars::new());
/// assert_eq!(models.list().unwrap()[0].name, "mlp");
/// ```
#[derive(Debug, Default)]
pub struct InMemory {
    models: Vec<(String, Arc<Bytes>)>,
}

impl InMemory {
    /// The same with one model more: the bytes of an ONNX file, and of the files with its external
    /// data. It replaces one of the same address.
    #[must_use]
    pub fn with(mut self, address: impl Into<String>, model: Vec<u8>, sidecars: Sidecars) -> Self {
        let (address, bytes) = (address.into(), Arc::new(Bytes { model, sidecars }));
        match self.models.iter_mut().find(|(known, _)| *known == address) {
            Some((_, known)) => *known = bytes,
            None => self.models.push((address, bytes)),
        }
        self
    }
}

impl Source for InMemory {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Ok(ModelRef::all(self.models.iter().map(|(address, _)| address.clone())))
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        let found = self.models.iter().find(|(address, _)| *address == model.address);
        let (address, bytes) = found.ok_or_else(|| {
            Error::Usage(format!("there is no model '{}' in memory", model.address))
        })?;
        Ok(Fetched::shared(Arc::clone(bytes), address.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_address() {
        let models = InMemory::default()
            .with("a/m", vec![1], Sidecars::new())
            .with("b/m", vec![2], Sidecars::new())
            .with("a/m", vec![3], Sidecars::new());
        let list = models.list().unwrap();
        let names: Vec<_> = list.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["a/m", "b/m"]);
        let digest = |bytes: &[u8]| crate::onnx::sha256_of(bytes, &Sidecars::new());
        let fetched = models.fetch(&list[0]).unwrap();
        assert_eq!(fetched.sha256(None).unwrap(), digest(&[3]));
        assert!(models.fetch(&ModelRef::new("c")).is_err());
    }
}
