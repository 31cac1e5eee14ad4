//! Search spaces: architectures, and the networks that are built of them, at initialisation.
//!
//! A [`Space`] reads [`Architecture`]s, draws them, and counts them off where they have an order; an
//! architecture is built into a [`Model`], which is imported and scored like one that was read from a
//! file, and can be written as one. [`crate::source::Architectures`] hands them to a scorer.
//!
//! ```
//! use gradalign::space::{self, BuildOptions};
//!
//! # fn main() -> gradalign::Result<()> {
//! let architecture = space::named("nasbench201")?.nth(1462)?;
//! assert_eq!(architecture.notation().matches("nor_conv_3x3").count(), 6);
//! let model = architecture.build(&BuildOptions { classes: 100, ..BuildOptions::default() })?;
//! assert_eq!(space::parameters(&model), 1_537_396);
//! # Ok(())
//! # }
//! ```

mod address;
mod blocks;
mod cell;
mod nasbench101;
mod nasbench201;
mod nasbench_macro;
mod natsbench_size;
mod nds;
mod network;
mod shuffle;
mod transnas101;

use std::collections::HashSet;
use std::fmt;

use rand::Rng;
use serde_json::Value;

pub use address::{SCHEME, address, at_address};
pub use network::parameters;

use crate::error::{Error, Result};
use crate::onnx::Model;
use network::generator;

/// A search space.
pub trait Space: Sync {
    /// The name, such as `nasbench201`.
    fn name(&self) -> &'static str;

    /// How architectures are written, in words.
    fn form(&self) -> &'static str;

    /// Which order [`Space::nth`] goes by, in words; `None` where there is none.
    fn order(&self) -> Option<&'static str> {
        None
    }

    /// How many architectures are in order.
    fn size(&self) -> Option<usize> {
        None
    }

    /// The architecture at a place in the order, from 0.
    ///
    /// # Errors
    /// When the space has no order, or fewer architectures.
    fn nth(&self, index: usize) -> Result<Box<dyn Architecture>>;

    /// The architecture that `notation` stands for.
    ///
    /// # Errors
    /// When it is none of this space.
    fn parse(&self, notation: &str) -> Result<Box<dyn Architecture>>;

    /// A random architecture.
    fn draw(&self, rng: &mut dyn Rng) -> Box<dyn Architecture>;

    /// The channels that the stem may have, the default first; empty where it has always the same.
    fn stems(&self) -> &'static [usize] {
        &[]
    }
}

/// An architecture: all of a network but its parameters, and how many classes and pixels there are.
pub trait Architecture: fmt::Debug + Send + Sync {
    /// The name of the space.
    fn space(&self) -> &'static str;

    /// A name for people and files, of letters, digits, `-` and `_`: the space, and what tells the
    /// architecture from others there.
    fn name(&self) -> String;

    /// How the space writes it. [`Space::parse`] reads it.
    fn notation(&self) -> String;

    /// Builds the network, at initialisation.
    ///
    /// # Errors
    /// When an option does not fit the space.
    fn build(&self, options: &BuildOptions) -> Result<Model>;
}

/// What a network is built with beside its architecture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BuildOptions {
    /// How many outputs it has.
    pub classes: usize,
    /// The rows and columns of an image.
    pub image_size: usize,
    /// The channels of the stem, where the space has a choice: see [`Space::stems`]. `None` for its
    /// first.
    pub stem: Option<usize>,
    /// The seed that parameters are drawn from. Each has a generator of its own, by its name, so that
    /// networks that share a layer share its parameters.
    pub seed: u64,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions { classes: 10, image_size: 32, stem: None, seed: 0 }
    }
}

