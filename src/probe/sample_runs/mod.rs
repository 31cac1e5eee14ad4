//! Running the gradients of samples that do not depend on each other, as many at once as are fastest or
//! as memory allows.

mod finite;
mod fit;
#[cfg(test)]
mod tests;

use super::combine::{Results, Run};
use super::gradients::PairGradients;
use super::gram::ClassPositions;
use super::memory::Memory;
use super::runs::run_all;
use super::{Batch, Roles};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::transform::Objective;

use finite::check_finite;
pub(super) use finite::is_finite;
use fit::{Prepared, shares};

/// Which samples must meet in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pairs {
    /// None: each sample is taken alone.
    None,
    /// Every two of a class.
    OfClasses,
    /// Every two.
    All,
}

/// What gradients are taken of.
pub(super) struct Samples<'a> {
    /// Has its batch normalisation decided (see [`transform::batch_norm`]) and its prediction as first
    /// output.
    ///
    /// [`transform::batch_norm`]: crate::transform::batch_norm
    pub model: &'a Graph,
    pub roles: &'a Roles,
    pub batch: &'a Batch,
    pub objective: Objective,
    pub pairs: Pairs,
    pub memory: Memory,
}

/// Adds the values that probes watch to the gradients. It is called for each graph that is tried.
pub(super) type Look<'a> = &'a mut dyn FnMut(&mut PairGradients);

impl Samples<'_> {
    /// Runs the values that `look` watches, over all samples.
    ///
    /// # Errors
    /// When the model cannot be differentiated, the engine fails, or a gradient is not finite.
    pub fn run(&self, look: Look, engine: &dyn Engine) -> Result<Results> {
        let groups = self.groups();
        let free = || self.memory.free();
        let shares = shares(self.model, free(), engine);
        let prepared = self.build(&groups, look, &free, shares, engine)?;
        let plan = prepared.plan.clone();
        match self.run_plan(prepared, &groups, engine)? {
            Some(results) => Ok(results),
            None => Err(self.blame(&plan, engine)),
        }
    }

    /// The group of each sample: samples of one group meet in a run.
    fn groups(&self) -> Vec<i64> {
        let classes = &self.batch.classes;
        match self.pairs {
            Pairs::None => (0..classes.len() as i64).collect(),
            Pairs::OfClasses => classes.clone(),
            Pairs::All => vec![0; classes.len()],
        }
    }

    /// Runs the graph over all groups of the plan and combines the results; `None` where a value is
    /// not finite.
    fn run_plan(
        &self,
        prepared: Prepared,
        groups: &[i64],
        engine: &dyn Engine,
    ) -> Result<Option<Results>> {
        let Prepared { plan, compiled, mut watched, counted } = prepared;
        if watched.values().is_empty() {
            return watched.finish().map(Some);
        }
        let (plan, positions) = (&plan, ClassPositions::of(groups));
        let first = plan.first_lanes(self.batch.len());
        let inputs = |run: usize| {
            let mut inputs = self.inputs(&plan.slots(&plan.runs[run]))?;
            if counted {
                let weights = first[run].iter().map(|&first| f32::from(u8::from(first)));
                inputs.push(Tensor::f32(&[plan.lanes()], weights.collect())?);
            }
            Ok(inputs)
        };
        let mut finite = true;
        let collect = |run: usize, outputs: Vec<Tensor>| {
            let Some((losses, values)) = outputs.split_first() else {
                return Err(Error::Score(
                    "the engine returned other outputs than asked for".into(),
                ));
            };
            check_finite(losses)?;
            finite &= values.iter().all(is_finite);
            let (groups, first) = (&plan.runs[run], &first[run]);
            watched.add(&Run { size: plan.size, groups, first, positions: &positions }, values)
        };
        run_all(compiled, plan.runs.len(), plan.side_by_side, engine, inputs, collect)?;
        if !finite {
            return Ok(None);
        }
        watched.finish().map(Some)
    }

    /// The inputs of a training graph for the given samples.
    fn inputs(&self, slots: &[usize]) -> Result<Vec<Tensor>> {
        match self.objective {
            Objective::Loss(_) => self.batch.rows(slots),
            Objective::OutputSum => self.batch.input_rows(slots),
        }
    }
}
