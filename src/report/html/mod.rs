//! A ranking as a page for a browser, in one file.
//!
//! The page loads nothing: its policy forbids it, and allows its own script alone, by digest. Rows are
//! in the HTML, so that the page can be read and printed without the script, which sorts, filters and
//! plots.

mod bars;
mod document;
mod sections;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::io;

use crate::ordered::Ordered;
use crate::rank::{Ranking, Truth};

pub(crate) use document::document;
pub(crate) use sections::{list, plain_table, section, tiles};
pub(crate) use text::{counted, embedded, escaped};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// A page about a ranking.
///
/// ```
/// # fn show(ranking: &gradalign::rank::Ranking) -> std::io::Result<()> {
/// use gradalign::report::Page;
/// std::fs::write("report.html", Page::new(ranking).command("gradalign rank models").html()?)
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    ranking: &'a Ranking,
    truth: Option<&'a Truth>,
    command: Option<&'a str>,
    asked: Option<usize>,
}

impl<'a> Page<'a> {
    /// A page about this ranking, with the models in its order.
    pub fn new(ranking: &'a Ranking) -> Self {
        Page { ranking, truth: None, command: None, asked: None }
    }

    /// With the accuracies of the models. The [correlation](Ranking::correlate) is that of the
    /// ranking.
    #[must_use]
    pub fn truth(self, truth: &'a Truth) -> Self {
        Page { truth: Some(truth), ..self }
    }

    /// With the command line that gives the ranking again.
    #[must_use]
    pub fn command(self, command: &'a str) -> Self {
        Page { command: Some(command), ..self }
    }

    /// With the number of models that were to be scored: where it is more than the ranking has, the
    /// page says that there was an interruption.
    #[must_use]
    pub fn asked(self, models: usize) -> Self {
        Page { asked: Some(models), ..self }
    }

    /// The page. The same ranking gives the same page.
    ///
    /// # Errors
    /// When the ranking cannot be written as JSON.
    pub fn html(&self) -> io::Result<String> {
        let ranking = self.ranking;
        let run = &ranking.run;
        let accuracies = self.truth.map(|truth| truth.accuracies(&ranking.models));
        let table = table::models(ranking, accuracies.as_deref());
        let correlation = ranking
            .correlation
            .as_ref()
            .map(|found| sections::correlation(found, accuracies.as_deref().unwrap_or_default()));
        let lead = format!(
            "Data: {}, {} · Engine: {} {} on {}",
            run.data.source,
            counted(run.data.samples, "sample"),
            run.engine.name,
            run.engine.version,
            run.engine.device
        );
        document(PAGE, SCRIPT, |name| {
            Ok(Some(match name {
                "generator" => escaped(&format!("{} {}", run.tool.name, run.tool.version)),
                "title" => format!("Scores of {}", counted(ranking.models.len(), "model")),
                "lead" => escaped(&lead),
                "unfinished" => self.unfinished(),
                "tiles" => tiles(&self.facts()),
                "table" => table.html.clone(),
                "table_note" => table.note.clone(),
                "correlation" => correlation.clone().unwrap_or_default(),
                "failures" => sections::failures(ranking),
                "warnings" => sections::warnings(ranking),
                "repeat" => sections::repeat(ranking, self.command)?,
                "ranking" => embedded(&serde_json::to_string(ranking)?),
                "accuracies" => serde_json::to_string(&accuracies)?,
                _ => return Ok(None),
            }))
        })
    }

    fn unfinished(&self) -> String {
        let finished = self.ranking.models.len();
        match self.asked {
            Some(asked) if asked > finished => format!(
                "<p class=\"alert\">Interrupted: {finished} of {} were finished.</p>",
                counted(asked, "model")
            ),
            _ => String::new(),
        }
    }

    /// Numbers, each with what it is.
    fn facts(&self) -> Vec<(String, String)> {
        let models = &self.ranking.models;
        let failed = models.iter().filter(|row| row.error.is_some()).count();
        let warned = models.iter().filter(|row| !row.warnings.is_empty()).count();
        let seconds: f64 = models.iter().map(|row| row.seconds).sum();
        let mut facts = vec![
            ((models.len() - failed).to_string(), "scored".into()),
            (failed.to_string(), "failed".into()),
            (warned.to_string(), "with warnings".into()),
            (self.ranking.score_names().len().to_string(), "scores".into()),
            (format!("{seconds:.1} s"), "of scoring".into()),
        ];
        let taus = self.ranking.correlation.iter().flat_map(Ordered::iter);
        let best = taus
            .filter_map(|(name, found)| Some((name, found.kendall_tau?)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        facts.extend(
            best.map(|(name, tau)| (format!("{tau:.3}"), format!("highest tau-b: {name}"))),
        );
        facts
    }
}
