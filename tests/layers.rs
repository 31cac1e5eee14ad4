//! The layers of the source: which top-level module may use which.
//!
//! `cargo test --test layers -- --nocapture` prints the graph that it finds, as Mermaid.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from top to bottom, each with those that it may use. All stand below it, so there is
/// no circle.
const WHO_MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "data",
            "emit",
            "engine",
            "error",
            "experiment",
            "graph",
            "import",
            "metric",
            "onnx",
            "ops",
            "probe",
            "publish",
            "rank",
            "report",
            "score",
            "source",
            "space",
            "store",
            "transform",
        ],
    ),
    (
        "experiment",
        &[
            "data", "engine", "error", "file", "probe", "rank", "report", "score", "source",
            "space", "stats", "store",
        ],
    ),
    ("publish", &["error", "file", "http", "rank", "report", "score", "source"]),
    ("store", &["error", "score", "source"]),
    ("report", &["data", "engine", "error", "file", "ordered", "rank", "score", "source"]),
    ("rank", &["error", "file", "ordered", "probe", "score", "source", "stats"]),
    (
        "score",
        &[
            "data",
            "engine",
            "error",
            "file",
            "graph",
            "hash",
            "import",
            "metric",
            "onnx",
            "ops",
            "ordered",
            "probe",
            "source",
            "tensor",
            "transform",
        ],
    ),
    ("source", &["error", "file", "http", "onnx", "space"]),
    ("space", &["error", "file", "onnx", "tensor", "transform"]),
    ("metric", &["error", "graph", "linalg", "ops", "probe", "tensor", "transform"]),
    ("probe", &["engine", "error", "graph", "ops", "tensor", "transform"]),
    ("data", &["error", "file", "hash", "onnx", "tensor"]),
    ("hash", &["file", "graph", "tensor"]),
    ("import", &["error", "graph", "onnx", "ops", "tensor"]),
    ("transform", &["error", "graph", "linalg", "ops", "tensor"]),
    ("engine", &["emit", "error", "graph", "kernel", "ops", "tensor"]),
    ("emit", &["error", "graph", "onnx", "ops", "tensor"]),
    ("onnx", &["error", "file", "tensor"]),
    ("graph", &["ir", "ops"]),
    ("ops", &["error", "ir", "tensor"]),
    ("ir", &["error", "tensor"]),
    ("kernel", &[]),
    ("stats", &[]),
    ("linalg", &["error"]),
    ("ordered", &[]),
    ("http", &["error", "file"]),
    ("file", &["error"]),
    ("tensor", &["error"]),
    ("error", &[]),
];

/// Who uses whom, by top-level module, and a file in which it does.
type Uses = BTreeMap<(String, String), PathBuf>;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Whether a file holds tests or what only they need.
fn is_for_tests(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    name == "testing" || name.ends_with("tests")
}

/// The files that a module declares under `#[cfg(test)]`.
fn declared_for_tests(text: &str) -> BTreeSet<String> {
    let mut lines = text.lines().map(str::trim).peekable();
    let mut found = BTreeSet::new();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        let module = lines.peek().and_then(|next| next.strip_suffix(';'));
        if let Some(name) = module.and_then(|next| next.rsplit_once("mod ")) {
            found.insert(name.1.to_owned());
        }
    }
    found
}

/// `text` without comments, strings and items under `#[cfg(test)]`. An item ends with the line of its
/// closing brace or, if it has no body, of its semicolon.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push_str(&bare(line));
            kept.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        for line in lines.by_ref() {
            let is_outer = line.len() - line.trim_start().len() == indent;
            let ends = line.trim_end().ends_with([';', ',', '}']);
            if is_outer && ends && !line.trim_start().starts_with("#[") {
                break;
            }
        }
    }
    kept
}

