use super::*;
use crate::graph::{Fact, eval};
use crate::ops::{MaxPool, Window};
use crate::tensor::{DType, Tensor};
use crate::transform::grad;

fn noise(shape: &[usize], seed: f64) -> Tensor {
    let len = shape.iter().product::<usize>();
    Tensor::f64(shape, (0..len).map(|i| (seed + 2.3 * i as f64).sin()).collect()).unwrap()
}

/// A graph that `make` makes of an input and a parameter of these shapes, which has no gradient where
/// `is_free`: the result and the gradients of the others are the same without it.
fn check(
    what: &str,
    input: &[usize],
    shift: &[usize],
    is_free: bool,
    make: impl Fn(&mut Builder, Value, Value) -> Result<Value>,
) {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F64, input));
    let scale = b.parameter("scale", noise(&vec![1; input.len()], 1.0));
    let scaled = b.mul(x, scale).unwrap();
    let shift = b.parameter("shift", noise(shift, 2.0));
    let y = make(&mut b, scaled, shift).unwrap();
    let weights = b.constant(noise(&b.shape(y), 3.0));
    let y = b.mul(y, weights).unwrap();
    let y = b.sum_all(y).unwrap();
    b.output("y", y);
    let graph = b.finish();
    let without = without_shifts(&graph).unwrap().graph;
    let left: Vec<_> = without.pruned().parameters().map(|(_, p)| p.name.to_string()).collect();
    let expected: &[&str] = if is_free { &["scale"] } else { &["scale", "shift"] };
    assert_eq!(left, expected, "{what}");
    let [old, new] = [&graph, &without].map(|graph| slope(graph, input));
    for (old, new) in old.iter().zip(new) {
        assert!((old - new).abs() < 1e-12, "{what}: {old} {new}");
    }
}

/// The first output, and its derivative by the parameter "scale".
fn slope(graph: &Graph, input: &[usize]) -> [f64; 2] {
    let y = graph.outputs()[0].value;
    let (scale, _) = graph.parameters().find(|(_, p)| &*p.name == "scale").unwrap();
    let (with_gradient, cotangents) = grad(graph, y, &[scale]).unwrap();
    let mut outputs = graph.outputs().to_vec();
    outputs.push(Output { name: "slope".into(), value: cotangents[0].unwrap() });
    let values = eval(&with_gradient.with_outputs(outputs), &[noise(input, 0.0)]).unwrap();
    [values[0].to_f64().sum(), values[1].to_f64().sum()]
}

fn centre(b: &mut Builder, x: Value, axes: &[usize]) -> Result<Value> {
    let mean = b.reduce_mean(x, axes)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let variance = b.reduce_mean(square, axes)?;
    let variance = b.shift(variance, 0.5)?;
    b.div(centred, variance)
}

#[test]
fn summands_that_are_centred_have_no_gradient() {
    let image = &[1, 4, 6, 6][..];
    let channels = &[4, 1, 1][..];
    check("a bias", image, channels, true, |b, x, s| {
        let y = b.add(x, s)?;
        centre(b, y, &[2, 3])
    });
    check("a bias in front of a fast variance", image, channels, true, |b, x, s| {
        let y = b.add(x, s)?;
        let (mean, square) = (b.reduce_mean(y, &[2, 3])?, b.mul(y, y)?);
        let (second, squared) = (b.reduce_mean(square, &[2, 3])?, b.mul(mean, mean)?);
        let variance = b.sub(second, squared)?;
        let variance = b.shift(variance, 0.5)?;
        let centred = b.sub(y, mean)?;
        b.div(centred, variance)
    });
    check("a bias that is subtracted from", image, channels, true, |b, x, s| {
        let y = b.sub(s, x)?;
        centre(b, y, &[2, 3])
    });
    check("a bias of some channels, over all of them", image, channels, false, |b, x, s| {
        let y = b.add(x, s)?;
        centre(b, y, &[1, 2, 3])
    });
    check("a bias behind a rectifier", image, channels, false, |b, x, s| {
        let y = b.add(x, s)?;
        let y = b.relu(y)?;
        centre(b, y, &[2, 3])
    });
    check("a bias, scaled, in a sum", image, channels, true, |b, x, s| {
        let y = b.add(x, s)?;
        let factor = b.constant(noise(&[4, 1, 1], 4.0));
        let y = b.mul(factor, y)?;
        let branch = b.relu(x)?;
        let y = b.sub(branch, y)?;
        centre(b, y, &[2, 3])
    });
    check("groups of one channel", image, channels, true, |b, x, s| {
        let y = b.add(x, s)?;
        let y = b.reshape(y, &[1, 4, 36])?;
        centre(b, y, &[2])
    });
    check("a reshape that parts an axis", &[1, 4, 36], &[4, 1], true, |b, x, s| {
        let y = b.add(x, s)?;
        let y = b.reshape(y, &[1, 4, 6, 6])?;
        centre(b, y, &[3])
    });
    check("groups of two channels", image, channels, false, |b, x, s| {
        let y = b.add(x, s)?;
        let y = b.reshape(y, &[1, 2, 72])?;
        centre(b, y, &[2])
    });
}

