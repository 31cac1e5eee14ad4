//! The formats, on a ranking made by hand.

use std::collections::BTreeMap;

use super::*;
use crate::ops::BatchNormMode;
use crate::probe::Treatment;
use crate::score::{Failure, ModelResult, Run, ScoreSettings, ScoreValue};
use crate::source::ModelRef;
use crate::{data, engine};

fn running(name: &'static str, value: f64) -> ScoreValue {
    let batch_norm = Some(Treatment::Statistics(BatchNormMode::Running));
    ScoreValue { batch_norm, ..ScoreValue::new(name, value) }
}

/// What the records have in common.
pub(crate) fn run() -> Run {
    let engine = engine::Description {
        name: "onnxruntime".into(),
        version: "1.32.0".into(),
        device: "cpu".into(),
        note: Some("not reported".into()),
    };
    let data = data::Description {
        source: "probe.npz".into(),
        samples: 128,
        classes: Some(10),
        sha256: Some("ab".into()),
    };
    let shape = BTreeMap::from([("x".into(), vec![1, 3])]);
    Run::new(engine, data, ScoreSettings::new().mean([0.485]).shape(shape))
}

/// Two models with scores and one without.
pub(crate) fn ranking() -> Ranking {
    let paths = ["models/small.onnx", "models/large.onnx", "models/broken|x.onnx"];
    let models = ModelRef::all(paths.map(String::from));
    let mut first = ModelResult::new(&models[0]);
    first.parameters = Some(10);
    first.parameters_live = Some(8);
    first.flops = Some(20);
    (first.key, first.sha256) = (Some("ef".into()), Some("cd".into()));
    first.loss = Some("cross-entropy".into());
    first.seconds = 0.5;
    first.add_score(&running("gradalign-1", 1.5));
    first.add_score(&running("gradalign-2", f64::NEG_INFINITY));
    let mut second = ModelResult::new(&models[1]);
    second.parameters = Some(1000);
    second.loss = Some("cross-entropy".into());
    second.add_score(&ScoreValue { std: Some(0.25), ..running("gradalign-1", 10988.9) });
    second.add_score(&running("gradalign-2", 3.0));
    let mut broken = ModelResult::new(&models[2]);
    broken.fail(Failure { kind: "invalid-model".into(), message: "not ONNX".into() });
    Ranking::new(run(), vec![first, second, broken])
}

pub(crate) fn written(format: Format, ranking: &Ranking) -> String {
    let mut out = Vec::new();
    format.renderer().ranking(ranking, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn json_has_the_documented_form() {
    let mut ranking = ranking();
    ranking.models.truncate(1);
    let expected = r#"{
  "schema": 2,
  "tool": {
    "name": "gradalign",
    "version": "VERSION"
  },
  "engine": {
    "name": "onnxruntime",
    "version": "1.32.0",
    "device": "cpu"
  },
  "data": {
    "source": "probe.npz",
    "samples": 128,
    "classes": 10,
    "sha256": "ab"
  },
  "settings": {
    "metric": [
      "gradalign-1",
      "gradalign-2"
    ],
    "seed": 0,
    "init": "keep",
    "repeats": 1,
    "loss": "auto",
    "samples": 128,
    "mean": [
      0.485
    ],
    "std": [],
    "bn": "auto",
    "normalize": false,
    "off-diagonal": false,
    "gram": "sign",
    "ridge": 0.0,
    "zen": "paper",
    "features": null,
    "regions": "gaussian",
    "ntk-samples": 64,
    "shape": {
      "x": [
        1,
        3
      ]
    },
    "fix": {},
    "batch-axis": {},
    "params": [],
    "no-params": [],
    "tensor": null
  },
  "settings_digest": "DIGEST",
  "models": [
    {
      "model": "small.onnx",
      "name": "small.onnx",
      "path": "models/small.onnx",
      "key": "ef",
      "sha256": "cd",
      "parameters": 10,
      "parameters_live": 8,
      "flops": 20,
      "output": null,
      "loss": "cross-entropy",
      "scores": {
        "gradalign-1": {
          "value": 1.5,
          "std": null,
          "rank": 2,
          "bn": "running",
          "values": [
            1.5
          ]
        },
        "gradalign-2": {
          "value": null,
          "std": null,
          "rank": 2,
          "bn": "running",
          "values": [
            null
          ]
        }
      },
      "seconds": 0.5,
      "warnings": [
        "gradalign-2 is -inf: reported as null and ranked last"
      ],
      "error": null
    }
  ]
}
"#
    .replace("VERSION", env!("CARGO_PKG_VERSION"))
    .replace("DIGEST", &ranking.run.settings_digest);
    assert_eq!(written(Format::Json, &ranking), expected);
}

#[test]
fn a_failed_model_has_empty_scores_and_its_reason() {
    let ranking = ranking();
    assert!(ranking.any_failed());
    let json: serde_json::Value = serde_json::from_str(&written(Format::Json, &ranking)).unwrap();
    assert_eq!(json["models"][2]["scores"], serde_json::json!({}));
    assert_eq!(
        json["models"][2]["error"],
        serde_json::json!({"kind": "invalid-model", "message": "not ONNX"})
    );
}

#[test]
fn every_json_line_is_complete() {
    let text = written(Format::Jsonl, &ranking());
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(line["schema"], 2);
        assert_eq!(line["data"]["source"], "probe.npz");
    }
    // A record by itself has no rank.
    assert_eq!(lines[1]["scores"]["gradalign-1"]["rank"], serde_json::Value::Null);
}

#[test]
fn csv_has_a_line_for_each_model() {
    let text = written(Format::Csv, &ranking());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "model,name,path,key,sha256,parameters,flops,gradalign-1,gradalign-1.std,gradalign-1.rank,\
         gradalign-1.bn,gradalign-2,gradalign-2.std,gradalign-2.rank,gradalign-2.bn,seconds,\
         warnings,error.kind,error.message,tool,engine,data,settings"
    );
    let large =
        "large.onnx,large.onnx,models/large.onnx,,,1000,,10988.9,0.25,1,running,3,,1,running,0,,,,";
    assert!(lines[2].starts_with(large), "{}", lines[2]);
    assert!(lines[3].contains(",invalid-model,not ONNX,gradalign "));
    for said in ["onnxruntime 1.32.0 cpu", "probe.npz", "\"\"gram\"\":\"\"sign\"\""] {
        assert!(lines[1..].iter().all(|line| line.contains(said)), "{text}");
    }
}

#[test]
fn markdown_and_table_show_values_ranks_and_reasons() {
    let mut ranking = ranking();
    ranking.sort_by("gradalign-1");
    let text = written(Format::Markdown, &ranking);
    assert_eq!(
        text.lines().nth(2),
        Some("| large.onnx | 10988.9 ±0.25 #1 | 3 #1 | 1000 | – | 0.00 |")
    );
    assert!(text.contains("- broken|x.onnx: invalid-model — not ONNX"));
    assert!(text.contains("onnxruntime 1.32.0 on cpu, 128 samples of probe.npz"), "{text}");

    let text = written(Format::Table, &ranking);
    let order: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(order[..3], ["model", "large.onnx", "small.onnx"]);
    assert!(text.contains("small.onnx: gradalign-2 is -inf"));
    assert!(text.lines().all(|line| line == line.trim_end()));
}
