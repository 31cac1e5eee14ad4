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

use ndarray::Array2;

use super::patterns::agreement;
use super::{Info, Metric, Options, Value, matrix};
use crate::error::{Error, Result};
use crate::linalg::eigvals_symmetric;
use crate::ops::BatchNormMode;
use crate::probe::{
    BatchView, Differentiated, GramKind, Inputs, Pairs, Parameters, Probe, SampleView, Selection,
};

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

impl Metric for TeNas {
    fn info(&self) -> Info {
        Info {
            name: "te-nas",
            formula: "regions − λ_max/λ_min; among ranked models the sum of the ranks of both",
            needs: "inputs, per-sample gradients of the outputs",
            direction: "higher is better",
            source: "Chen et al., ICLR 2021, section 3.3",
        }
    }

    fn parts(&self) -> &'static [&'static dyn Metric] {
        &[&Conditioning, &Regions]
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Conditioning.probe(options)
    }
}

impl Metric for Conditioning {
    fn info(&self) -> Info {
        Info {
            name: "te-nas-ntk",
            formula: "−λ_max/λ_min of Θ_ij = ⟨∂ Σ_k f_k(x_i)/∂θ, ∂ Σ_k f_k(x_j)/∂θ⟩",
            needs: "inputs, per-sample gradients of the outputs",
            direction: "higher is better (the condition number: lower)",
            source: "Chen et al., ICLR 2021, section 3.1",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        if options.ntk_samples < 2 {
            return Err(Error::Usage(
                "the tangent kernel of one sample is a number, whose condition is always the best: \
                 `ntk-samples` must be at least 2"
                    .into(),
            ));
        }
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Batch);
        let view = SampleView::new(Differentiated::OutputSum, batch_norm);
        Ok(Probe::of_pairs(view.of_at_most(options.ntk_samples), Pairs::All, |gradients| {
            let kernel = gradients.grams(GramKind::Raw, Selection::WeightsAndScales)?;
            Ok(Box::new(move |results| match results.get(kernel)?.as_slice() {
                [kernel] => condition(&kernel.gram).map(Value::from),
                _ => Err(Error::Score("there is no sample to take a gradient of".into())),
            }))
        }))
    }
}

/// `−λ_max/λ_min` of a tangent kernel.
fn condition(kernel: &Array2<f64>) -> Result<f64> {
    if kernel.nrows() < 2 {
        return Err(Error::Score(
            "the tangent kernel of one sample is a number, whose condition is always the best: \
             give more samples"
                .into(),
        ));
    }
    let eigenvalues = eigvals_symmetric(&kernel.view())?;
    let (least, greatest) = (eigenvalues[0], eigenvalues[eigenvalues.len() - 1]);
    if least > SINGULAR * greatest {
        return Ok(-greatest / least);
    }
    Err(Error::Score(format!(
        "the tangent kernel is singular in float32 (eigenvalues from {least:.1e} to \
         {greatest:.1e}), which counts as the worst condition"
    )))
}

impl Metric for Regions {
    fn info(&self) -> Info {
        Info {
            name: "te-nas-regions",
            formula: "number of different activation patterns of all rectifiers",
            needs: "the model, random inputs",
            direction: "higher is better",
            source: "Chen et al., ICLR 2021, section 3.2",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Batch);
        let view = match options.regions {
            RegionInputs::Gaussian => {
                BatchView::new(Parameters::Given, Inputs::Gaussian, batch_norm)
            }
            RegionInputs::Samples => BatchView::samples(batch_norm),
        };
        Ok(Probe::of_batch(view, |network| {
            let agreement = agreement(network)?;
            let agreement = network.tensor(agreement);
            Ok(Box::new(move |results| Ok(regions(&matrix(results, agreement)?))))
        }))
    }
}

/// The number of regions that inputs lie in, by how many units each two agree in.
fn regions(agreement: &Array2<f64>) -> Value {
    let n = agreement.nrows();
    // Two inputs are in one region when they agree in all units.
    let is_new = |&i: &usize| (0..i).all(|j| agreement[[i, j]] != agreement[[i, i]]);
    let regions = (0..n).filter(is_new).count();
    let mut value = Value::from(regions as f64);
    if regions == n && n > 1 {
        value.warnings.push(format!(
            "each of the {n} inputs lies in a linear region of its own: the number of regions \
             is saturated and tells nothing about this model"
        ));
    }
    value
}
