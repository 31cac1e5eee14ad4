//! Damaged files: whatever a file holds, reading and importing it ends soon, with a model or an
//! error, and takes no more memory than the file can account for.
//!
//! The seeds are the checked-in models and the models of all operator cases. Each run takes one,
//! changes it (its bytes, or the messages in it: shapes, attributes, types, names, edges) and puts
//! it through the decoder, the importer and, where it survives, differentiation and emission.
//!
//! `GRADALIGN_FUZZ_CASES` sets the number of runs, `GRADALIGN_FUZZ_SEED` where they start. A file
//! that fails is written to `target/fuzz/`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gradalign::emit::emit_bytes;
use gradalign::import::{ImportOptions, all_problems, declared_inputs, import};
use gradalign::onnx::proto::attribute_proto::AttributeType;
use gradalign::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use gradalign::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};
use gradalign::transform::Loss;
use gradalign::transform::{Reduction, training_graph};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost::Message;

/// How long one file may take. An optimised build needs a hundredth of it.
const MOST_TIME: Duration = Duration::from_secs(10);

/// After this long a file is taken to hang, and the whole test ends.
const HANG: Duration = Duration::from_secs(60);

/// How much address space the runs may take beyond what the process had, in kibibytes. The seeds
/// are small: everything more was asked for by a damaged number.
const MOST_MEMORY: u64 = 3 << 20;

/// Graphs with more values than this are not differentiated: that has tests of its own.
const MOST_NODES: usize = 400;

// Mutations

/// One change: what to do, and numbers that choose where and how.
#[derive(Clone, Copy, Debug)]
struct Mutation {
    kind: u8,
    at: u64,
    how: u64,
}

fn pick<T>(items: &mut [T], n: u64) -> Option<&mut T> {
    let len = items.len() as u64;
    if len == 0 { None } else { items.get_mut((n % len) as usize) }
}

fn odd_size(n: u64) -> i64 {
    const SIZES: [i64; 18] = [
        0,
        1,
        2,
        3,
        7,
        -1,
        -2,
        100_000,
        1 << 16,
        1 << 26,
        1 << 31,
        (1 << 31) - 1,
        -(1 << 31),
        1 << 32,
        1 << 40,
        1 << 62,
        i64::MAX,
        i64::MIN,
    ];
    SIZES[(n % SIZES.len() as u64) as usize]
}

fn odd_float(n: u64) -> f32 {
    const FLOATS: [f32; 9] =
        [0.0, -0.0, 1.0, -1.0, 1e30, 1e-40, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    FLOATS[(n % FLOATS.len() as u64) as usize]
}

/// Calls `f` for every graph of the model, branches and bodies included.
fn graphs(graph: &mut GraphProto, f: &mut impl FnMut(&mut GraphProto)) {
    f(graph);
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    attributes.filter_map(|a| a.g.as_mut()).for_each(|g| graphs(g, f));
}

/// A graph of the model: mostly the main one.
fn some_graph(model: &mut ModelProto, n: u64, f: impl FnOnce(&mut GraphProto)) {
    let Some(graph) = model.graph.as_mut() else { return };
    let mut count = 0;
    graphs(graph, &mut |_| count += 1);
    let (mut i, wanted, mut f) = (0, n % count, Some(f));
    graphs(graph, &mut |graph| {
        if i == wanted
            && let Some(f) = f.take()
        {
            f(graph);
        }
        i += 1;
    });
}

fn dims(value: &mut ValueInfoProto) -> Option<&mut Vec<Dimension>> {
    match value.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => Some(&mut tensor.shape.as_mut()?.dim),
        _ => None,
    }
}

fn change_tensor(tensor: &mut TensorProto, how: u64) {
    let (how, n) = (how / 8, how % 8);
    match n {
        0 => {
            if let Some(d) = pick(&mut tensor.dims, how) {
                *d = odd_size(how / 7);
            }
        }
        1 => tensor.dims.push(odd_size(how)),
        2 => {
            tensor.dims.pop();
        }
        3 => tensor.data_type = Some((how % 30) as i32),
        4 | 5 => {
            // One of the values, where these are integers of 64 bits.
            if let Some(raw) = &mut tensor.raw_data {
                let mut bytes = raw.to_vec();
                let places = (bytes.len() / 8) as u64;
                if places > 0 {
                    let at = (how % places) as usize * 8;
                    bytes[at..at + 8].copy_from_slice(&odd_size(how / 11).to_le_bytes());
                }
                *raw = bytes.into();
            } else if let Some(v) = pick(&mut tensor.int64_data, how) {
                *v = odd_size(how / 11);
            }
        }
        6 => tensor.raw_data = None,
        _ => tensor.name = Some(format!("renamed{}", how % 3)),
    }
}

