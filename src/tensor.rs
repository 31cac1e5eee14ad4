//! Dense tensors with a dtype, a static shape, and shared row-major data.

use std::fmt;
use std::io::{self, Write};

use ndarray::{ArcArray, ArrayD, ArrayViewD, IxDyn};

use crate::error::{Error, Result};

/// Element type of a tensor. Other ONNX types are widened to one of these at import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// Boolean.
    Bool,
}

impl DType {
    /// Whether values of this type carry gradients.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::Bool => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::Bool => "bool",
        })
    }
}

type Array<T> = ArcArray<T, IxDyn>;

/// A dense tensor; cloning shares the data.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tensor {
    /// 32-bit floats.
    F32(Array<f32>),
    /// 64-bit floats.
    F64(Array<f64>),
    /// 32-bit integers.
    I32(Array<i32>),
    /// 64-bit integers.
    I64(Array<i64>),
    /// Booleans.
    Bool(Array<bool>),
}

/// Evaluates `$body` with `$a` bound to the typed array of any dtype.
macro_rules! dispatch {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($a) => $body,
            $crate::tensor::Tensor::F64($a) => $body,
            $crate::tensor::Tensor::I32($a) => $body,
            $crate::tensor::Tensor::I64($a) => $body,
            $crate::tensor::Tensor::Bool($a) => $body,
        }
    };
}
pub(crate) use dispatch;

/// Like [`dispatch`], but wraps the resulting array in a tensor of the same dtype.
macro_rules! map_same {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::F32($a) => $crate::tensor::Tensor::from($body),
            $crate::tensor::Tensor::F64($a) => $crate::tensor::Tensor::from($body),
            $crate::tensor::Tensor::I32($a) => $crate::tensor::Tensor::from($body),
            $crate::tensor::Tensor::I64($a) => $crate::tensor::Tensor::from($body),
            $crate::tensor::Tensor::Bool($a) => $crate::tensor::Tensor::from($body),
        }
    };
}
pub(crate) use map_same;

macro_rules! from_array {
    ($($variant:ident $t:ty),*) => {$(
        impl From<ArrayD<$t>> for Tensor {
            fn from(a: ArrayD<$t>) -> Self {
                let a = if a.is_standard_layout() { a } else { a.as_standard_layout().into_owned() };
                Tensor::$variant(a.into_shared())
            }
        }
        impl From<Array<$t>> for Tensor {
            fn from(a: Array<$t>) -> Self {
                if a.is_standard_layout() { Tensor::$variant(a) } else { a.into_owned().into() }
            }
        }
    )*};
}
from_array!(F32 f32, F64 f64, I32 i32, I64 i64, Bool bool);

