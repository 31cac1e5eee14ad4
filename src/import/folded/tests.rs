//! Tests on the files in `fixtures/folded`, which the tools wrote, and on hand-written models like them.

use std::path::{Path, PathBuf};

use super::*;
use crate::import::made::{Made, node};
use crate::import::{ImportOptions, import};
use crate::onnx::load;

#[test]
fn what_tools_fold_is_noticed_and_what_they_keep_is_not() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/folded");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let imported = import(&load(&path).unwrap(), &ImportOptions::default()).unwrap();
        let warned = imported.warnings.iter().filter(|w| w.contains("batch norm")).count();
        assert_eq!(warned, usize::from(name.starts_with("folded")), "{name}");
        assert_eq!(imported.batch_norms, if warned == 1 { 0 } else { 2 }, "{name}");
        if warned == 1 {
            assert!(imported.warnings[0].contains("2 layers"), "{name}: {:?}", imported.warnings);
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen} files");
}

/// The traces that remain without metadata.
#[test]
fn files_without_metadata_are_known_by_their_names() {
    for (name, tool) in
        [("folded-bn", "TrainingMode.PRESERVE"), ("dynamo-folded-bn", "optimize=False")]
    {
        let path = format!("{}/fixtures/extra/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        let warning = folded_batch_norm(&load(Path::new(&path)).unwrap()).unwrap();
        assert!(warning.contains(tool), "{name}: {warning}");
    }
}

/// A model with the given nodes and weights.
fn model(producer: &str, nodes: &str, weights: &[&str]) -> Model {
    let mut made = Made::new(&[1, 1, 4, 4]);
    for weight in weights {
        made = made.weight(weight, &[1]);
    }
    let mut model = made.nodes(nodes).output("y");
    model.producer = producer.into();
    model
}

#[test]
fn names_tell_the_tool() {
    for (nodes, producer, weights, wanted) in [
        ("Conv x w_fused_bn b -> y", "tf2onnx 1.16", &[][..], Some("tf2onnx")),
        ("Conv x 12 13 -> y", "pytorch 1.7", &["fc.weight"], Some("PyTorch")),
        // Old exporters name all tensors by numbers.
        ("Conv x 12 13 -> y", "pytorch 0.3", &["12", "13"], None),
        ("Conv x 12 13 -> y", "CNTK", &["fc.weight"], None),
        ("Conv x w b -> net/bn/FusedBatchNormV3:0", "tf2onnx", &[], Some("simplifier")),
        ("Conv x onnx::Conv_1 onnx::Conv_2 -> y", "pytorch 2", &[], Some("PyTorch")),
        ("Conv x onnx::Conv_1 bias -> y", "pytorch 2", &[], None),
        ("Conv x c.weight c.weight_bias -> y", "pytorch 2", &[], Some("PyTorch")),
        ("Conv x w c -> getitem_3", "pytorch 2", &[], Some("PyTorch")),
        ("MatMul x w -> getitem_3", "pytorch 2", &[], None),
        ("Conv x conv_batchnorm.weight conv_batchnorm.bias -> y", "pytorch 2", &[], None),
        ("MatMul x MatMulBnFusion_GemmB_w -> y", "", &[], Some("ONNX Runtime")),
    ] {
        let warning = folded_batch_norm(&model(producer, nodes, weights));
        match (&warning, wanted) {
            (Some(warning), Some(tool)) => assert!(warning.contains(tool), "{nodes}: {warning}"),
            (None, None) => {}
            _ => panic!("{nodes} by {producer}: {warning:?}"),
        }
    }
}

/// Folding is also detected if other batch norms are kept.
#[test]
fn folding_is_noticed_beside_batch_norms_that_are_kept() {
    let nodes = "Conv x onnx::Conv_1 onnx::Conv_2 -> c
                 BatchNormalization c s b m v -> y";
    let warning = folded_batch_norm(&model("pytorch 2", nodes, &["s"])).unwrap();
    assert!(warning.contains("into one layer"), "{warning}");
}

#[test]
fn metadata_tell_of_folding() {
    for (op, key, text, wanted) in [
        ("Conv", "pkg.onnxscript.rewriter.rule_name", "A, FuseBatchNormIntoConv", true),
        ("Gemm", "pkg.onnxscript.rewriter.rule_name", "FuseBatchNormIntoGemm", true),
        ("Conv", "pkg.onnxscript.rewriter.rule_name", "FusePadIntoConv", false),
        (
            "ConvTranspose",
            "pkg.torch.onnx.class_hierarchy",
            "['Net', 'torch.nn.modules.batchnorm.BatchNorm2d', 'aten.x']",
            true,
        ),
        // A batch norm written as several operators is not folded.
        (
            "Mul",
            "pkg.torch.onnx.class_hierarchy",
            "['Net', 'torch.nn.modules.batchnorm.BatchNorm2d', 'aten.x']",
            false,
        ),
        ("Conv", "namespace", "BatchNorm2d", false),
    ] {
        let mut model = model("pytorch 2", "", &[]);
        let mut layer = node(&format!("{op} x w -> y"));
        layer.metadata.push((key.into(), text.into()));
        model.graph.nodes.push(layer);
        assert_eq!(folded_batch_norm(&model).is_some(), wanted, "{op}: {text}");
    }
}

#[test]
fn ultralytics_folds_before_it_exports() {
    let mut model = model("pytorch 2", "Conv x w b -> y", &[]);
    assert_eq!(folded_batch_norm(&model), None);
    model.metadata.push(("author".into(), "Ultralytics".into()));
    assert!(folded_batch_norm(&model).unwrap().contains("Ultralytics"));
}
