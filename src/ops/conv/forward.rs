//! Convolution.

use ndarray::{ArrayD, IxDyn};

use super::Window;
use super::form::{Extent, each_product, flat, flat_mut};
use super::lanes::{conv_by_lane, fold, unfold};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::ops::{Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::tensor::Tensor;

/// `y[n, m, o] = Σ x[n, c, o·s + k·d − p] · w[m, c, k]`. Operands: `x` and `w`; no bias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// How the kernel moves.
    pub window: Window,
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

    fn vanishes(&self, zero: &[bool]) -> bool {
        zero[0] || zero[1]
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        let kernel = e.fact(x[1]).shape[2..].to_vec();
        let (x, w) = (e.name(x[0]), e.name(x[1]));
        Ok(e.node("Conv", &[&x, &w], &self.window.attrs(&kernel)))
    }
}

impl Builder {
    /// The convolution of `x` `[N, C, S…]` with `w` `[M, C/g, K…]`.
    pub fn conv(&mut self, x: Value, w: Value, window: Window) -> Result<Value> {
        self.push(Conv { window }, &[x, w])
    }
}
