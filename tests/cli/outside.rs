//! What lies outside of the program: files that are not what they seem, names that hold anything,
//! and signals.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::made::{self, Linear};
use super::{DIGITS, Run, SMALL, command, gradalign, inside, row, run};

/// Names in a temporary folder, as text.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    fn at(&self, name: &str) -> String {
        inside(&self.0, name).1
    }

    fn with(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.at(name);
        fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    fn pipe(&self, name: &str) -> String {
        let path = self.at(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[cfg(unix)]
    fn link(&self, to: &str, name: &str) -> String {
        let path = self.at(name);
        fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, &path).unwrap();
        path
    }
}

#[test]
fn images_that_are_read_are_not_written_over() {
    let folder = Folder::new();
    let image = folder.with("images/cat/0.png", "an image");
    let (images, report) = (folder.at("images"), folder.with("images/report.csv", "a report"));
    let score = format!("score {SMALL} --data {images} --out");
    gradalign(&format!("{score} {image}")).refused(&["would be lost"]);
    assert_eq!(fs::read_to_string(&image).unwrap(), "an image");
    // A report may be written again: what fails is the image.
    gradalign(&format!("{score} {report}")).refused(&["0.png"]);
}

#[cfg(unix)]
#[test]
fn grad_writes_over_nothing_but_a_file() {
    use std::os::unix::fs::FileTypeExt;

    let folder = Folder::new();
    let model =
        folder.with("m.onnx", Linear { external: Some("w.bin"), ..Linear::default() }.bytes());
    let weights = folder.with("w.bin", made::values());
    let (before, values) = (fs::read(&model).unwrap(), fs::read(&weights).unwrap());
    let pipe = folder.pipe("pipe");
    let link = folder.link("elsewhere", "link");
    let to_model = folder.link("m.onnx", "to-model");
    let hard = folder.at("hard");
    fs::hard_link(&model, &hard).unwrap();
    let mut taken: Vec<(&str, &[&str])> = vec![
        (&pipe, &["a device or a pipe"]),
        (&link, &["it is a link"]),
        (&to_model, &["it is a link"]),
        (&hard, &["would be lost"]),
        (&model, &["would be lost"]),
        (&weights, &["would be lost", "w.bin"]),
    ];
    let device = folder.at("device");
    // Only where the user may make devices.
    if Command::new("mknod").args([&device, "c", "1", "3"]).status().is_ok_and(|s| s.success()) {
        taken.push((&device, &["a device or a pipe"]));
    }
    let there = folder.names();
    for (out, reasons) in taken {
        gradalign(&format!("grad {model} -o {out} --batch 2")).refused(reasons);
        gradalign(&format!("score {model} --data {DIGITS} --metric params --out {out}"))
            .refused(reasons);
        assert_eq!(folder.names(), there);
    }
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!((fs::read(&model).unwrap(), fs::read(&weights).unwrap()), (before, values));
}

/// Whatever its tensors' file is called, and whether or not the model can be read.
#[test]
fn tensors_are_not_written_over_by_any_name() {
    let folder = Folder::new();
    for (name, content) in
        [("w.bin", made::values()), ("w.json", made::values()), ("w.md", vec![7])]
    {
        let model = Linear { external: Some(name), ..Linear::default() };
        let model = folder.with("m.onnx", model.bytes());
        let weights = folder.with(name, &content);
        gradalign(&format!("score {model} --data {DIGITS} --metric params --out {weights}"))
            .refused(&["would be lost", name]);
        assert_eq!(fs::read(&weights).unwrap(), content);
    }
    let library = folder.with("libonnxruntime.so", "no library");
    for named in [&library, &folder.at(".")] {
        let options = format!("--engine tract --ort-lib {named} --out {library}");
        gradalign(&format!("score {SMALL} --data {DIGITS} {options}")).refused(&["would be lost"]);
    }
}

#[test]
fn results_go_into_a_file_as_a_whole() {
    let folder = Folder::new();
    let out = folder.at("result.json");
    let options = format!("--data {DIGITS} --metric params --format json");
    let printed = gradalign(&format!("rank {SMALL} models/mlp.onnx {options}")).json(0);
    let run = gradalign(&format!("rank {SMALL} models/mlp.onnx {options} --out {out}"));
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
    let written: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(written["models"][0]["scores"], printed["models"][0]["scores"]);
    assert_eq!(folder.names(), ["result.json"]);

    let data = folder.with("data.npz", fs::read(DIGITS).unwrap());
    let truth = folder.with("truth.csv", "model,accuracy\nmlp,1\nopset11,2\n");
    for lost in [&data, &truth] {
        let files = format!("--data {data} --truth {truth} --metric params --out {lost}");
        gradalign(&format!("rank {SMALL} {files}")).refused(&["would be lost"]);
    }
    gradalign(&format!("rank {SMALL} {options} --out {out}/x")).refused(&["result.json"]);
}

/// They would be waited for, or read, without an end.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_read() {
    let folder = Folder::new();
    let pipe = folder.pipe("pipe.onnx");
    let data = folder.pipe("pipe.npz");
    let options = format!("--data {DIGITS} --metric params --format json");
    for model in [pipe.as_str(), "/dev/zero"] {
        let report = gradalign(&format!("score {model} {SMALL} {options}")).json(1);
        let error = &report["models"][0]["error"];
        assert!(error["message"].as_str().unwrap().contains("not a regular file"), "{error}");
        assert!(report["models"][1]["error"].is_null());
        let seen = gradalign(&format!("inspect {model} --format json")).json(1);
        assert!(seen.to_string().contains("not a regular file"), "{seen}");
        let out = folder.at("out.onnx");
        gradalign(&format!("grad {model} -o {out} --batch 2")).refused(&["not a regular file"]);
    }
    gradalign(&format!("rank {SMALL} --data {data}")).refused(&["not a regular file"]);
    gradalign(&format!("rank {SMALL} --data {DIGITS} --truth {data}"))
        .refused(&["not a regular file"]);
    let weights = folder.pipe("w.bin");
    let model = Linear { external: Some("w.bin"), ..Linear::default() }.bytes();
    let model = folder.with("m.onnx", model);
    let report = gradalign(&format!("score {model} {options}")).json(1);
    assert!(report["models"][0]["error"].to_string().contains("not a regular file"), "{weights}");
}

