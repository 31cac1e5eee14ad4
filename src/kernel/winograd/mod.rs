//! Convolutions with kernels of 3×3 and strides of one, by Winograd's minimal filtering.
//!
//! Four adjacent results, `y[i] = Σ_k d[i + k] · g[k]`, need only six multiplications,
//! `y = Aᵀ[(G g) ⊙ (Bᵀ d)]`, and a tile of 4×4 results 36 instead of 144 (Lavin & Gray, "Fast
//! Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section 4). The gradient with
//! respect to the kernel is the same computation with exchanged roles: three adjacent results, four
//! factors. Both evaluate polynomials at the points 0, ±√½, ±√2 and ∞, whose rounding errors are smaller
//! than those of 0, ±1, ±2 and ∞, so both transform the input in the same way.
//!
//! The multiplications are matrix products, one for each of the 36 points. The transforms work on
//! vectors of channels, so images are converted to channels last and back.

mod conv;
mod weight_grad;

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use pulp::Simd;

pub use self::conv::Conv3x3;
pub(super) use self::weight_grad::WeightGrad;
use super::simd::{self, Buffer, MOST_LANES, Transpose};

/// The number of results in a tile along each axis.
const TILE: usize = 4;

/// The number of input values that a tile reads along each axis, which is also the number of points.
const REACH: usize = 6;

/// The number of points for both axes.
const POINTS: usize = REACH * REACH;

/// The maximum number of rows in a tile of a matrix product that is one or two vectors wide: enough
/// accumulators to hide the latency of multiply-add.
const MOST_ROWS: [usize; 2] = [12, 6];

/// The tiles that cover the results of a convolution.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
}

impl Grid {
    /// The tiles that cover `output`.
    fn new(output: [usize; 2]) -> Self {
        let [rows, columns] = output.map(|d| d.div_ceil(TILE));
        Grid { rows, columns }
    }

    fn tiles(self) -> usize {
        self.rows * self.columns
    }

    /// The spatial shape of the results of all tiles.
    fn results(self) -> [usize; 2] {
        [self.rows * TILE, self.columns * TILE]
    }

    /// The spatial shape of the input that the tiles read.
    fn reach(self) -> [usize; 2] {
        self.results().map(|d| d + REACH - TILE)
    }
}

/// The position of an image within a larger one.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Frame {
    /// The shape of the image.
    image: [usize; 2],
    /// The offset of the image from the corner of the larger one.
    offset: [usize; 2],
    /// The shape of the larger one.
    larger: [usize; 2],
}

impl Frame {
    /// The number of positions of the larger image.
    fn room(&self) -> usize {
        self.larger[0] * self.larger[1]
    }

    /// For each position of the image, its position in the larger one.
    fn places(&self) -> Vec<usize> {
        let [top, left] = self.offset;
        let row = |y| (0..self.image[1]).map(move |x| (y + top) * self.larger[1] + x + left);
        (0..self.image[0]).flat_map(row).collect()
    }
}

/// A reusable buffer for zero-padded images. Images with the same frame reuse its zeros.
#[derive(Default)]
struct Framed {
    buffer: Buffer,
    frame: Frame,
    len: usize,
}

impl Framed {
    /// A buffer `[panels, positions, lane]` of `len` floats that is zero outside the images.
    fn room(&mut self, frame: &Frame, len: usize) -> &mut [f32] {
        if self.frame != *frame || self.len < len {
            self.buffer.room(len).fill(0.0);
            (self.frame, self.len) = (*frame, len);
        }
        self.buffer.room(len)
    }
}

/// The stride between the matrices `[rows, width]` of the points. It is a little larger than a matrix, so
/// that they do not all map to the same cache lines.
fn apart(rows: usize, width: usize) -> usize {
    rows * width + MOST_LANES
}

/// Copies an image `[C, positions]` to `[panel, positions, lane]`, where a panel is a vector of channels.
/// Adds the magnitudes over all channels of each position to `magnitudes`, if given. Its length is
/// rounded up to whole vectors.
#[inline(always)]
fn spread<S: Simd>(
    simd: S,
    x: &[f32],
    places: &[usize],
    room: usize,
    out: &mut [f32],
    mut magnitudes: Option<&mut [f32]>,
) {
    let (lanes, turn) = (S::F32_LANES, Transpose::new());
    let positions = places.len();
    let panel = lanes * room;
    for (x, out) in x.chunks(lanes * positions).zip(out.chunks_exact_mut(panel)) {
        for (i, places) in places.chunks(lanes).enumerate() {
            let mut square = [simd.splat_f32s(0.0); MOST_LANES];
            for (row, x) in square.iter_mut().zip(x.chunks_exact(positions)) {
                *row = load_some(simd, &x[i * lanes..]);
            }
            if let Some(magnitudes) = &mut magnitudes {
                let mut sum = load::<S>(&magnitudes[i * lanes..]);
                for &row in &square[..lanes] {
                    sum = simd.add_f32s(sum, simd::magnitudes(simd, row));
                }
                store::<S>(&mut magnitudes[i * lanes..], sum);
            }
            turn.square::<S>(&mut square[..lanes]);
            for (&values, &place) in square.iter().zip(places) {
                store::<S>(&mut out[place * lanes..], values);
            }
        }
    }
}

