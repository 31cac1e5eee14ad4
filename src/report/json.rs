//! JSON, as one document or one record a line.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::{Grid, Renderer, write_line};
use crate::rank::Ranking;

/// One document.
pub(super) struct Json;

/// One record a line, without what a ranking adds.
pub(super) struct Lines;

impl Renderer for Json {
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, ranking)?;
        writeln!(out)
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &objects(grid).collect::<Vec<_>>())?;
        writeln!(out)
    }
}

impl Renderer for Lines {
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()> {
        ranking.clone().into_records().iter().try_for_each(|record| write_line(record, out))
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        for object in objects(grid) {
            serde_json::to_writer(&mut *out, &object)?;
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Each row as an object with the columns' names as keys.
fn objects(grid: &Grid) -> impl Iterator<Item = Map<String, Value>> {
    grid.rows.iter().map(|row| {
        let keys = grid.columns.iter().map(|column| column.name.clone());
        keys.zip(row.iter().cloned().map(Value::from)).collect()
    })
}
