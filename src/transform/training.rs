//! Training graphs: forward, loss and backward in one.

use std::collections::HashMap;

use super::{Loss, grad, vmap};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Output, Value};
use crate::ops::Op;

/// How the samples of a batch are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Each sample has its own loss and gradient: `vmap(grad(loss ∘ model))`.
    PerSample,
    /// The gradient of the mean loss: `grad(mean ∘ vmap(loss ∘ model))`.
    Mean,
}

/// The scalar that is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// The loss of a sample.
    Loss(Loss),
    /// The sum of the model's outputs for a sample; no labels are read.
    OutputSum,
}

impl From<Loss> for Objective {
    fn from(loss: Loss) -> Self {
        Objective::Loss(loss)
    }
}

impl Objective {
    /// Extends a model graph by the objective, as [`loss`](super::loss()) does.
    pub(crate) fn append(self, model: &Graph) -> Result<(Graph, Value)> {
        match self {
            Objective::Loss(loss) => super::loss(model, loss),
            Objective::OutputSum => {
                let output = first_output(model)?;
                let mut b = Builder::new(model.clone());
                let sum = b.sum_all(output)?;
                Ok((b.finish(), sum))
            }
        }
    }
}

/// A model's prediction.
pub(crate) fn first_output(model: &Graph) -> Result<Value> {
    let output = model.outputs().first();
    Ok(output.ok_or_else(|| Error::InvalidModel("the model has no output".into()))?.value)
}

/// A model with its loss and gradients.
pub struct TrainingGraph {
    /// Inputs: those of the model with their batch axis of length `n`, then the targets of the loss,
    /// `labels` (see [`loss`](super::loss())). Outputs: `loss` and one `grad.<parameter>` for each
    /// parameter.
    pub graph: Graph,
    /// The parameters in order, as `(name, number of elements)`.
    pub parameters: Vec<(String, usize)>,
}

impl TrainingGraph {
    /// The same with the samples along `axes` of the model's inputs, as its file has them, in place of
    /// the first axis. An input that has no batch axis in the file keeps the samples in front.
    ///
    /// # Errors
    /// When an input has no such axis.
    pub fn with_batch_axes(self, axes: &[Option<usize>]) -> Result<Self> {
        if axes.iter().all(|axis| matches!(axis, None | Some(0))) {
            return Ok(self);
        }
        let inputs = self.graph.inputs().to_vec();
        let mut b = Builder::default();
        let map = b.import(&self.graph, |b, value, node, _| {
            let Op::Input(name) = &node.op else { return Ok(None) };
            let position = inputs.iter().position(|&input| input == value);
            let axis = position.and_then(|i| axes.get(i).copied().flatten()).unwrap_or(0);
            let mut shape = node.fact.shape.clone();
            if axis == 0 || axis >= shape.len() {
                return Ok(None);
            }
            let n = shape.remove(0);
            shape.insert(axis, n);
            let input = b.input(name.clone(), Fact::new(node.fact.dtype, shape));
            b.axis_to_front(input, axis).map(Some)
        })?;
        b.copy_outputs(&self.graph, &map)?;
        Ok(TrainingGraph { graph: b.finish(), ..self })
    }
}

