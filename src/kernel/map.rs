//! Elementwise functions of many operations at once, and their sums.
//!
//! The values go by in pieces that stay in the processor's nearest cache: all operations are applied
//! to one piece before the next is read, and only what is asked for is written to memory.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Arch, Simd, WithSimd};

use super::ParallelFor;

/// Values that go by together.
const PIECE: usize = 512;

/// Values that are worth a thread's while.
const TASK: usize = 1 << 14;

macro_rules! elementwise {
    ($($name:ident),* $(,)?) => {
        /// An elementwise operation on float32. Truth is 1 and its absence 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Elementwise {
            $($name),*
        }

        impl Elementwise {
            /// All operations; the position of each is its number.
            pub const ALL: &[Elementwise] = &[$(Elementwise::$name),*];
        }
    };
}

elementwise!(
    Abs,
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Reciprocal,
    Relu,
    Select,
    Sign,
    Sqrt,
    Sub,
);

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An operand.
    Operand(usize),
    /// A constant.
    Constant(usize),
    /// An earlier step.
    Step(usize),
}

/// An operation of a [`Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub op: Elementwise,
    /// Of what; an operation of fewer than three does not look at the others.
    pub arguments: [Source; 3],
}

/// An axis along which an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Its length.
    pub length: usize,
    /// The distance of neighbouring elements; 0 where the operand is repeated.
    pub stride: usize,
}

/// What becomes of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// They are written as they are.
    Whole,
    /// They are summed, times a factor. A sum that is not larger than a share `cancelled` of the sum
    /// of magnitudes is 0.
    Sum {
        /// How values lie.
        blocks: Blocks,
        /// The factor.
        scale: f32,
        /// The share.
        cancelled: f32,
    },
}

/// Values as `[outer, length, inner]`, of which the middle axis is summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Sums that lie apart.
    pub outer: usize,
    /// Terms of a sum.
    pub length: usize,
    /// Sums that lie side by side.
    pub inner: usize,
}

impl Blocks {
    /// A shape with the axes summed over in one piece, where they are one.
    pub fn new(shape: &[usize], axes: &[usize]) -> Option<Self> {
        // Axes of length 1 may count as summed over or not.
        let summed: Vec<usize> = axes.iter().copied().filter(|&i| shape[i] != 1).collect();
        let (first, last) = (*summed.first()?, *summed.last()?);
        let kept = (first..=last).any(|i| shape[i] != 1 && !summed.contains(&i));
        let product = |range: &[usize]| range.iter().product::<usize>();
        let blocks = Blocks {
            outer: product(&shape[..first]),
            length: product(&shape[first..=last]),
            inner: product(&shape[last + 1..]),
        };
        (!kept).then_some(blocks)
    }

    /// The number of values that lie together.
    pub fn size(&self) -> usize {
        self.length * self.inner
    }
}

/// A result of a [`Map`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// The values.
    pub source: Source,
    /// What becomes of them.
    pub form: Form,
}

/// Elementwise operations on `len` values, and their results.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The number of values.
    pub len: usize,
    /// How each operand is repeated to `len` values.
    pub views: Vec<Vec<Axis>>,
    /// Numbers that operations use.
    pub constants: Vec<f32>,
    /// The operations.
    pub steps: Vec<Step>,
    /// The results. The blocks of all sums have the same size.
    pub outputs: Vec<Output>,
}

/// An operand of a [`Map`].
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Numbers.
    Floats(&'a [f32]),
    /// Truth values.
    Bools(&'a [bool]),
}

impl Output {
    /// The number of elements, of a map of `len` values.
    fn len(&self, len: usize) -> usize {
        match self.form {
            Form::Whole => len,
            Form::Sum { blocks, .. } => blocks.outer * blocks.inner,
        }
    }
}

impl Map {
    /// The number of the register that holds values.
    fn register(&self, source: Source) -> usize {
        match source {
            Source::Operand(i) => i,
            Source::Constant(i) => self.views.len() + i,
            Source::Step(i) => self.views.len() + self.constants.len() + i,
        }
    }

    /// Computes the results from the operands.
    ///
    /// # Panics
    /// When a slice has another length than the views and outputs say, or a step refers to a later one.
    pub fn run(&self, operands: &[Operand], results: &mut [&mut [f32]], parallel: &ParallelFor) {
        assert_eq!(results.len(), self.outputs.len(), "results");
        if self.len == 0 {
            return results.iter_mut().for_each(|result| result.fill(0.0));
        }
        // Tasks hold whole blocks, so that no two add to one sum.
        let block = self.outputs.iter().map(|output| match output.form {
            Form::Whole => 1,
            Form::Sum { blocks, .. } => blocks.size(),
        });
        let block = block.max().unwrap_or(1).max(1);
        let size = block * TASK.div_ceil(block);
        let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
        tasks.resize_with(self.len.div_ceil(size), Vec::new);
        for (output, result) in self.outputs.iter().zip(results) {
            let len = output.len(self.len);
            assert_eq!(result.len(), len, "elements of a result");
            let parts = result.chunks_mut((len * size).div_ceil(self.len));
            tasks.iter_mut().zip(parts).for_each(|(task, part)| task.push(part));
        }
        let tasks: Vec<Mutex<Vec<&mut [f32]>>> = tasks.into_iter().map(Mutex::new).collect();
        let arch = Arch::new();
        parallel(tasks.len(), &|i| {
            let range = i * size..((i + 1) * size).min(self.len);
            let results = &mut *tasks[i].lock().unwrap_or_else(PoisonError::into_inner);
            SCRATCH.with_borrow_mut(|scratch| {
                arch.dispatch(Task { map: self, operands, range, results, scratch });
            });
        });
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { registers: Vec::new(), sums: Vec::new() })
    };
}