fn change_attribute(attribute: &mut AttributeProto, how: u64) {
    let (how, n) = (how / 8, how % 8);
    match n {
        0 => attribute.r#type = Some((how % 16) as i32),
        1 => attribute.name = Some(["axis", "shape", "pads", "to"][(how % 4) as usize].into()),
        2 => attribute.ints.push(odd_size(how)),
        3 => attribute.ref_attr_name = Some("axis".into()),
        _ => match AttributeType::try_from(attribute.r#type.unwrap_or_default()) {
            Ok(AttributeType::Float) => attribute.f = Some(odd_float(how)),
            Ok(AttributeType::Int) => attribute.i = Some(odd_size(how)),
            Ok(AttributeType::String) => attribute.s = Some(b"SAME_UPPER\xff".to_vec().into()),
            Ok(AttributeType::Tensor) => {
                if let Some(tensor) = attribute.t.as_mut() {
                    change_tensor(tensor, how);
                }
            }
            Ok(AttributeType::Ints) => match how % 3 {
                0 => drop(attribute.ints.pop()),
                _ => {
                    if let Some(v) = pick(&mut attribute.ints, how / 3) {
                        *v = odd_size(how / 17);
                    }
                }
            },
            Ok(AttributeType::Floats) => {
                if let Some(v) = pick(&mut attribute.floats, how) {
                    *v = odd_float(how / 5);
                }
            }
            _ => attribute.t = None,
        },
    }
}

/// Every name that a graph's nodes compute or read.
fn names(graph: &GraphProto) -> Vec<String> {
    let nodes = graph.node.iter().flat_map(|n| n.output.iter().chain(&n.input));
    let stored = graph.initializer.iter().filter_map(|t| t.name.as_ref());
    nodes.chain(stored).cloned().collect()
}

fn change_edges(graph: &mut GraphProto, at: u64, how: u64) {
    let mut all = names(graph);
    let Some(name) = pick(&mut all, how / 8).cloned() else { return };
    let Some(node) = pick(&mut graph.node, at) else { return };
    match how % 8 {
        0..=2 => {
            if let Some(input) = pick(&mut node.input, how / 64) {
                *input = name;
            }
        }
        3 => node.input.push(name),
        4 => drop(node.input.pop()),
        5 => {
            if let Some(output) = pick(&mut node.output, how / 64) {
                *output = name;
            }
        }
        6 => {
            if let Some(input) = pick(&mut node.input, how / 64) {
                input.clear();
            }
        }
        _ => drop(node.output.pop()),
    }
}

fn change_node(node: &mut NodeProto, how: u64) {
    let all: Vec<_> = gradalign::import::entries().collect();
    let entry = all[(how / 4 % all.len() as u64) as usize];
    match how % 4 {
        0 | 1 => (node.op_type, node.domain) = (Some(entry.op.into()), Some(entry.domain.into())),
        2 => drop(node.attribute.pop()),
        _ => node.domain = Some(entry.domain.into()),
    }
}

fn change_value(value: &mut ValueInfoProto, how: u64) {
    let (how, n) = (how / 8, how % 8);
    if n == 0 {
        if let Some(type_proto::Value::TensorType(tensor)) =
            value.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            tensor.elem_type = Some((how % 24) as i32);
        }
        return;
    }
    if n == 1 {
        value.r#type = None;
        return;
    }
    let Some(dims) = dims(value) else { return };
    match n {
        2 => dims.push(Dimension { value: None }),
        3 => drop(dims.pop()),
        4 => {
            if let Some(dim) = pick(dims, how) {
                dim.value = Some(dimension::Value::DimParam(format!("d{}", how % 2)));
            }
        }
        _ => {
            if let Some(dim) = pick(dims, how) {
                dim.value = Some(dimension::Value::DimValue(odd_size(how / 5)));
            }
        }
    }
}

