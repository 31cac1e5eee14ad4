//! The gradient of convolution in its kernel.

use ndarray::{ArrayD, IxDyn};

use super::form::{Extent, each_product, flat, flat_mut};
use super::lanes::{conv_by_lane, fold};
use super::{ConvInputGrad, Window};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::ops::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::tensor::{DType, Tensor};

/// A stack of all the parts of the input that the kernel positions meet may have this many
/// elements. One product of a larger one would be a little faster, but take too much memory.
const STACK_PARTS_UP_TO: usize = 1 << 26;

/// Kernels of at most so many positions have the input cut into parts, a node for each.
pub(super) const PARTS_UP_TO: usize = 1024;

/// `dw[l, m, c, k] = Σ_{n in lane l} x[n, c, o·s + k·d − p] · z[n, m, o]`. Operands: `x` and `z`,
/// whose leading axis holds the samples of one lane after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvWeightGrad {
    /// How the kernel moves.
    pub window: Window,
    /// The spatial shape of the kernel.
    pub kernel: Vec<usize>,
    /// How many kernels are computed.
    pub lanes: usize,
}

impl Rule for ConvWeightGrad {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (input, z) = (x[0], x[1]);
        let w = &self.window;
        let fits = input.rank() == w.rank() + 2
            && z.rank() == input.rank()
            && self.kernel.len() == w.rank()
            && input.dtype == z.dtype
            && input.dtype.is_float()
            && input.shape[0] == z.shape[0]
            && self.lanes > 0
            && input.shape[0] % self.lanes == 0
            && w.groups > 0
            && input.shape[1] % w.groups == 0
            && z.shape[1] % w.groups == 0;
        if !fits || w.output(&input.shape[2..], &self.kernel)? != z.shape[2..] {
            bail_shape!("no kernel {:?} takes {input} to {z}", self.kernel);
        }
        let lead = [self.lanes, z.shape[1], input.shape[1] / w.groups];
        Ok(Fact::new(input.dtype, [lead.as_slice(), &self.kernel].concat()))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let (input, z) = (x[0].to_f64(), x[1].to_f64());
        let mut y = ArrayD::<f64>::zeros(IxDyn(&out.shape));
        let samples = input.shape()[0] / self.lanes;
        let (mut in_shape, mut z_shape) = (input.shape().to_vec(), z.shape().to_vec());
        (in_shape[0], z_shape[0]) = (samples, samples);
        let full = Extent { x: &in_shape, w: &out.shape[1..], z: &z_shape };
        let size = |s: &[usize]| s.iter().product::<usize>().max(1);
        let (input, z) = (flat(&input)?, flat(&z)?);
        let lanes = flat_mut(&mut y)?.chunks_mut(size(&out.shape[1..]));
        let parts = input.chunks(size(&in_shape)).zip(z.chunks(size(&z_shape)));
        for (result, (input, z)) in lanes.zip(parts) {
            each_product(&self.window, &full, |i, j, k| result[j] += input[i] * z[k]);
        }
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// `∂x = ConvInputGrad(z, δ)`, `∂z = Conv(x, δ)`, lane by lane.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (x, z) = (site.input(0), site.input(1));
        let (x_shape, z_shape) = (b.shape(x), b.shape(z));
        let samples = x_shape[0] / self.lanes;
        let by_lane = |b: &mut Builder, v: Value, shape: &[usize]| {
            b.reshape(v, &[&[self.lanes, samples], &shape[1..]].concat())
        };
        let dx = match site.wants(0) {
            true => {
                let op =
                    ConvInputGrad { window: self.window.clone(), spatial: x_shape[2..].into() };
                let z = by_lane(b, z, &z_shape)?;
                let lanes = [z, dy].map(|value| Lane { value, batched: true });
                let dx = op.batch(b, &lanes, self.lanes)?;
                Some(b.reshape(dx, &x_shape)?)
            }
            false => None,
        };
        let dz = match site.wants(1) {
            true => {
                let x = by_lane(b, x, &x_shape)?;
                let dz = conv_by_lane(b, x, dy, &self.window)?;
                Some(b.reshape(dz, &z_shape)?)
            }
            false => None,
        };
        Ok(vec![dx, dz])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        if !lanes[0].batched {
            return self.batch_by_outputs(b, lanes[0].value, lanes[1].value, n);
        }
        let (x, z) = (lanes[0].spread(b, n)?, lanes[1].spread(b, n)?);
        let ((x, _), (z, _)) = (fold(b, x)?, fold(b, z)?);
        let op = ConvWeightGrad { lanes: self.lanes * n, ..self.clone() };
        let y = b.push(op, &[x, z])?;
        let mut shape = b.shape(y);
        shape.splice(0..1, [n, self.lanes]);
        b.reshape(y, &shape)
    }

    fn cost(&self, x: &[&Fact], out: &Fact) -> Cost {
        let taps: usize = self.kernel.iter().product();
        let flops = x[1].len() * out.shape[2] * taps;
        // The input unfolded over the positions of the kernel, and a copy of that.
        let columns = x[1].len() / x[1].shape[1].max(1) * x[0].shape[1] * taps;
        Cost { flops: flops as u64, workspace: 2 * (columns * DType::F32.size()) as u64 }
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

    /// `z` `[n, g, M/g, O]` times the parts of `x` `[n, g, C/g, O]` that each kernel position
    /// meets, transposed.
    ///
    /// All parts are stacked for one large product; where the stack would be too large, each is
    /// multiplied by itself and the results are stacked.
    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let groups = self.window.groups;
        let (c, m) = (input[1] / groups, z[1] / groups);
        let positions: usize = z[2..].iter().product();
        let taps: usize = self.kernel.iter().product();
        let samples = input[0] / self.lanes;
        if taps > PARTS_UP_TO {
            return Ok(self.emit_as_conv(e, x, out));
        }
        if samples > 1 && self.lanes == 1 && groups == 1 {
            return self.emit_sum(e, x, out);
        }

        let Fact { dtype, .. } = *e.fact(x[0]);
        let name = e.name(x[0]);
        let parts = self.emit_parts(e, &name, &input, &[input[0], input[1], 1], dtype, &z);
        let z = e.name(x[1]);
        let z = e.reshape(&z, &[input[0], groups, m, positions]);
        let times_z = |e: &mut dyn Writer, part: &str, columns: usize| {
            let part = e.reshape(part, &[input[0], groups, columns, positions]);
            let perm = [("perm", Attr::from([0, 1, 3, 2].as_slice()))];
            let turned = e.node("Transpose", &[&part], &perm);
            e.node("MatMul", &[&z, &turned], &[])
        };
        let mut y = if input[0] * groups * c * taps * positions > STACK_PARTS_UP_TO {
            let mut products = Vec::new();
            for part in &parts {
                let product = times_z(e, part, c);
                products.push(e.reshape(&product, &[input[0], groups * m * c, 1]));
            }
            stack(e, &products, 2)
        } else {
            let unfolded = stack(e, &parts, 2);
            times_z(e, &unfolded, c * taps)
        };
        if samples > 1 {
            y = e.reshape(&y, &[self.lanes, samples, groups * m * c * taps]);
            let axis = e.i64s_of(&[1]);
            y = e.node("ReduceSum", &[&y, &axis], &[("keepdims", Attr::Int(0))]);
        }
        Ok(e.reshape(&y, &out.shape))
    }
}

