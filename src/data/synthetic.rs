//! Synthetic data: standard normal inputs and balanced labels, generated for a model.

use ndarray::{Array, IxDyn};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::DeclaredInput;
use super::draw::below;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The source's name.
pub(super) const NAME: &str = "synthetic";

/// Draws the tensor of the input at `position`.
///
/// Floating-point inputs are standard normal. Integer inputs are uniform below their vocabulary,
/// or below 2 if that is unknown, so that they are valid for any table with two rows. Boolean
/// inputs, and integer inputs called a mask, are all ones: nothing is masked.
pub(super) fn input(
    input: &DeclaredInput,
    position: usize,
    samples: usize,
    seed: u64,
) -> Result<Tensor> {
    let shape: Option<Vec<usize>> = input.sample_dims().iter().copied().collect();
    let shape = shape.ok_or_else(|| {
        input.misfit(format!(
            "synthetic data needs a shape without unknown dimensions; fix it with \
             `shape` {}=1x3x32x32 or the like",
            input.name
        ))
    })?;
    let count = input.elements(samples, &shape)?;
    let shape: Vec<usize> = std::iter::once(samples).chain(shape).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Each input has its own stream, so that they are independent.
    rng.set_stream(position as u64);
    if input.dtype.is_float() {
        let values = StandardNormal.sample_iter(rng).take(count).collect();
        return Tensor::f32(&shape, values).map(|tensor| tensor.cast(input.dtype));
    }
    if input.dtype == DType::Bool || input.name.to_lowercase().contains("mask") {
        return Ok(Tensor::full(input.dtype, &shape, 1.0));
    }
    let bound = input.vocabulary.unwrap_or(2) as u64;
    let values = Array::from_shape_simple_fn(IxDyn(&shape), || below(&mut rng, bound) as i64);
    Ok(Tensor::from_i64(values, input.dtype))
}

/// The label of each sample: classes 0, 1, …, repeated.
pub(super) fn labels(samples: usize, classes: usize) -> Vec<i64> {
    (0..samples).map(|sample| (sample % classes.max(1)) as i64).collect()
}

/// Standard normal values for regression targets.
pub(super) fn values(shape: &[usize], count: usize, seed: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX);
    Tensor::f32(shape, StandardNormal.sample_iter(rng).take(count).collect())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::{Dataset, Options, Samples, Target};
    use super::*;

    fn data(seed: u64) -> Dataset {
        let samples = Samples::Count(NonZeroUsize::new(6).unwrap());
        Dataset::open(NAME, &Options { samples, seed, ..Options::default() }).unwrap()
    }

    fn declared(name: &str, dtype: DType, dims: &[usize]) -> DeclaredInput {
        let dims = dims.iter().copied().map(Some).collect();
        DeclaredInput { name: name.into(), dtype, dims, vocabulary: None }
    }

    #[test]
    fn inputs_are_normal_seeded_and_independent() {
        let inputs = [declared("a", DType::F32, &[1, 1000]), declared("b", DType::F32, &[1, 1000])];
        let tensors = data(0).fit_inputs(&inputs).unwrap().tensors;
        assert_eq!(tensors[0].shape(), [6, 1000]);
        assert_ne!(tensors[0], tensors[1]);
        assert_eq!(tensors, data(0).fit_inputs(&inputs).unwrap().tensors);
        assert_ne!(tensors, data(1).fit_inputs(&inputs).unwrap().tensors);
        let values = tensors[0].to_f64();
        let mean = values.mean().unwrap();
        assert!(mean.abs() < 0.05 && (values.var(0.0) - 1.0).abs() < 0.1);
    }

    #[test]
    fn the_values_of_a_seed_never_change() {
        let tensors = data(0).fit_inputs(&[declared("a", DType::F32, &[1, 1])]).unwrap().tensors;
        let expected = [0.69996077, -0.14406164, 0.30288628, -1.3745139, 1.2003417, 0.11078136];
        assert_eq!(tensors[0].f32_slice().unwrap(), expected);
    }

    #[test]
    fn integers_stay_in_their_vocabulary_and_masks_mask_nothing() {
        let mut ids = declared("ids", DType::I64, &[1, 50]);
        let mask = declared("attention_mask", DType::I64, &[1, 50]);
        let highest = |input: &DeclaredInput| {
            let fitted = data(0).fit_inputs(std::slice::from_ref(input)).unwrap();
            fitted.tensors[0].to_i64().unwrap().into_iter().max()
        };
        assert_eq!(highest(&ids), Some(1));
        ids.vocabulary = Some(10);
        assert_eq!(highest(&ids), Some(9));
        assert!(data(0).fit_inputs(&[mask]).unwrap().tensors[0].is_all(1.0));
    }

    #[test]
    fn labels_are_balanced_and_made_for_the_loss() {
        let fitted = data(0).fit_labels(&Target::Class { classes: 3 }).unwrap();
        assert_eq!(fitted.classes, Some(vec![0, 1, 2, 0, 1, 2]));
        let target = Target::Tokens { classes: 5, positions: vec![4] };
        let fitted = data(0).fit_labels(&target).unwrap();
        assert_eq!((fitted.tensor.shape(), fitted.classes), (&[6, 4][..], None));
        let fitted = data(0).fit_labels(&Target::Values { shape: vec![2] }).unwrap();
        assert_eq!((fitted.tensor.shape(), fitted.classes), (&[6, 2][..], None));
        let fitted = data(0).fit_labels(&Target::Binary { shape: vec![1] }).unwrap();
        assert_eq!(fitted.classes, Some(vec![0, 1, 0, 1, 0, 1]));
        let map = data(0).fit_labels(&Target::Binary { shape: vec![1, 5, 5] }).unwrap();
        assert_eq!((map.tensor.shape(), map.classes), (&[6, 1, 5, 5][..], None));
        let ones = map.tensor.to_f64().sum();
        assert!((50.0..100.0).contains(&ones), "{ones} of 150");
    }

    #[test]
    fn what_synthetic_data_cannot_do_is_an_error() {
        let all = Options { samples: Samples::All, ..Options::default() };
        assert_eq!(Dataset::open(NAME, &all).unwrap_err().kind(), "usage");
        let mut open = declared("a", DType::F32, &[1, 3]);
        open.dims.push(None);
        let error = data(0).fit_inputs(&[open]).unwrap_err().to_string();
        assert!(error.contains("`shape` a="), "{error}");
    }
}
