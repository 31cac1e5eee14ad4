//! Elementwise functions of two operands, with broadcasting.

use ndarray::{ArrayD, IxDyn, Zip};

use super::{
    Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Unary, Writer, align,
    broadcast,
};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// An elementwise function of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    /// The remainder with the sign of the divisor.
    Mod,
    Mul,
    Or,
    Pow,
    Sub,
    Xor,
}

use Binary::*;

impl Binary {
    fn is_comparison(self) -> bool {
        matches!(self, Equal | Greater | GreaterOrEqual | Less | LessOrEqual)
    }

    fn is_logic(self) -> bool {
        matches!(self, And | Or | Xor)
    }

    fn is_commutative(self) -> bool {
        matches!(self, Add | And | Equal | Max | Min | Mul | Or | Xor)
    }

    fn apply(self, x: f64, y: f64) -> f64 {
        let truth = |t: bool| f64::from(u8::from(t));
        match self {
            Add => x + y,
            And => truth(x != 0.0 && y != 0.0),
            Div => x / y,
            Equal => truth(x == y),
            Greater => truth(x > y),
            GreaterOrEqual => truth(x >= y),
            Less => truth(x < y),
            LessOrEqual => truth(x <= y),
            Max => x.max(y),
            Min => x.min(y),
            Mod => x - y * (x / y).floor(),
            Mul => x * y,
            Or => truth(x != 0.0 || y != 0.0),
            Pow => x.powf(y),
            Sub => x - y,
            Xor => truth((x != 0.0) != (y != 0.0)),
        }
    }

    /// Integer arithmetic, exact where float64 is not; `None` where it is undefined.
    fn apply_integers(self, x: i64, y: i64) -> Option<i64> {
        Some(match self {
            Add => x.wrapping_add(y),
            Sub => x.wrapping_sub(y),
            Mul => x.wrapping_mul(y),
            Div => x.checked_div(y)?,
            Mod => {
                x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r })?
            }
            Max => x.max(y),
            Min => x.min(y),
            Pow => x.wrapping_pow(u32::try_from(y).ok()?),
            Equal => i64::from(x == y),
            Greater => i64::from(x > y),
            GreaterOrEqual => i64::from(x >= y),
            Less => i64::from(x < y),
            LessOrEqual => i64::from(x <= y),
            And => i64::from(x != 0 && y != 0),
            Or => i64::from(x != 0 || y != 0),
            Xor => i64::from((x != 0) != (y != 0)),
        })
    }
}

