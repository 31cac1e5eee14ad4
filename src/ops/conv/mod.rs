//! Convolution and its two adjoints, over any number of spatial axes.
//!
//! With `x` `[N, C, S…]`, `w` `[M, C/g, K…]` and a window (strides `s`, dilations `d`, paddings
//! `p`), convolution is the result of the trilinear form
//!
//! `T(x, w, z) = Σ x[n, c, o·s + k·d − p] · w[m, c, k] · z[n, m, o]`
//!
//! (`c` in the group of `m`) that is linear in `z`: `∂T/∂z`. [`ConvInputGrad`] is `∂T/∂x` and
//! [`ConvWeightGrad`] is `∂T/∂w`. Each of the three is differentiated by the other two.

mod fused;

use ndarray::{ArrayD, IxDyn};

use self::fused::{Square, dense};
use super::{Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site};
use crate::emit::{Attr, Dialect, Emitter};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor, map_same};

/// A stack of all the parts of the input that the kernel positions meet may have this many
/// elements. One product of a larger one would be a little faster, but take too much memory.
const STACK_PARTS_UP_TO: usize = 1 << 26;

/// Kernels of at most so many positions have the input cut into parts, a node for each.
const PARTS_UP_TO: usize = 1024;

/// Rows of a matrix that are turned round at once: what is written of a column is a whole line of
/// memory, and of as many rows one line stays near until it is used up.
const NEIGHBOURS: usize = 16;

/// How a kernel moves over its input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Step along each spatial axis.
    pub strides: Vec<usize>,
    /// Distance of neighbouring kernel positions along each spatial axis.
    pub dilations: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads_begin: Vec<usize>,
    /// Zeros after each spatial axis.
    pub pads_end: Vec<usize>,
    /// Channels are cut into so many groups that do not mix.
    pub groups: usize,
}

impl Window {
    /// Steps of one over `rank` axes, without padding or groups.
    pub fn plain(rank: usize) -> Self {
        Window {
            strides: vec![1; rank],
            dilations: vec![1; rank],
            pads_begin: vec![0; rank],
            pads_end: vec![0; rank],
            groups: 1,
        }
    }

    fn rank(&self) -> usize {
        self.strides.len()
    }

    /// Whether zeros stand around the operand.
    pub(crate) fn is_padded(&self) -> bool {
        self.pads_begin.iter().chain(&self.pads_end).any(|&pad| pad > 0)
    }

    /// Positions that a kernel of `kernel` elements covers along axis `i`.
    fn reach(&self, i: usize, kernel: usize) -> usize {
        self.dilations[i] * kernel.saturating_sub(1) + 1
    }

    /// The spatial shape of the result for an input of spatial shape `spatial`.
    fn output(&self, spatial: &[usize], kernel: &[usize]) -> Result<Vec<usize>> {
        (0..self.rank())
            .map(|i| {
                let padded = spatial[i] + self.pads_begin[i] + self.pads_end[i];
                match padded.checked_sub(self.reach(i, kernel[i])) {
                    Some(room) => Ok(room / self.strides[i] + 1),
                    None => Err(Error::Shape(format!(
                        "a kernel of {kernel:?} does not fit into {spatial:?} ({self:?})"
                    ))),
                }
            })
            .collect()
    }

    fn is_unit_stride(&self) -> bool {
        self.strides.iter().all(|&s| s == 1)
    }

    fn attrs(&self, kernel: &[usize]) -> Vec<(&'static str, Attr)> {
        let pads = [self.pads_begin.as_slice(), &self.pads_end].concat();
        vec![
            ("kernel_shape", Attr::from(kernel)),
            ("strides", Attr::from(self.strides.as_slice())),
            ("dilations", Attr::from(self.dilations.as_slice())),
            ("pads", Attr::from(pads.as_slice())),
            ("group", Attr::Int(self.groups as i64)),
        ]
    }

    fn with_groups(&self, groups: usize) -> Window {
        Window { groups, ..self.clone() }
    }
}

/// `y[n, m, o] = Σ x[n, c, o·s + k·d − p] · w[m, c, k]`. Operands: `x` and `w`; no bias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// How the kernel moves.
    pub window: Window,
}

