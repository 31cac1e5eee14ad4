//! Inner products of signs.

use ndarray::{Array3, ArrayD};

use super::{Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// Float32 holds integers exactly up to here.
const EXACT: usize = 1 << 24;

/// Operands with fewer columns than this are laid side by side and multiplied together.
const SMALL: usize = 1 << 14;

/// `y[g, i, j] = Σ_k sign(x[g·size + i, k]) · sign(x[g·size + j, k])` in float64, for `x` of all
/// operands `[groups·size, k]` laid side by side; NaN where a row holds a value that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignGram {
    /// The number of groups of rows that are multiplied with each other.
    pub groups: usize,
    /// The number of rows of each.
    pub size: usize,
}

impl Rule for SignGram {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        for fact in x {
            if fact.rank() != 2
                || fact.shape[0] != self.groups * self.size
                || !fact.dtype.is_float()
            {
                bail_shape!("no rows of {} groups of {} in {fact}", self.groups, self.size);
            }
        }
        Ok(Fact::new(DType::F64, [self.groups, self.size, self.size]))
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        let size = self.size;
        let mut y = Array3::<f64>::zeros((self.groups, size, size));
        let sign = |v: f64| if v == 0.0 { 0.0 } else { v.signum() };
        for operand in x {
            let rows: Vec<ArrayD<f64>> =
                operand.to_f64().outer_iter().map(|r| r.to_owned()).collect();
            for ((g, i, j), y) in y.indexed_iter_mut() {
                let (a, b) = (&rows[g * size + i], &rows[g * size + j]);
                let finite = a.iter().chain(b).all(|v| v.is_finite());
                let product: f64 = a.iter().zip(b).map(|(&a, &b)| sign(a) * sign(b)).sum();
                *y += if finite { product } else { f64::NAN };
            }
        }
        Ok(Tensor::from_f64(y.into_dyn(), DType::F64))
    }

    fn derivative(&self) -> Derivative {
        Derivative::Zero
    }

    fn vjp(&self, _: &mut Builder, site: &Site, _: Value) -> Result<Cotangents> {
        Ok(vec![None; site.inputs.len()])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        // Lanes are more groups.
        let mut rows = Vec::new();
        for lane in lanes {
            let x = lane.spread(b, n)?;
            let shape = b.shape(x);
            rows.push(b.reshape(x, &[n * shape[1], shape[2]])?);
        }
        let y = b.push(SignGram { groups: n * self.groups, size: self.size }, &rows)?;
        b.reshape(y, &[n, self.groups, self.size, self.size])
    }

    fn decompose(&self, b: &mut Builder, x: &[Value]) -> Result<Option<Value>> {
        let mut terms = Vec::new();
        let mut small = Vec::new();
        for &rows in x {
            let width = b.shape(rows)[1];
            if width < SMALL {
                small.push(rows);
                continue;
            }
            for start in (0..width).step_by(EXACT) {
                let part = b.slice_axis(rows, 1, start, width.min(start + EXACT), 1)?;
                terms.push(self.products(b, part)?);
            }
        }
        if !small.is_empty() {
            let rows = b.concat(&small, 1)?;
            terms.push(self.products(b, rows)?);
        }
        let mut total = terms[0];
        for &term in &terms[1..] {
            total = b.add(total, term)?;
        }
        Ok(Some(total))
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Joint(0)
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero.iter().all(|&zero| zero)
    }

    fn emit(&self, _: &mut dyn Writer, _: &[Value], _: &Fact) -> Result<String> {
        Err(Error::Shape("products of signs are taken apart before emission".into()))
    }
}

impl SignGram {
    /// The products of the rows of one operand.
    fn products(&self, b: &mut Builder, rows: Value) -> Result<Value> {
        let (groups, size) = (self.groups, self.size);
        let width = b.shape(rows)[1];
        let signs = b.sign(rows)?;
        let signs = b.reshape(signs, &[groups, size, width])?;
        let products = b.matmul_t(signs, signs, false, true)?;
        // 0 for a row of finite numbers, else NaN.
        let spoilt = b.not_finite(rows, &[1])?;
        let across = b.reshape(spoilt, &[groups, size, 1])?;
        let down = b.reshape(spoilt, &[groups, 1, size])?;
        let products = b.add(products, across)?;
        let products = b.add(products, down)?;
        b.cast(products, DType::F64)
    }
}

impl Builder {
    /// Over `axes`, which keep length 1: 0 where all elements are finite (and their sum is), else
    /// NaN.
    pub(crate) fn not_finite(&mut self, x: Value, axes: &[usize]) -> Result<Value> {
        let sum = self.reduce_sum(x, axes)?;
        let size = self.unary(super::Unary::Abs, sum)?;
        let most = self.scalar_like(x, f64::from(f32::MAX));
        let finite = self.less_or_equal(size, most)?;
        let (zero, nan) = (self.scalar_like(x, 0.0), self.scalar_like(x, f64::NAN));
        self.select(finite, zero, nan)
    }

    /// The Gram matrices `[groups, size, size]` of the signs of the rows of `x`, each
    /// `[groups·size, k]`, in float64.
    pub fn sign_gram(&mut self, x: &[Value], groups: usize, size: usize) -> Result<Value> {
        self.push(SignGram { groups, size }, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval;
    use crate::testing::Case;

    #[test]
    fn products_of_signs() {
        Case::new("SignGram")
            .input(&[6, 5], -1.0, 1.0)
            .input(&[6, 1], -1.0, 1.0)
            .check_forward(|b, x| b.sign_gram(x, 2, 3));
    }

    #[test]
    fn taken_apart_it_is_the_same_and_shows_what_is_not_finite() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [4, 3]));
        let whole = b.sign_gram(&[x], 2, 2).unwrap();
        let parts = SignGram { groups: 2, size: 2 }.decompose(&mut b, &[x]).unwrap().unwrap();
        b.output("whole", whole);
        b.output("parts", parts);
        let values = vec![1., -2., 0., -3., -0.5, 2., f32::NAN, 1., 1., 0., 0., 1.];
        let got = eval(&b.finish(), &[Tensor::f32(&[4, 3], values).unwrap()]).unwrap();
        for got in got {
            let got: Vec<f64> = got.to_f64().into_iter().collect();
            assert_eq!(got[..4], [2.0, 0.0, 0.0, 3.0]);
            assert!(got[4..7].iter().all(|v| v.is_nan()));
            assert_eq!(got[7], 1.0);
        }
    }
}
