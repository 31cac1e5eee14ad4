//! The model's inputs and the shapes they take for one sample.

use std::collections::{HashMap, HashSet};

use super::ImportOptions;
use super::importer::MAX_ELEMENTS;
use crate::error::{Error, Result};
use crate::graph::Fact;
use crate::onnx::{Attribute, Dim, Model, Type, ValueInfo, dtype_of};
use crate::tensor::DType;

/// An input as the model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredInput {
    /// The name.
    pub name: String,
    /// The element type, in the IR's terms: all floats are float32.
    pub dtype: DType,
    /// The dimensions, the batch axis first; `None` where the model leaves one open. Empty also
    /// where not even the rank is declared.
    pub dims: Vec<Option<usize>>,
    /// For an integer input, how many distinct values it may take (the rows of the embedding it
    /// indexes), where that is known. Only synthetic data asks.
    pub vocabulary: Option<usize>,
}

/// The tensors that the model wants to be given; initializers listed among the inputs are not.
pub fn declared_inputs(model: &Model) -> Vec<DeclaredInput> {
    let vocabularies = vocabularies(model);
    let declared = without_initializers(model).filter_map(|info| {
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

/// By input, the rows of the smallest table that it indexes, directly or after a cast.
fn vocabularies(model: &Model) -> HashMap<&str, usize> {
    let graph = &model.graph;
    let tables: HashMap<&str, usize> = graph
        .stored()
        .filter_map(|(name, literal)| {
            let table = literal.tensor.as_ref().ok()?;
            table.shape().first().map(|&rows| (name, rows))
        })
        .collect();
    // Whose values a name has, which may be copies of copies.
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

fn without_initializers(model: &Model) -> impl Iterator<Item = &ValueInfo> {
    let stored: HashSet<&str> = model.graph.initializers.iter().map(|i| i.name.as_str()).collect();
    model.graph.inputs.iter().filter(move |info| !stored.contains(info.name.as_str()))
}

/// The inputs' shapes with the batch at 1.
pub(crate) struct Shapes<'m> {
    model: &'m Model,
    declared: Vec<&'m ValueInfo>,
    given: &'m HashMap<String, Vec<usize>>,
    /// Sizes of named dimensions.
    named: HashMap<&'m str, usize>,
    fixed_batch: Option<usize>,
}

impl<'m> Shapes<'m> {
    /// Reads what is declared and given. Errs when the two do not agree.
    pub fn new(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        let declared: Vec<&ValueInfo> = without_initializers(model).collect();
        let source = &model.source;
        if let Some(name) = options.shapes.keys().find(|n| declared.iter().all(|d| d.name != **n)) {
            let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
            return Err(Error::Usage(format!(
                "{source}: a shape is given for '{name}', which is not an input; the inputs are: {}",
                names.join(", ")
            )));
        }
        let mut named = HashMap::new();
        let mut fixed_batch = None;
        for info in &declared {
            let Type::Tensor(_, Some(dims)) = &info.ty else { continue };
            match dims.first() {
                Some(Dim::Named(name)) => {
                    named.insert(name.as_str(), 1);
                }
                Some(Dim::Fixed(k)) if *k != 1 => fixed_batch = Some(*k),
                _ => {}
            }
            for (dim, size) in dims.iter().zip(options.shapes.get(&info.name).into_iter().flatten())
            {
                if let Dim::Named(name) = dim {
                    named.entry(name.as_str()).or_insert(*size);
                }
            }
        }
        Ok(Shapes { model, declared, given: &options.shapes, named, fixed_batch })
    }

    /// The shapes of a model that is taken as the file has it: no axis is a batch.
    pub fn as_they_are(model: &'m Model, given: &'m HashMap<String, Vec<usize>>) -> Self {
        let declared = without_initializers(model).collect();
        Shapes { model, declared, given, named: HashMap::new(), fixed_batch: None }
    }

    /// The inputs that are not initializers.
    pub fn declared(&self) -> Vec<&'m ValueInfo> {
        self.declared.clone()
    }

    /// The batch size that the file fixes, where it is not 1.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// Dtype and shape of an input.
    pub fn fact(&self, info: &ValueInfo) -> Result<Fact> {
        let source = &self.model.source;
        let name = &info.name;
        let (stored, dims) = match &info.ty {
            Type::Tensor(stored, dims) => (*stored, dims.as_deref()),
            Type::Other(what) => {
                return Err(Error::UnsupportedModel(format!(
                    "{source}: input '{name}' is {what}, not a tensor"
                )));
            }
        };
        let dtype = dtype_of(stored).ok_or_else(|| {
            let what = stored.as_str_name().to_lowercase();
            Error::UnsupportedModel(format!("{source}: input '{name}' holds {what} values"))
        })?;
        let given = self.given.get(name).map(Vec::as_slice);
        let shape = match (given, dims) {
            (Some(given), dims) => {
                check_given(given, dims).map_err(|why| {
                    Error::Usage(format!(
                        "{source}: the shape {given:?} given for input '{name}' {why}"
                    ))
                })?;
                given.to_vec()
            }
            (None, Some(dims)) => self.resolve(name, dims)?,
            (None, None) => {
                return Err(Error::Shape(format!(
                    "{source}: the shape of input '{name}' is not declared; give it with --shape"
                )));
            }
        };
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        if len.is_none_or(|n| n > MAX_ELEMENTS) {
            return Err(Error::Shape(format!(
                "{source}: input '{name}' of shape {shape:?} is too large"
            )));
        }
        Ok(Fact::new(dtype, shape))
    }

    /// Dtype and shape of a value between inputs and outputs, where the file says them in full.
    pub fn between(&self, info: &ValueInfo) -> Option<Fact> {
        let Type::Tensor(stored, Some(dims)) = &info.ty else { return None };
        if self.fixed_batch.is_some() {
            return None;
        }
        let dims = dims.iter().map(|dim| match dim {
            Dim::Fixed(n) => Some(*n),
            Dim::Named(name) => self.named.get(name.as_str()).copied(),
            Dim::Unknown => None,
        });
        let shape = dims.collect::<Option<Vec<usize>>>()?;
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        let dtype = dtype_of(*stored)?;
        (len <= MAX_ELEMENTS).then(|| Fact::new(dtype, shape))
    }

    fn resolve(&self, name: &str, dims: &[Dim]) -> Result<Vec<usize>> {
        let known: Vec<Option<usize>> = dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                _ if axis == 0 => Some(1),
                Dim::Fixed(n) => Some(*n),
                Dim::Named(name) => self.named.get(name.as_str()).copied(),
                Dim::Unknown => None,
            })
            .collect();
        known.iter().copied().collect::<Option<Vec<usize>>>().ok_or_else(|| {
            let parts = known.iter().zip(dims).map(|(size, dim)| match (size, dim) {
                (Some(n), _) => n.to_string(),
                (None, Dim::Named(name)) => name.clone(),
                (None, _) => "?".into(),
            });
            Error::Shape(format!(
                "{}: the model leaves the shape of input '{name}' open: {}; give it with --shape",
                self.model.source,
                parts.collect::<Vec<_>>().join(",")
            ))
        })
    }
}

fn check_given(given: &[usize], dims: Option<&[Dim]>) -> Result<(), String> {
    if given.first().is_some_and(|&n| n != 1) {
        return Err("must have a leading batch axis of 1".into());
    }
    let Some(dims) = dims else { return Ok(()) };
    if dims.len() != given.len() {
        return Err(format!("has {} axes, the model declares {}", given.len(), dims.len()));
    }
    for (axis, (dim, &size)) in dims.iter().zip(given).enumerate().skip(1) {
        if let Dim::Fixed(n) = dim
            && *n != size
        {
            return Err(format!("does not fit: the model fixes axis {axis} at {n}"));
        }
    }
    Ok(())
}

/// For a model with a fixed batch: checks that the output has come out with a batch of 1.
pub(crate) fn check_output_batch(
    model: &Model,
    output: &str,
    shape: &[usize],
) -> Result<(), String> {
    let info = model.graph.outputs.iter().find(|o| o.name == output);
    match info.map(|o| &o.ty) {
        Some(Type::Tensor(_, Some(dims))) if !dims.is_empty() && shape.first() != Some(&1) => {
            Err(format!("its output '{output}' then has the shape {shape:?}"))
        }
        _ => Ok(()),
    }
}
