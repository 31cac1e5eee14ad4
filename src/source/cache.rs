//! Downloaded files, kept for the next time.
//!
//! Each version of a model has a folder. A file in it is complete: it is written under another name
//! first. What the server said about its size and state is kept beside it, and the server is asked
//! whether that still holds before the file is used again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use ureq::http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_NONE_MATCH, IF_RANGE, RANGE,
};

use crate::error::{Error, Result};
use crate::http::{Answer, Client, Patience};

/// Where the states of a folder's files are. No artifact is called so: it would be hidden.
const STATES: &str = ".gradalign.json";

/// When what a killed process left is removed.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a download that breaks off is taken up again.
const MOST_BREAKS: usize = 3;

/// The files of one version.
pub(crate) struct Folder {
    path: PathBuf,
}

/// What the server said about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    size: u64,
    etag: Option<String>,
}

/// Where downloads are kept.
///
/// # Errors
/// When there is no home folder.
pub(crate) fn root() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let user = || {
        let folder = variable("XDG_CACHE_HOME").map(PathBuf::from);
        Some(folder.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("gradalign"))
    };
    variable("GRADALIGN_CACHE").map(PathBuf::from).or_else(user).ok_or_else(|| {
        Error::Usage("there is no home folder to keep downloads in: set GRADALIGN_CACHE".into())
    })
}

