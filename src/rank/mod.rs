//! A set of models: scored one beside the other, and ranked by what their records say.
//!
//! [`score_each`] hands on each record as soon as there is one. A [`Ranking`] is made of records
//! alone, wherever they come from: the run that made them, a file, another machine.

mod aggregate;
mod compare;
mod queue;
mod ranking;
mod truth;

pub use aggregate::{AGGREGATE, Aggregate};
pub use compare::{Comparison, Difference, Failed, Move, ScoreComparison, compare};
pub use queue::{Observer, score_each, score_models};
pub use ranking::Ranking;
pub(crate) use ranking::score_names;
pub use truth::{Correlation, Truth};
