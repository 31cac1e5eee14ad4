//! The tables of an experiment, in Markdown and CSV.

use std::io::{self, Write};

use super::evaluate::{Agreement, Estimate};
use super::plan::Nulls;
use super::results::{Comparison, MeanRanks, Results};
use crate::report::{Align, Format, Grid, number, printable};

/// Writes all tables, each under a heading.
///
/// # Errors
/// When `out` fails.
pub fn write(results: &Results, format: Format, out: &mut dyn Write) -> io::Result<()> {
    let write = |grid: &Grid, out: &mut dyn Write| format.renderer().grid(grid, out);
    let [first, second] = if format == Format::Markdown { ["# ", "## "] } else { [""; 2] };
    writeln!(out, "{first}{}", printable(&results.name))?;
    for benched in &results.benchmarks {
        writeln!(out, "\n{second}{}", printable(&benched.title()))?;
        for comparison in &benched.truths {
            writeln!(out, "\n{}\n", printable(&lead(benched.space, comparison)))?;
            write(&agreement(comparison, results.statistics.top), out)?;
        }
        for (reason, count) in &benched.failures {
            writeln!(out, "\n- {count} failed: {}", printable(reason))?;
        }
    }
    for table in variants(results) {
        writeln!(out, "\n{second}{}\n", printable(&table.title))?;
        write(&table.grid, out)?;
    }
    for ranks in &results.mean_ranks {
        writeln!(out, "\n{second}{}\n", printable(&title(ranks)))?;
        write(&mean_rank(ranks), out)?;
    }
    writeln!(out, "\n{}", note(results))
}

/// What a table is over.
pub(super) fn lead(space: &str, of: &Comparison) -> String {
    format!(
        "{} networks of {space}, against {}: the best reaches {}, their mean is {}.",
        of.networks,
        of.truth,
        number(of.best),
        number(of.mean)
    )
}

/// The heading of mean ranks.
pub(super) fn title(ranks: &MeanRanks) -> String {
    let over = format!("Mean rank over {} benchmarks", ranks.benchmarks.len());
    match ranks.variant.as_str() {
        "" => over,
        variant => format!("{over}, {variant}"),
    }
}

/// What the tables have in common.
pub(super) fn note(results: &Results) -> String {
    let by = &results.statistics;
    let nulls = match by.nulls {
        Nulls::Last => "A network without a score is ranked last.",
        Nulls::Drop => "A network without a score is left out, which rewards scores that fail.",
    };
    let intervals = match by.resamples {
        0 => String::new(),
        n => format!(
            " In brackets, 95 % intervals by the bootstrap over networks ({n} resamples, seed {}).",
            by.seed
        ),
    };
    format!(
        "{nulls} Equal scores are taken in random order: what the first are worth is a mean.{intervals}"
    )
}

/// How scores agree with accuracies.
pub(super) fn agreement(of: &Comparison, top: usize) -> Grid {
    let has_draws = of.scores.iter().any(|score| score.draws.is_some());
    let best = format!("best of the first {top}");
    let mut columns =
        vec!["score", "Kendall's tau-b", "Spearman", "first", &best, "regret", "without a score"];
    if has_draws {
        columns.push("tau-b of single draws");
    }
    let align = |at| if at == 0 { Align::Left } else { Align::Right };
    let mut grid = Grid::new(columns.into_iter().enumerate().map(|(at, name)| (name, align(at))));
    for score in &of.scores {
        let Agreement { kendall_tau, spearman, first, best_of_top, regret, .. } = score;
        let mut cells = vec![
            score.score.clone(),
            estimate(kendall_tau, 3),
            estimate(spearman, 3),
            estimate(first, 2),
            estimate(best_of_top, 2),
            estimate(regret, 2),
            score.without_score.to_string(),
        ];
        if has_draws {
            cells.push(match &score.draws {
                None => dash(),
                Some(draws) => match (draws.mean, draws.std) {
                    (Some(mean), Some(std)) => format!("{mean:.3} ±{std:.3}"),
                    _ => dash(),
                },
            });
        }
        grid.push(cells);
    }
    grid
}

/// The mean ranks of scores.
pub(super) fn mean_rank(ranks: &MeanRanks) -> Grid {
    let mut grid = Grid::new([
        ("score", Align::Left),
        ("mean rank by tau-b", Align::Right),
        ("mean rank by the first", Align::Right),
    ]);
    for rank in &ranks.scores {
        let by_first = rank.by_first.map_or_else(dash, |rank| format!("{rank:.2}"));
        grid.push([rank.score.clone(), estimate(&rank.by_kendall_tau, 2), by_first]);
    }
    grid
}

/// A table under a heading.
pub(super) struct Table {
    pub title: String,
    pub grid: Grid,
}

