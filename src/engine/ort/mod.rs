//! ONNX Runtime as an engine, loaded when it is first asked for.
//!
//! A graph is written for it with what it runs fast: on the CPU with this project's kernels as operators
//! (`kernels`), chains of elementwise operations fused into one (`fuse`); on a CUDA device with standard
//! operators (`cuda`).

pub(crate) mod compile;
mod conv;
mod cuda;
mod fuse;
mod kernels;
mod library;
mod operators;
mod signs;
mod sums;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType};

use self::compile::OperatorSet;
use self::library::{Attempt, ERRORS, error, failed, lock};
pub(in crate::engine) use self::library::{INSTALL, Library, Search, bare, has_cuda, search};
use super::{Compiled, Description, Device, Engine, EngineOptions, Session, guarded};
use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::{DType, Tensor, dispatch};

pub(in crate::engine) const NAME: &str = "onnxruntime";

/// How a user gets a library that can use an NVIDIA GPU.
pub(in crate::engine) const INSTALL_CUDA: &str = "install the GPU build with `pip install \
     'onnxruntime-gpu[cuda,cudnn]'` (beside an NVIDIA driver), or use `device` cpu";

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

/// Whether the library knows of this project's operators. It learns of them with the first session that
/// may use them, and up to 1.31 two such sessions at once make one of them fail.
static REGISTERED: Mutex<bool> = Mutex::new(false);

/// Held while a GPU is used: what ONNX Runtime does for one session there disturbs the others, up to
/// errors such as "operation not permitted when stream is capturing".
static GPU: Mutex<()> = Mutex::new(());

/// The GPU to oneself, where `device` is one.
fn alone(device: Device) -> Option<MutexGuard<'static, ()>> {
    (device != Device::Cpu).then(|| lock(&GPU))
}

/// ONNX Runtime on one device.
#[derive(Clone)]
pub(in crate::engine) struct OrtEngine {
    library: Arc<Library>,
    device: Device,
    threads: usize,
    spinning: bool,
    operators: OperatorSet,
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
        operators: OperatorSet::Standard,
        note: None,
    };
    match options.device {
        Device::Cpu => {}
        Device::Cuda(index) => {
            if !has_cuda() {
                return Err(error(format!(
                    "{} is a build for the CPU only, so `device` cuda cannot be had; {INSTALL_CUDA}",
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
        engine.operators = OperatorSet::Cuda;
    } else if !options.standard {
        engine.operators = OperatorSet::Kernels;
        let mut registered = lock(&REGISTERED);
        if !*registered {
            engine.load(&probe())?;
            *registered = true;
        }
    }
    Ok(engine)
}

impl OrtEngine {
    /// Moves to a GPU if a small model really runs there.
    fn use_cuda(&mut self, index: u32) -> Result<(), String> {
        cuda::preload(&self.library.path);
        lock(&ERRORS).clear();
        let before = std::mem::replace(&mut self.device, Device::Cuda(index));
        let probe = self
            .load(&probe())
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
        Ok(match self.operators {
            OperatorSet::Standard => builder.with_disabled_optimizers(HARMFUL)?,
            OperatorSet::Cuda => builder.with_disabled_optimizers(WRITTEN_WITHOUT)?,
            OperatorSet::Kernels => builder
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

    fn compile(&self, graph: &Graph) -> Result<Compiled> {
        compile::compile(graph, self.operators)
    }

    fn load(&self, compiled: &Compiled) -> Result<Box<dyn Session>> {
        let Compiled { model, weights, .. } = compiled;
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

pub(in crate::engine) fn probe() -> Compiled {
    Compiled::from_onnx(PROBE.to_vec())
}

/// The serialised model `y = Identity(x)` on one float32, opset 17, to see whether a device works.
pub(in crate::engine) const PROBE: &[u8] = b"\x08\x08\x3a\x3b\
    \x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\
    \x12\x05probe\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x42\x04\x0a\x00\x10\x11";
