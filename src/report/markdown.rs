//! Tables in GitHub's Markdown.

use std::io::{self, Write};

use super::{Align, Grid, Renderer, grid, printable};
use crate::rank::Ranking;
use crate::score::Run;

/// The format.
pub(super) struct Markdown;

impl Renderer for Markdown {
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()> {
        self.grid(&grid::models(ranking), out)?;
        if let Some(correlation) = &ranking.correlation {
            writeln!(out)?;
            self.grid(&grid::correlation(correlation), out)?;
        }
        let notes = grid::notes(ranking);
        if !notes.is_empty() {
            writeln!(out)?;
        }
        for note in notes {
            writeln!(out, "- {}", inert(&note))?;
        }
        let Run { tool, engine, data, settings, .. } = &ranking.run;
        let made = format!(
            "{} {}, {} {} on {}, {} samples of {}; settings: {}",
            tool.name,
            tool.version,
            engine.name,
            engine.version,
            engine.device,
            data.samples,
            data.source,
            serde_json::to_string(settings)?
        );
        writeln!(out, "\n{}", inert(&made))
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        line(out, grid.columns.iter().map(|column| column.name.as_str()))?;
        let rule = |align| match align {
            Align::Left => "---",
            Align::Right => "---:",
        };
        line(out, grid.columns.iter().map(|column| rule(column.align)))?;
        grid.rows.iter().try_for_each(|row| line(out, row.iter().map(String::as_str)))
    }
}

fn line<'a>(out: &mut dyn Write, cells: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let cells: Vec<_> = cells.map(|cell| inert(cell).replace('|', "\\|")).collect();
    writeln!(out, "| {} |", cells.join(" | "))
}

/// Text that neither leaves its line or cell nor is taken for HTML.
fn inert(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('<', "&lt;")
}
