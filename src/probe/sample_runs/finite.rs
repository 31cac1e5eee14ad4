//! Losses and gradients that are not finite, and which parameter is to blame.

use super::Samples;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::{Builder, Output};
use crate::probe::memory::Need;
use crate::probe::plan::Plan;
use crate::tensor::Tensor;
use crate::transform::{Reduction, training_graph};

impl Samples<'_> {
    /// The error that names the parameter whose gradient is not finite, found by running once more.
    pub(super) fn blame(&self, plan: &Plan, engine: &dyn Engine) -> Error {
        let find = || -> Result<Option<String>> {
            let training =
                training_graph(self.model, self.objective, plan.lanes(), Reduction::PerSample)?;
            let mut b = Builder::new(training.graph.clone());
            let mut outputs = Vec::new();
            let gradients = training.graph.outputs().iter().skip(1);
            for ((name, size), gradient) in training.parameters.iter().zip(gradients) {
                if *size > 0 {
                    outputs.push(Output { name: name.clone(), value: b.sum_all(gradient.value)? });
                }
            }
            let names: Vec<String> = outputs.iter().map(|o| o.name.clone()).collect();
            let graph = b.finish().with_outputs(outputs);
            let compiled = engine.compile(&graph)?;
            self.memory.check(Need::of(&compiled, 1), "whole gradients")?;
            let mut session = engine.load(&compiled)?;
            for run in &plan.runs {
                let sums = session.run(&self.inputs(&plan.slots(run))?)?;
                let bad = sums.iter().position(|sum| sum.to_f64().iter().any(|v| !v.is_finite()));
                if let Some(i) = bad {
                    return Ok(Some(names[i].clone()));
                }
            }
            Ok(None)
        };
        let which = find().ok().flatten().map_or("a parameter".into(), |name| format!("'{name}'"));
        Error::Score(format!(
            "the gradient of {which} is not finite: check the model's weights and the data's scale"
        ))
    }
}

pub(super) fn check_finite(losses: &Tensor) -> Result<()> {
    match losses.to_f64().iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(Error::Score(format!(
            "the loss of a sample is {bad}: check the model's weights and the data's scale"
        ))),
        None => Ok(()),
    }
}

/// Whether all elements are finite, where they are floats.
pub(in crate::probe) fn is_finite(tensor: &Tensor) -> bool {
    match tensor {
        Tensor::F32(values) => values.iter().all(|v| v.is_finite()),
        Tensor::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    }
}
