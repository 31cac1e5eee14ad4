//! `inspect` says what `score` will do.

use std::path::{Path, PathBuf};

use gradalign::data::{Dataset, Options, Samples};
use gradalign::engine::all_for_tests;
use gradalign::score::{Resolved, score_file};
use gradalign::source::Files;
use serde_json::Value;

use super::{SMALL, gradalign};

#[test]
fn the_verdict_on_every_file_is_that_of_score() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let models = Files::find(&[root.join("models"), root.join("fixtures")]).unwrap();
    let json = gradalign("inspect models fixtures --format json").json(1);
    let inspected = json.as_array().unwrap();
    assert_eq!(inspected.len(), models.paths().len());

    let samples = Samples::Count(4.try_into().unwrap());
    let options = Options { samples, ..Options::default() };
    let data = Dataset::open("synthetic", &options).unwrap();
    // The last one is the fastest.
    let engine = all_for_tests().pop().unwrap();
    let mut wrong = Vec::new();
    for (path, seen) in models.paths().iter().zip(inspected) {
        assert_eq!(root.join(seen["model"].as_str().unwrap()), *path);
        let scored = score_file(path, &data, &Resolved::default(), &*engine);
        let expected = scored.as_ref().map(|scored| scored.loss.to_string()).ok();
        let said = seen["scorable"].as_bool().unwrap();
        let loss = said.then(|| seen["loss"].as_str().unwrap().to_owned());
        if loss != expected {
            wrong.push(format!("{}: {loss:?}, {scored:?}", path.display()));
        }
        if let Err(error) = scored {
            let kind = &seen["error"]["kind"];
            assert!(said || kind == error.kind(), "{}: {error} {kind}", path.display());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_data_that_a_model_takes_is_listed() {
    for (model, arrays) in [
        (SMALL, &["'input' or 'images': float32 Nx1x16x16", "'labels': N classes from 0 to 9"][..]),
        (
            "fixtures/extra/text-encoder.onnx",
            &["'input_ids': int64 Nx", "'attention_mask': int64 Nx", "'labels': N classes"],
        ),
    ] {
        let json = gradalign(&format!("inspect {model} --format json")).json(0);
        let said: Vec<_> = json["data"].as_array().unwrap().iter().collect();
        assert_eq!(said.len(), arrays.len(), "{said:?}");
        for (said, array) in said.iter().zip(arrays) {
            assert!(said.as_str().unwrap().starts_with(array), "{said}");
        }
        let text = gradalign(&format!("inspect {model}")).out;
        assert!(text.contains(&format!("data         {}", arrays[0])), "{text}");
        assert!(text.contains("loss         cross-entropy"), "{text}");
    }
}

#[test]
fn several_files_and_folders_are_inspected_each_for_itself() {
    let broken = "fixtures/broken/truncated.onnx";
    let run = gradalign(&format!("inspect {SMALL} {broken} fixtures/broken"));
    assert_eq!(run.code, 1, "{}", run.err);
    assert_eq!(run.out.matches("can be scored, with").count(), 1);
    assert!(run.out.contains(&format!("{broken}\ncannot be scored: ")), "{}", run.out);

    let json = gradalign("inspect fixtures/broken --format json").json(1);
    let names: Vec<_> = json.as_array().unwrap().iter().map(|m| m["model"].clone()).collect();
    assert!(names.contains(&Value::from(broken)) && names.len() > 5, "{names:?}");
    assert!(gradalign(&format!("inspect {SMALL} --format json")).json(0).is_object());
    gradalign("inspect nowhere").refused(&["no model found in 'nowhere'"]);
    let missing: PathBuf = "fixtures/broken/*.nothing".into();
    gradalign(&format!("inspect {}", missing.display())).refused(&["no model found"]);
}
