//! The ONNX project's own tests, as `scripts/fetch-onnx-tests.sh` puts them into `.onnx-tests/`.
//!
//! Each is imported and run by the reference interpreter and on every engine, and its gradient is
//! compared with finite differences on the test's own inputs. `docs/conformance.md` is made from
//! what comes out: write it anew with `GRADALIGN_WRITE_CONFORMANCE=1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use gradalign::emit::emit_bytes;
use gradalign::engine::{Compiled, Engine, all_for_tests};
use gradalign::error::{Error, Result};
use gradalign::graph::{Builder, Fact, Graph, Output, Value, eval, eval_values};
use gradalign::import::{FinalActivation, Given, ImportOptions, import, lower};
use gradalign::onnx::{DataType, Model, load, read_tensor};
use gradalign::ops::BatchNormMode;
use gradalign::tensor::{DType, Tensor};
use gradalign::transform::{batch_norm, grad, widen};
use ndarray::{ArrayD, IxDyn};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Half the distance of a central difference, in float64.
const STEP: f64 = 1e-6;

/// Relative tolerance of a derivative against a central difference.
const SLOPE_TOLERANCE: f64 = 1e-5;

/// Tests that gradalign answers differently on purpose.
const DELIBERATE: &[(&str, &str)] = &[
    ("training_dropout", "dropout is off, also where the file turns it on"),
    ("resize_downsample_scales_linear_align_corners", ALIGNED),
    ("resize_downsample_scales_cubic_align_corners", ALIGNED),
];

const ALIGNED: &str =
    "corners are aligned by the size of the result, as in ONNX Runtime, not by it before rounding";

/// A value that a test gives or expects.
enum Stored {
    Tensor(DataType, Tensor),
    List(Vec<Stored>),
    Absent,
    Other(String),
}

/// How a test went.
struct Outcome {
    op: String,
    name: String,
    verdict: Verdict,
}

enum Verdict {
    /// Not imported, for this reason.
    Refused(String),
    Imported {
        /// Per engine: passed, or why the engine could not run the graph.
        engines: Vec<Result<(), String>>,
        gradient: Gradient,
    },
    /// A wrong answer of the interpreter, of an engine, or of a derivative.
    Wrong(String),
}

enum Gradient {
    /// Compared with finite differences.
    Checked,
    /// No derivative passes: there are no floats, they are all known at import, or the derivative
    /// is zero wherever it is defined.
    None,
    /// Why finite differences say nothing here.
    Unchecked(&'static str),
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of tests. Where it is missing, that is a failure only where it is required.
fn tests() -> Option<PathBuf> {
    let folder = root().join(".onnx-tests");
    if folder.join("version").exists() {
        return Some(folder);
    }
    let required = std::env::var_os("GRADALIGN_REQUIRE_ONNX_TESTS").is_some_and(|v| v == "1");
    assert!(!required, "{} is missing: run scripts/fetch-onnx-tests.sh", folder.display());
    eprintln!("not tested: {} is missing", folder.display());
    None
}

fn stored(path: &Path) -> Option<Stored> {
    if path.is_dir() {
        return Some(Stored::List(
            (0..).map_while(|i| stored(&path.join(i.to_string()))).collect(),
        ));
    }
    if let Ok(what) = std::fs::read_to_string(path.with_extension("txt")) {
        return Some(Stored::Other(what.trim().to_owned()));
    }
    let bytes = std::fs::read(path.with_extension("pb")).ok()?;
    if bytes.is_empty() {
        return Some(Stored::Absent);
    }
    let literal = read_tensor(&bytes, &path.display().to_string()).unwrap();
    Some(match literal.tensor {
        Ok(tensor) => Stored::Tensor(literal.stored, tensor),
        Err(why) => Stored::Other(why),
    })
}

/// How much of a test's inputs is known at import.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Known {
    Nothing,
    /// All but floats: shapes, axes, indices.
    Integers,
    /// All but the first floats: scales and bounds too.
    AllButFirst,
    Everything,
}

impl Stored {
    fn given(&self, known: Known, first: &mut bool) -> Result<Given> {
        Ok(match self {
            Stored::Tensor(_, tensor) => {
                let is_open = match known {
                    Known::Nothing => true,
                    Known::Integers => tensor.dtype().is_float(),
                    Known::AllButFirst => {
                        tensor.dtype().is_float() && std::mem::replace(first, false)
                    }
                    Known::Everything => false,
                };
                match is_open {
                    true => Given::Open(Fact::of(tensor)),
                    false => Given::Known(tensor.clone()),
                }
            }
            Stored::List(elements) => {
                Given::List(elements.iter().map(|e| e.given(known, first)).collect::<Result<_>>()?)
            }
            Stored::Absent => Given::Absent,
            Stored::Other(what) => {
                return Err(Error::UnsupportedModel(format!("an input cannot be used: {what}")));
            }
        })
    }

