//! `gradalign inspect`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::Serialize;

use super::args::{self, Plain};
use super::{Outcome, flags, print};
use crate::data::{self, Dataset, Samples, Target};
use crate::engine::{self, EngineChoice, EngineOptions};
use crate::error::Result;
use crate::graph::Graph;
use crate::import::{self, FinalActivation, ImportOptions, Imported, Problem};
use crate::onnx;
use crate::probe::{self, Batch};
use crate::report::{Align, Format, Grid, printable};
use crate::score::{Failure, Resolved, check, contained, output_fact, prepare, target};
use crate::source::Files;
use crate::transform::{Loss, Role, roles};

/// How many samples are made up: as few as show what a model takes.
const SAMPLES: NonZeroUsize = NonZeroUsize::MIN;

/// All there is to say of a model file.
#[derive(Default, Serialize)]
struct Inspection {
    model: String,
    ir_version: Option<i64>,
    producer: String,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<Input>,
    /// All that is in the way of scoring, node by node; empty where nothing is. Problems of the
    /// model as a whole, or of an input, name no operator.
    unsupported: Vec<Unsupported>,
    /// What is known once the model is imported.
    network: Option<Network>,
    /// Whether `score` gives it scores, on data that fits; if not, `error` says why.
    scorable: bool,
    /// The loss that it is scored with, unless another is asked for.
    loss: Option<String>,
    /// What the data must hold, array by array.
    data: Vec<String>,
    /// The engine that would run it.
    engine: Option<engine::Description>,
    error: Option<Failure>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Input {
    name: String,
    dtype: String,
    /// `null` is a dimension that the file leaves open.
    dims: Vec<Option<usize>>,
    /// Whether the output depends on it.
    needed: bool,
}

impl Inspection {
    /// Calls the settings in messages by their flags.
    fn name_flags(&mut self) {
        self.error.iter_mut().for_each(flags::in_failure);
        let reasons = self.unsupported.iter_mut().map(|unsupported| &mut unsupported.reason);
        let notes = self.network.iter_mut().flat_map(|network| &mut network.notes);
        for text in self.warnings.iter_mut().chain(reasons).chain(notes) {
            *text = flags::with_flags(text).into_owned();
        }
    }
}

#[derive(Serialize)]
struct Unsupported {
    node: String,
    op: String,
    opset: i64,
    reason: String,
}

#[derive(Serialize)]
struct Network {
    output: String,
    /// With a batch of 1.
    output_shape: Vec<usize>,
    /// The activation at the end, which belongs to the loss.
    final_activation: Option<FinalActivation>,
    /// How often each operator occurs.
    operators: BTreeMap<String, usize>,
    batch_norms: usize,
    parameters: Vec<Parameter>,
    /// Trainable scalars.
    trainable: u64,
    /// Those on a path from the input to the output.
    trainable_live: u64,
    /// Multiply-adds of one sample's forward pass.
    flops: u64,
    /// Those on such a path.
    flops_live: u64,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    role: &'static str,
}

pub(super) fn run(args: args::Inspect) -> anyhow::Result<Outcome> {
    let files = Files::find(&args.sources)?;
    let models = files.paths();
    let settings = Resolved { import: args.reading.resolve()?, ..Resolved::default() };
    let options = data::Options { samples: Samples::Count(SAMPLES), ..data::Options::default() };
    let dataset = Dataset::open("synthetic", &options)?;
    let engine = engine::open(EngineChoice::Auto, &EngineOptions::default())?.describe();
    let single = match args.sources.as_slice() {
        [source] => Path::new(source).is_file(),
        _ => false,
    };

    let mut inspections = Vec::new();
    let mut outcome = Outcome::Done;
    for path in models {
        let mut inspection = inspect(path, &dataset, &settings, &engine);
        inspection.name_flags();
        if !inspection.scorable {
            outcome = Outcome::SomeFailed;
        }
        match args.format {
            Plain::Json => inspections.push(inspection),
            Plain::Table => {
                let between = if path == &models[0] { "" } else { "\n" };
                print(format!("{between}{}", describe(&inspection)?).as_bytes())?;
            }
        }
    }
    match (args.format, inspections.as_slice()) {
        (Plain::Table, _) => {}
        (Plain::Json, [only]) if single => print_json(only)?,
        (Plain::Json, all) => print_json(all)?,
    }
    Ok(outcome)
}

fn print_json(value: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
    print((serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// Looks at the model at `path`, and prepares it for scoring on made-up data as `score` does.
fn inspect(
    path: &Path,
    dataset: &Dataset,
    settings: &Resolved,
    engine: &engine::Description,
) -> Inspection {
    let mut inspection =
        Inspection { model: path.to_string_lossy().into_owned(), ..Inspection::default() };
    let prepared = contained(|| {
        let model = onnx::load(path)?;
        inspection.read(&model, &settings.import);
        let prepared = prepare(&model, dataset, settings);
        if prepared.is_err() {
            // What fails may be the data; there is more to say of the model itself.
            let imported = import::import(&model, &settings.import).ok();
            inspection.network = imported.map(network);
        }
        prepared
    });
    let scorable = prepared.and_then(|(imported, batch, loss, warnings)| {
        inspection.warnings.extend(warnings);
        inspection.loss = Some(loss.to_string());
        let checked = contained(|| {
            inspection.data = arrays(&imported, &batch, loss)?;
            check(&imported.graph, loss)
        });
        inspection.network = Some(network(imported));
        checked
    });
    match scorable {
        Ok(()) => {
            inspection.scorable = true;
            inspection.engine = Some(engine.clone());
        }
        Err(error) => inspection.error = Some(error),
    }
    inspection
}

impl Inspection {
    /// What the file says.
    fn read(&mut self, model: &onnx::Model, options: &ImportOptions) {
        // Where it is not known which inputs matter, all may.
        let needed = import::needed_inputs(model, options).ok();
        let is_needed = |name: &str| {
            needed.as_ref().is_none_or(|needed| needed.iter().any(|input| input.name == name))
        };
        let inputs = import::declared_inputs(model).into_iter().map(|input| Input {
            needed: is_needed(&input.name),
            name: input.name,
            dtype: input.dtype.to_string(),
            dims: input.dims,
        });
        self.inputs = inputs.collect();
        self.ir_version = Some(model.ir_version);
        self.producer = model.producer.clone();
        self.opsets = model.opsets.clone();
        self.warnings = model.warnings.clone();
        let unsupported = import::all_problems(model, options).into_iter();
        self.unsupported = unsupported
            .map(|Problem { node, op, opset, reason }| Unsupported { node, op, opset, reason })
            .collect();
    }
}

/// The arrays of an `.npz` file that a model is scored on, with their shapes for N samples.
fn arrays(imported: &Imported, batch: &Batch, loss: Loss) -> Result<Vec<String>> {
    let graph = &imported.graph;
    let of_samples = |shape: &[usize]| {
        let dims = shape.iter().map(ToString::to_string);
        std::iter::once("N".to_owned()).chain(dims).collect::<Vec<_>>().join("x")
    };
    let inputs = graph.inputs().iter().zip(&batch.inputs).map(|(&input, tensor)| {
        let name = graph.name(input).unwrap_or_default();
        let or = if batch.inputs.len() == 1 { " or 'images'" } else { "" };
        let shape = tensor.shape().get(1..).unwrap_or_default();
        format!("'{name}'{or}: {} {}", tensor.dtype(), of_samples(shape))
    });
    let labels = match target(loss, &output_fact(graph)?)? {
        Target::Class { classes } => format!("N classes from 0 to {}", classes.saturating_sub(1)),
        Target::Tokens { classes, positions } => {
            format!("{} classes from 0 to {}", of_samples(&positions), classes.saturating_sub(1))
        }
        Target::Binary { shape } => format!("{} numbers from 0 to 1", of_samples(&shape)),
        Target::Values { shape } => format!("{} numbers", of_samples(&shape)),
    };
    Ok(inputs.chain([format!("'labels': {labels}")]).collect())
}

fn network(imported: Imported) -> Network {
    let Imported { graph, output, final_activation, batch_norms, notes, info, .. } = imported;
    let output_shape = graph.outputs().first().map(|o| graph.shape(o.value).to_vec());
    Network {
        output,
        output_shape: output_shape.unwrap_or_default(),
        final_activation,
        operators: info.operators,
        batch_norms,
        parameters: parameters(&graph),
        trainable: probe::parameters(&graph),
        trainable_live: probe::live_parameters(&graph),
        flops: probe::flops(&graph),
        flops_live: probe::live_flops(&graph),
        notes,
    }
}

fn parameters(graph: &Graph) -> Vec<Parameter> {
    let roles: HashMap<_, _> = roles(graph).into_iter().collect();
    let parameter = |(value, parameter): (_, &crate::graph::Parameter)| Parameter {
        name: parameter.name.to_string(),
        shape: graph.shape(value).to_vec(),
        role: match roles.get(&value) {
            Some(Role::Weight { .. }) => "weight",
            Some(Role::Bias { .. }) => "bias",
            Some(Role::Scale) => "scale",
            Some(Role::Shift) => "shift",
            Some(Role::Embedding) => "embedding",
            Some(Role::Free) | None => "free",
        },
    };
    graph.parameters().map(parameter).collect()
}

/// The inspection for a person.
fn describe(inspection: &Inspection) -> anyhow::Result<String> {
    let mut lines = vec![inspection.model.clone()];
    if let Some(version) = inspection.ir_version {
        let opsets = inspection.opsets.iter().map(|(domain, version)| {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            format!("{domain} {version}")
        });
        let opsets = opsets.collect::<Vec<_>>().join(", ");
        lines.push(format!("format       IR version {version}, opset {opsets}"));
    }
    if !inspection.producer.is_empty() {
        lines.push(format!("exported by  {}", inspection.producer));
    }
    for Input { name, dtype, dims, needed } in &inspection.inputs {
        let unused = if *needed { "" } else { ", which the output does not depend on" };
        lines.push(format!("input        {name}: {dtype} {}{unused}", dimensions(dims)));
    }
    let mut text = String::new();
    if let Some(network) = &inspection.network {
        lines.extend(describe_network(network));
        add(&mut text, &mut lines);
        writeln!(text, "\n{}", parameter_table(&network.parameters)?)?;
    }
    let is_said = |reason: &str| inspection.error.as_ref().is_some_and(|e| e.message == reason);
    for Unsupported { node, op, opset, reason } in &inspection.unsupported {
        if op.is_empty() && is_said(reason) {
            continue;
        }
        lines.push(match op.as_str() {
            "" => format!("problem      {reason}"),
            _ => format!("unsupported  {op} (opset {opset}) at '{node}': {reason}"),
        });
    }
    lines.extend(inspection.warnings.iter().map(|warning| format!("warning      {warning}")));
    lines.extend(inspection.loss.iter().map(|loss| format!("loss         {loss}")));
    lines.extend(inspection.data.iter().map(|array| format!("data         {array}")));
    match (&inspection.engine, &inspection.error) {
        (Some(engine::Description { name, version, device, .. }), _) => {
            lines.push(format!("can be scored, with {name} {version} on {device}"));
        }
        (None, Some(error)) => lines.push(format!("cannot be scored: {}", error.message)),
        (None, None) => {}
    }
    add(&mut text, &mut lines);
    Ok(text)
}

/// Moves `lines` to the end of `text`. What they are made of comes from the file.
fn add(text: &mut String, lines: &mut Vec<String>) {
    for line in lines.drain(..) {
        *text += &printable(&line);
        text.push('\n');
    }
}

/// What to add to a number of which only some are live.
fn live(all: u64, live: u64) -> String {
    if live == all { String::new() } else { format!(", {live} of them live") }
}

fn describe_network(network: &Network) -> Vec<String> {
    let shape: Vec<_> = network.output_shape.iter().copied().map(Some).collect();
    let before = match network.final_activation {
        Some(FinalActivation::Softmax) => ", before its softmax",
        Some(FinalActivation::LogSoftmax) => ", before its log-softmax",
        Some(FinalActivation::Sigmoid) => ", before its sigmoid",
        None => "",
    };
    let operators: Vec<_> =
        network.operators.iter().map(|(op, count)| format!("{op} ×{count}")).collect();
    let lines = [
        format!("output       {}: {}{before}", network.output, dimensions(&shape)),
        format!("batch norms  {}", network.batch_norms),
        format!(
            "parameters   {}{}",
            network.trainable,
            live(network.trainable, network.trainable_live)
        ),
        format!(
            "flops        {} multiply-adds{}",
            network.flops,
            live(network.flops, network.flops_live)
        ),
        format!("operators    {}", operators.join(", ")),
    ];
    let notes = network.notes.iter().map(|note| format!("note         {note}"));
    lines.into_iter().chain(notes).collect()
}

fn parameter_table(parameters: &[Parameter]) -> anyhow::Result<String> {
    let columns = ["parameter", "shape", "role"].map(|name| (name, Align::Left));
    let mut grid = Grid::new(columns);
    for Parameter { name, shape, role } in parameters {
        let shape: Vec<_> = shape.iter().copied().map(Some).collect();
        grid.push([name.clone(), dimensions(&shape), (*role).to_owned()]);
    }
    let mut table = Vec::new();
    Format::Table.renderer().grid(&grid, &mut table)?;
    Ok(String::from_utf8_lossy(&table).into_owned())
}

fn dimensions(dims: &[Option<usize>]) -> String {
    let dims: Vec<_> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    if dims.is_empty() { "scalar".into() } else { dims.join("x") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_scored_says_why() {
        let inspection = Inspection {
            model: "a.onnx".into(),
            ir_version: Some(8),
            opsets: BTreeMap::from([(String::new(), 17)]),
            inputs: vec![Input {
                name: "x\n".into(),
                dtype: "float32".into(),
                dims: vec![None, Some(3)],
                needed: true,
            }],
            unsupported: vec![Unsupported {
                node: "n".into(),
                op: "Loop".into(),
                opset: 17,
                reason: "no".into(),
            }],
            error: Some(Failure { kind: "unsupported-op".into(), message: "because".into() }),
            ..Inspection::default()
        };
        let text = describe(&inspection).unwrap();
        assert_eq!(
            text,
            "a.onnx\n\
             format       IR version 8, opset ai.onnx 17\n\
             input        x\\n: float32 ?x3\n\
             unsupported  Loop (opset 17) at 'n': no\n\
             cannot be scored: because\n"
        );
    }
}
