//! Averages over windows.

use super::geometry::{Geometry, pooled_lanes};
use crate::error::Result;
use crate::ir::{Fact, Value};
use crate::ops::{Attr, Builder, Cost, Cotangents, Homogeneity, Lane, Rule, Site, Writer};
use crate::tensor::Tensor;

/// The mean over windows of `x` `[N, C, S…]`, where padding counts as zeros: always divided by the
/// number of elements of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AveragePool {
    /// The window's shape.
    pub kernel: Vec<usize>,
    /// Step along each spatial axis.
    pub strides: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads_begin: Vec<usize>,
    /// Zeros after each spatial axis.
    pub pads_end: Vec<usize>,
}

impl AveragePool {
    /// A pooling window by its kernel, strides and paddings along each spatial axis.
    pub fn new(kernel: &[usize], strides: &[usize], begin: &[usize], end: &[usize]) -> Self {
        AveragePool {
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            pads_begin: begin.to_vec(),
            pads_end: end.to_vec(),
        }
    }

    /// Whether no two windows share an element, and none holds padding.
    fn is_tiling(&self) -> bool {
        let pads = self.pads_begin.iter().chain(&self.pads_end);
        self.kernel == self.strides && pads.sum::<usize>() == 0
    }

    /// The vjp of windows side by side, for an input of shape `shape`: each element has its share of
    /// its window's `δ`, those behind the last window have zeros.
    fn shares(&self, b: &mut Builder, dy: Value, shape: &[usize]) -> Result<Value> {
        let windows = b.shape(dy);
        let (mut ones, mut tiles, mut covered) =
            (windows[..2].to_vec(), windows[..2].to_vec(), windows[..2].to_vec());
        for (&count, &size) in windows[2..].iter().zip(&self.kernel) {
            ones.extend([count, 1]);
            tiles.extend([count, size]);
            covered.push(count * size);
        }
        let share = b.scale(dy, 1.0 / self.kernel.iter().product::<usize>() as f64)?;
        let share = b.reshape(share, &ones)?;
        let shares = b.expand(share, &tiles)?;
        let shares = b.reshape(shares, &covered)?;
        let behind: Vec<usize> = shape.iter().zip(&covered).map(|(all, has)| all - has).collect();
        b.pad(shares, &vec![0; shape.len()], &behind, 0.0)
    }

    fn geometry(&self) -> Geometry<'_> {
        Geometry {
            kernel: &self.kernel,
            strides: &self.strides,
            dilations: None,
            begin: &self.pads_begin,
            end: &self.pads_end,
        }
    }
}

impl Rule for AveragePool {
    fn infer(&self, x: &[&Fact]) -> Result<Fact> {
        self.geometry().infer(x[0])
    }

    fn eval(&self, x: &[&Tensor], out: &Fact) -> Result<Tensor> {
        let values: Vec<f64> = x[0].to_f64().iter().copied().collect();
        let size = self.kernel.iter().product::<usize>() as f64;
        let mut y = vec![0.0; out.len()];
        self.geometry().each_meeting(x[0].shape(), &out.shape, |from, to| {
            y[to] += values[from] / size;
        });
        Ok(Tensor::from_f64(Tensor::f64(&out.shape, y)?.to_f64(), out.dtype))
    }

    /// The mean over windows of `δ`, spread out by the strides and padded by what the window
    /// reaches beyond: each element of `x` gathers from the windows that it is in.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents> {
        let shape = b.shape(site.input(0));
        if self.is_tiling() {
            return Ok(vec![Some(self.shares(b, dy, &shape)?)]);
        }
        let rank = self.kernel.len();
        let steps = [&[1, 1], self.strides.as_slice()].concat();
        let spread = b.dilate(dy, &steps)?;
        let (mut before, mut after) = (vec![0; rank + 2], vec![0; rank + 2]);
        let (mut starts, mut ends) = (vec![0; rank + 2], b.shape(spread));
        for i in 0..rank {
            // Result j of the last pooling sums spread[j − lead … j − lead + k − 1].
            let lead = self.kernel[i] as isize - 1 - self.pads_begin[i] as isize;
            before[i + 2] = usize::try_from(lead).unwrap_or(0);
            starts[i + 2] = usize::try_from(-lead).unwrap_or(0);
            let have = ends[i + 2] as isize + lead;
            let tail = (shape[i + 2] + self.kernel[i] - 1) as isize - have;
            after[i + 2] = usize::try_from(tail).unwrap_or(0);
            ends[i + 2] -= usize::try_from(-tail).unwrap_or(0);
        }
        let kept = b.slice(spread, &starts, &ends, &vec![1; rank + 2])?;
        let gathered = AveragePool::new(&self.kernel, &vec![1; rank], &before[2..], &after[2..]);
        Ok(vec![Some(b.push(gathered, &[kept])?)])
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

    fn emit(&self, e: &mut dyn Writer, x: &[Value], out: &Fact) -> Result<String> {
        let name = e.name(x[0]);
        let (name, begin, end) = self.geometry().padded(e, name, out.dtype, 0.0);
        let pads = [begin, end].concat();
        let attrs = [
            ("kernel_shape", Attr::from(self.kernel.as_slice())),
            ("strides", Attr::from(self.strides.as_slice())),
            ("pads", Attr::from(pads.as_slice())),
            ("count_include_pad", Attr::Int(1)),
        ];
        Ok(e.node("AveragePool", &[&name], &attrs))
    }
}
