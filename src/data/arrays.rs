//! Samples in memory.

use std::collections::BTreeMap;

use ndarray::{Array, Dimension};

use super::{Dataset, Options, Stored, npz};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::tensor::Tensor;

/// What messages and reports call samples in memory.
const NAME: &str = "memory";

/// An array with samples along its leading axis, as an `.npz` file may hold it: of uint8, which are
/// pixels for a floating-point input, or of float32, float64, int32, int64 or bool, which are taken as
/// they are.
#[derive(Clone, Debug)]
pub struct InputArray(Stored);

impl<D: Dimension> From<Array<u8, D>> for InputArray {
    fn from(array: Array<u8, D>) -> Self {
        let array = array.into_dyn();
        let array = if array.is_standard_layout() {
            array
        } else {
            array.as_standard_layout().into_owned()
        };
        InputArray(Stored::U8(array.into_shared()))
    }
}

macro_rules! from_array {
    ($($type:ty),*) => {$(
        impl<D: Dimension> From<Array<$type, D>> for InputArray {
            fn from(array: Array<$type, D>) -> Self {
                Tensor::from(array.into_dyn()).into()
            }
        }
    )*};
}
from_array!(f32, f64, i32, i64, bool);

impl From<Tensor> for InputArray {
    fn from(tensor: Tensor) -> Self {
        InputArray(Stored::Tensor(tensor))
    }
}

impl Dataset {
    /// Draws samples from arrays in memory: what [`Dataset::open`] gives for an `.npz` file with the
    /// arrays `images` and `labels`. `images` are `[n, …]`, and `labels` `[n]` for classes or `[n, …]`
    /// for other targets.
    ///
    /// ```
    /// use gradalign::data::{Dataset, Options};
    /// use ndarray::{Array1, Array4};
    ///
    /// let images = Array4::<u8>::from_elem((20, 8, 8, 3), 128);
    /// let labels = Array1::<i64>::from_iter((0..20).map(|i| i % 10));
    /// let data = Dataset::from_arrays(images, labels, &Options::default()).unwrap();
    /// assert_eq!((data.samples(), data.description().classes), (20, Some(10)));
    /// ```
    ///
    /// # Errors
    /// When there are no samples, the leading axes differ, labels are not finite, or the
    /// normalisation in `options` makes no sense.
    pub fn from_arrays(
        images: impl Into<InputArray>,
        labels: impl Into<InputArray>,
        options: &Options,
    ) -> Result<Self> {
        Self::from_named_arrays([("images", images.into())], labels, options)
    }

    /// The same for a model with several inputs: an array named after each.
    ///
    /// # Errors
    /// As [`Dataset::from_arrays`]; and when two arrays have one name, or one that labels have.
    pub fn from_named_arrays(
        inputs: impl IntoIterator<Item = (impl Into<String>, InputArray)>,
        labels: impl Into<InputArray>,
        options: &Options,
    ) -> Result<Self> {
        options.normalisation().check()?;
        let mut arrays = BTreeMap::from([(npz::LABELS[0].to_owned(), labels.into().0)]);
        let samples = arrays.values().find_map(|labels| labels.shape().first().copied());
        for (name, InputArray(array)) in inputs {
            let name = name.into();
            if array.shape().first().copied() != samples {
                return Err(Error::Data(format!(
                    "the array '{name}' has the shape {:?}, but there are labels of {} samples; the \
                     leading axes must agree",
                    array.shape(),
                    samples.unwrap_or(0)
                )));
            }
            if npz::LABELS.contains(&name.as_str()) || arrays.contains_key(&name) {
                return Err(Error::Data(format!("two arrays are called '{name}'")));
            }
            arrays.insert(name, array);
        }
        let sha256 = digest(&arrays);
        Self::drawn(npz::source(arrays, NAME, sha256)?, NAME, NAME, options)
    }
}

