//! Gram matrices of signs that are packed to bits.
//!
//! Each value is packed to two bits: "is negative" and "is not zero". The inner product of two rows of
//! signs is the number of positions where both are non-zero, minus twice the number of those where the
//! signs differ.

use pulp::{Arch, Simd, WithSimd};

use super::{ParallelFor, Parts};

/// The number of words that are packed together, as one vector.
const WIDE: usize = 8;

/// The number of values in a block: 32 rows of `WIDE` values. Row `r` fills bit `r` of each word.
const BLOCK: usize = 32 * WIDE;

/// The length of the packed signs of `values` values: the words, then one element that is non-zero if a
/// value is not finite.
fn packed_len(values: usize) -> usize {
    words_len(values) + 1
}

/// The number of words in the packed signs of `values` values.
pub(super) fn words_len(values: usize) -> usize {
    2 * WIDE * values.div_ceil(BLOCK)
}

/// Packs the signs of `values` into `words` of length [`words_len`]: for each block of values, the words
/// for "is negative", then those for "is not zero". Trailing zeros do not change inner products. Returns
/// whether all values are finite.
pub(super) fn pack(values: &[f32], words: &mut [i32]) -> bool {
    Arch::new().dispatch(Pack { values, words })
}

/// The packed signs of each of the `rows` rows of `values`, concatenated.
pub fn packed_rows(values: &[f32], rows: usize, parallel: &ParallelFor) -> Vec<i32> {
    let width = values.len() / rows.max(1);
    let length = packed_len(width);
    let mut packed = vec![0; rows * length];
    let parts = Parts::new(&mut packed, length);
    parallel(rows, &|i| {
        parts.with(i, |packed| {
            if let Some((flag, words)) = packed.split_last_mut() {
                *flag = i32::from(!pack(&values[i * width..][..width], words));
            }
        });
    });
    drop(parts);
    packed
}

struct Pack<'a> {
    values: &'a [f32],
    words: &'a mut [i32],
}

impl WithSimd for Pack<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        let Pack { values, words } = self;
        // The bits without the sign order magnitudes; those of finite numbers are below infinity.
        let mut largest = [0u32; WIDE];
        let mut rest = [0.0; BLOCK];
        let (blocks, tail) = values.as_chunks::<BLOCK>();
        rest[..tail.len()].copy_from_slice(tail);
        let blocks = blocks.iter().chain((!tail.is_empty()).then_some(&rest));
        for (block, words) in blocks.zip(words.chunks_exact_mut(2 * WIDE)) {
            let (mut negative, mut nonzero) = ([0u32; WIDE], [0u32; WIDE]);
            for (row, values) in block.as_chunks::<WIDE>().0.iter().enumerate() {
                for i in 0..WIDE {
                    let bits = values[i].to_bits();
                    let size = bits << 1;
                    largest[i] = largest[i].max(size);
                    let is_nonzero = (size | size.wrapping_neg()) >> 31;
                    nonzero[i] |= is_nonzero << row;
                    negative[i] |= (bits >> 31) << row;
                }
            }
            for i in 0..WIDE {
                words[i] = (negative[i] & nonzero[i]) as i32;
                words[WIDE + i] = nonzero[i] as i32;
            }
        }
        let infinity = f32::INFINITY.to_bits() << 1;
        largest.iter().all(|&size| size < infinity)
    }
}

/// The Gram matrices of signs inside groups of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignGram {
    /// The number of groups.
    pub groups: usize,
    /// The number of samples in each group.
    pub size: usize,
}