/// Memory of a thread, kept from one task to the next.
struct Scratch {
    /// A piece for each operand, constant and step.
    registers: Vec<f32>,
    /// For each output that is a sum: sums and sums of magnitudes.
    sums: Vec<[Vec<f64>; 2]>,
}

/// A range of the values, on one thread.
struct Task<'a, 'b> {
    map: &'a Map,
    operands: &'a [Operand<'a>],
    range: Range<usize>,
    results: &'a mut [&'b mut [f32]],
    scratch: &'a mut Scratch,
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Task { map, operands, range, results, scratch } = self;
        let Scratch { registers, sums } = scratch;
        registers.resize((operands.len() + map.constants.len() + map.steps.len()) * PIECE, 0.0);
        for (i, &constant) in map.constants.iter().enumerate() {
            registers[map.register(Source::Constant(i)) * PIECE..][..PIECE].fill(constant);
        }
        sums.resize_with(map.outputs.len(), Default::default);
        for (sums, result) in sums.iter_mut().zip(results.iter()) {
            for sums in sums {
                sums.clear();
                sums.resize(result.len(), 0.0);
            }
        }
        let mut start = range.start;
        while start < range.end {
            let n = PIECE.min(range.end - start);
            for (i, (operand, view)) in operands.iter().zip(&map.views).enumerate() {
                let register = &mut registers[i * PIECE..][..n];
                match operand {
                    Operand::Floats(_) if is_whole(view) => {}
                    Operand::Floats(values) => spread(view, start, register, |i| values[i]),
                    Operand::Bools(values) => {
                        spread(view, start, register, |i| f32::from(u8::from(values[i])));
                    }
                }
            }
            for (i, step) in map.steps.iter().enumerate() {
                let (before, own) = registers.split_at_mut(map.register(Source::Step(i)) * PIECE);
                let [a, b, c] = step.arguments.map(|i| source(map, operands, before, i, start, n));
                apply(step.op, a, b, c, &mut own[..n]);
            }
            for (i, output) in map.outputs.iter().enumerate() {
                let values = source(map, operands, registers, output.source, start, n);
                let at = start - range.start;
                match output.form {
                    Form::Whole => results[i][at..][..n].copy_from_slice(values),
                    Form::Sum { blocks, cancelled, .. } => {
                        let [sums, sizes] = &mut sums[i];
                        let sizes = (cancelled > 0.0).then_some(sizes.as_mut_slice());
                        add_up(simd, blocks, at, values, sums, sizes);
                    }
                }
            }
            start += n;
        }
        for ((output, result), [sums, sizes]) in map.outputs.iter().zip(results).zip(sums) {
            let Form::Sum { scale, cancelled, .. } = output.form else { continue };
            for ((result, sum), size) in result.iter_mut().zip(sums).zip(sizes) {
                let is_noise = sum.abs() <= f64::from(cancelled) * *size && cancelled > 0.0;
                *result = if is_noise { 0.0 } else { *sum as f32 * scale };
            }
        }
    }
}

/// The `n` values from `start` on: where the operand has them, or in their register.
#[inline(always)]
fn source<'a>(
    map: &Map,
    operands: &'a [Operand],
    registers: &'a [f32],
    source: Source,
    start: usize,
    n: usize,
) -> &'a [f32] {
    if let Source::Operand(i) = source
        && let Operand::Floats(values) = operands[i]
        && is_whole(&map.views[i])
    {
        return &values[start..][..n];
    }
    &registers[map.register(source) * PIECE..][..n]
}

/// Whether an operand has as many elements as there are values.
fn is_whole(view: &[Axis]) -> bool {
    matches!(view, [Axis { stride: 1, .. }])
}

