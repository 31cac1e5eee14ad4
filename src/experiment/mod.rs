//! Experiments: how well scores rank the networks of search spaces whose accuracies are known.
//!
//! A [`Plan`] is read from a TOML file. An [`Experiment`] is a plan with what it is over: accuracies, and
//! architectures. Running it builds, scores and forgets one network after the other; what is kept of a
//! network are its scores, in a [`Store`](crate::store::Store), so that a run that was stopped goes on.
//! [`Results`] compare the scores with the accuracies, and are written as [`tables`] and a [`page()`].

mod choose;
mod evaluate;
mod page;
mod plan;
mod results;
mod run;
mod scores;
pub mod tables;
#[cfg(test)]
mod tests;
mod truth;

pub use choose::{Choice, From};
pub use evaluate::{Agreement, Draws, Estimate, MeanRank};
pub use page::page;
pub use plan::{Benchmark, Nulls, Plan, Statistics, Variant};
pub use results::{Benched, Build, Comparison, MeanRanks, Network, Results};
pub use run::{Experiment, Means, Outcome, Watch};
pub use scores::Column;
pub use truth::{Accuracies, TruthFile};
