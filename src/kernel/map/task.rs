//! Running a program on a range of the values.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::program::{Argument, Instruction, Place, Program, Sum};
use super::{Axis, Blocks, Elementwise, FusedMap, Operand, OutputLayout, PIECE};

/// A piece of values. Vectors of it never lie in two lines of the cache.
#[derive(Clone)]
#[repr(align(64))]
struct Register([f32; PIECE]);

impl Default for Register {
    fn default() -> Self {
        Register([0.0; PIECE])
    }
}

/// Memory of a thread, kept from one task to the next.
#[derive(Default)]
pub(super) struct Scratch {
    registers: Vec<Box<Register>>,
    /// What goes into a register next.
    next: Box<Register>,
    /// For each register, the number that it holds at all places.
    numbers: Vec<Option<f32>>,
    /// For each output that is a sum: the sums.
    sums: Vec<Vec<f64>>,
}

/// A range of the values, on one thread.
pub(super) struct Task<'a, 'b> {
    pub map: &'a FusedMap,
    pub program: &'a Program,
    pub operands: &'a [Operand<'a>],
    pub range: Range<usize>,
    /// The part of each result that the range makes up.
    pub results: &'a mut [&'b mut [f32]],
    pub scratch: &'a mut Scratch,
}

impl WithSimd for Task<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Task { map, program, operands, range, results, scratch } = self;
        let registers = program.registers.max(scratch.registers.len());
        scratch.registers.resize_with(registers, Default::default);
        scratch.numbers.resize(registers, None);
        scratch.sums.resize_with(map.outputs.len(), Default::default);
        for (i, output) in map.outputs.iter().enumerate() {
            let is_sum = matches!(output.layout, OutputLayout::Sum { .. });
            let sums = &mut scratch.sums[i];
            sums.clear();
            sums.resize(if is_sum { results[i].len() } else { 0 }, 0.0);
        }
        let row = program.row.unwrap_or(1);
        let step = program.row.map_or(range.len(), |row| row * program.rows);
        let mut state = State { simd, operands, row, results, scratch };
        for first in range.clone().step_by(step) {
            let values = first..(first + step).min(range.end);
            let rows = values.start / row..values.end / row;
            let own = rows.start - range.start / row..rows.end - range.start / row;
            for pass in &program.passes {
                for instruction in &pass.rows {
                    state.execute(instruction, rows.clone(), own.start);
                }
                for start in values.clone().step_by(PIECE) {
                    let piece = start..(start + PIECE).min(values.end);
                    for instruction in &pass.values {
                        state.execute(instruction, piece.clone(), start - range.start);
                    }
                }
                for sum in &pass.sums {
                    let all = 0..state.results[sum.result].len();
                    let own = if sum.register.is_some() { own.clone() } else { all };
                    state.finish(map.outputs[sum.result].layout, sum, own);
                }
            }
        }
    }
}

/// What instructions are executed on.
struct State<'a, 'b, S> {
    simd: S,
    operands: &'a [Operand<'a>],
    /// The length of rows.
    row: usize,
    results: &'a mut [&'b mut [f32]],
    scratch: &'a mut Scratch,
}

impl<S: Simd> State<'_, '_, S> {
    /// Executes an instruction on a piece, whose results are from place `at` on.
    #[inline(always)]
    fn execute(&mut self, instruction: &Instruction, piece: Range<usize>, at: usize) {
        let State { simd, operands, row, ref mut results, ref mut scratch } = *self;
        let Scratch { registers, next, numbers, sums } = &mut **scratch;
        let n = piece.len();
        macro_rules! find {
            ($argument:expr) => {
                match $argument {
                    Argument::Number(number) => Piece::All(number),
                    Argument::Operand(i) => match operands[i] {
                        Operand::Floats(values) => Piece::Each(&values[piece.clone()]),
                        Operand::Bools(_) => unreachable!("truth values are read into registers"),
                    },
                    Argument::Register(i) => match numbers[i] {
                        Some(number) => Piece::All(number),
                        None => Piece::Each(&registers[i].0[..n]),
                    },
                    Argument::Result(i) => Piece::Each(&results[i][at..][..n]),
                }
            };
        }
        match *instruction {
            Instruction::Read { operand, ref view, to } => {
                let out = &mut registers[to].0[..n];
                numbers[to] = match operands[operand] {
                    Operand::Floats(values) => spread(view, piece.start, out, |i| values[i]),
                    Operand::Bools(values) => {
                        spread(view, piece.start, out, |i| f32::from(u8::from(values[i])))
                    }
                };
            }
            Instruction::Repeat { from, to } => {
                numbers[to] = numbers[from];
                if numbers[from].is_none() {
                    let runs = next.0[..n].chunks_mut(row);
                    runs.zip(&registers[from].0).for_each(|(run, &number)| run.fill(number));
                    std::mem::swap(next, &mut registers[to]);
                }
            }
            Instruction::Compute { op, arguments: [a, b, c], to } => match to {
                Place::Register(to) => {
                    let arguments = [find!(a), find!(b), find!(c)];
                    let same = arguments.iter().all(|argument| matches!(argument, Piece::All(_)));
                    apply(op, arguments, &mut next.0[..if same { 1 } else { n }]);
                    numbers[to] = same.then(|| next.0[0]);
                    std::mem::swap(next, &mut registers[to]);
                }
                Place::Result(to) => {
                    let out = std::mem::take(&mut results[to]);
                    apply(op, [find!(a), find!(b), find!(c)], &mut out[at..][..n]);
                    results[to] = out;
                }
            },
            Instruction::Write { from, result } => {
                let out = std::mem::take(&mut results[result]);
                match find!(from) {
                    Piece::Each(values) => out[at..][..n].copy_from_slice(values),
                    Piece::All(number) => out[at..][..n].fill(number),
                }
                results[result] = out;
            }
            Instruction::Add { from, sums: number, blocks } => {
                let same: [f32; PIECE];
                let values = match find!(from) {
                    Piece::Each(values) => values,
                    Piece::All(number) => {
                        same = [number; PIECE];
                        &same[..n]
                    }
                };
                add_up(simd, blocks, at, values, &mut sums[number]);
            }
        }
    }

