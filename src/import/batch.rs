//! Importing a model with a fixed batch size `k > 1` at a batch of 1.
//!
//! The model is lowered twice: first at batch size `k`, which records the shape of every result, then
//! at batch size 1, where each result is compared with its recorded shape. The two shapes may differ
//! along one axis only, which must be `k` times longer in the file: the batch axis. So the batch axis
//! is known at every node, and a node that has no meaning for a single sample is refused: one that
//! mixes or selects samples, or reads a tensor with one row for each of the `k` samples.

use std::collections::HashMap;

use crate::graph::{Builder, Value};
use crate::onnx::Node;
use crate::ops::Op;

/// The names of all results and their shapes at the batch size of the file, in the order of lowering.
/// The shape is `None` for a result that is not a tensor of the graph.
#[derive(Default)]
pub(super) struct RecordedShapes<'m>(Vec<(&'m str, Option<Vec<usize>>)>);

/// Which of the two passes this is.
#[derive(Default)]
pub(super) enum BatchCheck<'m> {
    /// Neither: the file does not fix a batch size.
    #[default]
    Off,
    /// The first pass, at the batch size of the file: shapes are recorded.
    Recording(RecordedShapes<'m>),
    /// The second pass, at batch size 1: shapes are compared with the recorded ones.
    Comparing(Comparison<'m>),
}

/// The state of the second pass.
pub(super) struct Comparison<'m> {
    recorded: RecordedShapes<'m>,
    /// The index in `recorded` of the next result.
    next: usize,
    /// The batch size that the file fixes.
    batch: usize,
    /// For each value, whether it depends on an input that has a batch axis.
    depends: Vec<bool>,
    batch_axes: HashMap<Value, BatchAxis>,
}

/// The batch axis of a value.
#[derive(Clone, Debug)]
struct BatchAxis {
    axis: usize,
    /// A reshape may have merged the batch with its neighbours, so that in the file the axis has the
    /// length `outer · batch · inner`.
    outer: usize,
    /// The shape of the value in the file.
    in_file: Vec<usize>,
}

impl<'m> RecordedShapes<'m> {
    fn push(&mut self, name: &'m str, shape: Option<Vec<usize>>) {
        self.0.push((name, shape));
    }

    /// Starts the second pass, with these shapes recorded at batch size `batch`.
    pub fn into_check(self, batch: usize) -> BatchCheck<'m> {
        BatchCheck::Comparing(Comparison {
            recorded: self,
            next: 0,
            batch,
            depends: Vec::new(),
            batch_axes: HashMap::new(),
        })
    }
}

impl<'m> BatchCheck<'m> {
    /// Tracks an input of the graph. `value` is `input` reshaped to the layout of the file, and
    /// `in_file` is its shape at the batch size of the file.
    pub fn input(
        &mut self,
        b: &Builder,
        input: Value,
        value: Value,
        in_file: &[usize],
    ) -> Result<(), String> {
        let BatchCheck::Comparing(comparison) = self else { return Ok(()) };
        let shape = b.shape(value);
        if shape == in_file {
            return Ok(());
        }
        comparison.update_depends(b);
        for value in [input, value] {
            comparison.depends[value.index()] = true;
        }
        let axis = comparison.axis(&shape, in_file)?;
        let batch_axis = BatchAxis { axis, outer: 1, in_file: in_file.to_vec() };
        comparison.batch_axes.insert(value, batch_axis);
        Ok(())
    }

    /// Tracks the result `name` of `node`, computed from `operands`. `value` is `None` for a result
    /// that is not a tensor of the graph. Errs, in words, if the node does not work for one sample.
    pub fn result(
        &mut self,
        b: &Builder,
        node: &Node,
        name: &'m str,
        value: Option<Value>,
        operands: &[Value],
    ) -> Result<(), String> {
        match self {
            BatchCheck::Off => Ok(()),
            BatchCheck::Recording(recorded) => {
                recorded.push(name, value.map(|value| b.shape(value)));
                Ok(())
            }
            BatchCheck::Comparing(comparison) => comparison.result(b, node, name, value, operands),
        }
    }

    /// For a node that reshapes `x`, the shape of its result at batch size 1, from its recorded shape.
    /// `None` if `x` has no batch axis. Errs, in words, if the result has none.
    pub fn reshaped(&self, x: Value) -> Result<Option<Vec<usize>>, String> {
        let BatchCheck::Comparing(comparison) = self else { return Ok(None) };
        let Some(batch_axis) = comparison.batch_axes.get(&x) else { return Ok(None) };
        let Some((_, Some(recorded))) = comparison.recorded.0.get(comparison.next) else {
            return Ok(None);
        };
        let before = batch_axis.elements_before();
        let batch = comparison.batch;
        let mut front = 1;
        for (axis, &size) in recorded.iter().enumerate() {
            if front != 0 && before % front == 0 && size % (before / front * batch) == 0 && size > 0
            {
                let mut shape = recorded.clone();
                shape[axis] /= batch;
                return Ok(Some(shape));
            }
            front *= size;
        }
        Err(format!(
            "{:?} becomes {recorded:?} in the file, where the samples are not kept apart",
            batch_axis.in_file
        ))
    }

