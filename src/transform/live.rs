//! The part of a graph through which its outputs depend on its inputs.
//!
//! A branch that is multiplied by a constant zero has no effect, and neither has what feeds only such
//! branches, or follows one as long as nothing that varies with the input joins it. What is trained may
//! be anything: a parameter that happens to be zero stops nothing.

use crate::graph::Graph;
use crate::ops::Op;

/// What a value is, from what never changes to what changes with each input. A value is the last of
/// what its operands are, unless a zero comes in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Made of constants alone.
    Known,
    /// Made of parameters and constants: weights, as they are or computed from others.
    Trained,
    /// The same for every input, since a zero has cut off what it is made of.
    CutOff,
    /// Another for each input.
    Varying,
}

/// For each value of `graph`, whether it is live: it varies with the inputs and an output depends on it
/// through values that do, or it is made of parameters and constants that such a value reads.
///
/// [`Graph::live`] asks less: whether there is any path to an output. Zeros are found by what each
/// operation says of itself ([`Rule::vanishes`](crate::ops::Rule::vanishes)), tensor by tensor: a tensor
/// that is zero in part stops nothing. Where the outputs are the same for every input, nothing is live.
///
/// ```
/// use gradalign::graph::{Builder, Fact};
/// use gradalign::tensor::{DType, Tensor};
/// use gradalign::transform::live;
///
/// # fn main() -> gradalign::Result<()> {
/// // x·v + 0·(x·w)
/// let mut b = Builder::default();
/// let x = b.input("x", Fact::new(DType::F32, [2]));
/// let v = b.parameter("v", Tensor::f32(&[2], vec![1.0, 2.0])?);
/// let w = b.parameter("w", Tensor::f32(&[2], vec![3.0, 4.0])?);
/// let (left, right) = (b.mul(x, v)?, b.mul(x, w)?);
/// let nothing = b.scale(right, 0.0)?;
/// let y = b.add(left, nothing)?;
/// b.output("y", y);
/// let graph = b.finish();
///
/// let live = live(&graph);
/// let names = graph.nodes().zip(live).filter(|(_, live)| *live);
/// let names: Vec<&str> = names.filter_map(|((value, _), _)| graph.name(value)).collect();
/// assert_eq!(names, ["x", "v"]);
/// # Ok(())
/// # }
/// ```
pub fn live(graph: &Graph) -> Vec<bool> {
    let kinds = kinds(graph);
    let mut live = vec![false; kinds.len()];
    for output in graph.outputs() {
        live[output.value.index()] = kinds[output.value.index()] == Kind::Varying;
    }
    for (value, node) in graph.nodes().rev() {
        if live[value.index()] {
            for input in &node.inputs {
                live[input.index()] |= kinds[input.index()] != Kind::CutOff;
            }
        }
    }
    live
}

