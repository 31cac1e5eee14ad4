//! GradAlign-I and GradAlign-II: how well the per-sample gradients of a class agree.
//!
//! With `sᵢ = sign(∇ L(f(xᵢ), yᵢ))` over all parameters, `sign(0) = 0`, and the classes
//! `c = 1…C` with `n_c` samples each, both are functions of the Gram matrices
//! `G_c = S_c S_cᵀ`, whose rows `S_c` are the `sᵢ` of the class:
//!
//! - GradAlign-I `= (1/C) Σ_c ‖(1/n_c) Σ_i sᵢ‖² = (1/C) Σ_c Σ_ij (G_c)_ij / n_c²`
//! - GradAlign-II `= (1/C) Σ_c log det G_c`
//!
//! "GradAlign for Training-free Model Performance Inference" (arXiv 2411.19819), section 5,
//! equations 11 to 13. The text there says that a lower determinant is better; its tables, and
//! correlations with the accuracies of NAS-Bench-201, need the opposite, which is what is
//! reported here.

use ndarray::Array2;

use super::{Info, Metric, Options, Value};
use crate::error::{Error, Result};
use crate::linalg::log_det_spd;
use crate::ops::BatchNormMode;
use crate::probe::{ClassGram, Differentiated, GramKind, Pairs, Probe, SampleView, Selection};

const NEEDS: &str = "inputs, labels, per-sample gradients of all parameters";

/// The mean squared length of a class's mean sign gradient.
#[derive(Clone, Copy, Debug)]
pub struct GradAlign1;

/// The mean log-determinant of a class's Gram matrix of sign gradients.
#[derive(Clone, Copy, Debug)]
pub struct GradAlign2;

/// A probe of the Gram matrices of all gradients, by class.
fn probe(
    options: &Options,
    value: impl Fn(&[ClassGram], u64) -> Result<Value> + Copy + 'static,
) -> Result<Probe<Value>> {
    let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Running);
    if batch_norm == BatchNormMode::Batch {
        return Err(Error::Usage(
            "GradAlign compares gradients of samples taken alone, which batch statistics couple: \
             choose `bn` running or `bn` sample"
                .into(),
        ));
    }
    let (view, kind) = (SampleView::new(Differentiated::Loss, batch_norm), options.gram);
    Ok(Probe::of_pairs(view, Pairs::OfClasses, move |gradients| {
        let grams = gradients.grams(kind, Selection::All)?;
        let parameters = gradients.parameters();
        Ok(Box::new(move |results| value(results.get(grams)?, parameters)))
    }))
}

impl Metric for GradAlign1 {
    fn info(&self) -> Info {
        Info {
            name: "gradalign-1",
            formula: "(1/C) Σ_c ‖(1/n_c) Σ_{i∈c} sign(g_i)‖²",
            needs: NEEDS,
            direction: "higher is better",
            source: "arXiv 2411.19819, section 5, Eq. 11",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let (off_diagonal, normalize) = (options.off_diagonal, options.normalize);
        probe(options, move |grams, parameters| {
            Ok(alignment(grams, off_diagonal, normalize.then_some(parameters)))
        })
    }
}

/// The mean over the classes of the mean element of the Gram matrix, divided by `parameters`.
fn alignment(grams: &[ClassGram], off_diagonal: bool, parameters: Option<u64>) -> Value {
    let mut warnings = warn_of_lone_samples(grams);
    let mut terms = Vec::new();
    for ClassGram { gram, .. } in grams {
        let n = gram.nrows() as f64;
        if !off_diagonal {
            terms.push(gram.sum() / (n * n));
        } else if n > 1.0 {
            terms.push((gram.sum() - gram.diag().sum()) / (n * (n - 1.0)));
        }
    }
    let mut value = terms.iter().sum::<f64>() / terms.len() as f64;
    if terms.is_empty() {
        warnings.push("no class has two samples to compare: GradAlign-I is undefined".into());
    }
    if let Some(parameters) = parameters {
        value /= parameters as f64;
    }
    Value { value, warnings }
}

impl Metric for GradAlign2 {
    fn info(&self) -> Info {
        Info {
            name: "gradalign-2",
            formula: "(1/C) Σ_c log det(S_c S_cᵀ), rows of S_c: sign(g_i), i∈c",
            needs: NEEDS,
            direction: "higher is better (the paper's text says lower; its tables say higher)",
            source: "arXiv 2411.19819, section 5, Eq. 12 and 13",
        }
    }