    /// Makes the results of so many sums.
    fn finish(
        &mut self,
        layout: OutputLayout,
        &Sum { result, sums, register }: &Sum,
        own: Range<usize>,
    ) {
        let OutputLayout::Sum { scale, .. } = layout else { return };
        let sums = &self.scratch.sums[sums][own.clone()];
        for (&sum, out) in sums.iter().zip(&mut self.results[result][own.clone()]) {
            *out = sum as f32 * scale;
        }
        if let Some(register) = register {
            let values = &self.results[result][own];
            self.scratch.numbers[register] = (values.len() == 1).then(|| values[0]);
            self.scratch.registers[register].0[..values.len()].copy_from_slice(values);
        }
    }
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
        if n == out.len() && (stride == 0 || n == 1) {
            return Some(read(base + column * stride));
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
fn add_up<S: Simd>(simd: S, blocks: Blocks, at: usize, values: &[f32], sums: &mut [f64]) {
    let Blocks { length, inner, .. } = blocks;
    // A row of `inner` sums after the other, or all terms of one sum.
    let run = if inner == 1 { length } else { inner };
    let (mut at, mut values) = (at, values);
    while !values.is_empty() {
        let n = (run - at % run).min(values.len());
        let (these, rest) = values.split_at(n);
        if inner == 1 {
            sums[at / length] += f64::from(total(simd, these));
        } else {
            let first = at / (length * inner) * inner + at % inner;
            for (sum, &v) in sums[first..][..n].iter_mut().zip(these) {
                *sum += f64::from(v);
            }
        }
        (at, values) = (at + n, rest);
    }
}

/// The sum of values.
#[inline(always)]
fn total<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (head, tail) = S::as_simd_f32s(values);
    let (fours, single) = head.as_chunks::<4>();
    for four in fours {
        for (sum, &v) in sums.iter_mut().zip(four) {
            *sum = simd.add_f32s(*sum, v);
        }
    }
    for (sum, &v) in sums.iter_mut().zip(single) {
        *sum = simd.add_f32s(*sum, v);
    }
    let [a, b, c, d] = sums;
    let sum = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
    simd.reduce_sum_f32s(sum) + tail.iter().sum::<f32>()
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
        Exp => unary(a, out, exp),
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
        Select => select(a, b, c, out),
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

/// `b` where `a` is true, else `c`.
#[inline(always)]
fn select(a: Piece, b: Piece, c: Piece, out: &mut [f32]) {
    let choose = |t: f32, x: f32, y: f32| if t != 0.0 { x } else { y };
    match (a, b, c) {
        (Piece::Each(a), Piece::Each(b), Piece::All(y)) => {
            out.iter_mut().zip(a).zip(b).for_each(|((out, &t), &x)| *out = choose(t, x, y));
        }
        (Piece::Each(a), Piece::All(x), Piece::Each(c)) => {
            out.iter_mut().zip(a).zip(c).for_each(|((out, &t), &y)| *out = choose(t, x, y));
        }
        (Piece::Each(a), Piece::Each(b), Piece::Each(c)) => {
            let all = out.iter_mut().zip(a).zip(b).zip(c);
            all.for_each(|(((out, &t), &x), &y)| *out = choose(t, x, y));
        }
        _ => {
            for (i, out) in out.iter_mut().enumerate() {
                *out = choose(a.at(i), b.at(i), c.at(i));
            }
        }
    }
}

/// `eˣ` to two units in the last place: `2ᵏ·eʳ` with `|r| ≤ ln 2 / 2` and the polynomial of the Cephes
/// library for `eʳ`. Made of what compilers make vectors of.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts. Products of the first with integers up to 2⁸ are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Beyond these bounds the result is 0 or infinite, as it is at them.
    let x = x.clamp(-104.0, 89.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = x - k * LN_2[0] - k * LN_2[1];
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let y = p * r * r + r + 1.0;
    // In two factors, since one alone may be out of range.
    let k = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let low = k >> 1;
    let power = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    y * power(low) * power(k.wrapping_sub(low))
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
