//! NumPy archives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use ndarray::{Array, ArrayD, IxDyn, ShapeBuilder};
use zip::ZipArchive;

use super::{Content, Labels, Source, Stored, show_known};
use crate::error::{Error, Result};
use crate::file;
use crate::tensor::Tensor;

/// Names that are tried for the array of labels, in this order.
pub(super) const LABELS: [&str; 2] = ["labels", "y"];

/// Opens an archive. Its arrays may take at most `memory` bytes.
pub(super) fn open(path: &Path, memory: Option<u64>) -> Result<Source> {
    let sha256 = file::sha256(path)?;
    let (file, _) = file::open(path)?;

    let broken = |reason: &dyn std::fmt::Display| {
        Error::Data(format!("{}: not a readable .npz file: {reason}", path.display()))
    };
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| broken(&e))?;
    check_size(&mut archive, memory)
        .map_err(|why| Error::Memory(format!("{}: {why}", path.display())))?;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|e| broken(&e))?;
        let name = entry.name().trim_end_matches(".npy").to_owned();
        // Unpack no more than the directory says. Reading to the end verifies the checksum.
        let size = entry.size();
        let array = read_array(entry.take(size.saturating_add(1)))
            .map_err(|reason| broken(&format!("array '{name}': {reason}")))?;
        arrays.insert(name, array);
    }

    source(arrays, &path.display().to_string(), sha256)
}

/// The samples and labels that `arrays` hold; `at` is what messages call them.
pub(super) fn source(arrays: BTreeMap<String, Stored>, at: &str, sha256: String) -> Result<Source> {
    let (name, stored) =
        LABELS.iter().find_map(|&name| arrays.get_key_value(name)).ok_or_else(|| {
            Error::Data(format!(
                "{at}: no array of labels; name it 'labels' or 'y' (there are: {})",
                super::list(arrays.keys().map(String::as_str))
            ))
        })?;
    let labels =
        into_labels(stored.clone()).map_err(|why| Error::Data(format!("{at}: '{name}' {why}")))?;
    let len = labels.len();
    let of_samples = move |array: &Stored| array.shape().first() == Some(&len);
    let read = move |indices: &[usize]| {
        let arrays = arrays
            .into_iter()
            .map(|(name, array)| {
                let array = match &array {
                    Stored::Unreadable(_) => array,
                    fits if of_samples(fits) => fits.select(indices),
                    other => Stored::Unreadable(format!(
                        "has the shape {}, but there are labels of {len} samples; the leading \
                         axes must agree",
                        show_known(other.shape())
                    )),
                };
                (name, array)
            })
            .collect();
        Ok((Content::Arrays(arrays), sha256))
    };
    Ok(Source { labels, len, warnings: Vec::new(), read: Box::new(read) })
}

/// Archives up to this size are read regardless of the limit.
const SMALL: u64 = 1 << 20;

/// Errs, in words, if the arrays of an archive take more than `memory` bytes. Their sizes are read from
/// the directory, before anything is unpacked.
fn check_size(
    archive: &mut ZipArchive<BufReader<File>>,
    memory: Option<u64>,
) -> Result<(), String> {
    let Some(memory) = memory else { return Ok(()) };
    let sizes = (0..archive.len()).filter_map(|i| Some(archive.by_index_raw(i).ok()?.size()));
    // All arrays are held at once, and the bytes of one of them.
    let (all, largest) = sizes.fold((0u64, 0), |(all, largest): (u64, u64), size| {
        (all.saturating_add(size), largest.max(size))
    });
    let needed = all.saturating_add(largest);
    match needed > memory.max(SMALL) {
        true => Err(format!(
            "its arrays take {} MiB to be unpacked, of which {} are available: raise `memory`, or \
             keep fewer samples in it",
            needed.div_ceil(1 << 20),
            memory >> 20
        )),
        false => Ok(()),
    }
}

