//! Finding and loading the shared library of ONNX Runtime.
//!
//! It is a process-wide thing: it is found and loaded once, with one environment, and all engines of
//! the process share it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;

use super::NAME;
use crate::engine::guarded;
use crate::engine::locate::{self, Place};
use crate::error::{Error, Result};

/// How a user gets the library.
pub(in crate::engine) const INSTALL: &str = "install it with `pip install onnxruntime`, or name the library \
     with `ort-lib` or ORT_DYLIB_PATH";

/// The loaded library and its environment.
pub(in crate::engine) struct Library {
    /// The file it was loaded from.
    pub path: PathBuf,
    /// Its version, as far as it can be told: the minor version at least.
    pub version: String,
    pub(super) environment: Environment,
}

/// A place that was looked at and what came of it.
pub(in crate::engine) struct Attempt {
    pub source: &'static str,
    pub path: Option<PathBuf>,
    pub outcome: String,
}

impl Attempt {
    /// Whether the user named this place, and there is nothing to be used in it.
    pub(super) fn is_missed(&self) -> bool {
        let named = self.source == locate::VARIABLE && self.path.is_some();
        named && !matches!(self.outcome.as_str(), "used" | "not needed")
    }
}

/// The outcome of a search: the loaded library or the reason, and every place looked at.
pub(in crate::engine) struct Search {
    pub library: Result<Arc<Library>>,
    pub attempts: Vec<Attempt>,
}

static LIBRARY: Mutex<Option<Arc<Library>>> = Mutex::new(None);

/// The latest errors that the library logged: the cause of a provider's failure stands only there.
pub(super) static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds and loads the library; later calls return what the first successful one loaded.
pub(in crate::engine) fn search(explicit: Option<&Path>) -> Search {
    let mut loaded = lock(&LIBRARY);
    let places = locate::places(explicit);
    let mut attempts = Vec::new();
    for Place { source, path, libraries } in &places {
        let mut note = |path: Option<&PathBuf>, outcome: String| {
            attempts.push(Attempt { source, path: path.cloned(), outcome });
        };
        let Some(folder) = path else {
            note(None, "not set".into());
            continue;
        };
        if libraries.is_empty() {
            let outcome = if folder.exists() { "no library in it" } else { "not there" };
            note(Some(folder), outcome.into());
        }
        for library in libraries {
            let outcome = match &*loaded {
                Some(used) if same_file(&used.path, library) => "used".into(),
                Some(_) => "not needed".into(),
                None => match load(library) {
                    Ok(used) => {
                        *loaded = Some(Arc::new(used));
                        "used".into()
                    }
                    Err(reason) => reason,
                },
            };
            note(Some(library), outcome);
        }
    }
    let library = match (&*loaded, explicit) {
        (Some(used), Some(path)) if !attempts.iter().any(|a| a.outcome == "used") => {
            Err(error(format!(
                "cannot load {}: this process already uses {}, and can use only one",
                path.display(),
                used.path.display()
            )))
        }
        (Some(used), _) => Ok(Arc::clone(used)),
        (None, _) => Err(not_found(&attempts, explicit)),
    };
    Search { library, attempts }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn not_found(attempts: &[Attempt], explicit: Option<&Path>) -> Error {
    let unusable: Vec<String> = attempts
        .iter()
        .filter(|a| explicit.is_some() || a.is_missed() || !is_absence(&a.outcome))
        .filter_map(|a| {
            let by = if a.is_missed() { "ORT_DYLIB_PATH names " } else { "" };
            Some(format!("{by}{}: {}", a.path.as_ref()?.display(), a.outcome))
        })
        .collect();
    error(if unusable.is_empty() {
        format!(
            "no shared library found; {INSTALL} (`gradalign doctor` lists the places looked at)"
        )
    } else {
        format!("no usable shared library ({}); {INSTALL}", unusable.join("; "))
    })
}

/// Whether an outcome says only that there was nothing to try.
fn is_absence(outcome: &str) -> bool {
    matches!(outcome, "not set" | "not there" | "no library in it")
}

/// Loads a library and makes the process's environment. The error is one line without the path.
fn load(path: &Path) -> Result<Library, String> {
    let path = std::path::absolute(path).map_err(|e| e.to_string())?;
    let environment = guarded(NAME, || {
        let builder = ort::init_from(&path).map_err(|e| error(load_failure(&e)))?;
        let environment = builder
            .with_name("gradalign")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, _, _, _, message| log(level, message)))
            .build()
            .map_err(failed)?;
        environment.set_log_level(LogLevel::Error);
        Ok(environment)
    })
    .map_err(bare)?;
    let version = version(&path);
    tracing::debug!("loaded ONNX Runtime {version} from {}", path.display());
    Ok(Library { path, version, environment })
}

/// The message of an error without the engine's name before it.
pub(in crate::engine) fn bare(error: Error) -> String {
    match error {
        Error::Engine { message, .. } => message,
        other => other.to_string(),
    }
}

fn load_failure(error: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError as E;
    match error {
        E::Dlopen { error, path } => {
            let reason = std::error::Error::source(error).unwrap_or(error).to_string();
            let reason = reason.trim_start_matches(&format!("{}: ", path.display()));
            format!("cannot be loaded: {reason}")
        }
        E::MissingApi { .. } => "not an ONNX Runtime library (no OrtGetApiBase)".into(),
        E::InvalidVersionString => "its version cannot be read".into(),
        E::BadVersion { version_str, .. } => {
            format!("version {version_str} is too old; 1.{} or newer is needed", ort::MINOR_VERSION)
        }
    }
}

/// The version by the file's own name, which packages give in full, else what the library says.
fn version(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    match locate::version_in(locate::name_of(&file))[..] {
        [major, minor, patch] => format!("{major}.{minor}.{patch}"),
        _ => ort::util::probe(path).map_or("unknown".into(), |minor| format!("1.{minor}")),
    }
}

fn log(level: LogLevel, message: &str) {
    // Failures also arrive as errors of the call that failed, so the log is only for the curious.
    tracing::debug!(target: "onnxruntime", "{message}");
    if level >= LogLevel::Error {
        let mut errors = lock(&ERRORS);
        errors.truncate(7);
        errors.insert(0, essence(message));
    }
}

pub(super) fn error(message: impl Into<String>) -> Error {
    Error::Engine { engine: NAME, message: message.into() }
}

pub(super) fn failed<R>(error: ort::Error<R>) -> Error {
    self::error(essence(error.message()))
}

/// A message on one line without the error codes and the places in ONNX Runtime's own source that
/// it begins with.
pub(super) fn essence(message: &str) -> String {
    let message = match message.rsplit_once("[ONNXRuntimeError] : ") {
        Some((_, coded)) => coded.splitn(3, " : ").last().unwrap_or(coded),
        None => message,
    };
    let words = message.split_whitespace().filter(|word| !word.contains("onnxruntime_src/"));
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the loaded library was built with CUDA.
pub(in crate::engine) fn has_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_source_positions_and_line_breaks() {
        assert_eq!(
            essence("/onnxruntime_src/onnxruntime/core/graph/graph.cc:12 bad\n  graph"),
            "bad graph"
        );
        assert_eq!(
            essence("ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load : x.so"),
            "Failed to load : x.so"
        );
    }

    #[test]
    fn versions_come_from_file_names() {
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so.1.32.0")), "1.32.0");
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so")), "unknown");
    }
}