impl Folder {
    /// The folder of what `parts` tell from all else.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path, parts: &[&str]) -> Result<Self> {
        let part = |text: &&str| crate::http::encoded(text).replace('.', "%2E");
        let path = root.join(parts.iter().map(part).collect::<PathBuf>());
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
        let folder = Folder { path };
        folder.tidy();
        Ok(folder)
    }

    /// Where the file at `inside` is, once it is there.
    pub fn at(&self, inside: &str) -> PathBuf {
        self.path.join(inside)
    }

    /// Has the file at `inside` there, which `client` gets from `path`. `None` where the server has
    /// none. `size` is what a list says.
    ///
    /// # Errors
    /// When it can be neither got nor kept, or has another size than the server said.
    pub fn fetch(
        &self,
        client: &Client,
        path: &str,
        inside: &str,
        size: Option<u64>,
        patience: Patience,
    ) -> Result<Option<PathBuf>> {
        let target = self.at(inside);
        let known = self.states().remove(inside).filter(|state| {
            let there = target.metadata().ok().map(|meta| meta.len());
            there == Some(state.size) && size.is_none_or(|size| size == state.size)
        });
        if let Some(known) = known
            && still_holds(client, path, &known, size, patience)?
        {
            tracing::debug!("{} is up to date", target.display());
            return Ok(Some(target));
        }
        let answer = client.get_with(path, &[], patience)?;
        if answer.status() == 404 {
            return Ok(None);
        }
        let answer = answer.or(&[])?;
        let state = self.download(client, path, answer, &target, size)?;
        self.remember(inside, state)?;
        Ok(Some(target))
    }

    /// Writes the body of `answer` to `target`, whole or not at all.
    fn download(
        &self,
        client: &Client,
        path: &str,
        mut answer: Answer,
        target: &Path,
        size: Option<u64>,
    ) -> Result<State> {
        let failed = |e| Error::io(target, e);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let part = Part::beside(target);
        let mut file = File::create(&part.0).map_err(failed)?;
        let (mut length, mut breaks) = (0, 0);
        let expected = state(&answer, size);
        tracing::info!("downloading {} bytes to {}", expected.size, target.display());
        loop {
            let broken = match copy(&mut answer.reader(), &mut file, &mut length) {
                Copied::All if length >= expected.size => None,
                Copied::All => Some(io::ErrorKind::UnexpectedEof.into()),
                Copied::Broken(error) => Some(error),
                Copied::Full(error) => return Err(failed(error)),
            };
            let Some(broken) = broken else { break };
            let (Some(etag), true) = (&expected.etag, breaks < MOST_BREAKS) else {
                return Err(answer.broken(&io::Error::other(format!(
                    "broken off after {length} of {} bytes ({broken})",
                    expected.size
                ))));
            };
            breaks += 1;
            tracing::warn!("{}", answer.broken(&io::Error::other(format!("{broken}; going on"))));
            let rest: [(HeaderName, String); 2] =
                [(RANGE, format!("bytes={length}-")), (IF_RANGE, etag.clone())];
            answer = client.get_with(path, &rest, Patience::Retry)?.or(&[206])?;
            let is_rest = answer
                .header(CONTENT_RANGE)
                .is_some_and(|range| range.starts_with(&format!("bytes {length}-")));
            if !(answer.status() == 206 && is_rest) {
                // It begins anew, or is another file by now.
                file = File::create(&part.0).map_err(failed)?;
                length = 0;
            }
        }
        let wanted = size.unwrap_or(expected.size);
        if length != wanted && (size.is_some() || answer.header(CONTENT_LENGTH).is_some()) {
            return Err(answer.broken(&io::Error::other(format!(
                "it has {length} bytes, and should have {wanted}: it is being changed, or the server has \
                 it only in part"
            ))));
        }
        file.sync_all().and_then(|()| fs::rename(&part.0, target)).map_err(failed)?;
        Ok(State { size: length, ..expected })
    }

    fn states(&self) -> BTreeMap<String, State> {
        let text = fs::read(self.path.join(STATES)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn remember(&self, inside: &str, state: State) -> Result<()> {
        let mut states = self.states();
        states.insert(inside.to_owned(), state);
        let path = self.path.join(STATES);
        let failed = |e| Error::io(&path, e);
        let part = Part::beside(&path);
        let text = serde_json::to_vec(&states).unwrap_or_default();
        fs::write(&part.0, text).and_then(|()| fs::rename(&part.0, &path)).map_err(failed)
    }

    /// Removes what killed processes left, where that can be done.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let is_part = entry.path().extension().is_some_and(|e| e == "part");
            let changed = entry.metadata().and_then(|meta| meta.modified());
            let age = changed.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if is_part && age.is_some_and(|age| age > OLD) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether a file is still as the server said. Asked for no more than its first byte, servers say what
/// they have; to a HEAD some say something else.
fn still_holds(
    client: &Client,
    path: &str,
    known: &State,
    size: Option<u64>,
    patience: Patience,
) -> Result<bool> {
    let Some(etag) = &known.etag else { return Ok(size.is_some()) };
    let first = [(IF_NONE_MATCH, etag.clone()), (RANGE, "bytes=0-0".to_owned())];
    let mut answer = client.get_with(path, &first, patience)?;
    Ok(match answer.status() {
        304 => true,
        206 => {
            let total = answer.header(CONTENT_RANGE).and_then(|range| range.rsplit_once('/'));
            let is_size = total.is_some_and(|(_, total)| total == known.size.to_string());
            let is_same = is_size && answer.header(ETAG) == Some(etag);
            // Read to its end, so that the connection serves the next request.
            let _ = copy(&mut answer.reader(), &mut io::sink(), &mut 0);
            is_same
        }
        200 => *known == state(&answer, None),
        _ => false,
    })
}

fn state(answer: &Answer, size: Option<u64>) -> State {
    let length = answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
    State { size: length.or(size).unwrap_or(0), etag: answer.header(ETAG).map(str::to_owned) }
}

enum Copied {
    All,
    /// The server broke off.
    Broken(io::Error),
    /// The file cannot be written.
    Full(io::Error),
}

/// Copies to the end, counting what is written.
fn copy(from: &mut impl Read, to: &mut impl Write, length: &mut u64) -> Copied {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Copied::All,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Copied::Broken(e),
        };
        if let Err(e) = to.write_all(&buffer[..n]) {
            return Copied::Full(e);
        }
        *length += n as u64;
    }
}

/// A file that is being written. It is removed unless it got its name.
struct Part(PathBuf);

impl Part {
    /// Under a name that no other process or thread has.
    fn beside(target: &Path) -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{number}.part", std::process::id()));
        Part(target.with_file_name(name))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It has been renamed, or is of no use.
        let _ = fs::remove_file(&self.0);
    }
}
