//! Labelled samples: where they come from, which are drawn, and how they are fitted to a model.
//!
//! [`Dataset::open`] reads a source and keeps the samples it draws; [`Dataset::fit_inputs`] and
//! [`Dataset::fit_labels`] turn these into the tensors that one model takes. A data set can be
//! fitted to any number of models, so that all of them see the same samples.

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
pub use crate::import::DeclaredInput;
use crate::tensor::{Tensor, map_same};

pub use arrays::InputArray;
pub(crate) use fit::{agrees, fits};
pub use labels::{FittedLabels, Target, check_labels};

/// How many samples to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Samples {
    /// Every sample, in the order of the source.
    All,
    /// This many, balanced over the classes as far as they go.
    Count(NonZeroUsize),
}

impl Default for Samples {
    fn default() -> Self {
        NonZeroUsize::new(128).map_or(Samples::All, Samples::Count)
    }
}

/// As the command line has it.
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
    /// Seed of the draw and of synthetic inputs; 0 by default.
    pub seed: u64,
    /// Mean per channel, subtracted from uint8 images after scaling to [0, 1]; one value, one for
    /// each channel, or none for 0.
    pub mean: Vec<f32>,
    /// Standard deviation per channel, by which they are divided then; none for 1.
    pub std: Vec<f32>,
    /// The most bytes of memory that reading an archive may take; `None` for any number. Compressed
    /// ones may unpack to a thousand times their size.
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
pub struct FittedInputs {
    /// For each input, in the order asked, a tensor of the input's dtype and of shape
    /// `[n, dims[1..]…]`, with the samples along the leading axis.
    pub tensors: Vec<Tensor>,
    /// What the user should know about how they were fitted.
    pub warnings: Vec<String>,
}

/// Samples drawn from a source, with their labels.
#[derive(Clone, Debug)]
pub struct Dataset {
    description: Description,
    content: Content,
    labels: Labels,
    /// Where each sample stands in the source, counted from 0.
    places: Vec<usize>,
    normalisation: Normalisation,
    seed: u64,
    /// How many samples were asked for.
    asked: Samples,
    warnings: Vec<String>,
}

/// The samples as the source has them, in the order drawn.
#[derive(Clone, Debug)]
enum Content {
    /// Arrays by name; the samples lie along the leading axis.
    Arrays(BTreeMap<String, Stored>),
    /// Images, rows × columns × channels each; sizes may differ.
    Images(Vec<Array3<u8>>),
    /// Nothing is stored: values are drawn for the model's shapes.
    Synthetic,
}

/// An array of a file.
#[derive(Clone, Debug)]
enum Stored {
    /// Bytes: pixels for a floating-point input, small integers for an integer one.
    U8(ArcArray<u8, IxDyn>),
    /// Anything else.
    Tensor(Tensor),
    /// An array that is of no use, and why; an error only where it is needed.
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

    /// The samples at `indices`, which must be in range.
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
    /// One class a sample.
    Classes(Vec<i64>),
    /// One row of values a sample: regression targets, token labels.
    Values(Tensor),
    /// Made for the model's classes.
    Synthetic,
}

/// Mean and standard deviation per channel; empty for 0 and 1.
#[derive(Clone, Debug, Default)]
struct Normalisation {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalisation {
    /// Errs for what cannot be of values in [0, 1]. Those of bytes as they are, which many
    /// publications give, would make all images nearly the same.
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

/// A source whose labels are known and whose samples can be read.
struct Source {
    labels: Labels,
    /// How many samples there are.
    len: usize,
    warnings: Vec<String>,
    /// Reads the samples at the given indices; also returns the SHA-256 of the contents.
    read: Box<Read>,
}

impl Dataset {
    /// Reads `source` and draws samples from it.
    ///
    /// A source is one of
    /// - an `.npz` file with the arrays `images`, `x` or `inputs` (or, for models with several
    ///   inputs, an array named after each) and `labels` or `y`; dtypes bool, integers up to int64,
    ///   float16, float32, float64;
    /// - a folder with one folder of PNG or JPEG images for each class; classes are numbered in
    ///   the order of the sorted folder names;
    /// - a CIFAR-10 or CIFAR-100 binary file, or a folder with the training files of either
    ///   (CIFAR-100: the fine labels);
    /// - `synthetic`: standard normal inputs and balanced labels, made for each model.
    ///
    /// With [`Samples::Count`] the samples are drawn without replacement, balanced over the
    /// classes: the classes are put in a random order, each class's samples as well, and the
    /// classes are gone through in turn, one sample each, until there are enough. The generator
    /// is ChaCha8 seeded with `seed`, so a draw can be repeated anywhere. Where a source has
    /// fewer samples than asked for, all are used, with a warning.
    ///
    /// Errs when the source cannot be read, holds no samples, or holds labels that are not
    /// finite.
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
        let drawn_by = classes.as_ref().unwrap_or(&found.labels);
        let indices = draw::draw(drawn_by, found.len, options.samples, options.seed);
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
            places: indices,
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
            places: (0..samples.get()).collect(),
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

    /// How many samples were drawn.
    pub fn samples(&self) -> usize {
        self.description.samples
    }

    /// Where the sample drawn as number `i` stands in the source, counted from 0: what messages call
    /// it by.
    pub fn place(&self, i: usize) -> usize {
        self.places.get(i).copied().unwrap_or(i)
    }

    /// What the user should know about how the data was read.
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

/// Adds a warning that is not there yet.
fn push_once(warnings: &mut Vec<String>, warning: String) {
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

/// A shape with unknown dimensions as users write it: `1x3x?x?`.
fn show(dims: &[Option<usize>]) -> String {
    let dims: Vec<_> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    if dims.is_empty() { "scalar".into() } else { dims.join("x") }
}

/// A shape as users write it: `128x3x32x32`.
fn show_known(dims: &[usize]) -> String {
    show(&dims.iter().copied().map(Some).collect::<Vec<_>>())
}

/// Names as messages list them: `'a', 'b'`.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}
