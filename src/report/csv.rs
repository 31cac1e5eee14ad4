//! Comma-separated values: one line a model, every value in full.

use std::io::{self, Write};

use super::{Grid, Renderer, Report};

/// The format.
pub(super) struct Csv;

impl Renderer for Csv {
    fn report(&self, report: &Report, out: &mut dyn Write) -> io::Result<()> {
        let names = report.score_names();
        let mut csv = csv::Writer::from_writer(out);
        // Asked for as a score, it stands among the scores.
        let flops = !names.iter().any(|name| name == "flops");
        let fixed = ["model", "path", "sha256", "parameters"].into_iter();
        let fixed = fixed.chain(flops.then_some("flops")).map(String::from);
        let of_score = |name: &String| {
            [name.clone(), format!("{name}.std"), format!("{name}.rank"), format!("{name}.bn")]
        };
        let last = ["seconds", "warnings", "error.kind", "error.message"].map(String::from);
        csv.write_record(fixed.chain(names.iter().flat_map(of_score)).chain(last))?;
        for row in &report.models {
            let mut record = vec![
                row.model.clone(),
                row.path.clone(),
                row.sha256.clone().unwrap_or_default(),
                text(row.parameters),
            ];
            if flops {
                record.push(text(row.flops));
            }
            for name in &names {
                let score = row.scores.get(name);
                record.push(text(score.and_then(|score| score.value)));
                record.push(text(score.and_then(|score| score.std)));
                record.push(text(score.and_then(|score| score.rank)));
                record.push(score.and_then(|score| score.bn.clone()).unwrap_or_default());
            }
            record.push(row.seconds.to_string());
            record.push(row.warnings.join("; "));
            record.push(row.error.as_ref().map(|e| e.kind.clone()).unwrap_or_default());
            record.push(row.error.as_ref().map(|e| e.message.clone()).unwrap_or_default());
            csv.write_record(record)?;
        }
        csv.flush()
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(grid.columns.iter().map(|column| &column.name))?;
        for row in &grid.rows {
            csv.write_record(row)?;
        }
        csv.flush()
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
