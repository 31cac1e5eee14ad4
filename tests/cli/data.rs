//! Data that does not fit, and data that needs care.

use std::fs::File;

use ndarray::{Array, Array1, Array4};
use ndarray_npy::NpzWriter;
use tempfile::TempDir;

use super::{DIGITS, SMALL, gradalign, inside, row, value};

/// Writes an archive of images `[n, 1, size, size]` and labels, and returns its path.
fn npz(folder: &TempDir, size: usize, labels: &[i64], bad: Option<f32>) -> String {
    let (path, text) = inside(folder, "data.npz");
    let shape = (labels.len(), 1, size, size);
    let mut images: Array4<f32> =
        Array::from_shape_fn(shape, |(i, _, j, k)| ((i * 7 + j * 3 + k * 5) % 11) as f32 / 11.0);
    if let Some(bad) = bad {
        images[[1, 0, 2, 3]] = bad;
    }
    let mut writer = NpzWriter::new_compressed(File::create(path).unwrap());
    writer.add_array("images", &images).unwrap();
    writer.add_array("labels", &Array1::from_vec(labels.to_vec())).unwrap();
    writer.finish().unwrap();
    text
}

/// The error of [`SMALL`] on the data at `path`.
#[track_caller]
fn error_of(path: &str, reasons: &[&str]) {
    let run = gradalign(&format!("score {SMALL} --data {path} --samples all --format json"));
    let report = run.json(1);
    let error = &row(&report, "opset11.onnx")["error"];
    assert_eq!(error["kind"], "data", "{error}");
    for reason in reasons {
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(reason), "no '{reason}' in: {message}");
    }
}

#[test]
fn more_samples_than_memory_holds_are_refused() {
    for samples in ["99999999999999", "18446744073709551615"] {
        let options = format!("--data synthetic --samples {samples} --engine tract");
        gradalign(&format!("score {SMALL} {options}")).refused(&[samples, "memory"]);
    }
}

#[test]
fn data_that_does_not_fit_a_model_fails_its_row() {
    let folder = TempDir::new().unwrap();
    error_of(&npz(&folder, 16, &[0, 1, 10], None), &["label", "10"]);
    error_of(&npz(&folder, 16, &[0, -1, 1], None), &["label", "-1"]);
    error_of(&npz(&folder, 16, &[1, 10, 5], None), &["counted from 1"]);
    error_of(&npz(&folder, 12, &[0, 1, 2], None), &["'input'", "does not fit", "1x12x12"]);
    error_of(&npz(&folder, 16, &[0, 1, 2], Some(f32::NAN)), &["'input'", "not finite", "sample 1"]);
    error_of(&npz(&folder, 16, &[0, 1, 2], Some(f32::INFINITY)), &["not finite"]);
    error_of("fixtures/extra/text-encoder.npz", &["'input'", "input_ids"]);
}

#[test]
fn an_archive_that_cannot_be_read_is_refused() {
    let folder = TempDir::new().unwrap();
    let whole = std::fs::read(DIGITS).unwrap();
    let (path, text) = inside(&folder, "half.npz");
    for length in [0, whole.len() / 2, whole.len() - 10] {
        std::fs::write(&path, &whole[..length]).unwrap();
        gradalign(&format!("rank {SMALL} --data {text}"))
            .refused(&["half.npz: not a readable .npz file"]);
    }
    let none = npz(&folder, 16, &[], None);
    gradalign(&format!("rank {SMALL} --data {none}")).refused(&["no samples"]);
}

#[test]
fn a_class_with_one_sample_is_said() {
    let folder = TempDir::new().unwrap();
    let data = npz(&folder, 16, &[0, 0, 1], None);
    let report =
        gradalign(&format!("score {SMALL} --data {data} --samples all --format json")).json(0);
    let warnings = row(&report, "opset11.onnx")["warnings"].to_string();
    let says = "1 of 2 classes have a single sample (1)";
    assert!(warnings.contains(says), "{warnings}");
    // A cell among many: said beside it as well.
    let csv = gradalign(&format!("score {SMALL} --data {data} --samples all --format csv"));
    assert!(csv.out.contains(says) && csv.err.contains(says), "{}", csv.err);
}

#[test]
fn fewer_samples_than_asked_for_are_a_warning() {
    let run = gradalign(&format!("score {SMALL} --data {DIGITS} --metric params --format json"));
    assert_eq!(run.json(0)["data"]["samples"], 30);
    assert!(run.err.contains("30 samples where 128 were asked for"), "{}", run.err);
}

#[test]
fn a_text_model_takes_two_inputs_by_name_or_made_up() {
    let model = "fixtures/extra/text-encoder.onnx";
    for engine in super::engines() {
        for data in ["fixtures/extra/text-encoder.npz", "synthetic"] {
            let options = format!("--samples 8 --engine {engine} --format json");
            let report = gradalign(&format!("score {model} --data {data} {options}")).json(0);
            assert!(value(row(&report, "text-encoder.onnx"), "gradalign-1") > 0.0);
        }
    }
    gradalign(&format!("score {model} --data synthetic --samples all"))
        .refused(&["synthetic data has no end"]);
}

#[test]
fn made_up_tokens_are_of_the_models_vocabulary() {
    let model = gradalign::onnx::load("fixtures/extra/text-encoder.onnx").unwrap();
    let inputs = gradalign::import::declared_inputs(&model);
    let vocabulary = |name| inputs.iter().find(|i| i.name == name).unwrap().vocabulary;
    assert_eq!(vocabulary("input_ids"), Some(60));
    assert_eq!(vocabulary("attention_mask"), None);
}
