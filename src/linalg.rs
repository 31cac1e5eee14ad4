//! Dense linear algebra in float64: log-determinant, symmetric eigenvalues and orthonormal columns.
//!
//! [`log_det_spd`] and [`eigvals_symmetric`] are computed by faer, in pure Rust. With the feature
//! `lapack` the system's LAPACK computes them instead, through ndarray-linalg. Both read the lower
//! triangle only.

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, Result};

#[cfg(any(test, not(feature = "lapack")))]
use with_faer as backend;
#[cfg(all(not(test), feature = "lapack"))]
use with_lapack as backend;

/// The name of the back-end in use, for reports.
pub const BACKEND: &str = backend::NAME;

/// The logarithm of the determinant of a symmetric positive semi-definite matrix, such as a Gram
/// matrix; −∞ if it is singular. The determinant of the matrix without rows is 1.
///
/// The matrix A is scaled to a unit diagonal, C = D^(−½) A D^(−½) with D = diag(A), so that the scale of
/// the rows does not matter. Then log det A = Σ log λ_i(C) + Σ log a_ii.
///
/// The smallest eigenvalue of C decides whether the matrix is singular. If rows are linearly dependent, it
/// is zero in exact arithmetic, and a few rounding errors of either sign in floating point. So values up to
/// 8 n ε λ_max count as zero. (The pivots of a Cholesky factorisation are no substitute: if the dependence
/// has large coefficients, they are a thousand times larger, and their logarithm is noise.) Two rows of
/// 10⁸ signs that differ in a single sign are clearly told apart.
///
/// # Errors
/// When the matrix is not square, has an element that is not finite, or is indefinite beyond rounding.
pub fn log_det_spd(matrix: &ArrayView2<f64>) -> Result<f64> {
    log_det(matrix, backend::eigenvalues)
}

/// The eigenvalues of a symmetric matrix in ascending order.
///
/// # Errors
/// When the matrix is not square or has an element that is not finite.
pub fn eigvals_symmetric(matrix: &ArrayView2<f64>) -> Result<Vec<f64>> {
    check(matrix)?;
    if matrix.is_empty() { Ok(Vec::new()) } else { backend::eigenvalues(matrix) }
}

/// `Q` of the decomposition `A = Q·R` of a matrix with at least as many rows as columns. The columns of
/// `Q` are orthonormal and span those of `A`. Their signs make the diagonal of `R` positive, so that `Q`
/// is uniformly distributed if `A` is Gaussian. Computed by faer.
pub fn orthonormal_columns(matrix: &ArrayView2<f64>) -> Result<Array2<f64>> {
    let (rows, columns) = matrix.dim();
    if rows < columns {
        return Err(Error::Score(format!("{columns} columns of {rows} rows are not independent")));
    }
    let qr = faer::Mat::from_fn(rows, columns, |i, j| matrix[[i, j]]).qr();
    let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
    Ok(Array2::from_shape_fn((rows, columns), |(i, j)| q[(i, j)] * r[(j, j)].signum()))
}

fn log_det(
    matrix: &ArrayView2<f64>,
    eigenvalues: fn(&ArrayView2<f64>) -> Result<Vec<f64>>,
) -> Result<f64> {
    check(matrix)?;
    let n = matrix.nrows();
    let diagonal = matrix.diag();
    if let Some(i) = diagonal.iter().position(|&d| d < 0.0) {
        return Err(indefinite(format!("element {i} of its diagonal is {}", diagonal[i])));
    }
    if diagonal.iter().any(|&d| d == 0.0) {
        return Ok(f64::NEG_INFINITY);
    }
    let roots = diagonal.mapv(f64::sqrt);
    let scaled = Array2::from_shape_fn((n, n), |(i, j)| matrix[[i, j]] / (roots[i] * roots[j]));
    let values = if n == 0 { Vec::new() } else { eigenvalues(&scaled.view())? };
    let (Some(&least), Some(&greatest)) = (values.first(), values.last()) else { return Ok(0.0) };
    if least < -f64::EPSILON.sqrt() {
        return Err(indefinite(format!("its least eigenvalue is {least:e} when scaled")));
    }
    if least <= 8.0 * n as f64 * f64::EPSILON * greatest {
        return Ok(f64::NEG_INFINITY);
    }
    Ok(values.iter().chain(&diagonal).map(|v| v.ln()).sum())
}

fn indefinite(reason: String) -> Error {
    Error::Score(format!("the matrix is not positive semi-definite: {reason}"))
}

