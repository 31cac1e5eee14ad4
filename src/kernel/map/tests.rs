//! Maps against the same operations in a loop.

use super::*;
use crate::kernel::in_turn;

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 31) % 101) as f32 / 50.0 - 1.0).collect()
}

fn axes(pairs: &[(usize, usize)]) -> Vec<Axis> {
    pairs.iter().map(|&(length, stride)| Axis { length, stride }).collect()
}

fn run(map: &FusedMap, operands: &[Operand]) -> Vec<Vec<f32>> {
    let mut results: Vec<Vec<f32>> =
        map.outputs.iter().map(|output| vec![f32::NAN; output.len(map.len)]).collect();
    let mut slices: Vec<&mut [f32]> = results.iter_mut().map(Vec::as_mut_slice).collect();
    Prepared::from(map.clone()).run(operands, &mut slices, &in_turn);
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
        let map = FusedMap {
            len: x.len(),
            views: vec![axes(&[(x.len(), 1)]); operands.len()],
            truths: (0..operands.len())
                .filter(|&i| matches!(operands[i], Operand::Bools(_)))
                .collect(),
            constants: vec![],
            steps: vec![Step { op, arguments }],
            outputs: vec![MapOutput { source: Source::Step(0), layout: OutputLayout::Whole }],
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

/// To two units in the last place where results are normal numbers.
#[test]
fn exponentials_of_all_magnitudes() {
    let mut x: Vec<f32> = (0..4000).map(|i| (i - 2000) as f32 * 0.0531).collect();
    x.extend((0..300).map(|i| 1e-30 * 1.3f32.powi(i)));
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, -1e30]);
    x.extend((0..300).map(|i| -1e-30 * 1.3f32.powi(i)));
    let map = FusedMap {
        len: x.len(),
        views: vec![axes(&[(x.len(), 1)])],
        truths: vec![],
        constants: vec![],
        steps: vec![Step { op: Elementwise::Exp, arguments: [Source::Operand(0); 3] }],
        outputs: vec![MapOutput { source: Source::Step(0), layout: OutputLayout::Whole }],
    };
    for (&x, &got) in x.iter().zip(&run(&map, &[Operand::Floats(&x)])[0]) {
        let want = f64::from(x).exp();
        let off = (f64::from(got) - want).abs();
        let right = match want {
            _ if x.is_nan() => got.is_nan(),
            _ if want > f64::from(f32::MAX) => got == f32::INFINITY,
            _ => off <= 2.4e-7 * want + f64::from(f32::MIN_POSITIVE),
        };
        assert!(right, "e^{x}: {got} for {want}");
    }
}

/// `x·c + 2` with `x` `[n, channels, size]` and `c` `[channels, 1]`, whole and summed.
fn scaled([n, channels, size]: [usize; 3], sums: Blocks) -> FusedMap {
    let len = n * channels * size;
    let layout = OutputLayout::Sum { blocks: sums, scale: 0.5 };
    FusedMap {
        len,
        views: vec![axes(&[(len, 1)]), axes(&[(n, 0), (channels, 1), (size, 0)])],
        truths: vec![],
        constants: vec![2.0],
        steps: vec![
            Step { op: Elementwise::Mul, arguments: [0, 1, 0].map(Source::Operand) },
            Step {
                op: Elementwise::Add,
                arguments: [Source::Step(0), Source::Constant(0), Source::Step(0)],
            },
        ],
        outputs: vec![
            MapOutput { source: Source::Step(1), layout: OutputLayout::Whole },
            MapOutput { source: Source::Step(1), layout },
        ],
    }
}

#[test]
fn repeated_operands_and_sums_over_any_axis() {
    for [n, channels, size] in [[1, 1, 1], [3, 5, 7], [2, 3, 300], [40, 2, 256], [3, 17, 1000]] {
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

/// `x·c / Σx` over rows, the sums, and three times those.
#[test]
fn what_is_made_of_sums_over_rows() {
    let (op, step) = (|op, arguments| Step { op, arguments }, Source::Step);
    for [rows, length] in [[1, 2], [7, 3], [70, 64], [3, PIECE], [5, PIECE + 1], [2, 3000]] {
        let len = rows * length;
        let (x, c) = (noise(len, 1), noise(rows, 2));
        let blocks = Blocks { outer: rows, length, inner: 1 };
        let (product, sum) = ([0, 1, 0].map(Source::Operand), Source::Sum(0));
        let map = FusedMap {
            len,
            views: vec![axes(&[(len, 1)]), axes(&[(rows, 1), (length, 0)])],
            truths: vec![],
            constants: vec![3.0],
            steps: vec![
                op(Elementwise::Mul, product),
                op(Elementwise::Div, [step(0), sum, sum]),
                op(Elementwise::Mul, [Source::Constant(0), sum, sum]),
            ],
            outputs: vec![
                MapOutput {
                    source: Source::Operand(0),
                    layout: OutputLayout::Sum { blocks, scale: 1.0 },
                },
                MapOutput { source: step(1), layout: OutputLayout::Whole },
                MapOutput { source: step(2), layout: OutputLayout::Row { length } },
            ],
        };
        let results = run(&map, &[Operand::Floats(&x), Operand::Floats(&c)]);
        for (row, x) in x.chunks(length).enumerate() {
            let (total, got) = (results[0][row], &results[1][row * length..]);
            let sum: f64 = x.iter().map(|&v| f64::from(v)).sum();
            assert!((f64::from(total) - sum).abs() < 1e-3, "{total} {sum}");
            assert_eq!(results[2][row], 3.0 * total);
            assert!(x.iter().zip(got).all(|(&x, &y)| y == x * c[row] / total));
        }
    }
}

#[test]
fn what_is_not_finite_stays() {
    let values = [1.0, -1.0, 1e-7, 1.0, f32::NAN, 0.0];
    let layout = OutputLayout::Sum { blocks: Blocks { outer: 2, length: 3, inner: 1 }, scale: 1.0 };
    let map = FusedMap {
        len: 6,
        views: vec![axes(&[(6, 1)])],
        truths: vec![],
        constants: vec![],
        steps: vec![],
        outputs: vec![MapOutput { source: Source::Operand(0), layout }],
    };
    let sums = run(&map, &[Operand::Floats(&values)]);
    assert!(sums[0][0] > 0.0 && sums[0][1].is_nan());
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
