//! Vector operations that `pulp` lacks.

use pulp::bytemuck::cast_slice_mut;
use pulp::{Simd, WithSimd};
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
use pulp::{
    cast, f32x8, f32x16,
    x86::{V3, V4},
};

/// The number of floats in a vector.
pub(super) struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// The maximum number of floats in a vector on any processor.
pub(super) const MOST_LANES: usize = 16;

/// Absolute values. The version of `pulp` is not inlined.
#[inline(always)]
pub(super) fn magnitudes<S: Simd>(simd: S, values: S::f32s) -> S::f32s {
    simd.max_f32s(values, simd.sub_f32s(simd.splat_f32s(0.0), values))
}

/// A reusable buffer of floats, aligned so that no vector crosses a cache line.
#[derive(Default)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    pub(super) const fn new() -> Self {
        Buffer(Vec::new())
    }

    /// `len` floats with unspecified values.
    pub(super) fn room(&mut self, len: usize) -> &mut [f32] {
        self.0.resize(self.0.len().max(len + MOST_LANES), 0.0);
        let offset = self.0.as_ptr().align_offset(MOST_LANES * size_of::<f32>());
        // Without an address, as in an interpreter, alignment does not matter.
        &mut self.0[offset.min(MOST_LANES)..][..len]
    }

    /// `len` zeros.
    pub(super) fn zeros(&mut self, len: usize) -> &mut [f32] {
        let room = self.room(len);
        room.fill(0.0);
        room
    }
}

/// Transposes squares of vectors: value `j` of vector `i` becomes value `i` of vector `j`.
#[derive(Clone, Copy)]
pub(super) struct Transpose {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    avx: Option<V3>,
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    avx512: Option<V4>,
}

impl Transpose {
    /// Selects the instructions of this processor.
    pub(super) fn new() -> Self {
        Transpose {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            avx: V3::try_new(),
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            avx512: V4::try_new(),
        }
    }

    /// Transposes `square`, which has as many vectors as a vector has floats.
    #[inline(always)]
    pub(super) fn square<S: Simd>(self, square: &mut [S::f32s]) {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            if S::F32_LANES == 16
                && let Some(simd) = self.avx512
            {
                return square_of_16(simd, cast_slice_mut(square));
            }
            if S::F32_LANES == 8
                && let Some(simd) = self.avx
            {
                return square_of_8(simd, cast_slice_mut(square));
            }
        }
        let values: &mut [f32] = cast_slice_mut(square);
        for i in 0..S::F32_LANES {
            for j in 0..i {
                values.swap(i * S::F32_LANES + j, j * S::F32_LANES + i);
            }
        }
    }
}

/// Transposes within quarters of vectors, then transposes the quarters.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn square_of_16(simd: V4, square: &mut [f32x16]) {
    let f = simd.avx512f;
    let Ok(square) = <&mut [f32x16; 16]>::try_from(square) else { return };
    // Quarter `l` of `quarters[k][g]` holds value 4·l + k of the four rows from 4·g on.
    let mut quarters = [[cast(square[0]); 4]; 4];
    for g in 0..square.len() / 4 {
        let rows = &square[4 * g..][..4];
        let [a, b, c, d] = [cast(rows[0]), cast(rows[1]), cast(rows[2]), cast(rows[3])];
        let low = [cast(f._mm512_unpacklo_ps(a, b)), cast(f._mm512_unpacklo_ps(c, d))];
        let high = [cast(f._mm512_unpackhi_ps(a, b)), cast(f._mm512_unpackhi_ps(c, d))];
        quarters[0][g] = cast(f._mm512_unpacklo_pd(low[0], low[1]));
        quarters[1][g] = cast(f._mm512_unpackhi_pd(low[0], low[1]));
        quarters[2][g] = cast(f._mm512_unpacklo_pd(high[0], high[1]));
        quarters[3][g] = cast(f._mm512_unpackhi_pd(high[0], high[1]));
    }
    for k in 0..4 {
        let [a, b, c, d] = quarters[k];
        let even = [
            f._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            f._mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
        ];
        let odd = [
            f._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            f._mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
        ];
        square[k] = cast(f._mm512_shuffle_f32x4::<0b10_00_10_00>(even[0], even[1]));
        square[4 + k] = cast(f._mm512_shuffle_f32x4::<0b10_00_10_00>(odd[0], odd[1]));
        square[8 + k] = cast(f._mm512_shuffle_f32x4::<0b11_01_11_01>(even[0], even[1]));
        square[12 + k] = cast(f._mm512_shuffle_f32x4::<0b11_01_11_01>(odd[0], odd[1]));
    }
}

/// Transposes within halves of vectors, then transposes the halves.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[inline(always)]
fn square_of_8(simd: V3, square: &mut [f32x8]) {
    let f = simd.avx;
    let Ok(square) = <&mut [f32x8; 8]>::try_from(square) else { return };
    let mut halves = [[cast(square[0]); 2]; 4];
    for g in 0..square.len() / 4 {
        let rows = &square[4 * g..][..4];
        let [a, b, c, d] = [cast(rows[0]), cast(rows[1]), cast(rows[2]), cast(rows[3])];
        let low = [cast(f._mm256_unpacklo_ps(a, b)), cast(f._mm256_unpacklo_ps(c, d))];
        let high = [cast(f._mm256_unpackhi_ps(a, b)), cast(f._mm256_unpackhi_ps(c, d))];
        halves[0][g] = cast(f._mm256_unpacklo_pd(low[0], low[1]));
        halves[1][g] = cast(f._mm256_unpackhi_pd(low[0], low[1]));
        halves[2][g] = cast(f._mm256_unpacklo_pd(high[0], high[1]));
        halves[3][g] = cast(f._mm256_unpackhi_pd(high[0], high[1]));
    }
    for k in 0..4 {
        let [a, b] = halves[k];
        square[k] = cast(f._mm256_permute2f128_ps::<0x20>(a, b));
        square[4 + k] = cast(f._mm256_permute2f128_ps::<0x31>(a, b));
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar};

    use super::*;

    struct Turn;

    impl WithSimd for Turn {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = S::F32_LANES;
            let mut square = [simd.splat_f32s(0.0); MOST_LANES];
            let values: &mut [f32] = cast_slice_mut(&mut square[..lanes]);
            for (i, v) in values.iter_mut().enumerate() {
                *v = i as f32;
            }
            Transpose::new().square::<S>(&mut square[..lanes]);
            let values: &mut [f32] = cast_slice_mut(&mut square[..lanes]);
            for (i, &v) in values.iter().enumerate() {
                assert_eq!(v as usize, i % lanes * lanes + i / lanes);
            }
        }
    }

    #[test]
    fn rows_become_columns() {
        Arch::new().dispatch(Turn);
        Turn.with_simd(Scalar);
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        if let Some(simd) = V3::try_new() {
            Simd::vectorize(simd, Turn);
        }
    }
}
