//! ONNX Runtime as an engine, loaded when it is first asked for.
//!
//! The library is a process-wide thing: it is found and loaded once, with one environment, and all
//! engines of the process share it.

mod operators;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType};

use crate::emit::Dialect;
use crate::engine::locate::{self, Place};
use crate::engine::{Description, Device, Engine, EngineOptions, Session, guarded};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, dispatch};

pub(in crate::engine) const NAME: &str = "onnxruntime";

/// How a user gets the library.
pub(in crate::engine) const INSTALL: &str = "install it with `pip install onnxruntime`, or name the library \
     with --ort-lib or ORT_DYLIB_PATH";

/// How a user gets a library that can use an NVIDIA GPU.
pub(in crate::engine) const INSTALL_CUDA: &str = "install the GPU build with `pip install \
     'onnxruntime-gpu[cuda,cudnn]'` (beside an NVIDIA driver), or use --device cpu";

/// ONNX Runtime keeps a second copy of weights, laid out for its kernels; a model with weights of
/// more bytes than this in all goes without.
const PREPACKED_UP_TO: usize = 256 << 20;

/// Passes that graphs do without. 1.31 pulls a padding into the pooling behind it even where the pooling
/// refuses so wide a one.
const HARMFUL: &str = "Pad_Fusion";

/// Passes that look for what graphs for one engine alone are written without, and [`HARMFUL`] ones.
/// They take a quarter of the time that a session takes to be made.
const WRITTEN_WITHOUT: &str =
    "Pad_Fusion;ConstantFolding;CommonSubexpressionElimination;ConstantSharing";

/// The loaded library and its environment.
pub(in crate::engine) struct Library {
    /// The file it was loaded from.
    pub path: PathBuf,
    /// Its version, as far as it can be told: the minor version at least.
    pub version: String,
    environment: Environment,
}

/// A place that was looked at and what came of it.
pub(in crate::engine) struct Attempt {
    pub source: &'static str,
    pub path: Option<PathBuf>,
    pub outcome: String,
}

impl Attempt {
    /// Whether the user named this place, and there is nothing to be used in it.
    fn is_missed(&self) -> bool {
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
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether the library knows of this project's operators. It learns of them with the first session that
/// may use them, and up to 1.31 two such sessions at once make one of them fail.
static REGISTERED: Mutex<bool> = Mutex::new(false);

/// Held while a GPU is used: what ONNX Runtime does for one session there disturbs the others, up to
/// errors such as "operation not permitted when stream is capturing".
static GPU: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

/// The GPU to oneself, where `device` is one.
fn alone(device: Device) -> Option<MutexGuard<'static, ()>> {
    (device != Device::Cpu).then(|| lock(&GPU))
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

fn error(message: impl Into<String>) -> Error {
    Error::Engine { engine: NAME, message: message.into() }
}

fn failed<R>(error: ort::Error<R>) -> Error {
    self::error(essence(error.message()))
}

/// A message on one line without the error codes and the places in ONNX Runtime's own source that
/// it begins with.
fn essence(message: &str) -> String {
    let message = match message.rsplit_once("[ONNXRuntimeError] : ") {
        Some((_, coded)) => coded.splitn(3, " : ").last().unwrap_or(coded),
        None => message,
    };
    let words = message.split_whitespace().filter(|word| !word.contains("onnxruntime_src/"));
    words.collect::<Vec<_>>().join(" ")
}

/// ONNX Runtime on one device.
#[derive(Clone)]
pub(in crate::engine) struct OrtEngine {
    library: Arc<Library>,
    device: Device,
    threads: usize,
    spinning: bool,
    dialect: Dialect,
    note: Option<String>,
}

/// Opens ONNX Runtime, settling on the device. `--device auto` takes a GPU if it works; `cuda`
/// insists on it.
pub(in crate::engine) fn open(options: &EngineOptions) -> Result<OrtEngine> {
    let Search { library, attempts } = search(options.ort_lib.as_deref());
    let library = library?;
    if let Some(Attempt { path: Some(path), outcome, .. }) = attempts.iter().find(|a| a.is_missed())
    {
        tracing::warn!(
            "ORT_DYLIB_PATH names {}: {outcome}; {} is used",
            path.display(),
            library.path.display()
        );
    }
    let mut engine = OrtEngine {
        library,
        device: Device::Cpu,
        threads: options.threads,
        spinning: options.spinning,
        dialect: Dialect::Standard,
        note: None,
    };
    match options.device {
        Device::Cpu => {}
        Device::Cuda(index) => {
            if !has_cuda() {
                return Err(error(format!(
                    "{} is a build for the CPU only, so --device cuda cannot be had; {INSTALL_CUDA}",
                    engine.library.path.display()
                )));
            }
            engine.use_cuda(index).map_err(|reason| {
                error(format!("CUDA device {index} cannot be used: {reason}; {INSTALL_CUDA}"))
            })?;
        }
        Device::Auto => {
            if has_cuda()
                && let Err(reason) = engine.use_cuda(0)
            {
                engine.note =
                    Some(format!("running on the CPU, because CUDA cannot be used: {reason}"));
            }
        }
    }
    if engine.device != Device::Cpu {
        engine.dialect = Dialect::Cuda;
    } else if !options.standard {
        engine.dialect = Dialect::Fused;
        let mut registered = lock(&REGISTERED);
        if !*registered {
            engine.load(PROBE)?;
            *registered = true;
        }
    }
    Ok(engine)
}

/// Whether the loaded library was built with CUDA.
pub(in crate::engine) fn has_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or(false)
}

impl OrtEngine {
    /// Moves to a GPU if a small model really runs there.
    fn use_cuda(&mut self, index: u32) -> Result<(), String> {
        preload_cuda(&self.library.path);
        lock(&ERRORS).clear();
        let before = std::mem::replace(&mut self.device, Device::Cuda(index));
        let probe = self
            .load(PROBE)
            .and_then(|mut session| session.run(&[Tensor::full(DType::F32, &[1], 1.0)]));
        probe.map(drop).map_err(|e| {
            self.device = before;
            let logged = lock(&ERRORS).drain(..).next_back();
            let reason = bare(e);
            match logged {
                Some(cause) if !reason.contains(&cause) => format!("{reason} ({cause})"),
                _ => reason,
            }
        })
    }

