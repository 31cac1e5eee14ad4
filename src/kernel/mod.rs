//! CPU kernels for computations that standard ONNX operators express inefficiently, as plain functions
//! of slices.
//!
//! An engine provides them as custom operators. The
//! standard operators that they replace remain the portable form, and tests compare the two. `pulp`
//! selects the vector instructions of the processor at run time.

mod conv;
mod gram;
mod map;
mod simd;
mod winograd;

use std::sync::{Mutex, PoisonError};

pub use conv::ConvWeightGrad;
pub use gram::{SignGram, packed_rows};
pub use map::{
    Axis, Blocks, Elementwise, FusedMap, MapOutput, Operand, OutputLayout, Prepared, Source, Step,
};
pub use winograd::Conv3x3;

/// Runs a function for every index below a count, distributed over threads.
pub type ParallelFor<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Runs the indices in order on one thread.
#[cfg(test)]
pub(crate) fn in_turn(count: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(f);
}

/// Disjoint parts of a result, which threads write at the same time.
struct Parts<'a, T>(Vec<Mutex<&'a mut [T]>>);

impl<'a, T> Parts<'a, T> {
    /// Divides `all` into parts of `size` elements.
    fn new(all: &'a mut [T], size: usize) -> Self {
        Parts(all.chunks_mut(size.max(1)).map(Mutex::new).collect())
    }

    /// Calls `f` with part `i`, or with an empty slice if there is no such part.
    fn with<R>(&self, i: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        match self.0.get(i) {
            Some(part) => f(&mut part.lock().unwrap_or_else(PoisonError::into_inner)),
            None => f(&mut []),
        }
    }
}