impl Tensor {
    /// A float32 tensor from row-major data. Errs when the lengths differ.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        build(shape, data).map(Tensor::F32)
    }

    /// A float64 tensor from row-major data. Errs when the lengths differ.
    pub fn f64(shape: &[usize], data: Vec<f64>) -> Result<Self> {
        build(shape, data).map(Tensor::F64)
    }

    /// An int64 tensor from row-major data. Errs when the lengths differ.
    pub fn i64(shape: &[usize], data: Vec<i64>) -> Result<Self> {
        build(shape, data).map(Tensor::I64)
    }

    /// A boolean tensor from row-major data. Errs when the lengths differ.
    pub fn bool(shape: &[usize], data: Vec<bool>) -> Result<Self> {
        build(shape, data).map(Tensor::Bool)
    }

    /// A one-dimensional int64 tensor.
    pub fn index(values: impl IntoIterator<Item = i64>) -> Self {
        ndarray::Array1::from_iter(values).into_dyn().into()
    }

    /// A tensor of `shape` filled with `value`, cast to `dtype`.
    pub fn full(dtype: DType, shape: &[usize], value: f64) -> Self {
        let shape = IxDyn(shape);
        match dtype {
            DType::F32 => ArrayD::from_elem(shape, value as f32).into(),
            DType::F64 => ArrayD::from_elem(shape, value).into(),
            DType::I32 => ArrayD::from_elem(shape, value as i32).into(),
            DType::I64 => ArrayD::from_elem(shape, value as i64).into(),
            DType::Bool => ArrayD::from_elem(shape, value != 0.0).into(),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Tensor::F32(_) => DType::F32,
            Tensor::F64(_) => DType::F64,
            Tensor::I32(_) => DType::I32,
            Tensor::I64(_) => DType::I64,
            Tensor::Bool(_) => DType::Bool,
        }
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        dispatch!(self, a => a.shape())
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        dispatch!(self, a => a.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as float64 (booleans as 0 and 1).
    pub fn to_f64(&self) -> ArrayD<f64> {
        match self {
            Tensor::F32(a) => a.mapv(f64::from),
            Tensor::F64(a) => a.to_owned(),
            Tensor::I32(a) => a.mapv(f64::from),
            Tensor::I64(a) => a.mapv(|v| v as f64),
            Tensor::Bool(a) => a.mapv(|v| f64::from(u8::from(v))),
        }
    }

    /// The values as int64; `None` for floating-point tensors.
    pub fn to_i64(&self) -> Option<ArrayD<i64>> {
        match self {
            Tensor::I32(a) => Some(a.mapv(i64::from)),
            Tensor::I64(a) => Some(a.to_owned()),
            Tensor::Bool(a) => Some(a.mapv(i64::from)),
            Tensor::F32(_) | Tensor::F64(_) => None,
        }
    }

    /// The float32 view of a float32 tensor.
    pub fn as_f32(&self) -> Option<ArrayViewD<'_, f32>> {
        match self {
            Tensor::F32(a) => Some(a.view()),
            _ => None,
        }
    }

    /// The values of a float32 tensor as a row-major slice.
    pub fn f32_slice(&self) -> Option<&[f32]> {
        match self {
            Tensor::F32(a) => a.as_slice(),
            _ => None,
        }
    }

    /// Float64 values cast to `dtype`: integers by truncation, booleans by `!= 0`.
    pub fn from_f64(values: ArrayD<f64>, dtype: DType) -> Self {
        match dtype {
            DType::F32 => values.mapv(|v| v as f32).into(),
            DType::F64 => values.into(),
            DType::I32 => values.mapv(|v| v as i32).into(),
            DType::I64 => values.mapv(|v| v as i64).into(),
            DType::Bool => values.mapv(|v| v != 0.0).into(),
        }
    }

    /// Int64 values cast to `dtype`.
    pub fn from_i64(values: ArrayD<i64>, dtype: DType) -> Self {
        match dtype {
            DType::F32 => values.mapv(|v| v as f32).into(),
            DType::F64 => values.mapv(|v| v as f64).into(),
            DType::I32 => values.mapv(|v| v as i32).into(),
            DType::I64 => values.into(),
            DType::Bool => values.mapv(|v| v != 0).into(),
        }
    }

    /// The tensor with its values cast to `dtype`.
    pub fn cast(&self, dtype: DType) -> Self {
        if self.dtype() == dtype {
            return self.clone();
        }
        match self.to_i64() {
            Some(values) => Tensor::from_i64(values, dtype),
            None => Tensor::from_f64(self.to_f64(), dtype),
        }
    }

    /// The same data in another shape. Errs when the numbers of elements differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if self.shape() == shape {
            return Ok(self.clone());
        }
        let failed = |_| Error::Shape(format!("cannot reshape {:?} to {shape:?}", self.shape()));
        Ok(map_same!(self, a => a.clone().into_shape_with_order(IxDyn(shape)).map_err(failed)?))
    }

    /// The single value of a one-element tensor, as float64.
    pub fn scalar(&self) -> Option<f64> {
        if self.len() == 1 { self.to_f64().first().copied() } else { None }
    }

    /// The elements in row-major order as little-endian bytes, the `raw_data` of ONNX.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len() * self.dtype().size());
        // Writing to a vector cannot fail.
        let _ = self.write_le_bytes(&mut all);
        all
    }

    /// Writes the bytes of [`Tensor::to_le_bytes`] in pieces.
    ///
    /// # Errors
    /// When `to` fails.
    pub fn write_le_bytes(&self, to: &mut impl Write) -> io::Result<()> {
        fn pieces<T: Copy, const N: usize>(
            a: &Array<T>,
            to: &mut impl Write,
            bytes: fn(T) -> [u8; N],
        ) -> io::Result<()> {
            let mut piece = [[0; N]; 1024];
            let mut filled = 0;
            for &v in a {
                piece[filled] = bytes(v);
                filled += 1;
                if filled == piece.len() {
                    to.write_all(piece.as_flattened())?;
                    filled = 0;
                }
            }
            to.write_all(piece[..filled].as_flattened())
        }
        match self {
            Tensor::F32(a) => pieces(a, to, f32::to_le_bytes),
            Tensor::F64(a) => pieces(a, to, f64::to_le_bytes),
            Tensor::I32(a) => pieces(a, to, i32::to_le_bytes),
            Tensor::I64(a) => pieces(a, to, i64::to_le_bytes),
            Tensor::Bool(a) => pieces(a, to, |v| [u8::from(v)]),
        }
    }

    /// Whether every element equals `value`.
    pub fn is_all(&self, value: f64) -> bool {
        match self {
            Tensor::F32(a) => a.iter().all(|&v| f64::from(v) == value),
            Tensor::F64(a) => a.iter().all(|&v| v == value),
            Tensor::I32(a) => a.iter().all(|&v| f64::from(v) == value),
            Tensor::I64(a) => a.iter().all(|&v| v as f64 == value),
            Tensor::Bool(a) => a.iter().all(|&v| f64::from(u8::from(v)) == value),
        }
    }
}

fn build<T: Clone>(shape: &[usize], data: Vec<T>) -> Result<Array<T>> {
    let len = data.len();
    ArcArray::from_shape_vec(IxDyn(shape), data)
        .map_err(|_| Error::Shape(format!("{len} values do not fill shape {shape:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn construction_checks_the_length() {
        assert!(Tensor::f32(&[2, 2], vec![0.0; 3]).is_err());
        assert_eq!(Tensor::f32(&[2, 2], vec![0.0; 4]).unwrap().shape(), [2, 2]);
    }

    #[test]
    fn int64_casts_keep_all_bits() {
        let big = Tensor::index([i64::MAX, i64::MIN]);
        assert_eq!(big.cast(DType::I64), big);
        assert_eq!(big.to_i64().unwrap().as_slice().unwrap(), [i64::MAX, i64::MIN]);
    }

    #[test]
    fn arrays_in_other_orders_become_row_major() {
        let a = ndarray::arr2(&[[1.0f32, 2.0], [3.0, 4.0]]).reversed_axes().into_dyn();
        assert_eq!(Tensor::from(a).f32_slice().unwrap(), [1.0, 3.0, 2.0, 4.0]);
    }
}
