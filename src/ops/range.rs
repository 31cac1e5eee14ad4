//! What is known of the range of values before anything runs.

use super::{Binary, Graph, Op, Primitive, Unary};
use crate::ir::Value;

/// How far back the origin of a value is looked at.
const DEPTH: usize = 8;

impl Graph {
    /// Whether no element of `value` is 0 whatever the inputs and parameters are, as far as a look at
    /// what it is computed from tells. Underflow is not considered.
    pub(crate) fn is_never_zero(&self, value: Value) -> bool {
        match &self.node(value).op {
            Op::Constant(tensor) => tensor.to_f64().iter().all(|&v| v != 0.0),
            _ => self.is_above_zero(value, true, DEPTH),
        }
    }

    /// Whether all elements of `value` are above 0, or at least 0 where that is not to be `strict`.
    fn is_above_zero(&self, value: Value, strict: bool, depth: usize) -> bool {
        let node = self.node(value);
        let Some(depth) = depth.checked_sub(1) else { return false };
        let is = |v: Value| self.is_above_zero(v, strict, depth);
        let is_positive = |v: Value| self.is_above_zero(v, true, depth);
        let is_at_least_zero = |v: Value| self.is_above_zero(v, false, depth);
        let op = match &node.op {
            Op::Constant(tensor) => {
                return tensor.to_f64().iter().all(|&v| v > 0.0 || v == 0.0 && !strict);
            }
            Op::Apply(op) => op,
            Op::Input(_) | Op::Parameter(_) => return false,
        };
        match (op, node.inputs.as_slice()) {
            (
                Primitive::Cast(_)
                | Primitive::Detach(_)
                | Primitive::Expand(_)
                | Primitive::Reshape(_)
                | Primitive::Slice(_)
                | Primitive::Transpose(_)
                | Primitive::Reduce(_)
                | Primitive::Unary(Unary::Reciprocal | Unary::Sqrt),
                &[x],
            ) => is(x),
            (Primitive::Unary(Unary::Abs | Unary::Relu), &[x]) => !strict || is(x),
            (Primitive::Unary(Unary::Cosh | Unary::Exp | Unary::Sigmoid | Unary::Softplus), _) => {
                true
            }
            (Primitive::AveragePool(_), _) => !strict && is_at_least_zero(node.inputs[0]),
            (Primitive::Binary(Binary::Add), &[p, q]) => {
                is_at_least_zero(p) && is_at_least_zero(q) && (is(p) || is(q))
            }
            (Primitive::Binary(Binary::Mul), &[p, q]) if p == q && !strict => true,
            (Primitive::Binary(Binary::Mul | Binary::Div | Binary::Min), &[p, q]) => is(p) && is(q),
            (Primitive::Binary(Binary::Max), &[p, q]) => is(p) || is(q),
            (Primitive::Binary(Binary::Pow), &[p, _]) => is_positive(p),
            (Primitive::Where(_), &[condition, p, q]) => {
                // The larger of two.
                let test = self.node(condition);
                let larger = matches!(
                    test.op,
                    Op::Apply(Primitive::Binary(Binary::Greater | Binary::GreaterOrEqual))
                ) && test.inputs == [p, q];
                if larger { is(p) || is(q) } else { is(p) && is(q) }
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {

    use crate::graph::{Builder, Fact};
    use crate::ops::Reduction;
    use crate::tensor::DType;

    #[test]
    fn divisors_of_normalisations_are_never_zero() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2, 3]));
        let square = b.mul(x, x).unwrap();
        let mean = b.reduce(Reduction::Mean, square, &[1]).unwrap();
        let norm = b.sqrt(mean).unwrap();
        assert!(!b.graph().is_never_zero(mean) && !b.graph().is_never_zero(norm));
        let shifted = b.shift(mean, 1e-5).unwrap();
        let deviation = b.sqrt(shifted).unwrap();
        assert!(b.graph().is_never_zero(deviation));
        let low = b.scalar_like(norm, 1e-12);
        let larger = b.greater(norm, low).unwrap();
        let clamped = b.select(larger, norm, low).unwrap();
        assert!(b.graph().is_never_zero(clamped));
        let smaller = b.select(larger, low, norm).unwrap();
        assert!(!b.graph().is_never_zero(smaller));
        let exp = b.exp(x).unwrap();
        let sum = b.reduce_sum(exp, &[1]).unwrap();
        assert!(b.graph().is_never_zero(sum));
        let less = b.shift(mean, -1e-5).unwrap();
        assert!(!b.graph().is_never_zero(less) && !b.graph().is_never_zero(x));
    }
}