    fn probe(&self, options: &Options) -> Result<Probe<Value>> {
        let (ridge, kind) = (options.ridge, options.gram);
        probe(options, move |grams, _| log_determinant(grams, ridge, kind))
    }
}

/// The mean over the classes of the log-determinant of the Gram matrix with `ridge` on its diagonal.
fn log_determinant(grams: &[ClassGram], ridge: f64, kind: GramKind) -> Result<Value> {
    let mut warnings = warn_of_lone_samples(grams);
    let mut total = 0.0;
    for ClassGram { class, gram } in grams {
        let ridged = gram + &(Array2::<f64>::eye(gram.nrows()) * ridge);
        let log_det = log_det_spd(&ridged.view())?;
        if log_det == f64::NEG_INFINITY {
            warnings.push(format!(
                "the Gram matrix of class {class} is singular: {}; GradAlign-II is −∞ \
                 (`ridge` makes it finite)",
                why_singular(gram, kind)
            ));
        }
        total += log_det;
    }
    Ok(Value { value: total / grams.len() as f64, warnings })
}

fn warn_of_lone_samples(grams: &[ClassGram]) -> Vec<String> {
    let lone: Vec<String> =
        grams.iter().filter(|g| g.gram.nrows() == 1).map(|g| g.class.to_string()).collect();
    match lone.len() {
        0 => Vec::new(),
        n => vec![format!(
            "{n} of {} classes have a single sample ({}{}): such a class counts by its number of \
             non-zero gradients, which says nothing about agreement",
            grams.len(),
            lone.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
            if n > 8 { ", …" } else { "" }
        )],
    }
}

/// What makes a Gram matrix singular, as far as it shows.
fn why_singular(gram: &Array2<f64>, kind: GramKind) -> &'static str {
    let n = gram.nrows();
    let what = |i: usize, j: usize| {
        let product = gram[[i, i]] * gram[[j, j]];
        gram[[i, j]] * gram[[i, j]] >= product * (1.0 - 1e-12)
    };
    if gram.diag().iter().any(|&v| v == 0.0) {
        "a sample has no gradient"
    } else if (0..n).any(|i| (0..i).any(|j| what(i, j))) {
        match kind {
            GramKind::Sign => "two samples have the same or opposite signs throughout",
            GramKind::Raw => "two samples have parallel gradients",
        }
    } else {
        "its rows are linearly dependent"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// Class Gram matrices of the given sign vectors.
    fn grams(classes: &[Array2<f64>]) -> Vec<ClassGram> {
        let gram =
            |(c, s): (usize, &Array2<f64>)| ClassGram { class: c as i64, gram: s.dot(&s.t()) };
        classes.iter().enumerate().map(gram).collect()
    }

    fn values(classes: &[Array2<f64>], options: &Options) -> (f64, f64) {
        let grams = grams(classes);
        let parameters = options.normalize.then_some(4);
        let one = alignment(&grams, options.off_diagonal, parameters).value;
        (one, log_determinant(&grams, options.ridge, options.gram).unwrap().value)
    }

    #[test]
    fn identical_gradients() {
        let (one, two) =
            values(&[array![[1., -1., 0., 1.], [1., -1., 0., 1.]]], &Options::default());
        assert_eq!((one, two), (3.0, f64::NEG_INFINITY));
    }

    #[test]
    fn opposite_gradients() {
        let (one, two) = values(&[array![[1., -1.], [-1., 1.]]], &Options::default());
        assert_eq!((one, two), (0.0, f64::NEG_INFINITY));
    }

    #[test]
    fn disjoint_supports() {
        // A = Σ nnz / n², D = Σ log nnz.
        let (one, two) =
            values(&[array![[1., -1., 1., 0.], [0., 0., 0., 1.]]], &Options::default());
        assert!((one - 1.0).abs() < 1e-12 && (two - 3f64.ln()).abs() < 1e-12, "{one} {two}");
    }

    #[test]
    fn classes_are_averaged_whatever_their_size() {
        let classes = [array![[1., 1., 1., 1.]], array![[1., 0., 0., 0.], [0., 1., 0., 0.]]];
        let (one, two) = values(&classes, &Options::default());
        assert!((one - (4.0 + 0.5) / 2.0).abs() < 1e-12);
        assert!((two - 4f64.ln() / 2.0).abs() < 1e-12);
    }

    #[test]
    fn variants() {
        let classes = [array![[1., 1., -1., 1.], [1., 1., 1., 1.]], array![[1., 0., 0., 0.]]];
        let off = Options { off_diagonal: true, ..Options::default() };
        assert_eq!(values(&classes, &off).0, 2.0);
        let normal = Options { normalize: true, ..Options::default() };
        assert_eq!(values(&classes, &normal).0, (3.0 + 1.0) / 2.0 / 4.0);
        let ridge = Options { ridge: 1.0, ..Options::default() };
        let same = [array![[1., 1.], [1., 1.]]];
        assert!((values(&same, &ridge).1 - 5f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn a_singular_gram_matrix_says_why() {
        let reasons = [
            (array![[1., 1.], [0., 0.]], "no gradient"),
            (array![[1., 1.], [-1., -1.]], "same or opposite"),
        ];
        for (signs, reason) in reasons {
            let grams = grams(&[signs]);
            let value = log_determinant(&grams, 0.0, GramKind::Sign).unwrap();
            assert!(value.warnings.iter().any(|w| w.contains(reason)), "{:?}", value.warnings);
        }
    }

    #[test]
    fn batch_statistics_are_refused() {
        let batch = Options { batch_norm: Some(BatchNormMode::Batch), ..Options::default() };
        assert!(GradAlign1.probe(&batch).is_err());
    }
}
