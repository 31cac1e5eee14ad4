//! The training graph for as many samples at once as are fastest or as memory allows.

use std::num::NonZeroUsize;

use super::{Look, Samples};
use crate::engine::{Compiled, Engine};
use crate::error::Result;
use crate::graph::{Builder, Graph, Output};
use crate::probe::combine::Watched;
use crate::probe::gradients::{Gradient, PairGradients, SampleGradients, Schedule};
use crate::probe::memory::{Need, copies};
use crate::probe::plan::{Plan, Shares, beside_samples, members, plan};
use crate::probe::size::{flops, parameters};
use crate::transform::{Reduction, TrainingGraph, training_graph};

/// Runs at one time have no more samples than this together, unless a class has: more at once do not run
/// faster.
pub(super) const PREFERRED_LANES: usize = 32;

/// One part in this number of the memory is for what sessions beside the first hold of parameters.
const COPIES: u64 = 4;

/// More threads than this are not planned for, whatever number a user gives.
const MOST_THREADS: usize = 1024;

impl Samples<'_> {
    /// The largest plan that fits into the memory that is `free`, with its graph.
    pub(super) fn build(
        &self,
        groups: &[i64],
        look: Look,
        free: &dyn Fn() -> Option<u64>,
        mut shares: Shares,
        engine: &dyn Engine,
    ) -> Result<Prepared> {
        let largest = members(groups).values().map(Vec::len).max().unwrap_or(1);
        let mut most = largest.max(PREFERRED_LANES).min(groups.len().max(1));
        // Samples that are compared must meet.
        let least = largest.clamp(1, 2);
        loop {
            let plan = plan(groups, most, shares)?;
            let prepared = self.prepare(plan, look, engine)?;
            let (side_by_side, lanes) = (prepared.plan.side_by_side, prepared.plan.lanes());
            let need = prepared.need();
            let Some(free) = free() else { return Ok(prepared) };
            tracing::debug!(
                "{side_by_side} runs of {lanes} samples take {} bytes of {free}: {need:?}",
                need.total()
            );
            if need.total() <= free {
                return Ok(prepared);
            }
            if side_by_side > 1 {
                // Each session has copies of the parameters.
                shares.sessions = side_by_side / 2;
                continue;
            }
            if lanes <= least {
                let what = if least == 1 {
                    "the gradients of a sample"
                } else {
                    "the gradients of two samples"
                };
                return Err(self.memory.refusal(need, free, what));
            }
            let fixed = Need { values: 0, ..need }.total();
            let fitting = (lanes as u64).saturating_mul(free.saturating_sub(fixed))
                / (need.total() - fixed).max(1);
            most = usize::try_from(fitting).unwrap_or(usize::MAX).min(lanes - 1).max(least);
        }
    }

    /// The graph for a plan: the training graph with the outputs `gradalign.loss` `[n]` and, for each
    /// value watched, `gradalign.<i>`.
    fn prepare(&self, plan: Plan, look: Look, engine: &dyn Engine) -> Result<Prepared> {
        let training =
            training_graph(self.model, self.objective, plan.lanes(), Reduction::PerSample)?;
        let loss = training.graph.output("loss")?;
        let schedule =
            Schedule::Groups { groups: plan.groups, size: plan.size, runs: plan.runs.len() };
        let parameters = parameters(self.model);
        let (b, gradients) = gradients(&training)?;
        let scene = SampleGradients::new(b, schedule, self.roles, gradients, parameters);
        let mut scene = PairGradients(scene);
        look(&mut scene);
        let (graph, watched, counted) = scene.0.finish();
        let output = |name: &str, value| Output { name: name.into(), value };
        let values = watched.values().iter().enumerate();
        let values = values.map(|(i, &v)| output(&format!("gradalign.{i}"), v));
        let outputs = [output("gradalign.loss", loss)].into_iter().chain(values);
        let graph = graph.with_outputs(outputs.collect());
        Ok(Prepared { plan, compiled: engine.compile(&graph)?, watched, counted })
    }
}

/// A compiled graph with the schedule that it is built for.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) compiled: Compiled,
    pub(super) watched: Watched,
    /// Whether its last input counts lanes.
    pub(super) counted: bool,
}

impl Prepared {
    pub(super) fn need(&self) -> Need {
        let more = self.watched.bytes();
        Need { more, ..Need::of(&self.compiled, self.plan.side_by_side) }
    }
}

/// The gradients of the lanes of a training graph, in the order in which the backward pass computes
/// them: values of the first can be computed, and what they read be freed, before it comes to the last.
fn gradients(training: &TrainingGraph) -> Result<(Builder, Vec<Gradient>)> {
    let mut b = Builder::new(training.graph.clone());
    b.set_scope("reduce");
    // Behind the loss there is one for each parameter.
    let outputs = training.graph.outputs().iter().skip(1).map(|output| output.value);
    let named = training.parameters.iter().zip(outputs);
    let mut named: Vec<_> =
        named.filter(|&((_, size), value)| b.as_uniform(value) != Some(0.0) && *size > 0).collect();
    named.sort_by_key(|(_, value)| value.index());
    let gradients = named
        .into_iter()
        .map(|((name, size), value)| Gradient::new(&mut b, name, value, *size))
        .collect::<Result<_>>()?;
    Ok((b, gradients))
}

/// The threads of `engine` that the runs of `model` share, by as many sessions as may have copies of
/// the parameters.
pub(super) fn shares(model: &Graph, memory: Option<u64>, engine: &dyn Engine) -> Shares {
    let threads = engine.threads().clamp(1, MOST_THREADS);
    let copies = copies(model).max(1);
    let others = memory.map_or(u64::MAX, |memory| memory / COPIES / copies);
    let others = match engine.with_threads(NonZeroUsize::MIN) {
        Some(_) => usize::try_from(others).unwrap_or(usize::MAX),
        None => 0,
    };
    let run = beside_samples(parameters(model), flops(model));
    Shares { run, threads, sessions: others.saturating_add(1).min(threads) }
}
