//! Elementwise functions of one operand.

use super::{Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Rectifier, RectifierKind, Tag, Value};
use crate::tensor::{DType, Tensor};

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Erf,
    Exp,
    Floor,
    IsInf,
    IsNaN,
    Log,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Round,
    Sigmoid,
    Sign,
    Sin,
    Sinh,
    Softplus,
    Sqrt,
    Tan,
    Tanh,
}

use Unary::*;

/// From here on `ln(1 + eˣ)` is `x` to the precision of float64.
const SOFTPLUS_IS_IDENTITY: f64 = 40.0;

impl Unary {
    fn is_test(self) -> bool {
        matches!(self, IsInf | IsNaN | Not)
    }

    fn apply(self, x: f64) -> f64 {
        match self {
            Abs => x.abs(),
            Acos => x.acos(),
            Acosh => x.acosh(),
            Asin => x.asin(),
            Asinh => x.asinh(),
            Atan => x.atan(),
            Atanh => x.atanh(),
            Ceil => x.ceil(),
            Cos => x.cos(),
            Cosh => x.cosh(),
            Erf => erf(x),
            Exp => x.exp(),
            Floor => x.floor(),
            IsInf => f64::from(u8::from(x.is_infinite())),
            IsNaN => f64::from(u8::from(x.is_nan())),
            Log => x.ln(),
            Neg => -x,
            Not => f64::from(u8::from(x == 0.0)),
            Reciprocal => x.recip(),
            Relu => x.max(0.0),
            Round => x.round_ties_even(),
            Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Sign => f64::from(u8::from(x > 0.0)) - f64::from(u8::from(x < 0.0)),
            Sin => x.sin(),
            Sinh => x.sinh(),
            Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Sqrt => x.sqrt(),
            Tan => x.tan(),
            Tanh => x.tanh(),
        }
    }
}

