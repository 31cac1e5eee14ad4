//! Losses, appended to a model's output.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Value};
use crate::ops::Unary;
use crate::tensor::{DType, Tensor};

/// The name of the input that the targets are given by, unless the model has one of that name: see
/// [`target_name`].
pub const LABELS: &str = "labels";

/// The name of the input that [`loss`] gives the targets of `model` by: [`LABELS`], or
/// `gradalign.labels` where the model has an input of that name itself.
pub fn target_name(model: &Graph) -> String {
    let mut name = LABELS.to_owned();
    while model.input(&name).is_some() {
        name = format!("gradalign.{name}");
    }
    name
}

/// The loss of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// `−log softmax(z)_y` on logits `z` of `K` classes; the label `y` is an int64 scalar. On a map of
    /// logits `[1, K, H, W]`, or with any other axes in place of `H, W`, the mean over its positions;
    /// the labels are int64 `[H, W]`.
    CrossEntropy,
    /// The mean of `t·softplus(−z) + (1 − t)·softplus(z)` over the logits; the target `t` has the output's shape.
    BinaryCrossEntropy,
    /// The mean of `(z − t)²` over the outputs; the target `t` has the output's shape.
    MeanSquaredError,
    /// The mean cross-entropy over `T` positions of logits `[1, T, K]`, or over positions with
    /// several axes; the labels are int64 `[T]`.
    TokenCrossEntropy,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::CrossEntropy => "cross-entropy",
            Loss::BinaryCrossEntropy => "bce",
            Loss::MeanSquaredError => "mse",
            Loss::TokenCrossEntropy => "token-cross-entropy",
        })
    }
}

impl FromStr for Loss {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        [
            Loss::CrossEntropy,
            Loss::BinaryCrossEntropy,
            Loss::MeanSquaredError,
            Loss::TokenCrossEntropy,
        ]
        .into_iter()
        .find(|loss| loss.to_string() == s)
        .ok_or_else(|| {
            Error::Usage(format!(
                "unknown loss '{s}': choose cross-entropy, bce, mse or token-cross-entropy"
            ))
        })
    }
}

impl Loss {
    /// Whether it is a function of logits, into which a Softmax or Sigmoid at the end of a model
    /// is taken.
    pub fn is_of_logits(self) -> bool {
        self != Loss::MeanSquaredError
    }

    /// The axis of the classes in a model output of shape `output`, batch axis included; `None` where
    /// the loss has no classes, or all of the output is them.
    pub fn class_axis(self, output: &[usize]) -> Option<usize> {
        let long = output.iter().filter(|&&d| d != 1).count();
        match self {
            Loss::CrossEntropy if long > 1 && output.len() > 2 => Some(1),
            Loss::TokenCrossEntropy => output.len().checked_sub(1),
            _ => None,
        }
    }

    /// Dtype and shape of one sample's target for a model output of shape `output`, whose leading
    /// axis is the batch, of length 1. An output without axes is one number.
    /// Errs when the output cannot be meant for this loss.
    pub fn target(self, output: &Fact) -> Result<Fact> {
        let unfit = |wanted: &str| {
            Error::Usage(format!(
                "{self} needs an output of {wanted}, this model's is {:?}: choose another `loss` \
                 or another `tensor`",
                output.shape
            ))
        };
        let sample = match output.shape.as_slice() {
            [] => &[],
            [1, sample @ ..] => sample,
            _ => return Err(unfit("a leading batch axis of length 1")),
        };
        let axis = self.class_axis(&output.shape);
        let classes = axis.map_or(output.len(), |axis| output.shape[axis]);
        match self {
            Loss::CrossEntropy | Loss::TokenCrossEntropy if classes < 2 => {
                Err(unfit("at least two classes"))
            }
            Loss::CrossEntropy if axis.is_none() => Ok(Fact::new(DType::I64, [])),
            Loss::CrossEntropy => Ok(Fact::new(DType::I64, &sample[1..])),
            Loss::TokenCrossEntropy => match sample {
                [positions @ .., _] if !positions.is_empty() => {
                    Ok(Fact::new(DType::I64, positions))
                }
                _ => Err(unfit("shape [1, positions, classes]")),
            },
            Loss::BinaryCrossEntropy | Loss::MeanSquaredError => {
                Ok(Fact::new(output.dtype, sample))
            }
        }
    }
}

