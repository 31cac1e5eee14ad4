//! The import of one model: its state, and the order of its steps.

mod names;
mod network;
mod nodes;
mod stored;
mod survey;
mod verbatim;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::ImportOptions;
use super::batch::BatchCheck;
use super::inputs::Shapes;
use super::literal::{Patterns, Stored};
use super::provenance::Provenance;
use super::scan::Problem;
use crate::error::{Error, Result};
use crate::graph::Builder;
use crate::onnx::{Model, ValueInfo};
use names::Frame;

pub(super) use names::Binding;

/// Values with more elements than this are refused. They come from damaged files, not from networks.
pub(super) const MAX_ELEMENTS: usize = 1 << 31;

/// Marks results of nodes that could not be lowered while all problems are collected.
const UNKNOWN: &str = "a node before it cannot be imported";

/// An import in progress.
pub(super) struct Importer<'m> {
    /// The graph so far.
    pub b: Builder,
    /// What may give scores another meaning than the user expects.
    pub warnings: Vec<String>,
    /// Decisions that the import took.
    pub notes: Vec<String>,
    /// The number of batch normalisations lowered so far.
    pub batch_norms: usize,
    model: &'m Model,
    patterns: Patterns,
    shapes: Shapes<'m>,
    /// For each input of the graph, its batch axis in the file.
    batch_axes: Vec<Option<usize>>,
    /// Tracks the batch axis of values where the file fixes a batch size.
    batch_check: BatchCheck<'m>,
    stored: Vec<Stored>,
    frames: Vec<Frame<'m>>,
    operators: BTreeMap<String, usize>,
    /// The number of nodes lowered so far.
    lowered: usize,
    /// The number of operands with each name in the main graph.
    readers: HashMap<&'m str, usize>,
    /// Which parameters the stored tensors are, according to the file.
    provenance: Provenance<'m>,
    /// By name, the parameters that the file merged with an equal tensor.
    copies: HashMap<Arc<str>, usize>,
    /// The names of the declared inputs, which may be initializers too.
    inputs: HashSet<&'m str>,
    /// The declared types of values, read on first use.
    declared: OnceCell<HashMap<&'m str, &'m ValueInfo>>,
    /// [`ImportOptions::keep_activation`].
    keeps_activation: bool,
    /// The number of loops around the current node.
    unrolling: usize,
    /// The tensors stored in loop bodies, by name. All iterations share them.
    shared: HashMap<Arc<str>, usize>,
    /// The problems found so far; `None` where the first problem ends the import.
    survey: Option<Vec<Problem>>,
}

impl<'m> Importer<'m> {
    /// A new import of `model` for a batch of 1.
    pub fn new(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::new(model, options)?)
    }

    /// A new import of `model` at the batch size that the file fixes.
    pub fn at_file_batch(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::new(model, options)?.at_file_batch())
    }

    /// A new import of `model` in which no axis is a batch axis.
    pub fn verbatim(model: &'m Model, options: &'m ImportOptions) -> Result<Self> {
        Self::with_shapes(model, options, Shapes::verbatim(model, options))
    }

    fn with_shapes(
        model: &'m Model,
        options: &'m ImportOptions,
        shapes: Shapes<'m>,
    ) -> Result<Self> {
        let provenance = Provenance::new(model);
        let mut importer = Importer {
            b: Builder::default(),
            warnings: [&model.warnings[..], &provenance.warnings].concat(),
            notes: Vec::new(),
            batch_norms: 0,
            model,
            patterns: Patterns::new(options, &model.producer)?,
            shapes,
            batch_axes: Vec::new(),
            batch_check: BatchCheck::Off,
            stored: Vec::new(),
            frames: Vec::new(),
            operators: BTreeMap::new(),
            lowered: 0,
            readers: HashMap::new(),
            provenance,
            copies: HashMap::new(),
            inputs: model.graph.inputs.iter().map(|info| info.name.as_str()).collect(),
            declared: OnceCell::new(),
            keeps_activation: options.keep_activation,
            unrolling: 0,
            shared: HashMap::new(),
            survey: None,
        };
        for name in model.graph.nodes.iter().flat_map(|node| &node.inputs) {
            *importer.readers.entry(name).or_default() += 1;
        }
        importer.frames.push(Frame {
            names: HashMap::new(),
            closed: true,
            opsets: &model.opsets,
            attributes: HashMap::new(),
            path: String::new(),
        });
        Ok(importer)
    }

    /// The batch size that the file fixes, unless it is 1.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.shapes.fixed_batch()
    }

    /// Tracks the batch axis of values where the file fixes a batch size.
    pub fn batch_check(&self) -> &BatchCheck<'m> {
        &self.batch_check
    }

    pub(super) fn undefined(&self, name: &str) -> Error {
        Error::InvalidModel(format!(
            "{}: '{name}' is used but nothing before it computes it; the file is damaged or its \
             nodes are out of order",
            self.model.source
        ))
    }
}
