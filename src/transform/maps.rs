//! The maps of transformations: a value that is kept as an output is found where the map says.

use super::{batch_norm, linearise, vmap};
use crate::graph::{Builder, Derived, Fact, Graph, Output, Value, eval_values};
use crate::ops::{BatchNorm, BatchNormMode, Window};
use crate::tensor::{DType, Tensor};

fn noise(shape: &[usize], start: f64) -> Tensor {
    let values = (0..shape.iter().product::<usize>()).map(|i| (1.9 * i as f64 + start).sin());
    Tensor::f32(shape, values.map(|v| v as f32).collect()).unwrap()
}

/// A convolution with a bias in front of batch normalisation, which takes the bias out; a value that
/// no output needs; and one that depends on no input.
fn model() -> (Graph, Vec<Value>, Value) {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 2, 3, 3]));
    let w = b.parameter("w", noise(&[4, 2, 1, 1], 0.3));
    let bias = b.parameter("bias", noise(&[4, 1, 1], 0.7));
    let product = b.conv(x, w, Window::plain(2)).unwrap();
    let biased = b.add(product, bias).unwrap();
    let scale = b.parameter("scale", noise(&[4], 1.1));
    let shift = b.parameter("shift", noise(&[4], 2.3));
    let (zeros, ones) = (Tensor::full(DType::F32, &[4], 0.0), Tensor::full(DType::F32, &[4], 1.0));
    let (mean, variance) = (b.constant(zeros), b.constant(ones));
    let norm = BatchNorm { epsilon: 1e-5.into(), mode: BatchNormMode::Running };
    let normalised = b.push(norm, &[biased, scale, shift, mean, variance]).unwrap();
    let y = b.relu(normalised).unwrap();
    let dead = b.neg(product).unwrap();
    let constant = b.add(scale, shift).unwrap();
    b.output("y", y);
    (b.finish(), vec![product, biased, normalised, y, constant], dead)
}

#[test]
fn values_are_found_through_all_transformations() {
    let (model, kept, dead) = model();
    let outputs: Vec<Output> =
        kept.iter().enumerate().map(|(i, &value)| Output { name: i.to_string(), value }).collect();
    let x = noise(&[1, 2, 3, 3], 5.0);
    let expected = eval_values(&model, std::slice::from_ref(&x), &kept).unwrap();
    let pruned = model.mapped_to_outputs(&outputs);
    assert_eq!(pruned.map.get(dead), None);
    assert!(pruned.map.of(dead).unwrap_err().to_string().contains("no output needs it"));
    let values = |Derived { graph, map }: &Derived, x: &Tensor| {
        let found: Vec<Value> = kept.iter().map(|&value| map.of(value).unwrap()).collect();
        eval_values(graph, std::slice::from_ref(x), &found).unwrap()
    };
    assert_eq!(values(&pruned, &x), expected);

    let next = batch_norm(&pruned.graph, BatchNormMode::Running).unwrap().0;
    let decided = Derived { map: pruned.map.then(&next.map), graph: next.graph };
    for (got, want) in values(&decided, &x).iter().zip(&expected) {
        let off = (&got.to_f64() - &want.to_f64()).mapv(f64::abs);
        assert!(off.iter().all(|&off| off < 1e-5), "{off}");
    }

    let next = vmap(&decided.graph, 2, decided.graph.inputs()).unwrap();
    let lanes = Derived { map: decided.map.then(&next.map), graph: next.graph };
    let both = [&[2], x.shape()].concat();
    let twice =
        Tensor::f32(&both, [0, 1].iter().flat_map(|_| x.to_f64()).map(|v| v as f32).collect());
    for (got, want) in values(&lanes, &twice.unwrap()).iter().zip(&values(&decided, &x)) {
        assert_eq!(got.shape(), [&[2], want.shape()].concat());
        for lane in got.to_f64().outer_iter() {
            assert_eq!(lane, want.to_f64());
        }
    }

    // Magnitudes change values, but not where they are.
    let next = linearise(&pruned.graph).unwrap();
    let linear = Derived { map: pruned.map.then(&next.map), graph: next.graph };
    assert_eq!(values(&linear, &x).len(), kept.len());
}
