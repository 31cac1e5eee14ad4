//! Fitting samples to the inputs of a model.

use std::collections::BTreeMap;

use ndarray::{Axis, IxDyn};

use super::arrange::{Arrangement, arrange};
use super::npz::LABELS;
use super::{
    Content, Dataset, DeclaredInput, FittedInputs, Normalisation, Stored, images, list, push_once,
    show, show_known, synthetic,
};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, map_same};

/// Names that are tried, in this order, for the array of a model's only input after the input's own name.
const INPUTS: [&str; 3] = ["images", "x", "inputs"];

/// The most elements of a fitted tensor: 16 GiB of float32. Larger shapes are most likely mistakes.
const MOST_ELEMENTS: usize = 1 << 32;

impl Dataset {
    /// Converts the samples to one tensor for each of a model's inputs.
    ///
    /// A floating-point, integer or boolean array is cast to the input's dtype. The shape of a sample
    /// must agree with that of the input, possibly after one of these changes: adding and removing axes
    /// of size 1, moving the channels from the last axis to the first or back, or flattening for a flat
    /// input.
    ///
    /// A uint8 array for a floating-point input holds the pixels of images. They are scaled to [0, 1],
    /// resized to the size of the input (triangle filter, aspect ratio not kept), converted between grey
    /// and colour (with a warning), normalised by channel, and laid out as the input declares. A flat
    /// input gets channels, rows and columns in this order. Unknown dimensions take their size from the
    /// data.
    ///
    /// # Errors
    /// When an array is missing, does not fit, fits in two ways, or has values that are not finite. The
    /// message names the input.
    pub fn fit_inputs(&self, inputs: &[DeclaredInput]) -> Result<FittedInputs> {
        let mut warnings = Vec::new();
        let mut tensors = Vec::with_capacity(inputs.len());
        for (position, input) in inputs.iter().enumerate() {
            input.check_batch()?;
            let tensor = match &self.content {
                Content::Synthetic => synthetic::input(input, position, self.samples(), self.seed)?,
                Content::Images(_) if inputs.len() > 1 => {
                    return Err(Error::Data(format!(
                        "the model has the inputs {}, and a set of images feeds only one; give \
                         an .npz file with an array named after each",
                        list(inputs.iter().map(|input| input.name.as_str()))
                    )));
                }
                Content::Images(images) => {
                    images::fit(images, input, &self.normalisation, &mut warnings)?
                }
                Content::Arrays(arrays) => {
                    let (name, stored) = find(arrays, input, inputs.len() == 1)?;
                    fit_array(name, stored, input, &self.normalisation, &mut warnings)?
                }
            };
            self.check_finite(&tensor, input)?;
            tensors.push(tensor);
        }
        Ok(FittedInputs { tensors, warnings })
    }

    /// The shape of one sample in the array for an input. `None` if there is no such array or it holds
    /// images. `only` says that the model has no other input.
    pub(crate) fn sample_shape(&self, input: &DeclaredInput, only: bool) -> Option<&[usize]> {
        let Content::Arrays(arrays) = &self.content else { return None };
        let name = find(arrays, input, only).ok()?.0.to_owned();
        match arrays.get(&name)? {
            Stored::Tensor(tensor) => tensor.shape().get(1..),
            _ => None,
        }
    }

    /// Errs if a value is not finite, and names the first sample with such a value.
    fn check_finite(&self, tensor: &Tensor, input: &DeclaredInput) -> Result<()> {
        let bad = match tensor {
            Tensor::F32(a) => a.axis_iter(Axis(0)).position(|s| !s.iter().all(|v| v.is_finite())),
            Tensor::F64(a) => a.axis_iter(Axis(0)).position(|s| !s.iter().all(|v| v.is_finite())),
            _ => None,
        };
        match bad {
            Some(sample) => Err(input.misfit(format!(
                "the data holds a value that is not finite (NaN or infinity), in sample {} (counted \
                 from 0)",
                self.place(sample)
            ))),
            None => Ok(()),
        }
    }
}

impl DeclaredInput {
    /// The dimensions of one sample.
    pub(super) fn sample_dims(&self) -> &[Option<usize>] {
        self.dims.get(1..).unwrap_or_default()
    }

    /// An error about this input.
    pub(super) fn misfit(&self, reason: impl std::fmt::Display) -> Error {
        let DeclaredInput { name, dtype, dims, .. } = self;
        Error::Data(format!("input '{name}' ({dtype}, {}): {reason}", show(dims)))
    }

