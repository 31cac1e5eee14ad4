//! How windows lie over an operand.

use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::ops::{Attr, Builder, Writer};
use crate::tensor::DType;

/// The numbers of a window that both poolings share.
pub(super) struct Geometry<'a> {
    pub kernel: &'a [usize],
    pub strides: &'a [usize],
    pub dilations: Option<&'a [usize]>,
    pub begin: &'a [usize],
    pub end: &'a [usize],
}

impl Geometry<'_> {
    fn dilation(&self, i: usize) -> usize {
        self.dilations.map_or(1, |d| d[i])
    }

    pub(super) fn infer(&self, x: &Fact) -> Result<Fact> {
        let rank = self.kernel.len();
        if x.rank() != rank + 2 || !x.dtype.is_float() {
            bail_shape!("no pooling of {x} by windows of {:?}", self.kernel);
        }
        let mut shape = x.shape[..2].to_vec();
        for i in 0..rank {
            let padded = x.shape[i + 2] + self.begin[i] + self.end[i];
            let reach = self.dilation(i) * (self.kernel[i].max(1) - 1) + 1;
            match padded.checked_sub(reach) {
                Some(room) => shape.push(room / self.strides[i].max(1) + 1),
                None => bail_shape!("a window of {:?} does not fit into {x}", self.kernel),
            }
        }
        Ok(Fact::new(x.dtype, shape))
    }

    /// Calls `f` with the flat indices of an element and of a window that it is in, the elements
    /// of each window in row-major order.
    pub(super) fn each_meeting(&self, x: &[usize], out: &[usize], mut f: impl FnMut(usize, usize)) {
        let rank = self.kernel.len();
        let size = |s: &[usize]| s.iter().product::<usize>();
        let (x_size, out_size, taps) = (size(&x[2..]), size(&out[2..]), size(self.kernel));
        for plane in 0..x[0] * x[1] {
            for o in 0..out_size {
                for k in 0..taps {
                    let (mut o_rest, mut k_rest) = (o, k);
                    let (mut at, mut scale, mut inside) = (0, 1, true);
                    for i in (0..rank).rev() {
                        let (o_i, k_i) = (o_rest % out[i + 2], k_rest % self.kernel[i]);
                        (o_rest, k_rest) = (o_rest / out[i + 2], k_rest / self.kernel[i]);
                        let padded = o_i * self.strides[i] + k_i * self.dilation(i);
                        match padded.checked_sub(self.begin[i]).filter(|&p| p < x[i + 2]) {
                            Some(p) => at += p * scale,
                            None => inside = false,
                        }
                        scale *= x[i + 2];
                    }
                    if inside {
                        f(plane * x_size + at, plane * out_size + o);
                    }
                }
            }
        }
    }

    /// The operand and the paddings left to the pooling itself: engines take only paddings
    /// smaller than the kernel, others are done before.
    pub(super) fn padded(
        &self,
        e: &mut dyn Writer,
        name: String,
        dtype: DType,
        value: f64,
    ) -> (String, Vec<usize>, Vec<usize>) {
        let fits = |pads: &[usize]| pads.iter().zip(self.kernel).all(|(p, k)| p < k);
        if fits(self.begin) && fits(self.end) {
            return (name, self.begin.to_vec(), self.end.to_vec());
        }
        let pads = e.i64s_of(&[&[0, 0], self.begin, &[0, 0], self.end].concat());
        let value = e.scalar(dtype, value);
        let padded = e.node("Pad", &[&name, &pads, &value], &[("mode", Attr::from("constant"))]);
        let none = vec![0; self.kernel.len()];
        (padded, none.clone(), none)
    }
}

/// Applies a pooling to `[n, N, C, S…]` as `[n·N, C, S…]`.
pub(super) fn pooled_lanes(
    b: &mut Builder,
    x: Value,
    pool: impl FnOnce(&mut Builder, Value) -> Result<Value>,
) -> Result<Value> {
    let shape = b.shape(x);
    let folded = [&[shape[0] * shape[1]], &shape[2..]].concat();
    let x = b.reshape(x, &folded)?;
    let y = pool(b, x)?;
    let out = [&shape[..2], &b.shape(y)[1..]].concat();
    b.reshape(y, &out)
}
