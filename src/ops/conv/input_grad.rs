//! The gradient of convolution in its input, which is transposed convolution.

use ndarray::{ArrayD, IxDyn};

use super::Window;
use super::form::{Extent, each_product, flat, flat_mut};
use super::lanes::{channels_to_lanes, fold, lanes_to_channels, lanes_to_outputs, unfold};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::ops::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::tensor::{Tensor, map_same};

/// Rows of a matrix that are turned round at once: what is written of a column is a whole line of
/// memory, and of as many rows one line stays near until it is used up.
const NEIGHBOURS: usize = 16;

/// `dx[n, c, o·s + k·d − p] += z[n, m, o] · w[m, c, k]`, which is also ONNX's ConvTranspose.
/// Operands: `z` and `w`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvInputGrad {
    /// How the kernel moves.
    pub window: Window,
    /// The spatial shape of the result.
    pub spatial: Vec<usize>,
}

/// A [`ConvInputGrad`] of unit strides as a convolution of `z` with the kernel turned round, its two
/// channel axes exchanged inside each group.
pub struct AsConv {
    /// How the turned kernel moves.
    pub window: Window,
    /// The part of each spatial axis of `z` that counts, where that is not all of it: first index and
    /// end. The outermost results saw only zeros where a padding is wider than the kernel reaches.
    pub crop: Option<(Vec<usize>, Vec<usize>)>,
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

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0] || zero[1]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let (z, kernel) = (e.fact(x[0]).shape.clone(), e.fact(x[1]).shape.clone());
        if let Some(conv) = self.as_conv(&z[2..], &kernel[2..]) {
            return self.emit_as_conv(e, x, conv);
        }
        let w = &self.window;
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
    /// As a convolution, for `z` and a kernel of these spatial shapes; `None` where strides are not 1.
    pub fn as_conv(&self, z: &[usize], kernel: &[usize]) -> Option<AsConv> {
        let w = &self.window;
        if !w.is_unit_stride() {
            return None;
        }
        let reach = |i: usize| w.reach(i, kernel[i]) - 1;
        let left = |own: &[usize]| -> Vec<usize> {
            own.iter().enumerate().map(|(i, &own)| reach(i).saturating_sub(own)).collect()
        };
        let excess = |own: &[usize]| -> Vec<usize> {
            own.iter().enumerate().map(|(i, &own)| own.saturating_sub(reach(i))).collect()
        };
        let (starts, behind) = (excess(&w.pads_begin), excess(&w.pads_end));
        let is_cropped = starts.iter().chain(&behind).any(|&excess| excess > 0);
        let ends: Vec<usize> = z.iter().zip(&behind).map(|(z, behind)| z - behind).collect();
        let (pads_begin, pads_end) = (left(&w.pads_begin), left(&w.pads_end));
        let window = Window { pads_begin, pads_end, ..w.clone() };
        Some(AsConv { window, crop: is_cropped.then_some((starts, ends)) })
    }

    fn emit_as_conv(&self, e: &mut dyn Writer, x: &[Value], conv: AsConv) -> Result<String> {
        let kernel = e.fact(x[1]).shape.clone();
        let mut z = e.name(x[0]);
        if let Some((starts, ends)) = &conv.crop {
            let axes: Vec<usize> = (2..kernel.len()).collect();
            let lists = [e.i64s_of(starts), e.i64s_of(ends), e.i64s_of(&axes)];
            z = e.node("Slice", &[&z, &lists[0], &lists[1], &lists[2]], &[]);
        }
        let groups = self.window.groups;
        let turned = match e.constant(x[1]) {
            Some(tensor) => {
                let turned = turn_round(tensor, groups)?;
                e.tensor(&turned)
            }
            None => emit_turned(e, x[1], &kernel, groups),
        };
        Ok(e.node("Conv", &[&z, &turned], &conv.window.attrs(&kernel[2..])))
    }
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
fn emit_turned(e: &mut dyn Writer, w: Value, shape: &[usize], groups: usize) -> String {
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

impl Builder {
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
}
