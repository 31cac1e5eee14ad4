//! What files may ask of an importer beside operators: a fixed batch, several outputs, inputs that
//! nothing reads, past states that are left out, and weights with several uses.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use gradalign::data::{Dataset, Options};
use gradalign::emit::emit_bytes;
use gradalign::engine::all_for_tests;
use gradalign::error::Result;
use gradalign::graph::eval;
use gradalign::import::{ImportOptions, Imported, default_output, import};
use gradalign::onnx::proto::attribute_proto::AttributeType;
use gradalign::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use gradalign::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use gradalign::onnx::{DataType, Model, read};
use gradalign::pass::{Reduction, training_graph};
use gradalign::score::{Settings, prepare};
use gradalign::tensor::{DType, Tensor};
use gradalign::transform::{Loss, widen};
use prost::Message;

/// Writes an ONNX file line by line.
#[derive(Default)]
struct File(GraphProto);

fn info(name: &str, dtype: DataType, dims: &str) -> ValueInfoProto {
    let dims = dims.split_whitespace().map(|dim| Dimension {
        value: Some(match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam(dim.into()),
        }),
        ..Dimension::default()
    });
    let shape = Some(TensorShapeProto { dim: dims.collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

impl File {
    /// An input; dimensions are numbers or names.
    fn input(mut self, name: &str, dims: &str) -> Self {
        self.0.input.push(info(name, DataType::Float, dims));
        self
    }

    fn tokens(mut self, name: &str, dims: &str) -> Self {
        self.0.input.push(info(name, DataType::Int64, dims));
        self
    }

    fn output(mut self, name: &str, dims: &str) -> Self {
        self.0.output.push(info(name, DataType::Float, dims));
        self
    }

    fn store(mut self, name: &str, dims: &[usize], kind: DataType, raw: Vec<u8>) -> Self {
        self.0.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: Some(kind as i32),
            raw_data: Some(raw.into()),
            ..TensorProto::default()
        });
        self
    }

    /// A weight with values of its own.
    fn weight(self, name: &str, dims: &[usize]) -> Self {
        let start = name.bytes().map(f32::from).sum::<f32>();
        let values =
            (0..dims.iter().product()).map(|i: usize| (start + 2.3 * i as f32).sin() / 2.0);
        self.store(name, dims, DataType::Float, values.flat_map(f32::to_le_bytes).collect())
    }

    fn integers(self, name: &str, values: &[i64]) -> Self {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.store(name, &[values.len()], DataType::Int64, raw)
    }

    /// `MatMul x w -> y`, where each attribute is written `name=1,2`.
    fn node(mut self, line: &str) -> Self {
        let (call, outputs) = line.split_once(" -> ").unwrap();
        let mut words = call.split_whitespace();
        let op = words.next().map(str::to_owned);
        let (attributes, inputs): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
        let attributes = attributes.into_iter().map(|word| {
            let (name, values) = word.split_once('=').unwrap();
            let list: Vec<i64> = values.split(',').map(|v| v.parse().unwrap()).collect();
            let single = (list.len() == 1 && name != "perm").then(|| list[0]);
            AttributeProto {
                name: Some(name.into()),
                r#type: Some(single.map_or(AttributeType::Ints, |_| AttributeType::Int) as i32),
                i: single,
                ints: if single.is_none() { list } else { Vec::new() },
                ..AttributeProto::default()
            }
        });
        self.0.node.push(NodeProto {
            name: Some(format!("to {outputs}")),
            op_type: op,
            attribute: attributes.collect(),
            // An operand left out is written `_`.
            input: inputs
                .into_iter()
                .map(|name| if name == "_" { "" } else { name }.into())
                .collect(),
            output: outputs.split_whitespace().map(str::to_owned).collect(),
            ..NodeProto::default()
        });
        self
    }

    fn bytes(self) -> Vec<u8> {
        let opset = OperatorSetIdProto { domain: None, version: Some(23) };
        let model = ModelProto {
            ir_version: Some(10),
            opset_import: vec![opset],
            graph: Some(GraphProto { name: Some("made by hand".into()), ..self.0 }),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn model(self) -> Model {
        read(&self.bytes(), "model").unwrap()
    }
}

fn imported(file: File) -> Result<Imported> {
    import(&file.model(), &ImportOptions::default())
}

fn values(dims: &[usize]) -> Tensor {
    let values = (0..dims.iter().product()).map(|i: usize| (1.7 * i as f32).cos()).collect();
    Tensor::f32(dims, values).unwrap()
}

/// What the model puts out for inputs in declaration order, in float64.
fn outputs(model: &Imported, inputs: &[Tensor]) -> Vec<f64> {
    let graph = widen(&model.graph).unwrap();
    let wide = inputs.iter().zip(graph.inputs()).map(|(t, &v)| t.cast(graph.fact(v).dtype));
    eval(&graph, &wide.collect::<Vec<_>>()).unwrap()[0].to_f64().into_iter().collect()
}

/// Loss and per-sample gradients of two samples, by name, on every engine.
fn gradients(
    model: &Imported,
    inputs: &[Tensor],
    labels: &Tensor,
) -> Vec<HashMap<String, Vec<f64>>> {
    let loss = if labels.shape().len() > 1 { Loss::TokenCrossEntropy } else { Loss::CrossEntropy };
    let graph = training_graph(&model.graph, loss, 2, Reduction::PerSample).unwrap().graph;
    let bytes = emit_bytes(&graph).unwrap();
    let fed: Vec<Tensor> = inputs.iter().chain([labels]).cloned().collect();
    let engines = all_for_tests();
    let each = engines.iter().map(|engine| {
        let results = engine.load(&bytes).unwrap().run(&fed).unwrap();
        let named = graph.outputs().iter().zip(results);
        named.map(|(o, t)| (o.name.clone(), t.to_f64().into_iter().collect())).collect()
    });
    each.collect()
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5)
}

/// A convolution and a classifier, between which the file has the shape `flat`.
fn convolutional(batch: &str, flat: &[i64]) -> File {
    File::default()
        .input("x", &format!("{batch} 1 4 4"))
        .weight("kernel", &[2, 1, 3, 3])
        .weight("head", &[8, 3])
        .integers("flat", flat)
        .node("Conv x kernel -> map")
        .node("Reshape map flat -> row")
        .node("MatMul row head -> logits")
        .output("logits", &format!("{batch} 3"))
}

#[test]
fn a_fixed_batch_is_taken_to_one() {
    let one = imported(convolutional("1", &[1, 8])).unwrap();
    let x = values(&[1, 1, 4, 4]);
    for flat in [[5, 8], [-1, 8], [5, -1]] {
        let five = imported(convolutional("5", &flat)).unwrap();
        assert_eq!(five.graph.shape(five.graph.inputs()[0]), [1, 1, 4, 4]);
        assert!(
            close(
                &outputs(&five, std::slice::from_ref(&x)),
                &outputs(&one, std::slice::from_ref(&x))
            ),
            "{flat:?}"
        );
        assert_eq!(five.notes, ["the file fixes the batch at 5; it is taken at 1"]);
    }
    assert!(one.notes.is_empty());
}

/// Where samples mix, or a tensor has a row for each of them, one alone has no meaning.
#[test]
fn a_fixed_batch_that_matters_is_refused() {
    let mixed = File::default()
        .input("x", "5 4")
        .weight("across", &[5, 5])
        .weight("head", &[4, 3])
        .node("MatMul across x -> mixed")
        .node("MatMul mixed head -> logits")
        .output("logits", "5 3");
    let rows = File::default()
        .input("x", "5 4")
        .weight("rows", &[5, 3])
        .weight("head", &[4, 3])
        .node("MatMul x head -> product")
        .node("Add product rows -> logits")
        .output("logits", "5 3");
    let folded = convolutional("6", &[2, 3, 8]);
    for (file, k) in [(mixed, 5), (rows, 5), (folded, 6)] {
        let error = imported(file).unwrap_err().to_string();
        for part in [&format!("a fixed batch of {k}"), "export it again with a batch of 1"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// Two heads on one trunk, labels before logits, and an input that nothing reads.
fn two_heads() -> File {
    File::default()
        .input("unread", "batch 7 sizes")
        .input("x", "batch 4")
        .weight("trunk", &[4, 5])
        .weight("first", &[5, 3])
        .weight("second", &[5, 2])
        .node("MatMul x trunk -> product")
        .node("Relu product -> features")
        .node("MatMul features first -> logits")
        .node("MatMul features second -> other")
        .node("ArgMax axis=1 logits -> label")
        .output("logits", "batch 3")
        .output("other", "batch 2")
}

fn parameters(model: &Imported) -> Vec<String> {
    model.graph.parameters().map(|(_, p)| p.name.to_string()).collect()
}

#[test]
fn an_output_is_chosen_by_name() {
    let model = two_heads().model();
    assert_eq!(default_output(&model).unwrap(), "logits");
    for (output, classes, trained) in [
        (None, 3, vec!["trunk", "first"]),
        (Some("other"), 2, vec!["trunk", "second"]),
        // Not one of the file's outputs, but a value on the way.
        (Some("features"), 5, vec!["trunk"]),
    ] {
        let options = ImportOptions { output: output.map(str::to_owned), ..Default::default() };
        let chosen = import(&model, &options).unwrap();
        assert_eq!(chosen.output, output.unwrap_or("logits"));
        let value = chosen.graph.outputs()[0].value;
        assert_eq!(chosen.graph.shape(value), [1, classes]);
        assert_eq!(parameters(&chosen), trained);
    }
    for (output, reasons) in [
        ("nothing", ["there is no output 'nothing'", "logits, other"]),
        ("trunk", ["there is no output 'trunk'", "logits, other"]),
    ] {
        let options = ImportOptions { output: Some(output.into()), ..Default::default() };
        let error = import(&model, &options).unwrap_err().to_string();
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{error}");
    }
}

/// The labels that a model puts out are no logits.
#[test]
fn an_output_of_integers_is_refused_as_prediction() {
    let options = ImportOptions { output: Some("label".into()), ..Default::default() };
    let labels = import(&two_heads().model(), &options).unwrap();
    let error =
        training_graph(&labels.graph, Loss::CrossEntropy, 2, Reduction::Mean).err().unwrap();
    assert!(error.to_string().contains("choose another --loss or another --tensor"), "{error}");
}

/// A file with its loss in it is refused, and says how to leave the loss out.
#[test]
fn a_loss_in_the_file_is_left_out_by_choosing_the_logits() {
    let model = File::default()
        .input("x", "batch 4")
        .tokens("target", "batch")
        .weight("head", &[4, 3])
        .node("MatMul x head -> logits")
        .node("SoftmaxCrossEntropyLoss logits target -> loss")
        .output("loss", "")
        .model();
    let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("take the logits before it by --tensor"), "{error}");
    let options = ImportOptions { output: Some("logits".into()), ..Default::default() };
    let chosen = import(&model, &options).unwrap();
    assert_eq!((chosen.graph.inputs().len(), parameters(&chosen)), (1, vec!["head".to_owned()]));
}

/// An input without use needs neither a shape nor data, though its dimensions are open.
#[test]
fn inputs_that_nothing_reads_are_not_asked_for() {
    let model = imported(two_heads()).unwrap();
    let names: Vec<_> = model.graph.inputs().iter().map(|&v| model.graph.name(v)).collect();
    assert_eq!(names, [Some("x")]);
    let data = Dataset::open("synthetic", &Options::default()).unwrap();
    let (fitted, batch, ..) = prepare(&two_heads().model(), &data, &Settings::default()).unwrap();
    assert_eq!((fitted.graph.inputs().len(), batch.inputs.len()), (1, 1));
    let labels = Tensor::index([0, 2]);
    for found in gradients(&model, &[values(&[2, 4])], &labels) {
        assert_eq!(found["loss"].len(), 2);
        assert!(found["grad.trunk"].iter().any(|&g| g != 0.0));
    }
}

/// `relu(x·w)·w`, with `w` stored once or twice.
fn shared(twice: bool) -> File {
    let second = if twice { "copy" } else { "weight" };
    let file = File::default().input("x", "batch 3").weight("weight", &[3, 3]);
    let raw = file.0.initializer[0].raw_data.clone().unwrap();
    let file =
        if twice { file.store("copy", &[3, 3], DataType::Float, raw.to_vec()) } else { file };
    file.node("MatMul x weight -> first")
        .node("Tanh first -> middle")
        .node(&format!("MatMul middle {second} -> logits"))
        .output("logits", "batch 3")
}

/// Equal weights are one parameter, but for files whose names are those of a module's parameters:
/// there each has a part of the gradient.
#[test]
fn the_gradient_of_a_shared_weight_is_the_sum_over_its_uses() {
    let (once, tied) = (imported(shared(false)).unwrap(), imported(shared(true)).unwrap());
    let of_pytorch = Model { producer: "pytorch".into(), ..shared(true).model() };
    let twice = import(&of_pytorch, &ImportOptions::default()).unwrap();
    let counts = [&once, &tied, &twice].map(|model| parameters(model).len());
    assert_eq!(counts, [1, 1, 2]);
    let (x, labels) = (values(&[2, 3]), Tensor::index([1, 2]));
    let of = |model| gradients(model, std::slice::from_ref(&x), &labels);
    for ((one, tied), two) in of(&once).iter().zip(&of(&tied)).zip(&of(&twice)) {
        assert!(close(&one["loss"], &two["loss"]));
        assert!(close(&one["grad.weight"], &tied["grad.weight"]));
        let parts = two["grad.weight"].iter().zip(&two["grad.copy"]);
        let sum: Vec<f64> = parts.map(|(a, b)| a + b).collect();
        assert!(close(&one["grad.weight"], &sum), "{one:?} {two:?}");
        assert!(!close(&one["grad.weight"], &two["grad.weight"]));
    }
}

/// A layer of attention over tokens whose table of embeddings gives the logits, too. With `past`,
/// keys and values of earlier tokens come first.
fn language_model(past: bool) -> File {
    let mut file = File::default().tokens("ids", "batch 4");
    if past {
        file = file.input("past_k", "batch past 6").input("past_v", "batch past 6");
    }
    for name in ["query", "key", "value"] {
        file = file.weight(name, &[6, 6]);
    }
    file = file
        .weight("table", &[9, 6])
        .node("Gather table ids -> x")
        .node("MatMul x query -> q")
        .node("MatMul x key -> k")
        .node("MatMul x value -> v");
    let (k, v) = if past { ("keys", "values") } else { ("k", "v") };
    if past {
        file.0.node.push(concat("past_k", "k", "keys"));
        file.0.node.push(concat("past_v", "v", "values"));
    }
    file = file
        .node(&format!("Transpose perm=0,2,1 {k} -> turned"))
        .node("MatMul q turned -> products")
        .node("Softmax products -> weights")
        .node(&format!("MatMul weights {v} -> y"))
        .node("Add x y -> z")
        .node("Transpose perm=1,0 table -> columns")
        .node("MatMul z columns -> logits")
        .output("logits", "batch 4 9");
    if past { file.output(k, "batch all 6").output(v, "batch all 6") } else { file }
}

fn concat(a: &str, b: &str, result: &str) -> NodeProto {
    let axis = AttributeProto {
        name: Some("axis".into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(1),
        ..AttributeProto::default()
    };
    NodeProto {
        op_type: Some("Concat".into()),
        input: vec![a.into(), b.into()],
        output: vec![result.into()],
        attribute: vec![axis],
        ..NodeProto::default()
    }
}

#[test]
fn a_language_model_runs_without_a_past() {
    let plain = imported(language_model(false)).unwrap();
    let model = language_model(true).model();
    let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("--shape"), "{error}");

    let shapes = ["past_k", "past_v"].map(|name| (name.to_owned(), vec![1, 0, 6]));
    let options = ImportOptions { shapes: shapes.into(), ..ImportOptions::default() };
    let empty = import(&model, &options).unwrap();
    assert_eq!(parameters(&empty), parameters(&plain));

    let ids = Tensor::index([3, 1, 8, 1, 0, 5, 5, 2]).reshape(&[2, 4]).unwrap();
    let labels = Tensor::index([1, 8, 1, 4, 5, 5, 2, 7]).reshape(&[2, 4]).unwrap();
    let want = gradients(&plain, std::slice::from_ref(&ids), &labels);
    let names: Vec<_> = empty.graph.inputs().iter().map(|&v| empty.graph.name(v)).collect();
    let none = Tensor::f32(&[2, 0, 6], Vec::new()).unwrap();
    let inputs: Vec<Tensor> =
        names.iter().map(|n| if *n == Some("ids") { ids.clone() } else { none.clone() }).collect();
    for (got, want) in gradients(&empty, &inputs, &labels).iter().zip(&want) {
        for (name, want) in want {
            assert!(close(&got[name], want), "{name}");
        }
    }
}

/// `Attention` whose mask and past are left out, by empty names.
#[test]
fn operands_left_out_by_empty_names_are_absent() {
    let attention = |line: &str| {
        File::default()
            .input("x", "batch 4 6")
            .weight("key", &[6, 6])
            .node("MatMul x key -> k")
            .node(line)
            .output("y", "batch 4 6")
    };
    let heads = "q_num_heads=2 kv_num_heads=2";
    let short = imported(attention(&format!("Attention {heads} x k k -> y"))).unwrap();
    let long = imported(attention(&format!("Attention {heads} x k k _ _ _ -> y"))).unwrap();
    let x = values(&[1, 4, 6]);
    assert!(close(&outputs(&long, std::slice::from_ref(&x)), &outputs(&short, &[x])));
    assert_eq!(long.graph.fact(long.graph.inputs()[0]).dtype, DType::F32);
}
