//! The shapes of a model's inputs at batch size 1, or at the batch size that the file fixes.

use std::collections::{HashMap, HashSet};

use ndarray::{Axis, concatenate};

use super::ImportOptions;
use super::importer::MAX_ELEMENTS;
use super::layout::{Layout, layouts};
use super::output::wanted_output;
use super::scan::live_nodes;
use crate::error::{Error, Result};
use crate::graph::Fact;
use crate::onnx::{DeclaredInput, Dim, Model, Type, ValueInfo, dtype_of, non_initializers};
use crate::tensor::Tensor;

/// The batch size of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// One sample.
    One,
    /// The batch size that the file fixes.
    File,
}

/// The inputs' shapes.
pub(super) struct Shapes<'m> {
    model: &'m Model,
    declared: Vec<&'m ValueInfo>,
    options: &'m ImportOptions,
    layouts: HashMap<&'m str, Layout>,
    /// Sizes of named dimensions.
    named: HashMap<&'m str, usize>,
    fixed_batch: Option<usize>,
    batch: Batch,
}

impl<'m> Shapes<'m> {
    /// The shapes at a batch size of 1, from the declared shapes and the user's options. Errs when the
    /// two do not agree.
    pub fn new(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        let declared: Vec<&ValueInfo> = non_initializers(model).collect();
        let needed: Option<HashSet<&str>> = wanted_output(model, options).ok().map(|output| {
            let (_, needed) = live_nodes(&model.graph.nodes, [output.as_str()]);
            declared.iter().map(|d| d.name.as_str()).filter(|n| needed.contains(n)).collect()
        });
        let needed = |name: &str| needed.as_ref().is_none_or(|needed| needed.contains(name));
        let layouts = layouts(model, &declared, needed, options)?;
        let mut shapes = Shapes {
            model,
            declared,
            options,
            layouts,
            named: HashMap::new(),
            fixed_batch: None,
            batch: Batch::One,
        };
        for info in shapes.declared() {
            let Type::Tensor(_, Some(dims)) = &info.ty else { continue };
            let batch_axis = shapes.batch_axis(info);
            match batch_axis.and_then(|axis| dims.get(axis)) {
                Some(Dim::Named(name)) => {
                    shapes.named.insert(name.as_str(), 1);
                }
                Some(Dim::Fixed(k)) if *k > 1 && needed(&info.name) => {
                    if let Some(other) = shapes.fixed_batch.filter(|other| other != k) {
                        return Err(Error::UnsupportedModel(format!(
                            "{}: the inputs fix different batches, {other} and {k} (input '{}'); \
                             say which of their axes are the batch with `batch-axis` \
                             NAME=AXIS|none",
                            model.source, info.name
                        )));
                    }
                    shapes.fixed_batch = Some(*k);
                }
                _ => {}
            }
            let sample = options.samples.get(&info.name).map(|s| with_batch(s, batch_axis));
            let known = options.shapes.get(&info.name).or(sample.as_ref());
            for (dim, size) in dims.iter().zip(known.into_iter().flatten()) {
                if let Dim::Named(name) = dim {
                    shapes.named.entry(name.as_str()).or_insert(*size);
                }
            }
        }
        Ok(shapes)
    }

    /// The same at the batch size that the file fixes.
    pub fn at_file_batch(self) -> Self {
        Shapes { batch: Batch::File, ..self }
    }

    /// The shapes in the file, where no axis is a batch axis.
    pub fn verbatim(model: &'m Model, options: &'m ImportOptions) -> Self {
        let declared: Vec<&ValueInfo> = non_initializers(model).collect();
        let layouts = declared.iter().map(|info| (info.name.as_str(), Layout::Whole)).collect();
        let (named, fixed_batch, batch) = (HashMap::new(), None, Batch::File);
        Shapes { model, declared, options, layouts, named, fixed_batch, batch }
    }

