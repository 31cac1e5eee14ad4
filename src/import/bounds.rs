//! Bounds of the values of a graph that hold for all inputs and parameters.

use std::collections::HashMap;

use crate::graph::{Graph, Value};
use crate::ops::{Binary, Op, Primitive, Reduction, Unary};
use crate::tensor::{DType, Tensor};

/// A closed interval that contains all elements of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub low: f64,
    pub high: f64,
}

const UNBOUNDED: Bounds = Bounds { low: f64::NEG_INFINITY, high: f64::INFINITY };

/// The longest chain of nodes that is followed. Values beyond it are unbounded.
const MAX_DEPTH: usize = 64;

/// Larger constants count as unbounded, to save time.
const MAX_CONSTANT: usize = 1 << 16;

/// The bounds of `value`. Inputs and parameters are unbounded.
pub(crate) fn bounds(graph: &Graph, value: Value) -> Bounds {
    of(graph, value, 0, &mut HashMap::new())
}

impl Bounds {
    fn new(low: f64, high: f64) -> Self {
        Bounds { low, high }
    }

    /// Whether all values are probabilities.
    pub fn is_probability(self) -> bool {
        self.low >= 0.0 && self.high <= 1.0
    }

    /// The bounds of a monotone function.
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Bounds::new(f(self.low), f(self.high))
    }

    fn negated(self) -> Self {
        Bounds::new(-self.high, -self.low)
    }

    fn union(self, other: Self) -> Self {
        Bounds::new(self.low.min(other.low), self.high.max(other.high))
    }

    fn product(self, other: Self) -> Self {
        // Zero times an infinite bound is zero: the values themselves are finite.
        let times = |x: f64, y: f64| if x == 0.0 || y == 0.0 { 0.0 } else { x * y };
        let corners = [
            times(self.low, other.low),
            times(self.low, other.high),
            times(self.high, other.low),
            times(self.high, other.high),
        ];
        let fold = |f: fn(f64, f64) -> f64| corners.into_iter().reduce(f).unwrap_or(f64::NAN);
        Bounds::new(fold(f64::min), fold(f64::max))
    }

    /// The bounds of `1 / x`.
    fn reciprocal(self) -> Self {
        if self.low > 0.0 || self.high < 0.0 {
            Bounds::new(1.0 / self.high, 1.0 / self.low)
        } else if self.low == 0.0 {
            Bounds::new(1.0 / self.high, f64::INFINITY)
        } else {
            UNBOUNDED
        }
    }

    fn magnitude(self) -> Self {
        let high = self.low.abs().max(self.high.abs());
        let low = if self.low > 0.0 { self.low } else { (-self.high).max(0.0) };
        Bounds::new(low, high)
    }
}

fn of(graph: &Graph, value: Value, depth: usize, known: &mut HashMap<Value, Bounds>) -> Bounds {
    if let Some(bounds) = known.get(&value) {
        return *bounds;
    }
    let node = graph.node(value);
    let bounds = match &node.op {
        Op::Constant(tensor) => of_constant(tensor),
        Op::Apply(op) if depth < MAX_DEPTH => {
            let mut operand = |i: usize| of(graph, node.inputs[i], depth + 1, known);
            of_result(graph, op, &node.inputs, &mut operand)
        }
        _ if node.fact.dtype == DType::Bool => Bounds::new(0.0, 1.0),
        _ => UNBOUNDED,
    };
    // NaN comes from arithmetic on infinite bounds, such as ∞ − ∞.
    let or = |v: f64, unknown: f64| if v.is_nan() { unknown } else { v };
    let bounds = Bounds::new(or(bounds.low, f64::NEG_INFINITY), or(bounds.high, f64::INFINITY));
    known.insert(value, bounds);
    bounds
}

fn of_constant(tensor: &Tensor) -> Bounds {
    if tensor.len() > MAX_CONSTANT {
        return UNBOUNDED;
    }
    let values = tensor.to_f64();
    if values.iter().any(|v| v.is_nan()) {
        return UNBOUNDED;
    }
    values.iter().map(|&v| Bounds::new(v, v)).reduce(Bounds::union).unwrap_or(UNBOUNDED)
}