/// The training graph of `model` for `n` samples. `loss` is `[n]` and `grad.<parameter>` is
/// `[n, shape…]` per sample; for the mean they are a scalar and `[shape…]`. A parameter that the
/// loss does not depend on has a gradient of zeros.
///
/// Every input of `model` has its batch axis first, of length 1, as [`import`](crate::import::import)
/// makes them. The targets have none: what they are of one sample, they are `n` times.
///
/// # Errors
/// When an input of the model has no batch axis, the model cannot be differentiated, or its output
/// does not suit the loss.
pub fn training_graph(
    model: &Graph,
    objective: impl Into<Objective>,
    n: usize,
    reduction: Reduction,
) -> Result<TrainingGraph> {
    let of_model = model.inputs().len();
    let (graph, value) = objective.into().append(model)?;
    let parameters: Vec<(Value, String, Fact)> =
        graph.parameters().map(|(v, p)| (v, p.name.to_string(), graph.fact(v).clone())).collect();
    let sizes = parameters.iter().map(|(_, name, fact)| (name.clone(), fact.len())).collect();
    let graph = match reduction {
        Reduction::PerSample => {
            let with_gradients = append_gradients(&graph, value, &parameters)?;
            let inputs = with_gradients.inputs().to_vec();
            vmap(&with_gradients, n, &inputs)?.graph
        }
        Reduction::Mean => {
            let output = Output { name: "loss".into(), value };
            // Parameters are found again by name: pruning renumbers values.
            let lone = graph.with_outputs(vec![output]);
            let inputs = lone.inputs().to_vec();
            let batch = vmap(&lone, n, &inputs)?.graph;
            let losses = batch.output("loss")?;
            let mut b = Builder::new(batch);
            let total = b.sum_all(losses)?;
            let mean = b.scale(total, 1.0 / n as f64)?;
            let batch = b.finish();
            let found: HashMap<&str, Value> =
                batch.parameters().map(|(v, p)| (&*p.name, v)).collect();
            let used: Vec<(Value, String, Fact)> = parameters
                .into_iter()
                .map(|(_, name, fact)| {
                    (found.get(name.as_str()).copied().unwrap_or(mean), name, fact)
                })
                .collect();
            append_gradients(&batch, mean, &used)?
        }
    };
    Ok(TrainingGraph { graph: with_flat_inputs(&graph, of_model)?, parameters: sizes })
}

/// `graph` with the outputs `loss` and `grad.<parameter>`. A value that stands for a parameter the
/// loss does not depend on (the loss itself) yields zeros.
fn append_gradients(
    graph: &Graph,
    loss: Value,
    parameters: &[(Value, String, Fact)],
) -> Result<Graph> {
    let wrt: Vec<Value> = parameters.iter().map(|p| p.0).collect();
    let (graph, cotangents) = grad(graph, loss, &wrt)?;
    let mut b = Builder::new(graph);
    let mut outputs = vec![Output { name: "loss".into(), value: loss }];
    for ((value, name, fact), cotangent) in parameters.iter().zip(cotangents) {
        let value = match cotangent {
            Some(cotangent) if *value != loss => cotangent,
            _ => b.zeros(fact)?,
        };
        outputs.push(Output { name: format!("grad.{name}"), value });
    }
    Ok(b.finish().with_outputs(outputs))
}

