//! A batch that the file fixes, taken at 1.
//!
//! The model is lowered twice: as the file has it, which notes the shape of every result, and for one
//! sample, where each result is compared with what was noted. It must have the same shape but for one
//! axis, which is as many times longer in the file as its batch is large. So it is known at every
//! node where the batch is, and what has no meaning for one sample is refused at the node where it
//! happens: samples that are picked out or mixed, tensors with a row for each of them.

use std::collections::HashMap;

use crate::graph::{Builder, Value};
use crate::onnx::Node;
use crate::ops::Op;

/// The results of the nodes of a model at its own batch, in the order in which they are lowered.
#[derive(Default)]
pub(crate) struct Record<'m>(Vec<(&'m str, Option<Vec<usize>>)>);

/// What becomes of results as they are made.
#[derive(Default)]
pub(crate) enum Watch<'m> {
    /// Nothing: there is no batch, or it is open.
    #[default]
    Off,
    /// Their shapes are noted.
    Recording(Record<'m>),
    /// They are compared with those noted.
    Comparing(Comparison<'m>),
}

/// A model being lowered for one sample.
pub(crate) struct Comparison<'m> {
    record: Record<'m>,
    /// How many of the record were made.
    made: usize,
    /// The batch that the file fixes.
    batch: usize,
    /// For each value, whether it depends on an input that has a batch.
    depends: Vec<bool>,
    places: HashMap<Value, Place>,
}

/// Where the samples of the file's batch lie in a value.
#[derive(Clone, Debug)]
struct Place {
    axis: usize,
    /// The axis may hold other things beside the samples, in this order: `outer` of them, in each the
    /// samples, in each of these others.
    outer: usize,
    /// The shape that the file has for the value.
    shape: Vec<usize>,
}

impl<'m> Record<'m> {
    fn note(&mut self, name: &'m str, shape: Option<Vec<usize>>) {
        self.0.push((name, shape));
    }

    /// The comparison of the model for one sample with this record of it at `batch`.
    pub fn compared(self, batch: usize) -> Watch<'m> {
        Watch::Comparing(Comparison {
            record: self,
            made: 0,
            batch,
            depends: Vec::new(),
            places: HashMap::new(),
        })
    }
}

impl<'m> Watch<'m> {
    /// `input` was added to the graph, and `value`, which is the same in the shape of the file; at its
    /// own batch that is `own`.
    pub fn input(
        &mut self,
        b: &Builder,
        input: Value,
        value: Value,
        own: &[usize],
    ) -> Result<(), String> {
        let Watch::Comparing(comparison) = self else { return Ok(()) };
        let shape = b.shape(value);
        if shape == own {
            return Ok(());
        }
        comparison.follow(b);
        for made in [input, value] {
            comparison.depends[made.index()] = true;
        }
        let axis = comparison.axis(&shape, own)?;
        let place = Place { axis, outer: 1, shape: own.to_vec() };
        comparison.places.insert(value, place);
        Ok(())
    }

    /// `node` made the result `name`, which is `value` where it is one, of the operands `from`. Errs, in
    /// words, where one sample cannot be taken for the batch.
    pub fn result(
        &mut self,
        b: &Builder,
        node: &Node,
        name: &'m str,
        value: Option<Value>,
        from: &[Value],
    ) -> Result<(), String> {
        match self {
            Watch::Off => Ok(()),
            Watch::Recording(record) => {
                record.note(name, value.map(|value| b.shape(value)));
                Ok(())
            }
            Watch::Comparing(comparison) => comparison.result(b, node, name, value, from),
        }
    }

    /// The shape of the result that the next node has for one sample, given that it reads the elements
    /// of `x` in their order; `None` where the batch does not matter for it.
    pub fn reshaped(&self, x: Value) -> Result<Option<Vec<usize>>, String> {
        let Watch::Comparing(comparison) = self else { return Ok(None) };
        let Some(place) = comparison.places.get(&x) else { return Ok(None) };
        let Some((_, Some(own))) = comparison.record.0.get(comparison.made) else {
            return Ok(None);
        };
        let before = place.shape[..place.axis].iter().product::<usize>() * place.outer;
        let batch = comparison.batch;
        let mut front = 1;
        for (axis, &size) in own.iter().enumerate() {
            if front != 0 && before % front == 0 && size % (before / front * batch) == 0 && size > 0
            {
                let mut shape = own.clone();
                shape[axis] /= batch;
                return Ok(Some(shape));
            }
            front *= size;
        }
        Err(format!(
            "{:?} becomes {own:?} in the file, where the samples are not kept apart",
            place.shape
        ))
    }