#[test]
fn summands_are_found_behind_what_passes_them_on() {
    let image = &[1, 4, 6, 6][..];
    let channels = &[4, 1, 1][..];
    let conv = |kernel: usize, window: Window, is_free: bool| {
        check(&format!("{window:?}"), image, channels, is_free, |b, x, s| {
            let y = b.add(x, s)?;
            let w = b.constant(noise(&[2, 4, kernel, kernel], 5.0));
            let y = b.conv(y, w, window.clone())?;
            centre(b, y, &[2, 3])
        });
    };
    conv(1, Window::plain(2), true);
    conv(3, Window { strides: vec![2, 1], ..Window::plain(2) }, true);
    conv(3, Window { pads_end: vec![0, 1], ..Window::plain(2) }, false);
    for indices in [[5, 0, 1, 2, 3, 4, 5, 0], [0, 0, 1, 2, 3, 4, 5, 5]] {
        check("padding with elements", image, channels, true, |b, x, s| {
            let y = b.add(x, s)?;
            let indices = b.constant(Tensor::index(indices));
            let y = b.gather(y, indices, 2)?;
            centre(b, y, &[2, 3])
        });
    }
    for (i, is_free) in [(0, true), (1, false)] {
        check("padding with parts", image, channels, is_free, |b, x, s| {
            let y = b.add(x, s)?;
            let end = b.slice_axis([y, x][i], 3, 4, 6, 1)?;
            let y = b.concat(&[end, y], 3)?;
            centre(b, y, &[2, 3])
        });
    }
    for (number, is_free) in [(-1e9, true), (0.0, false)] {
        check("a mask", &[1, 6], &[1], is_free, |b, x, s| {
            let y = b.add(x, s)?;
            let mask = b.constant(Tensor::f64(&[6], vec![0., 1., 1., 0., 1., 1.])?);
            let mask = b.cast(mask, DType::Bool)?;
            let number = b.scalar(DType::F64, number);
            let y = b.select(mask, y, number)?;
            b.softmax(y, 1)
        });
    }
    check("a part of the channels", image, &[2, 1, 1], true, |b, x, s| {
        let (one, other) = (b.slice_axis(x, 1, 0, 2, 1)?, b.slice_axis(x, 1, 2, 4, 1)?);
        let other = b.add(other, s)?;
        let y = b.concat(&[one, other], 1)?;
        centre(b, y, &[2, 3])
    });
    check("one that is needed twice", image, channels, false, |b, x, s| {
        let y = b.add(x, s)?;
        let w = b.constant(noise(&[4, 4, 1, 1], 5.0));
        let y = b.conv(y, w, Window::plain(2))?;
        let z = centre(b, y, &[2, 3])?;
        b.mul(y, z)
    });
    check("maxima of windows", image, channels, true, |b, x, s| {
        let y = b.add(x, s)?;
        let pool = MaxPool::new(&[3, 3], &[2, 2], &[1, 1], &[1, 1], &[1, 1]);
        let y = b.push(pool, &[y])?;
        centre(b, y, &[2, 3])
    });
}