    /// The tensors by the names that the importer gives them.
    fn flatten<'a>(&'a self, name: &str, into: &mut HashMap<String, (DataType, &'a Tensor)>) {
        match self {
            Stored::Tensor(stored, tensor) => {
                into.insert(name.to_owned(), (*stored, tensor));
            }
            Stored::List(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    element.flatten(&format!("{name}[{i}]"), into);
                }
            }
            Stored::Absent | Stored::Other(_) => {}
        }
    }
}

fn series(folder: &Path, prefix: &str) -> Vec<Stored> {
    (0..).map_while(|i| stored(&folder.join(format!("{prefix}_{i}")))).collect()
}

fn run(folder: &Path, name: &str, engines: &[Box<dyn Engine>]) -> Verdict {
    let model = match load(folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return Verdict::Refused(reason(&error, folder)),
    };
    let (inputs, outputs) = (series(folder, "input"), series(folder, "output"));
    if let Some((_, why)) = DELIBERATE.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Verdict::Refused((*why).to_owned());
    }
    let (graph, known) = match lowered(&model, &inputs) {
        Ok(lowered) => lowered,
        Err(error) => return Verdict::Refused(reason(&error, folder)),
    };
    // Only then it can be differentiated.
    let graph = match batch_norm(&graph, BatchNormMode::Running) {
        Ok((decided, _)) => decided.graph,
        Err(error) => return Verdict::Wrong(error.to_string()),
    };
    let mut given = HashMap::new();
    let mut wanted = HashMap::new();
    for (infos, values, into) in
        [(&model.graph.inputs, &inputs, &mut given), (&model.graph.outputs, &outputs, &mut wanted)]
    {
        infos.iter().zip(values).for_each(|(info, value)| value.flatten(&info.name, into));
    }
    if graph.outputs().len() != wanted.len() {
        let (have, want) = (graph.outputs().len(), wanted.len());
        return Verdict::Wrong(format!("{have} outputs, not {want}"));
    }
    let at: Vec<Tensor> =
        graph.inputs().iter().map(|&v| given[graph.name(v).unwrap()].1.clone()).collect();
    let compare = |got: &[Tensor]| {
        graph.outputs().iter().zip(got).try_for_each(|(output, got)| {
            let (stored, want) = wanted[&output.name];
            close(got, want, precision(stored, &inputs), magnitude(want))
                .map_err(|e| format!("{}: {e}", output.name))
        })
    };
    match eval(&graph, &at) {
        Ok(got) => {
            if let Err(why) = compare(&got) {
                return Verdict::Wrong(format!("interpreter: {why}"));
            }
        }
        Err(error) => return Verdict::Wrong(format!("interpreter: {error}")),
    }
    let mut ran = Vec::new();
    for engine in engines {
        let name = engine.describe().name;
        let got =
            emit_bytes(&graph).and_then(|bytes| engine.load(&Compiled::from_onnx(bytes))?.run(&at));
        ran.push(match got {
            Ok(got) => match compare(&got) {
                Ok(()) => Ok(()),
                Err(why) => return Verdict::Wrong(format!("{name}: {why}")),
            },
            Err(error) => Err(error.to_string()),
        });
    }
    match gradient(&graph, &at, name, known, engines) {
        Ok(gradient) => Verdict::Imported { engines: ran, gradient },
        Err(why) => Verdict::Wrong(format!("gradient: {why}")),
    }
}