/// Copies `[panel, positions, lane]` back to an image `[C, positions]`.
#[inline(always)]
fn gather<S: Simd>(simd: S, x: &[f32], places: &[usize], room: usize, out: &mut [f32]) {
    let (lanes, turn) = (S::F32_LANES, Transpose::new());
    let positions = places.len();
    for (x, out) in x.chunks_exact(lanes * room).zip(out.chunks_mut(lanes * positions)) {
        for (i, places) in places.chunks(lanes).enumerate() {
            let mut square = [simd.splat_f32s(0.0); MOST_LANES];
            for (values, &place) in square.iter_mut().zip(places) {
                *values = load::<S>(&x[place * lanes..]);
            }
            turn.square::<S>(&mut square[..lanes]);
            for (&row, out) in square.iter().zip(out.chunks_exact_mut(positions)) {
                let out = &mut out[i * lanes..][..places.len()];
                match S::as_mut_simd_f32s(out) {
                    ([whole], _) => *whole = row,
                    (_, part) => simd.partial_store_f32s(part, row),
                }
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd>(from: &[f32]) -> S::f32s {
    S::as_simd_f32s(&from[..S::F32_LANES]).0[0]
}

/// Loads a vector from `values`, filled up with zeros if there are too few.
#[inline(always)]
fn load_some<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(&from[..from.len().min(S::F32_LANES)]) {
        ([whole], _) => *whole,
        (_, some) => simd.partial_load_f32s(some),
    }
}

#[inline(always)]
fn store<S: Simd>(to: &mut [f32], values: S::f32s) {
    S::as_mut_simd_f32s(&mut to[..S::F32_LANES]).0[0] = values;
}

/// `b + k·a`.
#[inline(always)]
fn plus<S: Simd>(simd: S, k: f32, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_add_f32s(simd.splat_f32s(k), a, b)
}

/// `Bᵀ d`: transforms six values of the input to the points.
#[inline(always)]
fn input_points<S: Simd>(simd: S, d: [S::f32s; REACH]) -> [S::f32s; REACH] {
    let even = [plus(simd, -2.0, d[2], d[4]), plus(simd, -0.5, d[2], d[4])];
    let odd = [plus(simd, -2.0, d[1], d[3]), plus(simd, -0.5, d[1], d[3])];
    [
        simd.add_f32s(d[0], plus(simd, -2.5, d[2], d[4])),
        plus(simd, FRAC_1_SQRT_2, odd[0], even[0]),
        plus(simd, -FRAC_1_SQRT_2, odd[0], even[0]),
        plus(simd, SQRT_2, odd[1], even[1]),
        plus(simd, -SQRT_2, odd[1], even[1]),
        simd.add_f32s(d[1], plus(simd, -2.5, d[3], d[5])),
    ]
}

/// Evaluates a polynomial with three or four coefficients at the points.
#[inline(always)]
fn points<S: Simd, const N: usize>(simd: S, g: [S::f32s; N]) -> [S::f32s; REACH] {
    let even = [plus(simd, 0.5, g[2], g[0]), plus(simd, 2.0, g[2], g[0])];
    let mut odd = [g[1]; 2];
    if N > 3 {
        odd = [plus(simd, 0.5, g[N - 1], g[1]), plus(simd, 2.0, g[N - 1], g[1])];
    }
    [
        g[0],
        plus(simd, FRAC_1_SQRT_2, odd[0], even[0]),
        plus(simd, -FRAC_1_SQRT_2, odd[0], even[0]),
        plus(simd, SQRT_2, odd[1], even[1]),
        plus(simd, -SQRT_2, odd[1], even[1]),
        g[N - 1],
    ]
}

/// `Aᵀ m`: transforms the products at the points to results. Includes the factors that [`points`] leaves
/// out of `G`.
#[inline(always)]
fn results<S: Simd, const N: usize>(simd: S, m: [S::f32s; REACH]) -> [S::f32s; N] {
    // 1 / Π (p − q) over the other points q.
    const NEAR: f32 = -1.0 / 1.5;
    const FAR: f32 = 1.0 / 6.0;
    let near = [simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2])];
    let far = [simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4])];
    let mut y = [m[0]; N];
    let (mut a, mut b) = (NEAR, FAR);
    for i in 0..N {
        let pair = simd.mul_f32s(simd.splat_f32s(b), far[i % 2]);
        y[i] = plus(simd, a, near[i % 2], pair);
        a *= FRAC_1_SQRT_2;
        b *= SQRT_2;
    }
    y[0] = simd.add_f32s(y[0], m[0]);
    y[N - 1] = simd.add_f32s(y[N - 1], m[5]);
    y
}

