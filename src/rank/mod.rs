//! A set of models: scored one beside the other, and ranked by what their records say.
//!
//! [`score_each`] hands on each record as soon as there is one. A [`Ranking`] is made of records
//! alone, wherever they come from: the run that made them, a file, another machine.

mod aggregate;
mod compare;
mod filter;
#[cfg(feature = "workers")]
pub mod isolate;
mod queue;
mod ranking;
mod shard;
mod truth;

pub use aggregate::{AGGREGATE, Aggregate, Method, NAMED, Named};
pub use compare::{Comparison, Difference, Failed, Move, ScoreComparison, compare};
pub use filter::Filter;
pub use queue::{Observer, score_each, score_models};
pub use ranking::Ranking;
pub(crate) use ranking::score_names;
pub use shard::Shard;
pub use truth::{Correlation, Truth};