/// The model with as little known at import as it can be lowered with.
fn lowered(model: &Model, inputs: &[Stored]) -> Result<(Graph, Known)> {
    let mut refusal = None;
    for known in [Known::Nothing, Known::Integers, Known::AllButFirst, Known::Everything] {
        let mut first = true;
        let mut given = HashMap::new();
        for (info, value) in model.graph.inputs.iter().zip(inputs) {
            given.insert(info.name.clone(), value.given(known, &mut first)?);
        }
        match lower(model, &given) {
            Ok(graph) => return Ok((graph, known)),
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.unwrap())
}

/// An error's message without what differs between tests of the same operator.
fn reason(error: &Error, folder: &Path) -> String {
    let text = match error {
        Error::UnsupportedOp { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    let source = format!("{}: ", folder.join("model.onnx").display());
    let text = text.replace(&source, "");
    let text = match text.strip_prefix("node '").and_then(|rest| rest.split_once("': ")) {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    };
    match text.strip_prefix("node '").and_then(|rest| rest.split_once("): ")) {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    }
}

/// The relative precision of an output stored as `stored`. Where an input has fewer bits than
/// float32, so have the results in between that the test was made with.
fn precision(stored: DataType, inputs: &[Stored]) -> f64 {
    let of = |stored: DataType| match stored {
        DataType::Bfloat16 => 2e-2,
        DataType::Float16 => 5e-3,
        _ => 1e-3,
    };
    let each = inputs.iter().map(|input| match input {
        Stored::Tensor(stored, _) => of(*stored),
        _ => 0.0,
    });
    each.fold(of(stored), f64::max)
}

/// The largest finite value.
fn magnitude(tensor: &Tensor) -> f64 {
    tensor.to_f64().iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()))
}

/// Whether each value is right to `tolerance` of itself, or to a hundredth of that of `scale`.
fn close(got: &Tensor, want: &Tensor, tolerance: f64, scale: f64) -> Result<(), String> {
    let (have, need) = (Fact::of(got), Fact::of(want));
    if have != need {
        return Err(format!("{have}, not {need}"));
    }
    let (got, want) = (got.to_f64(), want.to_f64());
    let near = |a: f64, b: f64| {
        a == b
            || (a.is_nan() && b.is_nan())
            || (a - b).abs() <= tolerance * (b.abs() + 1e-2 * scale)
    };
    match got.iter().zip(&want).find(|&(&a, &b)| !near(a, b)) {
        None => Ok(()),
        Some((a, b)) => Err(format!("{a}, not {b}")),
    }
}

/// Compares `⟨dy(r), v⟩` with the slope of `⟨r, y⟩` along `v`, for random `r` and `v`, in float64;
/// then the gradient on every engine with the interpreter's.
fn gradient(
    graph: &Graph,
    at: &[Tensor],
    name: &str,
    known: Known,
    engines: &[Box<dyn Engine>],
) -> Result<Gradient, String> {
    let floats: Vec<usize> = (0..at.len()).filter(|&i| at[i].dtype().is_float()).collect();
    let smooth = graph.outputs().iter().filter(|o| graph.fact(o.value).dtype.is_float());
    let smooth: Vec<Output> = smooth.cloned().collect();
    if floats.is_empty() || smooth.is_empty() || known == Known::Everything {
        return Ok(Gradient::None);
    }
    let graph = graph.with_outputs(smooth).pruned();
    let text = |e: Error| e.to_string();
    let wide = widen(&graph).map_err(text)?;
    let Some(dy) = pullback(&wide, &floats).map_err(text)? else { return Ok(Gradient::None) };
    let point: Vec<Tensor> = at.iter().map(widened).collect();
    let values = eval(&wide, &point).map_err(text)?;
    if values.iter().any(|t| t.to_f64().iter().any(|v| !v.is_finite())) {
        return Ok(Gradient::Unchecked("values that are not finite"));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(name.bytes().map(u64::from).sum());
    match slopes(&wide, &dy, &point, &floats, &mut rng)? {
        Ok(()) => {}
        Err(why) => {
            // A kink: the derivative must be right beside it.
            let mut why = why;
            let mut passed = false;
            for _ in 0..3 {
                let mut beside = point.clone();
                for &i in &floats {
                    let values = point[i].to_f64();
                    let moved =
                        values.mapv(|v| v + (0.01 + 0.01 * v.abs()) * rng.random_range(-1.0..1.0));
                    beside[i] = Tensor::from_f64(moved, DType::F64);
                }
                match slopes(&wide, &dy, &beside, &floats, &mut rng)? {
                    Ok(()) => {
                        passed = true;
                        break;
                    }
                    Err(other) => why = other,
                }
            }
            if !passed && between(&wide, &point)? {
                return Ok(Gradient::Unchecked("values in between are not numbers"));
            }
            if !passed {
                return Err(why);
            }
        }
    }
    let Some(dy) = pullback(&graph, &floats).map_err(text)? else { return Ok(Gradient::Checked) };
    let r = dy.inputs()[at.len()..].iter().map(|&v| random(dy.fact(v), &mut rng));
    let inputs: Vec<Tensor> = at.iter().cloned().chain(r).collect();
    let want = eval(&dy, &inputs).map_err(text)?;
    // Functions that are flat leave rounding of the order of their operands and cotangents.
    let scale = at.iter().map(magnitude).fold(1.0, f64::max) / 20.0;
    let scale = want.iter().map(magnitude).fold(scale, f64::max);
    for engine in engines {
        let got = emit_bytes(&dy)
            .and_then(|bytes| engine.load(&Compiled::from_onnx(bytes))?.run(&inputs));
        // Where an engine lacks something, that is said of the value already.
        let Ok(got) = got else { continue };
        for (got, want) in got.iter().zip(&want) {
            close(got, want, 1e-2, scale)
                .map_err(|e| format!("{}: {e}", engine.describe().name))?;
        }
    }
    Ok(Gradient::Checked)
}

/// Whether a value on the way to the outputs is not a number, although these are: then derivatives
/// are none either, as in the frameworks that models come from.
fn between(graph: &Graph, at: &[Tensor]) -> Result<bool, String> {
    let live = graph.live();
    let values: Vec<Value> =
        graph.nodes().zip(&live).filter(|(_, live)| **live).map(|((v, _), _)| v).collect();
    let values = eval_values(graph, at, &values).map_err(|e| e.to_string())?;
    Ok(values.iter().any(|t| t.to_f64().iter().any(|v| v.is_nan())))
}

fn widened(tensor: &Tensor) -> Tensor {
    if tensor.dtype().is_float() { tensor.cast(DType::F64) } else { tensor.clone() }
}

fn random(fact: &Fact, rng: &mut ChaCha8Rng) -> Tensor {
    let values = (0..fact.len()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_f64(ArrayD::from_shape_vec(IxDyn(&fact.shape), values).unwrap(), fact.dtype)
}

/// The graph that takes, after the inputs of `graph`, a cotangent for each output, and gives the
/// cotangents of the inputs `floats`. `None` where no derivative passes.
fn pullback(graph: &Graph, floats: &[usize]) -> Result<Option<Graph>> {
    let mut b = Builder::new(graph.clone());
    let mut sum = None;
    for (i, output) in graph.outputs().iter().enumerate() {
        let r = b.input(format!("cotangent {i}"), graph.fact(output.value).clone());
        let product = b.mul(output.value, r)?;
        let term = b.sum_all(product)?;
        sum = Some(match sum {
            Some(sum) => b.add(sum, term)?,
            None => term,
        });
    }
    let wrt: Vec<Value> = floats.iter().map(|&i| graph.inputs()[i]).collect();
    let (extended, cotangents) = grad(&b.finish(), sum.unwrap(), &wrt)?;
    if cotangents.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut b = Builder::new(extended);
    let mut outputs = Vec::new();
    for (i, (cotangent, &v)) in cotangents.into_iter().zip(&wrt).enumerate() {
        let value = match cotangent {
            Some(value) => value,
            None => b.zeros(graph.fact(v))?,
        };
        outputs.push(Output { name: format!("d{i}"), value });
    }
    Ok(Some(b.finish().with_outputs(outputs)))
}

/// The inner error says that derivative and difference do not agree, which may be a kink's fault.
fn slopes(
    y: &Graph,
    dy: &Graph,
    at: &[Tensor],
    floats: &[usize],
    rng: &mut ChaCha8Rng,
) -> Result<Result<(), String>, String> {
    let text = |e: Error| e.to_string();
    for _ in 0..2 {
        let r: Vec<Tensor> = y.outputs().iter().map(|o| random(y.fact(o.value), rng)).collect();
        // Infinities, as they stand in masks, stay where they are.
        let v: Vec<Tensor> = floats
            .iter()
            .map(|&i| {
                let (mut v, at) = (random(&Fact::of(&at[i]), rng).to_f64(), at[i].to_f64());
                v.zip_mut_with(&at, |v, at| *v *= f64::from(u8::from(at.is_finite())));
                Tensor::from_f64(v, DType::F64)
            })
            .collect();
        let along = |t: f64| -> Result<f64, String> {
            let mut moved = at.to_vec();
            for (&i, v) in floats.iter().zip(&v) {
                moved[i] = Tensor::from_f64(at[i].to_f64() + v.to_f64() * t, DType::F64);
            }
            let values = eval(y, &moved).map_err(text)?;
            Ok(values.iter().zip(&r).map(|(y, r)| (y.to_f64() * r.to_f64()).sum()).sum())
        };
        let difference = (along(STEP)? - along(-STEP)?) / (2.0 * STEP);
        let cotangents = eval(dy, &[at, &r].concat()).map_err(text)?;
        let products = || cotangents.iter().zip(&v).map(|(d, v)| d.to_f64() * v.to_f64());
        let derivative: f64 = products().map(|p| p.sum()).sum();
        let size: f64 = products().map(|p| p.mapv(f64::abs).sum()).sum();
        let off = (difference - derivative).abs();
        if off.is_nan() || off > SLOPE_TOLERANCE * (size + 0.1) {
            return Ok(Err(format!("central difference {difference}, derivative {derivative}")));
        }
    }
    Ok(Ok(()))
}

/// The operator that a test is about.
fn operator(folder: &Path, kind: &str, name: &str) -> String {
    if kind != "node" {
        return format!("*{kind}*");
    }
    // What an operator is defined as stands beside its own test.
    let base = name.split("_expanded").next().unwrap_or(name);
    let file = folder.with_file_name(base).join("model.onnx");
    let file = if file.exists() { file } else { folder.join("model.onnx") };
    match load(file).map(|model| model.graph.nodes) {
        Ok(nodes) if nodes.len() == 1 => nodes[0].full_op(),
        Ok(_) => "*several operators*".into(),
        Err(_) => "*not read*".into(),
    }
}

fn all(folder: &Path, engines: &[Box<dyn Engine>]) -> Vec<Outcome> {
    let only = std::env::var("ONNX_TEST").ok();
    let mut cases = Vec::new();
    for kind in ["node", "simple", "pytorch-operator", "pytorch-converted"] {
        for entry in std::fs::read_dir(folder.join(kind)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if only.as_ref().is_none_or(|only| name.starts_with(only.as_str())) {
                cases.push((kind, name));
            }
        }
    }
    cases.sort();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let mut done = Vec::new();
        while let Some((kind, name)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let folder = folder.join(kind).join(name);
            let verdict = run(&folder, name, engines);
            done.push(Outcome { op: operator(&folder, kind, name), name: name.clone(), verdict });
        }
        done
    };
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    outcomes.sort_by(|a, b| (&a.op, &a.name).cmp(&(&b.op, &b.name)));
    outcomes
}

#[derive(Clone, Default)]
struct Row {
    tests: usize,
    refused: usize,
    engines: Vec<usize>,
    checked: usize,
    none: usize,
    unchecked: usize,
    wrong: usize,
}

impl Row {
    fn count(&mut self, verdict: &Verdict) {
        self.tests += 1;
        match verdict {
            Verdict::Refused(_) => self.refused += 1,
            Verdict::Wrong(_) => self.wrong += 1,
            Verdict::Imported { engines, gradient } => {
                self.engines
                    .iter_mut()
                    .zip(engines)
                    .for_each(|(n, e)| *n += usize::from(e.is_ok()));
                match gradient {
                    Gradient::Checked => self.checked += 1,
                    Gradient::None => self.none += 1,
                    Gradient::Unchecked(_) => self.unchecked += 1,
                }
            }
        }
    }

    fn cells(&self) -> String {
        let imported = self.tests - self.refused - self.wrong;
        let mut cells = vec![self.tests, imported];
        cells.extend(&self.engines);
        cells.extend([self.checked, self.none, self.unchecked, self.refused, self.wrong]);
        let text = |n: &usize| if *n == 0 { String::new() } else { n.to_string() };
        cells.iter().map(text).collect::<Vec<_>>().join(" | ")
    }
}

fn page(version: &str, outcomes: &[Outcome], engines: &[&str]) -> String {
    let mut total = Row { engines: vec![0; engines.len()], ..Row::default() };
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut refused: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut unable: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let empty = total.clone();
    for outcome in outcomes {
        total.count(&outcome.verdict);
        rows.entry(&outcome.op).or_insert_with(|| empty.clone()).count(&outcome.verdict);
        match &outcome.verdict {
            Verdict::Refused(why) => *refused.entry((&outcome.op, why)).or_default() += 1,
            Verdict::Imported { engines: ran, .. } => {
                for (engine, _) in engines.iter().zip(ran).filter(|(_, ran)| ran.is_err()) {
                    unable.entry(engine).or_default().insert(&outcome.name);
                }
            }
            Verdict::Wrong(_) => {}
        }
    }
    let engine_names = engines.join(" | ");
    let mut page = format!(
        "# Conformance\n\n\
         *This page is generated by `tests/conformance.rs` from the ONNX project's own tests, \
         which are part of the Python package onnx {version}.*\n\n\
         Each test is a small model with inputs and expected outputs. It is imported and run by \
         the reference interpreter and by every engine, and its outputs are compared with the \
         expected ones. If there is a derivative of an output with respect to a floating-point \
         input, the interpreter's derivative is compared with central differences in float64 at \
         the inputs of the test, or beside them where they lie on a kink, and the engines' \
         derivatives are compared with the interpreter's. *No gradient* counts the tests \
         without a derivative: they have no floats, or only operands that must be known at \
         import, or the derivative is zero wherever it is defined. *Not finite* counts those \
         with infinite or NaN values, for which differences say nothing. *Refused* counts those \
         that the importer refuses, for the reasons listed below.\n\n\
         Operands that shapes depend on are given as constants, as in models exported with \
         fixed shapes.\n\n\
         | operator | tests | imported | {engine_names} | gradient checked | no gradient | not finite \
         | refused | wrong |\n|---|---|---|{}---|---|---|---|---|\n",
        "---|".repeat(engines.len())
    );
    writeln!(page, "| **all** | {} |", total.cells()).unwrap();
    for (op, row) in &rows {
        writeln!(page, "| {op} | {} |", row.cells()).unwrap();
    }
    page += "\n## Refused\n\n| operator | tests | reason |\n|---|---|---|\n";
    for ((op, why), count) in &refused {
        writeln!(page, "| {op} | {count} | {} |", why.replace('|', "\\|")).unwrap();
    }
    if !unable.is_empty() {
        page += "\n## Tests that an engine cannot run\n\n";
        for (engine, names) in unable {
            let names: Vec<&str> = names.into_iter().collect();
            writeln!(page, "- {engine}: {}", names.join(", ")).unwrap();
        }
    }
    page
}

#[test]
fn onnx_tests() {
    let Some(folder) = tests() else { return };
    let engines = all_for_tests();
    let described: Vec<_> = engines.iter().map(|e| e.describe()).collect();
    let names: Vec<&str> = described.iter().map(|d| d.name.as_str()).collect();
    let outcomes = all(&folder, &engines);
    if std::env::var_os("ONNX_TEST").is_some() {
        for outcome in &outcomes {
            let verdict = match &outcome.verdict {
                Verdict::Refused(why) => format!("refused: {why}"),
                Verdict::Wrong(why) => format!("WRONG: {why}"),
                Verdict::Imported { engines, gradient } => {
                    let faults: Vec<&String> =
                        engines.iter().filter_map(|e| e.as_ref().err()).collect();
                    let gradient = match gradient {
                        Gradient::Checked => "gradient checked",
                        Gradient::None => "no gradient",
                        Gradient::Unchecked(why) => why,
                    };
                    format!("passed, {gradient} {faults:?}")
                }
            };
            eprintln!("{}: {verdict}", outcome.name);
        }
        return;
    }
    let version = std::fs::read_to_string(folder.join("version")).unwrap();
    let page = page(version.trim(), &outcomes, &names);
    let path = root().join("docs/conformance.md");
    if std::env::var_os("GRADALIGN_WRITE_CONFORMANCE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|o| match &o.verdict {
            Verdict::Wrong(why) => Some(format!("{}: {why}", o.name)),
            _ => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    // The page tells of both engines, so only a machine that has both can say that it is current.
    if engines.len() == 2 {
        let current = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == current,
            "docs/conformance.md is behind: run the test with GRADALIGN_WRITE_CONFORMANCE=1"
        );
    }
}

/// The light models have the architectures of the zoo, with equal numbers for weights. Those of a
/// moderate size are run, too: on the input and to the output of the project's own test.
#[test]
fn light_models() {
    const MODERATE: usize = 30 << 20;
    let Some(folder) = tests() else { return };
    let engines = all_for_tests();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("light"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 9);
    let mut run = 0;
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let model = load(&path).unwrap();
        let imported = import(&model, &ImportOptions::default()).unwrap();
        let parameters: usize = imported.graph.parameters().map(|(_, p)| p.tensor.len()).sum();
        assert!(parameters > 1 << 20, "{name}: {parameters} parameters");
        if parameters > MODERATE {
            continue;
        }
        let fact = imported.graph.fact(imported.graph.inputs()[0]).clone();
        let count = fact.len();
        let ramp = (0..count).map(|i| i as f32 / count as f32).collect();
        let ramp = Tensor::f32(&fact.shape, ramp).unwrap();
        let want = std::fs::read(folder.join(format!("light/{name}_output_0.pb"))).unwrap();
        let want = read_tensor(&want, name).unwrap().tensor.unwrap();
        // Sums of millions of equal numbers are large, and all that softmax makes of their rounding
        // is chance: what goes into it is compared, which is known up to a summand.
        let is_softmax = imported.final_activation == Some(FinalActivation::Softmax);
        let want = want.to_f64();
        let want = if is_softmax { want.mapv(f64::ln) } else { want };
        // tract takes as long again as all other tests together.
        for engine in engines.iter().filter(|e| e.describe().name != "tract") {
            let bytes = emit_bytes(&imported.graph).unwrap();
            let got = engine
                .load(&Compiled::from_onnx(bytes))
                .unwrap()
                .run(std::slice::from_ref(&ramp))
                .unwrap();
            let got = got[0].to_f64();
            let shift = if is_softmax { got.mean().unwrap() - want.mean().unwrap() } else { 0.0 };
            let scale = got.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let off = (&got - &want - shift).iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            assert!(off <= 1e-5 * scale, "{name} on {}: off by {off}", engine.describe().name);
        }
        run += 1;
    }
    assert_eq!(run, 6);
}