fn of_result(
    graph: &Graph,
    op: &Primitive,
    inputs: &[Value],
    operand: &mut dyn FnMut(usize) -> Bounds,
) -> Bounds {
    match op {
        Primitive::Reshape(_)
        | Primitive::Transpose(_)
        | Primitive::Slice(_)
        | Primitive::Expand(_)
        | Primitive::Detach(_)
        | Primitive::Gather(_)
        | Primitive::MaxPool(_) => operand(0),
        Primitive::Cast(cast) if cast.to == DType::Bool => Bounds::new(0.0, 1.0),
        Primitive::Cast(cast) if cast.to.is_float() => operand(0),
        Primitive::Cast(_) => {
            let x = operand(0);
            Bounds::new(x.low.floor(), x.high.ceil())
        }
        // The zero padding counts.
        Primitive::AveragePool(_) => operand(0).union(Bounds::new(0.0, 0.0)),
        Primitive::Pad(pad) => {
            let filler = pad.value.get();
            operand(0).union(Bounds::new(filler, filler))
        }
        Primitive::Concat(_) => {
            (0..inputs.len()).map(operand).reduce(Bounds::union).unwrap_or(UNBOUNDED)
        }
        Primitive::Softmax(softmax) if softmax.log => Bounds::new(f64::NEG_INFINITY, 0.0),
        Primitive::Softmax(_) => Bounds::new(0.0, 1.0),
        Primitive::Unary(f) => of_unary(*f, operand(0)),
        Primitive::Binary(f) => {
            if *f == Binary::Mul && inputs[0] == inputs[1] {
                let size = operand(0).magnitude();
                return size.product(size);
            }
            of_binary(*f, operand(0), operand(1), graph.uniform(inputs[1]))
        }
        Primitive::Where(_) => of_selection(graph, inputs, operand),
        Primitive::Reduce(reduce) => {
            let x = operand(0);
            let n: usize = reduce.axes.iter().map(|&i| graph.shape(inputs[0])[i]).product();
            match reduce.kind {
                _ if n == 0 => UNBOUNDED,
                Reduction::Max | Reduction::Min | Reduction::Mean => x,
                Reduction::Sum => x.product(Bounds::new(n as f64, n as f64)),
                Reduction::Prod if x.is_probability() => Bounds::new(0.0, 1.0),
                Reduction::Prod if x.low >= 0.0 => Bounds::new(0.0, f64::INFINITY),
                Reduction::Prod => UNBOUNDED,
            }
        }
        Primitive::MatMul(product) => {
            let shape = graph.shape(inputs[0]);
            let axis = shape.len().saturating_sub(if product.trans_a { 2 } else { 1 });
            let n = shape.get(axis).copied().unwrap_or(0) as f64;
            let each = operand(0).product(operand(1));
            each.product(Bounds::new(n, n))
        }
        _ => UNBOUNDED,
    }
}

fn of_unary(f: Unary, x: Bounds) -> Bounds {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    match f {
        Unary::Abs => x.magnitude(),
        Unary::Neg => x.negated(),
        Unary::Relu => x.map(|x| x.max(0.0)),
        Unary::Sigmoid => x.map(sigmoid),
        Unary::Softplus => x.map(softplus),
        Unary::Exp => x.map(f64::exp),
        Unary::Tanh => x.map(f64::tanh),
        Unary::Floor => x.map(f64::floor),
        Unary::Ceil => x.map(f64::ceil),
        Unary::Round => x.map(f64::round_ties_even),
        Unary::Sqrt => x.map(|x| x.max(0.0).sqrt()),
        Unary::Log if x.low >= 0.0 => x.map(f64::ln),
        Unary::Reciprocal => x.reciprocal(),
        Unary::Erf | Unary::Sin | Unary::Cos | Unary::Sign => Bounds::new(-1.0, 1.0),
        Unary::Not | Unary::IsNaN | Unary::IsInf => Bounds::new(0.0, 1.0),
        Unary::Cosh => Bounds::new(1.0, f64::INFINITY),
        _ => UNBOUNDED,
    }
}

fn of_binary(f: Binary, x: Bounds, y: Bounds, exponent: Option<f64>) -> Bounds {
    match f {
        Binary::Add => Bounds::new(x.low + y.low, x.high + y.high),
        Binary::Sub => Bounds::new(x.low - y.high, x.high - y.low),
        Binary::Mul => x.product(y),
        Binary::Div => x.product(y.reciprocal()),
        Binary::Max => Bounds::new(x.low.max(y.low), x.high.max(y.high)),
        Binary::Min => Bounds::new(x.low.min(y.low), x.high.min(y.high)),
        Binary::Pow if x.is_probability() && y.low >= 0.0 => Bounds::new(0.0, 1.0),
        Binary::Pow if x.low >= 0.0 || exponent.is_some_and(|e| e % 2.0 == 0.0) => {
            Bounds::new(0.0, f64::INFINITY)
        }
        Binary::Pow | Binary::Mod => UNBOUNDED,
        Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Equal
        | Binary::Greater
        | Binary::GreaterOrEqual
        | Binary::Less
        | Binary::LessOrEqual => Bounds::new(0.0, 1.0),
    }
}

