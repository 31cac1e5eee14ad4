//! Comma-separated values: one line a model, every value in full.
//!
//! Spreadsheets take a cell that begins like a formula for one. Text that does is given an apostrophe
//! in front, which they take for the sign of text.

use std::io::{self, Write};

use super::{Align, Grid, Renderer, printable};
use crate::rank::Ranking;
use crate::score::Run;

/// The format.
pub(super) struct Csv;

impl Renderer for Csv {
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()> {
        let names = ranking.score_names();
        let mut csv = csv::Writer::from_writer(out);
        // Asked for as a score, it stands among the scores.
        let flops = !names.iter().any(|name| name == "flops");
        let fixed = ["model", "name", "path", "key", "sha256", "parameters"].into_iter();
        let fixed = fixed.chain(flops.then_some("flops")).map(String::from);
        let of_score = |name: &String| {
            [name.clone(), format!("{name}.std"), format!("{name}.rank"), format!("{name}.bn")]
        };
        let last = ["seconds", "warnings", "error.kind", "error.message"];
        let last = last.into_iter().chain(["tool", "engine", "data", "settings"]).map(String::from);
        let run = run(&ranking.run)?;
        csv.write_record(fixed.chain(names.iter().flat_map(of_score)).chain(last))?;
        for row in &ranking.models {
            let mut record = vec![
                text(&row.model),
                text(&row.name),
                text(&row.path),
                row.key.clone().unwrap_or_default(),
                row.sha256.clone().unwrap_or_default(),
                number(row.parameters),
            ];
            if flops {
                record.push(number(row.flops));
            }
            for name in &names {
                let score = row.scores.get(name);
                record.push(number(score.and_then(|score| score.value)));
                record.push(number(score.and_then(|score| score.std)));
                record.push(number(score.and_then(|score| score.rank)));
                record.push(score.and_then(|score| score.bn.clone()).unwrap_or_default());
            }
            record.push(row.seconds.to_string());
            record.push(text(&row.warnings.join("; ")));
            record.push(row.error.as_ref().map(|e| e.kind.clone()).unwrap_or_default());
            record.push(row.error.as_ref().map(|e| text(&e.message)).unwrap_or_default());
            record.extend(run.clone());
            csv.write_record(record)?;
        }
        csv.flush()
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(grid.columns.iter().map(|column| &column.name))?;
        for row in &grid.rows {
            let cells = grid.columns.iter().zip(row).map(|(column, cell)| match column.align {
                Align::Left => text(cell),
                Align::Right => cell.clone(),
            });
            csv.write_record(cells)?;
        }
        csv.flush()
    }
}

/// What all rows have in common: without it, values in two files cannot be told to be of one kind.
fn run(run: &Run) -> io::Result<[String; 4]> {
    Ok([
        format!("{} {}", run.tool.name, run.tool.version),
        format!("{} {} {}", run.engine.name, run.engine.version, run.engine.device),
        serde_json::to_string(&run.data)?,
        serde_json::to_string(&run.settings)?,
    ])
}

fn number(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Text that is neither a formula nor more than a line.
fn text(value: &str) -> String {
    let value = printable(value);
    if value.starts_with(['=', '+', '-', '@']) { format!("'{value}") } else { value.into_owned() }
}