/// As in the caches of model hubs: the model and its data are links into a folder of contents.
#[cfg(unix)]
#[test]
fn data_beside_the_models_own_file_is_read_by_links_and_other_data_is_not() {
    let folder = Folder::new();
    let model = Linear { external: Some("w.bin"), ..Linear::default() }.bytes();
    folder.with("blobs/0a", &model);
    folder.with("blobs/0b", made::values());
    folder.with("elsewhere/w.bin", made::values());
    let cached = folder.link("../../blobs/0a", "snapshots/1/m.onnx");
    folder.link("../../blobs/0b", "snapshots/1/w.bin");
    let options = "--data synthetic --samples 8 --metric params,gradalign-1 --format json";
    let report = gradalign(&format!("score {cached} {options}")).json(0);
    assert_eq!(report["models"][0]["parameters"], 768);

    let plain = folder.with("own/m.onnx", &model);
    for to in ["../elsewhere/w.bin", "/etc/passwd"] {
        let link = folder.link(to, "own/w.bin");
        let report = gradalign(&format!("score {plain} {options}")).json(1);
        let message = report["models"][0]["error"]["message"].as_str().unwrap();
        assert!(message.contains("a link leads it outside"), "{message}");
        fs::remove_file(&link).unwrap();
        let beside = folder.link("../../blobs/0a", "snapshots/2/m.onnx");
        let link = folder.link(&to.replace("../", "../../"), "snapshots/2/w.bin");
        let report = gradalign(&format!("score {beside} {options}")).json(1);
        assert!(report["models"][0]["error"].to_string().contains("a link leads it outside"));
        fs::remove_file(link).unwrap();
        fs::remove_file(beside).unwrap();
    }
}

#[test]
fn the_digest_covers_the_weights_wherever_they_are() {
    let folder = Folder::new();
    let inside = folder.with("in.onnx", Linear::default().bytes());
    let outside = Linear { external: Some("w.bin"), ..Linear::default() }.bytes();
    let outside = folder.with("out.onnx", outside);
    let digests = |values: Vec<u8>| {
        folder.with("w.bin", values);
        let options = "--data synthetic --metric params --format json";
        let report = gradalign(&format!("score {inside} {outside} {options}")).json(0);
        ["in.onnx", "out.onnx"]
            .map(|name| row(&report, name)["sha256"].as_str().unwrap().to_owned())
    };
    let before = digests(made::values());
    assert_eq!(before[0], gradalign::data::sha256(inside.as_ref()).unwrap());
    assert_ne!(before[1], gradalign::data::sha256(outside.as_ref()).unwrap());
    let mut other = made::values();
    other[5] ^= 1;
    let after = digests(other);
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
    assert_eq!(digests(made::values()), before);
}

/// Everything that is active in a terminal, a spreadsheet or Markdown.
const NASTY: &str = "=1+1\u{1b}]0;x\u{7}\n| a | \u{9b}2J<b>\u{202e}\\|";

/// The text of a run has no control characters but those that part lines.
#[track_caller]
fn harmless(run: &Run) {
    for text in [&run.out, &run.err] {
        let active = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(active), "{text:?}");
    }
}

