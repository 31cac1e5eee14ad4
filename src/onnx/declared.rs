//! The inputs that a model declares.

use std::collections::{HashMap, HashSet};

use super::model::{Attribute, Dim, Model, Type, ValueInfo};
use super::tensor::dtype_of;
use crate::tensor::DType;

/// An input that a model declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredInput {
    /// The name.
    pub name: String,
    /// The dtype in the IR: float32 for all floating-point types.
    pub dtype: DType,
    /// The dimensions, `None` where the model leaves one open. Empty if the model does not even declare
    /// the rank. [`declared_inputs`] returns the dimensions in the file;
    /// [`import::needed_inputs`](crate::import::needed_inputs) returns those of one sample, with a batch
    /// axis of length 1 in front.
    pub dims: Vec<Option<usize>>,
    /// For an integer input, the number of values that it may take, if known: the number of rows of the
    /// embedding that it indexes. Used by synthetic data.
    pub vocabulary: Option<usize>,
}

/// The inputs for which a run of the model needs data. Initializers that are listed among the inputs
/// are left out.
pub fn declared_inputs(model: &Model) -> Vec<DeclaredInput> {
    let vocabularies = vocabularies(model);
    let declared = non_initializers(model).filter_map(|info| {
        let Type::Tensor(stored, dims) = &info.ty else { return None };
        let dims = dims.iter().flatten().map(|dim| match dim {
            Dim::Fixed(n) => Some(*n),
            Dim::Named(_) | Dim::Unknown => None,
        });
        Some(DeclaredInput {
            name: info.name.clone(),
            dtype: dtype_of(*stored)?,
            dims: dims.collect(),
            vocabulary: vocabularies.get(info.name.as_str()).copied(),
        })
    });
    declared.collect()
}

/// For each input that indexes a stored table, directly or after a cast, the number of rows of the
/// smallest such table.
fn vocabularies(model: &Model) -> HashMap<&str, usize> {
    let graph = &model.graph;
    let tables: HashMap<&str, usize> = graph
        .stored()
        .filter_map(|(name, literal)| {
            let table = literal.tensor.as_ref().ok()?;
            table.shape().first().map(|&rows| (name, rows))
        })
        .collect();
    // By the name of a copy, the name that it is a copy of.
    let mut sources: HashMap<&str, &str> = HashMap::new();
    let mut vocabularies = HashMap::new();
    for node in &graph.nodes {
        let source = |i: usize| {
            let name = node.inputs.get(i)?.as_str();
            Some(sources.get(name).copied().unwrap_or(name))
        };
        match (node.op.as_str(), source(0), source(1)) {
            ("Identity" | "Cast", Some(of), _) => {
                if let Some(copy) = node.outputs.first() {
                    sources.insert(copy, of);
                }
            }
            ("Gather", Some(table), Some(indices))
                if matches!(node.attribute("axis"), None | Some(Attribute::Int(0))) =>
            {
                if let Some(&rows) = tables.get(table) {
                    let smallest = vocabularies.entry(indices).or_insert(rows);
                    *smallest = rows.min(*smallest);
                }
            }
            _ => {}
        }
    }
    vocabularies
}

/// The declared inputs that are not initializers.
pub(crate) fn non_initializers(model: &Model) -> impl Iterator<Item = &ValueInfo> {
    let stored: HashSet<&str> = model.graph.initializers.iter().map(|i| i.name.as_str()).collect();
    model.graph.inputs.iter().filter(move |info| !stored.contains(info.name.as_str()))
}
