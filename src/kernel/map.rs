//! Elementwise functions of many operations at once, and their sums.
//!
//! The values go by in pieces that stay in the processor's nearest cache: all operations are applied
//! to one piece before the next is read, and only what is asked for is written to memory.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Arch, Simd, WithSimd};

use super::ParallelFor;
use super::simd::magnitudes;

/// Values that go by together: few enough that those of all steps stay in the nearest cache.
const PIECE: usize = 256;

/// Values that are worth a thread's while.
const TASK: usize = 1 << 12;

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
        RefCell::new(Scratch { registers: Vec::new(), numbers: Vec::new(), sums: Vec::new() })
    };
}

/// A piece of values. Vectors of it never lie in two lines of the cache.
#[derive(Clone)]
#[repr(align(64))]
struct Register([f32; PIECE]);

/// Memory of a thread, kept from one task to the next.
struct Scratch {
    /// For each operand and step.
    registers: Vec<Register>,
    /// For each operand, the number that it is at all places of a piece.
    numbers: Vec<Option<f32>>,
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
        let Scratch { registers, numbers, sums } = scratch;
        let all = operands.len() + map.steps.len();
        registers.resize(all.max(registers.len()), Register([0.0; PIECE]));
        sums.resize_with(map.outputs.len(), Default::default);
        for (i, output) in map.outputs.iter().enumerate() {
            let len = if output.form == Form::Whole { 0 } else { results[i].len() };
            for sums in &mut sums[i] {
                sums.clear();
                sums.resize(len, 0.0);
            }
        }
        let mut start = range.start;
        while start < range.end {
            let n = PIECE.min(range.end - start);
            numbers.clear();
            for (i, (operand, view)) in operands.iter().zip(&map.views).enumerate() {
                let register = &mut registers[i].0[..n];
                numbers.push(match operand {
                    Operand::Floats(_) if is_whole(view) => None,
                    Operand::Floats(values) => spread(view, start, register, |i| values[i]),
                    Operand::Bools(values) => {
                        spread(view, start, register, |i| f32::from(u8::from(values[i])))
                    }
                });
            }
            let piece = Place { map, operands, numbers, start, n };
            for (i, step) in map.steps.iter().enumerate() {
                let (before, own) = registers.split_at_mut(operands.len() + i);
                let arguments = step.arguments.map(|source| piece.of(before, source));
                apply(step.op, arguments, &mut own[0].0[..n]);
            }
            for (i, output) in map.outputs.iter().enumerate() {
                let at = start - range.start;
                let values = piece.of(registers, output.source);
                match (output.form, values) {
                    (Form::Whole, Piece::Each(values)) => {
                        results[i][at..][..n].copy_from_slice(values);
                    }
                    (Form::Whole, Piece::All(value)) => results[i][at..][..n].fill(value),
                    (Form::Sum { blocks, cancelled, .. }, values) => {
                        let [sums, sizes] = &mut sums[i];
                        let sizes = (cancelled > 0.0).then_some(sizes.as_mut_slice());
                        let same: [f32; PIECE];
                        let values = match values {
                            Piece::Each(values) => values,
                            Piece::All(value) => {
                                same = [value; PIECE];
                                &same[..n]
                            }
                        };
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

/// The piece of `n` values from `start` on.
struct Place<'a> {
    map: &'a Map,
    operands: &'a [Operand<'a>],
    /// The number that an operand is at all places.
    numbers: &'a [Option<f32>],
    start: usize,
    n: usize,
}

impl Place<'_> {
    /// The values of a source, where the operand has them or in their register.
    #[inline(always)]
    fn of<'a>(&'a self, registers: &'a [Register], source: Source) -> Piece<'a> {
        match source {
            Source::Constant(i) => Piece::All(self.map.constants[i]),
            Source::Step(i) => Piece::Each(&registers[self.operands.len() + i].0[..self.n]),
            Source::Operand(i) => match (self.numbers[i], self.operands[i]) {
                (Some(number), _) => Piece::All(number),
                (None, Operand::Floats(values)) if is_whole(&self.map.views[i]) => {
                    Piece::Each(&values[self.start..][..self.n])
                }
                _ => Piece::Each(&registers[i].0[..self.n]),
            },
        }
    }
}

/// Whether an operand has as many elements as there are values.
fn is_whole(view: &[Axis]) -> bool {
    matches!(view, [Axis { stride: 1, .. }])
}

/// Writes the elements of an operand for the values from `start` on, or returns the one that all of
/// them are.
#[inline(always)]
fn spread(
    view: &[Axis],
    start: usize,
    out: &mut [f32],
    read: impl Fn(usize) -> f32,
) -> Option<f32> {
    let Some((&Axis { length, stride }, outer)) = view.split_last() else {
        return Some(read(0));
    };
    let (mut row, mut column, mut done) = (start / length, start % length, 0);
    while done < out.len() {
        let (mut rest, mut base) = (row, 0);
        for axis in outer.iter().rev() {
            base += rest % axis.length * axis.stride;
            rest /= axis.length;
        }
        let n = (length - column).min(out.len() - done);
        if stride == 0 && n == out.len() {
            return Some(read(base));
        }
        let run = &mut out[done..][..n];
        match stride {
            0 => run.fill(read(base)),
            _ => run
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = read(base + (column + i) * stride)),
        }
        done += n;
        (row, column) = (row + 1, 0);
    }
    None
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
            size[i] = simd.add_f32s(size[i], magnitudes(simd, pair[i]));
        }
    }
    for &v in single {
        sum[0] = simd.add_f32s(sum[0], v);
        size[0] = simd.add_f32s(size[0], magnitudes(simd, v));
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
fn apply(op: Elementwise, [a, b, c]: [Piece; 3], out: &mut [f32]) {
    use Elementwise::*;
    let truth = |t: bool| if t { 1.0 } else { 0.0 };
    match op {
        Abs => unary(a, out, f32::abs),
        Add => binary(a, b, out, |x, y| x + y),
        And => binary(a, b, out, |x, y| x * y),
        Div => binary(a, b, out, |x, y| x / y),
        Equal => binary(a, b, out, |x, y| truth(x == y)),
        Greater => binary(a, b, out, |x, y| truth(x > y)),
        GreaterOrEqual => binary(a, b, out, |x, y| truth(x >= y)),
        Less => binary(a, b, out, |x, y| truth(x < y)),
        LessOrEqual => binary(a, b, out, |x, y| truth(x <= y)),
        // NaN wins, as in ONNX Runtime.
        Max => binary(a, b, out, |x, y| if x > y || x.is_nan() { x } else { y }),
        Min => binary(a, b, out, |x, y| if x < y || x.is_nan() { x } else { y }),
        Mul => binary(a, b, out, |x, y| x * y),
        Neg => unary(a, out, |x| -x),
        Not => unary(a, out, |x| 1.0 - x),
        Or => binary(a, b, out, |x, y| truth(x + y > 0.0)),
        Reciprocal => unary(a, out, |x| 1.0 / x),
        Relu => unary(a, out, |x| if x < 0.0 { 0.0 } else { x }),
        Select => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if a.at(i) != 0.0 { b.at(i) } else { c.at(i) };
            }
        }
        Sign => unary(a, out, |x| truth(x > 0.0) - truth(x < 0.0)),
        Sqrt => unary(a, out, f32::sqrt),
        Sub => binary(a, b, out, |x, y| x - y),
    }
}

