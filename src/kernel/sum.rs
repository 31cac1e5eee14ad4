//! Sums in which rounding noise is zero.

use pulp::{Arch, Simd, WithSimd};

use super::{ParallelFor, Parts};

/// Sums over the middle axis of values `[outer, length, inner]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanSum {
    /// Sums that lie apart.
    pub outer: usize,
    /// Terms of a sum.
    pub length: usize,
    /// Sums that lie side by side.
    pub inner: usize,
    /// A sum that is not larger than this share of the sum of magnitudes is zero.
    pub cancelled: f32,
}

impl CleanSum {
    /// Writes the sums `[outer, inner]` of `a`, or of the products of `a` and `b`.
    ///
    /// # Panics
    /// When a slice has another length than the shapes say.
    pub fn sums(&self, a: &[f32], b: Option<&[f32]>, sums: &mut [f32], parallel: &ParallelFor) {
        let block = self.length * self.inner;
        assert_eq!(a.len(), self.outer * block, "elements of the values");
        assert!(b.is_none_or(|b| b.len() == a.len()), "elements of the factors");
        assert_eq!(sums.len(), self.outer * self.inner, "elements of the sums");
        // Enough for a thread to be worth its while.
        let outers = (1usize << 14).div_ceil(block.max(1));
        let parts = Parts::new(sums, outers * self.inner);
        let arch = Arch::new();
        parallel(self.outer.div_ceil(outers), &|i| {
            parts.with(i, |sums| {
                for (k, sums) in sums.chunks_mut(self.inner.max(1)).enumerate() {
                    let from = (i * outers + k) * block;
                    let a = &a[from..][..block];
                    let b = b.map(|b| &b[from..][..block]);
                    arch.dispatch(Block { op: self, a, b, sums });
                }
            });
        });
    }
}

struct Block<'a> {
    op: &'a CleanSum,
    a: &'a [f32],
    b: Option<&'a [f32]>,
    sums: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block { op, a, b, sums } = self;
        let clean = |sum: f32, size: f32| match sum.abs() <= op.cancelled * size {
            true => 0.0,
            false => sum,
        };
        if op.inner != 1 {
            sums.fill(0.0);
            let mut sizes = vec![0.0; op.inner];
            for (i, row) in a.chunks_exact(op.inner).enumerate() {
                let factors = b.map(|b| &b[i * op.inner..][..op.inner]);
                for (j, &v) in row.iter().enumerate() {
                    let v = factors.map_or(v, |f| v * f[j]);
                    sums[j] += v;
                    sizes[j] += v.abs();
                }
            }
            for (sum, size) in sums.iter_mut().zip(sizes) {
                *sum = clean(*sum, size);
            }
            return;
        }
        let zero = simd.splat_f32s(0.0);
        let (mut sum, mut size) = ([zero; 2], [zero; 2]);
        let (head, tail) = S::as_simd_f32s(a);
        let factors = b.map(S::as_simd_f32s);
        for (i, &v) in head.iter().enumerate() {
            let v = factors.map_or(v, |(f, _)| simd.mul_f32s(v, f[i]));
            sum[i % 2] = simd.add_f32s(sum[i % 2], v);
            size[i % 2] = simd.add_f32s(size[i % 2], simd.abs_f32s(v));
        }
        let mut total = simd.reduce_sum_f32s(simd.add_f32s(sum[0], sum[1]));
        let mut magnitude = simd.reduce_sum_f32s(simd.add_f32s(size[0], size[1]));
        for (i, &v) in tail.iter().enumerate() {
            let v = factors.map_or(v, |(_, f)| v * f[i]);
            total += v;
            magnitude += v.abs();
        }
        sums[0] = clean(total, magnitude);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::in_turn;

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn sums_along_each_axis() {
        for (outer, length, inner) in [(3, 1, 1), (5, 37, 1), (2, 64, 1), (3, 7, 5), (1, 4, 20_000)]
        {
            let op = CleanSum { outer, length, inner, cancelled: 1e-6 };
            let (a, b) = (noise(outer * length * inner, 1), noise(outer * length * inner, 2));
            for b in [None, Some(b.as_slice())] {
                let mut sums = vec![f32::NAN; outer * inner];
                op.sums(&a, b, &mut sums, &in_turn);
                for (n, &got) in sums.iter().enumerate() {
                    let at = |k: usize| (n / inner * length + k) * inner + n % inner;
                    let term = |k: usize| f64::from(a[at(k)] * b.map_or(1.0, |b| b[at(k)]));
                    let want: f64 = (0..length).map(term).sum();
                    assert!((f64::from(got) - want).abs() < 1e-4, "{op:?}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn what_cancels_is_zero_and_what_is_not_finite_stays() {
        let op = CleanSum { outer: 3, length: 3, inner: 1, cancelled: 1e-6 };
        let values = [1.0, -1.0, 1e-7, 1.0, -1.0, 1e-5, 1.0, f32::NAN, 0.0];
        let mut sums = [0.0; 3];
        op.sums(&values, None, &mut sums, &in_turn);
        assert!(sums[0] == 0.0 && sums[1] > 0.0 && sums[2].is_nan());
    }
}
