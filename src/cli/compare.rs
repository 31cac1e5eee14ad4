//! `gradalign compare`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::Value;

use super::{Outcome, print};
use crate::rank::{Comparison, Failed, Move, ScoreComparison, compare};
use crate::report::{Align, Format, Grid, number, printable, read_file};

pub(super) const HELP: &str = "Examples:
  gradalign compare before.json after.json
  gradalign compare seed-0.jsonl seed-1.jsonl --metric gradalign-1 --format markdown

Exit codes: 0 compared, 2 not compared.";

/// How many names are listed before the others are counted.
const MOST_NAMES: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The first result: what 'score' or 'rank' wrote with '--format json' or 'jsonl'
    #[arg(value_name = "A.json")]
    pub a: PathBuf,

    /// The second result
    #[arg(value_name = "B.json")]
    pub b: PathBuf,

    /// The scores to compare [default: all that both have]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub metric: Vec<String>,

    /// How many models to list for each score, those that moved furthest first
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    /// How to write the comparison
    #[arg(long, value_enum, default_value_t)]
    pub format: Form,
}

/// The formats of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For reading in a terminal
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One line of comma-separated values for each model listed
    Csv,
    /// Tables in GitHub's Markdown
    Markdown,
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    let metrics: Vec<String> = args.metric.iter().map(|name| name.replace('_', "-")).collect();
    let mut found = compare(read_file(&args.a)?, read_file(&args.b)?, &metrics)?;
    found.scores.values_mut().for_each(|score| score.moves.truncate(args.top));
    let mut text = Vec::new();
    match args.format {
        Form::Json => {
            serde_json::to_writer_pretty(&mut text, &found)?;
            writeln!(text)?;
        }
        Form::Csv => {
            Format::Csv.renderer().grid(&lines(&found), &mut text)?;
            for note in notes(&found) {
                tracing::warn!("{note}");
            }
        }
        Form::Table => page(&found, &args, Format::Table, &mut text)?,
        Form::Markdown => page(&found, &args, Format::Markdown, &mut text)?,
    }
    print(&text)?;
    Ok(Outcome::Done)
}

/// The comparison for reading.
fn page(found: &Comparison, args: &Args, format: Format, out: &mut Vec<u8>) -> io::Result<()> {
    let markdown = format == Format::Markdown;
    let line = |out: &mut Vec<u8>, text: &str| {
        let text = printable(text);
        match markdown {
            true => writeln!(out, "- {}", text.replace('\\', "\\\\").replace('<', "&lt;")),
            false => writeln!(out, "{text}"),
        }
    };
    let renderer = format.renderer();
    line(out, &format!("A: {}", args.a.display()))?;
    line(out, &format!("B: {}", args.b.display()))?;
    for note in notes(found) {
        line(out, &note)?;
    }
    let differences = differences(found);
    if differences.rows.is_empty() {
        line(out, "settings, data, engine and versions are the same")?;
    } else {
        writeln!(out)?;
        renderer.grid(&differences, out)?;
    }
    if !found.scores.is_empty() {
        writeln!(out)?;
        renderer.grid(&summary(found), out)?;
    }
    for (name, score) in found.scores.iter().filter(|(_, score)| !score.moves.is_empty()) {
        let all = score.moves.len().max(score.changed.max(score.moved));
        let of = match score.moves.len() < all {
            true => format!("{} of {all} models that changed", score.moves.len()),
            false => "the models that changed".into(),
        };
        match markdown {
            true => writeln!(out, "\n### {name}: {of}\n")?,
            false => writeln!(out, "\n{name}: {of}")?,
        }
        renderer.grid(&moves(score), out)?;
    }
    Ok(())
}

/// What is to be said of the models, in a line each.
fn notes(found: &Comparison) -> Vec<String> {
    let mut notes = vec![format!("{} in both", models(found.models))];
    let mut say = |names: &[String], what: &str| {
        if !names.is_empty() {
            notes.push(format!("{} {what}: {}", models(names.len()), listed(names)));
        }
    };
    say(&found.only_a, "in A only");
    say(&found.only_b, "in B only");
    say(&found.ambiguous, "left out, as their names or keys occur several times");
    say(&found.changed_files, "with one name and other files");
    let mut failed = |all: &[Failed], side: &str| {
        notes.extend(all.iter().map(|failed| {
            let Failed { model, kind, message } = failed;
            format!("{model} failed in {side} only: {kind} — {message}")
        }));
    };
    failed(&found.failed_a, "A");
    failed(&found.failed_b, "B");
    if found.failed_both > 0 {
        notes.push(format!("{} failed in both", models(found.failed_both)));
    }
    for (names, side) in [(&found.scores_only_a, "A"), (&found.scores_only_b, "B")] {
        if !names.is_empty() {
            notes.push(format!("scores in {side} only: {}", names.join(", ")));
        }
    }
    notes
}