impl Rule for Binary {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (a, c) = (x[0], x[1]);
        if a.dtype != c.dtype {
            bail_shape!("{self:?} of {} and {}: the dtypes differ", a.dtype, c.dtype);
        }
        if self.is_logic() != (a.dtype == DType::Bool) && *self != Equal {
            bail_shape!("{self:?} is not defined for {}", a.dtype);
        }
        let dtype = if self.is_comparison() { DType::Bool } else { a.dtype };
        Ok(Fact::new(dtype, broadcast(&a.shape, &c.shape)?))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        if let (Some(p), Some(q)) = (x[0].to_i64(), x[1].to_i64()) {
            let undefined = || Error::Shape(format!("{self:?} of integers is not defined here"));
            let mut failed = false;
            let values = zip(&p, &q, &out.shape, |a, b| {
                self.apply_integers(a, b).unwrap_or_else(|| {
                    failed = true;
                    0
                })
            })?;
            return if failed { Err(undefined()) } else { Ok(Tensor::from_i64(values, out.dtype)) };
        }
        let values = zip(&x[0].to_f64(), &x[1].to_f64(), &out.shape, |a, b| self.apply(a, b))?;
        Ok(Tensor::from_f64(values, out.dtype))
    }

    fn derivative(&self) -> Derivative {
        match self {
            Add | Sub | Mul | Div | Pow | Max | Min | Mod => Derivative::Rule,
            _ => Derivative::Zero,
        }
    }

    /// `δ·∂f/∂a` and `δ·∂f/∂b`, each summed over the axes along which that operand was broadcast.
    ///
    /// `max` and `min` split the cotangent evenly where the operands are equal, as PyTorch. Where a
    /// slope is infinite (a quotient by 0, a power below 1 of 0) it counts as 0.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (p, q, y) = (site.input(0), site.input(1), site.output);
        let mut dp = None;
        let mut dq = None;
        match self {
            Add => (dp, dq) = (Some(dy), Some(dy)),
            Sub => {
                dp = Some(dy);
                if site.wants(1) {
                    dq = Some(b.neg(dy)?);
                }
            }
            Mul if p == q => {
                let twice = b.scale(dy, 2.0)?;
                dp = Some(b.mul(twice, p)?);
            }
            Mul => {
                if site.wants(0) {
                    dp = Some(b.mul(dy, q)?);
                }
                if site.wants(1) {
                    dq = Some(b.mul(dy, p)?);
                }
            }
            Div => {
                let divisor = b.infinite_at_zero(q)?;
                let scaled = b.div(dy, divisor)?;
                dp = Some(scaled);
                if site.wants(1) {
                    let y = if divisor == q { y } else { b.div(p, divisor)? };
                    let moved = b.mul(scaled, y)?;
                    dq = Some(b.neg(moved)?);
                }
            }
            Pow => {
                if site.wants(0) {
                    let slope = power_slope(b, p, q)?;
                    dp = Some(b.mul(dy, slope)?);
                }
                if site.wants(1) {
                    // 0^q does not change with q > 0; log 0 must not poison it.
                    let zero = b.scalar_like(p, 0.0);
                    let one = b.scalar_like(p, 1.0);
                    let positive = b.push(Greater, &[p, zero])?;
                    let base = b.select(positive, p, one)?;
                    let log = b.unary(Unary::Log, base)?;
                    let slope = b.mul(y, log)?;
                    let slope = b.select(positive, slope, zero)?;
                    dq = Some(b.mul(dy, slope)?);
                }
            }
            Max | Min => {
                let (for_p, for_q) = if *self == Max { (Greater, Less) } else { (Less, Greater) };
                let tie = b.push(Equal, &[p, q])?;
                let half = b.scale(dy, 0.5)?;
                let zero = b.scalar_like(dy, 0.0);
                let share = b.select(tie, half, zero)?;
                for (wins, cotangent, i) in [(for_p, &mut dp, 0), (for_q, &mut dq, 1)] {
                    if site.wants(i) {
                        let wins = b.push(wins, &[p, q])?;
                        *cotangent = Some(b.select(wins, dy, share)?);
                    }
                }
            }
            // a mod b = a − b·⌊a/b⌋
            Mod => {
                dp = Some(dy);
                if site.wants(1) {
                    let ratio = b.div(p, q)?;
                    let floor = b.unary(Unary::Floor, ratio)?;
                    let slope = b.neg(floor)?;
                    dq = Some(b.mul(dy, slope)?);
                }
            }
            _ => {}
        }
        let mut narrow = |d: Option<Value>, to: Value, wanted: bool| -> Result<Option<Value>> {
            match d {
                Some(d) if wanted => b.unbroadcast(d, to).map(Some),
                _ => Ok(None),
            }
        };
        Ok(vec![narrow(dp, p, site.wants(0))?, narrow(dq, q, site.wants(1))?])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let x = align(b, lanes)?;
        b.push(*self, &x)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        let is = |b: &Builder, v: Value, c: f64| b.as_uniform(v) == Some(c);
        let same = |b: &Builder, v: Value| b.fact(v) == out;
        let (p, q) = (x[0], x[1]);
        let kept = match self {
            Add if is(b, q, 0.0) => Some(p),
            Add if is(b, p, 0.0) => Some(q),
            Sub if is(b, q, 0.0) => Some(p),
            Mul | Div | Pow if is(b, q, 1.0) => Some(p),
            Mul if is(b, p, 1.0) => Some(q),
            _ => None,
        };
        if let Some(kept) = kept.filter(|&v| same(b, v)) {
            return Ok(Some(kept));
        }
        if *self == Pow && is(b, q, 2.0) && same(b, p) {
            return b.mul(p, p).map(Some);
        }
        if *self == Add
            && let Some(joined) = b.sum_of_neighbours(p, q)?
        {
            return Ok(Some(joined));
        }
        if self.is_commutative() && q < p {
            return b.push(*self, &[q, p]).map(Some);
        }
        self.through_reshape(b, p, q, out)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        match self {
            Add | Max | Min | Mod | Sub => Homogeneity::Joint(1),
            And | Equal | Greater | GreaterOrEqual | Less | LessOrEqual | Or | Xor => {
                Homogeneity::Joint(0)
            }
            Div => Homogeneity::Each(&[1.0, -1.0]),
            Mul => Homogeneity::bilinear(),
            Pow => Homogeneity::None,
        }
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        let (p, q) = (zero[0], zero[1]);
        match self {
            Add | Greater | Less | Max | Min | Or | Sub | Xor => p && q,
            And | Mul => p || q,
            Div | Mod => p && !q,
            Equal | GreaterOrEqual | LessOrEqual | Pow => false,
        }
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let (p, q) = (e.name(x[0]), e.name(x[1]));
        if *self == Mod && out.dtype.is_float() {
            // Mod of floats exists only with the sign of the dividend.
            let ratio = e.node("Div", &[&p, &q], &[]);
            let floor = e.node("Floor", &[&ratio], &[]);
            let whole = e.node("Mul", &[&floor, &q], &[]);
            return Ok(e.node("Sub", &[&p, &whole], &[]));
        }
        Ok(e.node(&format!("{self:?}"), &[&p, &q], &[]))
    }
}

