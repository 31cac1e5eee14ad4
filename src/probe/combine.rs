//! How the values that a graph yields in several runs become one result.

use std::any::Any;
use std::marker::PhantomData;

use super::gram::ClassPositions;
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::tensor::Tensor;

/// The samples of one run of a graph. A run has a fixed number of lanes (entries of the axis that
/// `vmap` adds), in groups of equal size.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The number of lanes of a group.
    pub size: usize,
    /// For each group, the samples in its lanes. A group may have fewer samples than lanes; the lanes
    /// that are left repeat another sample.
    pub groups: &'a [Vec<usize>],
    /// For each lane, whether it holds a sample for the first time in all runs. Results that count
    /// each sample once use these lanes only.
    pub first: &'a [bool],
    /// The class of each sample, and its place in it.
    pub(super) positions: &'a ClassPositions,
}

impl Run<'_> {
    /// The lanes that hold a sample for the first time, each with its sample.
    pub fn first_samples(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let size = self.size;
        let lanes = self.groups.iter().enumerate().flat_map(move |(g, group)| {
            group.iter().enumerate().map(move |(i, &sample)| (g * size + i, sample))
        });
        lanes.filter(|&(lane, _)| self.first.get(lane) == Some(&true))
    }
}

/// Combines the tensors that a value has in the runs of a graph.
pub trait Combine: Send + 'static {
    /// The result.
    type Output: Send + 'static;

    /// Takes in the tensor of a run. Runs come in order, whichever of them ends first.
    ///
    /// # Errors
    /// When the tensor is not of the dtype or shape that this expects.
    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()>;

    /// The result of all runs.
    ///
    /// # Errors
    /// When there is none, such as for no runs.
    fn finish(self) -> Result<Self::Output>;

    /// The most bytes that this holds between runs, beside the tensors of one run.
    fn bytes(&self) -> u64 {
        0
    }
}

/// The tensor of the only run.
#[derive(Debug, Default)]
pub struct Only(Option<Tensor>);

impl Combine for Only {
    type Output = Tensor;

    fn add(&mut self, _: &Run, tensor: &Tensor) -> Result<()> {
        match self.0.replace(tensor.clone()) {
            None => Ok(()),
            Some(_) => Err(Error::Score("a value of one run has several".into())),
        }
    }

    fn finish(self) -> Result<Tensor> {
        self.0.ok_or_else(no_runs)
    }
}

/// The elementwise sum over the runs, in float64: a flat list, in the order of the elements. The
/// graph sums over the lanes; weighted by the counted lanes, each sample enters once.
#[derive(Debug, Default)]
pub struct Sum(Vec<f64>);

impl Combine for Sum {
    type Output = Vec<f64>;

    fn add(&mut self, _: &Run, tensor: &Tensor) -> Result<()> {
        let values = tensor.to_f64();
        self.0.resize(values.len(), 0.0);
        self.0.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
        Ok(())
    }

    fn finish(self) -> Result<Vec<f64>> {
        Ok(self.0)
    }
}

/// One row for each sample, of a value `[lanes, …]`: the rows in the order of the samples, each a
/// flat list in float64.
#[derive(Debug, Default)]
pub struct PerSample(Vec<Vec<f64>>);

impl Combine for PerSample {
    type Output = Vec<Vec<f64>>;

