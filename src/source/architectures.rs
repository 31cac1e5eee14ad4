//! Networks of search spaces, built when they are fetched.

use super::{Fetched, ModelRef, Source};
use crate::error::Result;
use crate::space::{self, Architecture, BuildOptions};

/// Networks of search spaces, which are built when they are fetched and never are files.
///
/// An address says all that a network is built of, so that it can be scored by another process; a
/// network is called what its architecture is: see [`space::address`] and [`Architecture::name`].
///
/// ```
/// use gradalign::source::{Architectures, Source};
/// use gradalign::space::{self, BuildOptions};
///
/// # fn main() -> gradalign::Result<()> {
/// let all = space::sample(space::named("nasbench201")?, 3, 0)?;
/// let models = Architectures::new(&all, &BuildOptions::default());
/// for model in models.list()? {
///     let network = models.fetch(&model)?.load(None)?;
///     assert_eq!(network.graph.outputs[0].name, "logits");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Architectures {
    models: Vec<ModelRef>,
}

impl Architectures {
    /// Those networks that `options` make of `architectures`, in this order.
    pub fn new(architectures: &[Box<dyn Architecture>], options: &BuildOptions) -> Self {
        let models = architectures.iter().map(|architecture| ModelRef {
            name: architecture.name(),
            address: space::address(&**architecture, options),
        });
        Architectures { models: models.collect() }
    }
}

impl Source for Architectures {
    fn list(&self) -> Result<Vec<ModelRef>> {
        Ok(self.models.clone())
    }

    fn fetch(&self, model: &ModelRef) -> Result<Fetched> {
        let (architecture, options) = space::at_address(&model.address)?;
        Ok(Fetched::built(architecture.build(&options)?, &model.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Sidecars, encode, sha256_of};

    /// A network in memory is the one that is in the file.
    #[test]
    fn networks_are_what_their_files_hold() {
        for space in space::ALL {
            let drawn = space::sample(space, 1, 3).unwrap();
            let models = Architectures::new(&drawn, &BuildOptions::default());
            let list = models.list().unwrap();
            assert_eq!(list[0].name, drawn[0].name());
            let fetched = models.fetch(&list[0]).unwrap();
            let bytes = encode(&drawn[0].build(&BuildOptions::default()).unwrap()).unwrap();
            assert_eq!(fetched.sha256(None).unwrap(), sha256_of(&bytes, &Sidecars::new()));
            let file = Fetched::memory(bytes, Sidecars::new(), list[0].name.clone());
            let [built, read] = [fetched, file].map(|model| encode(&model.load(None).unwrap()));
            assert!(built.unwrap() == read.unwrap());
        }
    }
}