impl Rule for Unary {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let dtype = x[0].dtype;
        match self {
            Not if dtype != DType::Bool => bail_shape!("Not needs booleans, not {dtype}"),
            Neg | Abs | Sign if dtype != DType::Bool => {}
            Not => {}
            _ if !dtype.is_float() => bail_shape!("{self:?} needs floats, not {dtype}"),
            _ => {}
        }
        let dtype = if self.is_test() { DType::Bool } else { dtype };
        Ok(Fact::new(dtype, x[0].shape.clone()))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        if let (Neg | Abs | Sign, Some(v)) = (self, x[0].to_i64()) {
            let f = match self {
                Neg => i64::wrapping_neg,
                Abs => i64::wrapping_abs,
                _ => i64::signum,
            };
            return Ok(Tensor::from_i64(v.mapv(f), out.dtype));
        }
        Ok(Tensor::from_f64(x[0].to_f64().mapv(|v| self.apply(v)), out.dtype))
    }

    fn derivative(&self) -> Derivative {
        match self {
            Ceil | Floor | IsInf | IsNaN | Not | Round | Sign => Derivative::Zero,
            _ => Derivative::Rule,
        }
    }

    /// `δ · f′(x)`, written with the result `y` where that is cheaper and cancels nothing.
    ///
    /// At kinks: `relu′(0) = 0` and `|·|′(0) = 0`, as PyTorch. Where a slope is infinite (a root or a
    /// logarithm at 0, an arc sine at ±1) it counts as 0.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (x, y) = (site.input(0), site.output);
        let dx = match self {
            Ceil | Floor | IsInf | IsNaN | Not | Round | Sign => return Ok(vec![None]),
            Neg => b.unary(Neg, dy)?,
            Abs => {
                let sign = b.unary(Sign, x)?;
                b.mul(dy, sign)?
            }
            Exp => {
                let slope = b.at_most_finite(y)?;
                b.mul(dy, slope)?
            }
            Log => {
                let divisor = b.infinite_at_zero(x)?;
                b.div(dy, divisor)?
            }
            Sqrt => {
                let root = b.infinite_at_zero(y)?;
                let twice = b.scale(root, 2.0)?;
                b.div(dy, twice)?
            }
            Reciprocal => {
                let divisor = b.infinite_at_zero(x)?;
                let y = if divisor == x { y } else { b.unary(Reciprocal, divisor)? };
                let square = b.mul(y, y)?;
                let slope = b.unary(Neg, square)?;
                b.mul(dy, slope)?
            }
            Relu => {
                let zero = b.scalar_like(y, 0.0);
                let passes = b.greater(y, zero)?;
                b.select(passes, dy, zero)?
            }
            Sigmoid => {
                let slope = logistic_density(b, x)?;
                b.mul(dy, slope)?
            }
            Softplus => {
                let slope = b.unary(Sigmoid, x)?;
                b.mul(dy, slope)?
            }
            // 1/cosh²(x) = 4·σ′(2x)
            Tanh => {
                let twice = b.scale(x, 2.0)?;
                let density = logistic_density(b, twice)?;
                let slope = b.scale(density, 4.0)?;
                b.mul(dy, slope)?
            }
            Erf => {
                let square = b.mul(x, x)?;
                let negated = b.unary(Neg, square)?;
                let bell = b.unary(Exp, negated)?;
                let slope = b.scale(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
                b.mul(dy, slope)?
            }
            Sin => {
                let slope = b.unary(Cos, x)?;
                b.mul(dy, slope)?
            }
            Cos => {
                let sine = b.unary(Sin, x)?;
                let slope = b.unary(Neg, sine)?;
                b.mul(dy, slope)?
            }
            Tan => {
                let square = b.mul(y, y)?;
                let slope = b.shift(square, 1.0)?;
                b.mul(dy, slope)?
            }
            Sinh => {
                let slope = b.unary(Cosh, x)?;
                b.mul(dy, slope)?
            }
            Cosh => {
                let slope = b.unary(Sinh, x)?;
                b.mul(dy, slope)?
            }
            // 1/√(1−x²), 1/√(x²±1), 1/(1±x²), with 1−x² as (1−x)·(1+x), which does not cancel
            Asin | Acos | Asinh | Acosh | Atan | Atanh => {
                let inner = match self {
                    Asin | Acos | Acosh | Atanh => {
                        let above = b.shift(x, 1.0)?;
                        let below =
                            if *self == Acosh { b.shift(x, -1.0)? } else { b.one_minus(x)? };
                        b.mul(below, above)?
                    }
                    _ => {
                        let square = b.mul(x, x)?;
                        b.shift(square, 1.0)?
                    }
                };
                let divisor =
                    if matches!(self, Atan | Atanh) { inner } else { b.unary(Sqrt, inner)? };
                let divisor = b.infinite_at_zero(divisor)?;
                let dx = b.div(dy, divisor)?;
                if *self == Acos { b.unary(Neg, dx)? } else { dx }
            }
        };
        Ok(vec![Some(dx)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        b.unary(*self, lanes[0].value)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], _: &Fact) -> Result<Option<Value>> {
        // Moving a reshape behind what follows it lets neighbouring reshapes meet and cancel.
        match b.as_reshape(x[0]) {
            Some(inner) if b.as_constant(inner).is_none() => {
                let shape = b.shape(x[0]);
                let y = b.unary(*self, inner)?;
                b.reshape(y, &shape).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn decompose(&self, b: &mut Builder, x: &[Value]) -> Result<Option<Value>> {
        match self {
            Sigmoid => logistic(b, x[0]).map(Some),
            _ => Ok(None),
        }
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        match self {
            Abs | Neg | Relu => Homogeneity::linear(),
            Sqrt => Homogeneity::Each(&[0.5]),
            Reciprocal => Homogeneity::Each(&[-1.0]),
            IsInf | IsNaN | Not | Sign => Homogeneity::Each(&[0.0]),
            Acos | Acosh | Asin | Asinh | Atan | Atanh | Ceil | Cos | Cosh | Erf | Exp | Floor
            | Log | Round | Sigmoid | Sin | Sinh | Softplus | Tan | Tanh => Homogeneity::None,
        }
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        let keeps_zero = match self {
            Abs | Asin | Asinh | Atan | Atanh | Ceil | Erf | Floor | IsInf | IsNaN | Neg | Relu
            | Round | Sign | Sin | Sinh | Sqrt | Tan | Tanh => true,
            Acos | Acosh | Cos | Cosh | Exp | Log | Not | Reciprocal | Sigmoid | Softplus => false,
        };
        keeps_zero && zero[0]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let x = e.name(x[0]);
        if *self == Softplus {
            // Computed as it stands, ln(1 + eˣ) overflows where it is x.
            let level = e.scalar(out.dtype, SOFTPLUS_IS_IDENTITY);
            let low = e.node("Min", &[&x, &level], &[]);
            let y = e.node("Softplus", &[&low], &[]);
            return Ok(e.node("Max", &[&x, &y], &[]));
        }
        Ok(e.node(&format!("{self:?}"), &[&x], &[]))
    }
}

/// `σ′(x) = e^{−|x|} / (1 + e^{−|x|})²`, which `y·(1 − y)` is only as long as `1 − y` does not cancel.
fn logistic_density(b: &mut Builder, x: Value) -> Result<Value> {
    let size = b.unary(Abs, x)?;
    let negated = b.neg(size)?;
    let tail = b.exp(negated)?;
    let whole = b.shift(tail, 1.0)?;
    let square = b.mul(whole, whole)?;
    b.div(tail, square)
}

/// `σ(x) = 1 / (1 + e⁻ˣ)` as it stands: runtimes take a rational approximation with an absolute error
/// for the operator, which has no tail.
fn logistic(b: &mut Builder, x: Value) -> Result<Value> {
    let negated = b.neg(x)?;
    let exp = b.exp(negated)?;
    let whole = b.shift(exp, 1.0)?;
    b.unary(Reciprocal, whole)
}

impl Builder {
    /// `x` for a divisor of cotangents: infinite where it is 0, so that a cotangent over it is 0 there
    /// and not infinite or NaN.
    pub(crate) fn infinite_at_zero(&mut self, x: Value) -> Result<Value> {
        if self.graph().is_never_zero(x) {
            return Ok(x);
        }
        let (zero, infinity) = (self.scalar_like(x, 0.0), self.scalar_like(x, f64::INFINITY));
        let is_zero = self.equal(x, zero)?;
        self.select(is_zero, infinity, x)
    }

    /// `x` for a factor of cotangents: at most the largest number, which makes 0 of 0.
    fn at_most_finite(&mut self, x: Value) -> Result<Value> {
        let most = if self.dtype(x) == DType::F64 { f64::MAX } else { f32::MAX.into() };
        let most = self.scalar_like(x, most);
        self.min(x, most)
    }

    /// Applies an elementwise function.
    pub fn unary(&mut self, f: Unary, x: Value) -> Result<Value> {
        self.push(f, &[x])
    }

    /// `−x`.
    pub fn neg(&mut self, x: Value) -> Result<Value> {
        self.unary(Neg, x)
    }

    /// `√x`.
    pub fn sqrt(&mut self, x: Value) -> Result<Value> {
        self.unary(Sqrt, x)
    }

    /// `eˣ`.
    pub fn exp(&mut self, x: Value) -> Result<Value> {
        self.unary(Exp, x)
    }

    /// `max(x, 0)` as an activation: the result is tagged as rectified.
    pub fn relu(&mut self, x: Value) -> Result<Value> {
        let y = self.unary(Relu, x)?;
        self.rectified(x, y, RectifierKind::Relu);
        Ok(y)
    }

    /// Tags `y` as the result of a rectifier of the floats `x`, unless it is `x` itself or known.
    pub fn rectified(&mut self, x: Value, y: Value, kind: RectifierKind) {
        // Of a value and its reshaped view, the view may be one that nothing reads.
        let (x, y) = (self.graph().behind_reshapes(x), self.graph().behind_reshapes(y));
        if x != y && self.dtype(x).is_float() && self.as_constant(y).is_none() {
            self.tag(y, Tag::Rectified(Rectifier { input: x, kind, copies: 1 }));
        }
    }

    /// `1 / (1 + e⁻ˣ)`.
    pub fn sigmoid(&mut self, x: Value) -> Result<Value> {
        self.unary(Sigmoid, x)
    }

    /// The hyperbolic tangent.
    pub fn tanh(&mut self, x: Value) -> Result<Value> {
        self.unary(Tanh, x)
    }
}

/// The error function to about 1e-15, by its Taylor series below 2 and Lentz's continued fraction
/// of the complement above (Abramowitz and Stegun 7.1.5 and 7.1.14).
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    let value = if a < 2.0 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        std::f64::consts::FRAC_2_SQRT_PI * sum
    } else if a > 6.0 {
        1.0
    } else {
        // √π e^{a²} erfc(a) = 1/(a + (1/2)/(a + 1/(a + (3/2)/(a + …))))
        let fraction = (1..=80).rev().fold(a, |tail, k| a + 0.5 * f64::from(k) / tail);
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * fraction)
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn smooth_functions() {
        for f in [Neg, Exp, Sigmoid, Softplus, Tanh, Erf, Sin, Cos, Sinh, Cosh, Asinh, Atan] {
            Case::new(format!("{f:?}")).input(&[2, 3], -1.5, 1.5).check(|b, x| b.unary(f, x[0]));
        }
    }

    #[test]
    fn functions_level_off_far_out() {
        for f in [Softplus, Tanh, Sigmoid, Erf] {
            for (low, high) in [(80.0, 1e4), (1e30, 1e35), (-1e4, -80.0), (-1e35, -1e30)] {
                Case::new(format!("{f:?} far out"))
                    .input(&[17], low, high)
                    .check_forward(|b, x| b.unary(f, x[0]));
            }
        }
    }

    #[test]
    fn functions_on_part_of_the_line() {
        for (f, low, high) in [
            (Log, 0.2, 3.0),
            (Sqrt, 0.2, 3.0),
            (Reciprocal, 0.3, 2.0),
            (Tan, -1.0, 1.0),
            (Asin, -0.8, 0.8),
            (Acos, -0.8, 0.8),
            (Atanh, -0.8, 0.8),
            (Acosh, 1.3, 3.0),
        ] {
            Case::new(format!("{f:?}")).input(&[5], low, high).check(|b, x| b.unary(f, x[0]));
        }
    }

    #[test]
    fn functions_with_kinks_away_from_them() {
        for f in [Relu, Abs, Ceil, Floor, Round, Sign] {
            for (low, high) in [(0.1, 0.4), (-0.4, -0.1)] {
                Case::new(format!("{f:?}")).input(&[4], low, high).check(|b, x| b.unary(f, x[0]));
            }
        }
    }

    #[test]
    fn error_function_values() {
        // scipy.special.erf
        for (x, y) in [
            (0.5, 0.520_499_877_813_046_5),
            (1.9, 0.992_790_429_235_257_5),
            (2.5, 0.999_593_047_982_555),
            (-3.0, -0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - y).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
    }
}
