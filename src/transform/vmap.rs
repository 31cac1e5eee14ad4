//! Vectorisation: one graph for many samples.

use crate::error::{Error, Result};
use crate::graph::{Builder, Derived, Fact, Graph, Value};
use crate::ops::{Lane, Op};

/// `graph` for `n` lanes at once: the inputs in `batched` get a new leading axis of length `n`,
/// and so does every output (an output that is the same for all lanes is broadcast). Inputs and
/// outputs keep their order and names. In the map, values that depend on no batched input, unless they
/// are outputs, stand for what is the same in all lanes.
///
/// # Errors
/// When a value of `batched` is not an input, or an operation has no form for lanes.
pub fn vmap(graph: &Graph, n: usize, batched: &[Value]) -> Result<Derived> {
    if let Some(stray) = batched.iter().find(|&&v| !matches!(graph.node(v).op, Op::Input(_))) {
        return Err(Error::Usage(format!("vmap over {stray:?}, which is not an input")));
    }
    if n == 0 {
        return Err(Error::Usage("vmap over no lanes".into()));
    }
    let depends = graph.dependents(batched);
    let mut b = Builder::default();
    let mut map = b.import(graph, |b, value, node, inputs| {
        if !depends[value.index()] {
            return Ok(None);
        }
        match &node.op {
            Op::Input(name) => {
                let shape = [&[n], node.fact.shape.as_slice()].concat();
                Ok(Some(b.input(name.clone(), Fact::new(node.fact.dtype, shape))))
            }
            Op::Apply(op) => {
                let lanes: Vec<Lane> = inputs
                    .iter()
                    .zip(&node.inputs)
                    .map(|(&value, old)| Lane { value, batched: depends[old.index()] })
                    .collect();
                let y = op.rule().batch(b, &lanes, n)?;
                debug_assert_eq!(
                    b.shape(y),
                    [&[n], node.fact.shape.as_slice()].concat(),
                    "{} under vmap",
                    op.name()
                );
                Ok(Some(y))
            }
            Op::Parameter(_) | Op::Constant(_) => Ok(None),
        }
    })?;
    b.set_scope("");
    let mut spread = Vec::new();
    for output in graph.outputs() {
        let lane = Lane { value: map.of(output.value)?, batched: depends[output.value.index()] };
        let value = lane.spread(&mut b, n)?;
        b.output(output.name.clone(), value);
        spread.push((output.value, value));
    }
    for (old, new) in spread {
        map.set(old, new);
    }
    Ok(Derived { graph: b.finish().verified(), map })
}