    fn check_batch(&self) -> Result<()> {
        match self.dims.first() {
            Some(None | Some(1)) => Ok(()),
            Some(Some(_)) => Err(self.misfit(
                "the leading axis must be the batch, of size 1 or unknown; export the model with \
                 a batch of 1 or a dynamic one",
            )),
            None => Err(self.misfit("an input without a batch axis cannot be fed samples")),
        }
    }

    /// The number of elements of `samples` samples of `shape`. Errs above [`MOST_ELEMENTS`].
    pub(super) fn elements(&self, samples: usize, shape: &[usize]) -> Result<usize> {
        shape
            .iter()
            .try_fold(samples, |n, &d| n.checked_mul(d))
            .filter(|&n| n <= MOST_ELEMENTS)
            .ok_or_else(|| {
                self.misfit(format!(
                    "{samples} samples of {} are too large for memory; draw fewer or check the \
                     shape",
                    show_known(shape)
                ))
            })
    }
}

/// The array for `input`, with its name.
fn find<'a>(
    arrays: &'a BTreeMap<String, Stored>,
    input: &'a DeclaredInput,
    only: bool,
) -> Result<(&'a str, &'a Stored)> {
    let fallback: &[&str] = if only { &INPUTS } else { &[] };
    // The array of labels is never the only input's array, even if the input has the same name.
    let own = Some(input.name.as_str()).filter(|name| !only || !LABELS.contains(name));
    let mut names = own.into_iter().chain(fallback.iter().copied());
    names.find_map(|name| Some((name, arrays.get(name)?))).ok_or_else(|| {
        let wanted = if only {
            "name it 'images', 'x' or 'inputs', or after the input"
        } else {
            "a model with several inputs needs an array named after each"
        };
        let there = arrays.keys().map(String::as_str).filter(|name| !LABELS.contains(name));
        let there = list(there);
        input.misfit(format!("the data has no array for it; {wanted} (there are: {there})"))
    })
}

fn fit_array(
    name: &str,
    stored: &Stored,
    input: &DeclaredInput,
    normalisation: &Normalisation,
    warnings: &mut Vec<String>,
) -> Result<Tensor> {
    match stored {
        Stored::Unreadable(why) => Err(input.misfit(format!("array '{name}' {why}"))),
        Stored::U8(bytes) if input.dtype.is_float() => {
            if let Some(images) = images::unpack(bytes.view(), input)? {
                return images::fit(&images, input, normalisation, warnings);
            }
            let (mean, std) = (normalisation.mean.as_slice(), normalisation.std.as_slice());
            if mean.len() > 1 || std.len() > 1 {
                return Err(input.misfit(format!(
                    "array '{name}' of shape {} is not a set of images with 1 or 3 channels, so \
                     it cannot be normalised by channel; give one mean and one standard \
                     deviation",
                    show_known(bytes.shape())
                )));
            }
            let mean = mean.first().copied().unwrap_or(0.0);
            let std = std.first().copied().unwrap_or(1.0);
            let scaled = bytes.mapv(|byte| (f32::from(byte) / 255.0 - mean) / std);
            fit_tensor(name, &scaled.into(), input)
        }
        Stored::U8(bytes) => fit_tensor(name, &bytes.mapv(i64::from).into(), input),
        Stored::Tensor(tensor) => {
            if !normalisation.is_identity() {
                push_once(
                    warnings,
                    format!(
                        "mean and standard deviation apply to uint8 images only; array '{name}' \
                         of {} is taken as it is",
                        tensor.dtype()
                    ),
                );
            }
            fit_tensor(name, tensor, input)
        }
    }
}

/// Arranges the axes of an array and casts it.
fn fit_tensor(name: &str, tensor: &Tensor, input: &DeclaredInput) -> Result<Tensor> {
    let (samples, shape) = match tensor.shape() {
        [samples, shape @ ..] => (*samples, shape),
        [] => return Err(input.misfit(format!("array '{name}' holds a single number"))),
    };
    let of = format!("array '{name}' has samples of {}", show_known(shape));
    let arranged = match arrange(shape, input.sample_dims()) {
        Arrangement::AsIs => tensor.clone(),
        Arrangement::Reshape(shape) => {
            let shape: Vec<usize> = std::iter::once(samples).chain(shape).collect();
            tensor.reshape(&shape)?
        }
        Arrangement::Permute(axes) => {
            let axes: Vec<usize> = std::iter::once(0).chain(axes.iter().map(|a| a + 1)).collect();
            map_same!(tensor, a => a.clone().permuted_axes(IxDyn(&axes)))
        }
        Arrangement::Ambiguous => {
            return Err(input.misfit(format!(
                "{of}, which fits with the channels first as well as last; give the data in the \
                 model's own layout"
            )));
        }
        Arrangement::Misfit => {
            return Err(input.misfit(format!(
                "{of}, which does not fit; give the data in the model's shape, or uint8 images, \
                 which are resized"
            )));
        }
    };
    cast(arranged, input)
        .map_err(|reason| input.misfit(format!("array '{name}' of {}: {reason}", tensor.dtype())))
}

