//! The gradients of samples, for probes to add values to.

use std::ops::{Deref, DerefMut};

use super::combine::{Combine, Handle, Watched};
use super::gram::{self, GramKind, Grams, GroupGrams};
use super::moments::{self, Moments};
use super::{Roles, Selection, signs};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, Value};
use crate::ops::{Op, Primitive};
use crate::tensor::DType;

/// The input by which each lane is counted or not: 1 for the first lane of each sample, 0 for one that
/// repeats a sample.
pub(super) const COUNTED: &str = "gradalign.counted";

/// The gradients of the samples with respect to one parameter.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The parameter's name.
    pub name: String,
    /// The number of its elements.
    pub size: usize,
    /// The gradients themselves.
    pub form: GradientForm,
}

/// How the gradients of all lanes are written. The elements of a parameter are in some order, which is
/// the same in every lane.
#[derive(Clone, Copy, Debug)]
pub enum GradientForm {
    /// `[lanes, size]`.
    Rows(Value),
    /// The factors `[lanes, m, 1]` and `[lanes, 1, n]` of an outer product in every lane, as a linear
    /// layer on one position has them.
    Outer(Value, Value),
}

impl Gradient {
    pub(super) fn new(b: &mut Builder, name: &str, value: Value, size: usize) -> Result<Self> {
        let value = behind_moves(b.graph(), value);
        let form = match outer_product(b.graph(), value) {
            Some((x, d)) => GradientForm::Outer(x, d),
            None => {
                let lanes = b.fact(value).len() / size;
                GradientForm::Rows(b.reshape(value, &[lanes, size])?)
            }
        };
        Ok(Gradient { name: name.to_owned(), size, form })
    }

    /// `[lanes, size]`: the outer product is computed where it is one.
    ///
    /// # Errors
    /// None, unless the gradient is of another graph.
    pub fn rows(&self, b: &mut Builder) -> Result<Value> {
        match self.form {
            GradientForm::Rows(rows) => Ok(rows),
            GradientForm::Outer(x, d) => {
                let product = b.matmul(x, d)?;
                let lanes = b.fact(product).len() / self.size;
                b.reshape(product, &[lanes, self.size])
            }
        }
    }
}

/// How the samples of all runs stand in their lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// In `runs` runs of `groups` groups of `size` lanes.
    Groups { groups: usize, size: usize, runs: usize },
    /// `samples` rows of a Jacobian, `lanes` of them a run.
    Rows { samples: usize, lanes: usize },
}

/// The gradients of the samples in a run with respect to each parameter, which a probe adds values to.
pub struct SampleGradients {
    b: Builder,
    schedule: Schedule,
    roles: Roles,
    gradients: Vec<Gradient>,
    /// The number of trainable scalars of the model.
    parameters: u64,
    counted: Option<Value>,
    watched: Watched,
    grams: Vec<((GramKind, Selection), Handle<Grams>)>,
    sign_sums: Vec<(Selection, Handle<f64>)>,
}

impl SampleGradients {
    pub(super) fn new(
        b: Builder,
        schedule: Schedule,
        roles: &Roles,
        gradients: Vec<Gradient>,
        parameters: u64,
    ) -> Self {
        SampleGradients {
            b,
            schedule,
            roles: roles.clone(),
            gradients,
            parameters,
            counted: None,
            watched: Watched::default(),
            grams: Vec::new(),
            sign_sums: Vec::new(),
        }
    }

    /// The graph, to be extended.
    pub fn builder(&mut self) -> &mut Builder {
        &mut self.b
    }

    /// The number of lanes of a run.
    pub fn lanes(&self) -> usize {
        match self.schedule {
            Schedule::Groups { groups, size, .. } => groups * size,
            Schedule::Rows { lanes, .. } => lanes,
        }
    }

    /// The number of trainable scalars of the model.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The gradients with respect to the parameters of `selection`, in the order in which the backward
    /// pass computes them. A parameter without a gradient is left out.
    ///
    /// # Errors
    /// When no parameter of `selection` has one.
    pub fn gradients(&self, selection: Selection) -> Result<Vec<Gradient>> {
        let selected = self.gradients.iter().filter(|g| self.roles.is_in(selection, &g.name));
        let selected: Vec<Gradient> = selected.cloned().collect();
        match selected.is_empty() {
            false => Ok(selected),
            true => Err(Error::Score(format!(
                "{selection} have no gradient: is the loss independent of them all?"
            ))),
        }
    }

    /// `[lanes]` in float32: 1 for the first lane of each sample, 0 for one that repeats a sample. A
    /// sum over lanes weighted by it has each sample once in all runs.
    pub fn counted(&mut self) -> Value {
        let fact = Fact::new(DType::F32, [self.lanes()]);
        let b = &mut self.b;
        *self.counted.get_or_insert_with(|| b.input(COUNTED, fact))
    }

