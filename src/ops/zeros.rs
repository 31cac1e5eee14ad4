//! Gradients where a slope is infinite or undefined: at exact zeros, ties and the ends of domains, on
//! every engine. They are those of PyTorch in float64 where these are finite, and else 0 for the
//! product of 0 and infinity.

use super::tails::derivatives;
use super::{Binary, Reduction, Unary};
use crate::engine::{Compiled, all_for_tests};
use crate::error::Result;
use crate::graph::{Builder, Fact, Value, eval};
use crate::tensor::{DType, Tensor};
use crate::transform::vmap;

/// The gradient of the sum of `f(x)` at `at` is `want`, and the second derivative is finite: alone and
/// as one of two lanes.
fn check(name: &str, at: &[f64], want: &[f64], f: impl Fn(&mut Builder, Value) -> Result<Value>) {
    let graph = derivatives(&Fact::new(DType::F32, [at.len()]), f).unwrap();
    let lanes = vmap(&graph, 2, graph.inputs()).unwrap().graph;
    let x = Tensor::f64(&[at.len()], at.to_vec()).unwrap().cast(DType::F32);
    let two = Tensor::f64(&[2, at.len()], [at, at].concat()).unwrap().cast(DType::F32);
    let expect = |who: &str, got: &[Tensor]| {
        let values = |i: usize| got[i].to_f64().iter().copied().collect::<Vec<f64>>();
        for (got, want) in values(1).iter().zip(want.iter().cycle()) {
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{name}, {who}: {got} for {want}");
        }
        assert!(values(2).iter().all(|v| v.is_finite()), "{name}, {who}: {:?}", values(2));
    };
    expect("interpreter", &eval(&graph, std::slice::from_ref(&x)).unwrap());
    for engine in all_for_tests() {
        for (graph, x) in [(&graph, &x), (&lanes, &two)] {
            let own = engine.compile(graph).unwrap();
            let standard = Compiled::standard(graph).unwrap();
            for (form, compiled) in [("standard", standard), ("its own", own)] {
                let mut session = engine.load(&compiled).unwrap();
                let got = session.run(std::slice::from_ref(x)).unwrap();
                expect(&format!("{}, {form}", engine.describe().name), &got);
            }
        }
    }
}

fn squares(b: &mut Builder, x: Value) -> Result<Value> {
    let square = b.mul(x, x)?;
    b.reduce_sum(square, &[0])
}

#[test]
fn norms_of_zero() {
    // torch.linalg.vector_norm
    check("norm", &[0.0, 0.0], &[0.0, 0.0], |b, x| {
        let sum = squares(b, x)?;
        b.sqrt(sum)
    });
    // torch.nn.functional.normalize of (0, 0) times (1, 2)
    check("normalised", &[0.0, 0.0], &[1e12, 2e12], |b, x| {
        let sum = squares(b, x)?;
        let norm = b.sqrt(sum)?;
        let least = b.scalar_like(norm, 1e-12);
        let norm = b.max(norm, least)?;
        let normal = b.div(x, norm)?;
        let weights = b.constant(Tensor::f32(&[2], vec![1.0, 2.0])?);
        b.mul(normal, weights)
    });
    // torch.std
    check("deviation", &[3.0, 3.0, 3.0], &[0.0; 3], |b, x| {
        let mean = b.reduce_mean(x, &[0])?;
        let centred = b.sub(x, mean)?;
        let sum = squares(b, centred)?;
        b.sqrt(sum)
    });
    // torch.linalg.vector_norm(x, 3)
    check("3-norm", &[0.0, 0.0], &[0.0, 0.0], |b, x| {
        let size = b.unary(Unary::Abs, x)?;
        let three = b.scalar_like(x, 3.0);
        let cubes = b.pow(size, three)?;
        let sum = b.reduce_sum(cubes, &[0])?;
        let third = b.scalar_like(x, 1.0 / 3.0);
        b.pow(sum, third)
    });
}

