//! `--write-back`: scores for the registry that the models came from.

use super::{NOTICE, Outcome, page};
use crate::error::{Error, Result};
use crate::publish::{Publication, is_registered};
use crate::rank::Ranking;
use crate::report::Page;
use crate::source::ModelRef;

/// How many failures are shown.
const SHOWN: usize = 20;

/// What is written back after a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteBack {
    /// Whether it is only shown.
    pub dry_run: bool,
}

impl WriteBack {
    /// Errs where there is nothing that could be written to.
    pub(super) fn check(self, models: &[ModelRef]) -> Result<()> {
        match models.iter().any(|model| is_registered(&model.address)) {
            true => Ok(()),
            false => Err(Error::Usage(
                "`write-back` is for models of a registry, such as mlflow://HOST/NAME, and there is none \
                 among these"
                    .into(),
            )),
        }
    }

    /// Writes the scores of `ranking` back.
    pub(super) fn write(self, mut ranking: Ranking) -> anyhow::Result<Outcome> {
        ranking.sum_ranks();
        if let Some(first) = ranking.run.settings.metrics.first().cloned() {
            ranking.sort_by(&first);
        }
        ranking.join_warnings();
        let page = Page::new(&ranking).command(&page::command_line()).html()?;
        let published = Publication { dry_run: self.dry_run, page }.publish(&ranking)?;
        for failure in published.failures.iter().take(SHOWN) {
            tracing::error!("not written back: {failure}");
        }
        if let Some(more @ 1..) = published.failures.len().checked_sub(SHOWN) {
            tracing::error!("not written back: {more} more");
        }
        let (versions, changes) = (published.versions, published.changes);
        let said = match (self.dry_run, changes) {
            (_, 0) => "all was there already".to_owned(),
            (true, changes) => format!("{changes} requests would be sent"),
            (false, changes) => format!("{changes} requests were sent"),
        };
        tracing::info!(target: NOTICE, "scores of {versions} versions: {said}");
        Ok(if published.failures.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
    }
}
