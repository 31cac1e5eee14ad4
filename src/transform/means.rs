//! Means that are known before anything runs.

use super::shifts::{Mixed, is_constant, reshaped_axes};
use crate::error::Result;
use crate::graph::{Builder, Fact, Graph, Node, Value};
use crate::ops::{Binary, Op, Primitive, Reduce, Reduction, Unary};

/// How far back from a mean the centred values are looked for.
const DEPTH: usize = 8;

/// What `node` on `inputs` is, where it is a mean or sum over what has been centred over some of the
/// same axes, as a normalisation does: the mean of `(x − mean x)·γ + β` is the mean of `β`, through
/// convolutions that only mix channels too. What it still depends on in float32 is rounding noise, and
/// so would be the gradient of everything in front of it.
pub(super) fn known_mean(b: &mut Builder, node: &Node, inputs: &[Value]) -> Result<Option<Value>> {
    let Op::Apply(Primitive::Reduce(Reduce { kind, axes })) = &node.op else { return Ok(None) };
    match kind {
        Reduction::Mean => mean(b, inputs[0], axes, DEPTH),
        Reduction::Sum if node.fact.dtype.is_float() => {
            let terms = b.fact(inputs[0]).len() / node.fact.len().max(1);
            match mean(b, inputs[0], axes, DEPTH)? {
                Some(mean) => b.scale(mean, terms as f64).map(Some),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// The mean of `x` over `axes`, which keep length 1, without what is centred; `None` where nothing is.
fn mean(b: &mut Builder, x: Value, axes: &[usize], depth: usize) -> Result<Option<Value>> {
    let node = b.graph().node(x).clone();
    let (Some(depth), Op::Apply(op), [_, ..]) = (depth.checked_sub(1), &node.op, axes) else {
        return Ok(None);
    };
    let shape = &node.fact.shape;
    let is_whole = |b: &Builder, v: Value| b.graph().shape(v) == shape;
    match (op, node.inputs.as_slice()) {
        (Primitive::Binary(Binary::Sub), &[p, m])
            if mean_axes(b.graph(), m, p)
                .is_some_and(|own| own.iter().all(|i| axes.contains(i))) =>
        {
            b.zeros(&reduced(&node.fact, axes)).map(Some)
        }
        (Primitive::Unary(Unary::Neg), &[p]) => match mean(b, p, axes, depth)? {
            Some(p) => b.neg(p).map(Some),
            None => Ok(None),
        },
        (Primitive::Binary(f @ (Binary::Mul | Binary::Div)), &[p, q]) if is_whole(b, p) => {
            let passes = |graph: &Graph, axis| is_constant(graph, q, shape.len(), &[axis]);
            mean_after(b, p, axes, depth, passes, |b, p| b.push(*f, &[p, q]))
        }
        (Primitive::Binary(Binary::Mul), &[p, q]) if is_whole(b, q) => {
            let passes = |graph: &Graph, axis| is_constant(graph, p, shape.len(), &[axis]);
            mean_after(b, q, axes, depth, passes, |b, q| b.mul(p, q))
        }
        (Primitive::Binary(f @ (Binary::Add | Binary::Sub)), &[p, q]) => {
            let known = |b: &mut Builder, v: Value| {
                if is_whole(b, v) { mean(b, v, axes, depth) } else { Ok(None) }
            };
            let (left, right) = (known(b, p)?, known(b, q)?);
            if left.is_none() && right.is_none() {
                return Ok(None);
            }
            let rest = |b: &mut Builder, known: Option<Value>, v: Value| match known {
                Some(known) => Ok(known),
                None => {
                    let missing = shape.len() - b.rank(v);
                    let own: Vec<usize> =
                        axes.iter().filter_map(|i| i.checked_sub(missing)).collect();
                    b.reduce_mean(v, &own)
                }
            };
            let (left, right) = (rest(b, left, p)?, rest(b, right, q)?);
            b.push(*f, &[left, right]).map(Some)
        }
        (Primitive::Conv(conv), &[z, w]) if conv.window.is_pointwise(&b.graph().shape(w)[2..]) => {
            let conv = conv.clone();
            mean_after(b, z, axes, depth, |_, axis| axis >= 2, |b, z| b.push(conv, &[z, w]))
        }
        (Primitive::Reshape(_), &[p]) => {
            let Some(own) = reshaped_axes(b.graph().shape(p), shape, axes, Mixed::Refused) else {
                return Ok(None);
            };
            match mean(b, p, &own, depth)? {
                Some(p) => b.reshape(p, &reduced(&node.fact, axes).shape).map(Some),
                None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

/// The mean over `axes` of what `f` makes of `p`. Along those for which `passes`, `f` does the same at all
/// places, so that they can be averaged over before.
fn mean_after(
    b: &mut Builder,
    p: Value,
    axes: &[usize],
    depth: usize,
    passes: impl Fn(&Graph, usize) -> bool,
    f: impl FnOnce(&mut Builder, Value) -> Result<Value>,
) -> Result<Option<Value>> {
    let (first, rest): (Vec<_>, Vec<_>) = axes.iter().partition(|&&axis| passes(b.graph(), axis));
    let Some(p) = mean(b, p, &first, depth)? else { return Ok(None) };
    let is_zero = b.as_uniform(p) == Some(0.0);
    let y = f(b, p)?;
    let y = match rest[..] {
        [] => y,
        _ => b.reduce_mean(y, &rest)?,
    };
    // Nothing of what `f` does is left to compute.
    if is_zero { b.zeros(&b.fact(y).clone()).map(Some) } else { Ok(Some(y)) }
}

/// The fact of a value of which `axes` are reduced to length 1.
fn reduced(fact: &Fact, axes: &[usize]) -> Fact {
    let mut fact = fact.clone();
    axes.iter().for_each(|&axis| fact.shape[axis] = 1);
    fact
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
    use crate::graph::eval;
    use crate::ops::{BatchNormMode, Window};
    use crate::tensor::{DType, Tensor};
    use crate::transform::{batch_norm, grad};

    fn without_centred_means(graph: &Graph) -> Graph {
        batch_norm(graph, BatchNormMode::Running).unwrap().0.graph
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

    /// `(x − mean x)·γ + β` over positions, flattened and normalised once more over everything.
    #[test]
    fn means_over_more_axes_and_other_shapes_are_known() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 2, 4, 4]));
        let first = b.parameter("first", Tensor::f64(&[2, 1, 1], vec![0.5, 2.0]).unwrap());
        let gamma = b.parameter("gamma", Tensor::f64(&[2, 1, 1], vec![1.5, -1.0]).unwrap());
        let beta = b.parameter("beta", Tensor::f64(&[2, 1, 1], vec![0.25, 1.0]).unwrap());
        let x = b.mul(x, first).unwrap();
        let m = b.reduce_mean(x, &[2, 3]).unwrap();
        let centred = b.sub(x, m).unwrap();
        let y = b.mul(centred, gamma).unwrap();
        let y = b.add(y, beta).unwrap();
        let y = b.mul(y, gamma).unwrap();
        let flat = b.reshape(y, &[1, 32]).unwrap();
        let of_all = b.reduce_mean(flat, &[1]).unwrap();
        let of_all = b.reshape(of_all, &[1, 1, 1, 1]).unwrap();
        let again = b.sub(y, of_all).unwrap();
        let again = b.reduce_mean(again, &[2, 3]).unwrap();
        b.output("y", again);
        let graph = b.finish();
        let simple = without_centred_means(&graph);
        for (got, want) in values(&simple).iter().zip(values(&graph)) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert_eq!(parameters(&simple), ["gamma", "beta"]);
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
