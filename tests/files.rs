//! What files may ask of an importer beside operators: a fixed batch, several outputs, inputs that
//! nothing reads, past states that are left out, and weights with several uses.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use gradalign::data::{Dataset, Options};
use gradalign::emit::emit_bytes;
use gradalign::engine::{Compiled, all_for_tests};
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
use gradalign::score::{Resolved, prepare};
use gradalign::tensor::{DType, Tensor};
use gradalign::transform::{Loss, widen};
use gradalign::transform::{Reduction, training_graph};
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
    });
    let shape = Some(TensorShapeProto { dim: dims.collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype as i32), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    let r#type = Some(TypeProto { value });
    ValueInfoProto { name: Some(name.into()), r#type }
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
        let results = engine.load(&Compiled::from_onnx(bytes.clone())).unwrap().run(&fed).unwrap();
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

/// What `file` makes of two samples, against the same with an open batch, whose forms are `fixed` and
/// `open`.
#[track_caller]
fn same_as_open(fixed: File, open: File, inputs: &[Tensor]) {
    let (fixed, open) = (imported(fixed).unwrap(), imported(open).unwrap());
    assert!(close(&outputs(&fixed, inputs), &outputs(&open, inputs)));
}

/// A layer on windows that are folded into the batch, as Swin has them, and one on its own axis again.
/// `batch` is a name or a number, `shapes` are those that the file reshapes to.
fn windows(batch: &str, shapes: [&[i64]; 2]) -> File {
    File::default()
        .input("x", &format!("{batch} 2 3"))
        .weight("inner", &[3, 3])
        .weight("head", &[6, 4])
        .integers("folded", shapes[0])
        .integers("unfolded", shapes[1])
        .node("Reshape x folded -> parts")
        .node("MatMul parts inner -> mixed")
        .node("Tanh mixed -> active")
        .node("Reshape active unfolded -> row")
        .node("MatMul row head -> logits")
        .output("logits", &format!("{batch} 4"))
}

/// Sizes that hold the fixed batch together with something else are taken apart by the order of the
/// elements.
#[test]
fn a_fixed_batch_is_followed_through_reshapes() {
    let x = values(&[1, 2, 3]);
    let open = || windows("batch", [&[-1, 3], &[-1, 6]]);
    for (k, shapes) in [
        ("4", [&[8, 3][..], &[4, 6][..]]),
        ("4", [&[-1, 3], &[4, -1]]),
        ("4", [&[1, 8, 3], &[4, 6]]),
        // The batch is as large as the number of windows, and as an axis.
        ("2", [&[4, 3], &[2, 6]]),
        ("3", [&[6, 3], &[3, 6]]),
    ] {
        same_as_open(windows(k, shapes), open(), std::slice::from_ref(&x));
    }
    // Positions in front of the samples.
    let turned = |batch: &str, folded: &[i64], unfolded: &[i64]| {
        File::default()
            .input("x", &format!("{batch} 5 3"))
            .weight("inner", &[3, 4])
            .integers("folded", folded)
            .integers("unfolded", unfolded)
            .node("Transpose perm=1,0,2 x -> positions")
            .node("Reshape positions folded -> rows")
            .node("MatMul rows inner -> products")
            .node("Reshape products unfolded -> turned")
            .node("Transpose perm=1,0,2 turned -> logits")
            .output("logits", &format!("{batch} 5 4"))
    };
    let (fixed, open) = (turned("4", &[20, 3], &[5, 4, 4]), turned("batch", &[-1, 3], &[5, -1, 4]));
    same_as_open(fixed, open, &[values(&[1, 5, 3])]);
}

/// A class token that the exporter repeats for each sample, and an input that is resized to sizes.
#[test]
fn a_fixed_batch_is_followed_through_sizes() {
    let file = |batch: &str, sizes: &[i64], target: &[i64]| {
        File::default()
            .input("x", &format!("{batch} 1 2 2"))
            .weight("token", &[1, 1, 1, 4])
            .weight("head", &[20, 3])
            .integers("sizes", sizes)
            .integers("target", target)
            .integers("flat", &[0, -1])
            .node("Resize x _ _ sizes -> large")
            .node("Expand token target -> tokens")
            .node("Concat axis=2 large tokens -> both")
            .node("Reshape both flat -> row")
            .node("MatMul row head -> logits")
            .output("logits", &format!("{batch} 3"))
    };
    let one = file("1", &[1, 1, 4, 4], &[1, 1, 1, 4]);
    same_as_open(file("6", &[6, 1, 4, 4], &[6, 1, 1, 4]), one, &[values(&[1, 1, 2, 2])]);
}

/// The zeros that a recurrent layer begins with, stored for each of a fixed batch.
#[test]
fn a_stored_state_is_one_for_all_samples() {
    let file = |batch: &str, state: &[usize]| {
        let zeros = vec![0; 4 * state.iter().product::<usize>()];
        File::default()
            .input("x", &format!("3 {batch} 2"))
            .store("zeros", state, DataType::Float, zeros)
            .weight("w", &[1, 8, 2])
            .weight("r", &[1, 8, 2])
            .node("LSTM hidden_size=2 x w r _ _ zeros zeros -> all last")
            .integers("flat", &[-1, 2])
            .node("Reshape last flat -> logits")
            .output("logits", &format!("{batch} 2"))
    };
    same_as_open(file("4", &[1, 4, 2]), file("1", &[1, 1, 2]), &[values(&[1, 3, 2])]);
}

/// What reads one of a fixed batch of samples, some, or all of them is not a model of one sample.
#[test]
fn picking_from_a_fixed_batch_is_refused() {
    let picked = |line: &str, integers: &[i64]| {
        File::default()
            .input("x", "4 3")
            .weight("head", &[3, 2])
            .integers("which", integers)
            .integers("zero", &[0])
            .integers("two", &[2])
            .node(line)
            .node("MatMul part head -> logits")
            .output("logits", "any 2")
    };
    for (line, which) in [
        ("Gather axis=0 x which -> part", &[0][..]),
        ("Gather axis=0 x which -> part", &[1]),
        ("Gather axis=0 x which -> part", &[3, 2, 1, 0]),
        ("Slice x zero two zero -> part", &[0]),
        ("ReduceMean x zero -> part", &[0]),
        ("Tile x which -> part", &[2, 1]),
    ] {
        let error = imported(picked(line, which)).unwrap_err().to_string();
        for part in ["a fixed batch of 4", "to part", "`batch-axis`"] {
            assert!(error.contains(part), "{line} {which:?}: {error}");
        }
    }
    // An open batch has the same at an index that one sample does not have.
    let open = File::default()
        .input("x", "batch 3")
        .weight("head", &[3, 2])
        .integers("which", &[1])
        .node("Gather axis=0 x which -> part")
        .node("MatMul part head -> logits")
        .output("logits", "any 2");
    let error = imported(open).unwrap_err().to_string();
    assert!(error.contains("index 1 is beyond") && error.contains("`batch-axis`"), "{error}");
}

/// A sample with the state of two layers, `[2, N, 3]`.
fn with_state(batch: &str) -> File {
    File::default()
        .input("state", &format!("2 {batch} 3"))
        .input("x", &format!("{batch} 3"))
        .weight("head", &[3, 2])
        .integers("zero", &[0])
        .integers("one", &[1])
        .node("Gather axis=0 state zero -> first")
        .node("Gather axis=0 state one -> second")
        .node("Mul first second -> product")
        .node("Add x product -> sum")
        .node("MatMul sum head -> logits")
        .output("logits", &format!("1 {batch} 2"))
}

#[test]
fn a_batch_that_is_not_the_first_axis_is_found() {
    let (state, x) = (values(&[1, 2, 3]), values(&[1, 3]));
    let results: Vec<Vec<f64>> = ["batch", "1", "5"]
        .iter()
        .map(|batch| {
            let model = imported(with_state(batch)).unwrap();
            assert_eq!(model.batch_axes, [Some(1), Some(0)], "{batch}");
            assert_eq!(model.graph.shape(model.graph.outputs()[0].value), [1, 1, 2]);
            outputs(&model, &[state.clone(), x.clone()])
        })
        .collect();
    let s = values(&[2, 3]).to_f64();
    let sum: Vec<f64> = (0..3).map(|i| x.to_f64()[[0, i]] + s[[0, i]] * s[[1, i]]).collect();
    let head = imported(with_state("1")).unwrap();
    let w = head.graph.parameters().next().unwrap().1.tensor.to_f64();
    let want: Vec<f64> = (0..2).map(|o| (0..3).map(|i| sum[i] * w[[i, o]]).sum()).collect();
    for result in results {
        assert!(close(&result, &want), "{result:?} {want:?}");
    }
}

/// Inputs that are settings, and ones that are of one sample as they are.
#[test]
fn inputs_without_a_batch_are_fixed_or_taken_whole() {
    let model = File::default()
        .input("x", "batch 3")
        .tokens("rate", "")
        .weight("head", &[3, 2])
        .node("Cast to=1 rate -> factor")
        .node("Mul x factor -> scaled")
        .node("MatMul scaled head -> logits")
        .output("logits", "batch 2")
        .model();
    let error = import(&model, &ImportOptions::default()).unwrap_err().to_string();
    for remedy in ["`fix` rate=VALUE", "`batch-axis` rate=none"] {
        assert!(error.contains(remedy), "{error}");
    }
    let fixed = |values: &[f64]| {
        let fixed = HashMap::from([("rate".to_owned(), values.to_vec())]);
        import(&model, &ImportOptions { fixed, ..ImportOptions::default() })
    };
    let own = ImportOptions {
        batch_axes: HashMap::from([("rate".to_owned(), None)]),
        ..ImportOptions::default()
    };
    let own = import(&model, &own).unwrap();
    let x = values(&[1, 3]);
    let both = outputs(&own, &[x.clone(), Tensor::index([3])]);
    assert!(close(&outputs(&fixed(&[3.0]).unwrap(), std::slice::from_ref(&x)), &both));
    assert!(fixed(&[1.5]).unwrap_err().to_string().contains("no whole number"));
    assert!(fixed(&[1.0, 2.0]).unwrap_err().to_string().contains("2 values are given"));
    // Each sample has its own, and gradients go by it.
    let rates = Tensor::index([3, 1]);
    for found in gradients(&own, &[values(&[2, 3]), rates], &Tensor::index([0, 1])) {
        let alone = gradients(&fixed(&[3.0]).unwrap(), &[values(&[2, 3])], &Tensor::index([0, 1]));
        assert!(close(&found["grad.head"][..6], &alone[0]["grad.head"][..6]));
        assert!(!close(&found["grad.head"][6..], &alone[0]["grad.head"][6..]));
    }
}

/// Time-major logits `[T, N, K]` are those of a sequence, in the loss and in a written graph.
#[test]
fn time_major_models_are_of_sequences() {
    let model = imported(
        File::default()
            .input("x", "time batch 3")
            .weight("head", &[3, 4])
            .node("MatMul x head -> logits")
            .output("logits", "time batch 4"),
    );
    assert!(model.unwrap_err().to_string().contains("`shape`"));
    let file = File::default()
        .input("x", "5 batch 3")
        .weight("head", &[3, 4])
        .node("MatMul x head -> logits")
        .output("logits", "5 batch 4");
    let model = imported(file).unwrap();
    assert_eq!(model.graph.shape(model.graph.outputs()[0].value), [1, 5, 4]);
    let loss = Loss::TokenCrossEntropy;
    let training = training_graph(&model.graph, loss, 2, Reduction::PerSample).unwrap();
    let x = values(&[2, 5, 3]);
    let labels = Tensor::index([0, 1, 2, 3, 0, 3, 2, 1, 0, 3]).reshape(&[2, 5]).unwrap();
    let want = eval(&training.graph, &[x.clone(), labels.clone()]).unwrap();
    let turned = training.with_batch_axes(&model.batch_axes).unwrap().graph;
    assert_eq!(turned.shape(turned.inputs()[0]), [5, 2, 3]);
    let time_major = Tensor::from_f64(x.to_f64().permuted_axes(vec![1, 0, 2]), DType::F32);
    let got = eval(&turned, &[time_major, labels]).unwrap();
    for (got, want) in got.iter().zip(&want) {
        let [got, want] = [got, want].map(|t| t.to_f64().into_iter().collect::<Vec<_>>());
        assert!(close(&got, &want));
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

/// A prediction goes before places and states, and what else there is to take is said.
#[test]
fn an_output_is_taken_by_what_its_name_says() {
    for (outputs, taken) in [
        (["boxes", "scores"], "scores"),
        (["last_hidden_state", "logits"], "logits"),
        (["output", "aux"], "output"),
        (["a", "b"], "a"),
        (["boxes", "landmarks"], "boxes"),
    ] {
        let mut file = File::default().input("x", "batch 4").weight("w", &[4, 5]);
        file = file.node("MatMul x w -> y");
        for output in outputs {
            file = file.node(&format!("Tanh y -> {output}")).output(output, "batch 5");
        }
        let model = imported(file).unwrap();
        assert_eq!(model.output, taken);
        let other = outputs.into_iter().find(|name| *name != taken).unwrap();
        let said = model.warnings.iter().any(|w| w.contains(&format!("also has '{other}'")));
        assert_eq!(said, !["last_hidden_state", "aux"].contains(&other), "{:?}", model.warnings);
    }
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
    assert!(error.to_string().contains("choose another `loss` or another `tensor`"), "{error}");
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
    assert!(error.contains("take the logits before it by `tensor`"), "{error}");
    let options = ImportOptions { output: Some("logits".into()), ..Default::default() };
    let chosen = import(&model, &options).unwrap();
    assert_eq!((chosen.graph.inputs().len(), parameters(&chosen)), (1, vec!["head".to_owned()]));
}

/// A file whose batch is fixed takes samples one by one, as many as there are.
#[test]
fn samples_are_fitted_to_a_fixed_batch() {
    let data = Dataset::open("synthetic", &Options::default()).unwrap();
    let model = windows("4", [&[8, 3], &[4, 6]]).model();
    let (_, batch, loss, _) = prepare(&model, &data, &Resolved::default()).unwrap();
    assert_eq!((batch.inputs[0].shape(), loss), (&[128, 2, 3][..], Loss::CrossEntropy));
}

/// An index beyond a table names the input, the sample and the table; one that a computation makes of
/// ids is followed.
#[test]
fn ids_beyond_their_table_are_named() {
    let model = File::default()
        .tokens("ids", "batch 3")
        .weight("table", &[6, 4])
        .weight("head", &[4, 3])
        .integers("two", &[2])
        .integers("middle", &[1])
        .node("Add ids two -> moved")
        .node("Gather table moved -> rows")
        .node("ReduceMean keepdims=0 rows middle -> row")
        .node("MatMul row head -> logits")
        .output("logits", "batch 3")
        .model();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ids.npz");
    let open = |ids: [i64; 12]| {
        let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
        npz.add_array("ids", &ndarray::arr1(&ids).into_shape_with_order((4, 3)).unwrap()).unwrap();
        npz.add_array("y", &ndarray::arr1(&[0i64, 1, 2, 0])).unwrap();
        npz.finish().unwrap();
        // Drawn in another order than they stand.
        let samples = gradalign::data::Samples::Count(std::num::NonZeroUsize::new(4).unwrap());
        let options = Options { samples, ..Options::default() };
        prepare(
            &model,
            &Dataset::open(path.to_str().unwrap(), &options).unwrap(),
            &Resolved::default(),
        )
    };
    assert!(open([3, -2, -8, 0, 1, 2, 3, 2, 1, 0, 0, 0]).is_ok());
    let error = open([3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 4, 0]).unwrap_err().to_string();
    for part in ["'ids'", "sample 3", "'table'", "6 rows"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(
        open([3, 2, 1, 0, -9, 2, 3, 2, 1, 0, 0, 0]).unwrap_err().to_string().contains("sample 1")
    );
}

/// An input without use needs neither a shape nor data, though its dimensions are open.
#[test]
fn inputs_that_nothing_reads_are_not_asked_for() {
    let model = imported(two_heads()).unwrap();
    let names: Vec<_> = model.graph.inputs().iter().map(|&v| model.graph.name(v)).collect();
    assert_eq!(names, [Some("x")]);
    let data = Dataset::open("synthetic", &Options::default()).unwrap();
    let (fitted, batch, ..) = prepare(&two_heads().model(), &data, &Resolved::default()).unwrap();
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
    assert!(error.contains("`shape`"), "{error}");

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
