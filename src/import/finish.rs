//! The end of a model: its final activation, and signs that batch norm was folded away.

use crate::error::Result;
use crate::graph::{Builder, Node, Value};
use crate::onnx::Model;
use crate::ops::{Binary, Op, Primitive, Reduction, Reshape, Softmax, Unary};

/// An activation at the end of a model that belongs to its loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalActivation {
    /// Softmax over the classes.
    Softmax,
    /// The logarithm of softmax.
    LogSoftmax,
    /// The logistic function.
    Sigmoid,
}

/// Takes the final activation off `output`: what goes into it, in the shape of the output.
pub(super) fn split_activation(
    b: &mut Builder,
    output: Value,
) -> Result<(Value, Option<FinalActivation>)> {
    let shape = b.shape(output);
    let mut at = output;
    let mut log = false;
    loop {
        let node = b.graph().node(at);
        let Op::Apply(op) = &node.op else { break };
        let from = node.inputs.first().copied();
        match (op, from) {
            (Primitive::Reshape(Reshape { .. }), Some(x)) if same_but_for_units(b, x, at) => at = x,
            (Primitive::Cast(cast), Some(x)) if cast.to.is_float() && b.dtype(x).is_float() => {
                at = x;
            }
            (Primitive::Unary(Unary::Log), Some(x)) if !log => {
                (at, log) = (x, true);
            }
            (Primitive::Unary(Unary::Sigmoid), Some(x)) if !log => {
                return Ok((b.reshape(x, &shape)?, Some(FinalActivation::Sigmoid)));
            }
            (Primitive::Binary(Binary::Div), Some(x)) if !log && divides_by_sum(b, node) => {
                match &b.graph().node(x).op {
                    // Probabilities already.
                    Op::Apply(Primitive::Softmax(_)) => at = x,
                    _ => {
                        // The logarithm of probabilities is what softmax takes back to them.
                        let logits = b.unary(Unary::Log, output)?;
                        return Ok((logits, Some(FinalActivation::Softmax)));
                    }
                }
            }
            (Primitive::Softmax(softmax), Some(x)) if over_classes(b, x, softmax) => {
                let activation = match (softmax.log, log) {
                    (false, false) => FinalActivation::Softmax,
                    (true, true) => break,
                    _ => FinalActivation::LogSoftmax,
                };
                return Ok((b.reshape(x, &shape)?, Some(activation)));
            }
            _ => break,
        }
    }
    Ok((output, None))
}

/// Whether `node` is `x / Σ|x|` over the classes, with which scikit-learn's models end.
fn divides_by_sum(b: &Builder, node: &Node) -> bool {
    let (x, sum) = (node.inputs[0], b.graph().node(node.inputs[1]));
    let Op::Apply(Primitive::Reduce(reduce)) = &sum.op else { return false };
    let size = b.graph().node(sum.inputs[0]);
    reduce.kind == Reduction::Sum
        && matches!(reduce.axes[..], [axis] if axis + 1 == b.rank(x))
        && matches!(size.op, Op::Apply(Primitive::Unary(Unary::Abs)))
        && size.inputs[0] == x
}

fn same_but_for_units(b: &Builder, x: Value, y: Value) -> bool {
    let long = |v: Value| b.shape(v).into_iter().filter(|&d| d != 1).collect::<Vec<_>>();
    long(x) == long(y)
}

/// Whether a softmax runs over the axis of the classes: the last one, or the second where what
/// follows are positions.
fn over_classes(b: &Builder, x: Value, softmax: &Softmax) -> bool {
    let shape = b.shape(x);
    softmax.axis == 1 || shape[softmax.axis + 1..].iter().all(|&d| d == 1)
}

/// A warning where the exporter seems to have folded batch norm into convolutions. Two exporters
/// leave traces of it: PyTorch's TorchScript-based one gives folded weights names of their own
/// (`onnx::Conv_123`), for weight and bias alike, where it otherwise keeps the module's names;
/// tf2onnx ends the names of folded tensors in `_fused_bn`.
pub(super) fn folded_batch_norm(model: &Model, batch_norms: usize) -> Option<String> {
    if batch_norms > 0 {
        return None;
    }
    let anonymous = |name: &String| name.starts_with("onnx::Conv_");
    let fused = |name: &String| name.contains("_fused_bn");
    let folded = model.graph.nodes.iter().filter(|node| node.op == "Conv").any(|node| match &node
        .inputs[..]
    {
        [_, weight, bias] => (anonymous(weight) && anonymous(bias)) || fused(weight) || fused(bias),
        _ => false,
    });
    folded.then(|| {
        "batch normalisation seems to have been folded into the convolutions at export, so the \
         scores are those of another network; export again with batch norm kept (PyTorch: \
         training=torch.onnx.TrainingMode.PRESERVE with do_constant_folding=False, or the dynamo \
         exporter with optimize=False)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, eval};
    use crate::tensor::{DType, Tensor};

    /// The logits of `activation(x)` divided by the sum of its magnitudes, and their softmax beside
    /// the output.
    fn logits_of(activation: impl Fn(&mut Builder, Value) -> Value) -> [Vec<f64>; 3] {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F64, [1, 3]));
        let y = activation(&mut b, x);
        let size = b.unary(Unary::Abs, y).unwrap();
        let sum = b.reduce_sum(size, &[1]).unwrap();
        let y = b.div(y, sum).unwrap();
        let (logits, taken) = split_activation(&mut b, y).unwrap();
        assert_eq!(taken, Some(FinalActivation::Softmax));
        let back = b.push(Softmax { axis: 1, log: false }, &[logits]).unwrap();
        for (name, value) in [("logits", logits), ("back", back), ("y", y)] {
            b.output(name, value);
        }
        let x = Tensor::f64(&[1, 3], vec![0.5, -1.0, 2.0]).unwrap();
        let values = eval(&b.finish(), &[x]).unwrap();
        std::array::from_fn(|i| values[i].to_f64().into_raw_vec_and_offset().0)
    }

    #[test]
    fn normalised_probabilities_have_logits() {
        let softmax = |b: &mut Builder, x| b.push(Softmax { axis: 1, log: false }, &[x]).unwrap();
        let sigmoid = |b: &mut Builder, x| b.sigmoid(x).unwrap();
        let of_softmax = logits_of(softmax);
        assert_eq!(of_softmax[0], [0.5, -1.0, 2.0]);
        for [_, back, y] in [of_softmax, logits_of(sigmoid)] {
            for (back, y) in back.iter().zip(&y) {
                assert!((back - y).abs() < 1e-12, "{back} {y}");
            }
        }
    }
}
