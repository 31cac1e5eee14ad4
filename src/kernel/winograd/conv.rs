//! The forward convolution.

use std::cell::{Cell, RefCell};

use pulp::{Arch, Simd, WithSimd};

use super::{
    Collect, Frame, Framed, Grid, POINTS, Product, REACH, TILE, ToPoints, apart, gather, load_some,
    points, spread, square, store,
};
use crate::kernel::simd::{Buffer, Lanes};
use crate::kernel::{ParallelFor, Parts};

/// The maximum size of the transformed tiles that are multiplied at once, in floats, so that they stay
/// in a core's own cache.
const NEAR: usize = 1 << 17;

/// Samples are processed together until they have this many tiles.
const TILES: usize = 8;

/// `y[n, m, o] = Σ_{c, k} x[n, c, o + k − p] · w[c, k, m]` with a 3×3 kernel and stride 1.
///
/// A result whose whole receptive field is zero is exactly zero, as in the direct sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv3x3 {
    /// The number of samples.
    pub samples: usize,
    /// Channels of `x`.
    pub channels: usize,
    /// Channels of `y`.
    pub outputs: usize,
    /// The spatial shape of `x`.
    pub input: [usize; 2],
    /// The spatial shape of `y`.
    pub output: [usize; 2],
    /// Zeros before each spatial axis.
    pub pads: [usize; 2],
}

#[derive(Default)]
struct Scratch {
    input: Framed,
    magnitudes: Buffer,
    factors: Buffer,
    products: Buffer,
    output: Buffer,
}

thread_local! {
    /// The transformed kernels. The calling thread keeps the buffer for its next call.
    static KERNEL: Cell<Buffer> = const { Cell::new(Buffer::new()) };
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Conv3x3 {
    fn x_len(&self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    fn y_len(&self) -> usize {
        self.outputs * self.output[0] * self.output[1]
    }

    /// The results for all samples, `[samples, M, O…]`, from `x` `[samples, C, S…]` and the kernel
    /// `[C, 3, 3, M]`.
    ///
    /// # Panics
    /// When the length of a slice does not match the shapes.
    pub fn compute(&self, x: &[f32], w: &[f32], y: &mut [f32], parallel: &ParallelFor) {
        assert_eq!(x.len(), self.samples * self.x_len(), "elements of x");
        assert_eq!(w.len(), self.channels * 9 * self.outputs, "elements of the kernel");
        assert_eq!(y.len(), self.samples * self.y_len(), "elements of y");
        let arch = Arch::new();
        let width = self.outputs.next_multiple_of(arch.dispatch(Lanes));
        // [point, channel, output]
        let mut buffer = KERNEL.take();
        let kernel = buffer.room(POINTS * self.channels * width);
        let parts = Parts::new(kernel, REACH * self.channels * width);
        parallel(REACH, &|row| {
            parts.with(row, |out| arch.dispatch(Kernel { w, outputs: self.outputs, row, out }));
        });
        drop(parts);
        let kernel = &*kernel;
        let grid = Grid::new(self.output);
        let group = (TILES / grid.tiles()).clamp(1, self.samples.max(1));
        let frame = Frame { image: self.input, offset: self.pads, larger: grid.reach() };
        let plan = Plan {
            op: self,
            grid,
            width,
            frame,
            input: frame.places(),
            output: Frame { image: self.output, offset: [0; 2], larger: grid.results() }.places(),
        };
        let parts = Parts::new(y, group * self.y_len());
        parallel(self.samples.div_ceil(group), &|i| {
            let x = x.chunks(group * self.x_len()).nth(i).unwrap_or_default();
            parts.with(i, |y| {
                SCRATCH.with_borrow_mut(|scratch| {
                    arch.dispatch(Samples { plan: &plan, x, kernel, y, scratch });
                });
            });
        });
        KERNEL.set(buffer);
    }
}

/// Transforms the kernels `[C, 3, 3, M]` to one row of points, `[point, C, width]`.
struct Kernel<'a> {
    w: &'a [f32],
    outputs: usize,
    row: usize,
    out: &'a mut [f32],
}

impl WithSimd for Kernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        macro_rules! row {
            ($($row:literal),*) => {
                match self.row {
                    $($row => self.points::<S, $row>(simd),)*
                    _ => {}
                }
            };
        }
        row!(0, 1, 2, 3, 4, 5);
    }
}

impl Kernel<'_> {
    /// Computes the points of row `ROW`. As a constant, it removes the terms that only other rows need.
    #[inline(always)]
    fn points<S: Simd, const ROW: usize>(self, simd: S) {
        let Kernel { w, outputs, out, .. } = self;
        let lanes = S::F32_LANES;
        let step = out.len() / REACH;
        let width = outputs.next_multiple_of(lanes);
        for (c, w) in w.chunks_exact(9 * outputs).enumerate() {
            for first in (0..outputs).step_by(lanes) {
                let mut taps = [simd.splat_f32s(0.0); 9];
                for (tap, w) in taps.iter_mut().zip(w.chunks_exact(outputs)) {
                    *tap = load_some(simd, &w[first..]);
                }
                let mut line = [simd.splat_f32s(0.0); 3];
                for j in 0..3 {
                    line[j] = points(simd, [taps[j], taps[3 + j], taps[6 + j]])[ROW];
                }
                for (j, &values) in points(simd, line).iter().enumerate() {
                    store::<S>(&mut out[j * step + c * width + first..], values);
                }
            }
        }
    }
}

