//! Decodes tensors to the dtypes of the IR.

use std::io::{self, Read};

use half::{bf16, f16};

use super::external::External;
use super::model::Literal;
use super::proto::TensorProto;
use super::proto::tensor_proto::{DataLocation, DataType};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The dtype in the IR for an ONNX element type. Floats of 16 bits and more become float32. Integers of 8
/// and 16 bits and int32 become int32; uint32, uint64 and int64 become int64. `None` for strings, complex
/// numbers, 8-bit floats, and types with fewer than 8 bits.
pub fn dtype_of(stored: DataType) -> Option<DType> {
    use DataType as T;
    Some(match stored {
        T::Float | T::Float16 | T::Bfloat16 | T::Double => DType::F32,
        T::Int8 | T::Uint8 | T::Int16 | T::Uint16 | T::Int32 => DType::I32,
        T::Int64 | T::Uint32 | T::Uint64 => DType::I64,
        T::Bool => DType::Bool,
        _ => return None,
    })
}

/// Why tensors of a type without an IR dtype cannot be used.
fn unusable(stored: DataType) -> String {
    match stored {
        DataType::String => "it holds strings".into(),
        DataType::Complex64 | DataType::Complex128 => "it holds complex numbers".into(),
        DataType::Undefined => "its element type is not said".into(),
        other => format!(
            "it holds {} values; export the model in float32 without quantisation",
            other.name()
        ),
    }
}

/// The number of bytes of a stored element.
pub(super) fn width(stored: DataType) -> u64 {
    use DataType as T;
    match stored {
        T::Int8 | T::Uint8 | T::Bool => 1,
        T::Int16 | T::Uint16 | T::Float16 | T::Bfloat16 => 2,
        T::Float | T::Int32 | T::Uint32 => 4,
        _ => 8,
    }
}

/// Decodes `proto`, consuming its data. Errs when data and shape do not agree, before memory for the
/// values is allocated.
pub(super) fn decode(proto: TensorProto, external: &mut External, source: &str) -> Result<Literal> {
    let name = proto.name.clone().unwrap_or_default();
    let fail = |why: String| Error::InvalidModel(format!("{source}: tensor '{name}': {why}"));
    let stored = DataType::try_from(proto.data_type.unwrap_or_default()).map_err(|_| {
        fail(format!("unknown element type {}", proto.data_type.unwrap_or_default()))
    })?;
    if dtype_of(stored).is_none() {
        return Ok(Literal { stored, tensor: Err(unusable(stored)) });
    }
    if proto.segment.is_some() {
        return Err(fail("tensors in segments are not supported; export the model again".into()));
    }
    let shape: Option<Vec<usize>> = proto.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(|| fail(format!("negative dimension in {:?}", proto.dims)))?;
    let bytes = shape
        .iter()
        .try_fold(width(stored), |n, &d| n.checked_mul(d as u64))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| fail(format!("shape {shape:?} is too large")))?;
    let len = (bytes / width(stored)) as usize;
    let mismatch = |have: usize, what: &str| {
        fail(format!("shape {shape:?} needs {len} values, the file has {have} {what}"))
    };
    let tensor = if proto.data_location == Some(DataLocation::External as i32) {
        let mut reader = external.reader(&name, &proto.external_data, bytes)?;
        read_values(&mut reader, len, stored).map_err(|e| fail(e.to_string()))?
    } else if let Some(raw) = proto.raw_data.filter(|raw| !raw.is_empty()) {
        if raw.len() as u64 != bytes {
            return Err(mismatch(raw.len(), &format!("bytes, not {bytes}")));
        }
        read_values(&mut &raw[..], len, stored).map_err(|e| fail(e.to_string()))?
    } else {
        let (have, tensor) = match stored {
            DataType::Float => (proto.float_data.len(), flat(proto.float_data)),
            DataType::Double => (proto.double_data.len(), cast(&proto.double_data, |v| v as f32)),
            DataType::Int64 => (proto.int64_data.len(), flat(proto.int64_data)),
            DataType::Uint32 | DataType::Uint64 => {
                (proto.uint64_data.len(), cast(&proto.uint64_data, saturate))
            }
            DataType::Bool => (proto.int32_data.len(), cast(&proto.int32_data, |v| v != 0)),
            DataType::Float16 => {
                let from_bits = |v| f16::from_bits(v as u16).to_f32();
                (proto.int32_data.len(), cast(&proto.int32_data, from_bits))
            }
            DataType::Bfloat16 => {
                let from_bits = |v| bf16::from_bits(v as u16).to_f32();
                (proto.int32_data.len(), cast(&proto.int32_data, from_bits))
            }
            _ => (proto.int32_data.len(), flat(proto.int32_data)),
        };
        if have != len {
            return Err(mismatch(have, "values"));
        }
        tensor
    };
    Ok(Literal { stored, tensor: Ok(tensor.reshape(&shape)?) })
}

