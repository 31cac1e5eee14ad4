//! Matrix products over the last two axes, broadcasting the axes before them.

use ndarray::{Array3, IxDyn};

use super::{
    Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer, align, broadcast,
};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::Tensor;

/// `op(a) · op(b)`, where `op` may transpose the last two axes. Both operands have at least two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatMul {
    /// Whether the last two axes of `a` are transposed first.
    pub trans_a: bool,
    /// Whether the last two axes of `b` are transposed first.
    pub trans_b: bool,
}

/// Leading axes, rows and columns of an operand after its optional transposition.
fn split(shape: &[usize], transposed: bool) -> (&[usize], usize, usize) {
    let (lead, last) = shape.split_at(shape.len() - 2);
    if transposed { (lead, last[1], last[0]) } else { (lead, last[0], last[1]) }
}

impl Rule for MatMul {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (a, c) = (x[0], x[1]);
        if a.rank() < 2 || c.rank() < 2 || a.dtype != c.dtype || !a.dtype.is_float() {
            bail_shape!("no matrix product of {a} and {c}");
        }
        let (lead_a, m, k) = split(&a.shape, self.trans_a);
        let (lead_c, k2, n) = split(&c.shape, self.trans_b);
        if k != k2 {
            bail_shape!("matrix product of {a} and {c} ({self:?}): {k} columns, {k2} rows");
        }
        let mut shape = broadcast(lead_a, lead_c)?;
        shape.extend([m, n]);
        Ok(Fact::new(a.dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let (lead, _) = out.shape.split_at(out.rank() - 2);
        let (m, n) = (out.shape[lead.len()], out.shape[lead.len() + 1]);
        let count: usize = lead.iter().product();
        let failed = || Error::Shape("matrix product: operands do not broadcast".into());
        let matrices = |t: &Tensor, transposed: bool| -> Result<Array3<f64>> {
            let mut a = t.to_f64();
            let rank = a.ndim();
            if transposed {
                a.swap_axes(rank - 2, rank - 1);
            }
            let (rows, columns) = (a.shape()[rank - 2], a.shape()[rank - 1]);
            let full = [lead, &[rows, columns]].concat();
            let spread =
                a.broadcast(IxDyn(&full)).ok_or_else(failed)?.as_standard_layout().into_owned();
            spread.into_shape_with_order((count, rows, columns)).map_err(|_| failed())
        };
        let (a, b) = (matrices(x[0], self.trans_a)?, matrices(x[1], self.trans_b)?);
        let mut y = Array3::<f64>::zeros((count, m, n));
        for ((a, b), mut y) in a.outer_iter().zip(b.outer_iter()).zip(y.outer_iter_mut()) {
            y.assign(&a.dot(&b));
        }
        let y = y.into_dyn();
        Tensor::from_f64(y, out.dtype).reshape(&out.shape)
    }

    /// `∂a = δ · bᵀ` and `∂b = aᵀ · δ`, summed over the broadcast leading axes.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (p, q) = (site.input(0), site.input(1));
        let MatMul { trans_a, trans_b } = *self;
        let mut dp = None;
        let mut dq = None;
        if site.wants(0) {
            let d = match trans_a {
                false => b.matmul_t(dy, q, false, !trans_b)?,
                true => b.matmul_t(q, dy, trans_b, true)?,
            };
            dp = Some(b.unbroadcast(d, p)?);
        }
        if site.wants(1) {
            // A matrix shared by all leading axes: one product over all their rows together.
            let (p, dy) = if b.rank(q) == 2 && !trans_a && b.rank(p) > 2 {
                (b.as_rows(p)?, b.as_rows(dy)?)
            } else {
                (p, dy)
            };
            let d = match trans_b {
                false => b.matmul_t(p, dy, !trans_a, false)?,
                true => b.matmul_t(dy, p, true, trans_a)?,
            };
            dq = Some(b.unbroadcast(d, q)?);
        }
        Ok(vec![dp, dq])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        let x = align(b, lanes)?;
        b.push(*self, &x)
    }

    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        let (p, q) = (x[0], x[1]);
        // Transposing a row or a column is a reshape.
        for (operand, flag) in [(p, self.trans_a), (q, self.trans_b)] {
            let mut shape = b.shape(operand);
            let rank = shape.len();
            if flag && (shape[rank - 1] == 1 || shape[rank - 2] == 1) {
                shape.swap(rank - 1, rank - 2);
                let turned = b.reshape(operand, &shape)?;
                return match operand == p && self.trans_a {
                    true => b.matmul_t(turned, q, false, self.trans_b),
                    false => b.matmul_t(p, turned, self.trans_a, false),
                }
                .map(Some);
            }
        }
        // One matrix on the right for all leading axes: one large product.
        if b.rank(q) == 2 && b.rank(p) > 2 && !self.trans_a {
            let rows = b.as_rows(p)?;
            let y = b.matmul_t(rows, q, false, self.trans_b)?;
            return b.reshape(y, &out.shape).map(Some);
        }
        Ok(None)
    }

    fn cost(&self, x: &[&Fact], out: &Fact) -> Cost {
        let (_, _, inner) = split(&x[0].shape, self.trans_a);
        Cost { flops: (out.len() * inner) as u64, workspace: 0 }
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::bilinear()
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0] || zero[1]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (rank_p, rank_q) = (e.fact(x[0]).rank(), e.fact(x[1]).rank());
        let (mut p, mut q) = (e.name(x[0]), e.name(x[1]));
        let MatMul { trans_a, trans_b } = *self;
        if (trans_a || trans_b) && rank_p == 2 && rank_q == 2 {
            let flag = |on: bool| Attr::Int(i64::from(on));
            let attrs = [("transA", flag(trans_a)), ("transB", flag(trans_b))];
            return Ok(e.node("Gemm", &[&p, &q], &attrs));
        }
        for (name, rank, transposed) in [(&mut p, rank_p, trans_a), (&mut q, rank_q, trans_b)] {
            if transposed {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, rank - 2);
                *name = e.transpose(name, &perm);
            }
        }
        Ok(e.node("MatMul", &[&p, &q], &[]))
    }
}

