//! A float tensor is treated alike as an initializer and as the value of a constant node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ImportOptions, Imported, import};
use crate::data::{Dataset, Options, Samples};
use crate::emit::emit_bytes;
use crate::engine::{Compiled, all_for_tests};
use crate::metric;
use crate::onnx::{
    Attribute, DataType, Dim, Graph, Initializer, Literal, Model, Node, Type, ValueInfo, load,
};
use crate::ops::BatchNormMode;
use crate::score::{Resolved, prepare, score};
use crate::tensor::Tensor;
use crate::transform::batch_norm;
use crate::transform::{Reduction, training_graph};

/// The exception: PyTorch's TorchScript exporter names the weights of this file `onnx::Conv_123`, like
/// numbers in the source code of a network. Only their storage as initializers tells them apart.
const STORAGE_DECIDES: &str = "fixtures/extra/folded-bn.onnx";

fn is_float(tensor: &Result<Tensor, String>) -> bool {
    matches!(tensor, Ok(Tensor::F32(_)))
}

/// `model` with every float initializer in a constant node.
fn in_nodes(model: &Model) -> Model {
    let mut model = model.clone();
    let graph = &mut model.graph;
    let (floats, others): (Vec<_>, Vec<_>) =
        graph.initializers.drain(..).partition(|i| is_float(&i.literal.tensor));
    graph.initializers = others;
    graph.inputs.retain(|input| floats.iter().all(|i| i.name != input.name));
    let nodes = floats.into_iter().map(|i| Node {
        op: "Constant".into(),
        outputs: vec![i.name],
        attributes: vec![("value".into(), Attribute::Tensor(i.literal))],
        ..Node::default()
    });
    graph.nodes = nodes.chain(graph.nodes.drain(..)).collect();
    model
}

/// `model` with every float constant node as an initializer.
fn as_initializers(model: &Model) -> Model {
    let mut model = model.clone();
    let graph = &mut model.graph;
    let (floats, others): (Vec<_>, Vec<_>) = graph
        .nodes
        .drain(..)
        .partition(|node| node.stored().is_some_and(|(_, literal)| is_float(&literal.tensor)));
    graph.nodes = others;
    for node in &floats {
        let (name, literal) = node.stored().unwrap();
        graph.initializers.push(Initializer { name: name.into(), literal: literal.clone() });
    }
    model
}

fn parameters(imported: &Imported) -> BTreeMap<String, Tensor> {
    let all = imported.graph.parameters();
    all.map(|(_, p)| (p.name.to_string(), p.tensor.clone())).collect()
}

/// A matrix product whose right operand is computed from stored tensors by these nodes, written
/// `Transpose w -> v`. The name of a tensor contains its shape: `w3x6`.
fn product_with(lines: &[&str]) -> Model {
    let dims = |name: &str| -> Option<Vec<usize>> {
        name.strip_prefix('w')?.split('x').map(|d| d.parse().ok()).collect()
    };
    let mut graph = Graph::default();
    let info = |name: &str, columns: usize| ValueInfo {
        name: name.into(),
        ty: Type::Tensor(
            DataType::Float,
            Some(vec![Dim::Named("batch".into()), Dim::Fixed(columns)]),
        ),
    };
    graph.inputs.push(info("x", 6));
    graph.outputs.push(info("y", 3));
    for line in lines.iter().chain(&["MatMul x v -> y"]) {
        let (call, outputs) = line.split_once(" -> ").unwrap();
        let (words, attributes): (Vec<_>, Vec<_>) =
            call.split(' ').partition(|word| !word.contains('='));
        for name in &words[1..] {
            let tensor = match dims(name) {
                Some(shape) => {
                    let start = name.bytes().map(f32::from).sum::<f32>();
                    let values =
                        (0..shape.iter().product()).map(|i: usize| (start + 2.3 * i as f32).sin());
                    Tensor::f32(&shape, values.collect()).unwrap()
                }
                // A list of integers is written `0,6`.
                _ if name.starts_with(|c: char| c.is_ascii_digit()) => {
                    Tensor::index(name.split(',').map(|v| v.parse().unwrap()))
                }
                _ => continue,
            };
            if graph.initializers.iter().all(|i| i.name != *name) {
                let stored =
                    if tensor.dtype().is_float() { DataType::Float } else { DataType::Int64 };
                let literal = Literal { stored, tensor: Ok(tensor) };
                graph.initializers.push(Initializer { name: (*name).into(), literal });
            }
        }
        let attributes = attributes.iter().map(|word| {
            let (name, values) = word.split_once('=').unwrap();
            let list: Vec<i64> = values.split(',').map(|v| v.parse().unwrap()).collect();
            let value = match (name, &list[..]) {
                ("perm" | "axes", _) | (_, [_, _, ..] | []) => Attribute::Ints(list),
                (_, [one]) => Attribute::Int(*one),
            };
            (name.to_owned(), value)
        });
        graph.nodes.push(Node {
            op: words[0].into(),
            inputs: words[1..].iter().map(|&name| name.into()).collect(),
            outputs: outputs.split(' ').map(str::to_owned).collect(),
            attributes: attributes.collect(),
            ..Node::default()
        });
    }
    let opsets = [(String::new(), 17)].into();
    Model { source: "made by hand".into(), ir_version: 8, opsets, graph, ..Model::default() }
}

