//! Running ONNX graphs: one trait, two engines.
//!
//! An engine writes a graph as an ONNX model the way it runs it best ([`Engine::compile`]), and runs
//! such a model, or any ONNX model with fixed shapes, on tensors. It knows nothing of gradients or
//! scores. Nothing outside this module names an engine's own types, and what is peculiar to one, its
//! fast forms and its faults, stands with it.
//!
//! ONNX Runtime is the engine for work. It is a shared library that the user installs; it is found
//! and loaded at run time. tract is compiled in: it needs nothing, and gives a second opinion.

pub(crate) mod compiled;
#[cfg(all(feature = "ort", feature = "tract"))]
mod doctor;
#[cfg(any(feature = "ort", feature = "tract"))]
mod guard;
#[cfg(feature = "ort")]
mod locate;
#[cfg(feature = "ort")]
pub(crate) mod ort;
#[cfg(test)]
mod tests;
#[cfg(feature = "tract")]
mod tract;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

pub use compiled::Compiled;
#[cfg(all(feature = "ort", feature = "tract"))]
pub use doctor::{Doctor, EngineReport, LookedAt, doctor};

use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::Tensor;
#[cfg(any(feature = "ort", feature = "tract"))]
use guard::guarded;

/// What an engine says of itself, for reports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    /// `onnxruntime` or `tract`.
    pub name: String,
    /// The version of the library that runs.
    pub version: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Why the choice fell on this engine or device, where `auto` could not have the better one.
    #[serde(skip)]
    pub note: Option<String>,
}

/// Something that can run ONNX models.
pub trait Engine: Send + Sync {
    /// Name, version and device.
    fn describe(&self) -> Description;

    /// How many of the CPU's threads one of its sessions computes with, at least 1.
    fn threads(&self) -> usize {
        1
    }

    /// The same engine for sessions of `threads` threads each, so that several of them can share
    /// the cores; `None` where it has no say in that.
    fn with_threads(&self, _threads: NonZeroUsize) -> Option<Box<dyn Engine>> {
        None
    }

    /// `graph` as a model for this engine: by default in standard operators.
    ///
    /// # Errors
    /// When two inputs or outputs have one name, or an operation cannot be written.
    fn compile(&self, graph: &Graph) -> Result<Compiled> {
        Compiled::standard(graph)
    }

    /// Prepares a model to be run. Errs when the engine refuses or panics.
    fn load(&self, model: &Compiled) -> Result<Box<dyn Session>>;
}

/// A model made ready to run.
pub trait Session: Send {
    /// Runs on one tensor per input, in the order of the model's inputs; the results are in the
    /// order of its outputs. Errs when the engine fails or panics.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;
}

/// Which engine to run models with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// ONNX Runtime where its library is found, else tract.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
}

impl FromStr for EngineChoice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => Ok(EngineChoice::Auto),
            "ort" | "onnxruntime" => Ok(EngineChoice::Ort),
            "tract" => Ok(EngineChoice::Tract),
            _ => Err(Error::Usage(format!("unknown engine '{s}'; one of auto, ort, tract"))),
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineChoice::Auto => "auto",
            EngineChoice::Ort => "ort",
            EngineChoice::Tract => "tract",
        })
    }
}

/// Where an engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first NVIDIA GPU where the engine can use it, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, and nothing else.
    Cuda(u32),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "auto" => return Ok(Device::Auto),
            "cpu" => return Ok(Device::Cpu),
            "cuda" => return Ok(Device::Cuda(0)),
            _ => {}
        }
        s.strip_prefix("cuda:")
            .filter(|index| index.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|index| index.parse().ok())
            .map(Device::Cuda)
            .ok_or_else(|| {
                Error::Usage(format!("unknown device '{s}'; one of auto, cpu, cuda, cuda:N"))
            })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// How an engine is to run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where to compute.
    pub device: Device,
    /// Threads that a session computes with; 0 leaves it to the engine, which takes all cores. tract
    /// always uses one.
    pub threads: usize,
    /// Threads that wait keep their cores for a while, so that the next operator starts at once.
    /// Off where others need the cores, such as another session.
    pub spinning: bool,
    /// Only standard operators, without this project's own kernels: to compare with.
    pub standard: bool,
    /// ONNX Runtime's library or the folder that it is in; searched for where it is `None`.
    pub ort_lib: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: Device::Auto,
            threads: 0,
            spinning: true,
            standard: false,
            ort_lib: None,
        }
    }
}

