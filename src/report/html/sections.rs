//! What stands around the table of models: agreement with a truth, failures, warnings, origins.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::text::{counted, escaped};
use crate::ordered::Ordered;
use crate::rank::{Correlation, Ranking};
use crate::report::grid::{self, number};
use crate::report::{Align, Grid};
use crate::score::ScoreSettings;

/// How many names are shown before the others are folded away.
const SHOWN: usize = 6;

/// How the scores agree with the truth.
pub(super) fn correlation(found: &Ordered<Correlation>, accuracies: &[Option<f64>]) -> String {
    let taus = found.iter().filter_map(|(_, found)| found.kendall_tau);
    let best = taus.fold(f64::NEG_INFINITY, f64::max);
    let is_best = |row: usize| {
        found.iter().nth(row).is_some_and(|(_, found)| found.kendall_tau == Some(best))
    };
    let known: Vec<f64> = accuracies.iter().copied().flatten().collect();
    let mut note = String::new();
    if !known.is_empty() {
        let highest = known.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        note = format!(
            "<p class=\"muted note\">Over {} with a known accuracy: the best reaches {}, their mean is \
             {}. Top-1 accuracy is that of the model that a score ranks first. A model without a \
             value ranks last.</p>",
            counted(known.len(), "model"),
            number(highest),
            number(mean)
        );
    }
    section(
        "agreement",
        "Agreement with the truth",
        &(plain_table(&grid::correlation(found), is_best) + &note),
    )
}

/// The models that failed, with their kinds and reasons.
pub(super) fn failures(ranking: &Ranking) -> String {
    let failed = ranking.models.iter().filter_map(|row| Some((row, row.error.as_ref()?)));
    let items: Vec<String> = failed
        .map(|(row, error)| {
            format!(
                "<li><div><b title=\"{}\">{}</b> <span class=\"kind\">{}</span></div><div>{}</div></li>",
                escaped(&row.path),
                escaped(&row.name),
                escaped(&error.kind),
                escaped(&error.message)
            )
        })
        .collect();
    if items.is_empty() {
        return String::new();
    }
    let title = format!("Failed: {}", counted(items.len(), "model"));
    section("failed", &title, &list(&items))
}

/// The warnings, each with the models that it concerns.
pub(super) fn warnings(ranking: &Ranking) -> String {
    let warnings = ranking.models_by_warning();
    let items: Vec<String> = warnings
        .iter()
        .map(|(warning, models)| {
            let (whom, which) = match models.len() {
                1 => (escaped(models[0]), String::new()),
                n if n == ranking.models.len() => ("all models".into(), String::new()),
                n => (counted(n, "model"), names(models)),
            };
            format!("<li><b>{whom}</b><div>{}</div>{which}</li>", escaped(warning))
        })
        .collect();
    if items.is_empty() {
        return String::new();
    }
    section("warnings", &counted(items.len(), "warning"), &list(&items))
}

fn names(models: &[&str]) -> String {
    let all: Vec<String> = models.iter().map(|name| escaped(name)).collect();
    let all = all.join(", ");
    if models.len() <= SHOWN {
        return format!("<div class=\"names\">{all}</div>");
    }
    format!("<details class=\"names\"><summary>which ones</summary>{all}</details>")
}

/// All that the values depend on, and the command that gives them again.
pub(super) fn repeat(ranking: &Ranking, command: Option<&str>) -> serde_json::Result<String> {
    let run = &ranking.run;
    let mut html = String::new();
    if let Some(command) = command {
        html += &format!("<pre>{}</pre>\n", escaped(command));
    }
    let engine = &run.engine;
    let mut facts = vec![
        ("Tool", format!("{} {}", run.tool.name, run.tool.version)),
        ("Engine", format!("{} {}", engine.name, engine.version)),
        ("Device", engine.device.clone()),
        ("Data", run.data.source.clone()),
        ("Samples", run.data.samples.to_string()),
    ];
    facts.extend(run.data.classes.map(|classes| ("Classes", classes.to_string())));
    facts.extend(run.data.sha256.clone().map(|digest| ("SHA-256 of the data", digest)));
    facts.push(("Digest of the settings", run.settings_digest.clone()));
    html += "<dl class=\"facts\">";
    for (what, text) in facts {
        // Writing to a string cannot fail.
        let _ = write!(html, "<dt>{what}</dt><dd>{}</dd>", escaped(&text));
    }
    html += "</dl>\n<details open><summary>Settings; those in bold are not the defaults</summary>";
    html += "<ul class=\"settings\">";
    let defaults = fields(&ScoreSettings::new())?;
    for (name, value) in fields(&run.settings)? {
        let class = if defaults.get(&name) == Some(&value) { "" } else { " class=\"set\"" };
        let _ = write!(html, "<li{class}>{}: {}</li>", escaped(&name), escaped(&value.to_string()));
    }
    html += "</ul></details>";
    Ok(html)
}

fn fields(settings: &ScoreSettings) -> serde_json::Result<Map<String, Value>> {
    // By way of text, where a float32 has its own digits.
    match serde_json::from_str(&serde_json::to_string(settings)?)? {
        Value::Object(fields) => Ok(fields),
        other => Ok(Map::from_iter([("settings".to_owned(), other)])),
    }
}

/// A few numbers at the top.
pub(crate) fn tiles(facts: &[(String, String)]) -> String {
    let tile = |(value, what): &(String, String)| {
        format!("<li><b>{}</b><span>{}</span></li>", escaped(value), escaped(what))
    };
    facts.iter().map(tile).collect()
}

/// A part of a page under a heading.
pub(crate) fn section(id: &str, title: &str, content: &str) -> String {
    format!(
        "<section aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{content}\n\
         </section>"
    )
}

/// Items, one below the other.
pub(crate) fn list(items: &[String]) -> String {
    format!("<ul class=\"list\">{}</ul>", items.concat())
}

/// A table to read; rows that are best stand out.
pub(crate) fn plain_table(grid: &Grid, is_best: impl Fn(usize) -> bool) -> String {
    let class = |align| match align {
        Align::Left => " class=\"text\"",
        Align::Right => "",
    };
    let mut html = String::from("<div class=\"wide\"><table class=\"plain\"><thead><tr>");
    for column in &grid.columns {
        let name = escaped(&column.name);
        let _ = write!(html, "<th scope=\"col\"{}>{name}</th>", class(column.align));
    }
    html += "</tr></thead><tbody>";
    for (index, row) in grid.rows.iter().enumerate() {
        html += if is_best(index) { "<tr class=\"best\">" } else { "<tr>" };
        for (column, cell) in grid.columns.iter().zip(row) {
            let _ = write!(html, "<td{}>{}</td>", class(column.align), escaped(cell));
        }
        html += "</tr>";
    }
    html += "</tbody></table></div>";
    html
}
