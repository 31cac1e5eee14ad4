//! Which parameters count.

use std::collections::HashMap;
use std::fmt;

use crate::graph::Graph;
use crate::transform::{self, Role};

/// A choice of parameters by their roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// All of them.
    All,
    /// Kernels and matrices of convolutions and linear layers.
    Weights,
    /// Those, and the scales of normalisations: what PyTorch calls `weight`.
    WeightsAndScales,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Selection::All => "the parameters",
            Selection::Weights => "the weights of convolutions and linear layers",
            Selection::WeightsAndScales => "the weights of layers and the scales of normalisations",
        })
    }
}

/// The roles of a model's parameters by name: transformations keep names, but not the surroundings
/// that a role is read from.
#[derive(Clone, Debug)]
pub struct Roles(HashMap<String, Role>);

impl Roles {
    /// The roles in `model`, which is as it was imported.
    pub fn of(model: &Graph) -> Self {
        let named = |(value, role)| Some((model.name(value)?.to_owned(), role));
        Roles(transform::roles(model).into_iter().filter_map(named).collect())
    }

    /// Whether `selection` takes the parameter called `name`.
    pub fn is_in(&self, selection: Selection, name: &str) -> bool {
        let role = self.0.get(name).copied().unwrap_or(Role::Free);
        match selection {
            Selection::All => true,
            Selection::Weights => role.is_weight(),
            Selection::WeightsAndScales => role.is_weight() || role == Role::Scale,
        }
    }
}
