//! A whole batch in one graph, for probes of activations, of the gradient of the mean loss, or of
//! further derivatives.
//!
//! Probes with equal [`BatchView`]s add their values to one [`Network`] and run together. What two of
//! them need, the forward pass above all, is in the graph once, since equal operations are shared.

use std::collections::HashSet;
use std::time::Instant;

use super::combine::{Combine, Handle, Only, Results, Run, Watched};
use super::gram::ClassPositions;
use super::memory::{Memory, Need};
use super::size::parameters;
use super::view::{BatchView, Features, Inputs, Parameters};
use super::{Roles, Selection};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::{Builder, Derived, Graph, Output, Rectifier, Value};
use crate::tensor::Tensor;
use crate::transform::{self, Loss, first_output};

/// A use of a weight in a [`Network`].
#[derive(Clone, Debug)]
pub struct LayerValues {
    /// The number of elements of the weight.
    pub size: usize,
    /// The product of the weight with its operand, whose gradient is that of the activation.
    pub product: Value,
    /// The layer's output `[lanes, …]`: the product with its bias.
    pub activation: Value,
    /// The axis of `activation` along which its channels lie.
    pub channel_axis: usize,
}

/// A model applied to a whole batch, which probes add values to.
pub struct Network {
    b: Builder,
    lanes: usize,
    /// Lane axes in front of a value of one sample.
    lane_axes: usize,
    /// How many inputs are the model's; that of the targets comes after them.
    of_model: usize,
    /// The names of the kernels and matrices.
    weights: HashSet<String>,
    outputs: Value,
    losses: Option<Value>,
    layers: Vec<LayerValues>,
    rectifiers: Vec<Rectifier>,
    normalised: Vec<Value>,
    features: Option<Value>,
    exponent: i32,
    parameters: u64,
    watched: Watched,
    warnings: Vec<String>,
}

