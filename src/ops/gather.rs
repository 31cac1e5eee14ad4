//! Looking up rows by index, and its adjoint: adding rows by index.

use ndarray::{ArrayD, Axis, IxDyn};

use super::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer, unlaned};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor, map_same};

/// `y[…, i…, …] = x[…, indices[i…], …]` along `axis`. Operands: `x` and int64 `indices`, which
/// must lie in the axis (negative indices are resolved at import).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gather {
    /// The axis looked up in.
    pub axis: usize,
}

impl Rule for Gather {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        if self.axis >= x[0].rank() || x[1].dtype != DType::I64 {
            bail_shape!("cannot gather from {} along axis {} by {}", x[0], self.axis, x[1]);
        }
        let mut shape = x[0].shape.clone();
        shape.splice(self.axis..=self.axis, x[1].shape.iter().copied());
        Ok(Fact::new(x[0].dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let rows = indices(x[1], x[0].shape()[self.axis])?;
        let picked = map_same!(x[0], a => a.select(Axis(self.axis), &rows));
        picked.reshape(&out.shape)
    }

    /// `∂x = scatter_add(δ)`.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let size = b.shape(site.input(0))[self.axis];
        Ok(vec![Some(b.scatter_add(site.input(1), dy, self.axis, size)?), None])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let (x, indices) = (lanes[0], lanes[1]);
        if !indices.batched {
            return b.gather(x.value, indices.value, self.axis + 1);
        }
        if !x.batched {
            // [before…, n, indices…, after…] to [n, before…, indices…, after…]
            let y = b.gather(x.value, indices.value, self.axis)?;
            return b.axis_to_front(y, self.axis);
        }
        // Lanes side by side along the axis, each with its own offset.
        let shape = unlaned(b, x);
        let table = b.front_to_axis(x.value, self.axis)?;
        let mut flat = shape.clone();
        flat[self.axis] *= n;
        let table = b.reshape(table, &flat)?;
        let own = b.lane_offsets(indices.value, shape[self.axis], n)?;
        let y = b.gather(table, own, self.axis)?;
        b.axis_to_front(y, self.axis)
    }

    /// Neighbouring rows are a slice.
    fn simplify(&self, b: &mut Builder, x: &[Value], out: &Fact) -> Result<Option<Value>> {
        let Some(rows) = b.as_constant(x[1]).and_then(Tensor::to_i64) else { return Ok(None) };
        let size = b.shape(x[0])[self.axis];
        let first = rows.first().and_then(|&row| usize::try_from(row).ok());
        let Some(start) = first.filter(|&row| row < size) else { return Ok(None) };
        let end = start + rows.len();
        let neighbours = rows.iter().zip(start..).all(|(&row, next)| row == next as i64);
        if end > size || !neighbours {
            return Ok(None);
        }
        let rows = b.slice_axis(x[0], self.axis, start, end, 1)?;
        b.reshape(rows, &out.shape).map(Some)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Each(&[1.0, 0.0])
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (x, i) = (e.name(x[0]), e.name(x[1]));
        Ok(e.node("Gather", &[&x, &i], &[("axis", Attr::Int(self.axis as i64))]))
    }
}

/// `y = 0; y[…, indices[i…], …] += updates[…, i…, …]` along `axis`, which has `size` rows.
/// Operands: int64 `indices` and `updates`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScatterAdd {
    /// The axis added into.
    pub axis: usize,
    /// The length of that axis.
    pub size: usize,
}

