//! That work grows in proportion to the network: as many looks at nodes for each node of a large one
//! as of a small one, and no deeper a stack.

use std::thread;

use prost::Message;

use super::{
    Batch, BatchView, Differentiated, GramKind, Memory, Pairs, Probe, Roles, SampleView, Selection,
    Subject, evaluate,
};
use crate::emit::emit_files;
use crate::engine::ort::compile::{OperatorSet, compile};
use crate::engine::{Compiled, Description, Engine, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, looks};
use crate::import::{ImportOptions, import};
use crate::onnx;
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use crate::ops::BatchNormMode;
use crate::tensor::{DType, Tensor};
use crate::transform::{Init, Loss, Reduction, batch_norm, initialise, linearise, training_graph};

/// A model put together node by node.
struct File(GraphProto);

fn info(name: &str, shape: &[usize]) -> ValueInfoProto {
    let dim = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)) };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape });
    let r#type = Some(TypeProto { value: Some(value) });
    ValueInfoProto { name: Some(name.into()), r#type }
}

impl File {
    fn new(input: &[usize], output: &[usize]) -> Self {
        let (input, output) = (vec![info("x", input)], vec![info("y", output)]);
        File(GraphProto { input, output, ..GraphProto::default() })
    }

    /// A tensor without equal elements, and unlike all others: equal ones are taken for one parameter.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> String {
        let own = self.0.initializer.len() as f32 / (1 << 20) as f32;
        let value = |i: usize| 0.5 + (i % 13) as f32 / 16.0 + own;
        self.0.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(1),
            float_data: (0..shape.iter().product()).map(value).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }

    fn node(&mut self, op: &str, inputs: &[&str], output: &str) -> String {
        self.0.node.push(NodeProto {
            name: Some(output.into()),
            op_type: Some(op.into()),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        });
        output.to_owned()
    }

    fn bytes(self) -> Vec<u8> {
        let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
        let graph = Some(self.0);
        let (ir_version, opset_import) = (Some(8), vec![opset]);
        ModelProto { ir_version, opset_import, graph, ..ModelProto::default() }.encode_to_vec()
    }
}

/// One node after the other, with a parameter every few of them.
fn chain(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 4], &[1, 4]);
    let mut at = "x".to_owned();
    for i in 0..n {
        let name = if i + 1 == n { "y".to_owned() } else { format!("v{i}") };
        at = match i % 10 {
            0 | 5 => {
                let p = file.tensor(&format!("p{i}"), &[4]);
                file.node(if i % 10 == 0 { "Mul" } else { "Add" }, &[&at, &p], &name)
            }
            k => file.node(["Relu", "Sigmoid", "Neg"][k % 3], &[&at], &name),
        };
    }
    file.bytes()
}

/// A layer and a great many biases.
fn biases(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 4], &[1, 4]);
    let w = file.tensor("w", &[4, 4]);
    let mut at = file.node("MatMul", &["x", &w], "product");
    for i in 0..n {
        let p = file.tensor(&format!("p{i}"), &[4]);
        at = file.node("Add", &[&at, &p], &if i + 1 == n { "y".into() } else { format!("v{i}") });
    }
    file.bytes()
}

/// Everything reads the input, and one node reads everything.
fn wide(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 4], &[1, 4]);
    let mut parts = Vec::new();
    for i in 0..n / 3 {
        let p = file.tensor(&format!("p{i}"), &[4]);
        let scaled = file.node("Mul", &["x", &p], &format!("a{i}"));
        let kept = file.node("Relu", &[&scaled], &format!("b{i}"));
        parts.push(file.node("Sigmoid", &[&kept], &format!("c{i}")));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    file.node("Sum", &parts, "y");
    file.bytes()
}

/// One weight that all layers share.
fn tied(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 4], &[1, 4]);
    let (w, p) = (file.tensor("w", &[4, 4]), file.tensor("p", &[4]));
    let mut at = "x".to_owned();
    for i in 0..n / 3 {
        at = file.node("MatMul", &[&at, &w], &format!("a{i}"));
        at = file.node("Add", &[&at, &p], &format!("b{i}"));
        let name = if i + 1 == n / 3 { "y".into() } else { format!("c{i}") };
        at = file.node("Tanh", &[&at], &name);
    }
    file.bytes()
}

/// Blocks of normalisation, rectifier and convolution beside one stream of sums.
fn residual(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 3, 2, 2], &[1, 12]);
    let mut at = "x".to_owned();
    for i in 0..n / 4 {
        let stored = ["s", "b", "m", "v"].map(|kind| file.tensor(&format!("{kind}{i}"), &[3]));
        let [s, b, m, v] = stored.each_ref().map(String::as_str);
        let norm = file.node("BatchNormalization", &[&at, s, b, m, v], &format!("norm{i}"));
        let kept = file.node("Relu", &[&norm], &format!("kept{i}"));
        let w = file.tensor(&format!("w{i}"), &[3, 3, 1, 1]);
        let branch = file.node("Conv", &[&kept, &w], &format!("branch{i}"));
        at = file.node("Add", &[&at, &branch], &format!("sum{i}"));
    }
    file.node("Flatten", &[&at], "y");
    file.bytes()
}

/// A value that is added to itself again and again: paths through it double with each node.
fn doubled(n: usize) -> Vec<u8> {
    let mut file = File::new(&[1, 3, 2, 2], &[1, 12]);
    let w = file.tensor("w", &[3, 3, 1, 1]);
    let mut at = file.node("Conv", &["x", &w], "start");
    for i in 0..n {
        at = file.node("Add", &[&at, &at], &format!("sum{i}"));
    }
    let stored = ["s", "b", "m", "v"].map(|name| file.tensor(name, &[3]));
    let [s, b, m, v] = stored.each_ref().map(String::as_str);
    let norm = file.node("BatchNormalization", &[&at, s, b, m, v], "norm");
    file.node("Flatten", &[&norm], "y");
    file.bytes()
}

