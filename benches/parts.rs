//! Times the parts of a score: `cargo bench --bench parts -- [OPTION …] [MODEL …]`.
//!
//! Scores each model `--runs` times, starting from its file, and prints the medians of these parts as
//! JSON, in seconds:
//!
//! - `import`: reading and importing the file, and fitting the data to the model;
//! - `build`: differentiation, planning, emission, and evaluation of the scores;
//! - `session`: the engine prepares the training graph, and drops it at the end;
//! - `run`: the engine runs the graph over all samples;
//! - `total`: the sum of these.
//!
//! All are wall-clock times. Concurrent sessions in the same part count once; if they are in different
//! parts, the time is divided equally between these.
//!
//! `--again` repeats each run immediately, with warm caches, and adds `again`, the time of the
//! repetitions. The other parts exclude it.
//!
//! `--forward` adds the time of a plain forward pass of all samples, for comparison. The peak memory is
//! that of the process up to the end of the model's scores, so name a single model to measure its own.

#![allow(clippy::print_stdout)]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use gradalign::data::{Dataset, Options, Samples};
use gradalign::engine::{
    self, Compiled, Description, Device, Engine, EngineChoice, EngineOptions, Session,
};
use gradalign::graph::Graph;
use gradalign::metric;
use gradalign::ops::BatchNormMode;
use gradalign::probe::{Batch, peak_resident};
use gradalign::score::{Resolved, ScoreValue, prepare, score};
use gradalign::tensor::Tensor;
use gradalign::{Result, onnx, transform};
use serde_json::{Value, json};

const MODELS: [&str; 4] =
    ["models/mlp.onnx", "models/nasbench201-cell.onnx", "models/resnet20.onnx", "models/vit.onnx"];

/// Times the parts of a score
#[derive(Parser)]
struct Arguments {
    /// Model files
    #[arg(default_values = MODELS)]
    models: Vec<PathBuf>,

    /// Labelled samples, as for `gradalign score`
    #[arg(long, default_value = "fixtures/digits.npz")]
    data: String,

    /// Number of samples to draw; 0 for all, in the order of the file
    #[arg(long, default_value_t = 128)]
    samples: usize,

    /// Statistics of batch normalisation: auto, running, sample or batch
    #[arg(long, default_value = "auto", value_parser = batch_norm)]
    bn: BatchNorm,

    /// Scores, as for `gradalign score`
    #[arg(long, value_delimiter = ',', default_value = "gradalign-1,gradalign-2")]
    metric: Vec<String>,

    /// Number of times that each model is scored
    #[arg(long, default_value = "5")]
    runs: NonZeroUsize,

    /// auto, ort or tract
    #[arg(long, default_value = "auto")]
    engine: EngineChoice,

    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Device,

    /// Number of threads; 0 for one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,

    /// Also time a plain forward pass of all samples, with the stored statistics
    #[arg(long)]
    forward: bool,

    /// Repeat each run immediately, and time the repetitions
    #[arg(long)]
    again: bool,

    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The statistics of batch normalisation; `None` for each score's default.
#[derive(Clone, Copy)]
struct BatchNorm(Option<BatchNormMode>);

fn batch_norm(mode: &str) -> std::result::Result<BatchNorm, String> {
    Ok(BatchNorm(match mode {
        "auto" => None,
        "running" => Some(BatchNormMode::Running),
        "sample" => Some(BatchNormMode::Sample),
        "batch" => Some(BatchNormMode::Batch),
        _ => return Err("one of auto, running, sample, batch".into()),
    }))
}

// --- An engine that records its times

/// An activity of an engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Creating or dropping a session.
    Session,
    /// Running a session.
    Run,
    /// Repeating a run.
    Again,
}

/// An activity with its start and end.
#[derive(Clone, Copy)]
struct Span {
    part: Part,
    start: Instant,
    end: Instant,
}

