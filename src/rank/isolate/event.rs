//! What a worker tells.

use serde::{Deserialize, Serialize};

use crate::score::Record;

/// What a worker writes to its standard output, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// The result of a job is not known, and is computed from now on.
    Computes {
        /// The digest of the model's content: [`ModelResult::sha256`](crate::score::ModelResult::sha256).
        computes: String,
    },
    /// A job is done.
    Done(Box<Record>),
}