fn check(matrix: &ArrayView2<f64>) -> Result<()> {
    let (rows, columns) = matrix.dim();
    if rows != columns {
        return Err(Error::Score(format!("a {rows}×{columns} matrix is not square")));
    }
    match matrix.indexed_iter().find(|(_, v)| !v.is_finite()) {
        Some(((i, j), v)) => Err(Error::Score(format!("element ({i}, {j}) of the matrix is {v}"))),
        None => Ok(()),
    }
}

#[cfg(any(test, not(feature = "lapack")))]
mod with_faer {
    use faer::{Mat, Side};
    use ndarray::ArrayView2;

    use crate::error::{Error, Result};

    pub(super) const NAME: &str = "faer";

    fn mat(matrix: &ArrayView2<f64>) -> Mat<f64> {
        Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[[i, j]])
    }

    pub(super) fn eigenvalues(matrix: &ArrayView2<f64>) -> Result<Vec<f64>> {
        let values = mat(matrix).self_adjoint_eigenvalues(Side::Lower);
        values.map_err(|e| Error::Score(format!("no eigenvalues: {e:?}")))
    }
}

#[cfg(feature = "lapack")]
mod with_lapack {
    use ndarray::ArrayView2;
    use ndarray_linalg::{EigValsh, UPLO};

    use crate::error::{Error, Result};

    pub(super) const NAME: &str = "lapack";

    pub(super) fn eigenvalues(matrix: &ArrayView2<f64>) -> Result<Vec<f64>> {
        let values = matrix.eigvalsh(UPLO::Lower);
        values.map(|v| v.to_vec()).map_err(|e| Error::Score(format!("no eigenvalues: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, array};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    type Eigenvalues = fn(&ArrayView2<f64>) -> Result<Vec<f64>>;

    /// The back-ends compiled in: one by default, both with the feature `lapack`.
    const BACKENDS: &[(&str, Eigenvalues)] = &[
        (with_faer::NAME, with_faer::eigenvalues),
        #[cfg(feature = "lapack")]
        (with_lapack::NAME, with_lapack::eigenvalues),
    ];

    /// Checks the log-determinant by every back-end.
    #[track_caller]
    fn assert_log_det(matrix: &Array2<f64>, expected: f64, tolerance: f64) {
        for (name, eigenvalues) in BACKENDS {
            let found = log_det(&matrix.view(), *eigenvalues).unwrap();
            let close = found == expected || (found - expected).abs() <= tolerance;
            assert!(close, "{name}: {found} instead of {expected}");
        }
    }

    fn random(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
    }

    fn signs(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || f64::from(rng.random_range(-1..=1)))
    }

    /// The log-determinant by elimination without pivoting, as in a textbook.
    fn by_elimination(mut a: Array2<f64>) -> f64 {
        let n = a.nrows();
        for k in 0..n {
            for i in k + 1..n {
                let factor = a[[i, k]] / a[[k, k]];
                for j in k..n {
                    a[[i, j]] -= factor * a[[k, j]];
                }
            }
        }
        a.diag().iter().map(|pivot| pivot.ln()).sum()
    }

    fn hilbert(n: usize) -> Array2<f64> {
        Array2::from_shape_fn((n, n), |(i, j)| 1.0 / (i + j + 1) as f64)
    }

    #[test]
    fn closed_forms() {
        assert_log_det(&array![[7.5]], 7.5f64.ln(), 1e-15);
        assert_log_det(&array![[2.0, 1.0], [1.0, 2.0]], 3f64.ln(), 1e-15);
        assert_log_det(&Array2::zeros((0, 0)), 0.0, 0.0);
        let d = Array1::from_iter((1..=20).map(f64::from));
        let factorial = d.mapv(f64::ln).sum();
        assert_log_det(&Array2::from_diag(&d), factorial, 1e-12);
        // (a − b) I + b 1 1ᵀ has the determinant (a − b)^(n−1) (a + (n − 1) b).
        let (n, a, b) = (50, 3.0f64, 1.0);
        let matrix = Array2::from_shape_fn((n, n), |(i, j)| if i == j { a } else { b });
        let expected = 49.0 * 2f64.ln() + (a + 49.0 * b).ln();
        assert_log_det(&matrix, expected, 1e-11);
        // Hilbert matrices have known determinants and are badly conditioned.
        assert_log_det(&hilbert(4), -6_048_000f64.ln(), 1e-11);
        assert_log_det(&hilbert(8), -3.653_568_471_257_345e32f64.ln(), 1e-5);
    }

    #[test]
    fn identities_of_determinants() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for n in [1, 2, 5, 33, 128] {
            let rows = random(n, 3 * n, &mut rng);
            let gram = rows.dot(&rows.t());
            let log_det = by_elimination(gram.clone());
            assert_log_det(&gram, log_det, 1e-9);
            // det(D A D) = det(A) Π d², with rows of very different sizes.
            let d = Array1::from_shape_fn(n, |i| 10f64.powi((i % 17) as i32 - 8));
            let sized = Array2::from_shape_fn((n, n), |(i, j)| d[i] * gram[[i, j]] * d[j]);
            assert_log_det(&sized, log_det + 2.0 * d.mapv(f64::ln).sum(), 1e-7);
            // log det A = Σ log λ_i.
            for (name, eigenvalues) in BACKENDS {
                let values = eigenvalues(&gram.view()).unwrap();
                assert!(values.is_sorted(), "{name}");
                let sum: f64 = values.iter().map(|v| v.ln()).sum();
                assert!((sum - log_det).abs() < 1e-8, "{name}: {sum} instead of {log_det}");
                let trace: f64 = values.iter().sum();
                assert!((trace - gram.diag().sum()).abs() < 1e-9 * trace, "{name}");
            }
        }
    }

    #[test]
    fn dependent_rows_of_integers_are_singular() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n in [2, 3, 12, 40, 128] {
            for repeat in 0..20 {
                let mut rows = signs(n, 4 * n + 1000 * (repeat % 2), &mut rng);
                assert!(log_det_spd(&rows.dot(&rows.t()).view()).unwrap().is_finite());
                let (from, to) = (rng.random_range(0..n), rng.random_range(0..n));
                let copy = rows.row(from).mapv(|v| if repeat % 3 == 0 { -v } else { v });
                rows.row_mut((to + usize::from(from == to)) % n).assign(&copy);
                assert_log_det(&rows.dot(&rows.t()), f64::NEG_INFINITY, 0.0);
            }
        }
    }

    #[test]
    fn fewer_columns_than_rows_and_empty_rows_are_singular() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for n in [2, 16, 64] {
            let rows = random(n, n - 1, &mut rng);
            assert_log_det(&rows.dot(&rows.t()), f64::NEG_INFINITY, 0.0);
            let mut rows = signs(n, 5 * n, &mut rng);
            rows.row_mut(n / 2).fill(0.0);
            assert_log_det(&rows.dot(&rows.t()), f64::NEG_INFINITY, 0.0);
        }
    }