/// The recorded activities, shared by an engine and its sessions.
#[derive(Clone, Default)]
struct Stopwatch(Arc<Mutex<Vec<Span>>>);

impl Stopwatch {
    fn time<T>(&self, part: Part, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let span = Span { part, start, end: Instant::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(span);
        result
    }

    /// Returns the activities recorded since the last call.
    fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The wall-clock time of `part`. Time with several activities is divided equally between their parts.
fn time_of(part: Part, spans: &[Span]) -> Duration {
    let mut moments: Vec<Instant> = spans.iter().flat_map(|span| [span.start, span.end]).collect();
    moments.sort();
    let shares = moments.windows(2).map(|moment| {
        let busy = || spans.iter().filter(|s| s.start <= moment[0] && moment[1] <= s.end);
        let (all, own) = (busy().count(), busy().filter(|span| span.part == part).count());
        let length = moment[1].duration_since(moment[0]);
        if own == 0 { Duration::ZERO } else { length.mul_f64(own as f64 / all as f64) }
    });
    shares.sum()
}

struct TimedEngine {
    engine: Box<dyn Engine>,
    stopwatch: Stopwatch,
    /// Whether each run is repeated.
    again: bool,
}

impl Engine for TimedEngine {
    fn describe(&self) -> Description {
        self.engine.describe()
    }

    fn threads(&self) -> usize {
        self.engine.threads()
    }

    fn with_threads(&self, threads: NonZeroUsize) -> Option<Box<dyn Engine>> {
        let (stopwatch, again) = (self.stopwatch.clone(), self.again);
        let engine = self.engine.with_threads(threads)?;
        Some(Box::new(TimedEngine { engine, stopwatch, again }))
    }

    fn compile(&self, graph: &Graph) -> Result<Compiled> {
        self.engine.compile(graph)
    }

    fn load(&self, model: &Compiled) -> Result<Box<dyn Session>> {
        let load = || self.engine.load(model);
        let inner = Some(self.stopwatch.time(Part::Session, load)?);
        let (stopwatch, again) = (self.stopwatch.clone(), self.again);
        Ok(Box::new(TimedSession { inner, stopwatch, again }))
    }
}

struct TimedSession {
    /// `None` only after dropping, which is timed.
    inner: Option<Box<dyn Session>>,
    stopwatch: Stopwatch,
    again: bool,
}

impl Session for TimedSession {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let Some(inner) = self.inner.as_mut() else { return Ok(Vec::new()) };
        let outputs = self.stopwatch.time(Part::Run, || inner.run(inputs))?;
        if self.again {
            self.stopwatch.time(Part::Again, || inner.run(inputs))?;
        }
        Ok(outputs)
    }
}

impl Drop for TimedSession {
    fn drop(&mut self) {
        let inner = self.inner.take();
        self.stopwatch.time(Part::Session, || drop(inner));
    }
}

// --- Measurements

/// The times of one scoring, in seconds.
struct Parts {
    import: f64,
    build: f64,
    session: f64,
    run: f64,
    again: f64,
    total: f64,
}

fn time_score(
    path: &Path,
    dataset: &Dataset,
    settings: &Resolved,
    engine: &TimedEngine,
) -> Result<(Parts, Vec<ScoreValue>)> {
    engine.stopwatch.take();
    let start = Instant::now();
    let model = onnx::load(path)?;
    let (imported, batch, loss, _) = prepare(&model, dataset, settings)?;
    drop(model);
    let import = start.elapsed();
    let scored = score(&imported.graph, &batch, loss, settings, engine)?;
    let total = start.elapsed();
    let spans = engine.stopwatch.take();
    let [session, run, again] =
        [Part::Session, Part::Run, Part::Again].map(|part| time_of(part, &spans));
    let total = total.saturating_sub(again);
    let build = total.saturating_sub(import + session + run);
    let [import, build, session, run, again, total] =
        [import, build, session, run, again, total].map(|part| part.as_secs_f64());
    Ok((Parts { import, build, session, run, again, total }, scored.scores))
}

/// The forward graph of `model` for all samples at once, with the stored batch norm statistics.
fn forward_graph(model: &Graph, samples: usize) -> Result<Graph> {
    let model = transform::batch_norm(model, BatchNormMode::Running)?.0;
    transform::vmap(&model.graph, samples, model.graph.inputs()).map(|batched| batched.graph)
}

/// The times of `runs` forward passes in seconds, after a warm-up run.
fn time_forward(
    model: &Graph,
    batch: &Batch,
    runs: usize,
    engine: &dyn Engine,
) -> Result<Vec<f64>> {
    let graph = forward_graph(model, batch.len())?;
    let mut session = engine.load(&engine.compile(&graph)?)?;
    let shapes = graph.inputs().iter().map(|&input| graph.shape(input));
    let inputs = batch.inputs.iter().zip(shapes).map(|(tensor, shape)| tensor.reshape(shape));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    session.run(&inputs)?;
    let timed = (0..runs).map(|_| {
        let start = Instant::now();
        session.run(&inputs).map(|_| start.elapsed().as_secs_f64())
    });
    timed.collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Measures a model and returns its row.
fn measure(
    path: &Path,
    dataset: &Dataset,
    settings: &Resolved,
    arguments: &Arguments,
    engine: &TimedEngine,
) -> Result<Value> {
    let runs = arguments.runs.get();
    let timed = (0..runs).map(|_| time_score(path, dataset, settings, engine));
    let (parts, mut scores): (Vec<Parts>, Vec<Vec<ScoreValue>>) =
        timed.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let peak = peak_resident();
    let of = |part: fn(&Parts) -> f64| median(parts.iter().map(part).collect());
    let scores = scores.pop().unwrap_or_default();
    // A value that is not finite becomes null.
    let scores: serde_json::Map<String, Value> =
        scores.iter().map(|score| (score.name.into(), json!(score.value))).collect();
    let mut row = json!({
        "seconds": {
            "import": of(|p| p.import),
            "build": of(|p| p.build),
            "session": of(|p| p.session),
            "run": of(|p| p.run),
            "total": of(|p| p.total),
        },
        "scores": scores,
        "peak_memory": peak,
    });
    if arguments.again {
        row["seconds"]["again"] = json!(of(|p| p.again));
    }
    if arguments.forward {
        let (imported, batch, ..) = prepare(&onnx::load(path)?, dataset, settings)?;
        let seconds = time_forward(&imported.graph, &batch, runs, engine)?;
        row["seconds"]["forward"] = json!(median(seconds));
    }
    Ok(row)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let names: Vec<&str> = arguments.metric.iter().map(String::as_str).collect();
    let settings = Resolved {
        metrics: metric::select(&names)?,
        options: metric::Options { batch_norm: arguments.bn.0, ..metric::Options::default() },
        ..Resolved::default()
    };
    let samples = NonZeroUsize::new(arguments.samples).map_or(Samples::All, Samples::Count);
    let dataset = Dataset::open(&arguments.data, &Options { samples, ..Options::default() })?;
    let options = EngineOptions {
        device: arguments.device,
        threads: arguments.threads,
        ..EngineOptions::default()
    };
    let engine = TimedEngine {
        engine: engine::open(arguments.engine, &options)?,
        stopwatch: Stopwatch::default(),
        again: arguments.again,
    };
    let rows = arguments.models.iter().map(|path| {
        let measured = measure(path, &dataset, &settings, &arguments, &engine);
        let mut row = measured.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        row["model"] = json!(path);
        row
    });
    let report = json!({
        "engine": engine.describe(),
        "samples": dataset.samples(),
        "runs": arguments.runs,
        "models": rows.collect::<Vec<_>>(),
    });
    println!("{report:#}");
    Ok(())
}
