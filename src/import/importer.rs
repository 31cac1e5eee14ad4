//! The state of an import: names in scope, stored tensors, and the graph so far.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::batch::{Record, Watch};
use super::call::{Call, MAX_MADE};
use super::identity::Identities;
use super::inputs::Shapes;
use super::literal::{Patterns, Place, Role, Stored};
use super::scan::{MAX_DEPTH, Problem, function_of, live_nodes};
use super::table::{Lowering, lookup};
use super::{Given, ImportOptions, Imported, Info, bounds, end, folded, ties};
use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Value};
use crate::onnx::{self, Attribute, Function, Initializer, Model, Node, Opsets, ValueInfo};
use crate::tensor::{DType, Tensor};

/// Values with more elements than this are refused: no network has them, damaged files do.
pub(crate) const MAX_ELEMENTS: usize = 1 << 31;

/// Local functions that call each other can describe exponentially many nodes; this many are
/// lowered at most.
const MAX_NODES: usize = 2_000_000;

/// Why a value is missing that a node which could not be lowered should have made.
const UNKNOWN: &str = "a node before it cannot be imported";

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// A value of the graph.
    Value(Value),
    /// A tensor of the file, by index.
    Stored(usize),
    /// A sequence.
    List(Vec<Binding>),
    /// A result that is not computed, and why.
    Absent(&'static str),
}

impl From<Value> for Binding {
    fn from(value: Value) -> Self {
        Binding::Value(value)
    }
}

/// The names visible in a graph, a branch, or the body of a function.
struct Frame<'m> {
    names: HashMap<&'m str, Binding>,
    /// Whether the names of the surrounding frames are hidden.
    closed: bool,
    opsets: &'m Opsets,
    /// The attributes that the body of a function refers to.
    attributes: HashMap<&'m str, &'m Attribute>,
    /// What the frame's nodes are called by: prefix of their origins.
    path: String,
}

/// An import in progress.
pub(crate) struct Importer<'m> {
    /// The graph so far.
    pub b: Builder,
    /// What makes scores mean something else than the user may expect.
    pub warnings: Vec<String>,
    /// What was decided on the way.
    pub notes: Vec<String>,
    /// How many batch normalisations were lowered.
    pub batch_norms: usize,
    model: &'m Model,
    patterns: Patterns,
    shapes: Shapes<'m>,
    /// The batch axis in the file of each input of the graph.
    batch_axes: Vec<Option<usize>>,
    /// Where the file fixes a batch: what follows the samples through it.
    watch: Watch<'m>,
    stored: Vec<Stored>,
    frames: Vec<Frame<'m>>,
    operators: BTreeMap<String, usize>,
    lowered: usize,
    readers: HashMap<&'m str, usize>,
    /// What the file says of which tensors are which parameters.
    identities: Identities<'m>,
    /// Parameters that the file stores as others, by name.
    copies: HashMap<Arc<str>, usize>,
    /// The names of the declared inputs, which may be initializers too.
    inputs: HashSet<&'m str>,
    /// What the file says of values, where that was asked for.
    declared: OnceCell<HashMap<&'m str, &'m ValueInfo>>,
    /// [`ImportOptions::keep_activation`].
    keeps_activation: bool,
    /// How many loops are being unrolled around the present node.
    unrolling: usize,
    /// The tensors stored in bodies of loops, by name: all turns share them.
    shared: HashMap<Arc<str>, usize>,
    /// Where all problems are wanted: those found so far.
    survey: Option<Vec<Problem>>,
}

