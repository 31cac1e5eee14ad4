//! `gradalign metrics`.

use super::{Outcome, args, print, width};
use crate::metric::{self, Options};
use crate::rank::{AGGREGATE, NAMED};
use crate::report::{Align, Grid};

pub(super) fn run(args: args::List) -> anyhow::Result<Outcome> {
    let columns = ["name", "formula", "needs", "direction", "bn", "source"];
    let mut grid = Grid::new(columns.map(|name| (name, Align::Left)));
    grid.width = Some(width());
    let options = Options::default();
    for metric in metric::all() {
        let info = metric.info();
        grid.push([
            info.name.to_owned(),
            info.formula.to_owned(),
            info.needs.to_owned(),
            info.direction.to_owned(),
            metric.probe(&options)?.treatment().map_or_else(|| "–".into(), |t| t.to_string()),
            info.source.to_owned(),
        ]);
    }
    for named in NAMED {
        grid.push([
            format!("{AGGREGATE} {}", named.name),
            named.formula.to_owned(),
            format!("{}, ranked: rank --aggregate={}", named.scores.join(", "), named.name),
            "higher is better".to_owned(),
            "–".to_owned(),
            format!("limits: {}", named.limits),
        ]);
    }
    let mut text = Vec::new();
    args.format.renderer().grid(&grid, &mut text)?;
    print(&text)?;
    Ok(Outcome::Done)
}
