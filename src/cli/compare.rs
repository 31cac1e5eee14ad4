//! `gradalign compare`.

use std::fmt::Write;
use std::path::Path;

use super::args::{self, Plain};
use super::{Outcome, print, width};
use crate::rank::{Comparison, Failed, Move, compare};
use crate::report::{Align, Column, Format, Grid, printable, read};
use crate::score::Record;

pub(super) fn run(args: args::Compare) -> anyhow::Result<Outcome> {
    let args::Compare { a, b, metric, top, format } = args;
    let mut found = compare(records(&a)?, records(&b)?, &metric)?;
    for score in found.scores.values_mut() {
        score.moves.truncate(top);
    }
    let text = match format {
        Plain::Json => serde_json::to_string_pretty(&found)? + "\n",
        Plain::Table => describe(&found)?,
    };
    print(text.as_bytes())?;
    Ok(Outcome::Done)
}

fn records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = String::from_utf8_lossy(&crate::file::read(path)?).into_owned();
    Ok(read(&text, &path.display().to_string())?)
}

/// The comparison for reading in a terminal.
fn describe(found: &Comparison) -> anyhow::Result<String> {
    let mut text = format!("{} models are in both results\n", found.models);
    for (what, names) in [
        ("only in A", &found.only_a),
        ("only in B", &found.only_b),
        ("left out, since several have the name or key", &found.ambiguous),
        ("with other files", &found.changed_files),
        ("scores only in A", &found.scores_only_a),
        ("scores only in B", &found.scores_only_b),
    ] {
        if !names.is_empty() {
            writeln!(text, "{what}: {}", printable(&names.join(", ")))?;
        }
    }
    let failures = [("failed in A alone", &found.failed_a), ("failed in B alone", &found.failed_b)];
    for (what, failed) in failures {
        for Failed { model, kind, message } in failed {
            writeln!(text, "{what}: {} ({kind}: {})", printable(model), printable(message))?;
        }
    }
    if found.failed_both > 0 {
        writeln!(text, "failed in both: {}", found.failed_both)?;
    }
    for difference in &found.differences {
        let (a, b) = (difference.a.to_string(), difference.b.to_string());
        let field = printable(&difference.field);
        writeln!(text, "{field}: {} in A, {} in B", printable(&a), printable(&b))?;
    }
    for (name, score) in found.scores.iter() {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}"));
        writeln!(
            text,
            "\n{name}: {} models, Kendall's tau {}, Spearman {}, {} with another rank, {} with another \
             value, {} first",
            score.models,
            number(score.kendall_tau),
            number(score.spearman),
            score.moved,
            score.changed,
            match score.same_top1 {
                true => "the same".into(),
                false => format!("{} and {}", score.top1_a.join(", "), score.top1_b.join(", ")),
            }
        )?;
        if !score.moves.is_empty() {
            let mut table = Vec::new();
            Format::Table.renderer().grid(&moves(&score.moves), &mut table)?;
            text += &String::from_utf8_lossy(&table);
        }
    }
    Ok(text)
}

fn moves(moves: &[Move]) -> Grid {
    let column = |name: &str, align| Column { name: name.into(), align };
    let columns = vec![
        column("model", Align::Left),
        column("rank", Align::Right),
        column("value in A", Align::Right),
        column("value in B", Align::Right),
        column("change", Align::Right),
    ];
    let value = |value: Option<f64>| value.map_or("-".into(), |value| value.to_string());
    let rows = moves.iter().map(|m| {
        vec![
            m.model.clone(),
            format!("{} to {}", m.rank_a, m.rank_b),
            value(m.value_a),
            value(m.value_b),
            m.relative.map_or("-".into(), |change| format!("{:+.2}%", 100.0 * change)),
        ]
    });
    Grid { columns, rows: rows.collect(), width: Some(width()) }
}
