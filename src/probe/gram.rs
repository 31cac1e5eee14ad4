//! Gram matrices of gradients: signs and inner products are computed in the graph.

use ndarray::{Array2, ArrayView2, s};

use super::combine::{Combine, Run, no_runs};
use super::gradients::{Gradient, GradientForm};
use crate::error::{Error, Result};
use crate::graph::{Builder, Value};
use crate::tensor::{DType, Tensor};

/// The rows of a Gram matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GramKind {
    /// The signs of the gradients.
    #[default]
    Sign,
    /// The gradients themselves.
    Raw,
}

/// The Gram matrix of the gradients of one class.
#[derive(Clone, Debug)]
pub struct ClassGram {
    /// The class; 0 where all samples are compared.
    pub class: i64,
    /// `[n, n]`: inner products of the gradients of its `n` samples, in the order of the batch.
    pub gram: Array2<f64>,
}

/// Gram matrices, by class.
pub type Grams = Vec<ClassGram>;

/// Columns of a Jacobian that are multiplied at once, in float64.
const COLUMNS: usize = 1 << 14;

/// `[groups, size, size]`, in float64: the inner products of `gradients` inside each group of lanes. A
/// gradient that is an outer product `x·δᵀ` contributes `(X Xᵀ) ∘ (Δ Δᵀ)` without being formed.
pub(super) fn in_groups(
    b: &mut Builder,
    gradients: &[Gradient],
    groups: usize,
    size: usize,
    kind: GramKind,
) -> Result<Value> {
    let mut terms = Vec::new();
    let mut rows = Vec::new();
    for gradient in gradients {
        match gradient.form {
            GradientForm::Outer(x, d) => {
                let x = gram_of(b, &[x], groups, size, kind)?;
                let d = gram_of(b, &[d], groups, size, kind)?;
                terms.push(b.mul(x, d)?);
            }
            GradientForm::Rows(value) => rows.push(value),
        }
    }
    if !rows.is_empty() {
        terms.push(gram_of(b, &rows, groups, size, kind)?);
    }
    let mut total = terms[0];
    for &term in &terms[1..] {
        total = b.add(total, term)?;
    }
    Ok(total)
}

/// `[groups, size, size]` in float64: inner products of the rows of `[lanes, …]`, laid side by side,
/// inside each group.
fn gram_of(
    b: &mut Builder,
    values: &[Value],
    groups: usize,
    size: usize,
    kind: GramKind,
) -> Result<Value> {
    let lanes = groups * size;
    let mut rows = Vec::new();
    for &value in values {
        let width = b.fact(value).len() / lanes;
        rows.push(b.reshape(value, &[lanes, width])?);
    }
    if kind == GramKind::Sign {
        return b.sign_gram(&rows, groups, size);
    }
    // The small eigenvalues of the Gram matrix are squares of small singular values, which
    // products in float32 would drown.
    let rows = b.concat(&rows, 1)?;
    let rows = b.cast(rows, DType::F64)?;
    let width = b.shape(rows)[1];
    let rows = b.reshape(rows, &[groups, size, width])?;
    b.matmul_t(rows, rows, false, true)
}

/// `[lanes, width]` in float32: the gradients of each lane side by side.
pub(super) fn rows(b: &mut Builder, gradients: &[Gradient], kind: GramKind) -> Result<Value> {
    let mut parts = Vec::new();
    for gradient in gradients {
        let rows = gradient.rows(b)?;
        let rows = if kind == GramKind::Sign { b.sign(rows)? } else { rows };
        parts.push(b.cast(rows, DType::F32)?);
    }
    b.concat(&parts, 1)
}

/// Where each sample stands among those of its class.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassPositions {
    /// For each sample, its class (by position) and its position in it.
    of_sample: Vec<(usize, usize)>,
    /// For each class, its name and the number of its samples.
    classes: Vec<(i64, usize)>,
}

impl ClassPositions {
    /// Those of no samples.
    pub const fn none() -> Self {
        ClassPositions { of_sample: Vec::new(), classes: Vec::new() }
    }

    /// Those of samples of the given classes.
    pub fn of(classes: &[i64]) -> Self {
        let members = super::plan::members(classes);
        let mut of_sample = vec![(0, 0); classes.len()];
        for (c, members) in members.values().enumerate() {
            for (i, &sample) in members.iter().enumerate() {
                of_sample[sample] = (c, i);
            }
        }
        let classes = members.iter().map(|(&class, members)| (class, members.len())).collect();
        ClassPositions { of_sample, classes }
    }
}

/// Puts the blocks `[groups, size, size]` of the runs together to a Gram matrix for each class.
#[derive(Debug, Default)]
pub(super) struct GroupGrams(Grams);

impl Combine for GroupGrams {
    type Output = Grams;

    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        let blocks = tensor.to_f64();
        let ClassPositions { of_sample, classes } = run.positions;
        if self.0.is_empty() {
            let empty =
                |&(class, n): &(i64, usize)| ClassGram { class, gram: Array2::zeros((n, n)) };
            self.0 = classes.iter().map(empty).collect();
        }
        for (g, group) in run.groups.iter().enumerate() {
            for (i, &a) in group.iter().enumerate() {
                for (j, &b) in group.iter().enumerate() {
                    let ((class_a, i_a), (class_b, i_b)) = (of_sample[a], of_sample[b]);
                    if class_a == class_b {
                        self.0[class_a].gram[[i_a, i_b]] = blocks[[g, i, j]];
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Grams> {
        Ok(self.0)
    }
}

/// Keeps the rows `[lanes, width]` of all samples and multiplies them at the end: one Gram matrix over
/// all samples.
#[derive(Debug)]
pub(super) struct RowGram {
    lanes: usize,
    rows: Array2<f32>,
}

impl RowGram {
    pub fn new(samples: usize, lanes: usize, width: usize) -> Self {
        // The system gives memory to pages only when they are written to.
        RowGram { lanes, rows: Array2::zeros((samples, width)) }
    }
}

impl Combine for RowGram {
    type Output = Grams;

    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        let rows = tensor.as_f32();
        let rows = rows.and_then(|values| values.into_dimensionality::<ndarray::Ix2>().ok());
        let rows = rows.ok_or_else(|| Error::Score("the engine returned other rows".into()))?;
        for (lane, sample) in run.first_samples() {
            self.rows.row_mut(sample).assign(&rows.slice(s![lane, ..]));
        }
        Ok(())
    }

    fn finish(self) -> Result<Grams> {
        match self.rows.is_empty() {
            true => Err(no_runs()),
            false => Ok(vec![ClassGram { class: 0, gram: gram(&self.rows.view()) }]),
        }
    }

    /// All rows, some columns of them in float64 to be multiplied, and the rows of a run copied out
    /// of the engine.
    fn bytes(&self) -> u64 {
        let (n, width) = self.rows.dim();
        let stored = n * width * DType::F32.size() + n * width.min(COLUMNS) * DType::F64.size();
        (stored + self.lanes * width * DType::F32.size()) as u64
    }
}

/// Inner products of the rows, in float64.
fn gram(rows: &ArrayView2<f32>) -> Array2<f64> {
    let mut total = Array2::zeros((rows.nrows(), rows.nrows()));
    for columns in rows.axis_chunks_iter(ndarray::Axis(1), COLUMNS) {
        let columns = columns.mapv(f64::from);
        total += &columns.dot(&columns.t());
    }
    total
}
