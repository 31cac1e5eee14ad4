//! `gradalign store` and `gradalign merge`.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use super::args::{self, StoreExport, StoreList, StorePrune};
use super::output::OutFile;
use super::{Outcome, flags, print};
use crate::rank::Ranking;
use crate::report::{Align, Column, Format, Grid, write_line};
use crate::score::Record;
use crate::store::{Prune, Store};

/// How much of a digest tells one run from another.
const SHORT: usize = 12;

pub(super) fn run(command: args::Store) -> anyhow::Result<Outcome> {
    match command {
        args::Store::List(args) => list(&args),
        args::Store::Export(args) => export(&args),
        args::Store::Prune(args) => prune(args),
    }
}

fn list(StoreList { store, format }: &StoreList) -> anyhow::Result<Outcome> {
    let runs = Store::existing(store)?.runs()?;
    let mut text = Vec::new();
    if *format == Format::Json {
        serde_json::to_writer_pretty(&mut text, &runs)?;
        text.push(b'\n');
    } else {
        let column = |name: &str, align| Column { name: name.into(), align };
        let columns = vec![
            column("run", Align::Left),
            column("finished (UTC)", Align::Left),
            column("scored", Align::Right),
            column("failed", Align::Right),
            column("scores", Align::Left),
            column("data", Align::Left),
            column("engine", Align::Left),
            column("version", Align::Left),
        ];
        let rows = runs.iter().map(|stored| {
            let run = &stored.run;
            vec![
                stored.digest.chars().take(SHORT).collect(),
                stored.finished.clone(),
                stored.scored.to_string(),
                stored.failed.to_string(),
                run.settings.metrics.join(" "),
                format!("{} ({})", run.data.source, run.data.samples),
                format!("{} {} {}", run.engine.name, run.engine.version, run.engine.device),
                run.tool.version.clone(),
            ]
        });
        let grid = Grid { columns, rows: rows.collect(), width: Some(super::width()) };
        format.renderer().grid(&grid, &mut text)?;
    }
    print(&text)?;
    Ok(Outcome::Done)
}

fn export(args: &StoreExport) -> anyhow::Result<Outcome> {
    let StoreExport { store: path, run, format, out } = args;
    let out = out.as_deref().map(OutFile::new).transpose()?;
    if let Some(out) = &out {
        out.spare([path.as_path()])?;
    }
    let store = Store::existing(path)?;
    let digests = if *format == Format::Jsonl && run.is_none() {
        store.runs()?.into_iter().map(|run| run.digest).collect()
    } else {
        vec![store.run(run.as_deref())?.digest]
    };
    let mut records: Vec<Record> = Vec::new();
    for digest in &digests {
        records.extend(store.records(digest)?);
    }
    records.iter_mut().for_each(flags::in_record);
    let mut text = Vec::new();
    if *format == Format::Jsonl {
        records.iter().try_for_each(|record| write_line(record, &mut text))?;
    } else {
        let mut ranking = Ranking::of(records)?;
        ranking.sum_ranks();
        if let Some(first) = ranking.run.settings.metrics.first().cloned() {
            ranking.sort_by(&first);
        }
        ranking.join_warnings();
        format.renderer().ranking(&ranking, &mut text)?;
    }
    match out {
        Some(out) => out.write(|file| file.write_all(&text))?,
        None => print(&text)?,
    }
    Ok(Outcome::Done)
}

fn prune(args: StorePrune) -> anyhow::Result<Outcome> {
    let StorePrune { store, failed, other_versions, older_than, run, dry_run } = args;
    let store = Store::existing(&store)?;
    let run = run.map(|prefix| store.run(Some(&prefix))).transpose()?.map(|run| run.digest);
    let taken = store.prune(&Prune { failed, other_versions, older_than, run }, dry_run)?;
    print(format!("{}\n", Value::from(taken)).as_bytes())?;
    tracing::info!(target: super::NOTICE, "{taken} results {}", match dry_run {
        true => "would be taken out",
        false => "taken out",
    });
    Ok(Outcome::Done)
}

pub(super) fn merge(args::Merge { stores, out }: args::Merge) -> anyhow::Result<Outcome> {
    // What is wrong with one of them is said before anything is made.
    for path in &stores {
        Store::existing(path)?;
        if is_same(path, &out) {
            bail!("{}: this store is the one that takes in the others", path.display());
        }
    }
    let to = Store::open(&out)?;
    for path in &stores {
        let taken = to.merge(path)?;
        tracing::info!(target: super::NOTICE, "{}: {taken} results", path.display());
    }
    Ok(Outcome::Done)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