/// For each benchmark of several variants, Kendall's tau-b of each score in each of them.
pub(super) fn variants(results: &Results) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let groups = results.benchmarks.chunk_by(|a, b| a.benchmark == b.benchmark);
    for group in groups.filter(|group| group.len() > 1) {
        let mut names = Vec::new();
        let comparisons = || group.iter().filter_map(|benched| benched.truths.first());
        let scores = comparisons().flat_map(|comparison| &comparison.scores);
        push_new(&mut names, scores.map(|score| score.score.as_str()));
        let columns = group.iter().map(|benched| (benched.variant.as_str(), Align::Right));
        let mut grid = Grid::new([("score", Align::Left)].into_iter().chain(columns));
        for name in names {
            let of = |comparison: &Comparison| {
                let score = comparison.scores.iter().find(|score| score.score == name);
                score.map_or_else(dash, |score| estimate(&score.kendall_tau, 3))
            };
            grid.push([name.to_owned()].into_iter().chain(comparisons().map(of)));
        }
        let benchmark = &group[0].benchmark;
        tables.push(Table { title: format!("Kendall's tau-b on {benchmark}, by variant"), grid });
    }
    tables
}

fn estimate(estimate: &Estimate, digits: usize) -> String {
    let Some(value) = estimate.value else { return dash() };
    match estimate.interval {
        None => format!("{value:.digits$}"),
        Some(at) => format!("{value:.digits$} [{:.digits$}, {:.digits$}]", at.low, at.high),
    }
}

fn dash() -> String {
    "–".into()
}

/// Adds the names that are not there yet.
fn push_new<'a>(names: &mut Vec<&'a str>, more: impl Iterator<Item = &'a str>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// Writes a line for each score on each benchmark, with all digits.
///
/// # Errors
/// When `out` fails.
pub fn csv(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    const ESTIMATES: [&str; 5] = ["kendall_tau", "spearman", "first", "best_of_top", "regret"];
    let mut columns: Vec<(String, Align)> = ["benchmark", "variant", "space", "truth", "score"]
        .map(|name| (name.to_owned(), Align::Left))
        .to_vec();
    let mut numbers = vec!["networks".to_owned(), "without_score".to_owned()];
    for name in ESTIMATES {
        numbers.extend(["", ".low", ".high"].map(|end| format!("{name}{end}")));
    }
    numbers.extend(["draws", "draws.mean", "draws.std"].map(String::from));
    columns.extend(numbers.into_iter().map(|name| (name, Align::Right)));
    let mut grid = Grid::new(columns);
    let text = |number: Option<f64>| number.map(|n| n.to_string()).unwrap_or_default();
    for benched in &results.benchmarks {
        for comparison in &benched.truths {
            for score in &comparison.scores {
                let mut cells = vec![
                    benched.benchmark.clone(),
                    benched.variant.clone(),
                    benched.space.to_owned(),
                    comparison.truth.clone(),
                    score.score.clone(),
                    score.networks.to_string(),
                    score.without_score.to_string(),
                ];
                let Agreement { kendall_tau, spearman, first, best_of_top, regret, .. } = score;
                for estimate in [kendall_tau, spearman, first, best_of_top, regret] {
                    cells.push(text(estimate.value));
                    cells.push(text(estimate.interval.map(|interval| interval.low)));
                    cells.push(text(estimate.interval.map(|interval| interval.high)));
                }
                let draws = score.draws.as_ref();
                cells.push(draws.map_or(1, |draws| draws.kendall_tau.len()).to_string());
                cells.push(text(draws.and_then(|draws| draws.mean)));
                cells.push(text(draws.and_then(|draws| draws.std)));
                grid.push(cells);
            }
        }
    }
    Format::Csv.renderer().grid(&grid, out)
}

/// Writes a line for each network of each benchmark: its accuracies and its scores, with all digits.
///
/// # Errors
/// When `out` fails.
pub fn networks(results: &Results, out: &mut dyn Write) -> io::Result<()> {
    let mut truths: Vec<&str> = Vec::new();
    let mut scores: Vec<&str> = Vec::new();
    for benched in &results.benchmarks {
        push_new(&mut truths, benched.values.iter().map(String::as_str));
        push_new(&mut scores, benched.columns.iter().map(|column| column.name.as_str()));
    }
    let fixed = ["benchmark", "variant", "network", "architecture"];
    let columns = fixed.iter().map(|name| ((*name).to_owned(), Align::Left));
    let of_truth = truths.iter().map(|name| (format!("truth.{name}"), Align::Right));
    let of_score = scores.iter().map(|name| ((*name).to_owned(), Align::Right));
    let mut grid = Grid::new(columns.chain(of_truth).chain(of_score));
    let text = |number: Option<f64>| number.map(|n| n.to_string()).unwrap_or_default();
    for benched in &results.benchmarks {
        for (row, network) in benched.networks.iter().enumerate() {
            let mut cells = vec![
                benched.benchmark.clone(),
                benched.variant.clone(),
                network.name.clone(),
                network.notation.clone(),
            ];
            for truth in &truths {
                let at = benched.values.iter().position(|name| name == truth);
                cells.push(text(at.and_then(|at| *network.accuracies.get(at)?)));
            }
            for score in &scores {
                let column = benched.columns.iter().find(|column| column.name == *score);
                cells.push(text(column.and_then(|column| *column.values.get(row)?)));
            }
            grid.push(cells);
        }
    }
    Format::Csv.renderer().grid(&grid, out)
}
