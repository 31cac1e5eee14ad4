//! Batch normalisation, before it is decided which statistics it uses.
//!
//! With running or per-sample statistics it is taken apart into primitives by
//! [`batch_norm`](crate::transform::batch_norm) before anything is differentiated. With the
//! statistics of the whole batch it couples the lanes of `vmap`, and it is `vmap` that takes it
//! apart.

use super::{
    Attr, Builder, Cost, Cotangents, Derivative, Float, Homogeneity, Lane, Rule, Site, Writer,
};
use crate::error::{Error, Result, bail_shape};
use crate::ir::{Fact, Value, eval};
use crate::tensor::Tensor;

/// Which mean and variance batch normalisation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormMode {
    /// Those stored in the file.
    Running,
    /// Those of the sample alone, over its spatial positions.
    Sample,
    /// Those of all samples under `vmap` together.
    Batch,
}

impl std::fmt::Display for BatchNormMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BatchNormMode::Running => "running",
            BatchNormMode::Sample => "sample",
            BatchNormMode::Batch => "batch",
        })
    }
}

/// `(x − μ) / √(σ² + ε) · scale + bias` per channel. Operands: `x` of shape `[1, C, S…]`, then
/// scale, bias, running mean and running variance of shape `[C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchNorm {
    /// `ε`, added to the variance.
    pub epsilon: Float,
    /// Where `μ` and `σ²` come from.
    pub mode: BatchNormMode,
}

impl BatchNorm {
    /// The same computation in other primitives. `channel` is the channel axis of `x`; with
    /// batch or sample statistics, all other axes are averaged over.
    pub(crate) fn in_primitives(
        &self,
        b: &mut Builder,
        x: &[Value],
        channel: usize,
    ) -> Result<Value> {
        let shape = b.shape(x[0]);
        let rest: Vec<usize> = (0..shape.len()).filter(|&i| i != channel).collect();
        let mut row = vec![1; shape.len()];
        row[channel] = shape[channel];
        let mut reshaped = |i: usize| b.reshape(x[i], &row);
        let (scale, bias) = (reshaped(1)?, reshaped(2)?);
        let epsilon = self.epsilon.get();
        if self.mode == BatchNormMode::Running {
            let (mean, variance) = (reshaped(3)?, reshaped(4)?);
            let deviation = b.shift(variance, epsilon)?;
            let deviation = b.sqrt(deviation)?;
            let inverse = b.unary(super::Unary::Reciprocal, deviation)?;
            let factor = b.mul(scale, inverse)?;
            let centred = b.sub(x[0], mean)?;
            let scaled = b.mul(centred, factor)?;
            return b.add(scaled, bias);
        }
        let mean = b.reduce_mean(x[0], &rest)?;
        let centred = b.sub(x[0], mean)?;
        let square = b.mul(centred, centred)?;
        let variance = b.reduce_mean(square, &rest)?;
        let deviation = b.shift(variance, epsilon)?;
        let deviation = b.sqrt(deviation)?;
        // One factor a channel leaves less to do for each position than a quotient and a product.
        let inverse = b.unary(super::Unary::Reciprocal, deviation)?;
        let factor = b.mul(scale, inverse)?;
        let scaled = b.mul(centred, factor)?;
        b.add(scaled, bias)
    }
}

impl Rule for BatchNorm {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        let Some(&channels) = x[0].shape.get(1) else {
            bail_shape!("batch normalisation needs a channel axis, not {}", x[0]);
        };
        if x[1..].iter().any(|f| f.shape != [channels] || f.dtype != x[0].dtype) {
            bail_shape!("batch normalisation of {}: its vectors are not [{channels}]", x[0]);
        }
        Ok(x[0].clone())
    }

    fn eval(&self, x: &[&Tensor], _: &Fact) -> Result<Tensor> {
        let mut b = Builder::default();
        let operands: Vec<Value> = x.iter().map(|t| b.input("", Fact::of(t))).collect();
        let y = self.in_primitives(&mut b, &operands, 1)?;
        b.output("y", y);
        let inputs: Vec<Tensor> = x.iter().map(|&t| t.clone()).collect();
        let mut outputs = eval(&b.finish(), &inputs)?;
        outputs.pop().ok_or_else(|| Error::Shape("batch normalisation gave no result".into()))
    }

    fn derivative(&self) -> Derivative {
        Derivative::Unsupported(match self.mode {
            BatchNormMode::Batch => "batch statistics couple the samples: apply vmap before grad",
            _ => "it is taken apart first, by transform::batch_norm",
        })
    }

    fn vjp(&self, _: &mut Builder, _: &Site, _: Value) -> Result<Cotangents> {
        Err(Error::NotDifferentiable(format!("batch normalisation: {:?}", self.derivative())))
    }

    fn batch(&self, b: &mut Builder, lanes: &[Lane], _: usize) -> Result<Value> {
        if lanes[1..].iter().any(|l| l.batched) {
            bail_shape!("batch normalisation with a scale or bias per lane is not defined");
        }
        let x: Vec<Value> = lanes.iter().map(|l| l.value).collect();
        match self.mode {
            // [n, 1, C, S…]: the statistics run over the lanes too.
            BatchNormMode::Batch => self.in_primitives(b, &x, 2),
            BatchNormMode::Running => {
                let mut folded = b.shape(x[0]);
                let full = folded.clone();
                let rows = folded.remove(0) * folded[0];
                folded[0] = rows;
                let flat = b.reshape(x[0], &folded)?;
                let y = b.push(*self, &[flat, x[1], x[2], x[3], x[4]])?;
                b.reshape(y, &full)
            }
            BatchNormMode::Sample => {
                bail_shape!("per-sample batch normalisation is taken apart before vmap")
            }
        }
    }

    fn cost(&self, _: &[&Fact], _: &Fact) -> Cost {
        Cost::default()
    }

    fn homogeneity(&self) -> Homogeneity {
        Homogeneity::None
    }

    fn moves(&self) -> bool {
        false
    }

    fn vanishes(&self, zero: &[bool]) -> bool {
        let [x, scale, bias, mean] = [zero[0], zero[1], zero[2], zero[3]];
        bias && (scale || x && (mean || self.mode != BatchNormMode::Running))
    }

    fn emit(&self, e: &mut dyn Writer, x: &[Value], _: &Fact) -> Result<String> {
        if self.mode != BatchNormMode::Running {
            return Err(Error::Shape("batch normalisation is taken apart before emission".into()));
        }
        let names: Vec<String> = x.iter().map(|&v| e.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let epsilon = Attr::Float(self.epsilon.get() as f32);
        Ok(e.node("BatchNormalization", &names, &[("epsilon", epsilon)]))
    }
}
