//! JSON, as one document or one line a model.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Correlation, Grid, ModelRow, Ordered, Renderer, Report, Run};

/// One document.
pub(super) struct Json;

/// One line a model, each with all that the document says of the run.
pub(super) struct Lines;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    run: &'a Run,
    #[serde(flatten)]
    row: &'a ModelRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: &'a Option<Ordered<Correlation>>,
}

impl Renderer for Json {
    fn report(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &objects(grid).collect::<Vec<_>>())?;
        writeln!(out)
    }
}

impl Renderer for Lines {
    fn report(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        for row in &report.models {
            let line = Line { run: &report.run, row, correlation: &report.correlation };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
        Ok(())
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