#[test]
fn names_from_files_are_written_as_text() {
    let folder = Folder::new();
    let named = Linear { weight: NASTY, node: NASTY, ..Linear::default() }.bytes();
    let named = folder.with("named.onnx", named);
    let unknown = Linear { node: NASTY, op: NASTY, ..Linear::default() }.bytes();
    let unknown = folder.with("unknown.onnx", unknown);
    let missing = Linear { external: Some(NASTY), ..Linear::default() }.bytes();
    let missing = folder.with("missing.onnx", missing);
    let out = folder.at("out.onnx");
    for model in [&named, &unknown, &missing] {
        harmless(&gradalign(&format!("inspect {model}")));
        harmless(&gradalign(&format!("grad {model} -o {out} --batch 2")));
        for format in ["table", "csv", "markdown"] {
            let options = format!("--data synthetic --samples 4 --format {format} -vv");
            let run = gradalign(&format!("score {model} {options}"));
            harmless(&run);
            assert!(run.out.contains("onnx"), "{}", run.err);
        }
    }
    let json = gradalign(&format!("inspect {unknown} --format json")).json(1);
    assert_eq!(json["unsupported"][0]["op"], NASTY);
}

#[cfg(unix)]
#[test]
fn names_of_files_are_written_as_text() {
    let folder = Folder::new();
    let name = format!("{}.onnx", NASTY.replace('/', ""));
    let path = folder.with(&name, Linear::default().bytes());
    let data = folder.with("=d\u{1b}.npz", "no archive");
    harmless(&run(&["rank", SMALL, "--data", &data]));
    harmless(&run(&["rank", &format!("{path}?"), "--data", DIGITS]));
    let score = |format| {
        let options = ["--data", "synthetic", "--metric", "params", "--format", format];
        run(&[&["score", &path][..], &options].concat())
    };
    assert_eq!(score("json").json(0)["models"][0]["model"], name.as_str());

    let table = score("table");
    harmless(&table);
    assert!(table.out.contains(r"=1+1\u{1b}]0;x\u{7}\n| a |"), "{}", table.out);

    let csv = score("csv");
    harmless(&csv);
    let mut reader = csv::Reader::from_reader(csv.out.as_bytes());
    let record = reader.records().next().unwrap().unwrap();
    assert!(record[0].starts_with("'=1+1"), "{record:?}");
    assert!(record.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@'])), "{record:?}");

    let markdown = score("markdown");
    harmless(&markdown);
    let separators = |line: &str| {
        let mut count = 0;
        let mut escaped = false;
        for c in line.chars() {
            count += usize::from(c == '|' && !escaped);
            escaped = c == '\\' && !escaped;
        }
        count
    };
    let lines: Vec<_> = markdown.out.lines().take(3).map(separators).collect();
    assert!(lines.iter().all(|&n| n == lines[0]), "{}", markdown.out);
    assert!(!markdown.out.contains('<'));
}

/// Whatever the process is at, with or without a finished model.
#[cfg(unix)]
#[test]
fn a_signal_ends_the_process_soon() {
    // Enough samples to be busy for long after the first model, which has nothing to run.
    let folder = Folder::new();
    let models = [folder.with("a.onnx", "damaged"), "models/resnet20.onnx".to_owned()];
    for (models, finished) in [(&models[1..], 0), (&models[..], 1)] {
        for signal in ["-TERM", "-INT"] {
            let options = "--data synthetic --samples 4000 --engine tract --jobs 1 --format json";
            let arguments = format!("-vv score {} {options}", models.join(" "));
            let mut child = command(&arguments.split(' ').collect::<Vec<_>>())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
            assert!(log.any(|line| line.contains("scoring") && line.contains("resnet20")));
            let rest = std::thread::spawn(move || log.for_each(drop));
            let pid = child.id().to_string();
            let start = Instant::now();
            assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
            let mut out = String::new();
            child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(130));
            // Some seconds more than it takes, for a machine that is busy with other tests.
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            rest.join().unwrap();
            let report: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(report["models"].as_array().unwrap().len(), finished, "{out}");
        }
    }
}

#[test]
fn a_library_that_is_named_and_missing_is_said() {
    let out = command(&["rank", SMALL, "--data", DIGITS, "--metric", "params"])
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")
        .output()
        .unwrap();
    let run = Run::from(out);
    assert_eq!(run.code, 0);
    let says = "ORT_DYLIB_PATH names /nowhere/libonnxruntime.so: not there";
    assert!(run.err.contains(says), "{}", run.err);
}

#[test]
fn more_threads_than_cores_are_not_started() {
    let run = gradalign(&format!("score {SMALL} --data {DIGITS} --samples 8 --threads 100000"));
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("--threads 100000: this machine has"), "{}", run.err);
}
