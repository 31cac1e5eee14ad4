//! The same computation in double precision.

use crate::error::Result;
use crate::graph::{Builder, Fact, Graph};
use crate::ops::{Cast, Op, Primitive};
use crate::tensor::DType;

/// `graph` with float64 wherever it has float32: inputs, constants, parameters and casts. Values
/// that were rounded to float32 before, as those of the model file are, stay as they are.
///
/// The reference interpreter computes in float64 anyway; without the rounding in between, its
/// results can be differentiated numerically.
pub fn widen(graph: &Graph) -> Result<Graph> {
    let wide = |dtype: DType| if dtype == DType::F32 { DType::F64 } else { dtype };
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| {
        let value = match &node.op {
            Op::Input(name) => {
                b.input(name.clone(), Fact::new(wide(node.fact.dtype), node.fact.shape.clone()))
            }
            Op::Parameter(parameter) => {
                let tensor = parameter.tensor.cast(wide(node.fact.dtype));
                b.parameter(parameter.name.clone(), tensor)
            }
            Op::Constant(tensor) => b.constant(tensor.cast(wide(node.fact.dtype))),
            Op::Apply(Primitive::Cast(cast)) => b.push(Cast { to: wide(cast.to) }, inputs)?,
            Op::Apply(_) => return Ok(None),
        };
        Ok(Some(value))
    })?;
    b.set_scope("");
    b.copy_outputs(graph, &map)?;
    Ok(b.finish().verified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval;
    use crate::tensor::Tensor;

    #[test]
    fn nothing_is_rounded_to_single_precision() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1]));
        let y = b.shift(x, 1e-9).unwrap();
        let y = b.cast(y, DType::I64).unwrap();
        let y = b.cast(y, DType::F32).unwrap();
        let y = b.mul(y, x).unwrap();
        b.output("y", y);
        let wide = widen(&b.finish()).unwrap();
        let x = Tensor::f64(&[1], vec![1.0 - 1e-9]).unwrap();
        assert_eq!(eval(&wide, std::slice::from_ref(&x)).unwrap(), [x]);
    }
}
