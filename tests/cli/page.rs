//! `--report`: the page beside the results.

use std::io::Read;
use std::process::Stdio;

use gradalign::report::read;
use tempfile::TempDir;

use super::{DIGITS, SMALL, command, gradalign, inside, run};

const OPTIONS: &str = "--samples 10 --engine tract --metric gradalign-1,params";

/// The JSON in a page.
pub(super) fn embedded(page: &str) -> &str {
    let (_, rest) = page.split_once("id=\"ranking\">").unwrap();
    rest.split_once("</script>").unwrap().0
}

#[test]
fn a_page_is_written_beside_every_format() {
    let folder = TempDir::new().unwrap();
    let (page, report) = inside(&folder, "report.html");
    let models = format!("models/mlp.onnx {SMALL} fixtures/broken/empty.onnx");
    for format in ["table", "json", "jsonl", "csv", "markdown"] {
        let line = format!("rank {models} --data {DIGITS} {OPTIONS} --format {format}");
        let with = gradalign(&format!("{line} --report {report}"));
        assert_eq!(with.code, 1, "{}", with.err);
        let without = gradalign(&line);
        assert_eq!(with.out.lines().count(), without.out.lines().count());
        let text = std::fs::read_to_string(&page).unwrap();
        let records = read(embedded(&text), "page").unwrap();
        assert_eq!(records.len(), 3, "{format}");
        assert!(text.contains("<small class=\"first\">#1</small>"), "ranked for {format}, too");
        assert!(text.contains("Failed: 1 model") && text.contains(&format!("--report {report}")));
        std::fs::remove_file(&page).unwrap();
    }
}

#[test]
fn the_truth_is_in_the_page_and_score_has_one() {
    let folder = TempDir::new().unwrap();
    let (page, report) = inside(&folder, "report.html");
    let (truth, truth_text) = inside(&folder, "truth.csv");
    std::fs::write(&truth, "model,accuracy\nmlp,90\nopset11,80.5\n").unwrap();
    let models = format!("models/mlp.onnx {SMALL}");
    let (out, out_text) = inside(&folder, "out.jsonl");
    let run = gradalign(&format!(
        "rank {models} --data {DIGITS} {OPTIONS} --aggregate --truth {truth_text} --format jsonl \
         --out {out_text} --report {report}"
    ));
    assert_eq!(run.code, 0, "{}", run.err);
    let text = std::fs::read_to_string(&page).unwrap();
    for part in ["<td>80.5000</td>", "<td>80.5</td>", "Agreement with the truth", "aggregate"] {
        assert_eq!(text.contains(part), part != "<td>80.5000</td>", "{part}");
    }
    let lines = std::fs::read_to_string(out).unwrap();
    assert!(
        lines.lines().all(|line| line.contains("\"rank\":null") && !line.contains("aggregate"))
    );
    let scored = gradalign(&format!("score {models} --data {DIGITS} {OPTIONS} --report {report}"));
    assert_eq!(scored.code, 0, "{}", scored.err);
    assert!(std::fs::read_to_string(&page).unwrap().contains("gradalign score models/mlp.onnx"));
}

#[test]
fn a_page_replaces_nothing_that_is_read() {
    let folder = TempDir::new().unwrap();
    let (model, model_text) = inside(&folder, "model.onnx");
    let (truth, truth_text) = inside(&folder, "model.csv");
    std::fs::copy(SMALL, &model).unwrap();
    std::fs::write(&truth, "model,accuracy\nmodel,90\n").unwrap();
    let before = std::fs::read(&model).unwrap();
    let rank = format!("rank {model_text} --data {DIGITS} {OPTIONS} --truth {truth_text}");
    let folder = folder.path().to_str().unwrap();
    for (options, reason) in [
        (format!("--report {model_text}"), "would be lost"),
        (format!("--report {truth_text}"), "would be lost"),
        (format!("--report {folder}/a.html --out {folder}/./a.html"), "one would be lost"),
        (format!("--report {folder}"), "it is a folder"),
        (format!("--report {folder}/no/a.html"), "No such file"),
    ] {
        gradalign(&format!("{rank} {options}")).refused(&[reason]);
    }
    assert_eq!(std::fs::read(&model).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2);
}

/// A reader of the lines that goes away does not keep the page from being whole.
#[test]
fn the_page_outlives_the_reader_of_the_lines() {
    let folder = TempDir::new().unwrap();
    let (page, report) = inside(&folder, "report.html");
    let models =
        "models/mlp.onnx models/sklearn-mlp.onnx models/jax-cnn.onnx models/plain-cnn.onnx";
    let line = format!(
        "score {models} --data {DIGITS} {OPTIONS} --jobs 1 --format jsonl --report {report}"
    );
    let words: Vec<_> = line.split_whitespace().collect();
    let mut child = command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = std::fs::read_to_string(&page).unwrap();
    assert_eq!(read(embedded(&text), "page").unwrap().len(), 4);
}

#[test]
fn the_command_can_be_pasted_into_a_shell() {
    let folder = TempDir::new().unwrap();
    let (page, report) = inside(&folder, "a page.html");
    let options = ["--data", DIGITS, "--samples", "10", "--metric", "params", "--report", &report];
    let run = run(&[&["rank", "models/*mlp.onnx"], &options[..]].concat());
    assert_eq!(run.code, 0, "{}", run.err);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("gradalign rank &#39;models/*mlp.onnx&#39; --data"), "quoted");
    assert!(text.contains("a page.html&#39;</pre>"));
}