    /// Changes the sizes of a result in the file to those at batch size 1. The last sizes belong to the
    /// axes of `x`; there may be more in front of them.
    pub fn to_one_sample(&self, x: Value, sizes: &mut [i64]) {
        let BatchCheck::Comparing(comparison) = self else { return };
        let Some(BatchAxis { axis, in_file, .. }) = comparison.batch_axes.get(&x) else { return };
        let Some(in_front) = sizes.len().checked_sub(in_file.len()) else { return };
        let batch = comparison.batch as i64;
        if let Some(size) = sizes.get_mut(in_front + axis)
            && *size == in_file[*axis] as i64
        {
            *size /= batch;
        }
    }

    /// The batch size of the file, if `x` has no batch axis and is therefore shared by all samples.
    pub fn batch_if_shared(&self, x: Value) -> Option<usize> {
        let BatchCheck::Comparing(comparison) = self else { return None };
        (!comparison.batch_axes.contains_key(&x)).then_some(comparison.batch)
    }
}

impl BatchAxis {
    /// The number of elements in front of the batch, as a product of sizes.
    fn elements_before(&self) -> usize {
        self.in_file[..self.axis].iter().product::<usize>() * self.outer
    }
}

impl<'m> Comparison<'m> {
    /// Extends `depends` to the nodes added to the graph since the last call.
    fn update_depends(&mut self, b: &Builder) {
        let graph = b.graph();
        for (_, node) in graph.nodes().skip(self.depends.len()) {
            let depends = match &node.op {
                Op::Apply(_) => node.inputs.iter().any(|v| self.depends[v.index()]),
                _ => false,
            };
            self.depends.push(depends);
        }
    }

    /// The one axis along which the two shapes differ, if it is longer in the file by the factor of the
    /// batch size.
    fn axis(&self, shape: &[usize], in_file: &[usize]) -> Result<usize, String> {
        let differ = |&axis: &usize| shape[axis] != in_file[axis];
        let axes: Vec<usize> = match shape.len() == in_file.len() {
            true => (0..shape.len()).filter(differ).collect(),
            false => Vec::new(),
        };
        match axes[..] {
            [axis] if in_file[axis] == shape[axis] * self.batch => Ok(axis),
            _ if shape == in_file => Err(format!(
                "its result of shape {in_file:?} is one for all samples together: they are mixed, \
                 or some of them are picked out"
            )),
            _ => Err(format!("its result is {in_file:?} in the file and {shape:?} for one sample")),
        }
    }

    fn result(
        &mut self,
        b: &Builder,
        node: &Node,
        name: &'m str,
        value: Option<Value>,
        operands: &[Value],
    ) -> Result<(), String> {
        let (recorded, in_file) = match self.recorded.0.get(self.next) {
            Some((recorded, in_file)) => (*recorded, in_file.clone()),
            None => ("", None),
        };
        self.next += 1;
        if recorded != name || in_file.is_some() != value.is_some() {
            return Err("the model takes another way for one sample than for the batch".into());
        }
        let (Some(value), Some(in_file)) = (value, in_file) else { return Ok(()) };
        self.update_depends(b);
        if !self.depends[value.index()] {
            return Ok(());
        }
        let shape = b.shape(value);
        let axis = self.axis(&shape, &in_file)?;
        let others = shape[axis];
        let outer = match self.batch_axes.get(&value) {
            _ if others == 1 => Some(1),
            Some(known) if known.axis == axis => Some(known.outer),
            _ => self.outer(node, operands, &shape[..axis], others),
        };
        let outer = outer.ok_or_else(|| {
            format!(
                "its result of shape {in_file:?} has the samples at places that are not followed"
            )
        })?;
        self.batch_axes.insert(value, BatchAxis { axis, outer, in_file });
        Ok(())
    }

    /// [`BatchAxis::outer`] of a result of `node`. `before` are the sizes of the axes in front of the
    /// batch axis, and `others` is the length of that axis at batch size 1.
    fn outer(
        &self,
        node: &Node,
        operands: &[Value],
        before: &[usize],
        others: usize,
    ) -> Option<usize> {
        let mut from = operands.iter().filter_map(|value| self.batch_axes.get(value));
        if ["Reshape", "Flatten", "Squeeze", "Unsqueeze"].contains(&node.op.as_str()) {
            // A reshape keeps the order of the elements.
            let front = from.next()?.elements_before();
            let before = before.iter().product::<usize>();
            let outer = front.checked_div(before).filter(|outer| outer * before == front)?;
            return (outer > 0 && others.is_multiple_of(outer)).then_some(outer);
        }
        let mut same = from.filter(|x| x.in_file[x.axis] == others * self.batch);
        let outer = same.next()?.outer;
        same.all(|x| x.outer == outer).then_some(outer)
    }
}
