//! Networks of search spaces against `fixtures/spaces.json`, where the same networks are counted and run
//! in another language.

#![allow(clippy::unwrap_used)]

use gradalign::engine::{Compiled, all_for_tests};
use gradalign::graph::Graph;
use gradalign::import::{ImportOptions, import};
use gradalign::onnx::{self, Model};
use gradalign::probe;
use gradalign::space::{self, BuildOptions};
use gradalign::tensor::{DType, Tensor};
use serde::Deserialize;

/// Relative tolerance of an output in float32.
const TOLERANCE: f64 = 1e-4;

/// A row of the fixture.
#[derive(Deserialize)]
struct Reference {
    space: String,
    architecture: String,
    classes: usize,
    image_size: usize,
    stem: Option<usize>,
    name: Option<String>,
    parameters: u64,
    macs: u64,
    fingerprint: f64,
}

impl Reference {
    fn all() -> Vec<Reference> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/spaces.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn build(&self) -> Model {
        let space = space::named(&self.space).unwrap();
        let architecture = space.parse(&self.architecture).unwrap();
        if let Some(name) = &self.name {
            assert_eq!(&architecture.name(), name);
        }
        let Reference { classes, image_size, stem, .. } = *self;
        architecture.build(&BuildOptions { classes, image_size, stem, seed: 0 }).unwrap()
    }

    fn image(&self) -> Tensor {
        let n = self.image_size;
        let at = |i: usize| {
            let (c, h, w) = (i / (n * n), i / n % n, i % n);
            ((7 * h + 3 * w + 5 * c) % 11) as f32 / 5.0 - 1.0
        };
        Tensor::f32(&[1, 3, n, n], (0..3 * n * n).map(at).collect()).unwrap()
    }
}

/// `model` with 1/fan-in for all weights of convolutions and linear layers, and 0 for biases.
fn with_even_weights(mut model: Model) -> Model {
    for (i, initializer) in model.graph.initializers.iter_mut().enumerate() {
        let tensor = initializer.literal.tensor.as_mut().unwrap();
        let shape = tensor.shape().to_vec();
        match (shape.len(), initializer.name.as_str()) {
            (2.., name) if name.ends_with(".weight") => {
                let fan_in = shape[1..].iter().product::<usize>() as f64;
                let mut values = vec![fan_in.recip() as f32; tensor.len()];
                // tract 0.23 fails on some networks with layers of equal weights on one tensor.
                values[0] *= 1.0 + (i % 32) as f32 * 1e-6;
                *tensor = Tensor::f32(&shape, values).unwrap();
            }
            (_, "classifier.bias") => *tensor = Tensor::full(DType::F32, &shape, 0.0),
            _ => {}
        }
    }
    model
}

fn graph(model: &Model) -> Graph {
    import(model, &ImportOptions::default()).unwrap().graph
}

#[test]
fn networks_are_what_another_program_makes_of_their_definitions() {
    let engines = all_for_tests();
    for reference in Reference::all() {
        let Reference { space, architecture, parameters, macs, fingerprint, .. } = &reference;
        let at = format!("{space} {architecture}");
        let model = reference.build();
        let graph = graph(&model);
        assert_eq!(space::parameters(&model), *parameters, "{at}");
        // Nothing is dead in these, so that all is imported.
        assert_eq!((probe::parameters(&graph), probe::flops(&graph)), (*parameters, *macs), "{at}");
        let even = self::graph(&with_even_weights(model));
        for engine in &engines {
            let mut session = engine.load(&Compiled::standard(&even).unwrap()).unwrap();
            let logits = session.run(&[reference.image()]).unwrap().remove(0).to_f64();
            for value in logits {
                let error = (value - fingerprint).abs() / fingerprint.abs();
                assert!(error < TOLERANCE, "{at}: {value} is not {fingerprint}");
            }
        }
    }
}

/// A file holds the network that is in memory, with a batch of any size.
#[test]
fn files_are_the_networks() {
    let mut smallest = Reference::all();
    smallest.sort_by_key(|reference| reference.parameters);
    let mut seen = std::collections::HashSet::new();
    for reference in smallest.iter().filter(|reference| seen.insert(&reference.space)) {
        let model = reference.build();
        let bytes = onnx::encode(&model).unwrap();
        let again = onnx::read(&bytes, &model.source).unwrap();
        assert!(onnx::encode(&again).unwrap() == bytes);
        assert_eq!(again.metadata, model.metadata);
        let inputs = onnx::declared_inputs(&again);
        let size = Some(reference.image_size);
        assert_eq!(inputs[0].dims, [None, Some(3), size, size]);
    }
}