/// Extends a model graph, whose first output is its prediction for one sample, by the input for the
/// targets, called by [`target_name`], and the scalar loss. Returns the new graph and the loss;
/// earlier values keep their identity, and the new input is the last.
///
/// # Errors
/// When the model's output cannot be meant for `loss` (see [`Loss::target`]).
pub fn loss(graph: &Graph, loss: Loss) -> Result<(Graph, Value)> {
    let output = graph
        .outputs()
        .first()
        .ok_or_else(|| Error::InvalidModel("the model has no output".into()))?
        .value;
    let target_fact = loss.target(graph.fact(output))?;
    let name = target_name(graph);
    let mut b = Builder::new(graph.clone());
    b.set_scope("loss");
    let target = b.input(name, target_fact.clone());
    let scalar = match loss {
        Loss::CrossEntropy | Loss::TokenCrossEntropy => {
            let shape = b.shape(output);
            // Class axis in the middle: everything behind it is one axis of positions.
            let (axis, rows) = match loss.class_axis(&shape) {
                Some(1) if loss == Loss::CrossEntropy => {
                    let positions = shape[2..].iter().product();
                    (0, [shape[1], positions])
                }
                Some(axis) => (1, [shape[..axis].iter().product(), shape[axis]]),
                None => (1, [1, b.fact(output).len()]),
            };
            let logits = b.reshape(output, &rows)?;
            cross_entropy(&mut b, logits, axis, target)?
        }
        Loss::BinaryCrossEntropy => {
            let logits = b.reshape(output, &target_fact.shape)?;
            binary_cross_entropy(&mut b, logits, target)?
        }
        Loss::MeanSquaredError => {
            let prediction = b.reshape(output, &target_fact.shape)?;
            let error = b.sub(prediction, target)?;
            let terms = b.mul(error, error)?;
            mean(&mut b, terms)?
        }
    };
    Ok((b.finish().verified(), scalar))
}

/// The mean over positions of `−log softmax(logits)_label`, for logits with the classes along `axis`
/// and the positions along the other of two axes, and as many labels as positions.
///
/// It is computed from the logits less that of the label, which then is a constant 0: so the gradient
/// of the label's logit is `−Σ p` over the others, and not `p − 1`, of which nothing is left where the
/// prediction is sure.
fn cross_entropy(b: &mut Builder, logits: Value, axis: usize, labels: Value) -> Result<Value> {
    let shape = b.shape(logits);
    let classes = shape[axis];
    let mut along = [1, 1];
    along[axis] = classes;
    let mut across = [1, 1];
    across[1 - axis] = shape[1 - axis];
    let all = b.constant(Tensor::index(0..classes as i64).reshape(&along)?);
    let labels = b.reshape(labels, &across)?;
    let hit = b.equal(labels, all)?;
    let zero = b.scalar_like(logits, 0.0);
    let own = b.select(hit, logits, zero)?;
    let own = b.reduce_sum(own, &[axis])?;
    let ahead = b.sub(logits, own)?;
    let ahead = b.select(hit, zero, ahead)?;
    let log_p = b.log_softmax(ahead, axis)?;
    let chosen = b.select(hit, log_p, zero)?;
    let total = b.sum_all(chosen)?;
    b.scale(total, -1.0 / shape[1 - axis] as f64)
}

/// The mean of `t·softplus(−z) + (1 − t)·softplus(z)`, whose gradient does not cancel where `t` is 0
/// or 1.
fn binary_cross_entropy(b: &mut Builder, logits: Value, target: Value) -> Result<Value> {
    let negated = b.neg(logits)?;
    let (yes, no) = (b.unary(Unary::Softplus, negated)?, b.unary(Unary::Softplus, logits)?);
    let rest = b.one_minus(target)?;
    let (yes, no) = (b.mul(yes, target)?, b.mul(no, rest)?);
    let terms = b.add(yes, no)?;
    mean(b, terms)
}