    /// The inputs that are not initializers.
    pub fn declared(&self) -> Vec<&'m ValueInfo> {
        self.declared.clone()
    }

    /// The batch size that the file fixes, unless it is 1.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// Whether any input of the graph has a batch axis.
    pub fn has_batch(&self) -> bool {
        self.layouts.values().any(|layout| matches!(layout, Layout::Batch(_)))
    }

    /// The batch axis of an input in the file; `None` if it has none.
    fn batch_axis(&self, info: &ValueInfo) -> Option<usize> {
        match self.layouts.get(info.name.as_str()) {
            Some(Layout::Batch(axis) | Layout::Fixed(Some(axis))) => Some(*axis),
            _ => None,
        }
    }

    /// The dtype and shape of the graph's input for an input of the model, and its shape in the layout
    /// of the file ([`Shapes::fact`]). At a batch size of 1, the graph's input has the batch axis in
    /// front; at the batch size of the file, the two shapes are the same.
    pub fn input(&self, info: &ValueInfo) -> Result<(Fact, Vec<usize>)> {
        let Fact { dtype, shape } = self.fact(info)?;
        let batch_first = match (self.batch, self.batch_axis(info)) {
            (Batch::File, _) => shape.clone(),
            (Batch::One, axis) => [&[1], without_axis(&shape, axis).as_slice()].concat(),
        };
        Ok((Fact::new(dtype, batch_first), shape))
    }

    /// `shape`, the shape of an input at a batch size of 1, at the batch size that the file fixes.
    pub fn shape_in_file(&self, info: &ValueInfo, shape: &[usize]) -> Vec<usize> {
        let mut in_file = shape.to_vec();
        if let (Some(axis), Type::Tensor(_, dims)) = (self.batch_axis(info), &info.ty)
            && let Some(size) = in_file.get_mut(axis)
        {
            *size = match dims.as_ref().and_then(|dims| dims.get(axis)) {
                Some(Dim::Fixed(k)) => *k,
                _ => self.fixed_batch.unwrap_or(1),
            };
        }
        in_file
    }

    /// The value that the user fixed for an input; `None` for other inputs.
    pub fn fixed_value(&self, info: &ValueInfo) -> Result<Option<Tensor>> {
        let Some(Layout::Fixed(axis)) = self.layouts.get(info.name.as_str()) else {
            return Ok(None);
        };
        let Some(values) = self.options.fixed.get(&info.name) else { return Ok(None) };
        let Fact { dtype, shape } = self.fact_at_batch_one(info, *axis)?;
        let (source, name, len) = (&self.model.source, &info.name, shape.iter().product::<usize>());
        if values.len() != 1 && values.len() != len {
            return Err(Error::Usage(format!(
                "{source}: {} values are given for input '{name}' of shape {shape:?}; give one for \
                 all its elements, or {len}",
                values.len()
            )));
        }
        let whole = |v: &f64| v.fract() == 0.0 && v.abs() < i64::MAX as f64;
        if !dtype.is_float() && !values.iter().all(whole) {
            return Err(Error::Usage(format!(
                "{source}: input '{name}' takes {dtype}, and the value given for it is no whole \
                 number"
            )));
        }
        let values: Vec<f64> = values.iter().copied().cycle().take(len).collect();
        let tensor = Tensor::f64(&shape, values)?;
        let in_file = self.shape_in_file(info, &shape);
        if self.batch == Batch::One || in_file == shape {
            return Ok(Some(tensor.cast(dtype)));
        }
        let axis = axis.unwrap_or(0);
        let (values, copies) = (tensor.to_f64(), in_file[axis]);
        let repeated = concatenate(Axis(axis), &vec![values.view(); copies]);
        let repeated = repeated.map_err(|e| Error::Shape(e.to_string()))?;
        Ok(Some(Tensor::from_f64(repeated, dtype)))
    }

    /// The input with the dimensions of one sample, as far as known, and a batch axis of length 1 in
    /// front. `None` for an input with a fixed value.
    pub fn of_sample(&self, declared: DeclaredInput) -> Result<Option<DeclaredInput>> {
        let name = declared.name.as_str();
        let axis = match self.layouts.get(name) {
            Some(Layout::Fixed(_)) => return Ok(None),
            Some(Layout::Unclear(why)) => {
                return Err(Error::UnsupportedModel(format!("{}: {why}", self.model.source)));
            }
            Some(Layout::Batch(axis)) => Some(*axis),
            Some(Layout::Whole) | None => None,
        };
        let dims = match self.options.shapes.get(name) {
            Some(given) => given.iter().map(|&d| Some(d)).collect(),
            None if declared.dims.is_empty() && axis.is_some() => return Err(self.undeclared(name)),
            None => declared.dims.clone(),
        };
        let dims = [&[Some(1)], without_axis(&dims, axis).as_slice()].concat();
        Ok(Some(DeclaredInput { dims, ..declared }))
    }

    /// The dtype of an input and its shape in the layout of the file.
    pub fn fact(&self, info: &ValueInfo) -> Result<Fact> {
        let source = &self.model.source;
        if let Some(Layout::Unclear(why)) = self.layouts.get(info.name.as_str()) {
            return Err(Error::UnsupportedModel(format!("{source}: {why}")));
        }
        let axis = self.batch_axis(info);
        let mut fact = self.fact_at_batch_one(info, axis)?;
        if self.batch == Batch::File && self.fixed_batch.is_some() {
            fact.shape = self.shape_in_file(info, &fact.shape);
            let (name, shape) = (&info.name, &fact.shape);
            let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
            if len.is_none_or(|n| n > MAX_ELEMENTS) {
                return Err(Error::Shape(format!(
                    "{source}: input '{name}' of shape {shape:?} is too large"
                )));
            }
        }
        Ok(fact)
    }

    fn undeclared(&self, name: &str) -> Error {
        let source = &self.model.source;
        Error::Shape(format!(
            "{source}: the shape of input '{name}' is not declared; give it with `shape`"
        ))
    }

    /// The batch axis of an input, or `Some(None)` if it has none. `None` if that is not clear or the
    /// input has a fixed value.
    pub fn known_batch_axis(&self, name: &str) -> Option<Option<usize>> {
        match self.layouts.get(name)? {
            Layout::Batch(axis) => Some(Some(*axis)),
            Layout::Whole => Some(None),
            Layout::Fixed(_) | Layout::Unclear(_) => None,
        }
    }

    /// The dtype of an input and its shape in the layout of the file, with a batch of 1 along `axis`.
    fn fact_at_batch_one(&self, info: &ValueInfo, axis: Option<usize>) -> Result<Fact> {
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
            let what = stored.name();
            Error::UnsupportedModel(format!("{source}: input '{name}' holds {what} values"))
        })?;
        let given = self.options.shapes.get(name).cloned();
        let given = given.or_else(|| Some(with_batch(self.options.samples.get(name)?, axis)));
        let shape = match (given, dims) {
            (Some(given), dims) => {
                check_given(&given, dims, axis).map_err(|why| {
                    Error::Usage(format!(
                        "{source}: the shape {given:?} given for input '{name}' {why}"
                    ))
                })?;
                given
            }
            (None, Some(dims)) => self.resolve(name, dims, axis)?,
            (None, None) => return Err(self.undeclared(name)),
        };
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        if len.is_none_or(|n| n > MAX_ELEMENTS) {
            return Err(Error::Shape(format!(
                "{source}: input '{name}' of shape {shape:?} is too large"
            )));
        }
        Ok(Fact::new(dtype, shape))
    }

    /// The dtype and shape of an intermediate value, if the file declares them in full.
    pub fn intermediate(&self, info: &ValueInfo) -> Option<Fact> {
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

    /// The sizes of the declared dimensions `dims`. Errs if one is open.
    fn resolve(&self, name: &str, dims: &[Dim], batch: Option<usize>) -> Result<Vec<usize>> {
        let known: Vec<Option<usize>> = dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                _ if Some(axis) == batch => Some(1),
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
                "{}: the model leaves the shape of input '{name}' open: {}; give it with `shape`",
                self.model.source,
                parts.collect::<Vec<_>>().join(",")
            ))
        })
    }
}

