//! Aligned columns for the terminal.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::{Align, Grid, Renderer, grid, printable};
use crate::rank::Ranking;

/// The format.
pub(super) struct Table;

impl Renderer for Table {
    fn ranking(&self, ranking: &Ranking, out: &mut dyn Write) -> io::Result<()> {
        let models = grid::models(ranking);
        if !models.rows.is_empty() {
            self.grid(&models, out)?;
        }
        if let Some(correlation) = &ranking.correlation {
            writeln!(out)?;
            self.grid(&grid::correlation(correlation), out)?;
        }
        let notes = grid::notes(ranking);
        if !notes.is_empty() && !models.rows.is_empty() {
            writeln!(out)?;
        }
        notes.iter().try_for_each(|note| writeln!(out, "{}", printable(note)))
    }

    fn grid(&self, grid: &Grid, out: &mut dyn Write) -> io::Result<()> {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(grid.columns.iter().map(|column| &column.name));
        table.add_rows(grid.rows.iter().map(|row| row.iter().map(|cell| printable(cell))));
        if let Some(width) = grid.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for (index, column) in grid.columns.iter().enumerate() {
            if let Some(shown) = table.column_mut(index) {
                shown.set_padding((0, 2));
                shown.set_cell_alignment(match column.align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        writeln!(out, "{}", table.trim_fmt())
    }
}