/// Writes the elements of an operand for the values from `start` on.
#[inline(always)]
fn spread(view: &[Axis], start: usize, out: &mut [f32], read: impl Fn(usize) -> f32) {
    let Some((&Axis { length, stride }, outer)) = view.split_last() else {
        return out.fill(read(0));
    };
    let (mut row, mut column, mut done) = (start / length, start % length, 0);
    while done < out.len() {
        let (mut rest, mut base) = (row, 0);
        for axis in outer.iter().rev() {
            base += rest % axis.length * axis.stride;
            rest /= axis.length;
        }
        let n = (length - column).min(out.len() - done);
        let run = &mut out[done..][..n];
        match stride {
            0 => run.fill(read(base)),
            _ => run.iter_mut().enumerate().for_each(|(i, v)| *v = read(base + (column + i) * stride)),
        }
        done += n;
        (row, column) = (row + 1, 0);
    }
}

/// Adds values, the first of which is number `at` of its task, to their sums.
#[inline(always)]
fn add_up<S: Simd>(
    simd: S,
    blocks: Blocks,
    at: usize,
    values: &[f32],
    sums: &mut [f64],
    mut sizes: Option<&mut [f64]>,
) {
    let Blocks { length, inner, .. } = blocks;
    // A row of `inner` sums after the other, or all terms of one sum.
    let run = if inner == 1 { length } else { inner };
    let (mut at, mut values) = (at, values);
    while !values.is_empty() {
        let n = (run - at % run).min(values.len());
        let (these, rest) = values.split_at(n);
        if inner == 1 {
            let (sum, size) = total(simd, these);
            sums[at / length] += f64::from(sum);
            if let Some(sizes) = &mut sizes {
                sizes[at / length] += f64::from(size);
            }
        } else {
            let first = at / (length * inner) * inner + at % inner;
            for (sum, &v) in sums[first..][..n].iter_mut().zip(these) {
                *sum += f64::from(v);
            }
            if let Some(sizes) = &mut sizes {
                for (size, &v) in sizes[first..][..n].iter_mut().zip(these) {
                    *size += f64::from(v.abs());
                }
            }
        }
        (at, values) = (at + n, rest);
    }
}

/// The sum of values and that of their magnitudes.
#[inline(always)]
fn total<S: Simd>(simd: S, values: &[f32]) -> (f32, f32) {
    let zero = simd.splat_f32s(0.0);
    let (mut sum, mut size) = ([zero; 2], [zero; 2]);
    let (head, tail) = S::as_simd_f32s(values);
    let (pairs, single) = head.as_chunks::<2>();
    for pair in pairs {
        for i in 0..2 {
            sum[i] = simd.add_f32s(sum[i], pair[i]);
            size[i] = simd.add_f32s(size[i], simd.abs_f32s(pair[i]));
        }
    }
    for &v in single {
        sum[0] = simd.add_f32s(sum[0], v);
        size[0] = simd.add_f32s(size[0], simd.abs_f32s(v));
    }
    let mut total = simd.reduce_sum_f32s(simd.add_f32s(sum[0], sum[1]));
    let mut magnitude = simd.reduce_sum_f32s(simd.add_f32s(size[0], size[1]));
    for v in tail {
        total += v;
        magnitude += v.abs();
    }
    (total, magnitude)
}

/// One operation on a piece. The loops are left to the compiler to make vectors of.
#[inline(always)]
fn apply(op: Elementwise, a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) {
    use Elementwise::*;
    let truth = |t: bool| if t { 1.0 } else { 0.0 };
    macro_rules! each {
        (|$x:ident| $f:expr) => {
            for (out, &$x) in out.iter_mut().zip(a) {
                *out = $f;
            }
        };
        (|$x:ident, $y:ident| $f:expr) => {
            for ((out, &$x), &$y) in out.iter_mut().zip(a).zip(b) {
                *out = $f;
            }
        };
    }
    match op {
        Abs => each!(|x| x.abs()),
        Add => each!(|x, y| x + y),
        And => each!(|x, y| x * y),
        Div => each!(|x, y| x / y),
        Equal => each!(|x, y| truth(x == y)),
        Greater => each!(|x, y| truth(x > y)),
        GreaterOrEqual => each!(|x, y| truth(x >= y)),
        Less => each!(|x, y| truth(x < y)),
        LessOrEqual => each!(|x, y| truth(x <= y)),
        // NaN wins, as in ONNX Runtime.
        Max => each!(|x, y| if x > y || x.is_nan() { x } else { y }),
        Min => each!(|x, y| if x < y || x.is_nan() { x } else { y }),
        Mul => each!(|x, y| x * y),
        Neg => each!(|x| -x),
        Not => each!(|x| 1.0 - x),
        Or => each!(|x, y| truth(x + y > 0.0)),
        Reciprocal => each!(|x| 1.0 / x),
        Relu => each!(|x| if x < 0.0 { 0.0 } else { x }),
        Select => {
            for (((out, &x), &y), &z) in out.iter_mut().zip(a).zip(b).zip(c) {
                *out = if x != 0.0 { y } else { z };
            }
        }
        Sign => each!(|x| truth(x > 0.0) - truth(x < 0.0)),
        Sqrt => each!(|x| x.sqrt()),
        Sub => each!(|x, y| x - y),
    }
}
