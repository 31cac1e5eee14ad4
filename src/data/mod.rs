//! Labelled samples: reading them, drawing some of them, and fitting them to a model.
//!
//! [`Dataset::open`] reads a source and draws samples from it. [`Dataset::fit_inputs`] and
//! [`Dataset::fit_labels`] convert them to the tensors that a model takes. A data set can be fitted to
//! any number of models, so that all of them see the same samples.

mod arrange;
mod arrays;
mod cifar;
mod draw;
mod fit;
mod folder;
mod images;
mod labels;
mod npz;
mod synthetic;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use ndarray::{ArcArray, Array3, Axis, IxDyn};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
pub use crate::file::sha256;
pub use crate::onnx::DeclaredInput;
use crate::tensor::{Tensor, map_same};

pub(crate) use arrange::{agrees, fits};
pub use arrays::InputArray;
pub use labels::{FittedLabels, Target, check_labels};

/// How many samples to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// Every sample, in the order of the source.
    All,
    /// This many, balanced over the classes as far as possible.
    Count(NonZeroUsize),
}

impl Default for Samples {
    fn default() -> Self {
        NonZeroUsize::new(128).map_or(Samples::All, Samples::Count)
    }
}

/// Serializes in the form of the command line: `"all"` or a number.
impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Samples::All => serializer.serialize_str("all"),
            Samples::Count(count) => count.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Count(NonZeroUsize),
            Name(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Count(count) => Ok(Samples::Count(count)),
            Form::Name(name) if name == "all" => Ok(Samples::All),
            Form::Name(name) => {
                let expected = "a number above 0, or 'all'";
                Err(de::Error::invalid_value(de::Unexpected::Str(&name), &expected))
            }
        }
    }
}

/// How a data set is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// How many samples to draw; 128 by default.
    pub samples: Samples,
    /// Seed for drawing samples and for synthetic inputs; 0 by default.
    pub seed: u64,
    /// Mean that is subtracted from uint8 images after scaling to [0, 1]: one value for all channels,
    /// one for each channel, or none for 0.
    pub mean: Vec<f32>,
    /// Standard deviation by which uint8 images are then divided, in the same form; none for 1.
    pub std: Vec<f32>,
    /// The maximum memory for reading an archive, in bytes; `None` for no limit. A compressed archive
    /// may unpack to a thousand times its size.
    pub memory: Option<u64>,
}

impl Options {
    fn normalisation(&self) -> Normalisation {
        Normalisation { mean: self.mean.clone(), std: self.std.clone() }
    }
}

/// What a data set is, for reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Description {
    /// The file's or folder's name, or `synthetic`.
    pub source: String,
    /// How many samples were drawn.
    pub samples: usize,
    /// How many classes occur among them; `None` where labels are not classes, and for synthetic
    /// data, whose classes are the model's.
    pub classes: Option<usize>,
    /// SHA-256 in hex of the file; of the files in order, for a folder of CIFAR files; of the
    /// drawn images' paths and contents, for a folder of images; `None` for synthetic data.
    pub sha256: Option<String>,
}

/// Samples fitted to a model's inputs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FittedInputs {
    /// For each input, in the order given, a tensor `[n, dims[1..]…]` of the input's dtype, with the `n`
    /// samples along the leading axis.
    pub tensors: Vec<Tensor>,
    /// Warnings about the fit, such as images that were resized.
    pub warnings: Vec<String>,
}

/// Samples drawn from a source, with their labels.
#[derive(Clone, Debug)]
pub struct Dataset {
    description: Description,
    content: Content,
    labels: Labels,
    /// The index of each sample in the source.
    indices: Vec<usize>,
    normalisation: Normalisation,
    seed: u64,
    /// How many samples were asked for.
    asked: Samples,
    warnings: Vec<String>,
}

/// The samples in the form of the source, in the order drawn.
#[derive(Clone, Debug)]
enum Content {
    /// Arrays by name; the samples lie along the leading axis.
    Arrays(BTreeMap<String, Stored>),
    /// Images, rows × columns × channels each; sizes may differ.
    Images(Vec<Array3<u8>>),
    /// Nothing: values are generated for each model.
    Synthetic,
}

/// An array of an archive.
#[derive(Clone, Debug)]
enum Stored {
    /// uint8: pixels for a floating-point input, integers for an integer input.
    U8(ArcArray<u8, IxDyn>),
    /// Any other supported dtype.
    Tensor(Tensor),
    /// An array that cannot be used, and why. An error only if a model needs it.
    Unreadable(String),
}