fn mean(b: &mut Builder, terms: Value) -> Result<Value> {
    let n = b.fact(terms).len().max(1);
    let total = b.sum_all(terms)?;
    b.scale(total, 1.0 / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::eval_values;
    use crate::ops::tails::{check, magnitudes};
    use crate::transform::grad;

    fn model(shape: &[usize]) -> (Graph, Value) {
        let mut b = Builder::default();
        let z = b.input("z", Fact::new(DType::F64, shape));
        b.output("z", z);
        (b.finish(), z)
    }

    #[test]
    fn cross_entropy_and_its_gradient() {
        // torch.nn.functional.cross_entropy(tensor([[1., 2., 0.5]]), tensor([2]))
        let (graph, z) = model(&[1, 3]);
        let (graph, value) = loss(&graph, Loss::CrossEntropy).unwrap();
        let (graph, d) = grad(&graph, value, &[z]).unwrap();
        let inputs = [
            Tensor::f64(&[1, 3], vec![1.0, 2.0, 0.5]).unwrap(),
            Tensor::full(DType::I64, &[], 2.0),
        ];
        let out = eval_values(&graph, &inputs, &[value, d[0].unwrap()]).unwrap();
        assert!((out[0].scalar().unwrap() - 1.964_368_784).abs() < 1e-6);
        let p = [0.231_223_9, 0.628_531_7, 0.140_244_4];
        for (g, expected) in out[1].to_f64().iter().zip([p[0], p[1], p[2] - 1.0]) {
            assert!((g - expected).abs() < 1e-6, "{g} {expected}");
        }
    }

    /// Logits of a row that are as large as those of any network, with each of them as the label.
    #[test]
    fn losses_of_logits_of_all_magnitudes() {
        let rows: Vec<[f64; 3]> = magnitudes().iter().map(|&m| [m, -m, m / 2.0]).collect();
        for label in 0..3 {
            check(&format!("cross-entropy, label {label}"), rows.as_flattened(), 4.0, |b, x| {
                let logits = b.reshape(x, &[rows.len(), 3])?;
                let labels = b.constant(Tensor::index(rows.iter().map(|_| label)));
                cross_entropy(b, logits, 1, labels)
            });
        }
        for target in [0.0, 1.0, 0.25] {
            check(&format!("bce, target {target}"), &magnitudes(), 4.0, |b, x| {
                let fact = b.fact(x).clone();
                let target = b.constant(Tensor::full(fact.dtype, &fact.shape, target));
                binary_cross_entropy(b, x, target)
            });
        }
    }

    /// A class that a model rules out has no part in the loss.
    #[test]
    fn a_class_may_be_masked() {
        let (graph, z) = model(&[1, 3]);
        let (graph, value) = loss(&graph, Loss::CrossEntropy).unwrap();
        let (graph, d) = grad(&graph, value, &[z]).unwrap();
        let inputs = [
            Tensor::f64(&[1, 3], vec![1.0, f64::NEG_INFINITY, 1.0]).unwrap(),
            Tensor::full(DType::I64, &[], 2.0),
        ];
        let out = eval_values(&graph, &inputs, &[value, d[0].unwrap()]).unwrap();
        assert!((out[0].scalar().unwrap() - 2f64.ln()).abs() < 1e-12);
        assert_eq!(out[1], Tensor::f64(&[1, 3], vec![0.5, 0.0, -0.5]).unwrap());
    }

    #[test]
    fn unfit_outputs_are_refused() {
        let (graph, _) = model(&[1, 1]);
        assert!(loss(&graph, Loss::CrossEntropy).is_err());
        assert!(loss(&graph, Loss::TokenCrossEntropy).is_err());
        assert!(loss(&graph, Loss::BinaryCrossEntropy).is_ok());
        let (graph, _) = model(&[1, 1, 4, 4]);
        assert!(loss(&graph, Loss::CrossEntropy).is_err());
        // Without a batch axis, what is a sample is not known.
        let (graph, _) = model(&[3, 4]);
        for refused in [Loss::CrossEntropy, Loss::TokenCrossEntropy, Loss::MeanSquaredError] {
            assert!(loss(&graph, refused).is_err(), "{refused}");
        }
    }
}
