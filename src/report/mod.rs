//! How results are written: a [`Renderer`] writes a [`Ranking`] in some [`Format`] to anything that can
//! be written to, and [`read`] gets the records back.

mod csv;
mod grid;
pub(crate) mod html;
mod json;
mod markdown;
mod read;
#[cfg(feature = "cli")]
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod text;

use std::io::{self, Write};

#[cfg(any(feature = "cli", feature = "experiment"))]
pub(crate) use grid::number;
pub use grid::{Align, Column, Grid};
pub use html::Page;
pub use read::{read, read_file};
pub use text::printable;

use crate::rank::Ranking;
use crate::score::Record;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Format {
    /// Aligned columns, for reading in a terminal.
    #[default]
    #[cfg(feature = "cli")]
    Table,
    /// One JSON document.
    #[cfg_attr(not(feature = "cli"), default)]
    Json,
    /// One line of JSON a model, as soon as it is scored; each is complete in itself, without ranks.
    Jsonl,
    /// One line of comma-separated values a model.
    Csv,
    /// A table in GitHub's Markdown.
    Markdown,
}

/// Writes results in one format.
pub trait Renderer {
    /// Writes a ranking. Errs when `out` does.
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()>;

    /// Writes a plain table. Errs when `out` does.
    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()>;
}

impl Format {
    /// The renderer for this format.
    pub fn renderer(self) -> &'static dyn Renderer {
        match self {
            #[cfg(feature = "cli")]
            Format::Table => &table::Table,
            Format::Json => &json::Json,
            Format::Jsonl => &json::Lines,
            Format::Csv => &csv::Csv,
            Format::Markdown => &markdown::Markdown,
        }
    }
}

/// Writes one record as a line of JSON.
///
/// # Errors
/// When `out` fails.
pub fn write_line(record: &Record, out: &mut dyn Write) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    out.write_all(&line)
}
