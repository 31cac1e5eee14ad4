//! Ties of the exports in `fixtures/ties`, and of tensors by themselves.

use std::path::PathBuf;

use super::*;
use crate::data::{Dataset, Options, Samples};
use crate::engine::all_for_tests;
use crate::graph::Fact;
use crate::import::{ImportOptions, import};
use crate::onnx::{Model, load};
use crate::score::{Resolved, prepare, score};
use crate::tensor::{DType, Tensor};

/// A row of `fixtures/ties/ties.json`, by `scripts/make_ties.py`.
#[derive(serde::Deserialize)]
struct Reference {
    model: PathBuf,
    data: PathBuf,
    parameters: u64,
    #[serde(rename = "gradalign-1")]
    gradalign_1: f64,
    #[serde(rename = "gradalign-2")]
    gradalign_2: f64,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/ties")
}

fn references() -> Vec<Reference> {
    let text = std::fs::read(folder().join("ties.json")).unwrap();
    let references: Vec<Reference> = serde_json::from_slice(&text).unwrap();
    assert!(references.len() >= 11);
    references
}

#[test]
fn parameters_of_fresh_networks_are_those_of_pytorch() {
    let options = Options { samples: Samples::All, ..Options::default() };
    for reference in references() {
        let data = folder().join(&reference.data);
        let dataset = Dataset::open(data.to_str().unwrap(), &options).unwrap();
        let model = load(folder().join(&reference.model)).unwrap();
        let settings = Resolved::default();
        let (imported, batch, loss, _) = prepare(&model, &dataset, &settings).unwrap();
        for engine in all_for_tests() {
            let at = format!("{} on {}", reference.model.display(), engine.describe().name);
            let scored = score(&imported.graph, &batch, loss, &settings, &*engine).unwrap();
            let names = imported.graph.parameters().map(|(_, p)| p.name.clone());
            let names: Vec<_> = names.collect();
            assert_eq!(scored.size.parameters, reference.parameters, "{at}: {names:?}");
            let wanted = [reference.gradalign_1, reference.gradalign_2];
            for (score, wanted) in scored.scores.iter().zip(wanted) {
                let error = (score.value - wanted).abs() / wanted.abs();
                assert!(error < 1e-3, "{at}: {} {} {wanted}", score.name, score.value);
            }
        }
    }
}

fn number_of_parameters(model: &Model) -> (usize, Vec<String>, Vec<String>) {
    let imported = import(model, &ImportOptions::default()).unwrap();
    let count = imported.graph.parameters().map(|(_, p)| p.tensor.len()).sum();
    (count, imported.warnings, imported.notes)
}

#[test]
fn ties_are_listed_in_a_note() {
    let model = load(folder().join("language-dynamo.onnx")).unwrap();
    let (_, _, notes) = number_of_parameters(&model);
    assert!(notes.iter().any(|n| n.contains("transposed")), "{notes:?}");
}

/// A file that no longer says which node reads which parameter gives a warning.
#[test]
fn merged_parameters_without_a_trace_are_warned_of() {
    let mut model = load(folder().join("copied-dynamo.onnx")).unwrap();
    let (all, warnings, _) = number_of_parameters(&model);
    assert!(warnings.is_empty(), "{warnings:?}");
    model.graph.metadata.clear();
    let (named, warnings, _) = number_of_parameters(&model);
    assert_eq!((named, warnings.len()), (all, 0));
    for node in &mut model.graph.nodes {
        node.metadata.clear();
    }
    let (merged, warnings, _) = number_of_parameters(&model);
    assert!(merged < all && warnings[0].contains("several parameters"), "{warnings:?}");
}

fn drawn(seed: f32, len: usize) -> Vec<f32> {
    (0..len).map(|i| (seed + 2.3 * i as f32).sin()).collect()
}

/// The number of parameters that are left after tying tensors with these names, shapes and values.
fn left(tensors: &[(&str, &[usize], Vec<f32>)], owner: impl Fn(&str) -> Owner) -> usize {
    let mut b = Builder::default();
    for (name, shape, values) in tensors {
        let value = b.parameter(*name, Tensor::f32(shape, values.clone()).unwrap());
        b.output(*name, value);
    }
    let (graph, _) = tie(b.finish(), owner).unwrap();
    for (output, (_, shape, values)) in graph.outputs().iter().zip(tensors) {
        let value = crate::graph::eval(&graph.with_outputs(vec![output.clone()]), &[]).unwrap();
        assert_eq!(value[0], Tensor::f32(shape, values.clone()).unwrap());
    }
    graph.parameters().count()
}

#[test]
fn equal_tensors_are_one_unless_chance_or_the_file_says_otherwise() {
    let unknown = |_: &str| Owner::Unknown;
    let named = |name: &str| Owner::Parameter(name.to_owned());
    let (a, b) = (drawn(0.0, 12), drawn(1.0, 12));
    let turned: Vec<f32> = (0..12).map(|i| a[(i % 3) * 4 + i / 3]).collect();
    let both = |x: &[f32], y: &[f32]| [("p", &[3, 4][..], x.to_vec()), ("q", &[3, 4], y.to_vec())];
    assert_eq!(left(&both(&a, &a), unknown), 1);
    assert_eq!(left(&both(&a, &b), unknown), 2);
    assert_eq!(left(&both(&a, &a), named), 2);
    assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[4, 3], turned.clone())], unknown), 1);
    assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[4, 3], a.clone())], unknown), 2);
    assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[3, 4], turned)], unknown), 2);
    // Axes of length 1 make no difference.
    assert_eq!(left(&[("p", &[12], a.clone()), ("q", &[1, 1, 12], a.clone())], unknown), 1);
    let turned_again: Vec<f32> = (0..12).map(|i| a[(i % 3) * 4 + i / 3]).collect();
    let matrices = [("p", &[1, 3, 4][..], a.clone()), ("q", &[4, 3, 1], turned_again)];
    assert_eq!(left(&matrices, unknown), 1);
    // Equal by chance: one number, a table in order, an identity.
    let table: Vec<f32> = (1..=12).map(|i| (i as f32).ln()).collect();
    let identity: Vec<f32> = (0..12).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
    for pattern in [vec![1.0; 12], table, identity] {
        assert_eq!(left(&both(&pattern, &pattern), unknown), 2);
    }
    // Modules of one name are one; a tensor of a module and one that the exporter made, too.
    let module = |name: &str| match name {
        "p" => Owner::Parameter("p".into()),
        _ => Owner::Module("head".into()),
    };
    assert_eq!(left(&both(&a, &a), module), 1);
}

/// Biases of zero are tied only if the weights of their layers are.
#[test]
fn biases_follow_the_weight_of_their_layer() {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [2, 3]));
    let mut y = x;
    for (name, weight) in [("a", 0.0), ("b", 0.0), ("c", 1.0)] {
        let w = b.parameter(format!("{name}.w"), Tensor::f32(&[3, 3], drawn(weight, 9)).unwrap());
        let bias = b.parameter(format!("{name}.b"), Tensor::full(DType::F32, &[3], 0.0));
        y = b.matmul(y, w).unwrap();
        y = b.add(y, bias).unwrap();
    }
    b.output("y", y);
    let (graph, note) = tie(b.finish(), |_| Owner::Unknown).unwrap();
    let names: Vec<_> = graph.parameters().map(|(_, p)| p.name.to_string()).collect();
    assert_eq!(names, ["a.w", "a.b", "c.w", "c.b"]);
    assert!(note.unwrap().contains("'b.w' is 'a.w'"));
}