impl ConvWeightGrad {
    /// A convolution of `x` with `z` as kernel, strides and dilations exchanged, for each lane and
    /// group: slower than products with parts of `x`, but of few nodes however many positions the
    /// kernel has.
    fn emit_as_conv(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> String {
        let w = &self.window;
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let (lanes, groups) = (self.lanes, w.groups);
        let (c, m, samples) = (input[1] / groups, z[1] / groups, input[0] / lanes);
        let permuted = |e: &mut dyn Writer, x: &str, perm: &[usize], spatial: usize| {
            let rest = perm.len()..perm.len() + spatial;
            let perm: Vec<usize> = perm.iter().copied().chain(rest).collect();
            e.node("Transpose", &[x], &[("perm", Attr::from(perm.as_slice()))])
        };
        // [c, lane · group · sample, S…] and [lane · group · m, sample, O…]
        let (name, delta) = (e.name(x[0]), e.name(x[1]));
        let parted = e.reshape(&name, &[&[lanes, samples, groups, c], &input[2..]].concat());
        let parted = permuted(e, &parted, &[3, 0, 2, 1], w.rank());
        let parted = e.reshape(&parted, &[&[c, lanes * groups * samples], &input[2..]].concat());
        let kernel = e.reshape(&delta, &[&[lanes, samples, groups, m], &z[2..]].concat());
        let kernel = permuted(e, &kernel, &[0, 2, 3, 1], w.rank());
        let kernel = e.reshape(&kernel, &[&[lanes * groups * m, samples], &z[2..]].concat());
        let window = Window {
            strides: w.dilations.clone(),
            dilations: w.strides.clone(),
            groups: lanes * groups,
            ..w.clone()
        };
        let mut y = e.node("Conv", &[&parted, &kernel], &window.attrs(&z[2..]));
        // Where strides do not use up the input, there is more than the kernel.
        let (starts, ends) = (e.i64s_of(&vec![0; w.rank()]), e.i64s_of(&self.kernel));
        let axes = e.i64s_of(&(2..w.rank() + 2).collect::<Vec<_>>());
        y = e.node("Slice", &[&y, &starts, &ends, &axes], &[]);
        let y = e.reshape(&y, &[&[c, lanes, groups * m], self.kernel.as_slice()].concat());
        let y = permuted(e, &y, &[1, 2, 0], w.rank());
        e.reshape(&y, &out.shape)
    }

    /// With one `x` for all lanes of `z` `[n, N, M, O…]`, these are further output channels of each
    /// group: `x` is unfolded once.
    fn batch_by_outputs(&self, b: &mut Builder, x: Value, z: Value, n: usize) -> Result<Value> {
        let groups = self.window.groups;
        let shape = b.shape(z);
        let (samples, m) = (shape[1], shape[2] / groups);
        let z = b.reshape(z, &[&[n, samples, groups, m], &shape[3..]].concat())?;
        let perm: Vec<usize> = [1, 2, 0].into_iter().chain(3..shape.len() + 1).collect();
        let z = b.transpose(z, &perm)?;
        let z = b.reshape(z, &[&[samples, groups * n * m], &shape[3..]].concat())?;
        let y = b.push(self.clone(), &[x, z])?;
        let shape = b.shape(y);
        let y = b.reshape(y, &[&[self.lanes, groups, n, m], &shape[2..]].concat())?;
        let perm: Vec<usize> = [2, 0, 1].into_iter().chain(3..shape.len() + 2).collect();
        let y = b.transpose(y, &perm)?;
        b.reshape(y, &[&[n, self.lanes, groups * m], &shape[2..]].concat())
    }

    /// The sum over all samples of one kernel's gradient, without groups: one product of `z` as
    /// `[M, N·O]` with `x` unfolded to `[C·taps, N·O]`, over all samples at once.
    fn emit_sum(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let (samples, c, m) = (input[0], input[1], z[1]);
        let taps: usize = self.kernel.iter().product();
        let length = z.iter().product::<usize>() / m;
        let samples_second = |e: &mut dyn Writer, value: Value, rank: usize| {
            let perm: Vec<usize> = [1, 0].into_iter().chain(2..rank).collect();
            let name = e.name(value);
            e.node("Transpose", &[&name], &[("perm", Attr::from(perm.as_slice()))])
        };
        let turned = samples_second(e, x[0], input.len());
        let shape = [&[c, samples], &input[2..]].concat();
        let Fact { dtype, .. } = *e.fact(x[0]);
        let parts = self.emit_parts(e, &turned, &shape, &[c, 1, samples], dtype, &z);
        let z = samples_second(e, x[1], z.len());
        let z = e.reshape(&z, &[m, length]);
        let times_z = |e: &mut dyn Writer, part: &str, rows: usize| {
            let part = e.reshape(part, &[rows, length]);
            e.node("Gemm", &[&z, &part], &[("transB", Attr::Int(1))])
        };
        let y = if c * taps * length > STACK_PARTS_UP_TO {
            let mut products = Vec::new();
            for part in &parts {
                let product = times_z(e, part, c);
                products.push(e.reshape(&product, &[m * c, 1]));
            }
            stack(e, &products, 1)
        } else {
            let unfolded = stack(e, &parts, 1);
            times_z(e, &unfolded, c * taps)
        };
        Ok(e.reshape(&y, &out.shape))
    }

    /// For each kernel position in row-major order, the part of `x` that it meets, with an axis of
    /// length 1 to stack the parts along: `x` has the shape `input`, and a part `leading` in place
    /// of the first two axes.
    fn emit_parts(
        &self,
        e: &mut dyn Writer,
        x: &str,
        input: &[usize],
        leading: &[usize; 3],
        dtype: DType,
        z: &[usize],
    ) -> Vec<String> {
        let w = &self.window;
        let rank = w.rank();
        let mut padded = x.to_owned();
        if w.pads_begin.iter().chain(&w.pads_end).any(|&p| p > 0) {
            let front = [&[0, 0], w.pads_begin.as_slice()].concat();
            let pads = e.i64s_of(&[front.as_slice(), &[0, 0], &w.pads_end].concat());
            let zero = e.scalar(dtype, 0.0);
            padded = e.node("Pad", &[&padded, &pads, &zero], &[("mode", Attr::from("constant"))]);
        }
        // Made once instead of for each part.
        let length = |i: usize| input[i + 2] + w.pads_begin[i] + w.pads_end[i];
        let lengths: Vec<usize> = (0..rank).map(length).collect();
        let padded = e.reshape(&padded, &[leading.as_slice(), &lengths].concat());
        let axes: Vec<usize> = (3..rank + 3).collect();
        let axes = e.i64s_of(&axes);
        let steps = e.i64s_of(&w.strides);
        let taps: usize = self.kernel.iter().product();
        let mut parts = Vec::new();
        for tap in 0..taps {
            let (mut rest, mut starts) = (tap, vec![0; rank]);
            for i in (0..rank).rev() {
                starts[i] = rest % self.kernel[i] * w.dilations[i];
                rest /= self.kernel[i];
            }
            let ends: Vec<usize> =
                (0..rank).map(|i| starts[i] + w.strides[i] * (z[i + 2] - 1) + 1).collect();
            let whole = w.is_unit_stride() && starts.iter().all(|&s| s == 0) && ends == lengths;
            parts.push(if whole {
                padded.clone()
            } else {
                let (starts, ends) = (e.i64s_of(&starts), e.i64s_of(&ends));
                e.node("Slice", &[&padded, &starts, &ends, &axes, &steps], &[])
            });
        }
        parts
    }
}

fn stack(e: &mut dyn Writer, parts: &[String], axis: i64) -> String {
    match parts {
        [only] => only.clone(),
        all => {
            let names: Vec<&str> = all.iter().map(String::as_str).collect();
            e.node("Concat", &names, &[("axis", Attr::Int(axis))])
        }
    }
}

impl Builder {
    /// The adjoint of a convolution in its kernel, `[M, C/g, kernel…]`, summed over samples.
    pub fn conv_weight_grad(
        &mut self,
        x: Value,
        z: Value,
        window: &Window,
        kernel: &[usize],
    ) -> Result<Value> {
        let op = ConvWeightGrad { window: window.clone(), kernel: kernel.to_vec(), lanes: 1 };
        let dw = self.push(op, &[x, z])?;
        let shape = self.shape(dw);
        self.reshape(dw, &shape[1..])
    }
}