    #[test]
    fn nearly_equal_rows_are_not_singular() {
        // Two rows of signs that differ in one place of P.
        for p in [1e2f64, 1e5, 1e8, 1e11] {
            let matrix = array![[p, p - 2.0], [p - 2.0, p]];
            let expected = (4.0 * p - 4.0).ln();
            assert_log_det(&matrix, expected, 1e-4);
        }
    }

    #[test]
    fn eigenvalues_of_known_matrices() {
        let matrix = array![[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]];
        let expected = [2.0 - 2f64.sqrt(), 2.0, 2.0 + 2f64.sqrt()];
        for (name, eigenvalues) in BACKENDS {
            let found = eigenvalues(&matrix.view()).unwrap();
            let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-14);
            assert!(near, "{name}: {found:?}");
        }
        assert_eq!(
            eigvals_symmetric(&array![[-1.0, 0.0], [0.0, -3.0]].view()).unwrap(),
            [-3.0, -1.0]
        );
        assert!(eigvals_symmetric(&Array2::zeros((0, 0)).view()).unwrap().is_empty());
    }

    #[test]
    fn views_in_any_order_are_read_as_they_are() {
        let wide = array![[4.0, 9.0, 1.0], [1.0, 9.0, 3.0]];
        let view = wide.slice(ndarray::s![.., ..;2]);
        assert!((log_det_spd(&view.t()).unwrap() - 11f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn what_cannot_be_a_gram_matrix_is_an_error() {
        for (matrix, part) in [
            (array![[1.0, f64::NAN], [0.0, 1.0]], "(0, 1) of the matrix is NaN"),
            (array![[1.0, 0.0], [0.0, f64::INFINITY]], "inf"),
            (array![[1.0, 2.0], [2.0, 1.0]], "not positive semi-definite"),
            (array![[1.0, 0.0], [0.0, -1.0]], "not positive semi-definite"),
        ] {
            let message = log_det_spd(&matrix.view()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let wide = Array2::<f64>::zeros((2, 3));
        assert!(log_det_spd(&wide.view()).is_err() && eigvals_symmetric(&wide.view()).is_err());
        assert!(eigvals_symmetric(&array![[f64::NAN]].view()).is_err());
    }
}