/// The SHA-256 in hex of arrays with their names, dtypes and shapes.
fn digest(arrays: &BTreeMap<String, Stored>) -> String {
    let mut hash = Hash::default();
    for (name, array) in arrays {
        hash.text(format_args!("{}:{name}", name.len()));
        match array {
            Stored::U8(bytes) => {
                hash.numbers(bytes.shape().iter().copied());
                hash.bytes(bytes.iter().copied());
            }
            Stored::Tensor(tensor) => hash.tensor(tensor),
            Stored::Unreadable(why) => hash.text(format_args!("{why}")),
        }
    }
    hash.hex()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2, Array4};

    use super::super::npz::tests::Npz;
    use super::super::{Samples, Target};
    use super::*;
    use crate::import::DeclaredInput;
    use crate::tensor::DType;

    fn options() -> Options {
        let samples = Samples::Count(NonZeroUsize::new(7).unwrap());
        Options { samples, seed: 3, mean: vec![0.4, 0.5, 0.6], std: vec![0.2], memory: None }
    }

    fn input(name: &str, dims: &[usize]) -> DeclaredInput {
        let dims = std::iter::once(None).chain(dims.iter().copied().map(Some)).collect();
        DeclaredInput { name: name.into(), dtype: DType::F32, dims, vocabulary: None }
    }

    #[test]
    fn arrays_in_memory_are_those_of_an_archive() {
        let pixels =
            Array4::from_shape_fn((20, 4, 4, 3), |(i, a, b, c)| (i * 50 + a * b + c) as u8);
        let flat = Array2::from_shape_fn((20, 5), |(i, j)| (i as f32) - 0.5 * j as f32);
        let labels = Array1::from_iter((0..20).map(|i| i % 4));
        for (name, dims) in [("images", &[3usize, 4, 4][..]), ("x", &[5])] {
            let npz = Npz::new().with("labels", labels.clone());
            let (stored, made) = match name {
                "images" => (
                    npz.with(name, pixels.clone()).open(&options()),
                    Dataset::from_arrays(pixels.clone(), labels.clone(), &options()),
                ),
                _ => {
                    let options = Options { mean: Vec::new(), std: Vec::new(), ..options() };
                    (
                        npz.with(name, flat.clone()).open(&options),
                        Dataset::from_arrays(flat.clone(), labels.clone(), &options),
                    )
                }
            };
            let (stored, made) = (stored.unwrap(), made.unwrap());
            let fitted = |data: &Dataset| data.fit_inputs(&[input("x", dims)]).unwrap().tensors;
            assert_eq!(fitted(&stored), fitted(&made), "{name}");
            let target = Target::Class { classes: 4 };
            let of = |data: &Dataset| data.fit_labels(&target).unwrap().tensor;
            assert_eq!(of(&stored), of(&made));
            assert_eq!(stored.description().samples, made.description().samples);
            assert_eq!(
                (made.description().source.as_str(), made.place(0)),
                ("memory", stored.place(0))
            );
        }
    }

    #[test]
    fn arrays_are_known_by_their_digest() {
        let of = |value: f32, class: i64| {
            let labels = Array1::from_vec(vec![0, class]);
            let data = Dataset::from_arrays(Array2::from_elem((2, 3), value), labels, &options());
            data.unwrap().description().sha256.clone().unwrap()
        };
        assert_eq!(of(1.0, 1), of(1.0, 1));
        assert!(of(1.0, 1) != of(2.0, 1) && of(1.0, 1) != of(1.0, 2));
    }

    #[test]
    fn arrays_that_do_not_go_together_are_refused() {
        let labels = || Array1::<i64>::zeros(3);
        let array = |n: usize| InputArray::from(Array2::<f32>::zeros((n, 2)));
        let error = |inputs: Vec<(&str, InputArray)>| {
            Dataset::from_named_arrays(inputs, labels(), &options()).unwrap_err().to_string()
        };
        assert!(error(vec![("a", array(2))]).contains("leading axes must agree"));
        assert!(error(vec![("a", array(3)), ("a", array(3))]).contains("two arrays"));
        assert!(error(vec![("y", array(3))]).contains("two arrays"));
        let none = Dataset::from_arrays(array(0), Array1::<i64>::zeros(0), &options());
        assert!(none.unwrap_err().to_string().contains("no samples"));
        let options = Options { std: vec![0.0], ..options() };
        assert!(Dataset::from_arrays(array(3), labels(), &options).is_err());
    }
}