/// Reads an `.npy` file.
fn read_array(mut entry: impl Read) -> Result<Stored, String> {
    let header = Header::read(&mut entry)?;
    let Some(dtype) = &header.dtype else {
        return Ok(Stored::Unreadable("is a structured array".into()));
    };
    let (big, kind) = match dtype.strip_prefix('>') {
        Some(kind) => (true, kind),
        None => (false, dtype.trim_start_matches(['<', '|', '='])),
    };
    Ok(match kind {
        "u1" => Stored::U8(header.values(entry, big, u8::from_le_bytes)?.into_shared()),
        "f2" => {
            let half = |bytes| half::f16::from_le_bytes(bytes).to_f32();
            Stored::Tensor(header.values(entry, big, half)?.into())
        }
        "f4" => Stored::Tensor(header.values(entry, big, f32::from_le_bytes)?.into()),
        "f8" => Stored::Tensor(header.values(entry, big, f64::from_le_bytes)?.into()),
        "u2" => {
            let wide = |bytes| i32::from(u16::from_le_bytes(bytes));
            Stored::Tensor(header.values(entry, big, wide)?.into())
        }
        "i1" => {
            let wide = |bytes| i32::from(i8::from_le_bytes(bytes));
            Stored::Tensor(header.values(entry, big, wide)?.into())
        }
        "i2" => {
            let wide = |bytes| i32::from(i16::from_le_bytes(bytes));
            Stored::Tensor(header.values(entry, big, wide)?.into())
        }
        "u4" => {
            let wide = |bytes| i64::from(u32::from_le_bytes(bytes));
            Stored::Tensor(header.values(entry, big, wide)?.into())
        }
        "i4" => Stored::Tensor(header.values(entry, big, i32::from_le_bytes)?.into()),
        "i8" => Stored::Tensor(header.values(entry, big, i64::from_le_bytes)?.into()),
        "b1" => Stored::Tensor(header.values(entry, big, |[byte]| byte != 0)?.into()),
        _ => Stored::Unreadable(format!(
            "has the dtype '{dtype}'; the dtypes read are bool, integers up to int64, float16, \
             float32 and float64"
        )),
    })
}

/// The header of an `.npy` file: a Python dictionary.
struct Header {
    /// NumPy's name of the element type; `None` for structured arrays.
    dtype: Option<String>,
    /// Whether the first axis changes fastest.
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    fn read(entry: &mut impl Read) -> Result<Header, String> {
        let mut start = [0; 8];
        entry.read_exact(&mut start).map_err(|e| e.to_string())?;
        let [b'\x93', b'N', b'U', b'M', b'P', b'Y', version, _] = start else {
            return Err("it is not an .npy array".into());
        };
        // Version 1 counts the header's bytes in 16 bits, the later ones in 32.
        let mut length = [0; 4];
        let counted = if version == 1 { &mut length[..2] } else { &mut length[..] };
        entry.read_exact(counted).map_err(|e| e.to_string())?;
        let mut text = String::new();
        let length = u64::from(u32::from_le_bytes(length));
        entry.take(length).read_to_string(&mut text).map_err(|e| e.to_string())?;
        Header::parse(&text).ok_or_else(|| format!("its header is not readable: {text}"))
    }

    fn parse(text: &str) -> Option<Header> {
        let value = |key: &str| Some(text.split_once(key)?.1.trim_start());
        let dtype = value("'descr':")?
            .strip_prefix('\'')
            .and_then(|rest| rest.split_once('\''))
            .map(|(dtype, _)| dtype.to_owned());
        let fortran = value("'fortran_order':")?.starts_with("True");
        let (sizes, _) = value("'shape':")?.strip_prefix('(')?.split_once(')')?;
        let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
        Some(Header { dtype, fortran, shape })
    }

