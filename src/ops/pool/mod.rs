//! Pooling windows: averages and maxima.

mod average;
mod geometry;
mod max;
#[cfg(test)]
mod tests;

pub use self::average::AveragePool;
pub use self::max::{MaxPool, MaxPoolIndices};
