//! Matrix products.

use super::activation::named_activation;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, MICROSOFT, rule};

pub(super) const ENTRIES: &[Entry] = &[
    rule("Gemm", 7, "MatMul, Mul, Add", gemm),
    rule("MatMul", 7, "MatMul", matmul),
    rule("FusedGemm", 1, "MatMul, Mul, Add, its activation", fused_gemm).of(MICROSOFT),
    rule("FusedMatMul", 1, "MatMul, Mul", fused_matmul).of(MICROSOFT),
];

fn matmul(c: &mut Call) -> Result<Value> {
    let (a, b) = (c.weight(0)?, c.weight(1)?);
    product(c, a, b, false, false)
}

/// The matrix product. An operand with one axis is a row on the left or a column on the right, and the
/// result does not have that axis.
pub(super) fn product(
    c: &mut Call,
    a: Value,
    b: Value,
    trans_a: bool,
    trans_b: bool,
) -> Result<Value> {
    let (shape_a, shape_b) = (c.shape(a), c.shape(b));
    let (row, column) = (shape_a.len() == 1, shape_b.len() == 1);
    if shape_a.is_empty() || shape_b.is_empty() {
        return Err(c.invalid("a scalar is no matrix"));
    }
    let matrix_a = if row { c.reshape(a, &[1, shape_a[0]])? } else { a };
    let matrix_b = if column { c.reshape(b, &[shape_b[0], 1])? } else { b };
    let y = c.matmul_t(matrix_a, matrix_b, trans_a && !row, trans_b && !column)?;
    let mut shape = c.shape(y);
    if column {
        shape.pop();
    }
    if row {
        shape.remove(shape.len() - usize::from(!column) - 1);
    }
    c.reshape(y, &shape)
}

/// `α·op(A)·op(B) + β·C`.
fn gemm(c: &mut Call) -> Result<Value> {
    let (alpha, beta) = (c.float("alpha", 1.0)?, c.float("beta", 1.0)?);
    let (trans_a, trans_b) = (c.flag("transA", false)?, c.flag("transB", false)?);
    let (a, b) = (c.weight(0)?, c.weight(1)?);
    let product = c.matmul_t(a, b, trans_a, trans_b)?;
    let scaled = c.scale(product, alpha)?;
    let Some(bias) = c.optional_weight(2)? else { return Ok(scaled) };
    let bias = c.scale(bias, beta)?;
    c.add(scaled, bias)
}

fn fused_gemm(c: &mut Call) -> Result<Value> {
    let y = gemm(c)?;
    let parameters = [c.optional_float("activation_alpha")?, c.optional_float("activation_beta")?];
    let parameters: Vec<f64> = parameters.into_iter().flatten().collect();
    named_activation(c, y, &parameters)
}

fn fused_matmul(c: &mut Call) -> Result<Value> {
    let alpha = c.float("alpha", 1.0)?;
    if c.flag("transBatchA", false)? || c.flag("transBatchB", false)? {
        return Err(c.unsupported("transposed batch axes are not supported"));
    }
    let (trans_a, trans_b) = (c.flag("transA", false)?, c.flag("transB", false)?);
    let (a, b) = (c.weight(0)?, c.weight(1)?);
    let y = product(c, a, b, trans_a, trans_b)?;
    c.scale(y, alpha)
}