    fn builder(&self) -> ort::Result<SessionBuilder> {
        let builder = OrtSession::builder(&self.library.environment)?
            .with_log_level(LogLevel::Error)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads)?
            .with_intra_op_spinning(self.spinning)?
            // Planning all of a run's memory as one block saves no time that can be measured, and
            // takes up to twice as much on graphs of gradients.
            .with_memory_pattern(false)?
            .with_execution_providers(self.providers())?;
        Ok(match self.dialect {
            Dialect::Standard | Dialect::Tract => builder.with_disabled_optimizers(HARMFUL)?,
            Dialect::Cuda => builder.with_disabled_optimizers(WRITTEN_WITHOUT)?,
            Dialect::Fused => builder
                .with_operators(operators::domain()?)?
                .with_disabled_optimizers(WRITTEN_WITHOUT)?,
        })
    }

    fn providers(&self) -> Vec<ExecutionProviderDispatch> {
        match self.device {
            // Full float32 precision, and never a silent fall-back to the CPU. A model runs a few times
            // only, which an exhaustive search for the fastest convolution is not worth.
            Device::Cuda(index) => {
                let index = i32::try_from(index).unwrap_or(i32::MAX);
                let cuda = ep::CUDA::default()
                    .with_device_id(index)
                    .with_tf32(false)
                    .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
                vec![cuda.build().error_on_failure()]
            }
            Device::Auto | Device::Cpu => Vec::new(),
        }
    }
}

impl Engine for OrtEngine {
    fn describe(&self) -> Description {
        Description {
            name: NAME.into(),
            version: self.library.version.clone(),
            device: self.device.to_string(),
            note: self.note.clone(),
        }
    }

    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn threads(&self) -> usize {
        match (self.device, self.threads) {
            (Device::Cuda(_), _) => 1,
            (_, 0) => thread::available_parallelism().map_or(1, NonZeroUsize::get),
            (_, threads) => threads,
        }
    }

    fn with_threads(&self, threads: NonZeroUsize) -> Option<Box<dyn Engine>> {
        // On a GPU, sessions take turns.
        (self.device == Device::Cpu)
            .then(|| Box::new(OrtEngine { threads: threads.get(), ..self.clone() }) as _)
    }