    /// For one sample, the sizes that the file gives the axes of a result, of which the last are those
    /// of `x`.
    pub fn one_sample(&self, x: Value, sizes: &mut [i64]) {
        let Watch::Comparing(comparison) = self else { return };
        let Some(place) = comparison.places.get(&x) else { return };
        let Some(in_front) = sizes.len().checked_sub(place.shape.len()) else { return };
        let batch = comparison.batch as i64;
        if let Some(size) = sizes.get_mut(in_front + place.axis)
            && *size == place.shape[place.axis] as i64
        {
            *size /= batch;
        }
    }

    /// The batch that the file fixes, where `x` is the same for all samples of it.
    pub fn batch_beside(&self, x: Value) -> Option<usize> {
        let Watch::Comparing(comparison) = self else { return None };
        (!comparison.places.contains_key(&x)).then_some(comparison.batch)
    }
}

impl<'m> Comparison<'m> {
    /// Looks at the nodes that were added to the graph since the last time.
    fn follow(&mut self, b: &Builder) {
        let graph = b.graph();
        for (_, node) in graph.nodes().skip(self.depends.len()) {
            let depends = match &node.op {
                Op::Apply(_) => node.inputs.iter().any(|v| self.depends[v.index()]),
                _ => false,
            };
            self.depends.push(depends);
        }
    }

    /// The axis that is longer in the file by the factor of the batch, as all others are not.
    fn axis(&self, shape: &[usize], own: &[usize]) -> Result<usize, String> {
        let differ = |&axis: &usize| shape[axis] != own[axis];
        let axes: Vec<usize> = match shape.len() == own.len() {
            true => (0..shape.len()).filter(differ).collect(),
            false => Vec::new(),
        };
        match axes[..] {
            [axis] if own[axis] == shape[axis] * self.batch => Ok(axis),
            _ if shape == own => Err(format!(
                "its result of shape {own:?} is one for all samples together: they are mixed, or \
                 some of them are picked out"
            )),
            _ => Err(format!("its result is {own:?} in the file and {shape:?} for one sample")),
        }
    }

    fn result(
        &mut self,
        b: &Builder,
        node: &Node,
        name: &'m str,
        value: Option<Value>,
        from: &[Value],
    ) -> Result<(), String> {
        let (noted, own) = match self.record.0.get(self.made) {
            Some((noted, own)) => (*noted, own.clone()),
            None => ("", None),
        };
        self.made += 1;
        if noted != name || own.is_some() != value.is_some() {
            return Err("the model takes another way for one sample than for the batch".into());
        }
        let (Some(value), Some(own)) = (value, own) else { return Ok(()) };
        self.follow(b);
        if !self.depends[value.index()] {
            return Ok(());
        }
        let shape = b.shape(value);
        let axis = self.axis(&shape, &own)?;
        let others = shape[axis];
        let outer = match self.places.get(&value) {
            _ if others == 1 => Some(1),
            Some(known) if known.axis == axis => Some(known.outer),
            _ => self.outer(node, from, &shape[..axis], others),
        };
        let outer = outer.ok_or_else(|| {
            format!("its result of shape {own:?} has the samples at places that are not followed")
        })?;
        self.places.insert(value, Place { axis, outer, shape: own });
        Ok(())
    }

    /// How many times the samples are repeated along an axis that holds `others` beside them, behind
    /// axes of the sizes `before`.
    fn outer(&self, node: &Node, from: &[Value], before: &[usize], others: usize) -> Option<usize> {
        let mut places = from.iter().filter_map(|value| self.places.get(value));
        if ["Reshape", "Flatten", "Squeeze", "Unsqueeze"].contains(&node.op.as_str()) {
            // The order of the elements stays.
            let place = places.next()?;
            let front = place.shape[..place.axis].iter().product::<usize>() * place.outer;
            let before = before.iter().product::<usize>();
            let outer = front.checked_div(before).filter(|outer| outer * before == front)?;
            return (outer > 0 && others.is_multiple_of(outer)).then_some(outer);
        }
        let mut same = places.filter(|place| place.shape[place.axis] == others * self.batch);
        let outer = same.next()?.outer;
        same.all(|place| place.outer == outer).then_some(outer)
    }
}