fn without_axis<T: Copy>(shape: &[T], axis: Option<usize>) -> Vec<T> {
    let kept = shape.iter().enumerate().filter(|(i, _)| Some(*i) != axis);
    kept.map(|(_, &d)| d).collect()
}

/// The shape of one sample with a batch axis of length 1 inserted at `axis`, if there is one.
fn with_batch(sample: &[usize], axis: Option<usize>) -> Vec<usize> {
    let mut shape = sample.to_vec();
    if let Some(axis) = axis {
        shape.insert(axis.min(sample.len()), 1);
    }
    shape
}

/// Checks a shape given by the user against the declared dimensions and the batch axis.
fn check_given(given: &[usize], dims: Option<&[Dim]>, batch: Option<usize>) -> Result<(), String> {
    if let Some(axis) = batch
        && given.get(axis).is_some_and(|&n| n != 1)
    {
        return Err(match axis {
            0 => "must have a leading batch axis of 1".into(),
            axis => format!("must have a batch of 1, along axis {axis}"),
        });
    }
    let Some(dims) = dims else { return Ok(()) };
    if dims.len() != given.len() {
        return Err(format!("has {} axes, the model declares {}", given.len(), dims.len()));
    }
    for (axis, (dim, &size)) in dims.iter().zip(given).enumerate() {
        if let Dim::Fixed(n) = dim
            && *n != size
            && Some(axis) != batch
        {
            return Err(format!("does not fit: the model fixes axis {axis} at {n}"));
        }
    }
    Ok(())
}