fn saturate(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

fn flat<T>(values: Vec<T>) -> Tensor
where
    Tensor: From<ndarray::ArrayD<T>>,
{
    ndarray::Array1::from_vec(values).into_dyn().into()
}

fn cast<S: Copy, T>(values: &[S], f: impl Fn(S) -> T) -> Tensor
where
    Tensor: From<ndarray::ArrayD<T>>,
{
    flat(values.iter().map(|&v| f(v)).collect())
}

/// Reads `len` little-endian values through a small buffer.
fn read_values(reader: &mut dyn Read, len: usize, stored: DataType) -> io::Result<Tensor> {
    Ok(match stored {
        DataType::Float => flat(read_as(reader, len, f32::from_le_bytes)?),
        DataType::Double => flat(read_as(reader, len, |b| f64::from_le_bytes(b) as f32)?),
        DataType::Float16 => flat(read_as(reader, len, |b| f16::from_le_bytes(b).to_f32())?),
        DataType::Bfloat16 => flat(read_as(reader, len, |b| bf16::from_le_bytes(b).to_f32())?),
        DataType::Int8 => flat(read_as(reader, len, |b| i32::from(i8::from_le_bytes(b)))?),
        DataType::Uint8 => flat(read_as(reader, len, |[b]| i32::from(b))?),
        DataType::Int16 => flat(read_as(reader, len, |b| i32::from(i16::from_le_bytes(b)))?),
        DataType::Uint16 => flat(read_as(reader, len, |b| i32::from(u16::from_le_bytes(b)))?),
        DataType::Int32 => flat(read_as(reader, len, i32::from_le_bytes)?),
        DataType::Int64 => flat(read_as(reader, len, i64::from_le_bytes)?),
        DataType::Uint32 => flat(read_as(reader, len, |b| i64::from(u32::from_le_bytes(b)))?),
        DataType::Uint64 => flat(read_as(reader, len, |b| saturate(u64::from_le_bytes(b)))?),
        DataType::Bool => flat(read_as(reader, len, |[b]| b != 0)?),
        other => return Err(io::Error::other(unusable(other))),
    })
}

fn read_as<T, const N: usize>(
    reader: &mut dyn Read,
    len: usize,
    f: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let mut values = Vec::with_capacity(len);
    let at_once = len.min(1 << 16);
    let mut buffer = vec![0; at_once * N];
    while values.len() < len {
        let piece = &mut buffer[..(len - values.len()).min(at_once) * N];
        reader.read_exact(piece)?;
        values.extend(piece.as_chunks::<N>().0.iter().map(|&bytes| f(bytes)));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::external::Beside;
    use super::*;

    fn decoded(proto: TensorProto) -> Result<Tensor> {
        let literal = decode(proto, &mut External::new("test", Beside::Nothing), "test")?;
        literal.tensor.map_err(Error::UnsupportedModel)
    }

    fn raw(stored: DataType, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
        TensorProto {
            name: Some("t".into()),
            dims: dims.to_vec(),
            data_type: Some(stored as i32),
            raw_data: Some(bytes.into()),
            ..Default::default()
        }
    }

    #[test]
    fn every_width_is_widened_from_raw_bytes() {
        let f = decoded(raw(DataType::Float16, &[2], vec![0x00, 0x3c, 0x00, 0xc0])).unwrap();
        assert_eq!(f, Tensor::f32(&[2], vec![1.0, -2.0]).unwrap());
        let b = decoded(raw(DataType::Bfloat16, &[1], vec![0xc0, 0x3f])).unwrap();
        assert_eq!(b, Tensor::f32(&[1], vec![1.5]).unwrap());
        let d = decoded(raw(DataType::Double, &[1], 2.5f64.to_le_bytes().to_vec())).unwrap();
        assert_eq!(d, Tensor::f32(&[1], vec![2.5]).unwrap());
        let i = decoded(raw(DataType::Int8, &[2], vec![0xff, 1])).unwrap();
        assert_eq!(i.to_i64().unwrap().as_slice().unwrap(), [-1, 1]);
        assert_eq!(i.dtype(), DType::I32);
        let u = decoded(raw(DataType::Uint64, &[1], vec![0xff; 8])).unwrap();
        assert_eq!(u, Tensor::index([i64::MAX]));
        let t = decoded(raw(DataType::Bool, &[2], vec![0, 1])).unwrap();
        assert_eq!(t, Tensor::bool(&[2], vec![false, true]).unwrap());
    }

    #[test]
    fn typed_fields_are_read() {
        let half = TensorProto {
            dims: vec![1],
            data_type: Some(DataType::Float16 as i32),
            int32_data: vec![0x3c00],
            ..Default::default()
        };
        assert_eq!(decoded(half).unwrap(), Tensor::f32(&[1], vec![1.0]).unwrap());
        let scalar = TensorProto {
            data_type: Some(DataType::Int64 as i32),
            int64_data: vec![7],
            ..Default::default()
        };
        assert_eq!(decoded(scalar).unwrap().scalar(), Some(7.0));
    }

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        for (dims, bytes) in [
            (vec![1 << 40], vec![0; 16]),
            (vec![i64::MAX, i64::MAX], vec![0; 16]),
            (vec![-1], vec![0; 4]),
            (vec![2], vec![0; 7]),
        ] {
            let error = decoded(raw(DataType::Float, &dims, bytes)).unwrap_err();
            assert_eq!(error.kind(), "invalid-model", "{error}");
        }
    }

    #[test]
    fn strings_are_kept_out_with_the_reason() {
        let error = decoded(raw(DataType::String, &[1], vec![])).unwrap_err();
        assert!(error.to_string().contains("strings"), "{error}");
    }
}