impl Network {
    /// `model` as `view` has it, for `lanes` inputs. `model` has undecided batch normalisations, its
    /// prediction as first output, and the parameters of the view: see [`BatchView::parameters_of`].
    ///
    /// # Errors
    /// When the output does not suit the loss, or the model has no features and the view asks for
    /// them.
    pub fn new(
        model: &Graph,
        roles: &Roles,
        view: &BatchView,
        loss: Loss,
        lanes: usize,
    ) -> Result<Self> {
        let mut warnings = Vec::new();
        let of_model = model.inputs().len();
        let parameters = parameters(model);
        let lane_axes = match view.inputs {
            Inputs::Perturbed { .. } => 2,
            Inputs::Samples | Inputs::Gaussian | Inputs::Ones => 1,
        };
        let (model, scalar) = match view.inputs {
            Inputs::Samples => {
                let (graph, loss) = transform::loss(model, loss)?;
                (graph, Some(loss))
            }
            _ => (model.clone(), None),
        };
        // These values are found in the model as it is and kept as outputs, so that no transformation
        // changes them; its maps say where they are afterwards.
        let outputs = first_output(&model)?;
        let layers = transform::layers(&model);
        let rectifiers = model.rectifiers();
        let normalised = transform::normalised(&model);
        let features = match &view.features {
            None => None,
            Some(Features::Found) => Some(transform::features(&model, None)?),
            Some(Features::Named(name)) => Some(transform::features(&model, Some(name))?),
        };
        let mut kept = vec![outputs];
        kept.extend(scalar);
        kept.extend(layers.iter().flat_map(|layer| [layer.product, layer.activation]));
        kept.extend(rectifiers.iter().map(|rectifier| rectifier.input));
        kept.extend(&normalised);
        kept.extend(features);
        let kept = kept.iter().enumerate();
        let kept = kept.map(|(i, &value)| Output { name: format!("kept.{i}"), value });
        let Derived { mut graph, mut map } = model.mapped_to_outputs(&kept.collect::<Vec<_>>());
        let mut exponent = 0;
        match view.parameters {
            Parameters::Given | Parameters::Drawn(_) => {
                let (decided, notes) = transform::batch_norm(&graph, view.batch_norm)?;
                (graph, map) = (decided.graph, map.then(&decided.map));
                warnings.extend(notes);
            }
            Parameters::Magnitudes => {
                let linear = transform::linearise(&graph)?;
                (graph, map) = (linear.graph, map.then(&linear.map));
                exponent = linear.exponents.first().copied().unwrap_or(0);
                if !linear.nonlinear.is_empty() {
                    let names: Vec<_> = linear.nonlinear.into_iter().collect();
                    warnings.push(format!(
                        "the model contains {}, which are not linear in the size of what they are \
                         given: what is computed with positive parameters is a heuristic here",
                        names.join(", ")
                    ));
                }
            }
        }
        for axis in (0..lane_axes).rev() {
            let n = if axis + 1 == lane_axes { lanes } else { 2 };
            let batched = transform::vmap(&graph, n, graph.inputs())?;
            (graph, map) = (batched.graph, map.then(&batched.map));
        }
        let outputs = map.of(outputs)?;
        let losses = scalar.map(|scalar| map.of(scalar)).transpose()?;
        let layers = layers
            .iter()
            .map(|layer| {
                Ok(LayerValues {
                    size: layer.size,
                    product: graph.behind_reshapes(map.of(layer.product)?),
                    activation: map.of(layer.activation)?,
                    channel_axis: layer.channel_axis + lane_axes,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let rectifiers = rectifiers
            .into_iter()
            .map(|rectifier| Ok(Rectifier { input: map.of(rectifier.input)?, ..rectifier }))
            .collect::<Result<Vec<_>>>()?;
        let normalised =
            normalised.into_iter().map(|value| map.of(value)).collect::<Result<Vec<_>>>()?;
        let features = features.map(|features| map.of(features)).transpose()?;
        let names = graph.parameters().map(|(_, p)| p.name.to_string());
        let weights = names.filter(|name| roles.is_in(Selection::Weights, name)).collect();
        let mut b = Builder::new(graph.with_outputs_kept(Vec::new()));
        b.set_scope("score");
        Ok(Network {
            b,
            lanes,
            lane_axes,
            of_model,
            weights,
            outputs,
            losses,
            layers,
            rectifiers,
            normalised,
            features,
            exponent,
            parameters,
            watched: Watched::default(),
            warnings,
        })
    }

    /// The graph, to be extended.
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.b
    }

    /// The number of samples.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// The number of trainable scalars of the model.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The predictions `[lanes, …]`.
    pub fn outputs(&self) -> Value {
        self.outputs
    }

    /// The `e` by which the predictions are too small: they stand for `2ᵉ` times themselves.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Adds a warning, unless it is there already.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The warnings of the transformations and of the probes.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The layers that the prediction depends on.
    pub fn layers(&self) -> &[LayerValues] {
        &self.layers
    }

    /// The rectifiers that the prediction depends on, with inputs `[lanes, …]`.
    pub fn rectifiers(&self) -> &[Rectifier] {
        &self.rectifiers
    }

    /// What goes into the batch normalisations, `[…, lanes, 1, C, S…]` each.
    pub fn normalised(&self) -> &[Value] {
        &self.normalised
    }

    /// The axis of the channels in [`Network::normalised`].
    pub fn normalised_channels(&self) -> usize {
        self.lane_axes + 1
    }

    /// The features in front of the head, where the view asks for them.
    pub fn features(&self) -> Option<Value> {
        self.features
    }

    /// The model's inputs of floating-point numbers.
    pub fn float_inputs(&self) -> Vec<Value> {
        let graph = self.b.graph();
        let inputs = graph.inputs().iter().take(self.of_model).copied();
        inputs.filter(|&v| graph.fact(v).dtype.is_float()).collect()
    }

    /// The kernels and matrices, in the order of the model file.
    pub fn weights(&self) -> Vec<Value> {
        let parameters = self.b.graph().parameters();
        parameters.filter(|(_, p)| self.weights.contains(&*p.name)).map(|(v, _)| v).collect()
    }

    /// The mean loss of the samples, a scalar. Errs in a view without labels.
    pub fn mean_loss(&mut self) -> Result<Value> {
        let losses =
            self.losses.ok_or_else(|| Error::Score("there is no loss without labels".into()))?;
        let total = self.b.sum_all(losses)?;
        self.b.scale(total, 1.0 / self.lanes as f64)
    }

    /// The gradient of the scalar `of` with respect to each of `wrt`; `None` where it does not
    /// depend on it. Errs as [`transform::grad`].
    pub fn gradient(&mut self, of: Value, wrt: &[Value]) -> Result<Vec<Option<Value>>> {
        let (graph, cotangents) = transform::grad(self.b.graph(), of, wrt)?;
        self.b = Builder::new(graph);
        self.b.set_scope("score");
        Ok(cotangents)
    }

    /// The weights that the scalar `of` depends on, each with the gradient.
    pub fn weight_gradients(&mut self, of: Value) -> Result<Vec<(Value, Value)>> {
        let weights = self.weights();
        let gradients = self.gradient(of, &weights)?;
        Ok(weights.into_iter().zip(gradients).filter_map(|(w, g)| Some((w, g?))).collect())
    }

    /// Scalars side by side, `[k]`; of none, `[1]` with a zero.
    pub fn stack(&mut self, scalars: &[Value]) -> Result<Value> {
        if scalars.is_empty() {
            let zero = self.b.scalar_like(self.outputs, 0.0);
            return self.b.reshape(zero, &[1]);
        }
        let rows: Vec<Value> =
            scalars.iter().map(|&s| self.b.reshape(s, &[1])).collect::<Result<_>>()?;
        self.b.concat(&rows, 0)
    }

    /// Asks for the tensor of `value`.
    pub fn tensor(&mut self, value: Value) -> Handle<Tensor> {
        self.watch(value, Only::default())
    }

    /// Asks for `value`, as `combine` takes it in.
    pub fn watch<C: Combine>(&mut self, value: Value, combine: C) -> Handle<C::Output> {
        self.watched.push(value, combine)
    }

    pub(super) fn watched(&mut self) -> &mut Watched {
        &mut self.watched
    }

    /// Runs the network and returns the results of the values watched, for inputs in the order of the
    /// model's and, last, the labels where there are any. `memory` bounds what the run may take. Without
    /// values nothing runs.
    ///
    /// # Errors
    /// When the engine fails, or the batch does not fit into memory at once.
    pub fn run(
        mut self,
        inputs: &[Tensor],
        memory: Memory,
        engine: &dyn Engine,
    ) -> Result<Results> {
        if self.watched.values().is_empty() {
            return self.watched.finish();
        }
        let graph = self.b.finish();
        let declared = graph.inputs().to_vec();
        let named = self.watched.values().iter().enumerate();
        let named = named.map(|(i, &value)| Output { name: format!("score.{i}"), value });
        let graph = graph.with_outputs_kept(named.collect());
        let live = graph.live();
        let mut tensors = Vec::new();
        for (value, tensor) in declared.iter().zip(inputs) {
            if live[value.index()] {
                tensors.push(tensor.reshape(graph.shape(*value))?);
            }
        }
        let graph = graph.without_unused_inputs();
        let start = Instant::now();
        let compiled = engine.compile(&graph)?;
        memory.check(Need::of(&compiled, 1), "all samples at once")?;
        let mut session = engine.load(&compiled)?;
        drop(compiled);
        let loaded = start.elapsed();
        let results = session.run(&tensors)?;
        let (nodes, run) = (graph.nodes().len(), start.elapsed() - loaded);
        tracing::debug!("whole batch: {nodes} nodes, session {loaded:.2?}, run {run:.2?}");
        let (groups, first) = ([(0..self.lanes).collect()], vec![true; self.lanes]);
        let run = Run {
            size: self.lanes,
            groups: &groups,
            first: &first,
            positions: &ClassPositions::none(),
        };
        self.watched.add(&run, &results)?;
        self.watched.finish()
    }
}
