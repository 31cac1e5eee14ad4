//! The values of options, and what they are written as.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::data::Samples;
use crate::ops::BatchNormMode;
use crate::probe::GramKind;
use crate::transform::{Init, Loss};

/// Formats of what is not a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Plain {
    /// For reading in a terminal
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// A choice that can be left to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Auto<T> {
    Auto,
    This(T),
}

impl<T> Auto<T> {
    pub(in crate::cli) fn explicit(self) -> Option<T> {
        match self {
            Auto::Auto => None,
            Auto::This(choice) => Some(choice),
        }
    }
}

pub(super) fn names(names: &[&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(names.iter().copied())
}

pub(super) fn init() -> impl TypedValueParser<Value = Init> {
    let schemes: Vec<_> = Init::ALL.iter().map(|(_, name)| *name).collect();
    names(&schemes).try_map(|s| s.parse::<Init>())
}

pub(super) fn batch_norm() -> impl TypedValueParser<Value = Auto<BatchNormMode>> {
    names(&["auto", "running", "sample", "batch"]).map(|mode| match mode.as_str() {
        "running" => Auto::This(BatchNormMode::Running),
        "sample" => Auto::This(BatchNormMode::Sample),
        "batch" => Auto::This(BatchNormMode::Batch),
        _ => Auto::Auto,
    })
}

pub(super) fn loss() -> impl TypedValueParser<Value = Auto<Loss>> {
    names(&["auto", "cross-entropy", "bce", "mse", "token-cross-entropy"]).try_map(|s| {
        match s.as_str() {
            "auto" => Ok(Auto::Auto),
            name => name.parse::<Loss>().map(Auto::This),
        }
    })
}

pub(super) fn gram() -> impl TypedValueParser<Value = GramKind> {
    names(&["sign", "raw"]).map(|kind| match kind.as_str() {
        "raw" => GramKind::Raw,
        _ => GramKind::Sign,
    })
}

pub(super) fn positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "give a whole number above 0".into())
}

pub(super) fn several(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&number| number > 1)
        .ok_or_else(|| "give a whole number of 2 or above".into())
}

pub(super) fn samples(text: &str) -> Result<Samples, String> {
    match text {
        "all" => Ok(Samples::All),
        number => number
            .parse()
            .map(Samples::Count)
            .map_err(|_| "give a whole number above 0, or 'all'".into()),
    }
}

pub(super) fn ridge(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|ridge: &f64| ridge.is_finite() && *ridge >= 0.0)
        .ok_or_else(|| "give a number of 0 or above".into())
}

pub(super) fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dims) = text.rsplit_once('=').ok_or("give it as NAME=1x3x32x32")?;
    let dims = dims
        .split(['x', ','])
        .map(|dim| dim.trim().parse().ok().filter(|&dim| dim > 0))
        .collect::<Option<Vec<usize>>>()
        .ok_or("the dimensions must be whole numbers above 0, as in NAME=1x3x32x32")?;
    Ok((name.to_owned(), dims))
}

pub(super) fn fix(text: &str) -> Result<(String, Vec<f64>), String> {
    const FORM: &str = "give it as NAME=16000 or NAME=0.5,-1,2";
    let (name, values) = text.rsplit_once('=').ok_or(FORM)?;
    let values = values.split(',').map(|value| value.trim().parse().ok());
    let values = values.collect::<Option<Vec<f64>>>().ok_or(FORM)?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok((name.to_owned(), values)),
        false => Err("the values must be finite numbers".into()),
    }
}

pub(super) fn batch_axis(text: &str) -> Result<(String, Option<usize>), String> {
    const FORM: &str = "give it as NAME=1 or NAME=none";
    let (name, axis) = text.rsplit_once('=').ok_or(FORM)?;
    let axis = match axis.trim() {
        "none" => None,
        axis => Some(axis.parse().map_err(|_| FORM)?),
    };
    Ok((name.to_owned(), axis))
}

pub(super) fn pattern(text: &str) -> Result<String, String> {
    glob::Pattern::new(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// A size in bytes: `4GiB`, `512 MB`, `1.5G`, `1000000`. Units without an `i` count in thousands,
/// except the bare letters, which mean the same as with `iB`.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = unit.to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return Err(SIZES.into()),
    };
    let base: f64 = match unit.get(1..).unwrap_or_default() {
        "" | "ib" => 1024.0,
        "b" if power > 0 => 1000.0,
        _ => return Err(SIZES.into()),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| SIZES)? * base.powi(power);
    // NaN fails this as well.
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(SIZES.into()) }
}

const SIZES: &str = "give a size such as 4GiB, 500MB or 2000000000";
