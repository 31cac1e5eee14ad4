//! Every elementwise function and every loss at all magnitudes: value and gradient on every engine
//! against the interpreter in float64.

use super::Unary;
use crate::engine::{Compiled, all_for_tests};
use crate::error::Result;
use crate::graph::{Builder, Fact, Graph, Value, eval};
use crate::tensor::{DType, Tensor};
use crate::transform::{grad, widen};

/// What a correctly rounded function of a correctly rounded operand may be off by is a few units in the
/// last place.
const TOLERANCE: f64 = 1e-5;

/// Below this a result may be flushed to zero.
const LEAST: f64 = 1e-30;

/// The magnitudes 1e-6 to 1e3 with both signs, as float32 has them.
pub(crate) fn magnitudes() -> Vec<f64> {
    let sizes = (-24..=12).map(|i| f64::from(10f32.powf(i as f32 / 4.0)));
    sizes.flat_map(|v| [v, -v]).collect()
}

/// `f(x)`, the derivatives of its sum, and those of the sum of these.
pub(crate) fn derivatives(
    x: &Fact,
    f: impl Fn(&mut Builder, Value) -> Result<Value>,
) -> Result<Graph> {
    let mut b = Builder::default();
    let input = b.input("x", x.clone());
    let mut outputs = vec![f(&mut b, input)?];
    let mut graph = b.finish();
    for _ in 0..2 {
        let mut b = Builder::new(graph);
        let sum = b.sum_all(outputs[outputs.len() - 1])?;
        let cotangents;
        (graph, cotangents) = grad(&b.finish(), sum, &[input])?;
        let mut b = Builder::new(graph);
        outputs.push(match cotangents[0] {
            Some(value) => value,
            None => b.zeros(x)?,
        });
        graph = b.finish();
    }
    let mut b = Builder::new(graph);
    for (i, &value) in outputs.iter().enumerate() {
        b.output(format!("y{i}"), value);
    }
    Ok(b.finish())
}

/// Compares value and first derivative, as far as they are defined and within the range of float32, up
/// to what rounding of the operand makes of them: in proportion to the derivative of each, and to itself
/// times `sensitivity`. The second derivative has to be finite.
pub(crate) fn check(
    function: &str,
    at: &[f64],
    sensitivity: f64,
    f: impl Fn(&mut Builder, Value) -> Result<Value>,
) {
    let graph = derivatives(&Fact::new(DType::F32, [at.len()]), &f).unwrap();
    let x = Tensor::f64(&[at.len()], at.to_vec()).unwrap();
    let values = |tensors: Vec<Tensor>| -> Vec<Vec<f64>> {
        tensors.iter().map(|t| t.to_f64().iter().copied().collect()).collect()
    };
    let want = values(eval(&widen(&graph).unwrap(), std::slice::from_ref(&x)).unwrap());
    let is_defined = |order: usize, i: usize| {
        let v: Option<&f64> = want[order].get(i);
        v.is_none_or(|v| v.abs() < f64::from(f32::MAX))
    };
    let mut wrong = Vec::new();
    for engine in all_for_tests() {
        let name = engine.describe().name;
        let mut forms = vec![("its own", engine.compile(&graph).unwrap())];
        // tract is known to be wrong in the operators that it is not given.
        if name != "tract" {
            forms.push(("standard", Compiled::standard(&graph).unwrap()));
        }
        for (form, compiled) in forms {
            let mut session = engine.load(&compiled).unwrap();
            let got = values(session.run(&[x.cast(DType::F32)]).unwrap());
            for (order, got) in got.iter().enumerate() {
                for (i, &got) in got.iter().enumerate() {
                    if (0..=order).any(|order| !is_defined(order, i)) {
                        continue;
                    }
                    let (x, want_) = (at[i].abs(), want[order][i]);
                    let slope = want.get(order + 1).map_or(0.0, |d| d[i].abs());
                    let slope = if slope.is_nan() { f64::INFINITY } else { slope };
                    let rounding = 2e-7 * x * (slope + sensitivity * want_.abs());
                    let off = (got - want_).abs();
                    let right = off <= TOLERANCE * want_.abs() + rounding + LEAST;
                    if !(right || order == 2 && got.is_finite()) {
                        wrong.push(format!(
                            "{name}, {form}: derivative {order} at {}: {got} for {want_}",
                            at[i]
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{function}: {} wrong\n{}", wrong.len(), wrong.join("\n"));
}

macro_rules! functions {
    ($($test:ident $f:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            let f = Unary::$f;
            check(stringify!($f), &magnitudes(), 0.0, |b, x| b.unary(f, x));
        })*
    };
}
functions!(
    abs Abs, acos Acos, acosh Acosh, asin Asin, asinh Asinh, atan Atan, atanh Atanh, ceil Ceil, cos Cos,
    cosh Cosh, erf Erf, exp Exp, floor Floor, log Log, neg Neg, reciprocal Reciprocal, relu Relu,
    round Round, sigmoid Sigmoid, sign Sign, sin Sin, sinh Sinh, softplus Softplus, sqrt Sqrt, tan Tan,
    tanh Tanh,
);

/// `1 − |f(x)|` far out is 0: what is left of it would be taken for a small number.
#[test]
fn bounded_functions_reach_their_bounds() {
    let at = [12.0f32, 20.0, 100.0, 1e4, 1e30];
    let x = Tensor::f32(&[10], at.into_iter().flat_map(|v| [v, -v]).collect()).unwrap();
    for (f, low) in [(Unary::Tanh, -1.0), (Unary::Erf, -1.0), (Unary::Sigmoid, 0.0)] {
        let mut b = Builder::default();
        let input = b.input("x", Fact::of(&x));
        let y = b.unary(f, input).unwrap();
        b.output("y", y);
        let graph = b.finish();
        for engine in all_for_tests() {
            let mut session = engine.load(&engine.compile(&graph).unwrap()).unwrap();
            let got = session.run(std::slice::from_ref(&x)).unwrap()[0].to_f64();
            for (i, &got) in got.iter().enumerate() {
                let bound = if i % 2 == 0 { 1.0 } else { low };
                let (x, name) = (at[i / 2], engine.describe().name);
                // e⁻¹² is no less in float32 than it is.
                let is_right = got == bound || f == Unary::Sigmoid && (got - bound).abs() < 1e-5;
                assert!(is_right, "{name}: {f:?} at ±{x} is {got}, not {bound}");
            }
        }
    }
}