/// `dx[n, c, o·s + k·d − p] += z[n, m, o] · w[m, c, k]`, which is also ONNX's ConvTranspose.
/// Operands: `z` and `w`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvInputGrad {
    /// How the kernel moves.
    pub window: Window,
    /// The spatial shape of the result.
    pub spatial: Vec<usize>,
}

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

impl Rule for Conv {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (input, kernel) = (x[0], x[1]);
        let w = &self.window;
        let fits = input.rank() == w.rank() + 2
            && kernel.rank() == input.rank()
            && input.dtype == kernel.dtype
            && input.dtype.is_float()
            && w.groups > 0
            && kernel.shape[0] % w.groups == 0
            && kernel.shape[1] * w.groups == input.shape[1];
        if !fits {
            bail_shape!("no convolution of {input} with {kernel} in {} groups", w.groups);
        }
        let spatial = w.output(&input.shape[2..], &kernel.shape[2..])?;
        let shape = [&[input.shape[0], kernel.shape[0]], spatial.as_slice()].concat();
        Ok(Fact::new(input.dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let (input, kernel) = (x[0].to_f64(), x[1].to_f64());
        let mut y = ArrayD::<f64>::zeros(IxDyn(&out.shape));
        let full = Extent { x: input.shape(), w: kernel.shape(), z: &out.shape };
        let (input, kernel) = (flat(&input)?, flat(&kernel)?);
        let result = flat_mut(&mut y)?;
        each_product(&self.window, &full, |i, j, k| result[k] += input[i] * kernel[j]);
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// `∂x = ConvInputGrad(δ, w)`, `∂w = ConvWeightGrad(x, δ)`.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (x, w) = (site.input(0), site.input(1));
        let dx = match site.wants(0) {
            true => Some(b.conv_input_grad(dy, w, &self.window, &b.shape(x)[2..])?),
            false => None,
        };
        let dw = match site.wants(1) {
            true => Some(b.conv_weight_grad(x, dy, &self.window, &b.shape(w)[2..])?),
            false => None,
        };
        Ok(vec![dx, dw])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let (x, w) = (lanes[0], lanes[1]);
        if !w.batched {
            let (folded, samples) = fold(b, x.value)?;
            let y = b.conv(folded, w.value, self.window.clone())?;
            return unfold(b, y, n, samples);
        }
        let x = x.spread(b, n)?;
        conv_by_lane(b, x, w.value, &self.window)
    }

    fn decompose(&self, b: &mut Builder, x: &[Value], dialect: Dialect) -> Result<Option<Value>> {
        fused::mix_channels(b, x, &self.window, false, dialect)
    }

    fn cost(&self, x: &[&Fact], out: &Fact) -> Cost {
        // A multiply-add for each element of the kernel, per element of the result.
        let flops = out.len() * x[1].shape[1..].iter().product::<usize>();
        Cost { flops: flops as u64, workspace: out.bytes() }
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::bilinear()
    }

    fn moves(&self) -> bool {
        false
    }

    fn emit(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> Result<String> {
        let kernel = e.fact(x[1]).shape.clone();
        let input = e.name(x[0]);
        if let Some(square) = Square::of(e, &self.window, e.fact(x[0]), &kernel[2..], out)
            && let Some(w) = e.constant(x[1]).and_then(dense)
        {
            let c = kernel[1];
            let w = square.arranged(|c_, tap, m_| w[(m_ * c + c_) * 9 + tap]);
            return square.emit(e, &input, w);
        }
        let w = e.name(x[1]);
        Ok(e.node("Conv", &[&input, &w], &self.window.attrs(&kernel[2..])))
    }
}

impl Rule for ConvInputGrad {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let (z, kernel) = (x[0], x[1]);
        let w = &self.window;
        let fits = z.rank() == w.rank() + 2
            && kernel.rank() == z.rank()
            && self.spatial.len() == w.rank()
            && z.dtype == kernel.dtype
            && z.dtype.is_float()
            && w.groups > 0
            && kernel.shape[0] == z.shape[1]
            && z.shape[1] % w.groups == 0;
        if !fits || w.output(&self.spatial, &kernel.shape[2..])? != z.shape[2..] {
            bail_shape!("no transposed convolution of {z} with {kernel} to {:?}", self.spatial);
        }
        let channels = kernel.shape[1] * w.groups;
        let shape = [&[z.shape[0], channels], self.spatial.as_slice()].concat();
        Ok(Fact::new(z.dtype, shape))
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let (z, kernel) = (x[0].to_f64(), x[1].to_f64());
        let mut y = ArrayD::<f64>::zeros(IxDyn(&out.shape));
        let full = Extent { x: &out.shape, w: kernel.shape(), z: z.shape() };
        let (z, kernel) = (flat(&z)?, flat(&kernel)?);
        let result = flat_mut(&mut y)?;
        each_product(&self.window, &full, |i, j, k| result[i] += z[k] * kernel[j]);
        Ok(Tensor::from_f64(y, out.dtype))
    }

    /// `∂z = Conv(δ, w)`, `∂w = ConvWeightGrad(δ, z)`.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let (z, w) = (site.input(0), site.input(1));
        let dz = match site.wants(0) {
            true => Some(b.conv(dy, w, self.window.clone())?),
            false => None,
        };
        let dw = match site.wants(1) {
            true => Some(b.conv_weight_grad(dy, z, &self.window, &b.shape(w)[2..])?),
            false => None,
        };
        Ok(vec![dz, dw])
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value> {
        let (z, w) = (lanes[0], lanes[1]);
        if !w.batched {
            let (folded, samples) = fold(b, z.value)?;
            let y = b.conv_input_grad(folded, w.value, &self.window, &self.spatial)?;
            return unfold(b, y, n, samples);
        }
        let z = z.spread(b, n)?;
        let (z, samples) = lanes_to_channels(b, z)?;
        let w = lanes_to_outputs(b, w.value)?;
        let grouped = self.window.with_groups(self.window.groups * n);
        let y = b.conv_input_grad(z, w, &grouped, &self.spatial)?;
        channels_to_lanes(b, y, n, samples)
    }

    fn decompose(&self, b: &mut Builder, x: &[Value], dialect: Dialect) -> Result<Option<Value>> {
        fused::mix_channels(b, x, &self.window, true, dialect)
    }

    fn cost(&self, x: &[&Fact], out: &Fact) -> Cost {
        let flops = x[0].len() * x[1].shape[1..].iter().product::<usize>();
        Cost { flops: flops as u64, workspace: out.bytes() }
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::bilinear()
    }

    fn moves(&self) -> bool {
        false
    }

    fn emit(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> Result<String> {
        let kernel = e.fact(x[1]).shape.clone();
        if self.window.is_unit_stride() {
            return self.emit_as_conv(e, x, &kernel, out);
        }
        let w = &self.window;
        let z = e.fact(x[0]).shape.clone();
        // What the formula gives without output padding; the rest is padding, or cut off.
        let mut padding = Vec::new();
        for i in 0..w.rank() {
            let natural = w.strides[i] * (z[i + 2] - 1) + w.reach(i, kernel[i + 2]);
            let kept = self.spatial[i] + w.pads_begin[i] + w.pads_end[i];
            padding.push(kept - natural);
        }
        let mut attrs = w.attrs(&kernel[2..]);
        attrs.push(("output_padding", Attr::from(padding.as_slice())));
        let (z, kernel) = (e.name(x[0]), e.name(x[1]));
        Ok(e.node("ConvTranspose", &[&z, &kernel], &attrs))
    }
}

impl ConvInputGrad {
    /// With unit strides: a convolution of `z` with the kernel turned round, its two channel axes
    /// exchanged inside each group.
    fn emit_as_conv(
        &self,
        e: &mut Emitter,
        x: &[Value],
        kernel: &[usize],
        out: &Fact,
    ) -> Result<String> {
        let w = &self.window;
        let rank = w.rank();
        let (mut begin, mut end, mut crop) = (Vec::new(), Vec::new(), false);
        let z = e.fact(x[0]).shape.clone();
        let (mut starts, mut ends) = (vec![0; rank], z[2..].to_vec());
        for i in 0..rank {
            let reach = w.reach(i, kernel[i + 2]) - 1;
            // A padding wider than the kernel reaches: the outermost results saw only zeros.
            for (pad, own, first) in
                [(&mut begin, w.pads_begin[i], true), (&mut end, w.pads_end[i], false)]
            {
                let excess = own.saturating_sub(reach);
                pad.push(reach.saturating_sub(own));
                crop |= excess > 0;
                match first {
                    true => starts[i] = excess,
                    false => ends[i] -= excess,
                }
            }
        }
        let mut z = e.name(x[0]);
        if crop {
            let axes: Vec<usize> = (2..rank + 2).collect();
            let lists = [e.i64s_of(&starts), e.i64s_of(&ends), e.i64s_of(&axes)];
            z = e.node("Slice", &[&z, &lists[0], &lists[1], &lists[2]], &[]);
        }
        let window = Window { pads_begin: begin, pads_end: end, ..w.clone() };
        if !crop
            && let Some(square) = Square::of(e, &window, e.fact(x[0]), &kernel[2..], out)
            && let Some(w) = e.constant(x[1]).and_then(dense)
        {
            let c = kernel[1];
            let w = square.arranged(|m, tap, c_| w[(m * c + c_) * 9 + 8 - tap]);
            return square.emit(e, &z, w);
        }
        let turned = match e.constant(x[1]) {
            Some(tensor) => {
                let turned = turn_round(tensor, w.groups)?;
                e.tensor(&turned)
            }
            None => emit_turned(e, x[1], kernel, w.groups),
        };
        Ok(e.node("Conv", &[&z, &turned], &window.attrs(&kernel[2..])))
    }
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

    /// `z` `[n, g, M/g, O]` times the parts of `x` `[n, g, C/g, O]` that each kernel position
    /// meets, transposed.
    ///
    /// All parts are stacked for one large product; where the stack would be too large, each is
    /// multiplied by itself and the results are stacked.
    fn emit(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> Result<String> {
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let groups = self.window.groups;
        if e.is_fused() && self.has_kernel(e.fact(x[0])) {
            let names = [e.name(x[0]), e.name(x[1])];
            return Ok(self.emit_kernel(e, names.each_ref().map(String::as_str), &input, &z));
        }
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
        let times_z = |e: &mut Emitter, part: &str, columns: usize| {
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
    fn emit_as_conv(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> String {
        let w = &self.window;
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let (lanes, groups) = (self.lanes, w.groups);
        let (c, m, samples) = (input[1] / groups, z[1] / groups, input[0] / lanes);
        let permuted = |e: &mut Emitter, x: &str, perm: &[usize], spatial: usize| {
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
    fn emit_sum(&self, e: &mut Emitter, x: &[Value], out: &Fact) -> Result<String> {
        let (input, z) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        let (samples, c, m) = (input[0], input[1], z[1]);
        let taps: usize = self.kernel.iter().product();
        let length = z.iter().product::<usize>() / m;
        let samples_second = |e: &mut Emitter, value: Value, rank: usize| {
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
        let times_z = |e: &mut Emitter, part: &str, rows: usize| {
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
        e: &mut Emitter,
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

fn stack(e: &mut Emitter, parts: &[String], axis: i64) -> String {
    match parts {
        [only] => only.clone(),
        all => {
            let names: Vec<&str> = all.iter().map(String::as_str).collect();
            e.node("Concat", &names, &[("axis", Attr::Int(axis))])
        }
    }
}

/// `[n, N, …]` as `[n·N, …]`, with `N`.
fn fold(b: &mut Builder, x: Value) -> Result<(Value, usize)> {
    let shape = b.shape(x);
    let folded = [&[shape[0] * shape[1]], &shape[2..]].concat();
    Ok((b.reshape(x, &folded)?, shape[1]))
}

/// `[n·N, …]` as `[n, N, …]`.
fn unfold(b: &mut Builder, y: Value, n: usize, samples: usize) -> Result<Value> {
    let shape = b.shape(y);
    b.reshape(y, &[&[n, samples], &shape[1..]].concat())
}

/// `[n, N, C, S…]` as `[N, n·C, S…]`, with `N`.
fn lanes_to_channels(b: &mut Builder, x: Value) -> Result<(Value, usize)> {
    let shape = b.shape(x);
    let mut perm: Vec<usize> = (0..shape.len()).collect();
    perm.swap(0, 1);
    let turned = b.transpose(x, &perm)?;
    let flat = [&[shape[1], shape[0] * shape[2]], &shape[3..]].concat();
    Ok((b.reshape(turned, &flat)?, shape[1]))
}

/// `[N, n·M, O…]` as `[n, N, M, O…]`.
fn channels_to_lanes(b: &mut Builder, y: Value, n: usize, samples: usize) -> Result<Value> {
    let shape = b.shape(y);
    let split = [&[samples, n, shape[1] / n], &shape[2..]].concat();
    let y = b.reshape(y, &split)?;
    let mut perm: Vec<usize> = (0..split.len()).collect();
    perm.swap(0, 1);
    b.transpose(y, &perm)
}

/// `[n, M, C/g, K…]` as `[n·M, C/g, K…]`.
fn lanes_to_outputs(b: &mut Builder, w: Value) -> Result<Value> {
    Ok(fold(b, w)?.0)
}

/// A convolution of each lane of `x` `[n, N, C, S…]` with its own kernel `w` `[n, M, C/g, K…]`:
/// one convolution in which every lane is a group of its own.
fn conv_by_lane(b: &mut Builder, x: Value, w: Value, window: &Window) -> Result<Value> {
    let n = b.shape(x)[0];
    let (x, samples) = lanes_to_channels(b, x)?;
    let w = lanes_to_outputs(b, w)?;
    let y = b.conv(x, w, window.with_groups(window.groups * n))?;
    channels_to_lanes(b, y, n, samples)
}

/// A kernel `[M, C/g, K…]` as `[C, M/g, K…]` with its positions in reverse.
fn turn_round(kernel: &Tensor, groups: usize) -> Result<Tensor> {
    let shape = kernel.shape();
    let (m, c, taps) = (shape[0] / groups, shape[1], shape[2..].iter().product::<usize>());
    let joined = [&[groups * c, m], &shape[2..]].concat();
    Ok(map_same!(kernel, a => {
        let turned = turned(a.as_slice().unwrap_or_default(), [m, c, taps]);
        ArrayD::from_shape_vec(IxDyn(&joined), turned).map_err(|e| Error::Shape(e.to_string()))?
    }))
}

/// Matrices `[m, c, taps]`, one after the other, as `[c, m, taps]` with their `taps` in reverse.
fn turned<T: Copy>(values: &[T], [m, c, taps]: [usize; 3]) -> Vec<T> {
    let mut turned = values.to_vec();
    let size = (m * c * taps).max(1);
    for (values, turned) in values.chunks_exact(size).zip(turned.chunks_exact_mut(size)) {
        for first_row in (0..m).step_by(NEIGHBOURS) {
            for column in 0..c {
                for row in first_row..m.min(first_row + NEIGHBOURS) {
                    let from = &values[(row * c + column) * taps..][..taps];
                    let to = &mut turned[(column * m + row) * taps..][..taps];
                    to.iter_mut().zip(from.iter().rev()).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
    turned
}

/// [`turn_round`] as ONNX nodes, for a kernel that is computed.
fn emit_turned(e: &mut Emitter, w: Value, shape: &[usize], groups: usize) -> String {
    let rank = shape.len();
    let mut name = e.name(w);
    if groups == 1 {
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(0, 1);
        name = e.node("Transpose", &[&name], &[("perm", Attr::from(perm.as_slice()))]);
    } else {
        let split = [&[groups, shape[0] / groups], &shape[1..]].concat();
        name = e.reshape(&name, &split);
        let mut perm: Vec<usize> = (0..=rank).collect();
        perm.swap(1, 2);
        name = e.node("Transpose", &[&name], &[("perm", Attr::from(perm.as_slice()))]);
        let joined = [&[groups * shape[1], shape[0] / groups], &shape[2..]].concat();
        name = e.reshape(&name, &joined);
    }
    for (axis, &size) in shape.iter().enumerate().skip(2) {
        if size > 1 {
            let reversed: Vec<i64> = (0..size as i64).rev().collect();
            let reversed = e.i64s(&reversed);
            name = e.node("Gather", &[&name, &reversed], &[("axis", Attr::Int(axis as i64))]);
        }
    }
    name
}

/// The shapes of the three tensors of the trilinear form.
struct Extent<'a> {
    x: &'a [usize],
    w: &'a [usize],
    z: &'a [usize],
}

/// Calls `f` with the flat indices into `x`, `w` and `z` of every product of the trilinear form.
fn each_product(window: &Window, extent: &Extent, mut f: impl FnMut(usize, usize, usize)) {
    let Extent { x, w, z } = extent;
    let rank = window.rank();
    let size = |s: &[usize]| s.iter().product::<usize>();
    let (x_size, w_size, z_size) = (size(&x[2..]), size(&w[2..]), size(&z[2..]));
    let per_group = z[1] / window.groups;
    // Where each kernel position and output position meet the input, for one channel.
    let mut meetings = Vec::new();
    for k in 0..w_size {
        for o in 0..z_size {
            let (mut k_rest, mut o_rest) = (k, o);
            let (mut at, mut scale, mut inside) = (0, 1, true);
            for i in (0..rank).rev() {
                let (k_i, o_i) = (k_rest % w[i + 2], o_rest % z[i + 2]);
                (k_rest, o_rest) = (k_rest / w[i + 2], o_rest / z[i + 2]);
                let padded = o_i * window.strides[i] + k_i * window.dilations[i];
                match padded.checked_sub(window.pads_begin[i]).filter(|&p| p < x[i + 2]) {
                    Some(p) => at += p * scale,
                    None => inside = false,
                }
                scale *= x[i + 2];
            }
            if inside {
                meetings.push((at, k, o));
            }
        }
    }
    for n in 0..x[0] {
        for m in 0..z[1] {
            let first = m / per_group.max(1) * w[1];
            for c in 0..w[1] {
                let x_base = (n * x[1] + first + c) * x_size;
                let w_base = (m * w[1] + c) * w_size;
                let z_base = (n * z[1] + m) * z_size;
                for &(i, j, k) in &meetings {
                    f(x_base + i, w_base + j, z_base + k);
                }
            }
        }
    }
}

fn flat(a: &ArrayD<f64>) -> Result<&[f64]> {
    a.as_slice().ok_or_else(|| Error::Shape("a tensor is not in row-major order".into()))
}

fn flat_mut(a: &mut ArrayD<f64>) -> Result<&mut [f64]> {
    a.as_slice_mut().ok_or_else(|| Error::Shape("a tensor is not in row-major order".into()))
}

impl Builder {
    /// The convolution of `x` `[N, C, S…]` with `w` `[M, C/g, K…]`.
    pub fn conv(&mut self, x: Value, w: Value, window: Window) -> Result<Value> {
        self.push(Conv { window }, &[x, w])
    }

    /// The adjoint of a convolution in its input: `z` `[N, M, O…]` to `[N, C, spatial…]`.
    pub fn conv_input_grad(
        &mut self,
        z: Value,
        w: Value,
        window: &Window,
        spatial: &[usize],
    ) -> Result<Value> {
        self.push(ConvInputGrad { window: window.clone(), spatial: spatial.to_vec() }, &[z, w])
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;
    use proptest::prelude::*;

    /// A convolution by its numbers.
    #[derive(Clone, Debug)]
    struct Config {
        samples: usize,
        channels: usize,
        outputs: usize,
        spatial: Vec<usize>,
        kernel: Vec<usize>,
        window: Window,
    }

    impl Config {
        fn new(spatial: &[usize], kernel: &[usize]) -> Self {
            let rank = spatial.len();
            let window = Window::plain(rank);
            let (spatial, kernel) = (spatial.to_vec(), kernel.to_vec());
            Config { samples: 1, channels: 2, outputs: 2, spatial, kernel, window }
        }

        fn strides(mut self, strides: &[usize]) -> Self {
            self.window.strides = strides.to_vec();
            self
        }

        fn dilations(mut self, dilations: &[usize]) -> Self {
            self.window.dilations = dilations.to_vec();
            self
        }

        fn pads(mut self, begin: &[usize], end: &[usize]) -> Self {
            (self.window.pads_begin, self.window.pads_end) = (begin.to_vec(), end.to_vec());
            self
        }

        fn channels(mut self, channels: usize, outputs: usize, groups: usize) -> Self {
            (self.channels, self.outputs, self.window.groups) = (channels, outputs, groups);
            self
        }

        fn samples(mut self, samples: usize) -> Self {
            self.samples = samples;
            self
        }

        fn check(&self) {
            let x = [&[self.samples, self.channels], self.spatial.as_slice()].concat();
            let w = [&[self.outputs, self.channels / self.window.groups], self.kernel.as_slice()]
                .concat();
            let out = self.window.output(&self.spatial, &self.kernel).unwrap();
            let z = [&[self.samples, self.outputs], out.as_slice()].concat();
            Case::new(format!("Conv {self:?}"))
                .input(&x, -1.0, 1.0)
                .input(&w, -1.0, 1.0)
                .check(|b, v| b.conv(v[0], v[1], self.window.clone()));
            Case::new(format!("ConvInputGrad {self:?}"))
                .input(&z, -1.0, 1.0)
                .input(&w, -1.0, 1.0)
                .check(|b, v| b.conv_input_grad(v[0], v[1], &self.window, &self.spatial));
            Case::new(format!("ConvWeightGrad {self:?}"))
                .input(&x, -1.0, 1.0)
                .input(&z, -1.0, 1.0)
                .check(|b, v| b.conv_weight_grad(v[0], v[1], &self.window, &self.kernel));
        }
    }

    #[test]
    fn over_lines() {
        Config::new(&[5], &[3]).check();
        Config::new(&[6], &[3]).strides(&[2]).pads(&[1], &[0]).samples(2).check();
    }

    #[test]
    fn over_planes() {
        Config::new(&[4, 3], &[3, 2]).pads(&[1, 0], &[1, 1]).check();
        Config::new(&[4, 4], &[1, 1]).strides(&[2, 2]).check();
        Config::new(&[5, 4], &[2, 3]).strides(&[2, 1]).dilations(&[2, 1]).check();
        Config::new(&[3, 3], &[1, 1]).pads(&[1, 1], &[2, 0]).check();
    }

    #[test]
    fn over_volumes() {
        Config::new(&[3, 2, 3], &[2, 2, 1])
            .strides(&[1, 1, 2])
            .pads(&[0, 1, 0], &[1, 0, 0])
            .check();
    }

    #[test]
    fn in_groups() {
        Config::new(&[4], &[2]).channels(4, 6, 2).samples(2).check();
        Config::new(&[3, 3], &[3, 3]).channels(3, 3, 3).pads(&[1, 1], &[1, 1]).check();
        Config::new(&[4, 3], &[2, 2])
            .channels(2, 4, 2)
            .strides(&[2, 2])
            .pads(&[1, 0], &[0, 1])
            .check();
    }

    #[test]
    fn with_kernels_of_very_many_positions() {
        let most = PARTS_UP_TO;
        Config::new(&[most + 3], &[most + 1]).samples(2).check();
        Config::new(&[most / 8 + 6, 12], &[most / 8 + 1, 8])
            .channels(2, 4, 2)
            .strides(&[2, 3])
            .pads(&[1, 0], &[0, 1])
            .check();
    }

    #[test]
    fn a_kernel_larger_than_its_input_is_refused() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 1, 2]));
        let w = b.input("w", Fact::new(DType::F32, [1, 1, 3]));
        assert!(b.conv(x, w, Config::new(&[2], &[3]).window).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
        #[test]
        fn at_random(
            size in 3usize..6,
            kernel in 1usize..4,
            stride in 1usize..4,
            dilation in 1usize..3,
            begin in 0usize..3,
            end in 0usize..3,
            groups in 1usize..3,
        ) {
            prop_assume!(dilation * (kernel - 1) < size + begin + end);
            Config::new(&[size, 2], &[kernel, 1])
                .strides(&[stride, 1])
                .dilations(&[dilation, 1])
                .pads(&[begin, 0], &[end, 0])
                .channels(2, 2, groups)
                .check();
        }
    }
}
