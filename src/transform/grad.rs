//! Reverse-mode differentiation.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Value};
use crate::ops::{Derivative, Op, Site};

/// Extends `graph` by the gradient of the scalar `of` with respect to each value of `wrt`, which
/// may be inputs, parameters or intermediate values. Returns the new graph, in which earlier
/// values keep their identity, and the cotangents: of the dtype and shape of the value, or `None`
/// where `of` does not depend on it.
///
/// The result consists of the same operations, so it can be differentiated again, and `vmap`
/// applies to it.
///
/// # Errors
/// When `of` is not a floating-point scalar, or depends on a value of `wrt` through an operation
/// that has no derivative.
pub fn grad(graph: &Graph, of: Value, wrt: &[Value]) -> Result<(Graph, Vec<Option<Value>>)> {
    let fact = graph.fact(of);
    if fact.rank() != 0 || !fact.dtype.is_float() {
        return Err(Error::NotDifferentiable(format!(
            "the gradient of {fact} was asked for; only a floating-point scalar has one"
        )));
    }
    // Only values on a path from `wrt` to `of` carry a cotangent.
    let active = active_values(graph, wrt);
    let mut b = Builder::new(graph.clone());
    let mut cotangents: Vec<Option<Value>> = vec![None; graph.nodes().len()];
    let one = b.scalar(fact.dtype, 1.0);
    cotangents[of.index()] = Some(one);

    for (value, node) in graph.nodes().rev() {
        let Op::Apply(op) = &node.op else { continue };
        let Some(dy) = cotangents[value.index()] else { continue };
        let wants: Vec<bool> = node.inputs.iter().map(|input| active[input.index()]).collect();
        if !wants.contains(&true) {
            continue;
        }
        if let Derivative::Unsupported(reason) = op.rule().derivative() {
            return Err(Error::NotDifferentiable(format!(
                "node '{}' ({}): {reason}",
                node.scope,
                op.name()
            )));
        }
        b.set_scope(gradient_scope(&node.scope));
        let site = Site { inputs: &node.inputs, output: value, wants: &wants };
        for (i, cotangent) in op.rule().vjp(&mut b, &site, dy)?.into_iter().enumerate() {
            let (Some(new), true) = (cotangent, wants[i]) else { continue };
            debug_assert_eq!(
                b.fact(new),
                graph.fact(node.inputs[i]),
                "cotangent {i} of {} has the fact of its operand",
                op.name()
            );
            let slot = &mut cotangents[node.inputs[i].index()];
            *slot = Some(match *slot {
                Some(old) => b.add(old, new)?,
                None => new,
            });
        }
    }
    let wanted = wrt.iter().map(|v| cotangents[v.index()]).collect();
    Ok((b.finish().verified(), wanted))
}

/// For each value, whether a derivative with respect to one of `wrt` passes through it.
fn active_values(graph: &Graph, wrt: &[Value]) -> Vec<bool> {
    let mut active = vec![false; graph.nodes().len()];
    for value in wrt {
        active[value.index()] = graph.fact(*value).dtype.is_float();
    }
    for (value, node) in graph.nodes() {
        if let Op::Apply(op) = &node.op
            && node.fact.dtype.is_float()
            && op.rule().derivative() != Derivative::Zero
            && node.inputs.iter().any(|input| active[input.index()])
        {
            active[value.index()] = true;
        }
    }
    active
}

fn gradient_scope(scope: &Arc<str>) -> Arc<str> {
    if scope.starts_with("grad/") { scope.clone() } else { format!("grad/{scope}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval_values};
    use crate::tensor::{DType, Tensor};

    fn scalar(v: f64) -> Tensor {
        Tensor::full(DType::F64, &[], v)
    }

    #[test]
    fn third_derivative_of_a_power() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, []));
        let three = b.scalar(DType::F64, 3.0);
        let mut y = b.pow(x, three).unwrap();
        let mut graph = b.finish();
        for expected in [12.0, 12.0, 6.0] {
            let (next, d) = grad(&graph, y, &[x]).unwrap();
            (graph, y) = (next, d[0].unwrap());
            let value = eval_values(&graph, &[scalar(2.0)], &[y]).unwrap();
            assert_eq!(value[0].scalar(), Some(expected));
        }
    }

    #[test]
    fn what_does_not_matter_has_no_cotangent() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, []));
        let z = b.input("z", Fact::new(DType::F64, []));
        let floor = b.unary(crate::ops::Unary::Floor, z).unwrap();
        let y = b.add(x, floor).unwrap();
        let (_, d) = grad(&b.finish(), y, &[x, z]).unwrap();
        assert!(d[0].is_some() && d[1].is_none());
    }

    #[test]
    fn only_scalars_have_a_gradient() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [2]));
        assert!(grad(&b.finish(), x, &[x]).is_err());
    }
}