/// A change of the messages.
fn change_model(model: &mut ModelProto, Mutation { kind, at, how }: Mutation) {
    let inner = at / 4096;
    match kind % 16 {
        0..=2 => some_graph(model, at, |graph| {
            if let Some(tensor) = pick(&mut graph.initializer, inner) {
                change_tensor(tensor, how);
            }
        }),
        3..=6 => some_graph(model, at, |graph| {
            let with = graph.node.iter_mut().filter(|node| !node.attribute.is_empty());
            if let Some(node) = pick(&mut with.collect::<Vec<_>>(), inner)
                && let Some(attribute) = pick(&mut node.attribute, how)
            {
                change_attribute(attribute, how / 5);
            }
        }),
        7..=9 => some_graph(model, at, |graph| change_edges(graph, inner, how)),
        10 => some_graph(model, at, |graph| {
            if let Some(node) = pick(&mut graph.node, inner) {
                change_node(node, how);
            }
        }),
        11 => some_graph(model, at, |graph| {
            let values = graph.input.iter_mut().chain(&mut graph.output);
            if let Some(value) = pick(&mut values.collect::<Vec<_>>(), inner) {
                change_value(value, how);
            }
        }),
        12 => some_graph(model, at, |graph| {
            let len = graph.node.len() as u64;
            if len > 1 {
                graph.node.swap((inner % len) as usize, (how % len) as usize);
            }
        }),
        13 => some_graph(model, at, |graph| {
            if let Some(node) = pick(&mut graph.node, inner).cloned() {
                graph.node.push(node);
            }
        }),
        14 => {
            if let Some(set) = pick(&mut model.opset_import, at) {
                set.version = Some((how % 27) as i64);
            }
        }
        _ => {
            if let Some(function) = pick(&mut model.functions, at) {
                let own = function.name.clone();
                if let Some(node) = pick(&mut function.node, inner) {
                    match how % 2 {
                        // A function that calls itself.
                        0 => (node.op_type, node.domain) = (own, function.domain.clone()),
                        _ => change_node(node, how / 2),
                    }
                }
            }
        }
    }
}

/// A change of the bytes.
fn change_bytes(bytes: &mut Vec<u8>, Mutation { kind, at, how }: Mutation, other: &[u8]) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    let at = (at % len as u64) as usize;
    let span = (how % 64) as usize;
    let end = (at + span).min(len);
    match kind % 8 {
        0 => bytes[at] ^= 1 << (how % 8),
        1 => bytes[at] = [0, 0xff, 0x7f, 0x80, 0x01][(how % 5) as usize],
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        // The longest number that a varint can hold.
        5 => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        6 => bytes[at..end].fill((how / 64) as u8),
        _ => {
            let from = (how / 64) as usize % other.len().max(1);
            let piece = other[from..(from + span).min(other.len())].to_vec();
            drop(bytes.splice(at..at, piece));
        }
    }
}

// Runs

/// Reads, imports and differentiates `bytes` as far as it goes, and says how far that was.
fn exercise(bytes: &[u8]) -> &'static str {
    let Ok(model) = gradalign::onnx::read(bytes, "fuzzed") else { return "not read" };
    let _ = declared_inputs(&model);
    let _ = all_problems(&model, &ImportOptions::default());
    let Ok(imported) = import(&model, &ImportOptions::default()) else { return "refused" };
    if imported.graph.nodes().count() > MOST_NODES {
        return "imported";
    }
    let loss = Loss::MeanSquaredError;
    match training_graph(&imported.graph, loss, 2, Reduction::PerSample) {
        Ok(training) if emit_bytes(&training.graph).is_ok() => "differentiated",
        _ => "imported",
    }
}

/// The most address space the process has had, in kibibytes, where the system says.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn keep(bytes: &[u8], what: &str) -> PathBuf {
    let folder = root().join("target/fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{what}.onnx"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// When a file was begun, and its bytes.
type Running = (Instant, Vec<u8>);

/// Runs files one after the other, and ends the process when one takes longer than [`HANG`].
#[derive(Clone, Default)]
struct Watch {
    running: Arc<Mutex<Option<Running>>>,
    /// Where the last panic was.
    place: Arc<Mutex<String>>,
}

impl Watch {
    fn start() -> Self {
        let watch = Watch::default();
        let own = watch.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if let Some((since, bytes)) = &*own.running.lock().unwrap()
                    && since.elapsed() > HANG
                {
                    eprintln!("a file hangs: {}", keep(bytes, "hang").display());
                    std::process::exit(101);
                }
            }
        });
        watch
    }

    /// Puts `bytes` through. Errs with what went wrong: a panic, or too much time or memory.
    fn run(&self, bytes: &[u8]) -> Result<&'static str, String> {
        *self.running.lock().unwrap() = Some((Instant::now(), bytes.to_vec()));
        let before = peak_memory();
        let place = Arc::clone(&self.place);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            *place.lock().unwrap() = info.location().map_or(String::new(), ToString::to_string);
        }));
        let outcome = catch_unwind(AssertUnwindSafe(|| exercise(bytes)));
        std::panic::set_hook(hook);
        let Some((since, _)) = self.running.lock().unwrap().take() else { return Ok("lost") };
        let Ok(outcome) = outcome else {
            return Err(format!("panic at {}", self.place.lock().unwrap()));
        };
        if since.elapsed() > MOST_TIME {
            return Err("too much time".into());
        }
        match (before, peak_memory()) {
            (Some(before), Some(after)) if after > before + MOST_MEMORY => {
                Err("too much memory".into())
            }
            _ => Ok(outcome),
        }
    }
}

