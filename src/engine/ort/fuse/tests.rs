//! What is fused, and that it has the same values.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::ort::compile::{OperatorSet, compile};
use crate::error::Result;
use crate::graph::{Builder, Fact, Graph, Value};
use crate::onnx::proto::ModelProto;
use crate::ops::{Unary, Window};
use crate::tensor::DType;
use crate::testing::Case;

/// The operators that a graph is written as.
fn operators(graph: &Graph) -> Vec<String> {
    use prost::Message;
    let compiled = compile(graph, OperatorSet::Kernels).unwrap();
    let model = ModelProto::decode(compiled.model.as_slice()).unwrap();
    model.graph.unwrap().node.into_iter().map(|node| node.op_type.unwrap()).collect()
}

#[test]
fn a_normalisation_and_its_sums_are_one_pass() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [2, 3, 4, 4]));
    let c = b.input("c", Fact::new(DType::F32, [3, 1, 1]));
    let centred = b.sub(x, c).unwrap();
    let scaled = b.mul(centred, c).unwrap();
    let y = b.unary(Unary::Relu, scaled).unwrap();
    let sum = b.reduce_sum(scaled, &[2, 3]).unwrap();
    let rows = b.reshape(sum, &[2, 3]).unwrap();
    b.output("y", y);
    b.output("rows", rows);
    assert_eq!(operators(&b.finish()), ["Map"]);
}

/// `x` normalised over its last axis, and the deviation.
fn normalised(b: &mut Builder, x: Value, axis: usize) -> Result<[Value; 2]> {
    let mean = b.reduce_mean(x, &[axis])?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let variance = b.reduce_mean(square, &[axis])?;
    let variance = b.shift(variance, 0.1)?;
    let deviation = b.sqrt(variance)?;
    Ok([b.div(centred, deviation)?, deviation])
}

#[test]
fn what_is_made_of_sums_over_rows_is_one_kernel_with_them() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [2, 3, 50]));
    let [y, deviation] = normalised(&mut b, x, 2).unwrap();
    let twice = b.add(deviation, deviation).unwrap();
    let twice = b.reshape(twice, &[6]).unwrap();
    let back = b.reshape(twice, &[2, 3, 1]).unwrap();
    let z = b.mul(y, back).unwrap();
    b.output("z", z);
    b.output("twice", twice);
    assert_eq!(operators(&b.finish()), ["Map"]);
}

/// The sums are there after all values only, or have another place than the values of their row.
#[test]
fn what_is_made_of_other_sums_is_a_kernel_of_its_own() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [4, 3, 4]));
    let [y, _] = normalised(&mut b, x, 1).unwrap();
    b.output("y", y);
    assert_eq!(operators(&b.finish()), ["Map"; 4]);
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [4, 4]));
    let sums = b.reduce_sum(x, &[1]).unwrap();
    let across = b.reshape(sums, &[1, 4]).unwrap();
    let y = b.mul(x, across).unwrap();
    b.output("y", y);
    assert_eq!(operators(&b.finish()), ["Map"; 2]);
}

#[test]
fn normalisations_have_the_same_values() {
    for shape in [[2, 3, 1], [3, 2, 7], [5, 40, 60], [2, 2, 3000]] {
        for axis in [1, 2] {
            Case::new(format!("{shape:?}, {axis}"))
                .input(&shape, -1.0, 1.0)
                .input(&shape[1..], -1.0, 1.0)
                .check_forward(|b, x| {
                    let [y, deviation] = normalised(b, x[0], axis)?;
                    let y = b.mul(y, x[1])?;
                    let sum = b.reduce_sum(y, &[axis])?;
                    let scaled = b.mul(sum, deviation)?;
                    b.add(y, scaled)
                });
        }
    }
}

#[test]
fn what_a_convolution_does_on_the_way_is_left_to_it() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 1, 4, 4]));
    let w = b.parameter("w", crate::tensor::Tensor::full(DType::F32, &[2, 1, 3, 3], 0.5));
    let bias = b.parameter("bias", crate::tensor::Tensor::full(DType::F32, &[2, 1, 1], 0.5));
    let y = b.conv(x, w, Window::plain(2)).unwrap();
    let y = b.add(y, bias).unwrap();
    let y = b.relu(y).unwrap();
    b.output("y", y);
    assert_eq!(operators(&b.finish()), ["Conv", "Add", "Relu"]);
}

#[test]
fn a_value_that_a_convolution_takes_has_its_shape() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [3, 1, 1, 4, 4]));
    let w = b.parameter("w", crate::tensor::Tensor::full(DType::F32, &[2, 1, 3, 3], 0.5));
    let y = b.add(x, x).unwrap();
    let y = b.relu(y).unwrap();
    let y = b.reshape(y, &[3, 1, 4, 4]).unwrap();
    let y = b.conv(y, w, Window::plain(2)).unwrap();
    b.output("y", y);
    let operators = operators(&b.finish());
    assert!(operators.iter().all(|op| op == "Map" || op == "Conv" || op == "Reshape"));
    assert_eq!(operators.last().unwrap(), "Conv");
}

/// A tangle of elementwise operations, sums and shapes, of which some values are asked for.
fn tangle(b: &mut Builder, x: &[Value], seed: u64) -> Result<Value> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = x.to_vec();
    for _ in 0..rng.random_range(4..30) {
        let p = values[rng.random_range(0..values.len())];
        let q = values[rng.random_range(0..values.len())];
        let rank = b.rank(p);
        let axis = rng.random_range(0..rank.max(1));
        let made = match rng.random_range(0..12) {
            0 => b.add(p, q),
            1 => b.sub(p, q),
            2 => b.mul(p, q),
            3 => b.max(p, q),
            4 => b.unary(Unary::Relu, p),
            5 => b.neg(p),
            6 => {
                let size = b.unary(Unary::Abs, q)?;
                let size = b.shift(size, 1.0)?;
                b.div(p, size)
            }
            7 => match b.less_or_equal(p, q) {
                Ok(less) => b.select(less, p, q),
                Err(mismatch) => Err(mismatch),
            },
            8 if rank > 0 => b.reduce_sum(p, &[axis]),
            9 if rank > 1 => b.reduce_mean(p, &[axis, (axis + 1) % rank]),
            10 => {
                let mut shape = b.shape(p);
                shape.insert(axis, 1);
                b.reshape(p, &shape)
            }
            _ => b.expand(p, &[&[2], b.shape(p).as_slice()].concat()),
        };
        // Not all shapes broadcast; values must not grow without end.
        if let Ok(value) = made
            && b.fact(value).len() < 2000
        {
            let bounded = b.unary(Unary::Tanh, value)?;
            values.push(if rng.random_range(0..4) == 0 { bounded } else { value });
        }
    }
    let mut parts = Vec::new();
    let last = values[values.len() - 1];
    for value in values {
        if value != last && rng.random_range(0..3) > 0 {
            continue;
        }
        let len = b.fact(value).len();
        parts.push(b.reshape(value, &[len])?);
    }
    b.concat(&parts, 0)
}

#[test]
fn whatever_is_fused_has_the_same_values() {
    for seed in 0..40 {
        Case::new(format!("tangle {seed}"))
            .input(&[2, 3, 4], -1.0, 1.0)
            .input(&[3, 1], -1.0, 1.0)
            .input(&[4], -1.0, 1.0)
            .check_forward(|b, x| tangle(b, x, seed));
    }
}
