//! What a value is in the network, noted where it is made: from its operation alone it could only be
//! guessed.

use std::fmt;

use super::{Value, ValueMap};

/// A note on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tag {
    /// It is the result of a rectifier.
    Rectified(Rectifier),
}

/// A piecewise linear activation with its kink at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectifier {
    /// What it is applied to.
    pub input: Value,
    /// Which one it is.
    pub kind: RectifierKind,
    /// How many nodes of the model apply it to this input.
    pub copies: usize,
}

/// The rectifiers told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RectifierKind {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// A slope below zero, fixed or trained.
    Leaky,
}

impl fmt::Display for RectifierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RectifierKind::Relu => "Relu",
            RectifierKind::Relu6 => "Relu6",
            RectifierKind::Leaky => "LeakyRelu or PRelu",
        })
    }
}

impl Tag {
    /// The same tag in a derived graph; `None` where that lacks a value that the tag names.
    pub(super) fn mapped(self, map: &ValueMap) -> Option<Tag> {
        let Tag::Rectified(rectifier) = self;
        Some(Tag::Rectified(Rectifier { input: map.get(rectifier.input)?, ..rectifier }))
    }

    /// Takes in another tag of the same value, where it is the same but for the number of nodes.
    pub(super) fn merge(&mut self, other: Tag, is_new_node: bool) -> bool {
        let (Tag::Rectified(mine), Tag::Rectified(other)) = (self, other);
        let is_same = (mine.input, mine.kind) == (other.input, other.kind);
        if is_same && is_new_node {
            mine.copies += other.copies;
        }
        is_same
    }
}