impl Stored {
    fn shape(&self) -> &[usize] {
        match self {
            Stored::U8(a) => a.shape(),
            Stored::Tensor(t) => t.shape(),
            Stored::Unreadable(_) => &[],
        }
    }

    /// The samples at `indices`.
    ///
    /// # Panics
    /// When an index is out of range.
    fn select(&self, indices: &[usize]) -> Stored {
        match self {
            Stored::U8(a) => Stored::U8(a.select(Axis(0), indices).into_shared()),
            Stored::Tensor(t) => {
                Stored::Tensor(map_same!(t, a => a.select(Axis(0), indices).into_shared()))
            }
            Stored::Unreadable(reason) => Stored::Unreadable(reason.clone()),
        }
    }
}

/// The labels of a source.
#[derive(Clone, Debug, PartialEq)]
enum Labels {
    /// One class per sample.
    Classes(Vec<i64>),
    /// Values per sample along the leading axis: regression targets or classes of tokens.
    Values(Tensor),
    /// Nothing: labels are generated for the classes of each model.
    Synthetic,
}

/// Mean and standard deviation per channel; empty for 0 and 1.
#[derive(Clone, Debug, Default)]
struct Normalisation {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalisation {
    /// Errs when the values cannot be those of pixels in [0, 1]. Publications often give them for pixels
    /// in [0, 255], which would make all images nearly the same.
    fn check(&self) -> Result<()> {
        let refused = |what: &str, value: f32, values: &[f32]| {
            let mut why = format!(
                "{what} of {value} cannot be: uint8 images are scaled to [0, 1] before it is used"
            );
            if value > 1.0 {
                let scaled: Vec<_> = values.iter().map(|v| format!("{:.4}", v / 255.0)).collect();
                let _ = write!(why, "; divide by 255: {}", scaled.join(","));
            }
            Err(Error::Usage(why))
        };
        if let Some(std) = self.std.iter().find(|s| !(s.is_normal() && **s > 0.0)) {
            return Err(Error::Usage(format!("a standard deviation must be above 0, not {std}")));
        }
        if let Some(&mean) = self.mean.iter().find(|m| !(0.0..=1.0).contains(*m)) {
            return refused("a mean", mean, &self.mean);
        }
        match self.std.iter().find(|s| **s > 1.0) {
            Some(&std) => refused("a standard deviation", std, &self.std),
            None => Ok(()),
        }
    }

    fn is_identity(&self) -> bool {
        self.mean.iter().all(|&m| m == 0.0) && self.std.iter().all(|&s| s == 1.0)
    }
}

type Read = dyn FnOnce(&[usize]) -> Result<(Content, String)>;

/// A source with its labels read and its samples not yet.
struct Source {
    labels: Labels,
    /// The number of samples.
    len: usize,
    warnings: Vec<String>,
    /// Reads the samples at the given indices. Also returns [`Description::sha256`].
    read: Box<Read>,
}

impl Dataset {
    /// Reads `source` and draws samples from it.
    ///
    /// A source is one of
    /// - an `.npz` file with the arrays `images`, `x` or `inputs` (or, for models with several
    ///   inputs, an array named after each) and `labels` or `y`; dtypes bool, integers up to int64,
    ///   float16, float32, float64;
    /// - a folder with one folder of PNG or JPEG images per class; the classes are numbered by sorted
    ///   folder name;
    /// - a CIFAR-10 or CIFAR-100 binary file, or a folder with the training files of either
    ///   (CIFAR-100: the fine labels);
    /// - `synthetic`: standard normal inputs and balanced labels, generated for each model.
    ///
    /// With [`Samples::Count`], samples are drawn without replacement and balanced over the classes:
    /// the classes and the samples of each class are shuffled, then one sample is taken from each class
    /// in turn until there are enough. The generator is ChaCha8 seeded with `seed`, so a draw is the
    /// same on every machine. If a source has fewer samples than requested, all are used, with a warning.
    ///
    /// # Errors
    /// When the source cannot be read, has no samples, or has labels that are not finite.
    pub fn open(source: &str, options: &Options) -> Result<Self> {
        let normalisation = options.normalisation();
        normalisation.check()?;
        if source == synthetic::NAME {
            return Self::synthetic(options, normalisation);
        }
        let path = Path::new(source);
        let found = open_source(path, options.memory)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::drawn(found, source, &name, options)
    }

