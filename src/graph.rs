//! Graphs of primitive operations: what models are imported as, and what all transformations take and
//! return.
//!
//! The data structure is [`ir`](crate::ir), which is generic in its operations; here it has those
//! of [`ops`](crate::ops).

pub use crate::ir::{
    Fact, Output, Parameter, Rectifier, RectifierKind, Tag, Value, ValueMap, eval, eval_values,
};
pub use crate::ops::{Builder, Graph, Node, Op};

/// A graph derived from another one, with the map of the values.
pub type Derived = crate::ir::Derived<crate::ops::Primitive>;

#[cfg(test)]
pub(crate) use crate::ir::looks;