/// An engine that is given graphs and does nothing with them.
struct Idle(OperatorSet);

impl Engine for Idle {
    fn describe(&self) -> Description {
        let (version, device) = (String::new(), String::new());
        Description { name: "idle".into(), version, device, note: None }
    }

    fn compile(&self, graph: &Graph) -> Result<Compiled> {
        compile(graph, self.0)
    }

    fn load(&self, _: &Compiled) -> Result<Box<dyn Session>> {
        Err(Error::Engine { engine: "idle", message: String::new() })
    }
}

/// Puts a model through all that is done to one, except running it.
fn work(model: &[u8], mode: BatchNormMode) {
    let imported = import(&onnx::read(model, "model").unwrap(), &ImportOptions::default()).unwrap();
    let drawn = initialise(&imported.graph, Init::KaimingNormal, 1).unwrap();
    linearise(&drawn).unwrap();
    let roles = Roles::of(&drawn);
    let graph = batch_norm(&drawn, mode).unwrap().0.graph;
    for reduction in [Reduction::PerSample, Reduction::Mean] {
        let training = training_graph(&graph, Loss::CrossEntropy, 2, reduction).unwrap();
        emit_files(&training.graph, "data", u64::MAX).unwrap();
    }
    let shape = [&[2], &drawn.shape(drawn.inputs()[0])[1..]].concat();
    let x = Tensor::full(DType::F32, &shape, 1.0);
    let targets = Tensor::index([0, 1]);
    let samples = Batch { inputs: vec![x.clone()], targets: targets.clone(), classes: vec![0, 0] };
    for operators in [OperatorSet::Standard, OperatorSet::Kernels] {
        let is_idle = |error: Error| assert_eq!(error.kind(), "engine", "{error}");
        let engine = Idle(operators);
        let (loss, memory) = (Loss::CrossEntropy, Memory::default());
        let samples = &samples;
        let subject = |model, roles| Subject {
            model,
            roles,
            samples,
            loss,
            seed: 0,
            memory,
            engine: &engine,
        };
        // What the scores of running statistics do is done for the others as well.
        let view = SampleView::new(Differentiated::Loss, BatchNormMode::Running);
        let compared = Probe::of_pairs(view, Pairs::OfClasses, |gradients| {
            let grams = gradients.grams(GramKind::Sign, Selection::All)?;
            let signs = gradients.sign_sums(Selection::All)?;
            for gradient in gradients.gradients(Selection::All)? {
                gradients.moments(&gradient)?;
            }
            Ok(Box::new(move |results| {
                results.get(grams)?;
                results.get(signs).copied()
            }))
        });
        let of_batch = Probe::of_batch(BatchView::samples(mode), |network| {
            let loss = network.mean_loss()?;
            let gradients = network.weight_gradients(loss)?;
            for (_, gradient) in gradients {
                network.tensor(gradient);
            }
            let loss = network.tensor(loss);
            Ok(Box::new(move |results| Ok(results.get(loss)?.to_f64().sum())))
        });
        is_idle(
            evaluate(&[&compared], &subject(&graph, &roles), &mut Vec::new())
                .remove(0)
                .unwrap_err(),
        );
        is_idle(
            evaluate(&[&of_batch], &subject(&drawn, &roles), &mut Vec::new())
                .remove(0)
                .unwrap_err(),
        );
    }
}

/// The looks at nodes in `work` on a small stack.
fn looks_of(model: Vec<u8>, mode: BatchNormMode) -> usize {
    let helper = thread::Builder::new().stack_size(256 << 10);
    let worker = helper.spawn(move || looks::during(|| work(&model, mode))).unwrap();
    worker.join().unwrap()
}

/// Twice the nodes take twice the looks; ten times the nodes would take a hundred times the looks of
/// what compares all with all.
#[track_caller]
fn check(model: fn(usize) -> Vec<u8>, mode: BatchNormMode) {
    let (few, many) = (200, 2000);
    let (small, large) = (looks_of(model(few), mode), looks_of(model(many), mode));
    let growth = large as f64 / small as f64;
    assert!(growth < 15.0, "{few} nodes: {small} looks, {many} nodes: {large}");
}

#[test]
fn a_chain_takes_work_in_proportion() {
    check(chain, BatchNormMode::Running);
}

#[test]
fn many_biases_take_work_in_proportion() {
    check(biases, BatchNormMode::Running);
}

#[test]
fn a_wide_network_takes_work_in_proportion() {
    check(wide, BatchNormMode::Running);
}

#[test]
fn a_weight_with_many_uses_takes_work_in_proportion() {
    check(tied, BatchNormMode::Running);
}

#[test]
fn normalisations_on_one_stream_take_work_in_proportion() {
    check(residual, BatchNormMode::Running);
    check(residual, BatchNormMode::Sample);
}

#[test]
fn paths_that_double_take_work_in_proportion() {
    check(doubled, BatchNormMode::Sample);
}

/// No step of the work calls itself for the node before.
#[test]
fn a_hundred_thousand_nodes_need_no_deep_stack() {
    let model = chain(100_000);
    let helper = thread::Builder::new().stack_size(256 << 10);
    let worker = helper.spawn(move || {
        let model = onnx::read(&model, "model").unwrap();
        let graph = import(&model, &ImportOptions::default()).unwrap().graph;
        let training = training_graph(&graph, Loss::CrossEntropy, 2, Reduction::PerSample).unwrap();
        assert_eq!(training.parameters.len(), 20_000);
        emit_files(&training.graph, "data", u64::MAX).unwrap();
    });
    worker.unwrap().join().unwrap();
}
