//! The table of models: a row each, with a bar below each score.

use super::bars::Scale;
use super::text::{escaped, grouped};
use crate::rank::Ranking;
use crate::report::grid::number;
use crate::score::{ModelResult, ScoreEntry};

/// Head and rows of the table, and what is to be said below it.
pub(super) struct Table {
    pub html: String,
    pub note: String,
}

/// The models that have scores, in the order of the ranking. `data-i` is a model's place in it.
pub(super) fn models(ranking: &Ranking, accuracies: Option<&[Option<f64>]>) -> Table {
    let names = ranking.score_names();
    let scored: Vec<(usize, &ModelResult)> =
        ranking.models.iter().enumerate().filter(|(_, row)| row.error.is_none()).collect();
    let scales: Vec<Scale> = names.iter().map(|name| scale(&scored, name)).collect();
    // Asked for as a score, it stands among the scores.
    let flops = !names.iter().any(|name| name == "flops");

    let mut html = String::from("<thead><tr>");
    html += &head("model", "name", " class=\"text\"");
    for name in &names {
        html += &head(name, "score", &format!(" data-score=\"{}\"", escaped(name)));
    }
    if accuracies.is_some() {
        html += &head("accuracy", "accuracy", "");
    }
    html += &head("parameters", "parameters", "");
    if flops {
        html += &head("flops", "flops", "");
    }
    html += &head("seconds", "seconds", "");
    html += "</tr></thead>\n<tbody>\n";
    for (index, row) in &scored {
        html += &format!(
            "<tr data-i=\"{index}\"><th scope=\"row\" title=\"{}\">{}</th>",
            escaped(&about(row)),
            escaped(&row.name)
        );
        for (name, scale) in names.iter().zip(&scales) {
            html += &score_cell(row.scores.get(name), *scale, scored.len() > 1);
        }
        if let Some(accuracies) = accuracies {
            html += &cell(accuracies.get(*index).copied().flatten().map(number));
        }
        html += &cell(row.parameters.map(grouped));
        if flops {
            html += &cell(row.flops.map(grouped));
        }
        html += &cell(Some(format!("{:.2}", row.seconds)));
        html += "</tr>\n";
    }
    html += "</tbody>";
    Table { html, note: note(&names, &scales) }
}

fn scale(scored: &[(usize, &ModelResult)], name: &str) -> Scale {
    let values: Vec<f64> = scored.iter().filter_map(|(_, row)| row.value(name)).collect();
    Scale::of(&values)
}

fn head(title: &str, field: &str, attributes: &str) -> String {
    format!(
        "<th scope=\"col\" data-field=\"{field}\"{attributes}><span>{}</span></th>",
        escaped(title)
    )
}

/// What a model's name shows when it is pointed at.
fn about(row: &ModelResult) -> String {
    let parts = [("output", &row.output), ("loss", &row.loss), ("sha256", &row.sha256)];
    let parts =
        parts.iter().filter_map(|(what, text)| Some(format!("{what} {}", (*text).as_ref()?)));
    [row.path.clone()].into_iter().chain(parts).collect::<Vec<_>>().join(" · ")
}

fn cell(text: Option<String>) -> String {
    match text {
        Some(text) => format!("<td>{}</td>", escaped(&text)),
        None => "<td class=\"none\">–</td>".into(),
    }
}

fn score_cell(score: Option<&ScoreEntry>, scale: Scale, with_rank: bool) -> String {
    let Some(score) = score else { return cell(None) };
    let rank = score.rank.filter(|_| with_rank).map_or_else(String::new, |rank| {
        let first = if rank == 1 && score.value.is_some() { " class=\"first\"" } else { "" };
        format!(" <small{first}>#{rank}</small>")
    });
    let Some(value) = score.value else {
        return format!("<td class=\"none\" title=\"no value: see the warnings\">–{rank}</td>");
    };
    let std = score.std.map_or_else(String::new, |std| format!(" ±{}", number(std)));
    let length = scale.length(value, score.rank.unwrap_or(1));
    format!(
        "<td class=\"score\" style=\"--W:{length:.3}\" title=\"{value}\">{}{std}{rank}</td>",
        number(value)
    )
}

/// What the bars mean where they are not simply the values.
fn note(names: &[String], scales: &[Scale]) -> String {
    let of = |wanted: fn(&Scale) -> bool| {
        let names = names.iter().zip(scales).filter(|(_, scale)| wanted(scale));
        names.map(|(name, _)| escaped(name)).collect::<Vec<_>>().join(", ")
    };
    let mut note = String::from(
        "Higher is better; # is the rank. A bar below a value is relative to the best of its column.",
    );
    let by_rank = of(|scale| matches!(scale, Scale::ByRank { .. }));
    if !by_rank.is_empty() {
        note += &format!(
            " The values of {by_rank} are more than a factor of 1000 apart: these bars follow the rank."
        );
    }
    let from_lowest = of(|scale| matches!(scale, Scale::FromLowest { .. }));
    if !from_lowest.is_empty() {
        note += &format!(
            " Some values of {from_lowest} are negative: these bars begin at the lowest value."
        );
    }
    note
}
