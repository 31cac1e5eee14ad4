//! The network that synflow looks at: positive parameters, no batch normalisation, and numbers
//! that stay inside the range of float32 however deep it is.

use std::collections::{BTreeSet, HashMap};

use super::roles::{Role, roles};
use crate::error::Result;
use crate::graph::{Builder, Graph, Node, Parameter, Value, ValueMap};
use crate::ops::{Binary, Homogeneity, Op, Primitive};
use crate::tensor::Tensor;

/// A network of positive parameters.
#[derive(Clone, Debug)]
pub struct Linearised {
    /// The graph, with the outputs of the original.
    pub graph: Graph,
    /// Where the values of the original are in it.
    pub map: ValueMap,
    /// For each output the `e` by which it is too small: it stands for `2ᵉ` times its value.
    pub exponents: Vec<i32>,
    /// Operations because of which the output is not proportional to the input.
    pub nonlinear: BTreeSet<String>,
}

/// `graph` with every parameter replaced by its absolute value and every batch normalisation by
/// the identity.
///
/// Without normalisation the signal grows or shrinks geometrically with depth, beyond what float32
/// holds. So each weight is divided by a power of two near the gain of its layer, and each value
/// has an exponent by which it is too small; where values are added, they are brought to the
/// larger exponent. Powers of two are exact, so nothing else changes; and `θ · ∂R/∂θ`, which is all
/// that synflow needs, is too small by the exponent of `R` alone.
///
/// # Errors
/// When shapes do not fit together, as they do in a valid graph.
pub fn linearise(graph: &Graph) -> Result<Linearised> {
    let gains = gains(graph);
    let depends = graph.dependents(graph.inputs());
    let mut exponents = vec![0; graph.nodes().len()];
    let mut nonlinear = BTreeSet::new();
    let mut b = Builder::default();
    let map = b.import(graph, |b, value, node, inputs| match &node.op {
        Op::Input(_) | Op::Constant(_) => Ok(None),
        Op::Parameter(parameter) => {
            let exponent = gains.get(&value).copied().unwrap_or(0);
            exponents[value.index()] = exponent;
            let factor = 2f64.powi(-exponent);
            let values = parameter.tensor.to_f64().mapv(|v| v.abs() * factor);
            let tensor = Tensor::from_f64(values, parameter.tensor.dtype());
            let positive = Parameter { name: parameter.name.clone(), tensor };
            Ok(Some(b.append(Op::Parameter(positive), vec![], node.fact.clone())))
        }
        Op::Apply(op) => {
            let operands: Vec<Scaled> = inputs
                .iter()
                .zip(&node.inputs)
                .map(|(&value, old)| Scaled { value, exponent: exponents[old.index()] })
                .collect();
            let is_scaled = |v: &Value| depends[v.index()] && graph.fact(*v).dtype.is_float();
            let scaled: Vec<bool> = node.inputs.iter().map(is_scaled).collect();
            if scaled.contains(&true) && node.fact.dtype.is_float() && !is_proportional(op, &scaled)
            {
                nonlinear.insert(op.name());
            }
            let result = apply(b, op, node, &operands)?;
            exponents[value.index()] = result.exponent;
            Ok(Some(result.value))
        }
    })?;
    b.copy_outputs(graph, &map)?;
    let exponents = graph.outputs().iter().map(|o| exponents[o.value.index()]).collect();
    Ok(Linearised { graph: b.finish().verified(), map, exponents, nonlinear })
}

/// A power of two that float32 holds with room for the value it is multiplied with.
const STEP: i32 = 100;

/// A value that stands for `2^exponent` times itself.
#[derive(Clone, Copy)]
struct Scaled {
    value: Value,
    exponent: i32,
}

impl Scaled {
    fn to(self, b: &mut Builder, exponent: i32) -> Result<Value> {
        if self.exponent == exponent || !b.dtype(self.value).is_float() {
            return Ok(self.value);
        }
        // A function that needs the value itself is flat long before the largest step.
        let step = (self.exponent - exponent).clamp(-STEP, STEP);
        b.scale(self.value, 2f64.powi(step))
    }
}