    fn add(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        let values = tensor.to_f64();
        for (lane, sample) in run.first_samples() {
            if lane >= values.shape().first().copied().unwrap_or(0) {
                return Err(Error::Score("a value per sample has no row for each lane".into()));
            }
            if self.0.len() <= sample {
                self.0.resize(sample + 1, Vec::new());
            }
            let row = values.index_axis(ndarray::Axis(0), lane);
            self.0[sample] = row.iter().copied().collect();
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Vec<f64>>> {
        Ok(self.0)
    }
}

pub(super) fn no_runs() -> Error {
    Error::Score("there are no samples to run the model on".into())
}

/// Stands for a result that is known after the runs: see [`Results::get`].
#[derive(Debug)]
pub struct Handle<T> {
    index: usize,
    result: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

/// The results of the values that a probe watches.
pub struct Results(Vec<Box<dyn Any + Send>>);

impl Results {
    /// The result that `handle` stands for.
    ///
    /// # Errors
    /// When the handle is of another graph.
    pub fn get<T: 'static>(&self, handle: Handle<T>) -> Result<&T> {
        let result = self.0.get(handle.index).and_then(|result| result.downcast_ref());
        result.ok_or_else(|| Error::Score("a result of another graph was asked for".into()))
    }
}

/// A [`Combine`] of any output.
trait AnyCombine: Send {
    fn add_any(&mut self, run: &Run, tensor: &Tensor) -> Result<()>;
    fn finish_any(self: Box<Self>) -> Result<Box<dyn Any + Send>>;
    fn bytes_of_any(&self) -> u64;
}

impl<C: Combine> AnyCombine for C {
    fn add_any(&mut self, run: &Run, tensor: &Tensor) -> Result<()> {
        self.add(run, tensor)
    }

    fn finish_any(self: Box<Self>) -> Result<Box<dyn Any + Send>> {
        Ok(Box::new(self.finish()?))
    }

    fn bytes_of_any(&self) -> u64 {
        self.bytes()
    }
}

/// Values of a graph, each with what combines its tensors.
#[derive(Default)]
pub(super) struct Watched {
    values: Vec<Value>,
    combines: Vec<Box<dyn AnyCombine>>,
}

impl Watched {
    /// Adds a value.
    pub fn push<C: Combine>(&mut self, value: Value, combine: C) -> Handle<C::Output> {
        self.values.push(value);
        self.combines.push(Box::new(combine));
        Handle { index: self.values.len() - 1, result: PhantomData }
    }

    /// The values, in the order in which they were added.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Drops the values added after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.combines.truncate(len);
    }

    /// The bytes that results hold between runs.
    pub fn bytes(&self) -> u64 {
        self.combines.iter().map(|combine| combine.bytes_of_any()).sum()
    }

    /// Takes in the tensors of a run, one for each value.
    pub fn add(&mut self, run: &Run, tensors: &[Tensor]) -> Result<()> {
        if tensors.len() != self.combines.len() {
            return Err(Error::Score("the engine returned other outputs than asked for".into()));
        }
        self.combines.iter_mut().zip(tensors).try_for_each(|(c, tensor)| c.add_any(run, tensor))
    }

    /// The results of all runs.
    pub fn finish(self) -> Result<Results> {
        self.combines.into_iter().map(AnyCombine::finish_any).collect::<Result<_>>().map(Results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(size: usize, groups: &'a [Vec<usize>], first: &'a [bool]) -> Run<'a> {
        static NONE: ClassPositions = ClassPositions::none();
        Run { size, groups, first, positions: &NONE }
    }

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::f32(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn each_sample_has_the_row_of_its_first_lane() {
        // Sample 1 is in both runs; the last lane of the second repeats a sample.
        let runs = [
            (vec![vec![2, 1]], vec![true, true]),
            (vec![vec![1, 0], vec![3]], vec![false, true, true, false]),
        ];
        let values = [tensor(&[2, 1], &[20.0, 10.0]), tensor(&[4, 1], &[11.0, 0.0, 30.0, 99.0])];
        let mut rows = PerSample::default();
        for ((groups, first), values) in runs.iter().zip(&values) {
            rows.add(&run(2, groups, first), values).unwrap();
        }
        assert_eq!(rows.finish().unwrap(), [[0.0], [10.0], [20.0], [30.0]]);
    }

    #[test]
    fn a_handle_yields_the_result_of_its_value() {
        let mut watched = Watched::default();
        let (groups, first) = ([vec![0, 1]], [true, true]);
        let run = run(2, &groups, &first);
        let sum = watched.push(Value(0), Sum::default());
        let only = watched.push(Value(1), Only::default());
        let dropped = watched.push(Value(2), Sum::default());
        watched.truncate(2);
        assert_eq!(watched.values(), [Value(0), Value(1)]);
        assert!(watched.add(&run, &[tensor(&[1], &[1.0])]).is_err());
        let tensors = [tensor(&[2], &[1.0, 2.0]), tensor(&[1], &[5.0])];
        watched.add(&run, &tensors).unwrap();
        let results = watched.finish().unwrap();
        assert_eq!(results.get(sum).unwrap(), &[1.0, 2.0]);
        assert_eq!(results.get(only).unwrap(), &tensors[1]);
        assert!(results.get(dropped).is_err());
    }

    #[test]
    fn sums_run_over_the_runs() {
        let run = run(1, &[], &[]);
        let mut sum = Sum::default();
        for values in [[1.0, 2.0], [10.0, 20.0]] {
            sum.add(&run, &tensor(&[2], &values)).unwrap();
        }
        assert_eq!(sum.finish().unwrap(), [11.0, 22.0]);
    }

    #[test]
    fn one_run_has_one_tensor() {
        let run = run(1, &[], &[]);
        let mut only = Only::default();
        only.add(&run, &tensor(&[1], &[1.0])).unwrap();
        assert!(only.add(&run, &tensor(&[1], &[1.0])).is_err());
        assert!(Only::default().finish().is_err());
    }
}
