//! The gradients and their signs against sums over all output positions.

use super::*;
use crate::graph::{Builder, Fact, eval};
use crate::kernel::in_turn;
use crate::ops::Window;
use crate::tensor::{DType, Tensor};

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 31 + 13) % 101) as f32 / 50.0 - 1.0).collect()
}

/// The result of the interpreter for the same convolutions.
fn expected(op: &ConvWeightGrad, x: &[f32], z: &[f32], pads_end: &[usize]) -> Vec<f64> {
    let window = Window {
        strides: op.strides.clone(),
        dilations: op.dilations.clone(),
        pads_begin: op.pads.clone(),
        pads_end: pads_end.to_vec(),
        groups: op.groups,
    };
    let mut all = Vec::new();
    for n in 0..op.samples {
        let mut b = Builder::default();
        let operand = |channels: usize, spatial: &[usize], values: &[f32]| {
            let shape = [&[1, op.groups * channels], spatial].concat();
            let size = values.len() / op.samples;
            Tensor::f32(&shape, values[n * size..][..size].to_vec()).unwrap()
        };
        let x = operand(op.channels, &op.input, x);
        let z = operand(op.outputs, &op.output, z);
        let (vx, vz) = (b.input("x", Fact::of(&x)), b.input("z", Fact::of(&z)));
        let y = b.conv_weight_grad(vx, vz, &window, &op.kernel).unwrap();
        let y = b.cast(y, DType::F64).unwrap();
        b.output("y", y);
        all.extend(eval(&b.finish(), &[x, z]).unwrap()[0].to_f64().iter());
    }
    all
}

fn check(op: &ConvWeightGrad, pads_end: &[usize]) {
    let (x, z) = (noise(op.samples * op.x_len(), 1), noise(op.samples * op.z_len(), 2));
    let want = expected(op, &x, &z, pads_end);
    let mut got = vec![0.0; want.len()];
    op.gradients(&x, &z, &mut got, &in_turn);
    for (got, want) in got.iter().zip(&want) {
        assert!((f64::from(*got) - want).abs() < 1e-4, "{op:?}: {got} {want}");
    }
    // The order of the signs is unspecified, so compare their inner products.
    let mut signs = vec![0; op.samples * op.signs_len()];
    op.signs(&x, &z, &mut signs, &in_turn);
    let gram = crate::kernel::SignGram { groups: 1, size: op.samples };
    let mut products = vec![0.0; op.samples * op.samples];
    gram.products(&[&signs], &mut products, &in_turn);
    let sign = |v: &f32| if *v == 0.0 { 0.0 } else { f64::from(v.signum()) };
    let rows: Vec<Vec<f64>> =
        got.chunks(op.len()).map(|row| row.iter().map(sign).collect()).collect();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            let want: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert_eq!(products[i * op.samples + j], want, "{op:?}");
        }
    }
}

/// A 3×3 convolution with padding 1.
fn square(groups: usize, channels: usize, outputs: usize, size: usize) -> ConvWeightGrad {
    ConvWeightGrad {
        samples: 3,
        groups,
        channels,
        outputs,
        input: vec![size; 2],
        output: vec![size; 2],
        kernel: vec![3; 2],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        pads: vec![1; 2],
    }
}

#[test]
fn every_number_of_channels_and_outputs() {
    for outputs in [1, 2, 5, 6, 7, 13] {
        for channels in [1, 3, 8, 17, 40, 65] {
            check(&square(1, channels, outputs, 4), &[1, 1]);
        }
    }
}

#[test]
fn groups_and_channels_by_themselves() {
    check(&square(2, 3, 4, 3), &[1, 1]);
    check(&square(5, 1, 1, 4), &[1, 1]);
    check(&square(19, 1, 1, 2), &[1, 1]);
    check(&square(3, 1, 2, 3), &[1, 1]);
    check(&square(2, 37, 3, 3), &[1, 1]);
    check(&square(70, 1, 1, 3), &[1, 1]);
}

#[test]
fn gradients_of_several_chunks() {
    let taps = square(1, 70, 130, 2);
    let outputs = ConvWeightGrad {
        input: vec![2],
        output: vec![2],
        kernel: vec![1],
        strides: vec![1],
        dilations: vec![1],
        pads: vec![0],
        ..square(1, 260, 301, 1)
    };
    for (op, pads_end) in [(&taps, &[1, 1][..]), (&outputs, &[0])] {
        assert!(op.chunks(&op.layout(1)).len() > 1);
        check(op, pads_end);
    }
    let groups = square(190, 3, 5, 2);
    assert!(groups.chunks(&groups.layout(16)).len() > 1);
    check(&groups, &[1, 1]);
    // A single value that is not finite is detected in any chunk.
    for at in [0, outputs.z_len() - 1] {
        let (x, mut z) = (noise(3 * outputs.x_len(), 1), noise(3 * outputs.z_len(), 2));
        z[at] = f32::INFINITY;
        let mut signs = vec![0; 3 * outputs.signs_len()];
        outputs.signs(&x, &z, &mut signs, &in_turn);
        let flags = signs.chunks(outputs.signs_len()).map(|row| row[row.len() - 1] != 0);
        assert_eq!(flags.collect::<Vec<_>>(), [true, false, false]);
    }
}

#[test]
fn strides_dilations_and_uneven_padding() {
    let base = square(1, 3, 4, 7);
    let strided = ConvWeightGrad { output: vec![4, 3], strides: vec![2, 3], ..base.clone() };
    check(&strided, &[1, 1]);
    let dilated = ConvWeightGrad { output: vec![5, 3], dilations: vec![2, 3], ..base.clone() };
    check(&dilated, &[1, 1]);
    let pads = vec![0, 2];
    check(&ConvWeightGrad { output: vec![6, 7], pads, ..base.clone() }, &[1, 0]);
    // The kernel does not reach the last rows and columns of the input.
    let short =
        ConvWeightGrad { output: vec![2; 2], strides: vec![4; 2], pads: vec![0; 2], ..base };
    check(&short, &[0, 0]);
}

#[test]
fn lines_and_volumes() {
    let line = ConvWeightGrad {
        input: vec![9],
        output: vec![5],
        kernel: vec![2],
        strides: vec![2],
        dilations: vec![1],
        pads: vec![1],
        ..square(1, 3, 4, 1)
    };
    check(&line, &[0]);
    let volume = ConvWeightGrad {
        input: vec![3, 4, 2],
        output: vec![2, 4, 2],
        kernel: vec![2, 3, 1],
        strides: vec![1; 3],
        dilations: vec![1; 3],
        pads: vec![0, 1, 0],
        ..square(2, 2, 3, 1)
    };
    check(&volume, &[0, 1, 0]);
}
