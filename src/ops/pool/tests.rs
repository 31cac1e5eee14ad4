//! All poolings against finite differences, `vmap` and every engine.

use super::{AveragePool, MaxPool, MaxPoolIndices};
use crate::graph::{Builder, Fact, Graph, eval};
use crate::tensor::{DType, Tensor};
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
        Case::new(format!("{op:?}")).input(&shape, -1.0, 1.0).check(|b, x| b.push(op.clone(), x));
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
    winners(&MaxPool::new(&[2, 2, 3], &[1, 2, 1], &[1, 1, 1], &[0, 0, 1], &[1, 0, 0]), &[3, 4, 5]);
}
