//! Training-free performance inference for neural networks given as ONNX files.
//!
//! A model is imported into a typed [`graph`] of a small set of primitive operations ([`ops`]),
//! differentiated by [`transform::grad`] and vectorised by [`transform::vmap`], both of which take a
//! graph and return one; an [`engine`] writes the result as ONNX ([`emit`]) and runs it. What comes out is
//! reduced to scores ([`metric`]) of how well the network will train.
//!
//! ```
//! use gradalign::data::{Dataset, Options, Samples};
//! use gradalign::engine::{EngineChoice, EngineOptions, open};
//! use gradalign::score::{Resolved, score_file};
//!
//! # fn main() -> gradalign::Result<()> {
//! let engine = open(EngineChoice::Tract, &EngineOptions::default())?;
//! let options = Options { samples: Samples::All, ..Options::default() };
//! let digits = Dataset::open("fixtures/digits-30.npz", &options)?;
//! let scored = score_file("models/mlp.onnx".as_ref(), &digits, &Resolved::default(), &*engine)?;
//!
//! assert_eq!(scored.scores[0].name, "gradalign-1");
//! assert!((scored.scores[0].value - 3612.19).abs() < 0.01);
//! # Ok(())
//! # }
//! ```
//!
//! [`rank::score_models`] does this for many models of a [`source`], each of which has a
//! [record](score::Record) whatever comes of it. A [`rank::Ranking`] is made of records, and [`report`]
//! writes it down and reads the records back.

// Builds without some of the features leave some of their helpers unused.
#![cfg_attr(
    not(all(feature = "data", feature = "ort", feature = "registry", feature = "tract")),
    allow(dead_code, unused_imports, unused_macros)
)]

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "data")]
pub mod data;
pub mod emit;
pub mod engine;
pub mod error;
#[cfg(feature = "experiment")]
pub mod experiment;
mod file;
pub mod graph;
#[cfg(feature = "data")]
mod hash;
#[cfg(feature = "registry")]
mod http;
pub mod import;
pub mod ir;
#[cfg(feature = "ort")]
mod kernel;
pub mod linalg;
pub mod metric;
pub mod onnx;
pub mod ops;
#[cfg(feature = "data")]
pub mod ordered;
pub mod probe;
#[cfg(feature = "registry")]
pub mod publish;
#[cfg(feature = "data")]
pub mod rank;
#[cfg(feature = "data")]
pub mod report;
#[cfg(feature = "data")]
pub mod score;
#[cfg(feature = "data")]
pub mod source;
#[cfg(feature = "data")]
pub mod space;
#[cfg(feature = "data")]
pub mod stats;
#[cfg(feature = "store")]
pub mod store;
pub mod tensor;
pub mod transform;

#[cfg(test)]
mod testing;

pub use error::{Error, Result};
