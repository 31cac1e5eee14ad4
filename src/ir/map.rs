//! Where the values of a graph are found in one that is derived from it.

use super::Value;
use crate::error::{Error, Result};

/// For each value of a graph, the value of a derived graph that stands for it; none for values that
/// the derived graph does not compute.
#[derive(Clone, Debug, Default)]
pub struct ValueMap(Vec<Option<Value>>);

impl ValueMap {
    /// No value of a graph of `len` nodes is found yet.
    pub(crate) fn empty(len: usize) -> Self {
        ValueMap(vec![None; len])
    }

    /// Each value of a graph of `len` nodes stands for itself.
    pub fn identity(len: usize) -> Self {
        ValueMap((0..len as u32).map(|i| Some(Value(i))).collect())
    }

    pub(crate) fn set(&mut self, old: Value, new: Value) {
        self.0[old.index()] = Some(new);
    }

    /// The value that stands for `old`, if there is one.
    pub fn get(&self, old: Value) -> Option<Value> {
        self.0.get(old.index()).copied().flatten()
    }

    /// The value that stands for `old`.
    ///
    /// # Errors
    /// When there is none: no output of the graph depended on it.
    pub fn of(&self, old: Value) -> Result<Value> {
        self.get(old).ok_or_else(|| {
            Error::Shape(format!(
                "the value {old:?} is not in the derived graph: no output needs it"
            ))
        })
    }

    /// The map of both derivations, of which this is the first.
    #[must_use]
    pub fn then(&self, next: &ValueMap) -> ValueMap {
        ValueMap(self.0.iter().map(|value| value.and_then(|value| next.get(value))).collect())
    }
}
