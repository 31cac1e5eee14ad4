//! Moments over the samples of each element of a gradient.
//!
//! A run computes the mean and the squared distances from it in two passes; the runs are merged in
//! float64 (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
//! variances", 1979), so that a spread far below the mean keeps its digits.

use ndarray::{Array1, s};

use super::combine::{Combine, Run};
use super::gradients::Gradient;
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::ops::Unary;
use crate::tensor::Tensor;

/// Moments over `count` samples of each element of a parameter's gradient `g`, `[size]` each.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// The number of samples.
    pub count: usize,
    /// The mean of `g`.
    pub mean: Array1<f64>,
    /// The mean of `|g|`.
    pub mean_magnitude: Array1<f64>,
    /// The sum of `(g − mean)²`.
    pub squares: Array1<f64>,
}

impl Moments {
    /// The standard deviation of each element over the samples (of the population: divided by
    /// `count`).
    pub fn deviation(&self) -> Array1<f64> {
        self.squares.mapv(|squares| (squares / self.count.max(1) as f64).sqrt())
    }
}

/// `[3, size]`: over the counted lanes of a run the mean of `g`, the mean of `|g|`, and the sum of
/// `(g − mean)²`; zeros where no lane is counted.
pub(super) fn of_run(b: &mut Builder, gradient: &Gradient, counted: Value) -> Result<Value> {
    let rows = gradient.rows(b)?;
    let lanes = b.shape(rows)[0];
    let total = b.sum_all(counted)?;
    let one = b.scalar_like(total, 1.0);
    let count = b.max(total, one)?;
    let weights = b.reshape(counted, &[1, lanes])?;
    let weights = b.div(weights, count)?;
    let mean = b.matmul(weights, rows)?;
    let sizes = b.unary(Unary::Abs, rows)?;
    let mean_magnitude = b.matmul(weights, sizes)?;
    let centred = b.sub(rows, mean)?;
    let squares = b.mul(centred, centred)?;
    let counted = b.reshape(counted, &[1, lanes])?;
    let squares = b.matmul(counted, squares)?;
    b.concat(&[mean, mean_magnitude, squares], 0)
}

/// Merges the moments of the runs.
#[derive(Debug)]
pub(super) struct Merge {
    size: usize,
    moments: Moments,
}

impl Merge {
    pub fn new(size: usize) -> Self {
        Merge { size, moments: Moments::default() }
    }
}

impl Combine for Merge {
    type Output = Moments;

    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        let values = tensor.to_f64().into_dimensionality::<ndarray::Ix2>();
        let values = values.map_err(|_| Error::Score("moments of another shape".into()))?;
        let n = run.first_samples().count();
        let row = |i: usize| values.slice(s![i, ..]).to_owned();
        let new = Moments { count: n, mean: row(0), mean_magnitude: row(1), squares: row(2) };
        let old = &mut self.moments;
        if old.count == 0 {
            *old = new;
        } else if n > 0 {
            let share = n as f64 / (old.count + n) as f64;
            let step = &new.mean - &old.mean;
            old.squares += &(&new.squares + &step.mapv(|d| d * d * share * old.count as f64));
            old.mean += &(&step * share);
            let step = &new.mean_magnitude - &old.mean_magnitude;
            old.mean_magnitude += &(step * share);
            old.count += n;
        }
        Ok(())
    }

    fn finish(self) -> Result<Moments> {
        Ok(self.moments)
    }

    fn bytes(&self) -> u64 {
        // The moments so far, and those of a run beside the tensor that they are read from.
        9 * 8 * self.size as u64
    }
}