/// The bounds of a selection. A condition that compares `x` with a constant bounds `x` in its branch, as
/// in `x > c ? x : c`.
fn of_selection(
    graph: &Graph,
    inputs: &[Value],
    operand: &mut dyn FnMut(usize) -> Bounds,
) -> Bounds {
    let (mut yes, mut no) = (operand(1), operand(2));
    let condition = graph.node(inputs[0]);
    if let Op::Apply(Primitive::Binary(f)) = &condition.op {
        let greater = match f {
            Binary::Greater | Binary::GreaterOrEqual => Some(true),
            Binary::Less | Binary::LessOrEqual => Some(false),
            _ => None,
        };
        let (left, right) = (condition.inputs[0], condition.inputs[1]);
        let sides = [
            (left, graph.uniform(right), greater),
            (right, graph.uniform(left), greater.map(|g| !g)),
        ];
        for (x, bound, greater) in sides {
            let (Some(bound), Some(greater)) = (bound, greater) else { continue };
            let above = |side: &mut Bounds| side.low = side.low.max(bound);
            let below = |side: &mut Bounds| side.high = side.high.min(bound);
            if inputs[1] == x {
                if greater { above(&mut yes) } else { below(&mut yes) }
            }
            if inputs[2] == x {
                if greater { below(&mut no) } else { above(&mut no) }
            }
        }
    }
    yes.union(no)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::graph::{Builder, Fact, eval};
    use crate::ops::Softmax;

    /// Checks that the result of `f` has the bounds `wanted`, and that they hold for some operands.
    fn check(wanted: (f64, f64), f: impl Fn(&mut Builder, Value, Value) -> Result<Value>) {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [2, 3]));
        let y = b.input("y", Fact::new(DType::F64, [2, 3]));
        let z = f(&mut b, x, y).unwrap();
        b.output("z", z);
        let graph = b.finish();
        let Bounds { low, high } = bounds(&graph, graph.outputs()[0].value);
        assert!((low, high) == wanted, "{low} {high}, not {wanted:?}");
        for scale in [1e-3, 1.0, 50.0] {
            let values = |start: f64| {
                let values = (0..6).map(|i| scale * (start + 2.3 * f64::from(i)).sin()).collect();
                Tensor::f64(&[2, 3], values).unwrap()
            };
            let got = eval(&graph, &[values(0.0), values(5.0)]).unwrap()[0].to_f64();
            assert!(got.iter().all(|v| (low..=high).contains(v)), "{got} in {low} {high}");
        }
    }

    #[test]
    fn bounds_hold_and_are_tight() {
        const INF: f64 = f64::INFINITY;
        check((-INF, INF), Builder::mul);
        check((0.0, INF), |b, x, _| b.mul(x, x));
        check((0.0, INF), |b, x, _| b.exp(x));
        check((0.0, 1.0), |b, x, _| b.push(Softmax { axis: 1, log: false }, &[x]));
        check((-INF, 0.0), |b, x, _| b.push(Softmax { axis: 1, log: true }, &[x]));
        check((0.0, 2.0), |b, x, y| {
            let (x, y) = (b.sigmoid(x)?, b.sigmoid(y)?);
            b.add(x, y)
        });
        check((-1.0, 1.0), |b, x, y| {
            let (x, y) = (b.sigmoid(x)?, b.sigmoid(y)?);
            b.sub(x, y)
        });
        check((0.0, 1.0), |b, x, _| {
            let x = b.sigmoid(x)?;
            b.one_minus(x)
        });
        check((0.0, 3.0), |b, x, _| {
            let x = b.sigmoid(x)?;
            b.reduce_sum(x, &[1])
        });
        check((0.25, 0.5), |b, x, _| {
            let (low, high) = (b.scalar_like(x, 0.25), b.scalar_like(x, 0.5));
            let above = b.greater(x, low)?;
            let x = b.select(above, x, low)?;
            let below = b.less(x, high)?;
            b.select(below, x, high)
        });
        check((0.0, 1.0), |b, x, _| {
            let e = b.exp(x)?;
            let sum = b.shift(e, 1.0)?;
            b.unary(Unary::Reciprocal, sum)
        });
        check((-3.0, 3.0), |b, x, y| {
            let (x, y) = (b.tanh(x)?, b.tanh(y)?);
            b.matmul_t(x, y, false, true)
        });
    }
}