    fn load_with(&self, model: &[u8], weights: &[(String, Tensor)]) -> Result<Box<dyn Session>> {
        guarded(NAME, || {
            let _alone = alone(self.device);
            let mut builder = self.builder().map_err(failed)?;
            for (name, tensor) in weights {
                let value = owned(tensor).map_err(failed)?;
                builder = builder.with_external_initializer(name, value).map_err(failed)?;
            }
            let bytes: usize = weights.iter().map(|(_, t)| t.len() * t.dtype().size()).sum();
            if bytes > PREPACKED_UP_TO {
                builder = builder.with_prepacking(false).map_err(failed)?;
            }
            let session = builder.commit_from_memory(model).map_err(failed)?;
            let device = self.device;
            Ok(Box::new(Loaded { session: Some(session), device }) as Box<dyn Session>)
        })
    }
}

struct Loaded {
    /// There until it is dropped.
    session: Option<OrtSession>,
    device: Device,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _alone = alone(self.device);
        self.session = None;
    }
}

impl Session for Loaded {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        guarded(NAME, || {
            let _alone = alone(self.device);
            let session = self.session.as_mut().ok_or_else(|| error("the session was closed"))?;
            let wanted = session.inputs().len();
            if inputs.len() != wanted {
                return Err(error(format!(
                    "the model takes {wanted} inputs, but {} were given",
                    inputs.len()
                )));
            }
            let views: Vec<SessionInputValue> =
                inputs.iter().map(view).collect::<ort::Result<_>>().map_err(failed)?;
            let outputs = session.run(views.as_slice()).map_err(failed)?;
            outputs.iter().map(|(name, value)| tensor(name, &value)).collect()
        })
    }
}

/// A tensor as a value that ONNX Runtime keeps, copied once.
fn owned(tensor: &Tensor) -> ort::Result<DynValue> {
    dispatch!(tensor, a => Ok(OrtTensor::from_array(a.to_owned())?.into_dyn()))
}

/// A tensor as ONNX Runtime takes it, without a copy.
fn view(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    dispatch!(tensor, a => Ok(TensorRef::from_array_view(a.view())?.into()))
}

/// An output, copied out of ONNX Runtime's memory.
fn tensor(name: &str, value: &DynValue) -> Result<Tensor> {
    use TensorElementType as T;
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(error(format!("output '{name}' is not a tensor but {}", value.dtype())));
    };
    match ty {
        T::Float32 => value.try_extract_array::<f32>().map(|a| a.to_owned().into()),
        T::Float64 => value.try_extract_array::<f64>().map(|a| a.to_owned().into()),
        T::Int32 => value.try_extract_array::<i32>().map(|a| a.to_owned().into()),
        T::Int64 => value.try_extract_array::<i64>().map(|a| a.to_owned().into()),
        T::Bool => value.try_extract_array::<bool>().map(|a| a.to_owned().into()),
        other => return Err(error(format!("output '{name}' has the unsupported type {other}"))),
    }
    .map_err(failed)
}

/// Loads the CUDA libraries that pip puts beside the `onnxruntime` package, where the system's
/// loader does not look. Whatever is missing shows in the probe that follows.
fn preload_cuda(library: &Path) {
    // The libraries depend on one another in this order.
    const FAMILIES: [&str; 8] = [
        "libcudart.",
        "libnvJitLink.",
        "libcublasLt.",
        "libcublas.",
        "libnvrtc.",
        "libcurand.",
        "libcufft.",
        "libcudnn",
    ];
    let Some(packages) = library.ancestors().find(|dir| dir.join("nvidia").is_dir()) else {
        return;
    };
    let mut libraries: Vec<PathBuf> = locate::entries(&packages.join("nvidia"))
        .iter()
        .flat_map(|package| locate::entries(&package.join("lib")))
        .collect();
    libraries.sort();
    for family in FAMILIES {
        for path in libraries.iter().filter(|p| locate::name_of(p).starts_with(family)) {
            if let Err(e) = ort::util::preload_dylib(path) {
                tracing::debug!("{} cannot be loaded: {e}", path.display());
            }
        }
    }
}

/// The serialised model `y = Identity(x)` on one float32, opset 17, to see whether a device works.
pub(in crate::engine) const PROBE: &[u8] = b"\x08\x08\x3a\x3b\
    \x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\
    \x12\x05probe\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x42\x04\x0a\x00\x10\x11";

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