/// Opens an engine.
///
/// `Auto` takes ONNX Runtime if it can be used and tract otherwise, and then says why in
/// [`Description::note`]; it does not go past an explicit library or an explicit GPU.
pub fn open(choice: EngineChoice, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let engine: Box<dyn Engine> = match choice {
        EngineChoice::Ort => open_ort(options)?,
        EngineChoice::Tract => open_tract(options, None)?,
        EngineChoice::Auto => match open_ort(options) {
            Ok(engine) => engine,
            Err(e) if options.ort_lib.is_some() || matches!(options.device, Device::Cuda(_)) => {
                return Err(e);
            }
            Err(reason) => {
                let note = format!("using the built-in engine tract, which is slower ({reason})");
                open_tract(options, Some(note))?
            }
        },
    };
    let Description { name, version, device, note } = engine.describe();
    match note {
        Some(note) => tracing::warn!("{name} {version} on {device}: {note}"),
        None => tracing::info!("{name} {version} on {device}"),
    }
    Ok(engine)
}

#[cfg(feature = "ort")]
fn open_ort(options: &EngineOptions) -> Result<Box<dyn Engine>> {
    Ok(Box::new(ort::open(options)?))
}

#[cfg(not(feature = "ort"))]
fn open_ort(_: &EngineOptions) -> Result<Box<dyn Engine>> {
    Err(left_out("onnxruntime", "ort"))
}

#[cfg(feature = "tract")]
fn open_tract(options: &EngineOptions, note: Option<String>) -> Result<Box<dyn Engine>> {
    Ok(Box::new(tract::open(options, note)?))
}

#[cfg(not(feature = "tract"))]
fn open_tract(_: &EngineOptions, _: Option<String>) -> Result<Box<dyn Engine>> {
    Err(left_out("tract", "tract"))
}

#[cfg(not(all(feature = "ort", feature = "tract")))]
fn left_out(engine: &'static str, feature: &str) -> Error {
    let message = format!("this build is without it; build with the feature '{feature}'");
    Error::Engine { engine, message }
}

/// Every engine that this machine has, for tests that must hold on each: tract, ONNX Runtime on the
/// CPU, and on the first GPU where its library can use one.
///
/// ONNX Runtime is left out with a message where it is not found, except with
/// `GRADALIGN_REQUIRE_ORT=1`, under which its absence is a failure; likewise the GPU, with
/// `GRADALIGN_REQUIRE_CUDA=1`.
#[doc(hidden)]
#[allow(clippy::print_stderr)]
pub fn all_for_tests() -> Vec<Box<dyn Engine>> {
    [
        (EngineChoice::Tract, Device::Cpu, None),
        (EngineChoice::Ort, Device::Cpu, Some("GRADALIGN_REQUIRE_ORT")),
        (EngineChoice::Ort, Device::Cuda(0), Some("GRADALIGN_REQUIRE_CUDA")),
    ]
    .into_iter()
    .filter_map(|(choice, device, required)| {
        let required = required.and_then(std::env::var_os).is_some_and(|v| v == "1");
        match open(choice, &EngineOptions { device, ..EngineOptions::default() }) {
            Ok(engine) => Some(engine),
            Err(e) if required => panic!("an engine that the tests need is missing: {e}"),
            Err(e) => {
                eprintln!("tested without {choice} on {device}: {e}");
                None
            }
        }
    })
    .collect()
}
