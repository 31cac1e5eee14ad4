//! `gradalign worker`: jobs in, records out, one a line.

use std::io::{self, BufRead};

use anyhow::anyhow;

use super::{Outcome, flags, print};
use crate::report::write_line;
use crate::score::{Job, Worker};

/// Does each job on standard input when it comes, and writes its record to standard output.
pub(super) fn run() -> anyhow::Result<Outcome> {
    let mut worker = Worker::default();
    let mut outcome = Outcome::Done;
    for (i, line) in io::stdin().lock().lines().enumerate() {
        let job: Job = serde_json::from_str(&line?)
            .map_err(|e| anyhow!("line {} of standard input is not a job: {e}", i + 1))?;
        tracing::debug!("scoring {}", job.model.name);
        let mut record = worker.run(&job);
        flags::in_record(&mut record);
        if record.result.error.is_some() {
            outcome = Outcome::SomeFailed;
        }
        let mut line = Vec::new();
        write_line(&record, &mut line)?;
        print(&line)?;
    }
    Ok(outcome)
}
