//! Plain tables: what the formats for people and spreadsheets have in common.

use crate::ordered::Ordered;
use crate::rank::{Correlation, Ranking};
use crate::score::ModelResult;

/// Which side the text of a column keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A column of a [`Grid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Its alignment.
    pub align: Align,
}

/// A table of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// The columns, from left to right.
    pub columns: Vec<Column>,
    /// The rows, each with one cell a column.
    pub rows: Vec<Vec<String>>,
    /// How wide it may be for reading: longer cells go over several lines. As wide as it is where
    /// it is `None`.
    pub width: Option<u16>,
}

impl Grid {
    /// A table with these columns and no rows.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        let columns =
            columns.into_iter().map(|(name, align)| Column { name: name.into(), align }).collect();
        Grid { columns, ..Grid::default() }
    }

    /// Adds a row.
    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }
}

/// The models that were scored, for people: values in six digits, each with its rank where there
/// are several to choose from.
pub(super) fn models(ranking: &Ranking) -> Grid {
    let names = ranking.score_names();
    let scored: Vec<&ModelResult> =
        ranking.models.iter().filter(|row| row.error.is_none()).collect();
    let mut columns = vec![("model".to_owned(), Align::Left)];
    columns.extend(names.iter().map(|name| (name.clone(), Align::Right)));
    // Asked for as a score, it stands among the scores.
    let flops = !names.iter().any(|name| name == "flops");
    let last = ["parameters"].into_iter().chain(flops.then_some("flops")).chain(["seconds"]);
    columns.extend(last.map(|name| (name.into(), Align::Right)));
    let mut grid = Grid::new(columns);
    for row in &scored {
        let mut cells = vec![row.name.clone()];
        cells.extend(names.iter().map(|name| score_cell(row, name, scored.len() > 1)));
        cells.push(row.parameters.map_or_else(dash, |n| n.to_string()));
        if flops {
            cells.push(row.flops.map_or_else(dash, |n| n.to_string()));
        }
        cells.push(format!("{:.2}", row.seconds));
        grid.push(cells);
    }
    grid
}

fn score_cell(row: &ModelResult, name: &str, with_rank: bool) -> String {
    let Some(score) = row.scores.get(name) else { return dash() };
    let mut cell = score.value.map_or_else(dash, number);
    if let Some(std) = score.std {
        cell += &format!(" ±{}", number(std));
    }
    if let Some(rank) = score.rank
        && with_rank
    {
        cell += &format!(" #{rank}");
    }
    cell
}

/// How the scores agree with the truth.
pub(super) fn correlation(correlation: &Ordered<Correlation>) -> Grid {
    let mut grid = Grid::new([
        ("score", Align::Left),
        ("Kendall's tau-b", Align::Right),
        ("Spearman", Align::Right),
        ("top-1 accuracy", Align::Right),
    ]);
    let optional = |value: Option<f64>| value.map_or_else(dash, |value| format!("{value:.3}"));
    for (name, found) in correlation.iter() {
        grid.push([
            name.to_owned(),
            optional(found.kendall_tau),
            optional(found.spearman),
            found.top1_accuracy.map_or_else(dash, number),
        ]);
    }
    grid
}

/// What goes below the table: the models that failed and why, and the warnings, each once with
/// the models that it concerns.
pub(super) fn notes(ranking: &Ranking) -> Vec<String> {
    let failed = ranking.models.iter().filter_map(|row| {
        let error = row.error.as_ref()?;
        Some(format!("{}: {} — {}", row.name, error.kind, error.message))
    });
    failed.chain(ranking.warnings()).collect()
}

fn dash() -> String {
    "–".into()
}

/// A number in six significant digits, without trailing zeros.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..9).contains(&magnitude) {
        return format!("{value:.5e}");
    }
    let text = format!("{value:.*}", (5 - magnitude).max(0) as usize);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (10988.912, "10988.9"),
            (0.0, "0"),
            (-3.5, "-3.5"),
            (123456789.0, "123456789"),
            (0.000123456789, "0.000123457"),
            (1.0e12, "1.00000e12"),
            (100.0, "100"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
