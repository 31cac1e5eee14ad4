//! Fitting the labels to the targets of a loss.

use ndarray::ArrayD;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::draw::below;
use super::{Dataset, Labels, show_known, synthetic};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, map_same};

/// The kind of target that a loss compares a model's output with. Shapes are those of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// One class per sample: cross-entropy.
    Class {
        /// The number of classes.
        classes: usize,
    },
    /// One class per position: cross-entropy of tokens or of the pixels of a map.
    Tokens {
        /// The number of classes.
        classes: usize,
        /// The output's shape without the axis of the classes.
        positions: Vec<usize>,
    },
    /// One number from 0 to 1 per output: binary cross-entropy.
    Binary {
        /// The output's shape.
        shape: Vec<usize>,
    },
    /// One number per output: mean squared error.
    Values {
        /// The output's shape.
        shape: Vec<usize>,
    },
}

/// Labels fitted to a loss.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FittedLabels {
    /// The targets: int64 `[n]` for [`Target::Class`], int64 `[n, positions…]` for
    /// [`Target::Tokens`], float32 `[n, shape…]` for the others.
    pub tensor: Tensor,
    /// The class of each sample. `None` if the targets are not classes; then all samples form one group.
    pub classes: Option<Vec<usize>>,
}

/// Errs unless all labels lie in `0..classes`. The message names the first bad sample by its index in
/// the source, which `place` computes from the index of the label.
pub fn check_labels(labels: &[i64], classes: usize, place: impl Fn(usize) -> usize) -> Result<()> {
    let in_range = |label: i64| usize::try_from(label).is_ok_and(|label| label < classes);
    let Some(at) = labels.iter().position(|&label| !in_range(label)) else { return Ok(()) };
    let from_one = labels.iter().min() == Some(&1)
        && labels.iter().max().and_then(|&max| usize::try_from(max).ok()) == Some(classes);
    let remedy = if from_one {
        "they seem to be counted from 1: subtract 1"
    } else {
        "give data made for this model's classes"
    };
    Err(Error::Data(format!(
        "label {} (sample {}, counted from 0) is out of range: the model has {classes} classes, so \
         labels run from 0 to {}; {remedy}",
        labels[at],
        place(at),
        classes.saturating_sub(1)
    )))
}

impl Labels {
    /// The classes, if the labels are one-hot rows: a single 1 among zeros.
    pub(super) fn one_hot(&self) -> Option<Labels> {
        let Labels::Values(values) = self else { return None };
        let (&samples, rest) = values.shape().split_first()?;
        let width: usize = rest.iter().product();
        if width < 2 {
            return None;
        }
        let rows = values.to_f64().into_shape_with_order((samples, width)).ok()?;
        let class = |row: ndarray::ArrayView1<f64>| {
            let class = row.iter().position(|&v| v == 1.0)?;
            let alone = row.iter().enumerate().all(|(i, &v)| i == class || v == 0.0);
            alone.then_some(class as i64)
        };
        rows.rows().into_iter().map(class).collect::<Option<_>>().map(Labels::Classes)
    }

    /// The number of labelled samples.
    pub(super) fn len(&self) -> usize {
        match self {
            Labels::Classes(classes) => classes.len(),
            Labels::Values(values) => values.shape().first().copied().unwrap_or(0),
            Labels::Synthetic => 0,
        }
    }

    /// The number of distinct classes.
    pub(super) fn distinct(&self) -> Option<usize> {
        let Labels::Classes(classes) = self else { return None };
        let mut classes = classes.clone();
        classes.sort_unstable();
        classes.dedup();
        Some(classes.len())
    }

    /// The labels at `indices`.
    ///
    /// # Panics
    /// When an index is out of range.
    pub(super) fn select(&self, indices: &[usize]) -> Labels {
        match self {
            Labels::Classes(classes) => {
                Labels::Classes(indices.iter().map(|&index| classes[index]).collect())
            }
            Labels::Values(values) => Labels::Values(
                map_same!(values, a => a.select(ndarray::Axis(0), indices).into_shared()),
            ),
            Labels::Synthetic => Labels::Synthetic,
        }
    }
}

