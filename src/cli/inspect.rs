//! `gradalign inspect`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Serialize;

use super::args::{self, Plain};
use super::{Outcome, print};
use crate::engine::{self, EngineChoice, EngineOptions};
use crate::graph::Graph;
use crate::import::{self, FinalActivation, Imported};
use crate::onnx;
use crate::pass;
use crate::report::{Align, Format, Grid, RowError};
use crate::transform::{Role, roles};

/// All there is to say of a model file.
#[derive(Serialize)]
struct Inspection {
    model: String,
    ir_version: i64,
    producer: String,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<Input>,
    /// All that is in the way of scoring, node by node; empty where nothing is. Problems of the
    /// model as a whole, or of an input, name no operator.
    unsupported: Vec<Unsupported>,
    /// What is known once the model is imported.
    network: Option<Network>,
    /// Whether the model can be scored; if not, `error` says why.
    scorable: bool,
    /// The engine that would run it.
    engine: Option<engine::Description>,
    error: Option<RowError>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Input {
    name: String,
    dtype: String,
    /// `null` is a dimension that the file leaves open.
    dims: Vec<Option<usize>>,
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
    /// Multiply-adds of one sample's forward pass.
    flops: u64,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    role: &'static str,
}

pub(super) fn run(args: args::Inspect) -> anyhow::Result<Outcome> {
    let options = args.reading.resolve()?;
    let model = onnx::load(&args.model)?;
    let inputs = import::declared_inputs(&model).into_iter().map(|input| Input {
        name: input.name,
        dtype: input.dtype.to_string(),
        dims: input.dims,
    });
    let unsupported =
        import::all_problems(&model, &options).into_iter().map(|problem| Unsupported {
            node: problem.node,
            op: problem.op,
            opset: problem.opset,
            reason: problem.reason,
        });
    let mut inspection = Inspection {
        model: args.model.display().to_string(),
        ir_version: model.ir_version,
        producer: model.producer.clone(),
        opsets: model.opsets.clone(),
        inputs: inputs.collect(),
        unsupported: unsupported.collect(),
        network: None,
        scorable: false,
        engine: None,
        error: None,
        warnings: model.warnings.clone(),
    };
    let imported = import::import(&model, &options).and_then(|imported| {
        let engine = engine::open(EngineChoice::Auto, &EngineOptions::default())?;
        Ok((imported, engine.describe()))
    });
    match imported {
        Ok((imported, engine)) => {
            inspection.scorable = true;
            inspection.engine = Some(engine);
            inspection.warnings.extend(imported.warnings.iter().cloned());
            inspection.network = Some(network(imported));
        }
        Err(error) => inspection.error = Some(RowError::from(&error)),
    }
    let text = match args.format {
        Plain::Json => serde_json::to_string_pretty(&inspection)? + "\n",
        Plain::Table => describe(&inspection)?,
    };
    print(text.as_bytes())?;
    Ok(Outcome::Done)
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
        trainable: pass::parameters(&graph),
        flops: pass::flops(&graph),
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
    let Inspection { model, ir_version, producer, opsets, inputs, .. } = inspection;
    let mut text = format!("{model}\n");
    let opsets: Vec<_> = opsets
        .iter()
        .map(|(domain, version)| {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            format!("{domain} {version}")
        })
        .collect();
    writeln!(text, "format       IR version {ir_version}, opset {}", opsets.join(", "))?;
    if !producer.is_empty() {
        writeln!(text, "exported by  {producer}")?;
    }
    for Input { name, dtype, dims } in inputs {
        writeln!(text, "input        {name}: {dtype} {}", dimensions(dims))?;
    }
    if let Some(network) = &inspection.network {
        describe_network(network, &mut text)?;
    }
    for Unsupported { node, op, opset, reason } in &inspection.unsupported {
        match (op.as_str(), node.as_str()) {
            ("", _) => writeln!(text, "problem      {reason}")?,
            _ => writeln!(text, "unsupported  {op} (opset {opset}) at '{node}': {reason}")?,
        }
    }
    for warning in &inspection.warnings {
        writeln!(text, "warning      {warning}")?;
    }
    match (&inspection.engine, &inspection.error) {
        (Some(engine), _) => writeln!(
            text,
            "can be scored, with {} {} on {}",
            engine.name, engine.version, engine.device
        )?,
        (None, Some(error)) => writeln!(text, "cannot be scored: {}", error.message)?,
        (None, None) => {}
    }
    Ok(text)
}

fn describe_network(network: &Network, text: &mut String) -> anyhow::Result<()> {
    let shape: Vec<_> = network.output_shape.iter().copied().map(Some).collect();
    write!(text, "output       {}: {}", network.output, dimensions(&shape))?;
    match network.final_activation {
        Some(FinalActivation::Softmax) => writeln!(text, ", before its softmax")?,
        Some(FinalActivation::LogSoftmax) => writeln!(text, ", before its log-softmax")?,
        Some(FinalActivation::Sigmoid) => writeln!(text, ", before its sigmoid")?,
        None => writeln!(text)?,
    }
    writeln!(text, "batch norms  {}", network.batch_norms)?;
    writeln!(text, "parameters   {}", network.trainable)?;
    writeln!(text, "flops        {} multiply-adds", network.flops)?;
    let operators: Vec<_> =
        network.operators.iter().map(|(op, count)| format!("{op} ×{count}")).collect();
    writeln!(text, "operators    {}", operators.join(", "))?;
    for note in &network.notes {
        writeln!(text, "note         {note}")?;
    }
    let mut grid =
        Grid::new([("parameter", Align::Left), ("shape", Align::Left), ("role", Align::Left)]);
    for Parameter { name, shape, role } in &network.parameters {
        let shape: Vec<_> = shape.iter().copied().map(Some).collect();
        grid.push([name.clone(), dimensions(&shape), (*role).to_owned()]);
    }
    let mut table = Vec::new();
    Format::Table.renderer().grid(&grid, &mut table)?;
    writeln!(text, "\n{}", String::from_utf8_lossy(&table))?;
    Ok(())
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
            ir_version: 8,
            producer: String::new(),
            opsets: BTreeMap::from([(String::new(), 17)]),
            inputs: vec![Input {
                name: "x".into(),
                dtype: "float32".into(),
                dims: vec![None, Some(3)],
            }],
            unsupported: vec![Unsupported {
                node: "n".into(),
                op: "Loop".into(),
                opset: 17,
                reason: "no".into(),
            }],
            network: None,
            scorable: false,
            engine: None,
            error: Some(RowError { kind: "unsupported-op".into(), message: "because".into() }),
            warnings: Vec::new(),
        };
        let text = describe(&inspection).unwrap();
        assert_eq!(
            text,
            "a.onnx\n\
             format       IR version 8, opset ai.onnx 17\n\
             input        x: float32 ?x3\n\
             unsupported  Loop (opset 17) at 'n': no\n\
             cannot be scored: because\n"
        );
    }
}
