//! Computations on the CPU that standard ONNX operators express badly, as plain functions of
//! slices.
//!
//! An engine offers them to the graph as operators of its own (see
//! [`Dialect::Fused`](crate::emit::Dialect)); the standard operators that they stand for remain the
//! portable layout, and what tests compare them with. Vector instructions are those of the processor
//! at hand, by `pulp`.

mod conv;
mod gram;
mod map;
mod simd;
mod winograd;

use std::sync::{Mutex, PoisonError};

pub use conv::ConvWeightGrad;
pub use gram::{SignGram, packed_rows};
pub use map::{
    Axis, Blocks, Elementwise, Map, MapOutput, Operand, OutputLayout, Prepared, Source, Step,
};
pub use winograd::Conv3x3;

/// Runs a function for every index below a count, spread over threads.
pub type ParallelFor<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Runs the indices one after the other.
#[cfg(test)]
pub(crate) fn in_turn(count: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(f);
}

/// Parts of a result that threads write at the same time, each its own.
struct Parts<'a, T>(Vec<Mutex<&'a mut [T]>>);

impl<'a, T> Parts<'a, T> {
    /// `all` cut into parts of `size` elements.
    fn new(all: &'a mut [T], size: usize) -> Self {
        Parts(all.chunks_mut(size.max(1)).map(Mutex::new).collect())
    }

    /// Part `i`; empty where there is none.
    fn with<R>(&self, i: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        match self.0.get(i) {
            Some(part) => f(&mut part.lock().unwrap_or_else(PoisonError::into_inner)),
            None => f(&mut []),
        }
    }
}