impl Dataset {
    /// Converts the labels to the targets of a loss.
    ///
    /// Class labels can be targets of [`Target::Binary`] and [`Target::Values`], too: as numbers if the
    /// model has a single output, or as one-hot rows if it has one output per class; not if its outputs
    /// form a map. One-hot rows can be classes.
    ///
    /// # Errors
    /// When the labels have the wrong kind or shape, or are out of range.
    pub fn fit_labels(&self, target: &Target) -> Result<FittedLabels> {
        match &self.labels {
            Labels::Synthetic => self.make_labels(target),
            Labels::Classes(classes) => self.fit_classes(classes, target),
            Labels::Values(values) => match (self.labels.one_hot(), target) {
                (Some(Labels::Classes(of_rows)), Target::Class { classes })
                    if values.len() == of_rows.len() * classes =>
                {
                    self.fit_classes(&of_rows, target)
                }
                _ => self.fit_values(values, target),
            },
        }
    }

    fn make_labels(&self, target: &Target) -> Result<FittedLabels> {
        let samples = self.samples();
        match target {
            Target::Class { classes } => {
                self.fit_classes(&synthetic::labels(samples, *classes), target)
            }
            Target::Tokens { classes, positions } => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(u64::MAX);
                let bound = *classes as u64;
                let tokens = ArrayD::from_shape_simple_fn(with_batch(samples, positions), || {
                    below(&mut rng, bound) as i64
                });
                Ok(FittedLabels { tensor: tokens.into(), classes: None })
            }
            Target::Binary { shape } if is_map(shape) => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                rng.set_stream(u64::MAX);
                let bits = ArrayD::from_shape_simple_fn(with_batch(samples, shape), || {
                    below(&mut rng, 2) as f32
                });
                Ok(FittedLabels { tensor: bits.into(), classes: None })
            }
            Target::Binary { shape } => {
                let classes = shape.iter().product::<usize>().max(2);
                self.fit_classes(&synthetic::labels(samples, classes), target)
            }
            Target::Values { shape } => {
                let shape = with_batch(samples, shape);
                let count = shape.iter().product();
                let tensor = synthetic::values(&shape, count, self.seed)?;
                Ok(FittedLabels { tensor, classes: None })
            }
        }
    }

    fn fit_classes(&self, labels: &[i64], target: &Target) -> Result<FittedLabels> {
        let samples = labels.len();
        let (shape, binary) = match target {
            Target::Class { classes } => {
                check_labels(labels, *classes, |i| self.place(i))?;
                let tensor = Tensor::index(labels.iter().copied());
                return Ok(FittedLabels { tensor, classes: Some(to_classes(labels)) });
            }
            Target::Tokens { positions, .. } if positions.iter().product::<usize>() == 1 => {
                let labels = Tensor::index(labels.iter().copied());
                return self.fit_values(&labels.reshape(&with_batch(samples, positions))?, target);
            }
            Target::Tokens { positions, .. } => {
                return Err(Error::Data(format!(
                    "the labels are one class a sample, and this loss needs one for each position: an \
                     array of {}",
                    show_known(&with_batch(samples, positions))
                )));
            }
            Target::Binary { shape } => (shape, true),
            Target::Values { shape } => (shape, false),
        };
        if is_map(shape) {
            return Err(Error::Data(format!(
                "the labels are one class a sample, and the model's output needs {}",
                show_known(&with_batch(samples, shape))
            )));
        }
        let outputs: usize = shape.iter().product();
        let values: Vec<f32> = match outputs {
            1 => {
                if binary {
                    check_labels(labels, 2, |i| self.place(i))?;
                }
                labels.iter().map(|&label| label as f32).collect()
            }
            _ => {
                check_labels(labels, outputs, |i| self.place(i))?;
                let row =
                    |label: i64| (0..outputs as i64).map(move |o| f32::from(u8::from(o == label)));
                labels.iter().flat_map(|&label| row(label)).collect()
            }
        };
        // A single real-valued output is a regression, even if its targets are whole numbers.
        let classes = (binary || outputs > 1).then(|| to_classes(labels));
        Ok(FittedLabels { tensor: Tensor::f32(&with_batch(samples, shape), values)?, classes })
    }

    fn fit_values(&self, values: &Tensor, target: &Target) -> Result<FittedLabels> {
        let samples = values.shape().first().copied().unwrap_or(0);
        let shaped = |shape: &[usize]| {
            let shape = with_batch(samples, shape);
            values.reshape(&shape).map_err(|_| {
                Error::Data(format!(
                    "the labels have the shape {}, and the model's output needs {}",
                    show_known(values.shape()),
                    show_known(&shape)
                ))
            })
        };
        let tensor = match target {
            Target::Class { .. } => {
                return Err(Error::Data(format!(
                    "the labels are {} of shape {}, and cross-entropy needs one whole number a \
                     sample, or rows with a single 1; convert them to int64, or choose another loss",
                    values.dtype(),
                    show_known(values.shape())
                )));
            }
            Target::Tokens { classes, positions } => {
                let tensor = shaped(positions)?;
                let Some(tokens) = tensor.to_i64() else {
                    return Err(Error::Data(format!(
                        "the labels are {}, and cross-entropy needs whole numbers; convert them to int64",
                        values.dtype()
                    )));
                };
                let each = positions.iter().product::<usize>().max(1);
                let tokens: Vec<i64> = tokens.iter().copied().collect();
                check_labels(&tokens, *classes, |i| self.place(i / each))?;
                tensor.cast(DType::I64)
            }
            Target::Binary { shape } => {
                let tensor = shaped(shape)?;
                if let Some(value) = tensor.to_f64().iter().find(|v| !(0.0..=1.0).contains(*v)) {
                    return Err(Error::Data(format!(
                        "the label {value} is not between 0 and 1, as binary cross-entropy needs it"
                    )));
                }
                tensor.cast(DType::F32)
            }
            Target::Values { shape } => shaped(shape)?.cast(DType::F32),
        };
        Ok(FittedLabels { tensor, classes: None })
    }
}