/// For each weight the exponent of two nearest to what its layer multiplies a constant input by,
/// on average.
fn gains(graph: &Graph) -> HashMap<Value, i32> {
    let gain = |(value, role)| {
        let (Role::Weight { fan_in, .. }, Op::Parameter(parameter)) = (role, &graph.node(value).op)
        else {
            return None;
        };
        let total: f64 = parameter.tensor.to_f64().iter().map(|v| v.abs()).sum();
        let mean = total / parameter.tensor.len().max(1) as f64;
        let gain = (mean * fan_in as f64).log2().round();
        gain.is_finite().then_some((value, gain as i32))
    };
    roles(graph).into_iter().filter_map(gain).collect()
}

/// Whether the result is proportional to the operands that are `scaled`. Batch normalisation is, as it
/// becomes the identity.
fn is_proportional(op: &Primitive, scaled: &[bool]) -> bool {
    matches!(op, Primitive::BatchNorm(_)) || op.rule().homogeneity().is_proportional(scaled)
}

/// `op` on scaled operands.
fn apply(b: &mut Builder, op: &Primitive, node: &Node, x: &[Scaled]) -> Result<Scaled> {
    let operands: Vec<Value> = x.iter().map(|s| s.value).collect();
    let (degree, common) = match op.rule().homogeneity() {
        _ if matches!(op, Primitive::BatchNorm(_)) => return Ok(x[0]),
        Homogeneity::Each(&[0.5]) => {
            let half = x[0].exponent.div_euclid(2);
            let even = x[0].to(b, 2 * half)?;
            return Ok(Scaled { value: b.push(op.clone(), &[even])?, exponent: half });
        }
        // The exponents of factors add up.
        Homogeneity::Each(degrees) => {
            let exponents = degrees.iter().zip(x).map(|(degree, x)| *degree as i32 * x.exponent);
            let exponent = exponents.sum();
            return Ok(Scaled { value: b.push(op.clone(), &operands)?, exponent });
        }
        // What is added, compared or chosen between has to be of one scale.
        Homogeneity::Joint(degree) => (degree, common_exponent(b, op, x)),
        // Other functions take their operands as they stand.
        Homogeneity::None => (1, 0),
    };
    let aligned = x.iter().map(|s| s.to(b, common)).collect::<Result<Vec<_>>>()?;
    let exponent = if node.fact.dtype.is_float() { degree * common } else { 0 };
    Ok(Scaled { value: b.push(op.clone(), &aligned)?, exponent })
}