fn models(count: usize) -> String {
    if count == 1 { "1 model".into() } else { format!("{count} models") }
}

fn listed(names: &[String]) -> String {
    match names.len().checked_sub(MOST_NAMES) {
        Some(more @ 1..) => format!("{} and {more} more", names[..MOST_NAMES].join(", ")),
        _ => names.join(", "),
    }
}

fn differences(found: &Comparison) -> Grid {
    let mut grid = Grid::new(["differs", "A", "B"].map(|name| (name, Align::Left)));
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    for difference in &found.differences {
        grid.push([difference.field.clone(), text(&difference.a), text(&difference.b)]);
    }
    grid
}

/// A row for each score.
fn summary(found: &Comparison) -> Grid {
    let names = ["models", "Kendall's tau-b", "Spearman", "values changed", "ranks changed"];
    let columns = [("score", Align::Left)].into_iter();
    let columns = columns.chain(names.map(|name| (name, Align::Right)));
    let mut grid = Grid::new(columns.chain([("top-1", Align::Left)]));
    let three =
        |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.3}"));
    for (name, score) in found.scores.iter() {
        let top1 = match score.same_top1 {
            true => format!("same: {}", first(&score.top1_a)),
            false => format!("{} -> {}", first(&score.top1_a), first(&score.top1_b)),
        };
        grid.push([
            name.to_owned(),
            score.models.to_string(),
            three(score.kendall_tau),
            three(score.spearman),
            score.changed.to_string(),
            score.moved.to_string(),
            top1,
        ]);
    }
    grid
}

/// The models that are ranked first.
fn first(names: &[String]) -> String {
    match names {
        [] => "none".into(),
        [name] => name.clone(),
        [name, more @ ..] => format!("{name} and {} more", more.len()),
    }
}

/// A row for each model that changed.
fn moves(score: &ScoreComparison) -> Grid {
    let columns = ["rank A", "rank B", "value A", "value B", "change"];
    let columns = columns.map(|name| (name, Align::Right)).into_iter();
    let mut grid = Grid::new([("model", Align::Left)].into_iter().chain(columns));
    let value = |value: Option<f64>| value.map_or_else(|| "–".into(), number);
    for Move { model, rank_a, rank_b, value_a, value_b, relative } in &score.moves {
        grid.push([
            model.clone(),
            rank_a.to_string(),
            rank_b.to_string(),
            value(*value_a),
            value(*value_b),
            relative.map_or_else(|| "–".into(), percent),
        ]);
    }
    grid
}

/// A share in percent. Small ones keep their digits.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.abs() {
        0.0 => "0 %".into(),
        size if (0.01..1e6).contains(&size) => format!("{percent:+.2} %"),
        _ => format!("{percent:+.1e} %"),
    }
}

/// A line for each model listed, with values in full.
fn lines(found: &Comparison) -> Grid {
    let text = [("score", Align::Left), ("model", Align::Left)].into_iter();
    let numbers =
        ["rank A", "rank B", "value A", "value B", "relative change", "kendall tau-b", "spearman"];
    let mut grid = Grid::new(text.chain(numbers.map(|name| (name, Align::Right))));
    let value = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for (name, score) in found.scores.iter() {
        for Move { model, rank_a, rank_b, value_a, value_b, relative } in &score.moves {
            grid.push([
                name.to_owned(),
                model.clone(),
                rank_a.to_string(),
                rank_b.to_string(),
                value(*value_a),
                value(*value_b),
                value(*relative),
                value(score.kendall_tau),
                value(score.spearman),
            ]);
        }
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_in_percent() {
        for (share, text) in
            [(0.0, "0 %"), (0.5, "+50.00 %"), (-1e-7, "-1.0e-5 %"), (1e9, "+1.0e11 %")]
        {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(listed(&names[..2]), "0, 1");
        assert_eq!(listed(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
    }
}
