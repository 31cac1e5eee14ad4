//! Pooling windows: averages and maxima.

use ndarray::{ArrayD, IxDyn};

use super::{Attr, Builder, Cost, Cotangents, Derivative, Homogeneity, Lane, Rule, Site, Writer};
use crate::error::{Result, bail_shape};
use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

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

/// Applies a pooling to `[n, N, C, S…]` as `[n·N, C, S…]`.
fn pooled_lanes(
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

/// The numbers of a window that both poolings share.
struct Geometry<'a> {
    kernel: &'a [usize],
    strides: &'a [usize],
    dilations: Option<&'a [usize]>,
    begin: &'a [usize],
    end: &'a [usize],
}

impl Geometry<'_> {
    fn dilation(&self, i: usize) -> usize {
        self.dilations.map_or(1, |d| d[i])
    }

    fn infer(&self, x: &Fact) -> Result<Fact> {
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
    fn each_meeting(&self, x: &[usize], out: &[usize], mut f: impl FnMut(usize, usize)) {
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
    fn padded(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, eval};
    use crate::testing::Case;
    use proptest::prelude::*;

    /// Kernel, strides, paddings before and after, for an input of the given spatial shape.
    type Form =
        (&'static [usize], &'static [usize], &'static [usize], &'static [usize], &'static [usize]);

    const FORMS: [Form; 8] = [
        (&[6], &[2], &[2], &[0], &[0]),
        (&[5, 7], &[2, 3], &[2, 3], &[0, 0], &[0, 0]),
        (&[5], &[3], &[1], &[1], &[1]),
        (&[4, 5], &[2, 2], &[2, 2], &[0, 1], &[0, 0]),
        (&[4, 4], &[3, 2], &[1, 2], &[1, 0], &[1, 1]),
        (&[5], &[2], &[3], &[0], &[0]),
        // An overhang as wide as the kernel, as `ceil_mode` can leave.
        (&[5], &[2], &[2], &[0], &[3]),
        (&[2, 3, 2], &[2, 2, 1], &[1, 1, 1], &[0, 1, 0], &[0, 0, 0]),
    ];

    #[test]
    fn averages() {
        for (spatial, kernel, strides, begin, end) in FORMS {
            let shape = [&[1, 2], spatial].concat();
            let op = AveragePool::new(kernel, strides, begin, end);
            Case::new(format!("{op:?}"))
                .input(&shape, -1.0, 1.0)
                .check(|b, x| b.push(op.clone(), x));
        }
    }

    #[test]
    fn maxima() {
        for (spatial, kernel, strides, begin, end) in FORMS {
            // Windows that hold padding only have no maximum.
            if end[0] > kernel[0] {
                continue;
            }
            let shape = [&[2, 1], spatial].concat();
            let op = MaxPool::new(kernel, strides, &vec![1; kernel.len()], begin, end);
            Case::new(format!("{op:?}")).distinct(&shape).check(|b, x| b.push(op.clone(), x));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
        #[test]
        fn any_window(
            size in 3usize..7,
            kernel in 1usize..4,
            stride in 1usize..4,
            begin in 0usize..3,
            end in 0usize..3,
        ) {
            // Windows that hold padding only have no maximum.
            prop_assume!(begin < kernel && end < kernel);
            let average = AveragePool::new(&[kernel], &[stride], &[begin], &[end]);
            Case::new(format!("{average:?} {size}"))
                .input(&[1, 2, size], -1.0, 1.0)
                .check(|b, x| b.push(average.clone(), x));
            let maximum = MaxPool::new(&[kernel], &[stride], &[1], &[begin], &[end]);
            Case::new(format!("{maximum:?} {size}"))
                .distinct(&[2, 1, size])
                .check(|b, x| b.push(maximum.clone(), x));
        }
    }

    #[test]
    fn dilated_maxima() {
        let op = MaxPool::new(&[2], &[1], &[2], &[1], &[0]);
        Case::new(format!("{op:?}")).distinct(&[1, 2, 5]).check(|b, x| b.push(op.clone(), x));
    }

    /// A graph of the indices of `op`, an operand with the value `of` the number of each element and how
    /// many there are, and the indices.
    fn indices(
        op: &MaxPool,
        spatial: &[usize],
        of: impl Fn(usize, usize) -> usize,
    ) -> (Graph, [Tensor; 1], Vec<Tensor>) {
        let shape = [&[2, 3], spatial].concat();
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, shape.clone()));
        let at = b.push(MaxPoolIndices(op.clone()), &[x]).unwrap();
        b.output("at", at);
        let graph = b.finish();
        let size = shape.iter().product();
        let values = (0..size).map(|i| of(i, size) as f32).collect();
        let x = [Tensor::f32(&shape, values).unwrap()];
        let expected = eval(&graph, &x).unwrap();
        (graph, x, expected)
    }

    /// Where `op` finds the maxima of values many of which are equal, on every engine.
    fn winners(op: &MaxPool, spatial: &[usize]) {
        let (graph, ties, expected) = indices(op, spatial, |i, _| i * i / 3 % 3);
        for engine in crate::engine::all_for_tests() {
            let compiled = engine.compile(&graph).unwrap();
            let found = engine.load(&compiled).unwrap().run(&ties).unwrap();
            assert_eq!(found, expected, "{op:?} on {:?}", engine.describe());
        }
    }

    #[test]
    fn the_first_of_equal_elements_wins_on_every_engine() {
        winners(&MaxPool::new(&[2], &[2], &[1], &[0], &[0]), &[4]);
        winners(&MaxPool::new(&[2, 2], &[2, 2], &[1, 1], &[0, 0], &[0, 0]), &[4, 6]);
        winners(&MaxPool::new(&[3, 2], &[1, 2], &[1, 1], &[1, 0], &[2, 1]), &[5, 6]);
        winners(&MaxPool::new(&[2, 2], &[3, 3], &[1, 1], &[0, 0], &[2, 2]), &[4, 7]);
        winners(
            &MaxPool::new(&[2, 2, 3], &[1, 2, 1], &[1, 1, 1], &[0, 0, 1], &[1, 0, 0]),
            &[3, 4, 5],
        );
    }
}
