//! Sums with fewer multiplications.

use crate::error::Result;
use crate::graph::{Builder, Op, Value};
use crate::ops::{Binary, Primitive, Reduce};

/// `Σ c·x` as `c·Σ x`, where `c` is the same along the axes.
pub(super) fn without_factor(b: &mut Builder, op: &Reduce, x: Value) -> Result<Option<Value>> {
    let node = b.graph().node(x);
    let (Op::Apply(Primitive::Binary(Binary::Mul)), &[p, q]) = (&node.op, node.inputs.as_slice())
    else {
        return Ok(None);
    };
    let shape = &node.fact.shape;
    let factor = |v: Value, other: Value| {
        let mut v = v;
        while let Op::Apply(Primitive::Expand(_)) = b.graph().node(v).op {
            v = b.graph().node(v).inputs[0];
        }
        let fits = op.is_one_along(b.graph().shape(v), shape.len());
        (fits && b.graph().shape(other) == shape).then_some((v, other))
    };
    let Some((factor, terms)) = factor(p, q).or_else(|| factor(q, p)) else {
        return Ok(None);
    };
    let sum = b.push(op.clone(), &[terms])?;
    b.mul(sum, factor).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Reduction;
    use crate::testing::Case;

    #[test]
    fn a_factor_is_taken_out_of_a_sum() {
        let shapes: [&[usize]; 4] = [&[3, 1], &[2, 1, 1], &[1], &[]];
        for kind in [Reduction::Sum, Reduction::Mean] {
            for (shape, repeated) in shapes.iter().flat_map(|&s| [(s, false), (s, true)]) {
                Case::new(format!("{kind:?} {shape:?} {repeated}"))
                    .input(&[2, 3, 4], 0.5, 1.5)
                    .input(shape, 0.5, 1.5)
                    .check(|b, x| {
                        let factor = if repeated { b.expand(x[1], &[2, 3, 4])? } else { x[1] };
                        let scaled = b.mul(x[0], factor)?;
                        let reduce = Reduce { kind, axes: vec![2] };
                        let sum = without_factor(b, &reduce, scaled)?;
                        let plain = b.reduce(kind, x[0], &[2])?;
                        assert_eq!(sum, Some(b.mul(plain, x[1])?));
                        // Engines find what the operation itself is.
                        b.push(reduce, &[scaled])
                    });
            }
        }
    }
}
