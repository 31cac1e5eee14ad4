//! TE-NAS: how well conditioned the neural tangent kernel is, and into how many linear regions the
//! network divides its inputs.
//!
//! - Conditioning: `−λ_max/λ_min` of `Θ_ij = ⟨∂ Σ_k f_k(x_i)/∂θ, ∂ Σ_k f_k(x_j)/∂θ⟩` over the weights of
//!   layers and the scales of normalisations.
//! - Regions: the number of different activation patterns of all rectifiers among the samples.
//!
//! Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours" (ICLR 2021), sections 3.1
//! and 3.2. A search ranks by the sum of both ranks; for one network benchmarks report
//! `regions − condition number`.

use super::patterns::{agreement, matrix};
use super::{Evidence, Info, Metric, Options, Pass, Treatment, Value, mismatched};
use crate::error::{Error, Result};
use crate::graph;
use crate::linalg::eigvals_symmetric;
use crate::ops::BatchNormMode;
use crate::pass::{Network, Setting};

/// How many samples the kernel is over by default. A row under batch statistics takes a backward
/// pass over all of them, so that its cost grows with their square; publications use 64 and 72.
pub(super) const SAMPLES: usize = 64;

/// Eigenvalues below this share of the greatest are rounding noise: they are squares of singular
/// values of float32 gradients, which are known to a few roundings of the greatest.
const SINGULAR: f64 = (8.0 * f32::EPSILON as f64) * (8.0 * f32::EPSILON as f64);

/// What linear regions are counted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum RegionInputs {
    /// As many standard normal inputs as there are samples.
    #[default]
    Gaussian,
    /// The samples, in the forward pass that NASWOT looks at.
    Samples,
}

/// Both together.
#[derive(Clone, Copy, Debug)]
pub struct TeNas;

/// The negative condition number of the tangent kernel.
#[derive(Clone, Copy, Debug)]
pub struct Conditioning;

/// The number of linear regions seen.
#[derive(Clone, Copy, Debug)]
pub struct Regions;

const BATCH: Option<Treatment> = Some(Treatment::Statistics(BatchNormMode::Batch));

impl Metric for TeNas {
    fn info(&self) -> Info {
        Info {
            name: "te-nas",
            formula: "regions − λ_max/λ_min; among ranked models the sum of the ranks of both",
            needs: "inputs, per-sample gradients of the outputs",
            direction: "higher is better",
            batch_norm: BATCH,
            source: "Chen et al., ICLR 2021, section 3.3",
        }
    }

    fn parts(&self) -> &'static [&'static dyn Metric] {
        &[&Conditioning, &Regions]
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        Conditioning.pass(options)
    }

    fn value(&self, _: &Evidence, _: &Options, _: u64) -> Result<Value> {
        Err(mismatched(self))
    }
}

impl Metric for Conditioning {
    fn info(&self) -> Info {
        Info {
            name: "te-nas-ntk",
            formula: "−λ_max/λ_min of Θ_ij = ⟨∂ Σ_k f_k(x_i)/∂θ, ∂ Σ_k f_k(x_j)/∂θ⟩",
            needs: "inputs, per-sample gradients of the outputs",
            direction: "higher is better (the condition number: lower)",
            batch_norm: BATCH,
            source: "Chen et al., ICLR 2021, section 3.1",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        if options.ntk_samples < 2 {
            return Err(Error::Usage(
                "the tangent kernel of one sample is a number, whose condition is always the best: \
                 --ntk-samples must be at least 2"
                    .into(),
            ));
        }
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Batch);
        Ok(Pass::TangentKernel { batch_norm, samples: options.ntk_samples })
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        let Evidence::Kernel(kernel) = evidence else { return Err(mismatched(self)) };
        if kernel.nrows() < 2 {
            return Err(Error::Score(
                "the tangent kernel of one sample is a number, whose condition is always the best: \
                 give more samples"
                    .into(),
            ));
        }
        let eigenvalues = eigvals_symmetric(&kernel.view())?;
        let (Some(&least), Some(&greatest)) = (eigenvalues.first(), eigenvalues.last()) else {
            return Err(mismatched(self));
        };
        if least > SINGULAR * greatest {
            return Ok((-greatest / least).into());
        }
        Err(Error::Score(format!(
            "the tangent kernel is singular in float32 (eigenvalues from {least:.1e} to \
             {greatest:.1e}), which counts as the worst condition"
        )))
    }
}

impl Metric for Regions {
    fn info(&self) -> Info {
        Info {
            name: "te-nas-regions",
            formula: "number of different activation patterns of all rectifiers",
            needs: "the model, random inputs",
            direction: "higher is better",
            batch_norm: BATCH,
            source: "Chen et al., ICLR 2021, section 3.2",
        }
    }

    fn pass(&self, options: &Options) -> Result<Pass> {
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Batch);
        Ok(Pass::Batch(match options.regions {
            RegionInputs::Gaussian => Setting::Gaussian { batch_norm },
            RegionInputs::Samples => Setting::Samples { batch_norm },
        }))
    }

    fn outputs(&self, network: &mut Network, _: &Options) -> Result<Vec<graph::Value>> {
        Ok(vec![agreement(network)?])
    }

    fn value(&self, evidence: &Evidence, _: &Options, _: u64) -> Result<Value> {
        let Evidence::Outputs { tensors, .. } = evidence else { return Err(mismatched(self)) };
        let agreement = matrix(tensors).ok_or_else(|| mismatched(self))?;
        let n = agreement.nrows();
        // Two samples are in one region when they agree in as many units as there are.
        let is_new = |&i: &usize| (0..i).all(|j| agreement[[i, j]] != agreement[[i, i]]);
        let regions = (0..n).filter(is_new).count();
        let mut value = Value::from(regions as f64);
        if regions == n && n > 1 {
            value.warnings.push(format!(
                "each of the {n} inputs lies in a linear region of its own: the number of regions \
                 is saturated and tells nothing about this model"
            ));
        }
        Ok(value)
    }
}