/// Casts to the input's dtype. Errs when the cast would change values.
fn cast(tensor: Tensor, input: &DeclaredInput) -> Result<Tensor, String> {
    let (from, to) = (tensor.dtype(), input.dtype);
    match (from.is_float(), to) {
        (true, DType::I32 | DType::I64 | DType::Bool) => {
            return Err(format!("the input takes {to}; convert the array"));
        }
        (false, DType::I32) => {
            let out_of_range = |v: &i64| i32::try_from(*v).is_err();
            if tensor.to_i64().is_some_and(|values| values.iter().any(out_of_range)) {
                return Err("there are values beyond the range of int32".into());
            }
        }
        _ => {}
    }
    Ok(tensor.cast(to))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, Array4, arr1, arr2, arr3};

    use super::super::npz::tests::Npz;
    use super::super::{Options, Samples};
    use super::*;

    pub(in super::super) fn input(name: &str, dtype: DType, dims: &[i64]) -> DeclaredInput {
        let dims = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        DeclaredInput { name: name.into(), dtype, dims, vocabulary: None }
    }

    fn fit_one(data: &Dataset, dims: &[i64]) -> Result<Tensor> {
        let fitted = data.fit_inputs(&[input("in", DType::F32, dims)])?;
        Ok(fitted.tensors.into_iter().next().unwrap())
    }

    #[test]
    fn arrays_are_cast_where_nothing_is_lost() {
        let data = Npz::new()
            .with("in", arr2(&[[1.5f64], [2.0]]))
            .with("ids", arr2(&[[1u8, 2], [3, 4]]))
            .with("wide", arr2(&[[1i64], [1 << 40]]))
            .with("y", arr1(&[0u8, 1]))
            .all()
            .unwrap();
        assert_eq!(fit_one(&data, &[1, 1]).unwrap(), Tensor::f32(&[2, 1], vec![1.5, 2.0]).unwrap());
        let fitted = data.fit_inputs(&[input("ids", DType::I64, &[-1, -1])]).unwrap();
        assert_eq!(fitted.tensors[0], Tensor::i64(&[2, 2], vec![1, 2, 3, 4]).unwrap());
        let error = |declared: DeclaredInput| data.fit_inputs(&[declared]).unwrap_err().to_string();
        assert!(error(input("wide", DType::I32, &[1, 1])).contains("beyond the range"));
        assert!(error(input("in", DType::I64, &[1, 1])).contains("the input takes int64"));
    }

    #[test]
    fn inputs_are_found_by_name() {
        let data = Npz::new()
            .with("images", arr2(&[[1.0f32]]))
            .with("mask", arr2(&[[true]]))
            .with("y", arr1(&[0u8]))
            .all()
            .unwrap();
        assert!(fit_one(&data, &[1, 1]).is_ok());
        let two = [input("in", DType::F32, &[1, 1]), input("mask", DType::Bool, &[1, 1])];
        let error = data.fit_inputs(&two).unwrap_err().to_string();
        assert!(error.contains("input 'in' (float32, 1x1)"), "{error}");
        assert!(error.contains("'images', 'mask'"), "{error}");
        let named = [input("images", DType::F32, &[1, 1]), input("mask", DType::Bool, &[1, 1])];
        assert_eq!(data.fit_inputs(&named).unwrap().tensors.len(), 2);
    }

    #[test]
    fn misfits_name_both_shapes() {
        let data = Npz::new()
            .with("x", Array4::<f32>::zeros((2, 3, 8, 8)))
            .with("short", arr1(&[1.0f32, 2.0, 3.0]))
            .with("y", arr1(&[0u8, 1]))
            .all()
            .unwrap();
        let error = fit_one(&data, &[1, 3, 16, 16]).unwrap_err().to_string();
        assert!(error.contains("1x3x16x16") && error.contains("3x8x8"), "{error}");
        let error = fit_one(&data, &[4, 3, 8, 8]).unwrap_err().to_string();
        assert!(error.contains("must be the batch"), "{error}");
        let error = data.fit_inputs(&[input("short", DType::F32, &[1])]).unwrap_err().to_string();
        assert!(error.contains("labels of 2 samples"), "{error}");
    }

    #[test]
    fn values_that_are_not_finite_are_found() {
        let x = arr2(&[[1.0f32, 2.0], [f32::INFINITY, 0.0]]);
        let data = Npz::new().with("x", x).with("y", arr1(&[0u8, 1])).all().unwrap();
        let error = fit_one(&data, &[1, 2]).unwrap_err().to_string();
        assert!(error.contains("not finite") && error.contains("sample 1"), "{error}");
    }

    #[test]
    fn bytes_are_scaled_normalised_and_laid_out() {
        let x = arr3(&[[[0u8, 51, 255]; 2]; 2]).insert_axis(Axis(0));
        let data = |mean: &[f32], std: &[f32]| {
            let options = Options {
                samples: Samples::All,
                mean: mean.into(),
                std: std.into(),
                ..Options::default()
            };
            Npz::new().with("x", x.clone()).with("y", arr1(&[0u8])).open(&options).unwrap()
        };
        let plain = data(&[], &[]);
        let first = fit_one(&plain, &[1, 3, -1, -1]).unwrap();
        assert_eq!(first.shape(), [1, 3, 2, 2]);
        let [r, g, b] = [0.0, 51.0 / 255.0, 1.0];
        assert_eq!(first.f32_slice().unwrap(), [r, r, r, r, g, g, g, g, b, b, b, b]);
        let last = fit_one(&plain, &[1, 2, 2, 3]).unwrap();
        assert_eq!(last.f32_slice().unwrap()[..6], [r, g, b, r, g, b]);
        let flat = fit_one(&plain, &[1, 12]).unwrap();
        assert_eq!(flat.f32_slice(), first.f32_slice());

        let normal = fit_one(&data(&[0.0, 0.2, 0.5], &[1.0, 1.0, 0.25]), &[1, 3, 2, 2]).unwrap();
        let values = normal.f32_slice().unwrap();
        assert!((values[4]).abs() < 1e-6 && (values[8] - 2.0).abs() < 1e-6);
        let error = fit_one(&data(&[0.0, 0.2], &[]), &[1, 3, 2, 2]).unwrap_err().to_string();
        assert!(error.contains("2 values given for the mean of 3 channels"), "{error}");
    }

    #[test]
    fn images_are_resized_and_converted_with_a_warning() {
        let ramp = Array::from_shape_fn((1, 4, 4), |(_, _, x)| (x * 60) as u8);
        let data = Npz::new().with("x", ramp).with("y", arr1(&[0u8])).all().unwrap();
        let fitted = data.fit_inputs(&[input("in", DType::F32, &[1, 3, 2, 2])]).unwrap();
        assert_eq!(fitted.warnings.len(), 2);
        let values = fitted.tensors[0].f32_slice().unwrap();
        // Pillow's Image.fromarray(ramp / 255).resize((2, 2), Image.BILINEAR)
        let expected = [0.16806723, 0.53781515];
        for (value, expected) in values.iter().zip(expected.iter().cycle()) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }

        let colour = Array::from_shape_fn((1, 2, 2, 3), |(_, _, _, c)| [255u8, 0, 0][c]);
        let data = Npz::new().with("x", colour).with("y", arr1(&[0u8])).all().unwrap();
        let grey = fit_one(&data, &[1, 1, 2, 2]).unwrap();
        assert_eq!(grey.f32_slice().unwrap(), [0.299; 4]);
        let grey = fit_one(&data, &[1, 2, 2]).unwrap();
        assert_eq!(grey.shape(), [1, 2, 2]);
        assert!(fit_one(&data, &[1, 5, 2, 2]).unwrap_err().to_string().contains("1 or 3 channels"));
    }

    #[test]
    fn mean_and_std_leave_floats_alone_and_say_so() {
        let options = Options { samples: Samples::All, mean: vec![0.5], ..Options::default() };
        let data =
            Npz::new().with("x", arr2(&[[1.0f32]])).with("y", arr1(&[0u8])).open(&options).unwrap();
        let fitted = data.fit_inputs(&[input("in", DType::F32, &[1, 1])]).unwrap();
        assert_eq!(fitted.tensors[0].scalar(), Some(1.0));
        assert!(fitted.warnings[0].contains("uint8 images only"));
    }

    #[test]
    fn shapes_beyond_reason_are_refused_before_memory_is_taken() {
        let data = Dataset::open("synthetic", &Options::default()).unwrap();
        let error = fit_one(&data, &[1, 1 << 40, 1 << 40]).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
}