    /// Asks for `value`, as `combine` takes it in over the runs. A float that is not finite fails the
    /// runs.
    pub fn watch<C: Combine>(&mut self, value: Value, combine: C) -> Handle<C::Output> {
        self.watched.push(value, combine)
    }

    /// `Σ_p |Σᵢ sign(gᵢ)_p|` over the samples `i` and the elements `p` of the parameters of
    /// `selection`.
    ///
    /// # Errors
    /// As [`SampleGradients::gradients`].
    pub fn sign_sums(&mut self, selection: Selection) -> Result<Handle<f64>> {
        if let Some(&(_, handle)) = self.sign_sums.iter().find(|(known, _)| *known == selection) {
            return Ok(handle);
        }
        let gradients = self.gradients(selection)?;
        let one_run = matches!(self.schedule, Schedule::Groups { runs: 1, .. });
        let counted = self.counted();
        let sums = signs::sums(&mut self.b, &gradients, counted, one_run)?;
        let handle = self.watch(sums, signs::Magnitude::default());
        self.sign_sums.push((selection, handle));
        Ok(handle)
    }

    /// The moments over the samples of each element of `gradient`.
    ///
    /// # Errors
    /// None, unless the gradient is of another graph.
    pub fn moments(&mut self, gradient: &Gradient) -> Result<Handle<Moments>> {
        let counted = self.counted();
        let value = moments::of_run(&mut self.b, gradient, counted)?;
        Ok(self.watch(value, moments::Merge::new(gradient.size)))
    }

    pub(super) fn watched(&mut self) -> &mut Watched {
        &mut self.watched
    }

    /// The graph, what is watched of it, and whether its last input is [`COUNTED`].
    pub(super) fn finish(self) -> (Graph, Watched, bool) {
        (self.b.finish(), self.watched, self.counted.is_some())
    }
}

/// The gradients of samples that meet in pairs: every two samples of a class, or of all, are in one
/// group of some run.
pub struct PairGradients(pub(super) SampleGradients);

impl PairGradients {
    /// The Gram matrix, for each class, of the gradients with respect to the parameters of
    /// `selection`.
    ///
    /// # Errors
    /// As [`SampleGradients::gradients`].
    pub fn grams(&mut self, kind: GramKind, selection: Selection) -> Result<Handle<Grams>> {
        let key = (kind, selection);
        if let Some(&(_, handle)) = self.0.grams.iter().find(|(known, _)| *known == key) {
            return Ok(handle);
        }
        let gradients = self.gradients(selection)?;
        let b = &mut self.0.b;
        let handle = match self.0.schedule {
            Schedule::Groups { groups, size, .. } => {
                let value = gram::in_groups(b, &gradients, groups, size, kind)?;
                self.watch(value, GroupGrams::default())
            }
            Schedule::Rows { samples, lanes } => {
                let rows = gram::rows(b, &gradients, kind)?;
                let width = b.shape(rows)[1];
                self.watch(rows, gram::RowGram::new(samples, lanes, width))
            }
        };
        self.0.grams.push((key, handle));
        Ok(handle)
    }
}

impl Deref for PairGradients {
    type Target = SampleGradients;

    fn deref(&self) -> &SampleGradients {
        &self.0
    }
}

impl DerefMut for PairGradients {
    fn deref_mut(&mut self) -> &mut SampleGradients {
        &mut self.0
    }
}

/// The value that `gradient` is but for the order of the elements inside each lane, which changes
/// neither signs nor inner products.
pub(super) fn behind_moves(graph: &Graph, mut gradient: Value) -> Value {
    loop {
        let node = graph.node(gradient);
        let inner = match &node.op {
            Op::Apply(Primitive::Reshape(_)) => node.inputs[0],
            Op::Apply(Primitive::Transpose(op)) if op.perm.first() == Some(&0) => node.inputs[0],
            _ => return gradient,
        };
        if graph.shape(inner).first() != graph.shape(gradient).first() {
            return gradient;
        }
        gradient = inner;
    }
}

/// The factors of a per-sample gradient that is an outer product in every lane.
pub(super) fn outer_product(graph: &Graph, gradient: Value) -> Option<(Value, Value)> {
    let node = graph.node(gradient);
    match &node.op {
        Op::Apply(Primitive::MatMul(op)) if !op.trans_a && !op.trans_b => {
            let (x, d) = (node.inputs[0], node.inputs[1]);
            match (graph.shape(x), graph.shape(d)) {
                ([n, _, 1], [m, 1, _]) if n == m => Some((x, d)),
                _ => None,
            }
        }
        _ => None,
    }
}