    /// Reads the values after the header, each of `N` bytes. The result is in row-major order.
    fn values<T: Clone, const N: usize>(
        &self,
        mut entry: impl Read,
        big_endian: bool,
        from_le_bytes: impl Fn([u8; N]) -> T,
    ) -> Result<ArrayD<T>, String> {
        let size = self.shape.iter().try_fold(N, |n, &d| n.checked_mul(d));
        let too_short = || format!("the file is too short for {}", show_known(&self.shape));
        let size = size.ok_or_else(too_short)?;
        // Allocate by the data that is there, not by the size that the header claims.
        let mut bytes = Vec::new();
        entry.by_ref().take(size as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() < size {
            return Err(too_short());
        }
        // Reading to the end of the entry verifies its checksum.
        match entry.read(&mut [0]).map_err(|e| format!("the file is damaged: {e}"))? {
            0 => {}
            _ => return Err(format!("there is more in it than {}", show_known(&self.shape))),
        }
        let value = |&(mut bytes): &[u8; N]| {
            if big_endian {
                bytes.reverse();
            }
            from_le_bytes(bytes)
        };
        let values = bytes.as_chunks().0.iter().map(value).collect();
        let shape = IxDyn(&self.shape).set_f(self.fortran);
        let array = Array::from_shape_vec(shape, values).map_err(|e| e.to_string())?;
        // Row-major order makes selecting along the leading axis fast.
        Ok(array.as_standard_layout().into_owned())
    }
}

/// Integers with one number per sample are classes. All other labels are values.
fn into_labels(stored: Stored) -> Result<Labels, String> {
    let tensor = match stored {
        Stored::Unreadable(why) => return Err(why),
        Stored::U8(bytes) => Tensor::from(bytes.mapv(i64::from)),
        Stored::Tensor(tensor) => tensor,
    };
    let Some((&len, rest)) = tensor.shape().split_first() else {
        return Err("is a single number; it needs one entry for each sample".into());
    };
    match tensor.to_i64() {
        Some(classes) if rest.iter().all(|&d| d == 1) => {
            Ok(Labels::Classes(classes.into_iter().collect()))
        }
        Some(values) => Ok(Labels::Values(values.into())),
        None => {
            if let Some(at) = tensor.to_f64().iter().position(|v| !v.is_finite()) {
                let sample = at / (tensor.len() / len).max(1);
                return Err(format!("is not finite at sample {sample}"));
            }
            Ok(Labels::Values(tensor))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use ndarray::{Array, Array1, Dimension, arr1, arr2};
    use ndarray_npy::{NpzWriter, WritableElement};
    use tempfile::{NamedTempFile, TempDir};

    use super::super::{Dataset, Options, Samples};
    use super::*;

    /// An archive under construction.
    pub(in super::super) struct Npz {
        file: NamedTempFile,
        writer: NpzWriter<File>,
    }

    impl Npz {
        pub(in super::super) fn new() -> Self {
            let file = tempfile::Builder::new().suffix(".npz").tempfile().unwrap();
            let writer = NpzWriter::new_compressed(file.reopen().unwrap());
            Npz { file, writer }
        }

        pub(in super::super) fn with<T: WritableElement, D: Dimension>(
            mut self,
            name: &str,
            array: Array<T, D>,
        ) -> Self {
            self.writer.add_array(name, &array).unwrap();
            self
        }

        pub(in super::super) fn open(self, options: &Options) -> Result<Dataset> {
            self.writer.finish().unwrap();
            Dataset::open(self.file.path().to_str().unwrap(), options)
        }

        pub(in super::super) fn all(self) -> Result<Dataset> {
            self.open(&Options { samples: Samples::All, ..Options::default() })
        }
    }

    fn message(result: Result<Dataset>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn an_archive_is_described() {
        let data = Npz::new()
            .with("x", arr2(&[[1.0f32], [2.0], [3.0]]))
            .with("y", arr1(&[4i32, 7, 4]))
            .all()
            .unwrap();
        let description = data.description();
        assert_eq!((description.samples, description.classes), (3, Some(2)));
        assert!(description.source.ends_with(".npz") && !description.source.contains('/'));
        assert_eq!(description.sha256.as_ref().unwrap().len(), 64);
        assert_eq!(data.labels, Labels::Classes(vec![4, 7, 4]));
    }

    #[test]
    fn labels_of_every_integer_dtype_are_classes_and_floats_are_values() {
        let labels = |npz: Npz| npz.with("x", arr2(&[[0.0f32], [0.0]])).all().unwrap().labels;
        let classes = Labels::Classes(vec![0, 1]);
        assert_eq!(labels(Npz::new().with("labels", arr1(&[0u8, 1]))), classes);
        assert_eq!(labels(Npz::new().with("labels", arr1(&[0i64, 1]))), classes);
        assert_eq!(labels(Npz::new().with("labels", arr1(&[false, true]))), classes);
        assert_eq!(labels(Npz::new().with("labels", arr2(&[[0i64], [1]]))), classes);
        let values = Npz::new().with("labels", arr1(&[0.5f64, 1.0]));
        assert!(matches!(labels(values), Labels::Values(_)));
        let tokens = Npz::new().with("labels", arr2(&[[0i64, 1], [2, 3]]));
        assert!(matches!(labels(tokens), Labels::Values(_)));
    }

    #[test]
    fn unusable_archives_say_why() {
        let x = || arr2(&[[1.0f32], [2.0]]);
        let missing = message(Npz::new().with("x", x()).all());
        assert!(missing.contains("name it 'labels' or 'y' (there are: 'x')"), "{missing}");
        let empty = Npz::new().with("labels", Array1::<i64>::zeros(0)).all();
        assert!(message(empty).contains("no samples"));
        let nan = Npz::new().with("x", x()).with("y", arr1(&[1.0f32, f32::NAN])).all();
        assert!(message(nan).contains("'y' is not finite at sample 1"));
        let dtype = Npz::new().with("y", arr1(&[1u64, 2])).all();
        assert!(message(dtype).contains("dtype '<u8'"));

        let folder = TempDir::new().unwrap();
        let path = folder.path().join("broken.npz");
        std::fs::write(&path, b"PK not really").unwrap();
        let broken = Dataset::open(path.to_str().unwrap(), &Options::default());
        assert!(message(broken).contains("not a readable .npz file"));
        assert_eq!(Dataset::open("/nowhere.npz", &Options::default()).unwrap_err().kind(), "io");
    }

    /// A damaged byte never changes values silently.
    #[test]
    fn damaged_archives_are_refused_or_harmless() {
        let npz = Npz::new()
            .with("x", Array::from_shape_fn((4, 3), |(i, j)| (i * 5 + j) as f32 / 7.0))
            .with("y", arr1(&[0i64, 1, 0, 1]));
        let Npz { file, writer } = npz;
        writer.finish().unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        let all = Options { samples: Samples::All, ..Options::default() };
        let open = || Dataset::open(file.path().to_str().unwrap(), &all);
        let read = |data: &Dataset| (format!("{:?}", data.content), data.labels.clone());
        let right = read(&open().unwrap());
        let mut checked = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(file.path(), bytes).unwrap();
            match open() {
                // A changed name or dtype shows when the array is fitted to a model's input.
                Ok(data) => {
                    let (content, labels) = read(&data);
                    let useless = !content.contains("\"x\"") || content.contains("Unreadable");
                    let same = content == right.0 || useless;
                    assert!(same && labels == right.1, "byte {at}: {content}");
                }
                Err(error) => checked += usize::from(error.to_string().contains("hecksum")),
            }
        }
        assert!(checked > 10, "{checked}");
    }

    fn npy(header: &str, values: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(values);
        bytes
    }

    #[test]
    fn big_endian_and_column_major_arrays_are_read() {
        let header = "{'descr': '>i4', 'fortran_order': True, 'shape': (2, 2), }\n";
        let values: Vec<u8> = [1i32, 3, 2, 4].iter().flat_map(|v| v.to_be_bytes()).collect();
        let Ok(Stored::Tensor(tensor)) = read_array(npy(header, &values).as_slice()) else {
            panic!("not read")
        };
        assert_eq!(tensor.to_i64().unwrap(), arr2(&[[1, 2], [3, 4]]).into_dyn());
    }

    #[test]
    fn small_numbers_are_read_as_wider_ones() {
        let one = |descr: &str, bytes: &[u8]| {
            let header =
                format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}\n");
            let Ok(Stored::Tensor(tensor)) = read_array(npy(&header, bytes).as_slice()) else {
                panic!("{descr} is not read")
            };
            tensor.to_f64().into_raw_vec_and_offset().0
        };
        // numpy.array([1.5, -2], 'float16').tobytes(), and so on
        assert_eq!(one("<f2", b"\x00\x3e\x00\xc0"), [1.5, -2.0]);
        assert_eq!(one(">f2", b"\x3e\x00\xc0\x00"), [1.5, -2.0]);
        assert_eq!(one("<u2", b"\x01\x00\xff\xff"), [1.0, 65535.0]);
        assert_eq!(one("|i1", b"\x01\xff"), [1.0, -1.0]);
        assert_eq!(one("<i2", b"\x01\x00\xff\xff"), [1.0, -1.0]);
        assert_eq!(one("<u4", b"\x01\x00\x00\x00\xff\xff\xff\xff"), [1.0, 4_294_967_295.0]);
    }

    #[test]
    fn a_header_that_promises_too_much_is_an_error() {
        for shape in ["(1000000000000,)", "(18446744073709551615, 4)", "(3,)"] {
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}");
            let error = read_array(npy(&header, &[0; 8]).as_slice()).unwrap_err();
            assert!(error.contains("too short"), "{error}");
        }
        assert!(read_array(&b"\x93NUMPY\x01\x00\xff\xff{"[..]).is_err());
        assert!(read_array(&b"something else"[..]).is_err());
    }

    #[test]
    fn an_archive_that_unpacks_to_more_than_memory_is_refused_unread() {
        let archive = || {
            Npz::new()
                .with("images", Array::<u8, _>::zeros((300, 3, 64, 64)))
                .with("labels", Array1::<i64>::zeros(300))
        };
        let open = |memory| archive().open(&Options { memory, ..Options::default() });
        let error = open(Some(4 << 20)).unwrap_err();
        assert_eq!(error.kind(), "memory");
        assert!(error.to_string().contains("8 MiB to be unpacked, of which 4"), "{error}");
        assert!(open(Some(8 << 20)).is_ok() && open(None).is_ok());
    }

    #[test]
    fn arrays_that_do_not_belong_to_the_samples_do_no_harm_until_needed() {
        let mut bytes = Vec::new();
        bytes
            .write_all(&npy("{'descr': '<U3', 'fortran_order': False, 'shape': (2,)}", &[0; 24]))
            .unwrap();
        assert!(matches!(read_array(bytes.as_slice()), Ok(Stored::Unreadable(_))));
        let data = Npz::new()
            .with("names", arr1(&[1u8, 2, 3]))
            .with("x", arr2(&[[1.0f32], [2.0]]))
            .with("y", arr1(&[0u8, 1]))
            .all();
        assert!(data.is_ok());
    }
}
