//! `gradalign ops`.

use super::{Outcome, args, print, width};
use crate::import;
use crate::ops::Derivative;
use crate::report::{Align, Format, Grid};

pub(super) fn run(args: args::List) -> anyhow::Result<Outcome> {
    if args.format == Format::Markdown {
        // The page of the documentation, with its introduction.
        print(import::markdown().as_bytes())?;
        return Ok(Outcome::Done);
    }
    let mut grid = Grid::new([
        ("operator", Align::Left),
        ("domain", Align::Left),
        ("since", Align::Right),
        ("derivative", Align::Left),
        ("note", Align::Left),
    ]);
    for entry in import::entries() {
        let (derivative, note) = match entry.derivative {
            Derivative::Rule => ("rule", entry.note),
            Derivative::Zero => ("zero", entry.note),
            Derivative::Unsupported(reason) => ("not supported", reason),
        };
        let domain = if entry.domain.is_empty() { "ai.onnx" } else { entry.domain };
        grid.push([entry.op, domain, &entry.since.to_string(), derivative, note]);
    }
    grid.width = Some(width());
    let mut text = Vec::new();
    args.format.renderer().grid(&grid, &mut text)?;
    print(&text)?;
    Ok(Outcome::Done)
}