/// The checked-in models, small ones first, and those of the operator cases.
fn seeds() -> Vec<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Case {
        model: String,
    }
    let mut seeds = Vec::new();
    for folder in ["fixtures/extra", "fixtures/broken", "models"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "onnx") {
                seeds.push(std::fs::read(path).unwrap());
            }
        }
    }
    let cases = std::fs::read(root().join("tests/data/op_cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    let byte = |hex: &str, i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    seeds.extend(
        cases.iter().map(|c| (0..c.model.len()).step_by(2).map(|i| byte(&c.model, i)).collect()),
    );
    seeds.sort();
    seeds.sort_by_key(Vec::len);
    seeds
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |v| v.parse().unwrap())
}

/// Puts changed seeds through, and returns how many got how far.
fn fuzz(cases: u64, change: impl Fn(&[Vec<u8>], usize, &[Mutation]) -> Vec<u8>) {
    let seeds = seeds();
    let watch = Watch::start();
    let mutation = (any::<u8>(), any::<u64>(), any::<u64>());
    let mutation = mutation.prop_map(|(kind, at, how)| Mutation { kind, at, how });
    let inputs = (0..seeds.len(), vec(mutation, 1..5));
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("GRADALIGN_FUZZ_SEED", 1).to_le_bytes());
    let config = Config {
        cases: u32::try_from(number("GRADALIGN_FUZZ_CASES", cases)).unwrap(),
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let counts = Mutex::new(BTreeMap::new());
    // The smallest file for each thing that went wrong.
    let failures = Mutex::new(BTreeMap::<String, Vec<u8>>::new());
    let result = runner.run(&inputs, |(i, mutations)| {
        let bytes = change(&seeds, i, &mutations);
        match watch.run(&bytes) {
            Ok(outcome) => *counts.lock().unwrap().entry(outcome).or_insert(0) += 1,
            Err(why) => {
                let mut failures = failures.lock().unwrap();
                let smallest = failures.entry(why).or_insert_with(|| bytes.clone());
                if bytes.len() < smallest.len() {
                    *smallest = bytes;
                }
            }
        }
        Ok(())
    });
    result.unwrap();
    println!("{:?}", counts.into_inner().unwrap());
    let failures = failures.into_inner().unwrap();
    let said = failures.iter().enumerate().map(|(i, (why, bytes))| {
        format!("{why}: {}", keep(bytes, &format!("failure-{i}")).display())
    });
    let said: Vec<_> = said.collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

fn changed_model(seeds: &[Vec<u8>], i: usize, mutations: &[Mutation]) -> Vec<u8> {
    let Ok(mut model) = ModelProto::decode(&seeds[i][..]) else { return Vec::new() };
    for &mutation in mutations {
        change_model(&mut model, mutation);
    }
    model.encode_to_vec()
}

fn changed_bytes(seeds: &[Vec<u8>], i: usize, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = seeds[i].clone();
    for &mutation in mutations {
        let other = &seeds[(mutation.how >> 32) as usize % seeds.len()];
        change_bytes(&mut bytes, mutation, other);
    }
    bytes
}

#[test]
fn changed_bytes_do_no_harm() {
    fuzz(1500, changed_bytes);
}

#[test]
fn changed_messages_do_no_harm() {
    fuzz(1500, changed_model);
}

/// Files that once did harm.
#[test]
fn old_findings_stay_harmless() {
    let folder: &Path = &root().join("fixtures/fuzzed");
    let watch = Watch::start();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if let Err(why) = watch.run(&std::fs::read(&path).unwrap()) {
            panic!("{}: {why}", path.display());
        }
    }
}
