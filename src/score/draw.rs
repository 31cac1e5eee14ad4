//! The scores of one draw of a model's parameters: which of them read the same pass, and running
//! it for all of them at once.

use super::Settings;
use super::push_new;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::metric::{self, Evidence, Metric, Pass, Size};
use crate::ops::BatchNormMode;
use crate::pass::{self, Batch, Grouping, Network, PerSampleRequest, Roles, Selection, Setting};
use crate::tensor::Tensor;
use crate::transform::{self, Loss};

/// A model with one draw of its parameters, and what it is scored on.
pub(super) struct Draw<'a> {
    pub model: &'a Graph,
    pub roles: &'a Roles,
    pub batch: &'a Batch,
    pub loss: Loss,
    pub settings: &'a Settings,
    pub engine: &'a dyn Engine,
    pub seed: u64,
    pub size: Size,
}

type Results = Vec<Option<Result<metric::Value>>>;

impl Draw<'_> {
    /// What a metric reads. Without batch normalisation, passes that differ in its statistics are
    /// one.
    fn pass(&self, metric: &dyn Metric) -> Result<Pass> {
        let pass = metric.pass(&self.settings.options)?;
        let has_batch_norm = pass::has_batch_norm(self.model);
        Ok(if has_batch_norm { pass } else { pass.without_batch_norm() })
    }

    /// The values of `metrics`; those that read the same pass share it.
    pub fn evaluate(
        &self,
        metrics: &[&'static dyn Metric],
        warnings: &mut Vec<String>,
    ) -> Vec<Result<metric::Value>> {
        let mut results: Results = metrics.iter().map(|_| None).collect();
        let damage = not_finite(self.model);
        for first in 0..metrics.len() {
            if results[first].is_some() {
                continue;
            }
            let pass = match self.pass(metrics[first]) {
                Ok(pass) => pass,
                Err(error) => {
                    results[first] = Some(Err(error));
                    continue;
                }
            };
            let together: Vec<usize> = (first..metrics.len())
                .filter(|&i| {
                    let other = self.pass(metrics[i]);
                    results[i].is_none() && other.is_ok_and(|other| shares(pass, other))
                })
                .collect();
            let group: Vec<_> = together.iter().map(|&i| metrics[i]).collect();
            let of_group = match &damage {
                Some(why) if pass != Pass::Static => {
                    group.iter().map(|_| Err(Error::Score(why.clone()))).collect()
                }
                _ => self.run(pass, &group, warnings),
            };
            for (i, result) in together.into_iter().zip(of_group) {
                results[i] = Some(result);
            }
        }
        let missing = || Err(Error::Score("the score was not computed".into()));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// The values of metrics whose passes run together with `pass`. Where the joint run fails,
    /// each runs alone, so that one costs only itself.
    fn run(
        &self,
        pass: Pass,
        group: &[&'static dyn Metric],
        warnings: &mut Vec<String>,
    ) -> Vec<Result<metric::Value>> {
        let together = match pass {
            Pass::Static => return self.values_of(group, &[Evidence::Static(self.size)]),
            Pass::PerSample { batch_norm, .. } => self.per_sample(batch_norm, group, warnings),
            Pass::Batch(setting) => self.whole_batch(setting, group, warnings),
            Pass::TangentKernel { batch_norm, samples } => {
                self.tangent_kernel(batch_norm, samples, group, warnings)
            }
        };
        match (together, group) {
            (Ok(values), _) => values,
            (Err(error), [_]) => vec![Err(error)],
            (Err(error), _) => {
                tracing::debug!("joint run failed, each score runs alone: {error}");
                group.iter().flat_map(|metric| self.run(pass, &[*metric], warnings)).collect()
            }
        }
    }

    fn values_of(
        &self,
        group: &[&'static dyn Metric],
        evidence: &[Evidence],
    ) -> Vec<Result<metric::Value>> {
        // One for all, or one for each.
        let evidence = evidence.iter().cycle();
        let values = group.iter().zip(evidence);
        values
            .map(|(metric, evidence)| {
                metric.value(evidence, &self.settings.options, self.size.parameters)
            })
            .collect()
    }

    fn per_sample(
        &self,
        batch_norm: BatchNormMode,
        group: &[&'static dyn Metric],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Result<metric::Value>>> {
        let (graph, notes) = transform::batch_norm(self.model, batch_norm)?;
        push_new(warnings, notes);
        let product = |metric: &&dyn Metric| match self.pass(*metric) {
            Ok(Pass::PerSample { product, .. }) => Ok(product),
            _ => Err(Error::Score("a score changed its pass".into())),
        };
        let wanted = group.iter().map(product).collect::<Result<Vec<_>>>()?;
        let mut products = Vec::new();
        for product in &wanted {
            if !products.contains(product) {
                products.push(*product);
            }
        }
        let request = PerSampleRequest {
            objective: self.loss.into(),
            grouping: Grouping::Classes,
            products,
            memory: self.settings.memory,
        };
        let reduced = pass::per_sample(&graph, self.roles, self.batch, &request, self.engine)?;
        let evidence = wanted.iter().filter_map(|wanted| {
            let i = request.products.iter().position(|product| product == wanted)?;
            Some(Evidence::from(&reduced[i]))
        });
        Ok(self.values_of(group, &evidence.collect::<Vec<_>>()))
    }

    fn whole_batch(
        &self,
        setting: Setting,
        group: &[&'static dyn Metric],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Result<metric::Value>>> {
        let options = &self.settings.options;
        let model = setting.parameters(self.model, self.seed)?;
        let mut network = Network::new(
            &model,
            self.roles,
            setting,
            self.loss,
            self.batch.len(),
            options.features.as_deref(),
        )?;
        let mut wanted = Vec::new();
        let mut ranges = Vec::new();
        for metric in group {
            let outputs = metric.outputs(&mut network, options);
            ranges.push(outputs.map(|outputs| {
                let start = wanted.len();
                wanted.extend(outputs);
                start..wanted.len()
            }));
        }
        let (exponent, notes) = (network.exponent(), network.warnings().to_vec());
        let tensors = if wanted.is_empty() {
            Vec::new()
        } else {
            let inputs = setting.inputs(&model, self.batch, self.seed)?;
            network.run(&wanted, &inputs, self.settings.memory, self.engine)?
        };
        push_new(warnings, notes);
        let values = group.iter().zip(ranges).map(|(metric, range)| {
            let evidence = Evidence::Outputs { tensors: &tensors[range?], exponent };
            metric.value(&evidence, options, self.size.parameters)
        });
        Ok(values.collect())
    }

    fn tangent_kernel(
        &self,
        batch_norm: BatchNormMode,
        samples: usize,
        group: &[&'static dyn Metric],
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Result<metric::Value>>> {
        let (graph, notes) = transform::batch_norm(self.model, batch_norm)?;
        push_new(warnings, notes);
        let kernel = pass::tangent_kernel(
            &graph,
            self.roles,
            Selection::WeightsAndScales,
            &self.batch.thinned(samples)?,
            self.settings.memory,
            self.engine,
        )?;
        Ok(self.values_of(group, &[Evidence::Kernel(&kernel)]))
    }
}

/// Whether two passes run together.
fn shares(a: Pass, b: Pass) -> bool {
    match (a, b) {
        (Pass::PerSample { batch_norm: a, .. }, Pass::PerSample { batch_norm: b, .. }) => a == b,
        _ => a == b,
    }
}

/// Says which parameter is not finite: a ReLU may swallow a NaN and let a number come out.
pub(super) fn not_finite(model: &Graph) -> Option<String> {
    let finite = |tensor: &Tensor| match tensor {
        Tensor::F32(values) => values.iter().all(|v| v.is_finite()),
        Tensor::F64(values) => values.iter().all(|v| v.is_finite()),
        _ => true,
    };
    let (_, parameter) = model.parameters().find(|(_, parameter)| !finite(&parameter.tensor))?;
    Some(format!(
        "the parameter '{}' holds a value that is not finite (NaN or infinity): export the model \
         again, or draw its parameters with --init",
        parameter.name
    ))
}
