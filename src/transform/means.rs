//! Means that are known before anything runs.

use crate::error::Result;
use crate::graph::{Builder, Graph, Node, Value};
use crate::ops::{Binary, Op, Primitive, Reduce, Reduction, Unary};

/// How far back from a mean the centred values are looked for.
const DEPTH: usize = 8;

/// What `node` on `inputs` is, where it is a mean or sum over what has been centred over the same axes,
/// as a normalisation does: the mean of `(x − mean x)·γ + β` is `β`, through convolutions that only mix
/// channels too. What it still depends on in float32 is rounding noise, and so would be the gradient of
/// everything in front of it.
pub(super) fn known_mean(b: &mut Builder, node: &Node, inputs: &[Value]) -> Result<Option<Value>> {
    let Op::Apply(Primitive::Reduce(op)) = &node.op else { return Ok(None) };
    match op.kind {
        Reduction::Mean => mean(b, inputs[0], op, DEPTH),
        Reduction::Sum if node.fact.dtype.is_float() => {
            let terms = b.fact(inputs[0]).len() / node.fact.len().max(1);
            let op = Reduce { kind: Reduction::Mean, axes: op.axes.clone() };
            match mean(b, inputs[0], &op, DEPTH)? {
                Some(mean) => b.scale(mean, terms as f64).map(Some),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// The mean of `x` without what is centred; `None` where nothing is.
fn mean(b: &mut Builder, x: Value, op: &Reduce, depth: usize) -> Result<Option<Value>> {
    let node = b.graph().node(x).clone();
    let (Some(depth), Op::Apply(primitive)) = (depth.checked_sub(1), &node.op) else {
        return Ok(None);
    };
    let shape = &node.fact.shape;
    let is_same_along = |b: &Builder, v: Value| {
        let own = b.graph().shape(v);
        let missing = shape.len() - own.len();
        op.axes.iter().all(|&axis| axis < missing || own[axis - missing] == 1)
    };
    let is_whole = |b: &Builder, v: Value| b.graph().shape(v) == shape;
    let mut reduced = node.fact.clone();
    op.axes.iter().for_each(|&axis| reduced.shape[axis] = 1);
    match (primitive, node.inputs.as_slice()) {
        (Primitive::Binary(Binary::Sub), &[p, m])
            if mean_axes(b.graph(), m, p) == Some(&op.axes) =>
        {
            b.zeros(&reduced).map(Some)
        }
        (Primitive::Unary(Unary::Neg), &[p]) => match mean(b, p, op, depth)? {
            Some(p) => b.neg(p).map(Some),
            None => Ok(None),
        },
        (
            Primitive::Binary(f @ (Binary::Mul | Binary::Div | Binary::Add | Binary::Sub)),
            &[p, q],
        ) if is_whole(b, p) && is_same_along(b, q) => match mean(b, p, op, depth)? {
            Some(p) if is_nothing(b, *f, p) => Ok(Some(p)),
            Some(p) => b.push(*f, &[p, q]).map(Some),
            None => Ok(None),
        },
        (Primitive::Binary(f @ (Binary::Mul | Binary::Add)), &[p, q])
            if is_whole(b, q) && is_same_along(b, p) =>
        {
            match mean(b, q, op, depth)? {
                Some(q) if is_nothing(b, *f, q) => Ok(Some(q)),
                Some(q) => b.push(*f, &[p, q]).map(Some),
                None => Ok(None),
            }
        }
        (Primitive::Binary(f @ (Binary::Add | Binary::Sub)), &[p, q])
            if is_whole(b, p) && is_whole(b, q) =>
        {
            let (left, right) = (mean(b, p, op, depth)?, mean(b, q, op, depth)?);
            if left.is_none() && right.is_none() {
                return Ok(None);
            }
            let mut rest = |known: Option<Value>, v: Value| match known {
                Some(known) => Ok(known),
                None => b.reduce_mean(v, &op.axes),
            };
            let (left, right) = (rest(left, p)?, rest(right, q)?);
            b.push(*f, &[left, right]).map(Some)
        }
        (Primitive::Conv(conv), &[z, w])
            if op.axes.iter().all(|&axis| axis >= 2)
                && conv.window.is_pointwise(&b.graph().shape(w)[2..]) =>
        {
            match mean(b, z, op, depth)? {
                Some(z) => b.push(conv.clone(), &[z, w]).map(Some),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// Whether `x` is 0 and stays so under `f`.
fn is_nothing(b: &Builder, f: Binary, x: Value) -> bool {
    matches!(f, Binary::Mul | Binary::Div) && b.as_uniform(x) == Some(0.0)
}

/// The axes over which `m` is the mean of `x`, if it is one.
pub(super) fn mean_axes(graph: &Graph, m: Value, x: Value) -> Option<&[usize]> {
    let node = graph.node(m);
    match &node.op {
        Op::Apply(Primitive::Reduce(Reduce { kind: Reduction::Mean, axes }))
            if node.inputs == [x] =>
        {
            Some(axes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval};
    use crate::ops::{BatchNormMode, Window};
    use crate::tensor::{DType, Tensor};
    use crate::transform::{batch_norm, grad};

    fn without_centred_means(graph: &Graph) -> Graph {
        batch_norm(graph, BatchNormMode::Running).unwrap().0
    }

    /// `γ·(x − mean x)/σ + β`, a convolution of one position with bias, a second branch, and the mean.
    fn model(kernel: usize, with_branch: bool) -> Graph {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 2, 4, 4]));
        let vector = |b: &mut Builder, name: &str, v: [f64; 2]| {
            b.parameter(name, Tensor::f64(&[1, 2, 1, 1], v.into()).unwrap())
        };
        let first = vector(&mut b, "first", [0.5, 2.0]);
        let scaled = b.mul(x, first).unwrap();
        let mean = b.reduce_mean(scaled, &[2, 3]).unwrap();
        let centred = b.sub(scaled, mean).unwrap();
        let square = b.mul(centred, centred).unwrap();
        let variance = b.reduce_mean(square, &[2, 3]).unwrap();
        let variance = b.shift(variance, 1e-5).unwrap();
        let deviation = b.sqrt(variance).unwrap();
        let normal = b.div(centred, deviation).unwrap();
        let (gamma, beta) =
            (vector(&mut b, "gamma", [1.5, -1.0]), vector(&mut b, "beta", [0.25, 1.0]));
        let y = b.mul(normal, gamma).unwrap();
        let y = b.add(y, beta).unwrap();
        let weights = (0..2 * 2 * kernel * kernel).map(|i| i as f64 / 3.0 - 1.0).collect();
        let w = b.parameter("w", Tensor::f64(&[2, 2, kernel, kernel], weights).unwrap());
        let mut y = b.conv(y, w, Window::plain(2)).unwrap();
        if with_branch {
            y = b.add(y, scaled).unwrap();
        }
        let y = b.reduce_mean(y, &[2, 3]).unwrap();
        b.output("y", y);
        b.finish()
    }

    fn x() -> Tensor {
        Tensor::f64(&[1, 2, 4, 4], (0..32).map(|i| f64::from(i * 7 % 11) / 4.0).collect()).unwrap()
    }

    fn values(graph: &Graph) -> Vec<f64> {
        eval(graph, &[x()]).unwrap()[0].to_f64().iter().copied().collect()
    }

    /// The names of the parameters that the output depends on.
    fn parameters(graph: &Graph) -> Vec<String> {
        graph.pruned().parameters().map(|(_, p)| p.name.to_string()).collect()
    }

    #[test]
    fn means_of_centred_values_are_what_was_added() {
        for with_branch in [false, true] {
            let graph = model(1, with_branch);
            let simple = without_centred_means(&graph);
            for (got, want) in values(&simple).iter().zip(values(&graph)) {
                assert!((got - want).abs() < 1e-12, "{got} {want}");
            }
            let expected: &[&str] =
                if with_branch { &["first", "beta", "w"] } else { &["beta", "w"] };
            assert_eq!(parameters(&simple), expected);
            // The others are there still, without a gradient.
            assert_eq!(simple.parameters().count(), 4);
        }
    }

    #[test]
    fn other_means_stay() {
        // A larger kernel does not reach all positions alike.
        let graph = model(3, false);
        assert_eq!(parameters(&without_centred_means(&graph)), parameters(&graph));
        assert_eq!(values(&without_centred_means(&graph)), values(&graph));
    }

    #[test]
    fn gradients_are_zero_and_not_noise() {
        let graph = without_centred_means(&model(1, false));
        let mut b = Builder::new(graph.clone());
        let sum = b.sum_all(graph.outputs()[0].value).unwrap();
        let first = graph.parameters().find(|(_, p)| &*p.name == "first").map(|(v, _)| v);
        let wrt: Vec<Value> = first.into_iter().collect();
        let (_, d) = grad(&b.finish(), sum, &wrt).unwrap();
        assert!(d.iter().all(Option::is_none));
    }
}