/// A graph under `vmap` takes `[n, 1, …]` for each of the model's inputs, which are the first
/// `of_model`; this one takes `[n, …]`, as users hold batches. The others have no batch axis under
/// `vmap`, whatever their shape.
fn with_flat_inputs(graph: &Graph, of_model: usize) -> Result<Graph> {
    let of_model = &graph.inputs()[..of_model];
    let mut b = Builder::default();
    let map = b.import(graph, |b, value, node, _| {
        let Op::Input(name) = &node.op else { return Ok(None) };
        if !of_model.contains(&value) {
            return Ok(None);
        }
        let [n, 1, rest @ ..] = node.fact.shape.as_slice() else {
            return Err(Error::Shape(format!(
                "the model's input '{name}' has no leading batch axis of length 1"
            )));
        };
        let shape = [&[*n], rest].concat();
        let input = b.input(name.clone(), Fact::new(node.fact.dtype, shape));
        b.reshape(input, &node.fact.shape).map(Some)
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(b.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::emit_bytes;
    use crate::engine::{Compiled, Engine, all_for_tests};
    use crate::graph::eval;
    use crate::ops::BatchNormMode;
    use crate::probe::{
        Batch, BatchView, Differentiated, GramKind, Grams, Memory, Pairs, Probe, Roles, SampleView,
        Selection, Subject, evaluate,
    };
    use crate::tensor::{DType, Tensor};

    const SAMPLES: usize = 3;
    const FEATURES: usize = 2;

    /// The shapes that outputs have for one sample: a number, a column, classes, a map, a mask, a
    /// sequence.
    const OUTPUTS: [&[usize]; 10] = [
        &[],
        &[1],
        &[1, 1],
        &[1, 3],
        &[1, 3, 1, 1],
        &[1, 3, 2, 2],
        &[1, 1, 2, 2],
        &[1, 4, 3],
        &[1, 4, 1],
        &[1, 1, 3],
    ];

    const LOSSES: [Loss; 4] = [
        Loss::CrossEntropy,
        Loss::BinaryCrossEntropy,
        Loss::MeanSquaredError,
        Loss::TokenCrossEntropy,
    ];

    fn noise(len: usize, start: f64) -> Vec<f64> {
        (0..len).map(|i| (1.9 * i as f64 + start).sin()).collect()
    }

    /// `x·w` in the shape `output`, for an input of the shape `input`.
    fn model(input: &[usize], output: &[usize]) -> Graph {
        let width = output.iter().product();
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, input));
        let values = noise(FEATURES * width, 0.4).iter().map(|&v| v as f32).collect();
        let w = b.parameter("w", Tensor::f32(&[FEATURES, width], values).unwrap());
        let x = b.reshape(x, &[1, FEATURES]).unwrap();
        let y = b.matmul(x, w).unwrap();
        let y = b.reshape(y, output).unwrap();
        b.output("y", y);
        b.finish()
    }

    /// The loss of a sample by its definition, without graphs: `z` are the outputs in order, `t` the
    /// targets.
    fn loss_of(loss: Loss, z: &[f64], t: &[f64]) -> f64 {
        let terms: Vec<f64> = match loss {
            Loss::BinaryCrossEntropy => {
                z.iter().zip(t).map(|(z, t)| (1.0 + z.exp()).ln() - t * z).collect()
            }
            Loss::MeanSquaredError => z.iter().zip(t).map(|(z, t)| (z - t).powi(2)).collect(),
            Loss::CrossEntropy | Loss::TokenCrossEntropy => {
                let positions = t.len();
                let classes = z.len() / positions;
                let at = |p: usize, k: usize| match loss {
                    Loss::TokenCrossEntropy => z[p * classes + k],
                    _ => z[k * positions + p],
                };
                let term = |p: usize| {
                    let sum: f64 = (0..classes).map(|k| at(p, k).exp()).sum();
                    sum.ln() - at(p, t[p] as usize)
                };
                (0..positions).map(term).collect()
            }
        };
        terms.iter().sum::<f64>() / terms.len() as f64
    }

    /// Losses and per-sample gradients of `w` by central differences.
    fn expected(loss: Loss, output: &[usize], batch: &Batch) -> (Vec<f64>, Vec<Vec<f64>>) {
        let width: usize = output.iter().product();
        let w: Vec<f64> =
            noise(FEATURES * width, 0.4).iter().map(|&v| f64::from(v as f32)).collect();
        let rows = |t: &Tensor, i: usize| -> Vec<f64> {
            let each = t.len() / SAMPLES;
            t.to_f64().iter().skip(i * each).take(each).copied().collect()
        };
        let sample = |i: usize, w: &[f64]| {
            let (x, t) = (rows(&batch.inputs[0], i), rows(&batch.targets, i));
            let z: Vec<f64> =
                (0..width).map(|o| (0..FEATURES).map(|f| x[f] * w[f * width + o]).sum()).collect();
            loss_of(loss, &z, &t)
        };
        let slope = |i: usize, p: usize| {
            let moved = |by: f64| {
                let mut w = w.clone();
                w[p] += by;
                sample(i, &w)
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        let gradients = |i: usize| (0..w.len()).map(|p| slope(i, p)).collect();
        ((0..SAMPLES).map(|i| sample(i, &w)).collect(), (0..SAMPLES).map(gradients).collect())
    }

    fn batch(loss: Loss, input: &[usize], output: &Fact) -> Batch {
        let x = noise(SAMPLES * FEATURES, 0.1).iter().map(|&v| v as f32).collect();
        let target = loss.target(output).unwrap();
        let shape = [&[SAMPLES], target.shape.as_slice()].concat();
        let len = shape.iter().product();
        let classes = loss.class_axis(&output.shape).map_or(output.len(), |a| output.shape[a]);
        let targets = match loss {
            Loss::CrossEntropy | Loss::TokenCrossEntropy => {
                Tensor::i64(&shape, (0..len as i64).map(|i| i % classes as i64).collect())
            }
            _ => Tensor::f32(&shape, (0..len).map(|i| (i % 2) as f32).collect()),
        };
        Batch {
            inputs: vec![Tensor::f32(&[&[SAMPLES], &input[1..]].concat(), x).unwrap()],
            targets: targets.unwrap(),
            classes: vec![0; SAMPLES],
        }
    }

    fn subject<'a>(
        model: &'a Graph,
        roles: &'a Roles,
        samples: &'a Batch,
        loss: Loss,
        engine: &'a dyn Engine,
    ) -> Subject<'a> {
        Subject { model, roles, samples, loss, seed: 0, memory: Memory::default(), engine }
    }

    /// The Gram matrix of the gradients of all samples.
    fn grams(kind: GramKind) -> Probe<Grams> {
        let view = SampleView::new(Differentiated::Loss, BatchNormMode::Running);
        Probe::of_pairs(view, Pairs::All, move |gradients| {
            let grams = gradients.grams(kind, Selection::All)?;
            Ok(Box::new(move |results| results.get(grams).cloned()))
        })
    }

    #[track_caller]
    fn close(what: &str, got: &Tensor, want: &[f64]) {
        let got = got.to_f64();
        assert_eq!(got.len(), want.len(), "{what}");
        let scale = want.iter().fold(0.1, |m: f64, v| m.max(v.abs()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-4 * scale, "{what}: {got} for {want}");
        }
    }

    /// Every loss on every shape of output that it suits, per sample and for the mean, in each pass
    /// and on each engine.
    #[test]
    fn losses_and_gradients_are_right_for_every_shape_of_output() {
        let engines = all_for_tests();
        let mut suited = 0;
        for (output, loss) in OUTPUTS.iter().flat_map(|o| LOSSES.map(|loss| (*o, loss))) {
            let fact = Fact::new(DType::F32, output);
            if loss.target(&fact).is_err() {
                continue;
            }
            suited += 1;
            // A second axis of length 1 is none of the batch.
            for input in [&[1, FEATURES][..], &[1, 1, FEATURES]] {
                let what = format!("{loss} on {output:?} of {input:?}");
                let (model, batch) = (model(input, output), batch(loss, input, &fact));
                let (losses, gradients) = expected(loss, output, &batch);
                let mean: Vec<f64> = (0..gradients[0].len())
                    .map(|p| gradients.iter().map(|g| g[p]).sum::<f64>() / SAMPLES as f64)
                    .collect();
                let mean_loss = losses.iter().sum::<f64>() / SAMPLES as f64;
                let all: Vec<usize> = (0..SAMPLES).collect();
                let fed = batch.rows(&all).unwrap();
                let alone = training_graph(&model, loss, SAMPLES, Reduction::PerSample).unwrap();
                let whole = training_graph(&model, loss, SAMPLES, Reduction::Mean).unwrap();
                let check = |results: [Vec<Tensor>; 2]| {
                    close(&what, &results[0][0], &losses);
                    close(&what, &results[0][1], &gradients.concat());
                    close(&what, &results[1][0], &[mean_loss]);
                    close(&what, &results[1][1], &mean);
                };
                check([&alone, &whole].map(|t| eval(&t.graph, &fed).unwrap()));
                let roles = Roles::of(&model);
                for engine in &engines {
                    check([&alone, &whole].map(|t| {
                        let bytes = emit_bytes(&t.graph).unwrap();
                        engine.load(&Compiled::from_onnx(bytes)).unwrap().run(&fed).unwrap()
                    }));
                    let subject = subject(&model, &roles, &batch, loss, &**engine);
                    let grams = evaluate(&[&grams(GramKind::Raw)], &subject, &mut Vec::new());
                    for ((i, j), product) in grams[0].as_ref().unwrap()[0].gram.indexed_iter() {
                        let pairs = gradients[i].iter().zip(&gradients[j]);
                        let want: f64 = pairs.map(|(a, b)| a * b).sum();
                        assert!((product - want).abs() < 1e-3, "{what}: {product} for {want}");
                    }
                    let view = BatchView::samples(BatchNormMode::Batch);
                    let probe = Probe::of_batch(view, |network| {
                        let loss = network.mean_loss()?;
                        let gradient = network.weight_gradients(loss)?[0].1;
                        let watched = [loss, gradient].map(|value| network.tensor(value));
                        Ok(Box::new(move |results| {
                            let [loss, gradient] =
                                watched.map(|handle| results.get(handle).cloned());
                            Ok([loss?, gradient?])
                        }))
                    });
                    let results = evaluate(&[&probe], &subject, &mut Vec::new()).remove(0).unwrap();
                    close(&what, &results[0], &[mean_loss]);
                    close(&what, &results[1], &mean);
                }
            }
        }
        // Cross-entropy takes 6, that of tokens 4, the others all.
        assert_eq!(suited, 6 + 4 + 2 * OUTPUTS.len());
    }

    /// The targets are no input of the model, whatever the model's own inputs are called.
    #[test]
    fn names_of_the_model_do_not_get_into_the_way_of_ours() {
        let mut b = Builder::default();
        let x = b.input("labels", Fact::new(DType::F32, [1, 2]));
        let shift = b.input("loss", Fact::new(DType::F32, [1, 3]));
        let w = b.parameter("gradalign.loss", Tensor::f32(&[2, 3], vec![0.5; 6]).unwrap());
        let v = b.parameter("grad.gradalign.loss", Tensor::f32(&[3], vec![0.1; 3]).unwrap());
        let c = b.parameter("constant_1", Tensor::f32(&[3], vec![0.2; 3]).unwrap());
        let mut y = b.matmul(x, w).unwrap();
        for other in [v, c, shift] {
            y = b.add(y, other).unwrap();
        }
        b.output("y", y);
        let model = b.finish();
        let training =
            training_graph(&model, Loss::CrossEntropy, SAMPLES, Reduction::PerSample).unwrap();
        let names: Vec<_> =
            training.graph.inputs().iter().filter_map(|&v| training.graph.name(v)).collect();
        assert_eq!(names, ["labels", "loss", "gradalign.labels"]);
        // An input and an output cannot have one name in a file; scores do not write one.
        assert!(emit_bytes(&training.graph).is_err());
        let batch = Batch {
            inputs: vec![
                Tensor::f32(&[SAMPLES, 2], vec![1.0, 2.0, -1.0, 0.5, 0.0, 3.0]).unwrap(),
                Tensor::f32(&[SAMPLES, 3], vec![0.0; 3 * SAMPLES]).unwrap(),
            ],
            targets: Tensor::index([0, 2, 1]),
            classes: vec![0; SAMPLES],
        };
        for engine in all_for_tests() {
            let roles = Roles::of(&model);
            let subject = subject(&model, &roles, &batch, Loss::CrossEntropy, &*engine);
            let grams = evaluate(&[&grams(GramKind::Sign)], &subject, &mut Vec::new()).remove(0);
            let grams = grams.unwrap();
            // As many as have a gradient: 6 of the matrix, or 3 where a feature is 0, and 3 + 3.
            assert_eq!(grams[0].gram.diag().to_vec(), [12.0, 12.0, 9.0]);
        }
    }

    #[test]
    fn an_input_without_a_batch_axis_is_refused() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2]));
        let w = b.parameter("w", Tensor::f32(&[2], vec![0.5; 2]).unwrap());
        let y = b.mul(x, w).unwrap();
        let y = b.reshape(y, &[1, 2]).unwrap();
        b.output("y", y);
        let refused = training_graph(&b.finish(), Loss::MeanSquaredError, 2, Reduction::Mean);
        assert!(refused.err().unwrap().to_string().contains("no leading batch axis"));
    }
}
