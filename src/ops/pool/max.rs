//! Maxima over windows, and where they stand.

use ndarray::{ArrayD, IxDyn};

use super::geometry::{Geometry, pooled_lanes};
use crate::error::Result;
use crate::ir::{Fact, Value};
use crate::ops::{
    Attr, Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer,
};
use crate::tensor::{DType, Tensor};

/// The maximum over windows of `x` `[N, C, S…]`; padding never wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool {
    /// The window's shape.
    pub kernel: Vec<usize>,
    /// Step along each spatial axis.
    pub strides: Vec<usize>,
    /// Distance of neighbouring elements of a window along each spatial axis.
    pub dilations: Vec<usize>,
    /// Padding before each spatial axis.
    pub pads_begin: Vec<usize>,
    /// Padding after each spatial axis.
    pub pads_end: Vec<usize>,
}

/// Where the maxima of [`MaxPool`] stand: int64 row-major indices into the whole of `x`. The first
/// of equal elements wins, as in PyTorch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MaxPoolIndices(pub MaxPool);

impl MaxPool {
    /// A pooling window by its kernel, strides, dilations and paddings along each spatial axis.
    pub fn new(
        kernel: &[usize],
        strides: &[usize],
        dilations: &[usize],
        begin: &[usize],
        end: &[usize],
    ) -> Self {
        MaxPool {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads_begin: begin.to_vec(),
            pads_end: end.to_vec(),
        }
    }

    fn geometry(&self) -> Geometry<'_> {
        Geometry {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: Some(&self.dilations),
            begin: &self.pads_begin,
            end: &self.pads_end,
        }
    }

    /// The largest element of each window and its index.
    fn winners(&self, x: &Tensor, out: &Fact) -> (ArrayD<f64>, ArrayD<i64>) {
        let values = x.to_f64();
        let mut best = ArrayD::from_elem(IxDyn(&out.shape), f64::NEG_INFINITY);
        let mut at = ArrayD::from_elem(IxDyn(&out.shape), -1i64);
        let mut slots: Vec<(&mut f64, &mut i64)> = best.iter_mut().zip(at.iter_mut()).collect();
        let flat: Vec<f64> = values.iter().copied().collect();
        self.geometry().each_meeting(x.shape(), &out.shape, |from, to| {
            let (best, at) = &mut slots[to];
            if **at < 0 || flat[from] > **best {
                (**best, **at) = (flat[from], from as i64);
            }
        });
        (best, at)
    }

    pub(crate) fn attrs(&self, begin: &[usize], end: &[usize]) -> Vec<(&'static str, Attr)> {
        vec![
            ("kernel_shape", Attr::from(self.kernel.as_slice())),
            ("strides", Attr::from(self.strides.as_slice())),
            ("dilations", Attr::from(self.dilations.as_slice())),
            ("pads", Attr::from([begin, end].concat().as_slice())),
        ]
    }
}

impl Rule for MaxPool {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        self.geometry().infer(x[0])
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        Ok(Tensor::from_f64(self.winners(x[0], out).0, out.dtype))
    }

    /// `δ` added where each maximum was taken.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let x = site.input(0);
        let shape = b.shape(x);
        let size = b.fact(x).len();
        let at = b.push(MaxPoolIndices(self.clone()), &[x])?;
        let count = b.fact(dy).len();
        let (at, dy) = (b.reshape(at, &[count])?, b.reshape(dy, &[count])?);
        let dx = b.scatter_add(at, dy, 0, size)?;
        Ok(vec![Some(b.reshape(dx, &shape)?)])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        pooled_lanes(b, lanes[0].value, |b, x| b.push(self.clone(), &[x]))
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::linear()
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let dtype = e.fact(x[0]).dtype;
        let lowest = if dtype == DType::F64 { f64::MIN } else { f64::from(f32::MIN) };
        let name = e.name(x[0]);
        let (name, begin, end) = self.geometry().padded(e, name, dtype, lowest);
        Ok(e.node("MaxPool", &[&name], &self.attrs(&begin, &end)))
    }
}

impl Rule for MaxPoolIndices {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        Ok(Fact::new(DType::I64, self.0.geometry().infer(x[0])?.shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        Ok(Tensor::from_i64(self.0.winners(x[0], out).1, DType::I64))
    }

    fn derivative(&self) -> Derivative {
        Derivative::Zero
    }

    fn vjp(&self, _: &mut Builder, _: &Site, _: Value) -> Result<Cotangents> {
        Ok(vec![None])
    }

    /// Indices into one lane: those into all lanes less what stands before the lane.
    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let x = lanes[0].value;
        let size: usize = b.shape(x)[1..].iter().product();
        let y = pooled_lanes(b, x, |b, x| b.push(self.clone(), &[x]))?;
        let mut column = vec![1; b.rank(y)];
        column[0] = n;
        let offsets = Tensor::index((0..n as i64).map(|lane| lane * size as i64));
        let offsets = b.constant(offsets.reshape(&column)?);
        b.sub(y, offsets)
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::Each(&[0.0])
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, _: &[bool]) -> bool {
        false
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        self.emit_with(e, x[0], |pool, e, x| {
            let attrs = pool.attrs(&pool.pads_begin, &pool.pads_end);
            Ok(e.nodes("MaxPool", &[x], 2, &attrs).swap_remove(1))
        })
    }
}

impl MaxPoolIndices {
    /// Writes the indices of the maxima of `x`, where `winners` does so for paddings that are smaller
    /// than the kernel.
    pub(crate) fn emit_with<W: Writer + ?Sized>(
        &self,
        e: &mut W,
        x: Value,
        winners: impl FnOnce(&MaxPool, &mut W, &str) -> Result<String>,
    ) -> Result<String> {
        let pool = &self.0;
        let Geometry { begin, end, kernel, .. } = pool.geometry();
        let fits = |pads: &[usize]| pads.iter().zip(kernel).all(|(p, k)| p < k);
        let name = e.name(x);
        if fits(begin) && fits(end) {
            return winners(pool, e, &name);
        }
        // Padding done outside of MaxPool would count in its indices: look up those of the
        // elements themselves, padded by −1, at the winners of the padded input.
        let shape = e.fact(x).shape.clone();
        let numbers = Tensor::index(0..shape.iter().product::<usize>() as i64).reshape(&shape)?;
        let numbers = e.tensor(&numbers);
        let pads = [&[0, 0], pool.pads_begin.as_slice(), &[0, 0], &pool.pads_end].concat();
        let pads = e.i64s_of(&pads);
        let minus_one = e.scalar(DType::I64, -1.0);
        let mode = [("mode", Attr::from("constant"))];
        let numbers = e.node("Pad", &[&numbers, &pads, &minus_one], &mode);
        let flat = e.i64s(&[-1]);
        let numbers = e.node("Reshape", &[&numbers, &flat], &[]);
        let dtype = e.fact(x).dtype;
        let lowest = e.scalar(dtype, f64::from(f32::MIN));
        let padded = e.node("Pad", &[&name, &pads, &lowest], &mode);
        let none = vec![0; pool.kernel.len()];
        let bare = MaxPool { pads_begin: none.clone(), pads_end: none, ..pool.clone() };
        let at = winners(&bare, e, &padded)?;
        Ok(e.node("Gather", &[&numbers, &at], &[("axis", Attr::Int(0))]))
    }
}
