//! `gradalign doctor`.

use super::args::{self, Plain};
use super::flags::with_flags;
use super::{Outcome, print};
use crate::engine::{EngineOptions, doctor};
use crate::score::Tool;

#[derive(serde::Serialize)]
struct Findings {
    tool: Tool,
    #[serde(flatten)]
    engines: crate::engine::Doctor,
}

pub(super) fn run(args: args::Doctor) -> anyhow::Result<Outcome> {
    let engines = doctor(&EngineOptions { ort_lib: args.ort_lib, ..EngineOptions::default() });
    let findings = Findings { tool: Tool::this(), engines };
    let text = match args.format {
        Plain::Json => serde_json::to_string_pretty(&findings)? + "\n",
        Plain::Table => {
            let Tool { name, version } = findings.tool;
            format!("{name} {version}\n\n{}", findings.engines)
        }
    };
    print(with_flags(&text).as_bytes())?;
    Ok(Outcome::Done)
}