/// A line without its comment and without what stands between quotation marks.
fn bare(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// The first parts of the paths that begin with `crate::` or that leave the module by `super::`. A
/// file stands `depth` modules deep.
fn roots(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let flat: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let outward = "super::".repeat(depth);
    for prefix in ["crate::", outward.as_str()] {
        for (at, _) in flat.match_indices(prefix) {
            // Of a longer chain of `super::`, or a part of another word.
            let before = flat[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &flat[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => found.extend(first_parts(list)),
                None => found.extend(identifier(rest)),
            }
        }
    }
    found
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first parts of the paths in a list up to its closing brace.
fn first_parts(list: &str) -> Vec<String> {
    let (mut depth, mut at_start, mut found) = (0, true, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            ' ' => {}
            _ => {
                if std::mem::take(&mut at_start) {
                    found.extend(identifier(&list[i..]));
                }
            }
        }
    }
    found
}

/// The top-level module of a file, and how many modules deep the file's own module stands.
fn place(source: &Path, path: &Path) -> (String, usize) {
    let relative = path.strip_prefix(source).unwrap().with_extension("");
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_root = parts.len() > 1 && parts.last().is_some_and(|last| last == "mod");
    (parts[0].clone(), parts.len() - usize::from(is_root))
}

fn uses() -> (BTreeSet<String>, Uses) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    files.sort();
    let mut for_tests = BTreeSet::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let stem = file.file_stem().unwrap().to_string_lossy();
        let folder = match &*stem {
            "mod" | "lib" => file.parent().unwrap().to_path_buf(),
            _ => file.with_extension(""),
        };
        for name in declared_for_tests(&text) {
            for_tests.insert(folder.join(&name).with_extension("rs"));
            for_tests.insert(folder.join(&name).join("mod.rs"));
        }
    }
    let (mut modules, mut uses) = (BTreeSet::new(), Uses::new());
    for file in &files {
        let (module, depth) = place(&source, file);
        if module == "lib" || module == "main" || is_for_tests(file) || for_tests.contains(file) {
            continue;
        }
        modules.insert(module.clone());
        for used in roots(&code(&fs::read_to_string(file).unwrap()), depth) {
            let is_item = used.chars().next().is_some_and(char::is_uppercase);
            let used = if is_item { "error".to_owned() } else { used };
            if used != module {
                let file = file.strip_prefix(&source).unwrap().to_path_buf();
                uses.entry((module.clone(), used)).or_insert(file);
            }
        }
    }
    (modules, uses)
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let (modules, uses) = uses();
    let order: Vec<&str> = WHO_MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    let position = |module: &str| order.iter().position(|other| *other == module);
    let mut wrong = Vec::new();
    for (i, (module, may)) in WHO_MAY_IMPORT.iter().enumerate() {
        for below in *may {
            if position(below).is_none_or(|at| at <= i) {
                wrong.push(format!("the list lets {module} use {below}, which is not below it"));
            }
        }
        if !modules.contains(*module) {
            wrong.push(format!("there is no module {module}: take it from the list"));
        }
    }
    for module in &modules {
        if position(module).is_none() {
            wrong.push(format!("module {module} is not in the list"));
        }
    }
    for ((module, used), file) in &uses {
        let may = WHO_MAY_IMPORT.iter().find(|(name, _)| name == module);
        if may.is_some_and(|(_, may)| !may.contains(&used.as_str())) {
            wrong.push(format!("{module} uses {used}: src/{}", file.display()));
        }
    }
    for (module, may) in WHO_MAY_IMPORT {
        let unused =
            |below: &&&str| !uses.contains_key(&((*module).to_owned(), (**below).to_owned()));
        for below in may.iter().filter(unused) {
            wrong.push(format!("{module} does not use {below}: take it from the list"));
        }
    }
    let drawing = mermaid(&uses);
    println!("{drawing}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    if !fs::read_to_string(page).unwrap().contains(&drawing) {
        wrong.push("docs/architecture.md has another drawing: put this one there".into());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The graph of modules, without `error`, which all use, and without arrows that others imply.
fn mermaid(uses: &Uses) -> String {
    let edges: BTreeSet<(&str, &str)> = uses
        .keys()
        .map(|(module, used)| (module.as_str(), used.as_str()))
        .filter(|(_, used)| *used != "error")
        .collect();
    let mut lines = vec!["graph TD".to_owned()];
    for &(from, to) in &edges {
        let is_implied = edges
            .iter()
            .any(|&(other, via)| other == from && via != to && reaches(&edges, via, to));
        if !is_implied {
            lines.push(format!("    {from} --> {to}"));
        }
    }
    lines.join("\n")
}

/// Whether a path leads from one module to another.
fn reaches(edges: &BTreeSet<(&str, &str)>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        let next = edges.iter().filter(|(other, _)| *other == at).map(|(_, next)| *next);
        open.extend(next.filter(|next| seen.insert(*next)));
    }
    false
}

#[test]
fn paths_are_found_in_code_only() {
    let text = r#"
use crate::graph::{Builder, Graph};
use crate::{error::Result, tensor::{DType, Tensor}, Error};
use super::super::ops;
// crate::comment
fn f() { g("crate::text", crate::linalg::solve) }
#[cfg(test)]
use crate::testing::Case;
#[cfg(test)]
mod tests {
    use crate::engine::open;
}
use crate::stats;
"#;
    let found: Vec<String> = roots(&code(text), 2).into_iter().collect();
    assert_eq!(found, ["Error", "error", "graph", "linalg", "ops", "stats", "tensor"]);
    assert_eq!(declared_for_tests("#[cfg(test)]\npub(crate) mod tails;\nmod topk;").len(), 1);
}