/// Whether the outputs of a sample form a map: they lie along several axes, so none is a class.
fn is_map(shape: &[usize]) -> bool {
    shape.iter().filter(|&&d| d != 1).count() > 1
}

/// Converts labels that have been checked to be in range.
fn to_classes(labels: &[i64]) -> Vec<usize> {
    labels.iter().map(|&label| label as usize).collect()
}

fn with_batch(samples: usize, shape: &[usize]) -> Vec<usize> {
    std::iter::once(samples).chain(shape.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::{arr1, arr2};

    use super::super::npz::tests::Npz;
    use super::*;

    fn classes(labels: &[i64]) -> Dataset {
        Npz::new().with("y", arr1(labels)).all().unwrap()
    }

    #[test]
    fn labels_out_of_range_are_named() {
        let check = |labels: &[i64], n| check_labels(labels, n, |i| i + 40);
        assert!(check(&[0, 9], 10).is_ok());
        let message = |labels: &[i64], n| check(labels, n).unwrap_err().to_string();
        let high = message(&[0, 10], 10);
        assert!(high.contains("label 10 (sample 41") && high.contains("from 0 to 9"), "{high}");
        assert!(message(&[1, 2, 3], 3).contains("subtract 1"));
        assert!(message(&[-1], 3).contains("label -1"));
    }

    #[test]
    fn classes_serve_as_targets_of_every_loss() {
        let data = classes(&[0, 1, 1]);
        let fitted = data.fit_labels(&Target::Class { classes: 2 }).unwrap();
        assert_eq!(fitted.tensor, Tensor::index([0, 1, 1]));
        assert_eq!(fitted.classes, Some(vec![0, 1, 1]));
        let fitted = data.fit_labels(&Target::Binary { shape: vec![1] }).unwrap();
        assert_eq!(fitted.tensor, Tensor::f32(&[3, 1], vec![0.0, 1.0, 1.0]).unwrap());
        let fitted = data.fit_labels(&Target::Binary { shape: vec![2] }).unwrap();
        assert_eq!(fitted.tensor.f32_slice().unwrap(), [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        assert!(fitted.classes.is_some());
        let fitted = data.fit_labels(&Target::Values { shape: vec![] }).unwrap();
        assert_eq!((fitted.tensor.shape(), fitted.classes), (&[3][..], None));
        let map = data.fit_labels(&Target::Binary { shape: vec![1, 2, 3] }).unwrap_err();
        assert!(map.to_string().contains("needs 3x1x2x3"), "{map}");
        let tokens = Target::Tokens { classes: 2, positions: vec![7] };
        assert!(data.fit_labels(&tokens).unwrap_err().to_string().contains("an array of 3x7"));
    }

    #[test]
    fn one_hot_rows_are_classes() {
        let floats = Npz::new().with("y", arr2(&[[0.0f32, 1.0], [1.0, 0.0], [0.0, 1.0]]));
        let ints = Npz::new().with("y", arr2(&[[0i64, 1], [1, 0], [0, 1]]));
        for data in [floats, ints] {
            let data = data.all().unwrap();
            let fitted = data.fit_labels(&Target::Class { classes: 2 }).unwrap();
            assert_eq!(fitted.tensor, Tensor::index([1, 0, 1]));
            assert_eq!(fitted.classes, Some(vec![1, 0, 1]));
            assert!(data.fit_labels(&Target::Class { classes: 3 }).is_err());
        }
        for other in [[[0.0f32, 0.5], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0]; 2]] {
            let data = Npz::new().with("y", arr2(&other)).all().unwrap();
            let error = data.fit_labels(&Target::Class { classes: 2 }).unwrap_err().to_string();
            assert!(error.contains("rows with a single 1"), "{error}");
        }
    }

    #[test]
    fn the_draw_is_balanced_over_one_hot_rows() {
        let rows = ndarray::Array2::from_shape_fn((40, 2), |(i, class)| {
            f32::from(u8::from((i < 36) == (class == 0)))
        });
        let options = super::super::Options {
            samples: super::super::Samples::Count(std::num::NonZeroUsize::new(8).unwrap()),
            ..super::super::Options::default()
        };
        let data = Npz::new().with("y", rows).open(&options).unwrap();
        let fitted = data.fit_labels(&Target::Class { classes: 2 }).unwrap();
        assert_eq!(fitted.classes.unwrap().iter().sum::<usize>(), 4);
    }

    #[test]
    fn values_are_checked_against_the_loss() {
        let data = Npz::new().with("y", arr2(&[[0.5f32, 1.0], [0.0, 2.0]])).all().unwrap();
        let error = |target| data.fit_labels(&target).unwrap_err().to_string();
        assert!(data.fit_labels(&Target::Values { shape: vec![2] }).is_ok());
        assert!(error(Target::Values { shape: vec![3] }).contains("needs 2x3"));
        assert!(error(Target::Binary { shape: vec![2] }).contains("label 2 is not between"));
        assert!(error(Target::Class { classes: 2 }).contains("choose another loss"));

        let data = Npz::new().with("y", arr2(&[[0i64, 1], [2, 3]])).all().unwrap();
        let tokens = |classes| Target::Tokens { classes, positions: vec![2] };
        assert!(data.fit_labels(&tokens(4)).is_ok());
        assert!(data.fit_labels(&tokens(3)).unwrap_err().to_string().contains("label 3"));
    }
}