#[test]
fn weights_behind_other_operators_train_wherever_they_are_stored() {
    for (lines, count) in [
        (&["Transpose perm=1,0 w3x6 -> v"][..], 18),
        (&["Reshape w18 6,3 -> v"], 18),
        (&["Slice w8x3 0 6 0 -> v"], 24),
        (&["Concat axis=0 w2x3 w4x3 -> v"], 18),
        (&["Split axis=1 w6x6 -> v rest"], 36),
        (&["Mul w6x3 w1x3 -> v"], 21),
        (&["Expand w1x3 6,3 -> v"], 3),
        (&["Tile w2x3 3,1 -> v"], 6),
        (&["Gather w9x3 0,2,4,6,8,1 -> v"], 27),
        (&["Squeeze w1x6x3 0 -> v"], 18),
        (&["Cast to=1 w6x3 -> v"], 18),
        (&["Identity w6x3 -> v"], 18),
        (&["Pad w4x3 1,0,1,0 -> v"], 12),
        (&["Tanh w6x3 -> v"], 18),
        (&["MatMul w6x2 w2x3 -> v"], 18),
        (&["ReduceL2 axes=0 keepdims=1 w6x3 -> n", "Div w6x3 n -> u", "Mul u w1x3 -> v"], 21),
    ] {
        let model = product_with(lines);
        let options = ImportOptions::default();
        let stored = parameters(&import(&model, &options).unwrap());
        assert_eq!(stored.values().map(Tensor::len).sum::<usize>(), count, "{lines:?}");
        let moved = in_nodes(&model);
        assert_eq!(parameters(&import(&moved, &options).unwrap()), stored, "{lines:?}");
        let data = Path::new("synthetic");
        assert_eq!(results(&moved, data), results(&model, data), "{lines:?}");
        assert_eq!(results(&as_initializers(&moved), data), results(&model, data), "{lines:?}");
    }
}

/// Loss, per-sample gradients and scores for two samples per class, by engine and name.
fn results(model: &Model, data: &Path) -> BTreeMap<String, Vec<f64>> {
    let samples = Samples::Count(4.try_into().unwrap());
    let options = Options { samples, ..Options::default() };
    let dataset = Dataset::open(data.to_str().unwrap(), &options).unwrap();
    let settings = Resolved {
        options: metric::Options {
            batch_norm: Some(BatchNormMode::Running),
            ..metric::Options::default()
        },
        ..Resolved::default()
    };
    let (imported, batch, loss, _) = prepare(model, &dataset, &settings).unwrap();
    let graph = batch_norm(&imported.graph, BatchNormMode::Running).unwrap().0.graph;
    let training = training_graph(&graph, loss, 4, Reduction::PerSample).unwrap().graph;
    let fed: Vec<Tensor> = batch.inputs.iter().chain([&batch.targets]).cloned().collect();
    let bytes = emit_bytes(&training).unwrap();
    let mut results = BTreeMap::new();
    for engine in all_for_tests() {
        let at = |name: &str| format!("{} on {}", name, engine.describe().name);
        let values = engine.load(&Compiled::from_onnx(bytes.clone())).unwrap().run(&fed).unwrap();
        for (output, value) in training.outputs().iter().zip(values) {
            results.insert(at(&output.name), value.to_f64().into_iter().collect());
        }
        let scored = score(&imported.graph, &batch, loss, &settings, &*engine).unwrap();
        for score in scored.scores {
            results.insert(at(score.name), vec![score.value]);
        }
    }
    results
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["models", "fixtures/extra"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "onnx")));
    }
    files.sort();
    assert!(files.len() > 25);
    files
}

/// The data for a model: its own, or the digits.
fn data(path: &Path) -> PathBuf {
    let own = path.with_extension("npz");
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits-30.npz");
    if own.exists() { own } else { digits }
}

fn compare(pick: impl Fn(usize) -> bool) {
    for path in files().into_iter().enumerate().filter(|(i, _)| pick(*i)).map(|(_, path)| path) {
        let at = path.display();
        let model = load(&path).unwrap();
        let options = ImportOptions::default();
        let stored = parameters(&import(&model, &options).unwrap());
        let wanted = results(&model, &data(&path));
        for (how, other) in [("nodes", in_nodes(&model)), ("initializers", as_initializers(&model))]
        {
            if how == "nodes" && path.ends_with(STORAGE_DECIDES) {
                continue;
            }
            let found = import(&other, &options).unwrap_or_else(|e| panic!("{at} in {how}: {e}"));
            assert_eq!(parameters(&found), stored, "{at} in {how}");
            let got = results(&other, &data(&path));
            assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{at}");
            for (name, want) in &wanted {
                let scale = want.iter().fold(1e-9f64, |most, v| most.max(v.abs()));
                let far = got[name].iter().zip(want).find(|(a, b)| (*a - *b).abs() > 1e-4 * scale);
                assert_eq!(far, None, "{at} in {how}: {name}");
            }
        }
    }
}

#[test]
fn initializers_and_constant_nodes_are_one_in_even_files() {
    compare(|i| i % 2 == 0);
}

#[test]
fn initializers_and_constant_nodes_are_one_in_odd_files() {
    compare(|i| i % 2 == 1);
}
