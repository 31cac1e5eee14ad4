//! `--memory` against what the system says that the process took.

use gradalign::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use gradalign::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

use super::{engines, gradalign, inside};

fn info(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(dimension::Value::DimValue(d)) };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape });
    let r#type = Some(TypeProto { value: Some(value) });
    ValueInfoProto { name: Some(name.into()), r#type }
}

/// A network whose weights are most of what it takes: five layers of 1024, 20 MiB.
fn heavy() -> Vec<u8> {
    let mut graph = GraphProto {
        input: vec![info("x", &[1, 256])],
        output: vec![info("y", &[1, 10])],
        ..GraphProto::default()
    };
    let widths = [256, 1024, 1024, 1024, 1024, 1024, 1024, 10];
    let mut at = "x".to_owned();
    let node = |op: &str, input: Vec<String>, output: &str| NodeProto {
        op_type: Some(op.into()),
        input,
        output: vec![output.into()],
        ..NodeProto::default()
    };
    for (i, pair) in widths.windows(2).enumerate() {
        let &[rows, columns] = pair else { continue };
        let value = |k: usize| ((k * 7919 + i) % 101) as f32 / 1600.0 - 0.03;
        graph.initializer.push(TensorProto {
            name: Some(format!("w{i}")),
            dims: vec![rows as i64, columns as i64],
            data_type: Some(1),
            float_data: (0..rows * columns).map(value).collect(),
            ..TensorProto::default()
        });
        let last = i + 2 == widths.len();
        let product = if last { "y".into() } else { format!("product{i}") };
        graph.node.push(node("MatMul", vec![at, format!("w{i}")], &product));
        at = format!("relu{i}");
        if !last {
            graph.node.push(node("Relu", vec![product], &at));
        }
    }
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let (ir_version, opset_import) = (Some(8), vec![opset]);
    let graph = Some(graph);
    ModelProto { ir_version, opset_import, graph, ..ModelProto::default() }.encode_to_vec()
}

/// The row of the only model under a limit, and the peak of the process, in MiB.
fn scored(model: &str, options: &str, limit: u64) -> (Value, u64) {
    let data = "fixtures/digits.npz --samples 48 --format json -v";
    let run = gradalign(&format!("score {model} --data {data} {options} --memory {limit}MiB"));
    let report: Value =
        serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {}", run.err));
    let (_, peak) = run.err.split_once("peak memory ").unwrap();
    let peak = peak.split_whitespace().next().unwrap().parse().unwrap();
    (report["models"][0].clone(), peak)
}

/// Each pass, on networks of many weights and of many values.
#[test]
fn the_peak_of_the_process_stays_below_the_limit() {
    let folder = TempDir::new().unwrap();
    let (path, heavy_model) = inside(&folder, "heavy.onnx");
    std::fs::write(path, heavy()).unwrap();
    let models = [heavy_model.as_str(), "models/unet.onnx", "models/resnet20.onnx"];
    for engine in engines() {
        for (model, metric) in models.iter().zip(["gradalign-1", "grad-norm", "te-nas-ntk"]) {
            let options = format!("--engine {engine} --metric {metric} --bn running");
            let options = match metric {
                "gradalign-1" => options,
                "te-nas-ntk" => options.replace("--bn running", "--ntk-samples 16"),
                _ => options.replace(" --bn running", ""),
            };
            let mut answered = 0;
            for limit in [40, 80, 120, 200, 400] {
                let (row, peak) = scored(model, &options, limit);
                let failed = row["error"]["kind"] == "memory";
                assert!(failed || row["error"].is_null(), "{row}");
                // What is refused is not begun; the process itself and the model are there.
                let most = if failed { limit.max(150) } else { limit };
                assert!(peak <= most, "{model} {options}: {peak} MiB of {limit}: {row}");
                if failed {
                    let message = row["error"]["message"].as_str().unwrap();
                    assert!(message.contains("MiB") && message.contains("raise --memory"), "{row}");
                }
                answered += usize::from(!failed);
            }
            assert!(answered > 0, "{model} {options}");
        }
    }
}
