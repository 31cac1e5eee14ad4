//! Which architectures of a space an experiment is over.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::truth::Accuracies;
use crate::error::{Error, Result};
use crate::file;
use crate::space::{self, Architecture, Space};

/// Which architectures of a space an experiment is over.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Choice {
    /// Where they come from.
    pub from: From,
    /// How many of them are drawn; `None` for all.
    pub draw: Option<usize>,
    /// The seed that they are drawn from.
    pub seed: u64,
    /// Those that are named here, in the notation of the space, or by their place in its order.
    pub list: Vec<String>,
    /// Those that a text file names, one a line.
    pub file: Option<PathBuf>,
}

/// Where architectures come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// Those that the truth has an accuracy of.
    #[default]
    Truth,
    /// The whole space, where it has an order.
    Space,
}

impl Choice {
    /// The same with a path that is relative to `folder`.
    pub(super) fn located(self, folder: &Path) -> Self {
        Choice { file: self.file.map(|file| folder.join(file)), ..self }
    }

    /// The architectures of `space`, each once.
    ///
    /// # Errors
    /// When a name is of no architecture, more are to be drawn than there are, or the space has no
    /// order to be counted off in.
    pub(super) fn of(
        &self,
        space: &'static dyn Space,
        truth: &Accuracies,
    ) -> Result<Vec<Box<dyn Architecture>>> {
        let mut names = self.list.clone();
        if let Some(path) = &self.file {
            let text = String::from_utf8(file::read(path)?)
                .map_err(|_| Error::Data(format!("{}: no text in UTF-8", path.display())))?;
            let lines = text.lines().map(str::trim);
            names.extend(lines.filter(|line| !line.is_empty()).map(String::from));
        }
        let all: Vec<Box<dyn Architecture>> = if self.file.is_some() || !self.list.is_empty() {
            names.iter().map(|name| named(space, name)).collect::<Result<_>>()?
        } else {
            match (self.from, space.size()) {
                (From::Truth, _) => {
                    truth.notations().map(|name| space.parse(name)).collect::<Result<_>>()?
                }
                (From::Space, Some(size)) => {
                    return match self.draw {
                        Some(count) if count < size => space::sample(space, count, self.seed),
                        _ => (0..size).map(|index| space.nth(index)).collect(),
                    };
                }
                (From::Space, None) => match self.draw {
                    Some(count) => return space::sample(space, count, self.seed),
                    None => {
                        return Err(Error::Usage(format!(
                            "architectures: {} has no order to go through: say how many to draw, or \
                             take those of the truth",
                            space.name()
                        )));
                    }
                },
            }
        };
        let mut seen = HashSet::new();
        let all: Vec<_> = all.into_iter().filter(|a| seen.insert(a.notation())).collect();
        match self.draw {
            Some(count) if count > all.len() => Err(Error::Usage(format!(
                "architectures: {count} are to be drawn from {}",
                all.len()
            ))),
            Some(count) => Ok(drawn(all, count, self.seed)),
            None => Ok(all),
        }
    }
}

/// The architecture of this notation, or at this place.
fn named(space: &'static dyn Space, name: &str) -> Result<Box<dyn Architecture>> {
    match name.parse() {
        Ok(index) if space.order().is_some() => space.nth(index),
        _ => space.parse(name),
    }
}

/// `count` of `items` in their order. Each seed gives every item a number of its own, by its name, and
/// the lowest are taken: an item that is added moves no other.
fn drawn(items: Vec<Box<dyn Architecture>>, count: usize, seed: u64) -> Vec<Box<dyn Architecture>> {
    let key = |item: &dyn Architecture| Sha256::digest(format!("{seed} {}", item.notation()));
    let mut by_key: BTreeMap<_, usize> =
        items.iter().enumerate().map(|(at, item)| (key(&**item), at)).collect();
    let taken: HashSet<usize> = std::mem::take(&mut by_key).into_values().take(count).collect();
    let numbered = items.into_iter().enumerate();
    numbered.filter(|(at, _)| taken.contains(at)).map(|(_, item)| item).collect()
}
