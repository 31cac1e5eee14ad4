//! A worker: started, fed with jobs, watched, and killed where it must be.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Event, death};
use crate::error::Error;
use crate::probe::resident_of;
use crate::score::{Failure, Job, Record};

/// How often the memory of a worker is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How many of the lines that a worker wrote to standard error are kept.
const WORDS: usize = 3;

/// The workers that are alive, by process.
static ALIVE: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn alive<T>(change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
    change(&mut ALIVE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Kills all workers: for a process that is about to end.
pub fn kill_all() {
    alive(|processes| processes.iter().for_each(|&process| kill_group(process)));
}

/// A worker.
pub(super) struct Process {
    child: Child,
    /// `None` once the worker is to end.
    jobs: Option<ChildStdin>,
    events: Receiver<Event>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    pub fn start(program: &Path, arguments: &[OsString]) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Taking a backtrace needs memory: where that has run out, a panic would hang for ever.
        command.env("RUST_BACKTRACE", "0");
        // Ctrl-C in a terminal is for this process alone, which lets models under way finish.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let failed = |e| Failure::from(&Error::io(program, e));
        let mut child = command.spawn().map_err(failed)?;
        alive(|processes| processes.push(child.id()));
        let (jobs, output, words) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, events) = channel();
        let last_words = Arc::default();
        let mut process = Process { child, jobs, events, last_words, listener: None };
        let last_words = Arc::clone(&process.last_words);
        let listener = thread::Builder::new().spawn(move || listen(words, &last_words));
        process.listener = Some(listener.map_err(failed)?);
        let reader = thread::Builder::new().spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                match serde_json::from_str(&line) {
                    Ok(event) => {
                        if sender.send(event).is_err() {
                            break;
                        }
                    }
                    // Whatever a library prints.
                    Err(_) => tracing::debug!("a worker printed: {line}"),
                }
            }
        });
        reader.map_err(failed)?;
        Ok(process)
    }

    /// Has `job` done, by a worker that holds no more than `allowed` bytes. `content` becomes the digest
    /// of the model's content, once the worker tells.
    pub fn score(
        &mut self,
        job: &Job,
        allowed: Option<u64>,
        timeout: Option<Duration>,
        content: &mut Option<String>,
    ) -> Result<Record, Failure> {
        let start = Instant::now();
        let mut line = serde_json::to_vec(job).map_err(|e| Failure {
            kind: "internal".into(),
            message: format!("a job cannot be written: {e}"),
        })?;
        line.push(b'\n');
        // Where it has died, that is found out below.
        let _ = self.jobs.as_mut().map(|jobs| jobs.write_all(&line).and_then(|()| jobs.flush()));
        loop {
            let left = timeout.map_or(TICK, |timeout| timeout.saturating_sub(start.elapsed()));
            match self.events.recv_timeout(left.min(TICK)) {
                Ok(Event::Computes { computes }) => *content = Some(computes),
                Ok(Event::Done(record)) => return Ok(*record),
                Err(RecvTimeoutError::Disconnected) => return Err(self.reason()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(timeout) = timeout.filter(|&timeout| start.elapsed() >= timeout) {
                self.kill();
                return Err(death::timeout(timeout));
            }
            if let Some(allowed) = allowed.filter(|&most| resident_of(self.child.id()) > Some(most))
            {
                self.kill();
                return Err(death::too_large(allowed));
            }
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Why it has closed its output.
    fn reason(&mut self) -> Failure {
        // One that has closed it and does not end would be waited for without end.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) && !self.has_ended() {
            thread::sleep(TICK);
        }
        self.kill();
        let status = self.child.wait();
        if let Some(listener) = self.listener.take() {
            // It ends with the pipe. If it panicked, there are fewer words.
            let _ = listener.join();
        }
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Ok(status) => death::ended(status, words.iter()),
            Err(error) => Failure {
                kind: "crash".into(),
                message: format!("what became of its process is not known: {error}"),
            },
        }
    }

    fn kill(&mut self) {
        if !self.has_ended() {
            kill_group(self.child.id());
            // Where it has ended in between, there is nothing to kill.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds no more than a model's result, which has been received or is of no use.
        self.jobs = None;
        self.kill();
        alive(|processes| processes.retain(|&process| process != self.child.id()));
    }
}

/// A line of the log that a worker writes as JSON.
#[derive(Deserialize)]
struct Logged {
    level: String,
    fields: Fields,
}

#[derive(Deserialize)]
struct Fields {
    message: String,
}

/// Hands on what a worker logs. Other words, such as those of a panic or of an engine, are kept.
fn listen(words: Option<std::process::ChildStderr>, last_words: &Mutex<VecDeque<String>>) {
    let Some(words) = words else { return };
    for line in BufReader::new(words).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if let Ok(Logged { level, fields: Fields { message } }) = serde_json::from_str(&line) {
            match level.as_str() {
                "ERROR" => tracing::error!("{message}"),
                "WARN" => tracing::warn!("{message}"),
                "INFO" => tracing::info!("{message}"),
                "DEBUG" => tracing::debug!("{message}"),
                _ => tracing::trace!("{message}"),
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        tracing::debug!("a worker said: {line}");
        let mut last_words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        last_words.push_back(line);
        if last_words.len() > WORDS {
            last_words.pop_front();
        }
    }
}

/// Kills a worker with whatever it has started.
#[cfg(unix)]
fn kill_group(process: u32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // Where it has ended already, there is no such group.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill_group(_: u32) {}