struct Plan<'a> {
    op: &'a Conv3x3,
    grid: Grid,
    /// Channels of `y`, rounded up to whole vectors.
    width: usize,
    frame: Frame,
    /// The positions of `x` in the input of the tiles, and of `y` in their results.
    input: Vec<usize>,
    output: Vec<usize>,
}

/// A few samples.
struct Samples<'a> {
    plan: &'a Plan<'a>,
    x: &'a [f32],
    kernel: &'a [f32],
    y: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl WithSimd for Samples<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Samples { plan, x, kernel, y, scratch } = self;
        let (op, grid, lanes) = (plan.op, plan.grid, S::F32_LANES);
        let Scratch { input, magnitudes, factors, products, output } = scratch;
        let (reach, width) = (grid.reach()[1], grid.results()[1]);
        let room = plan.frame.room();
        let channels = op.channels.next_multiple_of(lanes);
        let samples = x.len() / op.x_len();
        let (in_size, out_size) = (channels * room, plan.width * grid.tiles() * TILE * TILE);
        let positions = plan.input.len().next_multiple_of(lanes);
        let magnitudes = magnitudes.zeros(samples * positions);
        let input = input.room(&plan.frame, samples * in_size);
        let output = output.room(samples * out_size);
        let images = input.chunks_exact_mut(in_size).zip(x.chunks_exact(op.x_len()));
        for ((input, x), magnitudes) in images.zip(magnitudes.chunks_exact_mut(positions)) {
            spread(simd, x, &plan.input, room, input, Some(magnitudes));
        }
        // Process a few rows of tiles of all samples at a time.
        let rows = samples * grid.rows;
        let step = NEAR / (POINTS * grid.columns * (channels + plan.width));
        for first in (0..rows).step_by(step.max(1)) {
            let rows = first..rows.min(first + step.max(1));
            let tiles = rows.len() * grid.columns;
            let (in_step, out_step) = (apart(tiles, channels), apart(tiles, plan.width));
            let factors = factors.room(POINTS * in_step);
            let products = products.room(POINTS * out_step);
            for (i, row) in rows.clone().enumerate() {
                let input = &input[row / grid.rows * in_size..][..in_size];
                for (panel, input) in input.chunks_exact(lanes * room).enumerate() {
                    for column in 0..grid.columns {
                        let tile = i * grid.columns + column;
                        let at = [row % grid.rows, column].map(|i| i * TILE);
                        let to = &mut factors[tile * channels + panel * lanes..];
                        let from = &input[(at[0] * reach + at[1]) * lanes..];
                        let steps = [[reach * lanes, lanes], [REACH * in_step, in_step]];
                        square::<S, ToPoints, REACH, REACH>(simd, from, steps[0], to, steps[1]);
                    }
                }
            }
            let product =
                Product { rows: tiles, depth: op.channels, width: plan.width, a: [channels, 1] };
            for point in 0..POINTS {
                let a = &factors[point * in_step..];
                let b = &kernel[point * op.channels * plan.width..][..op.channels * plan.width];
                product.compute(simd, a, b, &mut products[point * out_step..]);
            }
            for (i, row) in rows.enumerate() {
                let output = &mut output[row / grid.rows * out_size..][..out_size];
                let size = lanes * grid.tiles() * TILE * TILE;
                for (panel, output) in output.chunks_exact_mut(size).enumerate() {
                    for column in 0..grid.columns {
                        let tile = i * grid.columns + column;
                        let at = [row % grid.rows, column].map(|i| i * TILE);
                        let from = &products[tile * plan.width + panel * lanes..];
                        let to = &mut output[(at[0] * width + at[1]) * lanes..];
                        let steps = [[REACH * out_step, out_step], [width * lanes, lanes]];
                        square::<S, Collect, REACH, TILE>(simd, from, steps[0], to, steps[1]);
                    }
                }
            }
        }
        let images = output.chunks_exact(out_size).zip(y.chunks_exact_mut(op.y_len()));
        for ((output, y), magnitudes) in images.zip(magnitudes.chunks_exact(positions)) {
            let magnitudes = &magnitudes[..plan.input.len()];
            gather(simd, output, &plan.output, grid.tiles() * TILE * TILE, y);
            if magnitudes.contains(&0.0) {
                op.clear_untouched(magnitudes, y);
            }
        }
    }
}