impl Builder {
    /// `a · b` over the last two axes, broadcasting those before.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value> {
        self.matmul_t(a, b, false, false)
    }

    /// `op(a) · op(b)`, where a flag transposes the last two axes of its operand first.
    pub fn matmul_t(&mut self, a: Value, b: Value, trans_a: bool, trans_b: bool) -> Result<Value> {
        self.push(MatMul { trans_a, trans_b }, &[a, b])
    }

    /// `x` as a matrix with the columns of its last axis.
    fn as_rows(&mut self, x: Value) -> Result<Value> {
        let shape = self.shape(x);
        let Some((last, lead)) = shape.split_last() else { bail_shape!("a scalar has no rows") };
        self.reshape(x, &[lead.iter().product(), *last])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Case;

    #[test]
    fn products() {
        for (p, q) in [
            (&[2, 3][..], &[3, 4][..]),
            (&[1, 3], &[3, 4]),
            (&[2, 2, 3], &[3, 2]),
            (&[2, 2, 3], &[2, 3, 2]),
            (&[2, 3], &[2, 3, 2]),
            (&[2, 1, 2, 3], &[3, 3, 2]),
        ] {
            Case::new(format!("MatMul {p:?} {q:?}"))
                .input(p, -1.0, 1.0)
                .input(q, -1.0, 1.0)
                .check(|b, x| b.matmul(x[0], x[1]));
        }
    }

    /// An engine may leave out a broadcast in front of a product, but not along the axis that is
    /// summed over.
    #[test]
    fn products_of_broadcast_operands() {
        for (p, wide_p, q, wide_q) in [
            (&[2, 1][..], &[2, 3][..], &[3, 4][..], &[3, 4][..]),
            (&[2, 3], &[2, 3], &[1, 4], &[3, 4]),
            (&[1, 3], &[2, 3], &[3, 4], &[3, 4]),
            (&[2, 3], &[2, 3], &[3, 1], &[3, 4]),
            (&[2, 1], &[2, 3], &[1, 4], &[3, 4]),
            (&[5, 2, 1], &[5, 2, 3], &[5, 3, 4], &[5, 3, 4]),
            (&[5, 2, 3], &[5, 2, 3], &[5, 1, 4], &[5, 3, 4]),
            (&[1, 2, 3], &[5, 2, 3], &[5, 3, 4], &[5, 3, 4]),
        ] {
            for between in ["nothing", "tanh", "transposes"] {
                Case::new(format!(
                    "MatMul of {p:?} as {wide_p:?} and {q:?} as {wide_q:?}, {between}"
                ))
                .input(p, -1.0, 1.0)
                .input(q, -1.0, 1.0)
                .check(|b, x| {
                    let mut wide = [b.expand(x[0], wide_p)?, b.expand(x[1], wide_q)?];
                    for operand in &mut wide {
                        match between {
                            "tanh" => *operand = b.tanh(*operand)?,
                            "transposes" => {
                                let rank = b.rank(*operand);
                                let mut perm: Vec<usize> = (0..rank).collect();
                                perm.swap(rank - 1, rank - 2);
                                *operand = b.transpose(*operand, &perm)?;
                            }
                            _ => {}
                        }
                    }
                    let transposed = between == "transposes";
                    b.matmul_t(wide[0], wide[1], transposed, transposed)
                });
            }
        }
    }

    #[test]
    fn transposed_products() {
        for (trans_a, trans_b) in [(true, false), (false, true), (true, true)] {
            for lead in [&[][..], &[2]] {
                for (m, k, n) in [(2, 3, 4), (1, 3, 2), (2, 1, 3)] {
                    let p = if trans_a { [k, m] } else { [m, k] };
                    let q = if trans_b { [n, k] } else { [k, n] };
                    Case::new(format!("MatMul {trans_a} {trans_b} {lead:?} {m}{k}{n}"))
                        .input(&[lead, &p].concat(), -1.0, 1.0)
                        .input(&q, -1.0, 1.0)
                        .check(|b, x| b.matmul_t(x[0], x[1], trans_a, trans_b));
                }
            }
        }
    }
}
