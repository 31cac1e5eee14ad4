//! The page of an experiment: its tables, and scatter plots of accuracy against each score.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::evaluate::Agreement;
use super::results::{Benched, Results};
use super::tables;
use crate::report::Grid;
use crate::report::html::{
    counted, document, embedded, escaped, list, plain_table, section, tiles,
};

const PAGE: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");

/// How many networks a plot shows at most: more would only cover each other, and make the page large.
const MOST: usize = 4000;

/// What the plots of a benchmark show.
#[derive(Serialize)]
struct Points<'a> {
    title: String,
    truth: &'a str,
    /// How many networks there are, of which these are some.
    of: usize,
    names: Vec<&'a str>,
    accuracies: Vec<f64>,
    scores: Vec<PointsOfScore<'a>>,
}

#[derive(Serialize)]
struct PointsOfScore<'a> {
    score: &'a str,
    tau: Option<f64>,
    values: Vec<Option<f64>>,
}

/// The page, in one file that loads nothing. `command` is the command line that gives it again.
///
/// # Errors
/// When the results cannot be written as JSON.
pub fn page(results: &Results, command: Option<&str>) -> io::Result<String> {
    let title = escaped(&results.name);
    let points: Vec<Points> = results.benchmarks.iter().flat_map(points).collect();
    document(PAGE, SCRIPT, |name| {
        Ok(Some(match name {
            "generator" => escaped(&format!("{} {}", results.tool.name, results.tool.version)),
            "title" => title.clone(),
            "lead" => escaped(&tables::note(results)),
            "tiles" => tiles(&facts(results)),
            "tables" => tables_of(results),
            "repeat" => repeat(results, command)?,
            "points" => embedded(&serde_json::to_string(&points)?),
            _ => return Ok(None),
        }))
    })
}

fn points(benched: &Benched) -> impl Iterator<Item = Points<'_>> {
    benched.truths.iter().filter_map(|comparison| {
        let at = benched.values.iter().position(|name| *name == comparison.truth)?;
        let accuracy = |i: usize| benched.networks[i].accuracies.get(at).copied().flatten();
        let known: Vec<(usize, f64)> =
            (0..benched.networks.len()).filter_map(|i| Some((i, accuracy(i)?))).collect();
        let shown = known.len().min(MOST);
        let rows: Vec<(usize, f64)> = (0..shown).map(|i| known[i * known.len() / shown]).collect();
        let score = |agreement: &'_ Agreement| -> Option<Vec<Option<f64>>> {
            let column = benched.columns.iter().find(|column| column.name == agreement.score)?;
            Some(rows.iter().map(|(i, _)| column.values[*i].map(six_digits)).collect())
        };
        let scores = comparison.scores.iter().filter_map(|agreement| {
            let values = score(agreement)?;
            Some(PointsOfScore {
                score: &agreement.score,
                tau: agreement.kendall_tau.value,
                values,
            })
        });
        Some(Points {
            title: format!("{}: {}", benched.title(), comparison.truth),
            truth: &comparison.truth,
            of: known.len(),
            scores: scores.collect(),
            names: rows.iter().map(|(i, _)| benched.networks[*i].name.as_str()).collect(),
            accuracies: rows.iter().map(|(_, accuracy)| *accuracy).collect(),
        })
    })
}

/// As many digits as a plot can show.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Numbers, each with what it is.
fn facts(results: &Results) -> Vec<(String, String)> {
    let networks: usize = results.benchmarks.iter().map(|benched| benched.networks.len()).sum();
    let runs: usize = results.benchmarks.iter().map(|benched| benched.runs.len()).sum();
    let mut facts =
        vec![(networks.to_string(), "networks".to_owned()), (runs.to_string(), "runs".to_owned())];
    let taus = results.benchmarks.iter().filter_map(|benched| {
        let scores = benched.truths.first()?.scores.iter();
        let best = scores.filter_map(|s| Some((s.kendall_tau.value?, s.score.as_str())));
        Some((best.max_by(|a, b| a.0.total_cmp(&b.0))?, benched.title()))
    });
    // Those of many would not be read.
    facts.extend(taus.take(4).map(|((tau, score), title)| {
        (format!("{tau:.3}"), format!("highest tau-b on {title}: {score}"))
    }));
    facts
}

fn tables_of(results: &Results) -> String {
    let mut html = String::new();
    let mut add = |title: &str, lead: &str, grid: &Grid, best: Option<usize>| {
        let id = format!("table-{}", html.matches("<section").count());
        let lead = format!("<p class=\"muted note\">{}</p>", escaped(lead));
        let table = plain_table(grid, |row| Some(row) == best);
        html += &section(&id, &escaped(title), &(lead + &table));
        html += "\n";
    };
    for benched in &results.benchmarks {
        for comparison in &benched.truths {
            let grid = tables::agreement(comparison, results.statistics.top);
            let title = format!("{}: {}", benched.title(), comparison.truth);
            let taus = comparison.scores.iter().map(|score| score.kendall_tau.value);
            let taus = taus.enumerate().filter_map(|(row, tau)| Some((row, tau?)));
            let best = taus.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(row, _)| row);
            add(&title, &tables::lead(benched.space, comparison), &grid, best);
        }
    }
    for table in tables::variants(results) {
        add(&table.title, "Kendall's tau-b of each variant.", &table.grid, None);
    }
    for ranks in &results.mean_ranks {
        let lead = format!("1 is the best: {}.", ranks.benchmarks.join(", "));
        add(&tables::title(ranks), &lead, &tables::mean_rank(ranks), Some(0));
    }
    let failures: Vec<String> = results
        .benchmarks
        .iter()
        .flat_map(|benched| {
            benched.failures.iter().map(|(reason, count)| {
                let title = escaped(&benched.title());
                let networks = counted(*count, "network");
                format!("<li><b>{title}: {networks}</b><div>{}</div></li>", escaped(reason))
            })
        })
        .collect();
    if !failures.is_empty() {
        html += &section("failed", "Failed", &list(&failures));
    }
    html
}

/// The command, and the settings of each run.
fn repeat(results: &Results, command: Option<&str>) -> serde_json::Result<String> {
    let mut html = String::new();
    if let Some(command) = command {
        html += &format!("<pre>{}</pre>\n", escaped(command));
    }
    for benched in &results.benchmarks {
        for run in &benched.runs {
            let (engine, data) = (&run.engine, &run.data);
            let title = format!(
                "{}: {} {} on {}, {} of {}",
                benched.title(),
                engine.name,
                engine.version,
                engine.device,
                counted(data.samples, "sample"),
                data.source
            );
            let settings = serde_json::to_string(&run.settings)?;
            // Writing to a string cannot fail.
            let _ = writeln!(
                html,
                "<details><summary>{}</summary><pre>{}</pre></details>",
                escaped(&title),
                escaped(&settings)
            );
        }
    }
    Ok(html)
}