/// The values of an argument for a piece.
#[derive(Clone, Copy)]
enum Piece<'a> {
    /// One for each place.
    Each(&'a [f32]),
    /// The same everywhere.
    All(f32),
}

impl Piece<'_> {
    fn at(&self, i: usize) -> f32 {
        match self {
            Piece::Each(values) => values[i],
            Piece::All(value) => *value,
        }
    }
}

#[inline(always)]
fn unary(a: Piece, out: &mut [f32], f: impl Fn(f32) -> f32) {
    match a {
        Piece::Each(a) => out.iter_mut().zip(a).for_each(|(out, &x)| *out = f(x)),
        Piece::All(x) => out.fill(f(x)),
    }
}

#[inline(always)]
fn binary(a: Piece, b: Piece, out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Piece::Each(a), Piece::Each(b)) => {
            out.iter_mut().zip(a).zip(b).for_each(|((out, &x), &y)| *out = f(x, y));
        }
        (Piece::Each(a), Piece::All(y)) => {
            out.iter_mut().zip(a).for_each(|(out, &x)| *out = f(x, y));
        }
        (Piece::All(x), Piece::Each(b)) => {
            out.iter_mut().zip(b).for_each(|(out, &y)| *out = f(x, y));
        }
        (Piece::All(x), Piece::All(y)) => out.fill(f(x, y)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::in_turn;

    fn noise(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn axes(pairs: &[(usize, usize)]) -> Vec<Axis> {
        pairs.iter().map(|&(length, stride)| Axis { length, stride }).collect()
    }

    fn run(map: &Map, operands: &[Operand]) -> Vec<Vec<f32>> {
        let mut results: Vec<Vec<f32>> =
            map.outputs.iter().map(|output| vec![f32::NAN; output.len(map.len)]).collect();
        let mut slices: Vec<&mut [f32]> = results.iter_mut().map(Vec::as_mut_slice).collect();
        map.run(operands, &mut slices, &in_turn);
        results
    }

    #[test]
    fn each_operation() {
        use Elementwise::*;
        let truth = |t: bool| f32::from(u8::from(t));
        let x = [2.0, -3.0, 0.0, 1.0, -0.0, 5.0, f32::NAN];
        let y = [2.0, 4.0, -1.0, -1.0, 3.0, f32::INFINITY, 1.0];
        let t = [true, false, false, true, true, false, true];
        let check = |op: Elementwise, operands: &[Operand], expected: &dyn Fn(usize) -> f32| {
            let arguments = [0, 1, 2].map(|i| Source::Operand(i.min(operands.len() - 1)));
            let map = Map {
                len: x.len(),
                views: vec![axes(&[(x.len(), 1)]); operands.len()],
                constants: vec![],
                steps: vec![Step { op, arguments }],
                outputs: vec![Output { source: Source::Step(0), form: Form::Whole }],
            };
            for (i, &got) in run(&map, operands)[0].iter().enumerate() {
                let expected = expected(i);
                let same = got == expected || got.is_nan() && expected.is_nan();
                assert!(same, "{op:?} at {i}: {got} is not {expected}");
            }
        };
        let (p, q, r) = (Operand::Floats(&x), Operand::Floats(&y), Operand::Bools(&t));
        let both = [p, q];
        check(Abs, &[p], &|i| x[i].abs());
        check(Add, &both, &|i| x[i] + y[i]);
        check(And, &[r, r], &|i| truth(t[i]));
        check(Div, &both, &|i| x[i] / y[i]);
        check(Equal, &both, &|i| truth(x[i] == y[i]));
        check(Greater, &both, &|i| truth(x[i] > y[i]));
        check(GreaterOrEqual, &both, &|i| truth(x[i] >= y[i]));
        check(Less, &both, &|i| truth(x[i] < y[i]));
        check(LessOrEqual, &both, &|i| truth(x[i] <= y[i]));
        check(Max, &both, &|i| if x[i].is_nan() { x[i] } else { x[i].max(y[i]) });
        check(Min, &both, &|i| if x[i].is_nan() { x[i] } else { x[i].min(y[i]) });
        check(Max, &[q, p], &|i| if x[i].is_nan() { x[i] } else { x[i].max(y[i]) });
        check(Mul, &both, &|i| x[i] * y[i]);
        check(Neg, &[p], &|i| -x[i]);
        check(Not, &[r], &|i| truth(!t[i]));
        check(Or, &[r, r], &|i| truth(t[i]));
        check(Reciprocal, &[p], &|i| 1.0 / x[i]);
        check(Relu, &[p], &|i| if x[i].is_nan() { x[i] } else { x[i].max(0.0) });
        check(Select, &[r, p, q], &|i| if t[i] { x[i] } else { y[i] });
        check(Sign, &[p], &|i| truth(x[i] > 0.0) - truth(x[i] < 0.0));
        check(Sqrt, &[p], &|i| x[i].sqrt());
        check(Sub, &both, &|i| x[i] - y[i]);
    }

    /// `x·c + 2` with `x` `[n, channels, size]` and `c` `[channels, 1]`, whole and summed.
    fn scaled([n, channels, size]: [usize; 3], sums: Blocks) -> Map {
        let len = n * channels * size;
        let form = Form::Sum { blocks: sums, scale: 0.5, cancelled: 0.0 };
        Map {
            len,
            views: vec![axes(&[(len, 1)]), axes(&[(n, 0), (channels, 1), (size, 0)])],
            constants: vec![2.0],
            steps: vec![
                Step { op: Elementwise::Mul, arguments: [0, 1, 0].map(Source::Operand) },
                Step {
                    op: Elementwise::Add,
                    arguments: [Source::Step(0), Source::Constant(0), Source::Step(0)],
                },
            ],
            outputs: vec![
                Output { source: Source::Step(1), form: Form::Whole },
                Output { source: Source::Step(1), form },
            ],
        }
    }

    #[test]
    fn repeated_operands_and_sums_over_any_axis() {
        for [n, channels, size] in [[1, 1, 1], [3, 5, 7], [2, 3, 300], [40, 2, 256], [3, 17, 1000]]
        {
            let x = noise(n * channels * size, 1);
            let c = noise(channels, 2);
            let value = |i: usize| x[i] * c[i / size % channels] + 2.0;
            for blocks in [
                Blocks { outer: n * channels, length: size, inner: 1 },
                Blocks { outer: n, length: channels, inner: size },
                Blocks { outer: 1, length: n, inner: channels * size },
            ] {
                let map = scaled([n, channels, size], blocks);
                let results = run(&map, &[Operand::Floats(&x), Operand::Floats(&c)]);
                assert!((0..x.len()).all(|i| results[0][i] == value(i)), "{blocks:?}");
                for (i, &got) in results[1].iter().enumerate() {
                    let (o, j) = (i / blocks.inner, i % blocks.inner);
                    let at = |k: usize| (o * blocks.length + k) * blocks.inner + j;
                    let sum: f64 = (0..blocks.length).map(|k| f64::from(value(at(k)))).sum();
                    assert!((f64::from(got) - 0.5 * sum).abs() < 1e-3, "{blocks:?}: {got} {sum}");
                }
            }
        }
    }

    #[test]
    fn what_cancels_is_zero_and_what_is_not_finite_stays() {
        let values = [1.0, -1.0, 1e-7, 1.0, -1.0, 1e-5, 1.0, f32::NAN, 0.0];
        let blocks = Blocks { outer: 3, length: 3, inner: 1 };
        let map = Map {
            len: 9,
            views: vec![axes(&[(9, 1)])],
            constants: vec![],
            steps: vec![],
            outputs: vec![Output {
                source: Source::Operand(0),
                form: Form::Sum { blocks, scale: 1.0, cancelled: 1e-6 },
            }],
        };
        let sums = run(&map, &[Operand::Floats(&values)]).remove(0);
        assert!(sums[0] == 0.0 && sums[1] > 0.0 && sums[2].is_nan());
    }

    #[test]
    fn axes_that_can_be_summed_in_one_piece() {
        let blocks = |axes: &[usize]| Blocks::new(&[2, 3, 1, 4], axes);
        let of = |outer, length, inner| Some(Blocks { outer, length, inner });
        assert_eq!(blocks(&[3]), of(6, 4, 1));
        assert_eq!(blocks(&[1, 3]), of(2, 12, 1));
        assert_eq!(blocks(&[0, 1, 2]), of(1, 6, 4));
        assert_eq!(blocks(&[0, 3]), None);
        assert_eq!(blocks(&[2]), None);
    }
}