#[test]
fn gates_in_front_of_infinite_slopes() {
    for f in [Unary::Sqrt, Unary::Log, Unary::Reciprocal] {
        let d = match f {
            Unary::Sqrt => 0.25,
            Unary::Log => 0.25,
            _ => -1.0 / 16.0,
        };
        // torch.where(x > 0, f(x), 0), whose gradient at 0 is NaN there.
        check(&format!("{f:?} chosen"), &[0.0, 4.0], &[0.0, d], |b, x| {
            let y = b.unary(f, x)?;
            let zero = b.scalar_like(x, 0.0);
            let positive = b.greater(x, zero)?;
            b.select(positive, y, zero)
        });
    }
    // torch.sqrt(torch.relu(x))
    check("root of a ReLU", &[-1.0, 0.0, 4.0], &[0.0, 0.0, 0.25], |b, x| {
        let y = b.relu(x)?;
        b.sqrt(y)
    });
    check("root of a maximum", &[-1.0, 0.0, 4.0], &[0.0, 0.0, 0.25], |b, x| {
        let zero = b.scalar_like(x, 0.0);
        let y = b.max(x, zero)?;
        b.sqrt(y)
    });
    check("quotient chosen", &[0.0, 4.0], &[0.0, -1.0 / 16.0], |b, x| {
        let (zero, one) = (b.scalar_like(x, 0.0), b.scalar_like(x, 1.0));
        let y = b.div(one, x)?;
        let is_zero = b.equal(x, zero)?;
        b.select(is_zero, zero, y)
    });
    // The exponential of the other branch overflows.
    check("exponential chosen", &[200.0, 0.0], &[1.0, 1.0], |b, x| {
        let zero = b.scalar_like(x, 0.0);
        let positive = b.greater(x, zero)?;
        let exp = b.exp(x)?;
        b.select(positive, x, exp)
    });
    for f in [Unary::Asin, Unary::Acos] {
        check(&format!("{f:?} at the ends"), &[-1.0, 1.0], &[0.0, 0.0], |b, x| b.unary(f, x));
    }
    check("Acosh at the end", &[1.0], &[0.0], |b, x| b.unary(Unary::Acosh, x));
}

#[test]
fn powers_of_zero() {
    for (exponent, d) in
        [(0.0, [0.0, 0.0]), (0.5, [0.0, 0.25]), (1.5, [0.0, 3.0]), (3.0, [0.0, 48.0])]
    {
        check(&format!("x^{exponent}"), &[0.0, 4.0], &d, |b, x| {
            let exponent = b.scalar_like(x, exponent);
            b.pow(x, exponent)
        });
    }
    // torch.pow(2, x), torch.pow(0, x)
    check("2^x", &[0.0, 2.0], &[2f64.ln(), 4.0 * 2f64.ln()], |b, x| {
        let two = b.scalar_like(x, 2.0);
        b.pow(two, x)
    });
    check("0^x", &[0.0, 2.0], &[0.0, 0.0], |b, x| {
        let zero = b.scalar_like(x, 0.0);
        b.pow(zero, x)
    });
}

#[test]
fn products_with_zeros() {
    // torch.prod
    for (at, d) in [
        ([2.0, 3.0, 4.0, 0.5, 1.0], [6.0, 4.0, 3.0, 24.0, 12.0]),
        ([2.0, 0.0, 4.0, 0.5, 1.0], [0.0, 4.0, 0.0, 0.0, 0.0]),
        ([0.0, 3.0, 0.0, 0.5, 1.0], [0.0; 5]),
    ] {
        check("product", &at, &d, |b, x| b.reduce_prod(x, &[0]));
    }
}

#[test]
fn ties() {
    // torch.amax, torch.maximum
    check("largest", &[1.0, 2.0, 2.0], &[0.0, 0.5, 0.5], |b, x| b.reduce(Reduction::Max, x, &[0]));
    check("maximum", &[-1.0, 0.0, 1.0], &[0.0, 0.5, 1.0], |b, x| {
        let zero = b.scalar_like(x, 0.0);
        b.push(Binary::Max, &[x, zero])
    });
}
