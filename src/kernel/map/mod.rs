//! Elementwise functions of many operations at once, and their sums.
//!
//! The values go by in pieces that stay in the processor's nearest cache: all operations are applied
//! to one piece before the next is read, and only what is asked for is written to memory. What is
//! computed from sums over rows of values is computed row by row, while the row is in the cache.

mod fused;
mod program;
mod task;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use pulp::Arch;

pub use self::fused::{
    Axis, Blocks, Elementwise, FusedMap, MapOutput, Operand, OutputLayout, Source, Step,
};
use self::program::Program;
use self::task::{Scratch, Task};
use super::ParallelFor;

/// Values that go by together: few enough that what is computed of them stays in a core's own cache,
/// enough that deciding what to do takes less time than doing it.
const PIECE: usize = 1024;

/// Values that are worth a thread's while.
const TASK: usize = 1 << 12;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A [`FusedMap`] that can be run.
#[derive(Debug)]
pub struct Prepared {
    map: FusedMap,
    program: Program,
}

impl From<FusedMap> for Prepared {
    fn from(map: FusedMap) -> Self {
        Prepared { program: Program::new(&map), map }
    }
}

impl Prepared {
    /// The number of operands.
    pub fn operands(&self) -> usize {
        self.map.views.len()
    }

    /// Computes the results from the operands.
    ///
    /// # Panics
    /// When a slice has another length than the views and outputs say, or a step refers to a later one.
    pub fn run(&self, operands: &[Operand], results: &mut [&mut [f32]], parallel: &ParallelFor) {
        let Prepared { map, program } = self;
        assert_eq!(results.len(), map.outputs.len(), "results");
        if map.len == 0 {
            return results.iter_mut().for_each(|result| result.fill(0.0));
        }
        let block = map.block();
        let size = block * TASK.div_ceil(block);
        let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
        tasks.resize_with(map.len.div_ceil(size), Vec::new);
        for (output, result) in map.outputs.iter().zip(results) {
            let len = output.len(map.len);
            assert_eq!(result.len(), len, "elements of a result");
            let parts = result.chunks_mut((len * size).div_ceil(map.len));
            tasks.iter_mut().zip(parts).for_each(|(task, part)| task.push(part));
        }
        let tasks: Vec<Mutex<Vec<&mut [f32]>>> = tasks.into_iter().map(Mutex::new).collect();
        let arch = Arch::new();
        parallel(tasks.len(), &|i| {
            let range = i * size..((i + 1) * size).min(map.len);
            let results = &mut *tasks[i].lock().unwrap_or_else(PoisonError::into_inner);
            SCRATCH.with_borrow_mut(|scratch| {
                arch.dispatch(Task { map, program, operands, range, results, scratch });
            });
        });
    }
}