fn kinds(graph: &Graph) -> Vec<Kind> {
    let (mut kinds, mut zero) = (Vec::new(), Vec::new());
    for (_, node) in graph.nodes() {
        let (kind, is_zero) = match &node.op {
            Op::Input(_) => (Kind::Varying, false),
            Op::Parameter(_) => (Kind::Trained, false),
            Op::Constant(tensor) => (Kind::Known, tensor.is_all(0.0)),
            Op::Apply(op) => {
                let zeros: Vec<bool> =
                    node.inputs.iter().map(|input| zero[input.index()]).collect();
                let operands = node.inputs.iter().map(|input| kinds[input.index()]);
                match (operands.max().unwrap_or(Kind::Known), op.rule().vanishes(&zeros)) {
                    (Kind::Known, is_zero) => (Kind::Known, is_zero),
                    (_, true) => (Kind::CutOff, true),
                    (kind, false) => (kind, false),
                }
            }
        };
        kinds.push(kind);
        zero.push(is_zero);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Fact, Value};
    use crate::ops::{BatchNorm, BatchNormMode, Conv, Window};
    use crate::tensor::{DType, Tensor};

    /// The names of live parameters of the graph whose output `make` gives, for an image `x`.
    fn names(make: impl FnOnce(&mut Builder, Value) -> Value) -> Vec<String> {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [1, 2, 4, 4]));
        let y = make(&mut b, x);
        b.output("y", y);
        let graph = b.finish();
        let live = live(&graph);
        let parameters = graph.parameters().filter(|(value, _)| live[value.index()]);
        parameters.map(|(_, parameter)| parameter.name.to_string()).collect()
    }

    fn vector(b: &mut Builder, name: &str) -> Value {
        b.parameter(name, Tensor::f32(&[2], vec![1.0, 2.0]).unwrap())
    }

    /// A convolution with batch normalisation; `name` is that of its kernel.
    fn layer(b: &mut Builder, x: Value, name: &str) -> Value {
        let kernel = Tensor::full(DType::F32, &[2, 2, 1, 1], 1.0);
        let kernel = b.parameter(name, kernel);
        let y = b.push(Conv { window: Window::plain(2) }, &[x, kernel]).unwrap();
        let scale = vector(b, &format!("{name}.scale"));
        let shift = vector(b, &format!("{name}.shift"));
        let (mean, variance) =
            (Tensor::full(DType::F32, &[2], 0.5), Tensor::full(DType::F32, &[2], 2.0));
        let (mean, variance) = (b.constant(mean), b.constant(variance));
        let norm = BatchNorm { epsilon: 1e-5.into(), mode: BatchNormMode::Running };
        b.push(norm, &[y, scale, shift, mean, variance]).unwrap()
    }

    #[test]
    fn what_a_zero_cuts_off_is_not_live() {
        let live = names(|b, x| {
            let kept = layer(b, x, "kept");
            // Before the zero, and behind it: a constant, though not zero.
            let before = layer(b, x, "before");
            let zero = b.scale(before, 0.0).unwrap();
            let zero = b.relu(zero).unwrap();
            let behind = layer(b, zero, "behind");
            let sum = b.add(kept, behind).unwrap();
            layer(b, sum, "last")
        });
        let of = |name: &str| ["", ".scale", ".shift"].map(|part| format!("{name}{part}"));
        assert_eq!(live, [of("kept"), of("last")].concat());
    }

    #[test]
    fn zeros_of_the_file_cut_off_what_reads_them() {
        let live = names(|b, x| {
            let zeros = b.constant(Tensor::full(DType::F32, &[1, 2, 4, 4], 0.0));
            let dead = layer(b, zeros, "dead");
            let dead = layer(b, dead, "behind");
            let x = layer(b, x, "kept");
            b.add(x, dead).unwrap()
        });
        assert_eq!(live, ["kept", "kept.scale", "kept.shift"]);
    }

    #[test]
    fn nothing_is_live_where_the_output_is_constant() {
        let dead = |b: &mut Builder, x| {
            let y = layer(b, x, "a");
            let zero = b.scale(y, 0.0).unwrap();
            layer(b, zero, "b")
        };
        assert!(names(dead).is_empty());
    }

    #[test]
    fn weights_that_are_computed_are_live() {
        let live = names(|b, x| {
            // W = relu(v) beside rows of zeros, times a parameter that is zero today.
            let v = vector(b, "v");
            let v = b.relu(v).unwrap();
            let zeros = b.constant(Tensor::full(DType::F32, &[1], 0.0));
            let zeros = b.expand(zeros, &[2]).unwrap();
            let w = b.concat(&[v, zeros], 0).unwrap();
            let gate = b.parameter("gate", Tensor::full(DType::F32, &[], 0.0));
            let w = b.mul(w, gate).unwrap();
            let masked = vector(b, "masked");
            let masked = b.scale(masked, 0.0).unwrap();
            vector(b, "unread");
            let y = b.mul(x, w).unwrap();
            let masked = b.concat(&[masked, masked], 0).unwrap();
            b.add(y, masked).unwrap()
        });
        assert_eq!(live, ["v", "gate"]);
    }
}