impl Conv3x3 {
    /// Sets the results to zero whose whole receptive field is zero. `magnitudes` are sums over the
    /// channels at each position of the input.
    fn clear_untouched(&self, magnitudes: &[f32], y: &mut [f32]) {
        let [height, width] = self.input;
        let [_, columns] = self.output;
        let positions = self.output[0] * columns;
        for at in (0..self.output[0]).flat_map(|y| (0..columns).map(move |x| [y, x])) {
            let field = |axis: usize, size: usize| {
                let first = at[axis].saturating_sub(self.pads[axis]);
                first.min(size)..(at[axis] + 3).saturating_sub(self.pads[axis]).min(size)
            };
            let across = field(1, width);
            // The middle of the receptive field decides most cases.
            let middle = [0, 1].map(|axis| (at[axis] + 1).wrapping_sub(self.pads[axis]));
            if middle[0] < height
                && middle[1] < width
                && magnitudes[middle[0] * width + middle[1]] != 0.0
            {
                continue;
            }
            let is_zero = field(0, height)
                .all(|y| magnitudes[y * width..][across.clone()].iter().all(|&m| m == 0.0));
            if is_zero {
                let position = at[0] * columns + at[1];
                y.iter_mut().skip(position).step_by(positions).for_each(|v| *v = 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Fact, eval};
    use crate::kernel::in_turn;
    use crate::ops::Window;
    use crate::tensor::{DType, Tensor};

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31 + i * i % 17) % 101) as f32 / 50.0 - 1.01).collect()
    }

    fn op(channels: usize, outputs: usize, input: [usize; 2], pads: [[usize; 2]; 2]) -> Conv3x3 {
        let output = [0, 1].map(|i| input[i] + pads[0][i] + pads[1][i] - 2);
        Conv3x3 { samples: 3, channels, outputs, input, output, pads: pads[0] }
    }

    fn computed(op: &Conv3x3, x: &[f32], w: &[f32]) -> Vec<f32> {
        let mut y = vec![f32::NAN; op.samples * op.y_len()];
        op.compute(x, w, &mut y, &in_turn);
        y
    }

    /// The result of the interpreter.
    fn expected(op: &Conv3x3, x: &[f32], w: &[f32]) -> Vec<f64> {
        let ends =
            [0, 1].map(|i| (op.output[i] + 2).saturating_sub(op.input[i] + op.pads[i])).to_vec();
        let window = Window { pads_begin: op.pads.to_vec(), pads_end: ends, ..Window::plain(2) };
        let mut b = Builder::default();
        let shape = [op.samples, op.channels, op.input[0], op.input[1]];
        let x = Tensor::f32(&shape, x.to_vec()).unwrap();
        let w = Tensor::f32(&[op.channels, 3, 3, op.outputs], w.to_vec()).unwrap();
        let (vx, vw) = (b.input("x", Fact::of(&x)), b.input("w", Fact::of(&w)));
        let kernel = b.transpose(vw, &[3, 0, 1, 2]).unwrap();
        let y = b.conv(vx, kernel, window).unwrap();
        let y = b.cast(y, DType::F64).unwrap();
        b.output("y", y);
        eval(&b.finish(), &[x, w]).unwrap()[0].to_f64().iter().copied().collect()
    }

    #[test]
    fn as_the_sums_say() {
        for (channels, outputs) in [(1, 1), (3, 17), (16, 16), (19, 40)] {
            for (input, pads) in [
                ([4, 4], [[1, 1], [1, 1]]),
                ([3, 9], [[0, 2], [1, 0]]),
                ([17, 6], [[2, 1], [2, 1]]),
                ([3, 3], [[0, 0], [0, 0]]),
            ] {
                let op = op(channels, outputs, input, pads);
                let x = noise(op.samples * op.x_len(), 1);
                let w = noise(channels * 9 * outputs, 2);
                let scale = (9.0 * channels as f64).sqrt();
                for (got, want) in computed(&op, &x, &w).iter().zip(expected(&op, &x, &w)) {
                    assert!((f64::from(*got) - want).abs() < 1e-5 * scale, "{op:?}: {got} {want}");
                }
            }
        }
    }

    /// A rectifier would pass on rounding noise in place of zero.
    #[test]
    fn nothing_makes_nothing() {
        let op = op(5, 9, [16, 13], [[1, 1], [1, 1]]);
        let mut x = noise(op.samples * op.x_len(), 1);
        for (i, x) in x.iter_mut().enumerate() {
            if i % 13 > 6 || i / 13 % 16 < 3 {
                *x = 0.0;
            }
        }
        let w = noise(5 * 9 * 9, 2);
        let (got, want) = (computed(&op, &x, &w), expected(&op, &x, &w));
        assert!(want.iter().filter(|&&v| v == 0.0).count() > 100);
        for (got, want) in got.iter().zip(want) {
            assert_eq!(*got == 0.0, want == 0.0, "{got} {want}");
        }
    }

    #[test]
    fn values_that_are_not_finite_stay() {
        let op = op(5, 9, [8, 8], [[1, 1], [1, 1]]);
        let mut x = vec![0.0; op.samples * op.x_len()];
        x[100] = f32::NAN;
        let y = computed(&op, &x, &noise(5 * 9 * 9, 2));
        assert!(y[..op.y_len()].iter().any(|v| v.is_nan()));
        assert!(y[op.y_len()..].iter().all(|&v| v == 0.0));
    }
}
