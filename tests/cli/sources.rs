//! `rank` on archives, lists and caches.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use super::{DIGITS, Run, SMALL, command, gradalign, inside, value};

fn options() -> String {
    format!("--data {DIGITS} --metric params,naswot --engine tract --format json")
}

/// A tar file with two models, one of which has external data.
fn archive(folder: &TempDir) -> String {
    let (path, text) = inside(folder, "nets.tar");
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (file, name) in [
        (SMALL, "a/small.onnx"),
        ("fixtures/extra/external.onnx", "a/b/external.onnx"),
        ("fixtures/extra/external.bin", "a/b/external.bin"),
    ] {
        builder.append_path_with_name(file, name).unwrap();
    }
    builder.finish().unwrap();
    text
}

fn by_name(report: &Value, name: &str) -> f64 {
    let rows = report["models"].as_array().unwrap();
    value(rows.iter().find(|row| row["name"] == name).unwrap(), "naswot")
}

#[test]
fn models_of_archives_score_as_their_files_do() {
    let folder = TempDir::new().unwrap();
    let archive = archive(&folder);
    for isolate in ["--isolate", "--no-isolate"] {
        let report = gradalign(&format!(
            "rank {archive} {SMALL} fixtures/extra/external.onnx {isolate} {}",
            options()
        ))
        .json(0);
        let same = |packed: &str, file: &str| {
            assert_eq!(by_name(&report, packed), by_name(&report, file));
        };
        same("small.onnx", "opset11.onnx");
        same("b/external.onnx", "extra/external.onnx");
    }
    let one = gradalign(&format!("score {archive}!/a/small.onnx {}", options())).json(0);
    assert_eq!(one["models"][0]["path"], format!("{archive}!/a/small.onnx"));
    let out = gradalign(&format!("rank {archive} {} --out {archive}", options()));
    out.refused(&["this is what is read"]);
}

#[test]
fn a_list_on_standard_input_names_models() {
    let folder = TempDir::new().unwrap();
    let list = format!("{SMALL}\n\n{}!/a/b/external.onnx\n", archive(&folder));
    let listed = |list: &str, arguments: &str| -> Run {
        let arguments = format!("rank {arguments} {}", options());
        let mut command = command(&arguments.split_whitespace().collect::<Vec<_>>());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    };
    let report = listed(&list, "-").json(0);
    assert_eq!(report["models"].as_array().unwrap().len(), 2);
    listed("", "-").refused(&["is empty"]);
    listed(&list, "- -").refused(&["named twice"]);
}

#[cfg(unix)]
#[test]
fn the_cache_of_the_hub_is_read() {
    let folder = TempDir::new().unwrap();
    let (owner, name) = ("org", "net");
    let repository = folder.path().join(format!("models--{owner}--{name}"));
    let snapshot = repository.join("snapshots/c0ffee");
    for folder in [&repository.join("blobs"), &repository.join("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repository.join("refs/main"), "c0ffee").unwrap();
    for (file, links) in [
        ("external.onnx", ["external.onnx", "external_quantized.onnx"].as_slice()),
        ("external.bin", &["external.bin"]),
    ] {
        fs::copy(format!("fixtures/extra/{file}"), repository.join("blobs").join(file)).unwrap();
        for link in links {
            let to = format!("../../blobs/{file}");
            std::os::unix::fs::symlink(to, snapshot.join(link)).unwrap();
        }
    }
    for source in ["hf://org/net", snapshot.to_str().unwrap()] {
        let arguments = format!("rank {source} {}", options());
        let mut command = command(&arguments.split_whitespace().collect::<Vec<_>>());
        let run: Run = command.env("HF_HUB_CACHE", folder.path()).output().unwrap().into();
        let report = run.json(0);
        assert_eq!(report["models"].as_array().unwrap().len(), 1);
        assert!(run.err.contains("are skipped: 1, such as"), "{}", run.err);
        // What a link in the snapshot leads to is read, and is not written over.
        for file in ["external.onnx", "external.bin"] {
            let blob = repository.join("blobs").join(file);
            let before = fs::read(&blob).unwrap();
            let arguments = format!("{arguments} --out {}", blob.display());
            let mut command = super::command(&arguments.split_whitespace().collect::<Vec<_>>());
            let run: Run = command.env("HF_HUB_CACHE", folder.path()).output().unwrap().into();
            assert_eq!(run.code, 2, "{source} {file}: {}", run.err);
            assert!(fs::read(&blob).unwrap() == before);
        }
    }
}