/// A transform of a row of `N` vectors to `M` vectors.
trait Transform<const N: usize, const M: usize> {
    fn row<S: Simd>(simd: S, row: [S::f32s; N]) -> [S::f32s; M];
}

/// `Bᵀ`.
struct ToPoints;

impl Transform<REACH, REACH> for ToPoints {
    #[inline(always)]
    fn row<S: Simd>(simd: S, row: [S::f32s; REACH]) -> [S::f32s; REACH] {
        input_points(simd, row)
    }
}

/// `G`.
struct Evaluate;

impl<const N: usize> Transform<N, REACH> for Evaluate {
    #[inline(always)]
    fn row<S: Simd>(simd: S, row: [S::f32s; N]) -> [S::f32s; REACH] {
        points(simd, row)
    }
}

/// `Aᵀ`.
struct Collect;

impl<const M: usize> Transform<REACH, M> for Collect {
    #[inline(always)]
    fn row<S: Simd>(simd: S, row: [S::f32s; REACH]) -> [S::f32s; M] {
        results(simd, row)
    }
}

/// Transforms a square in `from` along both axes and writes the result to `to`. Both are given with the
/// strides of their rows and columns, in floats.
#[inline(always)]
fn square<S: Simd, T: Transform<N, M>, const N: usize, const M: usize>(
    simd: S,
    from: &[f32],
    from_steps: [usize; 2],
    to: &mut [f32],
    to_steps: [usize; 2],
) {
    let mut columns = [[simd.splat_f32s(0.0); N]; M];
    for j in 0..N {
        let mut column = [simd.splat_f32s(0.0); N];
        for i in 0..N {
            column[i] = load::<S>(&from[i * from_steps[0] + j * from_steps[1]..]);
        }
        let column = T::row(simd, column);
        for i in 0..M {
            columns[i][j] = column[i];
        }
    }
    for i in 0..M {
        let row = T::row(simd, columns[i]);
        for j in 0..M {
            store::<S>(&mut to[i * to_steps[0] + j * to_steps[1]..], row[j]);
        }
    }
}

/// A matrix product `c[i, j] = Σ_k a[i, k] · b[k, j]` with `rows` × `width` results. `width` is a
/// multiple of the vector length.
struct Product {
    rows: usize,
    depth: usize,
    width: usize,
    /// The strides of `a` along the rows and along the sum.
    a: [usize; 2],
}

impl Product {
    /// `b` is `[depth, width]`, `c` `[rows, width]`.
    #[inline(always)]
    fn compute<S: Simd>(&self, simd: S, a: &[f32], b: &[f32], c: &mut [f32]) {
        let lanes = S::F32_LANES;
        let mut first = 0;
        while first < self.width {
            let vectors = if self.width - first >= 2 * lanes { 2 } else { 1 };
            let most = MOST_ROWS[vectors - 1];
            let tiles = self.rows.div_ceil(most);
            let mut row = 0;
            for t in 0..tiles {
                // Tiles of nearly equal height.
                let rows = (self.rows - row) / (tiles - t);
                let (a, c) = (&a[row * self.a[0]..], &mut c[row * self.width + first..]);
                let b = &b[first..];
                macro_rules! tile {
                    ($($r:literal),*; $($one:literal),*) => {
                        match (rows, vectors) {
                            $(($r, 2) => self.tile::<S, $r, 2>(simd, a, b, c),)*
                            $(($one, 1) => self.tile::<S, $one, 1>(simd, a, b, c),)*
                            _ => {}
                        }
                    };
                }
                tile!(1, 2, 3, 4, 5, 6; 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
                row += rows;
            }
            first += vectors * lanes;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
    ) {
        let lanes = S::F32_LANES;
        let [row, step] = self.a;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let length = (self.depth - 1) * step + 1;
        let mut rows = [a; R];
        for r in 0..R {
            rows[r] = &a[r * row..][..length];
        }
        for k in 0..self.depth {
            let b = S::as_simd_f32s(&b[k * self.width..][..V * lanes]).0;
            for r in 0..R {
                let a = simd.splat_f32s(rows[r][k * step]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_f32s(a, b[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = S::as_mut_simd_f32s(&mut c[r * self.width..][..V * lanes]).0;
            c.copy_from_slice(sums);
        }
    }
}
