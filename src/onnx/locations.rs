//! The external files that a model names, whether or not they are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::external::folder_of;
use super::load::{decode_bytes, decode_file};
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::error::Result;

/// The files with tensors that the model at `path` names, resolved as paths. No tensor is read, so that
/// they are found though some are missing or damaged.
///
/// # Errors
/// When the file cannot be read, or is not ONNX.
pub(crate) fn external_files(path: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder_of(path);
    Ok(external_locations(path)?.into_iter().map(|location| folder.join(location)).collect())
}

/// The same as the model has them: paths from its folder.
///
/// # Errors
/// As [`external_files`].
pub(crate) fn external_locations(path: &Path) -> Result<BTreeSet<String>> {
    Ok(of_model(&decode_file(path)?))
}

/// The same of a model in memory, which messages call `source`.
///
/// # Errors
/// When it is not ONNX.
pub(crate) fn external_locations_of(bytes: &[u8], source: &str) -> Result<BTreeSet<String>> {
    Ok(of_model(&decode_bytes(bytes, source)?))
}

fn of_model(model: &ModelProto) -> BTreeSet<String> {
    let mut locations = BTreeSet::new();
    model.graph.iter().for_each(|graph| of_graph(graph, &mut locations));
    model.functions.iter().for_each(|function| of_nodes(&function.node, &mut locations));
    locations
}

fn of_graph(graph: &GraphProto, found: &mut BTreeSet<String>) {
    graph.initializer.iter().for_each(|tensor| of_tensor(tensor, found));
    of_nodes(&graph.node, found);
}

fn of_nodes(nodes: &[NodeProto], found: &mut BTreeSet<String>) {
    for attribute in nodes.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().for_each(|tensor| of_tensor(tensor, found));
        attribute.g.iter().for_each(|graph| of_graph(graph, found));
    }
}

fn of_tensor(tensor: &TensorProto, found: &mut BTreeSet<String>) {
    let entries = tensor.external_data.iter().filter(|e| e.key.as_deref() == Some("location"));
    found.extend(entries.filter_map(|entry| entry.value.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_though_they_are_not_there() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/extra");
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m.onnx");
        std::fs::copy(fixtures.join("external.onnx"), &model).unwrap();
        assert_eq!(external_files(&model).unwrap(), [folder.path().join("external.bin")]);
        std::fs::write(&model, "no model").unwrap();
        assert!(external_files(&model).is_err());
    }
}