impl<'m> Importer<'m> {
    /// An import of `model` of which nothing is lowered yet.
    pub fn new(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::new(model, options)?)
    }

    /// An import of `model` at the batch that it fixes.
    pub fn at_own_batch(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::new(model, options)?.at_own_batch())
    }

    /// An import of `model` in which no axis is taken for a batch.
    pub fn as_it_is(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::as_they_are(model, options))
    }

    fn with_shapes(
        model: &'m Model,
        options: &'m ImportOptions,
        shapes: Shapes<'m>,
    ) -> Result<Self> {
        let identities = Identities::new(model);
        let mut importer = Importer {
            b: Builder::default(),
            warnings: [&model.warnings[..], &identities.warnings].concat(),
            notes: Vec::new(),
            batch_norms: 0,
            model,
            patterns: Patterns::new(options, &model.producer)?,
            shapes,
            batch_axes: Vec::new(),
            watch: Watch::Off,
            stored: Vec::new(),
            frames: Vec::new(),
            operators: BTreeMap::new(),
            lowered: 0,
            readers: HashMap::new(),
            identities,
            copies: HashMap::new(),
            inputs: model.graph.inputs.iter().map(|info| info.name.as_str()).collect(),
            declared: OnceCell::new(),
            keeps_activation: options.keep_activation,
            unrolling: 0,
            shared: HashMap::new(),
            survey: None,
        };
        for name in model.graph.nodes.iter().flat_map(|node| &node.inputs) {
            *importer.readers.entry(name).or_default() += 1;
        }
        importer.frames.push(Frame {
            names: HashMap::new(),
            closed: true,
            opsets: &model.opsets,
            attributes: HashMap::new(),
            path: String::new(),
        });
        Ok(importer)
    }

    /// The batch size that the file fixes, where it is not 1.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.shapes.fixed_batch()
    }

    /// Lowers what `output` depends on.
    pub fn run(&mut self, output: &'m str) -> Result<Value> {
        let model = self.model;
        self.bind_initializers(&model.graph.initializers);
        let (_, needed) = live_nodes(&model.graph.nodes, [output]);
        for info in self.shapes.declared() {
            if needed.contains(info.name.as_str()) {
                let binding = match self.declared_input(info) {
                    Ok(value) => value.into(),
                    Err(error) => {
                        self.record(&info.name, "", 0, error)?;
                        Binding::Absent(UNKNOWN)
                    }
                };
                self.bind(&info.name, binding);
            }
        }
        self.lower_nodes(&model.graph.nodes, &[output])?;
        let binding = self.resolve(output).cloned();
        match binding {
            Some(Binding::Value(value)) => Ok(value),
            Some(Binding::Stored(i)) => self.stored_value(i, Role::Operand),
            Some(Binding::List(_)) => Err(Error::UnsupportedModel(format!(
                "{}: the output '{output}' is a sequence; choose another",
                model.source
            ))),
            Some(Binding::Absent(why)) => Err(Error::UnsupportedModel(format!(
                "{}: the output '{output}' cannot be taken: {why}",
                model.source
            ))),
            None => Err(self.undefined(output)),
        }
    }

    /// An input of the model, in the shape that the file has it in. The graph's own has the batch axis
    /// first, whatever the file's has. A setting is no input but a constant.
    fn declared_input(&mut self, info: &'m ValueInfo) -> Result<Value> {
        let name = &info.name;
        if let Some(setting) = self.shapes.setting(info)? {
            self.notes.push(format!("input '{name}' is a setting, with the value given"));
            return Ok(self.b.constant(setting));
        }
        let (fact, shape) = self.shapes.input(info)?;
        let axis = self.shapes.guessed(name).flatten();
        match axis {
            Some(0) => {}
            Some(axis) => self.notes.push(format!("axis {axis} of input '{name}' is the batch")),
            None => self.notes.push(format!("input '{name}' has no batch axis")),
        }
        self.batch_axes.push(axis);
        let input = self.b.input(info.name.as_str(), fact);
        let value = self.b.reshape(input, &shape)?;
        let own = self.shapes.own_shape(info, &shape);
        self.watch.input(&self.b, input, value, &own).map_err(Error::Shape)?;
        Ok(value)
    }

    /// What the nodes that `output` depends on make of the batch that the file fixes.
    pub fn recorded(mut self, output: &'m str) -> Result<Record<'m>> {
        self.watch = Watch::Recording(Record::default());
        self.run(output)?;
        match self.watch {
            Watch::Recording(record) => Ok(record),
            _ => Ok(Record::default()),
        }
    }

    /// Compares what is lowered with `record`, which has it at the batch that the file fixes.
    pub fn compare(&mut self, record: Record<'m>) {
        if let Some(batch) = self.fixed_batch() {
            self.watch = record.compared(batch);
        }
    }

    /// What follows the samples through the graph.
    pub fn watch(&self) -> &Watch<'m> {
        &self.watch
    }

    /// The graph of all `outputs`, where the inputs are as `given`.
    pub fn lower(
        mut self,
        outputs: &[&'m str],
        given: &'m HashMap<String, Given>,
    ) -> Result<Graph> {
        let model = self.model;
        self.bind_initializers(&model.graph.initializers);
        let (_, needed) = live_nodes(&model.graph.nodes, outputs.iter().copied());
        for info in self.shapes.declared() {
            if !needed.contains(info.name.as_str()) {
                continue;
            }
            let given = given.get(&info.name).ok_or_else(|| {
                Error::Usage(format!("{}: input '{}' is not given", model.source, info.name))
            })?;
            let binding = self.given(&info.name, given);
            self.bind(&info.name, binding);
        }
        self.lower_nodes(&model.graph.nodes, outputs)?;
        self.b.set_scope("");
        for name in outputs {
            let binding = self.resolve(name).cloned().ok_or_else(|| self.undefined(name))?;
            self.output(name, &binding)?;
        }
        Ok(self.b.finish().pruned())
    }

    fn given(&mut self, name: &str, given: &Given) -> Binding {
        match given {
            Given::Open(fact) => self.b.input(name, fact.clone()).into(),
            Given::Known(tensor) => self.b.constant(tensor.clone()).into(),
            Given::List(elements) => {
                let each = elements.iter().enumerate();
                Binding::List(each.map(|(i, e)| self.given(&format!("{name}[{i}]"), e)).collect())
            }
            Given::Absent => Binding::Absent("the input is left out"),
        }
    }

    fn output(&mut self, name: &str, binding: &Binding) -> Result<()> {
        match binding {
            Binding::Value(value) => self.b.output(name, *value),
            Binding::Stored(i) => {
                let value = self.stored_value(*i, Role::Fixed)?;
                self.b.output(name, value);
            }
            Binding::List(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    self.output(&format!("{name}[{i}]"), element)?;
                }
            }
            Binding::Absent(why) => {
                return Err(Error::UnsupportedModel(format!(
                    "{}: the output '{name}' cannot be taken: {why}",
                    self.model.source
                )));
            }
        }
        Ok(())
    }

    /// Ends the import with `value` as the output called `output`.
    pub fn finish(mut self, output: &str, value: Value) -> Result<Imported> {
        if let Some(k) = self.fixed_batch() {
            self.notes.push(format!("the file fixes the batch at {k}; it is taken at 1"));
        }
        self.warnings.extend(folded::folded_batch_norm(self.model));
        self.b.set_scope("");
        let (logits, final_activation) = match self.keeps_activation {
            true => (value, None),
            false => end::split_activation(&mut self.b, value)?,
        };
        if !self.keeps_activation
            && final_activation.is_none()
            && bounds(self.b.graph(), logits).is_probability()
        {
            self.warnings.push(format!(
                "the output '{output}' always lies between 0 and 1, so it is probabilities, which \
                 are taken for logits here since the activation that makes them is not recognised: \
                 take what goes into it, by --tensor NAME"
            ));
        }
        let logits = self.batch_first(logits)?;
        self.b.output(output, logits);
        let graph = self.b.finish().pruned();
        let (graph, tied) = ties::tie(graph, |name| self.identities.home(name))?;
        self.notes.extend(tied);
        Ok(Imported {
            graph,
            output: output.to_owned(),
            batch_axes: self.batch_axes,
            final_activation,
            batch_norms: self.batch_norms,
            warnings: self.warnings,
            notes: self.notes,
            info: Info {
                ir_version: self.model.ir_version,
                producer: self.model.producer.clone(),
                opsets: self.model.opsets.clone(),
                operators: self.operators,
            },
        })
    }

    /// The output with its batch axis, of length 1, in front. Where there are several axes of length 1
    /// it makes no difference which of them is the batch: what remains has the same shape.
    fn batch_first(&mut self, output: Value) -> Result<Value> {
        let shape = self.b.shape(output);
        let unit = shape.iter().position(|&d| d == 1).filter(|_| self.shapes.has_batch());
        let mut sample = shape;
        match unit {
            Some(0) => return Ok(output),
            Some(axis) => {
                sample.remove(axis);
                self.notes.push(format!("axis {axis} of the output is taken for the batch"));
            }
            None => {}
        }
        self.b.reshape(output, &[&[1], sample.as_slice()].concat())
    }

    /// What `name` stands for in the innermost frame that knows it.
    pub fn resolve(&self, name: &str) -> Option<&Binding> {
        for frame in self.frames.iter().rev() {
            if let Some(binding) = frame.names.get(name) {
                return Some(binding);
            }
            if frame.closed {
                break;
            }
        }
        None
    }

    /// The attribute that the calling node gave as `name`.
    pub fn outer_attribute(&self, name: &str) -> Option<&'m Attribute> {
        self.frames.last().and_then(|frame| frame.attributes.get(name).copied())
    }

    /// A stored tensor.
    pub fn stored(&mut self, i: usize) -> &mut Stored {
        &mut self.stored[i]
    }

    /// A stored tensor's value in the graph for a use as `role`.
    pub fn stored_value(&mut self, i: usize, role: Role) -> Result<Value> {
        let stored = &mut self.stored[i];
        let name = stored.name.clone();
        stored.value(&mut self.b, role).map_err(|why| {
            Error::UnsupportedModel(format!(
                "{}: tensor '{name}' cannot be used: {why}",
                self.model.source
            ))
        })
    }

    /// Stores the tensor of a constant node whose output is `name`.
    pub fn store_constant(&mut self, name: &str, tensor: Result<Tensor, String>) -> Binding {
        let name = self.qualified(name);
        if let Some(&i) = self.shared.get(&name) {
            return Binding::Stored(i);
        }
        let (place, said) = match self.is_outermost() {
            true => (Place::Node, self.identities.trained(&name)),
            false => (Place::InnerNode, None),
        };
        let mut stored = self.patterns.store(name, tensor, place, said);
        stored.reserve(&mut self.b);
        Binding::Stored(self.keep(stored))
    }

    /// Whether the nodes being lowered are those of the main graph.
    fn is_outermost(&self) -> bool {
        self.frames.len() == 1
    }

    /// The index of a tensor to store; in a loop it is found again in the next turn.
    fn keep(&mut self, stored: Stored) -> usize {
        let i = self.stored.len();
        if self.unrolling > 0 {
            self.shared.insert(stored.name.clone(), i);
        }
        self.stored.push(stored);
        i
    }

    /// Whether the model declares an input called `name`, which may be an initializer too.
    pub fn declares(&self, name: &str) -> bool {
        self.inputs.contains(name)
    }

    /// How many operands of the model's own nodes are called `name`.
    pub fn readers(&self, name: &str) -> usize {
        self.readers.get(name).copied().unwrap_or(0)
    }

    /// Stores tensor `i` again, under the name of a copy of it.
    pub fn store_again(&mut self, i: usize, name: &str) -> Binding {
        let name = self.qualified(name);
        if let Some(&i) = self.shared.get(&name) {
            return Binding::Stored(i);
        }
        let tensor = self.stored[i].tensor.clone();
        let said = self.identities.trained(&name);
        let mut copy = self.patterns.store(name, tensor, Place::Initializer, said);
        copy.reserve(&mut self.b);
        Binding::Stored(self.keep(copy))
    }

    /// What operand `i` of `node` is, where the file says that it is another parameter than the one
    /// that is stored for both.
    fn taken_apart(&mut self, node: &Node, i: usize, binding: Binding) -> Binding {
        let Binding::Stored(id) = binding else { return binding };
        let Some(name) = self.identities.copy(node, i).filter(|_| self.is_outermost()) else {
            return binding;
        };
        let name = name.clone();
        if self.identities.trained(&name) != Some(true) && !self.stored[id].can_train() {
            return binding;
        }
        if let Some(&copy) = self.copies.get(&name) {
            return Binding::Stored(copy);
        }
        let copy = self.store_again(id, &name);
        if let Binding::Stored(id) = copy {
            self.copies.insert(name, id);
        }
        copy
    }

    /// The bias of zeros that the exporter has taken from `node`, with these inputs.
    fn lost_bias(&mut self, node: &Node, inputs: &[Option<Binding>]) -> Option<Binding> {
        let name = self.identities.bias(node).filter(|_| self.is_outermost())?.clone();
        let Some(Some(weight)) = inputs.get(1) else { return None };
        let shape = match weight {
            Binding::Value(value) => self.b.shape(*value),
            Binding::Stored(i) => self.stored[*i].tensor.as_ref().ok()?.shape().to_vec(),
            Binding::List(_) | Binding::Absent(_) => return None,
        };
        let int = |name: &str, default: i64| match node.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        };
        let groups = usize::try_from(int("group", 1)).unwrap_or(1);
        let channels = match (node.op.as_str(), &shape[..]) {
            ("Gemm", &[rows, columns]) => [columns, rows][usize::from(int("transB", 0) != 0)],
            ("Conv", &[channels, ..]) => channels,
            ("ConvTranspose", &[_, channels, ..]) => channels.checked_mul(groups)?,
            _ => return None,
        };
        if channels > MAX_MADE {
            return None;
        }
        let zeros = Tensor::full(DType::F32, &[channels], 0.0);
        let said = self.identities.trained(&name);
        let mut bias = self.patterns.store(name, Ok(zeros), Place::Initializer, said);
        bias.reserve(&mut self.b);
        Some(Binding::Stored(self.keep(bias)))
    }

    /// What the nodes that `node` is lowered to are said to come from.
    pub fn scope(&self, node: &Node) -> Arc<str> {
        self.qualified(node.label())
    }

    /// Lowers a branch in a scope inside the present one, and returns its outputs.
    pub fn lower_graph(&mut self, graph: &'m onnx::Graph, label: &str) -> Result<Vec<Binding>> {
        self.lower_inner(graph, label, Vec::new())
    }

    /// Lowers a turn of a loop with this body, whose inputs are `inputs`, and returns its outputs.
    /// What is stored in the body is the same in all turns.
    pub fn lower_turn(
        &mut self,
        graph: &'m onnx::Graph,
        label: &str,
        inputs: Vec<Binding>,
    ) -> Result<Vec<Binding>> {
        self.unrolling += 1;
        let outputs = self.lower_inner(graph, label, inputs);
        self.unrolling -= 1;
        outputs
    }

    fn lower_inner(
        &mut self,
        graph: &'m onnx::Graph,
        label: &str,
        inputs: Vec<Binding>,
    ) -> Result<Vec<Binding>> {
        let outer = self.frame()?;
        let (opsets, attributes) = (outer.opsets, outer.attributes.clone());
        self.enter(Frame {
            names: HashMap::new(),
            closed: false,
            opsets,
            attributes,
            path: self.qualified(label).to_string(),
        })?;
        self.bind_initializers(&graph.initializers);
        for (info, binding) in graph.inputs.iter().zip(inputs) {
            self.bind(&info.name, binding);
        }
        let wanted: Vec<&'m str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        self.lower_nodes(&graph.nodes, &wanted)?;
        self.leave(&wanted)
    }

    fn frame(&self) -> Result<&Frame<'m>> {
        self.frames.last().ok_or_else(|| Error::InvalidModel("no graph to lower in".into()))
    }

    fn enter(&mut self, frame: Frame<'m>) -> Result<()> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(Error::InvalidModel(format!(
                "{}: functions and branches are nested more than {MAX_DEPTH} deep, or call \
                 themselves",
                self.model.source
            )));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn leave(&mut self, outputs: &[&str]) -> Result<Vec<Binding>> {
        let bindings = outputs
            .iter()
            .map(|name| match self.resolve(name) {
                Some(binding) => Ok(binding.clone()),
                None if name.is_empty() => Ok(Binding::Absent("it is left out")),
                None => Err(self.undefined(name)),
            })
            .collect();
        self.frames.pop();
        bindings
    }

    fn bind(&mut self, name: &'m str, binding: Binding) {
        if let Some(frame) = self.frames.last_mut() {
            frame.names.insert(name, binding);
        }
    }

    fn bind_initializers(&mut self, initializers: &'m [Initializer]) {
        for Initializer { name, literal } in initializers {
            let qualified = self.qualified(name);
            let i = match self.shared.get(&qualified) {
                Some(&i) => i,
                None => {
                    let said =
                        self.is_outermost().then(|| self.identities.trained(&qualified)).flatten();
                    let tensor = literal.tensor.clone();
                    let mut stored =
                        self.patterns.store(qualified, tensor, Place::Initializer, said);
                    stored.reserve(&mut self.b);
                    self.keep(stored)
                }
            };
            self.bind(name, Binding::Stored(i));
        }
    }

    /// `name` with the calls that lead to it.
    fn qualified(&self, name: &str) -> Arc<str> {
        match self.frames.last() {
            Some(frame) if !frame.path.is_empty() => format!("{}/{name}", frame.path).into(),
            _ => name.into(),
        }
    }

    fn undefined(&self, name: &str) -> Error {
        Error::InvalidModel(format!(
            "{}: '{name}' is used but nothing before it computes it; the file is damaged or its \
             nodes are out of order",
            self.model.source
        ))
    }

    fn lower_nodes(&mut self, nodes: &'m [Node], wanted: &[&'m str]) -> Result<()> {
        let (live, needed) = live_nodes(nodes, wanted.iter().copied());
        for i in live {
            self.lower_node(&nodes[i], &needed)?;
        }
        Ok(())
    }

    fn lower_node(&mut self, node: &'m Node, needed: &HashSet<&'m str>) -> Result<()> {
        self.lowered += 1;
        if self.lowered > MAX_NODES {
            return Err(Error::InvalidModel(format!(
                "{}: more than {MAX_NODES} nodes with its functions inlined",
                self.model.source
            )));
        }
        let depth = self.frames.len();
        let outputs = match self.lower_call(node, needed) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.frames.truncate(depth);
                self.go_on(node, error)?
            }
        };
        let mut outputs = outputs.into_iter();
        for name in &node.outputs {
            let binding = outputs
                .next()
                .unwrap_or(Binding::Absent("the operator's further results are not supported"));
            self.watch_result(node, name, &binding)?;
            self.bind(name, binding);
        }
        Ok(())
    }

    /// Follows the samples of a fixed batch into a result of `node`.
    fn watch_result(&mut self, node: &'m Node, name: &'m str, result: &Binding) -> Result<()> {
        let value = |binding: &Binding| match binding {
            Binding::Value(value) => Some(*value),
            _ => None,
        };
        let from: Vec<Value> = match &self.watch {
            Watch::Off => return Ok(()),
            _ => node.inputs.iter().filter_map(|name| value(self.resolve(name)?)).collect(),
        };
        let followed = self.watch.result(&self.b, node, name, value(result), &from);
        followed.map_err(|why| {
            let scope = self.qualified(node.label());
            Error::Shape(format!("node '{scope}' ({}): {why}", node.full_op()))
        })
    }

    fn lower_call(&mut self, node: &'m Node, needed: &HashSet<&'m str>) -> Result<Vec<Binding>> {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, name) in node.inputs.iter().enumerate() {
            inputs.push(match name.as_str() {
                "" => None,
                name => {
                    let binding = self.resolve(name).cloned();
                    let binding = binding.ok_or_else(|| self.undefined(name))?;
                    Some(self.taken_apart(node, i, binding))
                }
            });
        }
        if let Some(bias) = self.lost_bias(node, &inputs) {
            inputs.push(Some(bias));
        }
        let unknown =
            |binding: &Binding| matches!(binding, Binding::Absent(why) if *why == UNKNOWN);
        if inputs.iter().flatten().any(unknown) {
            return Ok(vec![Binding::Absent(UNKNOWN); node.outputs.len()]);
        }
        match function_of(self.model, node) {
            Some(function) => self.inline(node, function, inputs, needed),
            None => self.lower_operator(node, inputs),
        }
    }

    /// Lowers what `output` depends on as far as it goes, and returns all that is in the way.
    pub fn survey(mut self, output: &'m str) -> Vec<Problem> {
        self.survey = Some(Vec::new());
        let result = self.run(output);
        let mut problems = self.survey.take().unwrap_or_default();
        match result {
            Err(error) if problems.is_empty() => problems.push(Problem::general(&error)),
            _ => {}
        }
        problems
    }

    /// Notes a problem where all are wanted; otherwise the first ends the import.
    fn record(&mut self, node: &str, op: &str, opset: i64, error: Error) -> Result<()> {
        let Some(problems) = &mut self.survey else { return Err(error) };
        problems.push(match error {
            Error::UnsupportedOp { node, op, opset, reason } => Problem { node, op, opset, reason },
            other => {
                let (node, op) = (node.to_owned(), op.to_owned());
                Problem { node, op, opset, reason: other.to_string() }
            }
        });
        Ok(())
    }

    /// What stands for the results of a node that could not be lowered: where the file says what
    /// they are, values of that shape, so that what follows is looked at too.
    fn go_on(&mut self, node: &'m Node, error: Error) -> Result<Vec<Binding>> {
        let opset = self.frame()?.opsets.get(&node.domain).copied().unwrap_or(1);
        self.record(node.label(), &node.full_op(), opset, error)?;
        let graph = &self.model.graph;
        let declared = self.declared.get_or_init(|| {
            let values = graph.outputs.iter().chain(&graph.values);
            values.map(|info| (info.name.as_str(), info)).filter(|(n, _)| !n.is_empty()).collect()
        });
        let outer = self.frames.len() == 1;
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for name in &node.outputs {
            let info = declared.get(name.as_str()).filter(|_| outer);
            let fact = info.and_then(|info| self.shapes.between(info));
            outputs.push(match fact {
                Some(fact) => self.b.input(name.as_str(), fact).into(),
                None => Binding::Absent(UNKNOWN),
            });
        }
        Ok(outputs)
    }

    fn lower_operator(
        &mut self,
        node: &'m Node,
        inputs: Vec<Option<Binding>>,
    ) -> Result<Vec<Binding>> {
        let opset = self.frame()?.opsets.get(&node.domain).copied().unwrap_or(1);
        let scope = self.qualified(node.label());
        self.b.set_scope(scope.clone());
        *self.operators.entry(node.full_op()).or_default() += 1;
        let unsupported = |reason: &str| Error::UnsupportedOp {
            node: scope.to_string(),
            op: node.full_op(),
            opset,
            reason: reason.to_owned(),
        };
        let entry = lookup(&node.domain, &node.op).ok_or_else(|| unsupported("it is not known"))?;
        let mut call = Call::new(self, node, inputs, opset);
        let outputs = match entry.lowering {
            Lowering::One(lower) => lower(&mut call).map(|value| vec![value.into()]),
            Lowering::Many(lower) => lower(&mut call),
            Lowering::Refused(reason) => Err(unsupported(reason)),
        };
        let in_node =
            |why: String| Error::Shape(format!("node '{scope}' ({}): {why}", node.full_op()));
        let outputs = outputs.map_err(|error| match error {
            Error::Shape(why) | Error::Data(why) => in_node(why),
            other => other,
        })?;
        for output in &outputs {
            if let Binding::Value(value) = output
                && self.b.fact(*value).len() > MAX_ELEMENTS
            {
                let shape = self.b.graph().shape(*value);
                return Err(in_node(format!("a result of shape {shape:?} is too large")));
            }
        }
        Ok(outputs)
    }

    fn inline(
        &mut self,
        node: &'m Node,
        function: &'m Function,
        inputs: Vec<Option<Binding>>,
        needed: &HashSet<&'m str>,
    ) -> Result<Vec<Binding>> {
        let mut attributes: HashMap<&str, &Attribute> =
            function.defaults.iter().map(|(name, value)| (name.as_str(), value)).collect();
        for (name, value) in &node.attributes {
            let value = match value {
                Attribute::Reference(outer) => self.outer_attribute(outer),
                value => Some(value),
            };
            if let Some(value) = value {
                attributes.insert(name, value);
            }
        }
        let given = inputs.into_iter().chain(std::iter::repeat(None));
        let names = function.inputs.iter().zip(given).map(|(name, binding)| {
            let left_out = Binding::Absent("the call of the function leaves it out");
            (name.as_str(), binding.unwrap_or(left_out))
        });
        self.enter(Frame {
            names: names.collect(),
            closed: true,
            opsets: &function.opsets,
            attributes,
            path: self.qualified(node.label()).to_string(),
        })?;
        let used = |(inner, outer): (&'m String, &'m String)| {
            if needed.contains(outer.as_str()) { inner.as_str() } else { "" }
        };
        let wanted: Vec<&str> = function.outputs.iter().zip(&node.outputs).map(used).collect();
        self.lower_nodes(&function.nodes, &wanted)?;
        self.leave(&wanted)
    }
}