impl SignGram {
    /// Writes the inner products `[groups, size, size]` of the rows of all `operands`, concatenated along
    /// the row. Each operand is packed signs `[groups·size, length]`. The inner products of a sample with
    /// a value that is not finite are NaN.
    ///
    /// # Panics
    /// When the length of an operand or result does not match the groups.
    pub fn products(&self, operands: &[&[i32]], products: &mut [f64], parallel: &ParallelFor) {
        let Self { groups, size } = *self;
        let lanes = groups * size;
        assert_eq!(products.len(), lanes * size, "elements of the Gram matrices");
        assert!(operands.iter().all(|o| o.len() % lanes == 0), "rows of packed signs");
        let rows = Parts::new(products, size);
        parallel(lanes, &|lane| {
            let (group, i) = (lane / size, lane % size);
            rows.with(lane, |row| {
                row.fill(0.0);
                // One operand at a time, so that its rows stay in the cache for all pairs.
                for operand in operands {
                    let length = operand.len() / lanes;
                    let packed = |lane: usize| &operand[lane * length..][..length];
                    for (j, product) in row.iter_mut().enumerate().take(i + 1) {
                        *product +=
                            Arch::new().dispatch(Product(packed(lane), packed(group * size + j)));
                    }
                }
            });
        });
        for group in products.chunks_mut(size * size) {
            for i in 0..size {
                for j in 0..i {
                    group[j * size + i] = group[i * size + j];
                }
            }
        }
    }
}

struct Product<'a>(&'a [i32], &'a [i32]);

impl WithSimd for Product<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Product(a, b) = self;
        let (Some((flag_a, a)), Some((flag_b, b))) = (a.split_last(), b.split_last()) else {
            return 0.0;
        };
        if *flag_a != 0 || *flag_b != 0 {
            return f64::NAN;
        }
        // Two words at a time: 64 bits, the width of the population count.
        let pair = |words: &[i32; 2 * WIDE], i: usize| {
            u64::from(words[2 * i] as u32) | u64::from(words[2 * i + 1] as u32) << 32
        };
        let (mut both, mut differ) = (0u64, 0u64);
        let (a, b) = (a.as_chunks::<{ 2 * WIDE }>().0, b.as_chunks::<{ 2 * WIDE }>().0);
        for (a, b) in a.iter().zip(b) {
            for i in 0..WIDE / 2 {
                let nonzero = pair(a, WIDE / 2 + i) & pair(b, WIDE / 2 + i);
                both += u64::from(nonzero.count_ones());
                differ += u64::from((nonzero & (pair(a, i) ^ pair(b, i))).count_ones());
            }
        }
        both as f64 - 2.0 * differ as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::in_turn;

    fn rows(samples: usize, length: usize) -> Vec<Vec<f32>> {
        let value = |n: usize, i: usize| match (n * 7919 + i * 104_729) % 7 {
            0 => 0.0,
            1 => -0.0,
            v => v as f32 - 4.5,
        };
        (0..samples).map(|n| (0..length).map(|i| value(n, i)).collect()).collect()
    }

    fn packed(rows: &[Vec<f32>]) -> Vec<i32> {
        packed_rows(&rows.concat(), rows.len(), &in_turn)
    }

    fn sign(v: f32) -> f64 {
        if v == 0.0 { 0.0 } else { f64::from(v.signum()) }
    }

    #[test]
    fn products_are_those_of_the_signs_inside_each_group() {
        for length in [1, 255, 256, 257, 1000] {
            let (a, b) = (rows(6, length), rows(6, 3));
            let (pa, pb) = (packed(&a), packed(&b));
            let mut products = vec![0.0; 18];
            SignGram { groups: 2, size: 3 }.products(&[&pa, &pb], &mut products, &in_turn);
            for (n, &got) in products.iter().enumerate() {
                let (g, i, j) = (n / 9, n / 3 % 3, n % 3);
                let dot = |rows: &[Vec<f32>]| -> f64 {
                    let (p, q) = (&rows[g * 3 + i], &rows[g * 3 + j]);
                    p.iter().zip(q).map(|(&p, &q)| sign(p) * sign(q)).sum()
                };
                assert_eq!(got, dot(&a) + dot(&b), "{length}: {n}");
            }
        }
    }

    #[test]
    fn a_value_that_is_not_finite_shows() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = rows(2, 300);
            rows[1][280] = bad;
            let mut products = [0.0; 4];
            SignGram { groups: 1, size: 2 }.products(&[&packed(&rows)], &mut products, &in_turn);
            assert!(products[0].is_finite() && products[1..].iter().all(|v| v.is_nan()));
        }
    }
}