impl Rule for ScatterAdd {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (indices, updates) = (x[0], x[1]);
        let end = self.axis + indices.rank();
        if indices.dtype != DType::I64
            || updates.rank() < end
            || updates.shape[self.axis..end] != indices.shape
        {
            bail_shape!("cannot add {updates} along axis {} by {indices}", self.axis);
        }
        let mut shape = updates.shape.clone();
        shape.splice(self.axis..end, [self.size]);
        Ok(Fact::new(updates.dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let rows = indices(x[0], self.size)?;
        let mut flat = out.shape.clone();
        flat[self.axis] = rows.len();
        let updates = x[1].reshape(&flat)?.to_f64();
        let mut y = ArrayD::<f64>::zeros(IxDyn(&out.shape));
        for (i, &row) in rows.iter().enumerate() {
            let mut into = y.index_axis_mut(Axis(self.axis), row);
            into += &updates.index_axis(Axis(self.axis), i);
        }
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// `∂updates = gather(δ)`.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        Ok(vec![None, Some(b.gather(dy, site.input(0), self.axis)?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let (indices, updates) = (lanes[0], lanes[1]);
        if !indices.batched {
            return b.scatter_add(indices.value, updates.value, self.axis + 1, self.size);
        }
        let own = b.lane_offsets(indices.value, self.size, n)?;
        let updates = updates.spread(b, n)?;
        let updates = b.front_to_axis(updates, self.axis)?;
        let y = b.scatter_add(own, updates, self.axis, n * self.size)?;
        let mut shape = b.shape(y);
        shape.splice(self.axis..=self.axis, [n, self.size]);
        let y = b.reshape(y, &shape)?;
        b.axis_to_front(y, self.axis)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Each(&[0.0, 1.0])
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[1]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let indices = e.fact(x[0]).clone();
        let (rows, updates) = (e.name(x[0]), e.name(x[1]));
        // ScatterElements wants as many indices as updates: [before…, rows, after…].
        let mut flat = out.shape.clone();
        flat[self.axis] = indices.len();
        let updates = e.reshape(&updates, &flat);
        let mut column = vec![1; flat.len()];
        column[self.axis] = indices.len();
        let rows = e.reshape(&rows, &column);
        let rows = if column == flat {
            rows
        } else {
            let shape = e.i64s_of(&flat);
            e.node("Expand", &[&rows, &shape], &[])
        };
        let zeros = e.zeros(out);
        let attrs = [("axis", Attr::Int(self.axis as i64)), ("reduction", Attr::from("add"))];
        Ok(e.node("ScatterElements", &[&zeros, &rows, &updates], &attrs))
    }
}

fn indices(tensor: &Tensor, size: usize) -> Result<Vec<usize>> {
    let values = tensor.to_i64().ok_or_else(|| Error::Shape("indices must be integers".into()))?;
    let bad = |i: i64| Error::Data(format!("index {i} is outside an axis of length {size}"));
    values
        .iter()
        .map(|&i| usize::try_from(i).ok().filter(|&u| u < size).ok_or_else(|| bad(i)))
        .collect()
}

impl Builder {
    /// The rows `indices` (int64, any shape) of `x` along `axis`.
    pub fn gather(&mut self, x: Value, indices: Value, axis: usize) -> Result<Value> {
        self.push(Gather { axis }, &[x, indices])
    }

    /// Zeros with `size` rows along `axis`, to which the `updates` are added at `indices`.
    pub fn scatter_add(
        &mut self,
        indices: Value,
        updates: Value,
        axis: usize,
        size: usize,
    ) -> Result<Value> {
        self.push(ScatterAdd { axis, size }, &[indices, updates])
    }

    /// Moves axis `axis` to the front.
    pub(crate) fn axis_to_front(&mut self, x: Value, axis: usize) -> Result<Value> {
        let rest = (0..self.rank(x)).filter(|&i| i != axis);
        let perm: Vec<usize> = std::iter::once(axis).chain(rest).collect();
        self.transpose(x, &perm)
    }

    /// Moves the leading axis to position `axis`.
    pub(crate) fn front_to_axis(&mut self, x: Value, axis: usize) -> Result<Value> {
        let mut perm: Vec<usize> = (1..self.rank(x)).collect();
        perm.insert(axis, 0);
        self.transpose(x, &perm)
    }

    /// Batched indices `[n, …]` into `size` rows, turned into indices into the `n·size` rows of
    /// all lanes.
    pub(crate) fn lane_offsets(&mut self, indices: Value, size: usize, n: usize) -> Result<Value> {
        let mut column = vec![1; self.rank(indices)];
        column[0] = n;
        let offsets = Tensor::index((0..n as i64).map(|lane| lane * size as i64));
        let offsets = self.constant(offsets.reshape(&column)?);
        self.add(indices, offsets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    #[test]
    fn lookups() {
        for axis in 0..3 {
            for rows in [&[3][..], &[2, 2], &[]] {
                Case::new(format!("Gather {axis} {rows:?}"))
                    .input(&[2, 3, 2], -1.0, 1.0)
                    .ints(rows, 0, 2)
                    .check(|b, x| b.gather(x[0], x[1], axis));
            }
        }
    }

    #[test]
    fn additions_by_index() {
        for (axis, updates) in [(0, [4, 2]), (1, [2, 4])] {
            Case::new(format!("ScatterAdd {axis}"))
                .ints(&[4], 0, 3)
                .input(&updates, -1.0, 1.0)
                .check(|b, x| b.scatter_add(x[0], x[1], axis, 3));
        }
    }

    #[test]
    fn an_index_outside_is_an_error() {
        let mut b = Builder::default();
        let x = b.constant(Tensor::index([1, 2]));
        let i = b.constant(Tensor::index([2]));
        assert!(matches!(b.gather(x, i, 0), Err(Error::Data(_))));
    }
}