/// The exponent to bring operands of one scale to.
fn common_exponent(b: &Builder, op: &Primitive, x: &[Scaled]) -> i32 {
    // A bound, as of ReLU6, has its own scale, and so has what is bounded by it.
    let is_bound = |s: &Scaled| b.as_constant(s.value).is_some_and(|tensor| !tensor.is_all(0.0));
    let is_bounded = match op {
        Primitive::Where(_) => x[1..].iter().any(is_bound),
        Primitive::Binary(Binary::Add | Binary::Sub) => false,
        Primitive::Binary(_) => x.iter().any(is_bound),
        _ => false,
    };
    let floats = x.iter().filter(|s| b.dtype(s.value).is_float());
    match is_bounded {
        true => 0,
        false => floats.map(|s| s.exponent).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval};
    use crate::ops::{BatchNorm, BatchNormMode, Unary};
    use crate::tensor::DType;

    fn weight(rows: usize, columns: usize, scale: f64) -> Tensor {
        let value = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        let values = (0..rows * columns).map(|i| scale * value(i)).collect();
        Tensor::f64(&[rows, columns], values).unwrap()
    }

    /// Layers of very different gains with a shift, a skip connection, and a batch norm.
    fn model(positive: bool) -> Graph {
        let mut b = Builder::default();
        let mut x = b.input("x", Fact::new(DType::F64, [1, 4]));
        let ones = b.constant(Tensor::full(DType::F64, &[4], 1.0));
        for (i, scale) in [1e9, 3e-7, 40.0].into_iter().enumerate() {
            let sign = |t: Tensor| match positive {
                true => Tensor::from_f64(t.to_f64().mapv(f64::abs), DType::F64),
                false => t,
            };
            let w = b.parameter(format!("w{i}"), sign(weight(4, 4, scale)));
            let shift = b.parameter(format!("b{i}"), sign(weight(1, 4, 2.0)));
            let y = b.matmul(x, w).unwrap();
            let y = b.add(y, shift).unwrap();
            let y = if positive {
                y
            } else {
                let norm = BatchNorm { epsilon: 1e-5.into(), mode: BatchNormMode::Running };
                b.push(norm, &[y, ones, ones, ones, ones]).unwrap()
            };
            let y = b.relu(y).unwrap();
            x = b.add(x, y).unwrap();
        }
        b.output("y", x);
        b.finish()
    }

    #[test]
    fn it_is_the_positive_network_up_to_a_power_of_two() {
        let linear = linearise(&model(false)).unwrap();
        assert!(linear.nonlinear.is_empty(), "{:?}", linear.nonlinear);
        let x = [Tensor::full(DType::F64, &[1, 4], 1.0)];
        let plain = eval(&model(true), &x).unwrap()[0].to_f64();
        let scaled = eval(&linear.graph, &x).unwrap()[0].to_f64();
        assert!(linear.exponents[0] > 8);
        for (p, s) in plain.iter().zip(&scaled) {
            let s = s * 2f64.powi(linear.exponents[0]);
            assert!((p - s).abs() < 1e-12 * p, "{p} {s}");
        }
    }

    /// `x · min(max(x/6 + ½, 0), 1)`, as activations of mobile networks are, through many layers of
    /// large and of small gain.
    #[test]
    fn bounds_keep_their_scale() {
        for gain in [1e3, 1e-3] {
            let build = |positive: bool| {
                let mut b = Builder::default();
                let mut x = b.input("x", Fact::new(DType::F64, [1, 4]));
                for i in 0..9 {
                    let w = weight(4, 4, gain).to_f64();
                    let w = if positive { w.mapv(f64::abs) } else { w };
                    let w = b.parameter(format!("w{i}"), Tensor::from_f64(w, DType::F64));
                    let y = b.matmul(x, w).unwrap();
                    let gate = b.scale(y, 1.0 / 6.0).unwrap();
                    let gate = b.shift(gate, 0.5).unwrap();
                    let gate = b.relu(gate).unwrap();
                    let one = b.scalar(DType::F64, 1.0);
                    let below = b.less(gate, one).unwrap();
                    let gate = b.select(below, gate, one).unwrap();
                    x = b.mul(y, gate).unwrap();
                }
                b.output("y", x);
                b.finish()
            };
            let x = [Tensor::full(DType::F64, &[1, 4], 1.0)];
            let plain = eval(&build(true), &x).unwrap()[0].to_f64();
            let linear = linearise(&build(false)).unwrap();
            let scaled = eval(&linear.graph, &x).unwrap()[0].to_f64();
            for (p, s) in plain.iter().zip(&scaled) {
                assert!((1e-9..1e9).contains(s), "{s} leaves no room in float32");
                let s = s * 2f64.powi(linear.exponents[0]);
                assert!((p - s).abs() < 1e-9 * p, "{p} {s}");
            }
        }
    }

    #[test]
    fn what_is_not_homogeneous_is_named_and_sees_plain_values() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 4]));
        let w = b.parameter("w", weight(4, 4, 1e3));
        let y = b.matmul(x, w).unwrap();
        let y = b.unary(Unary::Softplus, y).unwrap();
        b.output("y", y);
        let linear = linearise(&b.finish()).unwrap();
        assert_eq!(linear.nonlinear.iter().collect::<Vec<_>>(), ["Softplus"]);
        assert_eq!(linear.exponents, [0]);
        let y = eval(&linear.graph, &[Tensor::full(DType::F64, &[1, 4], 1.0)]).unwrap();
        let column: f64 = (0..4).map(|i| weight(4, 4, 1e3).to_f64()[[i, 0]].abs()).sum();
        // softplus(c) = c where c is large.
        assert!((y[0].to_f64()[[0, 0]] - column).abs() < 1e-9);
    }
}