impl BuildOptions {
    /// Errs where they do not fit `space`, whose networks take images of a multiple of `unit` pixels.
    fn check(&self, space: &dyn Space, unit: usize) -> Result<()> {
        let refused = |why: String| Err(Error::Usage(format!("{}: {why}", space.name())));
        if self.classes == 0 {
            return refused("a network needs a class at least: raise `classes`".into());
        }
        if self.image_size == 0 || !self.image_size.is_multiple_of(unit) {
            return refused(format!(
                "its networks cannot take images of {0} × {0} pixels: make `image-size` a multiple of \
                 {unit}",
                self.image_size
            ));
        }
        let stems: Vec<_> = space.stems().iter().map(ToString::to_string).collect();
        match self.stem {
            Some(_) if stems.is_empty() => {
                refused("the stem of its networks is always the same: leave `stem` out".into())
            }
            Some(stem) if !space.stems().contains(&stem) => {
                refused(format!("no stem has {stem} channels: choose {}", stems.join(" or ")))
            }
            _ => Ok(()),
        }
    }
}

/// All spaces.
pub static ALL: [&dyn Space; 11] = [
    &nasbench201::NasBench201,
    &natsbench_size::NatsBenchSize,
    &nasbench101::NasBench101,
    &nds::DARTS,
    &nds::NASNET,
    &nds::AMOEBA,
    &nds::ENAS,
    &nds::PNAS,
    &nasbench_macro::NasBenchMacro,
    &transnas101::Macro,
    &transnas101::Micro,
];

/// The space of this name.
///
/// # Errors
/// When there is none.
pub fn named(name: &str) -> Result<&'static dyn Space> {
    ALL.iter().copied().find(|space| space.name() == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|space| space.name()).collect();
        Error::Usage(format!("unknown search space '{name}': choose {}", names.join(", ")))
    })
}

/// The architectures that `text` holds: one, as `space` writes it, or a JSON list of some.
///
/// # Errors
/// When it is neither.
pub fn read(space: &dyn Space, text: &str) -> Result<Vec<Box<dyn Architecture>>> {
    let text = text.trim();
    if !text.starts_with('[') {
        return Ok(vec![space.parse(text)?]);
    }
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|e| Error::Usage(format!("no JSON list of architectures: {e}")))?;
    let parsed = list.iter().enumerate().map(|(i, entry)| {
        let architecture = match entry {
            Value::String(notation) => space.parse(notation),
            other => space.parse(&other.to_string()),
        };
        architecture.map_err(|e| Error::Usage(format!("entry {i}: {e}")))
    });
    parsed.collect()
}

/// `count` different architectures of `space`, drawn from `seed`. The first ones are the same for any
/// count.
///
/// # Errors
/// When the space has not so many.
pub fn sample(space: &dyn Space, count: usize, seed: u64) -> Result<Vec<Box<dyn Architecture>>> {
    if let Some(size) = space.size().filter(|&size| size < count) {
        return Err(Error::Usage(format!(
            "{}: there are {size} architectures, and not {count}",
            space.name()
        )));
    }
    let mut rng = generator(seed, space.name());
    let (mut drawn, mut seen) = (Vec::with_capacity(count), HashSet::new());
    while drawn.len() < count {
        let architecture = space.draw(&mut rng);
        if seen.insert(architecture.name()) {
            drawn.push(architecture);
        }
    }
    Ok(drawn)
}

/// That `space` has nothing at `index`.
fn not_indexed(space: &dyn Space, index: usize) -> Error {
    Error::Usage(match space.size() {
        Some(size) => {
            format!("{}: no architecture {index}: they go from 0 to {}", space.name(), size - 1)
        }
        None => format!("{}: its architectures have no order to count by", space.name()),
    })
}

/// The digits of `number` to a base, the last one changing fastest; `None` where they are not enough.
fn digits<const N: usize>(number: usize, base: usize) -> Option<[usize; N]> {
    let mut digits = [0; N];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = rest % base;
        rest /= base;
    }
    (rest == 0).then_some(digits)
}

/// The number that has these digits.
fn code_of<const N: usize>(digits: [usize; N], base: usize) -> usize {
    digits.into_iter().fold(0, |number, digit| number * base + digit)
}
