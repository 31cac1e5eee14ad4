//! jacob_cov: how differently the network responds to the samples.
//!
//! `−Σ_k [ln(λ_k + ε) + 1/(λ_k + ε)]` with `ε = 10⁻⁵`, where `λ` are the eigenvalues of the correlation
//! matrix of the rows `J_i = ∂(Σ outputs)/∂x_i`. The sum runs over the outputs of all samples:
//! under batch statistics each output depends on every sample, as published.
//!
//! Mellor et al., "Neural Architecture Search without Training" (version 1 of arXiv 2006.04647),
//! section 3; Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021), section 3.2.

use ndarray::Array2;

use super::{Info, Metric, Options, Value, matrix, samples};
use crate::error::{Error, Result};
use crate::graph;
use crate::linalg::eigvals_symmetric;
use crate::probe::{Network, Probe};
use crate::tensor::{DType, Tensor};

/// Added to each eigenvalue.
const EPSILON: f64 = 1e-5;

/// A row whose variance is this share of its mean square counts as constant.
const CONSTANT: f64 = 1e-12;

/// The Kullback-Leibler-like distance of the Jacobian's correlations from the identity.
#[derive(Clone, Copy, Debug)]
pub struct JacobCov;

impl Metric for JacobCov {
    fn info(&self) -> Info {
        Info {
            name: "jacob-cov",
            formula: "−Σ_k [ln(λ_k + ε) + 1/(λ_k + ε)], λ of corr(∂ Σ outputs/∂x_i), ε = 1e−5",
            needs: "inputs, gradients with respect to them",
            direction: "higher is better",
            source: "Mellor et al., arXiv 2006.04647v1; Abdelfattah et al., ICLR 2021",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        Ok(Probe::of_batch(samples(options), |network| {
            let (gram, squares) = correlations(network)?;
            let (gram, squares) = (network.tensor(gram), network.tensor(squares));
            Ok(Box::new(move |results| {
                distance(&matrix(results, gram)?, results.get(squares)?).map(Value::from)
            }))
        }))
    }
}

/// The Gram matrix `[N, N]` of the centred rows and the mean squares `[N]` of the rows as they
/// are, in float64.
fn correlations(network: &mut Network) -> Result<(graph::Value, graph::Value)> {
    let inputs = network.float_inputs();
    if inputs.is_empty() {
        return Err(Error::Score(
            "the model has no input of floating-point numbers to differentiate by".into(),
        ));
    }
    let outputs = network.outputs();
    let sum = network.builder().sum_all(outputs)?;
    let gradients = network.gradient(sum, &inputs)?;
    let lanes = network.lanes();
    let b = network.builder();
    let mut parts = Vec::new();
    for (input, gradient) in inputs.into_iter().zip(gradients) {
        let gradient = match gradient {
            Some(gradient) => gradient,
            None => {
                let fact = b.fact(input).clone();
                b.zeros(&fact)?
            }
        };
        let width = b.fact(gradient).len() / lanes;
        let rows = b.reshape(gradient, &[lanes, width])?;
        parts.push(b.cast(rows, DType::F64)?);
    }
    let rows = b.concat(&parts, 1)?;
    let mean = b.reduce_mean(rows, &[1])?;
    let mean = b.reshape(mean, &[lanes, 1])?;
    let centred = b.sub(rows, mean)?;
    let square = b.mul(rows, rows)?;
    Ok((b.matmul_t(centred, centred, false, true)?, b.reduce_sum(square, &[1])?))
}

/// The score, from the Gram matrix of the centred rows and the mean squares of the rows.
fn distance(gram: &Array2<f64>, squares: &Tensor) -> Result<f64> {
    let (variances, squares) = (gram.diag().to_owned(), squares.to_f64());
    let constant = variances.iter().zip(&squares).filter(|(v, s)| **v <= CONSTANT * **s);
    match constant.count() {
        0 => {}
        count => {
            return Err(Error::Score(format!(
                "the gradient with respect to the input is constant for {count} of {} \
                 samples, which no correlation is defined for: does the output depend on the \
                 input?",
                gram.nrows()
            )));
        }
    }
    let correlation = Array2::from_shape_fn(gram.dim(), |(i, j)| {
        gram[[i, j]] / (variances[i] * variances[j]).sqrt()
    });
    let eigenvalues = eigvals_symmetric(&correlation.view())?;
    let term = |&eigenvalue: &f64| {
        let shifted = eigenvalue.max(0.0) + EPSILON;
        shifted.ln() + 1.0 / shifted
    };
    Ok(-eigenvalues.iter().map(term).sum::<f64>())
}