    /// The samples drawn from `found`, which messages call `source` and reports `name`.
    fn drawn(found: Source, source: &str, name: &str, options: &Options) -> Result<Self> {
        if found.len == 0 {
            return Err(Error::Data(format!("{source}: there are no samples in it")));
        }

        let mut warnings = found.warnings;
        if let Samples::Count(wanted) = options.samples
            && wanted.get() > found.len
        {
            warnings.push(format!(
                "{source} has {} samples where {wanted} were asked for; all are used",
                found.len
            ));
        }
        let classes = found.labels.one_hot();
        let balanced = classes.as_ref().unwrap_or(&found.labels);
        let indices = draw::draw(balanced, found.len, options.samples, options.seed);
        let labels = found.labels.select(&indices);
        let (content, sha256) = (found.read)(&indices)?;
        let description = Description {
            source: name.to_owned(),
            samples: indices.len(),
            classes: labels.distinct(),
            sha256: Some(sha256),
        };
        Ok(Dataset {
            description,
            content,
            labels,
            indices,
            normalisation: options.normalisation(),
            seed: options.seed,
            asked: options.samples,
            warnings,
        })
    }

    fn synthetic(options: &Options, normalisation: Normalisation) -> Result<Self> {
        let Samples::Count(samples) = options.samples else {
            return Err(Error::Usage(
                "synthetic data has no end: say how many samples to make".into(),
            ));
        };
        let description = Description {
            source: synthetic::NAME.into(),
            samples: samples.get(),
            classes: None,
            sha256: None,
        };
        let mut warnings = Vec::new();
        if !normalisation.is_identity() {
            warnings.push(
                "mean and standard deviation apply to uint8 images only; synthetic data is \
                 standard normal"
                    .into(),
            );
        }
        Ok(Dataset {
            description,
            content: Content::Synthetic,
            labels: Labels::Synthetic,
            indices: indices(samples.get(), options.memory)?,
            normalisation,
            seed: options.seed,
            asked: options.samples,
            warnings,
        })
    }

    /// Whether it is what reading the source with `options` gives.
    pub(crate) fn is_read_by(&self, options: &Options) -> bool {
        let Options { samples, seed, mean, std, memory: _ } = options;
        (self.asked, self.seed) == (*samples, *seed)
            && (&self.normalisation.mean, &self.normalisation.std) == (mean, std)
    }

    /// The source, the number of samples and classes, and the checksum.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The number of samples drawn.
    pub fn samples(&self) -> usize {
        self.description.samples
    }

    /// The index in the source of the sample that was drawn as number `i`, for use in messages.
    pub fn place(&self, i: usize) -> usize {
        self.indices.get(i).copied().unwrap_or(i)
    }

    /// Warnings from reading the source.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn open_source(path: &Path, memory: Option<u64>) -> Result<Source> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let is = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    if metadata.is_dir() {
        match cifar::training_files(path)? {
            files if files.is_empty() => folder::open(path),
            files => cifar::open(&files),
        }
    } else if is("npz") {
        npz::open(path, memory)
    } else if is("bin") {
        cifar::open(&[path.to_path_buf()])
    } else {
        Err(Error::Data(format!(
            "{}: not a known kind of data; give an .npz file, a folder of class folders with \
             images, CIFAR binary files (.bin), or 'synthetic'",
            path.display()
        )))
    }
}

/// Adds a warning unless it is already there.
fn push_once(warnings: &mut Vec<String>, warning: String) {
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

/// A shape with unknown dimensions in the notation of the command line: `1x3x?x?`.
fn show(dims: &[Option<usize>]) -> String {
    let dims: Vec<_> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    if dims.is_empty() { "scalar".into() } else { dims.join("x") }
}

/// A shape in the notation of the command line: `128x3x32x32`.
fn show_known(dims: &[usize]) -> String {
    show(&dims.iter().copied().map(Some).collect::<Vec<_>>())
}

/// Names quoted and separated by commas: `'a', 'b'`.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
/// The positions of `samples` samples.
fn indices(samples: usize, memory: Option<u64>) -> Result<Vec<usize>> {
    let bytes = samples.saturating_mul(size_of::<usize>());
    let too_many = || Error::Memory(format!("{samples} samples are more than memory has room for"));
    let mut indices = Vec::new();
    if memory.is_some_and(|memory| bytes as u64 > memory) {
        return Err(too_many());
    }
    indices.try_reserve_exact(samples).map_err(|_| too_many())?;
    indices.extend(0..samples);
    Ok(indices)
}