#[test]
fn summands_that_are_mixed_with_others_stay() {
    let image = &[1, 4, 6, 6][..];
    for (kernel, is_free) in [([1, 3], true), ([3, 1], false)] {
        check("a pool over another axis", image, &[4, 6, 1], is_free, |b, x, s| {
            let y = b.add(x, s)?;
            let pool = MaxPool::new(&kernel, &[1, 1], &[1, 1], &[0, 0], &[0, 0]);
            let y = b.push(pool, &[y])?;
            centre(b, y, &[3])
        });
    }
    check("halves, one behind the other", image, &[4, 1, 1], false, |b, x, s| {
        let y = b.add(x, s)?;
        let (one, other) = (b.slice_axis(y, 1, 0, 2, 1)?, b.slice_axis(y, 1, 2, 4, 1)?);
        let y = b.concat(&[one, other], 2)?;
        centre(b, y, &[2, 3])
    });
    check("a logarithm of what a mask shuts out", &[1, 6], &[1], false, |b, x, s| {
        let y = b.add(x, s)?;
        let mask = b.constant(Tensor::f64(&[6], vec![0., 1., 1., 0., 1., 1.])?);
        let mask = b.cast(mask, DType::Bool)?;
        let number = b.scalar(DType::F64, -1e4);
        let y = b.select(mask, y, number)?;
        b.log_softmax(y, 1)
    });
}

/// In front of batch statistics a summand is constant only if all samples have it.
#[test]
fn summands_of_single_samples_stay_in_front_of_batch_statistics() {
    for (own, expected) in [(false, &["scale"][..]), (true, &["scale", "shift"])] {
        for reshaped in [false, true] {
            let mut b = Builder::default();
            let x = b.input("x", Fact::new(DType::F64, [1, 2, 4]));
            let scale = b.parameter("scale", noise(&[1, 1, 1], 1.0));
            let y = b.mul(x, scale).unwrap();
            let shift = b.parameter("shift", noise(&[2, 1], 2.0));
            let pooled = b.reduce_mean(x, &[2]).unwrap();
            let summand = if own { b.mul(pooled, shift).unwrap() } else { shift };
            let y = b.add(y, summand).unwrap();
            let shape: &[usize] = if reshaped { &[1, 2, 2, 2] } else { &[1, 2, 4] };
            let y = b.reshape(y, shape).unwrap();
            let ones = b.constant(Tensor::full(DType::F64, &[2], 1.0));
            let norm = BatchNorm { epsilon: 0.5.into(), mode: BatchNormMode::Batch };
            let y = b.push(norm, &[y, ones, ones, ones, ones]).unwrap();
            b.output("y", y);
            let graph = without_shifts(&b.finish()).unwrap().graph.pruned();
            let left: Vec<_> = graph.parameters().map(|(_, p)| p.name.to_string()).collect();
            assert_eq!(left, expected, "{own} {reshaped}");
        }
    }
}

#[test]
fn the_bias_of_keys_has_no_gradient() {
    let (tokens, width, heads) = (5, 6, 2);
    let part = |b: &mut Builder, x: Value, i: usize, bias: Option<Value>| -> Result<Value> {
        let part = b.slice_axis(x, 2, i * width, (i + 1) * width, 1)?;
        let part = bias.map_or(Ok(part), |bias| b.add(part, bias))?;
        let part = b.reshape(part, &[1, tokens, heads, width / heads])?;
        b.transpose(part, &[0, 2, 1, 3])
    };
    for is_free in [false, true] {
        check("attention", &[1, tokens, width], &[width], is_free, |b, x, s| {
            let w = b.constant(noise(&[width, 2 * width], 6.0));
            let both = b.matmul(x, w)?;
            let q = part(b, both, 0, Some(s).filter(|_| !is_free))?;
            let k = part(b, both, 1, Some(s).filter(|_| is_free))?;
            let weights = b.matmul_t(q, k, false, true)?;
            let weights = b.scale(weights, 0.4)?;
            b.softmax(weights, 3)
        });
    }
}

#[test]
fn axes_are_followed_through_reshapes() {
    let exactly = |from: &[usize], to: &[usize], axes: &[usize]| {
        reshaped_axes(from, to, axes, Mixed::Refused)
    };
    assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[1]), Some(vec![1]));
    assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[2, 3]), Some(vec![2]));
    assert_eq!(exactly(&[1, 5, 6], &[1, 5, 2, 3], &[3]), None);
    assert_eq!(exactly(&[1, 4, 3, 3], &[4, 9], &[1]), Some(vec![2, 3]));
    assert_eq!(exactly(&[4, 9], &[1, 4, 1, 3, 3], &[0, 2, 3, 4]), Some(vec![1]));
    assert_eq!(exactly(&[2, 3], &[3, 2], &[1]), None);
    let more = reshaped_axes(&[2, 12], &[2, 3, 4], &[2], Mixed::Included);
    assert_eq!(more, Some(vec![1]));
    assert_eq!(exactly(&[1, 1], &[1], &[0]), Some(vec![]));
}
