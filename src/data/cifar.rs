//! CIFAR-10 and CIFAR-100 binary files. A record is the labels, then 32×32 pixels by channel.

use std::path::{Path, PathBuf};

use ndarray::Array3;
use sha2::{Digest, Sha256};

use super::{Content, Labels, Source};
use crate::error::{Error, Result};
use crate::file::{self, hex};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// One of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    name: &'static str,
    /// The number of bytes before the pixels. The last of them is the label.
    labels: usize,
    classes: u8,
}

/// One label byte.
const CIFAR10: Format = Format { name: "CIFAR-10", labels: 1, classes: 10 };
/// The coarse label, then the fine one.
const CIFAR100: Format = Format { name: "CIFAR-100", labels: 2, classes: 100 };

impl Format {
    fn record(self) -> usize {
        self.labels + PIXELS
    }

    /// The format of a file, by its published name or else by its length.
    fn of(path: &Path, length: usize) -> Result<Format> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let fits = |format: Format| length > 0 && length.is_multiple_of(format.record());
        let format = match name.as_ref() {
            "train.bin" | "test.bin" => Some(CIFAR100),
            "test_batch.bin" => Some(CIFAR10),
            name if name.starts_with("data_batch_") => Some(CIFAR10),
            _ => match (fits(CIFAR10), fits(CIFAR100)) {
                (true, false) => Some(CIFAR10),
                (false, true) => Some(CIFAR100),
                _ => None,
            },
        };
        let at = path.display();
        match format {
            Some(format) if fits(format) => Ok(format),
            Some(format) => Err(Error::Data(format!(
                "{at}: {length} bytes are not a whole number of {} records of {} bytes; the file \
                 is truncated or of another kind",
                format.name,
                format.record()
            ))),
            None => Err(Error::Data(format!(
                "{at}: {length} bytes are neither CIFAR-10 records of {} bytes nor CIFAR-100 \
                 records of {}; the file is truncated or of another kind",
                CIFAR10.record(),
                CIFAR100.record()
            ))),
        }
    }
}

/// The training files in a folder, sorted: `data_batch_*.bin`, or else `train.bin`. May be empty.
pub(super) fn training_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut batches = Vec::new();
    let mut train = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("data_batch_") && name.ends_with(".bin") {
            batches.push(path);
        } else if name == "train.bin" {
            train.push(path);
        }
    }
    batches.sort();
    Ok(if batches.is_empty() { train } else { batches })
}

pub(super) fn open(files: &[PathBuf]) -> Result<Source> {
    let mut digest = Sha256::new();
    let mut labels = Vec::new();
    let mut contents = Vec::new();
    for path in files {
        let bytes = file::read(path)?;
        let format = Format::of(path, bytes.len())?;
        digest.update(&bytes);
        for (index, record) in bytes.chunks_exact(format.record()).enumerate() {
            let label = record[format.labels - 1];
            if label >= format.classes {
                return Err(Error::Data(format!(
                    "{}: record {index} has the label {label}, which {} does not have; the file \
                     is of another kind",
                    path.display(),
                    format.name
                )));
            }
            labels.push(i64::from(label));
        }
        contents.push((format, bytes));
    }

    let sha256 = hex(digest);
    let len = labels.len();
    let read = move |indices: &[usize]| {
        let records: Vec<&[u8]> = contents
            .iter()
            .flat_map(|(format, bytes)| {
                bytes.chunks_exact(format.record()).map(|record| &record[format.labels..])
            })
            .collect();
        let image = |&index: &usize| {
            let pixels = records[index];
            Array3::from_shape_fn((SIDE, SIDE, 3), |(row, column, channel)| {
                pixels[(channel * SIDE + row) * SIDE + column]
            })
        };
        Ok((Content::Images(indices.iter().map(image).collect()), sha256))
    };
    Ok(Source { labels: Labels::Classes(labels), len, warnings: Vec::new(), read: Box::new(read) })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::{Dataset, Options, Samples};
    use super::*;

    fn record(labels: &[u8], value: u8) -> Vec<u8> {
        let mut bytes = labels.to_vec();
        // Red, green and blue planes of different values.
        bytes.extend((0..PIXELS).map(|i| value + (i / (SIDE * SIDE)) as u8));
        bytes
    }

    fn open_all(path: &Path) -> Result<Dataset> {
        let options = Options { samples: Samples::All, ..Options::default() };
        Dataset::open(path.to_str().unwrap(), &options)
    }

    #[test]
    fn a_folder_of_batches_is_read_in_order() {
        let folder = TempDir::new().unwrap();
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes);
        write("data_batch_2.bin", record(&[9], 50)).unwrap();
        write("data_batch_1.bin", [record(&[3], 10), record(&[5], 20)].concat()).unwrap();
        write("test_batch.bin", record(&[1], 0)).unwrap();
        let data = open_all(folder.path()).unwrap();
        assert_eq!(data.labels, Labels::Classes(vec![3, 5, 9]));
        let Content::Images(images) = &data.content else { panic!("not images") };
        assert_eq!(images[1][[31, 0, 0]], 20);
        assert_eq!(images[1][[0, 31, 2]], 22);
    }

    #[test]
    fn cifar_100_gives_its_fine_labels() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("train.bin");
        std::fs::write(&path, [record(&[1, 42], 0), record(&[19, 99], 0)].concat()).unwrap();
        for source in [path.as_path(), folder.path()] {
            assert_eq!(open_all(source).unwrap().labels, Labels::Classes(vec![42, 99]));
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = TempDir::new().unwrap();
        let message = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            open_all(&path).unwrap_err().to_string()
        };
        let whole = record(&[3], 10);
        assert!(message("data_batch_1.bin", &whole[..3000]).contains("truncated"));
        assert!(message("some.bin", &whole[..3000]).contains("neither CIFAR-10"));
        assert!(message("data_batch_1.bin", &record(&[10], 0)).contains("label 10"));
        assert!(message("train.bin", b"").contains("truncated"));
    }
}