impl Binary {
    /// Moves reshapes of the operands behind the operation where both shapes allow it, so that
    /// they meet others and cancel: `f(reshape(p), c)` is `reshape(f(p, c′))`.
    fn through_reshape(
        &self,
        b: &mut Builder,
        p: Value,
        q: Value,
        out: &Fact,
    ) -> Result<Option<Value>> {
        let inner = |b: &Builder, v: Value| {
            b.as_reshape(v).filter(|&u| b.as_constant(u).is_none() && b.shape(v) == out.shape)
        };
        let (left, right) = match (inner(b, p), inner(b, q)) {
            (Some(u), Some(v)) if b.shape(u) == b.shape(v) => (u, v),
            (Some(u), _) => match b.reshape_operand(q, &out.shape, &b.shape(u))? {
                Some(v) => (u, v),
                None => return Ok(None),
            },
            (_, Some(v)) => match b.reshape_operand(p, &out.shape, &b.shape(v))? {
                Some(u) => (u, v),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let y = b.push(*self, &[left, right])?;
        b.reshape(y, &out.shape).map(Some)
    }
}

/// `q·p^{q−1}`, and 0 for a power of 0 whose slope is infinite or the product `0·∞`.
fn power_slope(b: &mut Builder, p: Value, q: Value) -> Result<Value> {
    let lower = b.shift(q, -1.0)?;
    if b.as_uniform(q).is_some_and(|q| q >= 1.0) || b.graph().is_never_zero(p) {
        let power = b.pow(p, lower)?;
        return b.mul(q, power);
    }
    let (zero, one) = (b.scalar_like(p, 0.0), b.scalar_like(p, 1.0));
    let is_zero = b.equal(p, zero)?;
    let is_low = b.less(q, one)?;
    let is_singular = b.and(is_zero, is_low)?;
    let base = b.select(is_singular, one, p)?;
    let power = b.pow(base, lower)?;
    let slope = b.mul(q, power)?;
    b.select(is_singular, zero, slope)
}

/// `f` of two arrays broadcast to `shape`.
fn zip<T: Copy + Default>(
    p: &ArrayD<T>,
    q: &ArrayD<T>,
    shape: &[usize],
    mut f: impl FnMut(T, T) -> T,
) -> Result<ArrayD<T>> {
    let (Some(p), Some(q)) = (p.broadcast(IxDyn(shape)), q.broadcast(IxDyn(shape))) else {
        bail_shape!("{:?} and {:?} do not broadcast to {shape:?}", p.shape(), q.shape());
    };
    let mut out = ArrayD::default(IxDyn(shape));
    Zip::from(&mut out).and(p).and(q).for_each(|o, &a, &b| *o = f(a, b));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Op, Primitive};
    use crate::testing::Case;
    use proptest::prelude::*;

    const SHAPES: [(&[usize], &[usize]); 5] =
        [(&[2, 3], &[2, 3]), (&[2, 3], &[3]), (&[2, 1], &[1, 3]), (&[], &[2, 2]), (&[2, 3], &[1])];

    #[test]
    fn a_square_has_one_product_as_gradient() {
        Case::new("square").input(&[2, 3], -1.0, 1.0).check(|b, x| b.mul(x[0], x[0]));
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, []));
        let y = b.mul(x, x).unwrap();
        let (graph, d) = crate::transform::grad(&b.finish(), y, &[x]).unwrap();
        let product = &graph.node(d[0].unwrap()).op;
        assert!(matches!(product, Op::Apply(Primitive::Binary(Mul))));
    }

    #[test]
    fn arithmetic_with_broadcasting() {
        for op in [Add, Sub, Mul, Max, Min] {
            for (p, q) in SHAPES {
                Case::new(format!("{op:?} {p:?} {q:?}"))
                    .input(p, -2.0, 2.0)
                    .input(q, -2.0, 2.0)
                    .check(|b, x| b.push(op, x));
            }
        }
    }

    #[test]
    fn division_and_powers_of_positive_numbers() {
        for op in [Div, Pow] {
            for (p, q) in SHAPES {
                Case::new(format!("{op:?} {p:?} {q:?}"))
                    .input(p, 0.5, 2.0)
                    .input(q, 0.5, 2.0)
                    .check(|b, x| b.push(op, x));
            }
        }
    }

    #[test]
    fn remainder() {
        Case::new("Mod").input(&[4], 2.1, 2.9).input(&[4], 0.95, 1.0).check(|b, x| b.push(Mod, x));
    }

    #[test]
    fn an_operand_used_twice() {
        Case::new("x·x + x").input(&[3], -1.0, 1.0).check(|b, x| {
            let square = b.mul(x[0], x[0])?;
            b.add(square, x[0])
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
        #[test]
        fn any_broadcast(shape in prop::collection::vec(1usize..4, 1..4), narrow in any::<[bool; 6]>(), cut in 0usize..3) {
            // Each operand has the full extent or 1 along each axis; the second may lack leading axes.
            let extent = |i: usize| -> Vec<usize> {
                shape.iter().enumerate().map(|(j, &d)| if narrow[2 * j + i] { 1 } else { d }).collect()
            };
            let (p, q) = (extent(0), extent(1)[cut.min(shape.len())..].to_vec());
            for op in [Mul, Div] {
                Case::new(format!("{op:?} {p:?} {q:?}"))
                    .input(&p, 0.5, 2.0)
                    .input(&q, 0.5, 2.0)
                    .check(|b, x| b.push(op, x));
            }
        }
    }

    #[test]
    fn integer_remainder_has_the_sign_of_the_divisor() {
        assert_eq!(Mod.apply_integers(-7, 3), Some(2));
        assert_eq!(Mod.apply_integers(7, -3), Some(-2));
        assert_eq!(Mod.apply(-7.0, 3.0), 2.0);
        assert_eq!(Div.apply_integers(1, 0), None);
    }
}
