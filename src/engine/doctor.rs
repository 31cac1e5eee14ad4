//! What the engines need, what was found, and what to do about what is missing.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{Device, EngineOptions, ort, tract};

/// The state of the engines on this machine. Its `Display` is the report for a person.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    /// Both engines, whether they can be used or not.
    pub engines: Vec<EngineReport>,
    /// Every place where ONNX Runtime's library was looked for, in order.
    pub looked_at: Vec<LookedAt>,
    /// What the user can do to get more, one line each; empty when nothing is missing.
    pub remedies: Vec<String>,
}

/// One engine's state.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    /// `onnxruntime` or `tract`.
    pub name: &'static str,
    /// The version, if the engine can be used.
    pub version: Option<String>,
    /// The file it was loaded from; none for a built-in engine.
    pub library: Option<PathBuf>,
    /// The devices that work: `cpu`, `cuda:0`.
    pub devices: Vec<String>,
    /// Why the engine or one of its devices cannot be used.
    pub problem: Option<String>,
}

/// A place where a library was looked for.
#[derive(Clone, Debug, Serialize)]
pub struct LookedAt {
    /// The rule of the search order.
    pub source: &'static str,
    /// The file or folder; none for a variable that is not set.
    pub path: Option<PathBuf>,
    /// What was found there.
    pub outcome: String,
}

/// Examines the engines. `options.ort_lib` is honoured, the rest is tried out.
pub fn doctor(options: &EngineOptions) -> Doctor {
    let search = ort::search(options.ort_lib.as_deref());
    let mut remedies = Vec::new();
    let mut onnxruntime = EngineReport {
        name: ort::NAME,
        version: None,
        library: None,
        devices: Vec::new(),
        problem: None,
    };
    match search.library {
        Ok(library) => {
            onnxruntime.version = Some(library.version.clone());
            onnxruntime.library = Some(library.path.clone());
            onnxruntime.devices.push(Device::Cpu.to_string());
            let cuda = EngineOptions { device: Device::Cuda(0), ..options.clone() };
            match ort::open(&cuda) {
                Ok(_) => onnxruntime.devices.push(cuda.device.to_string()),
                Err(_) if !ort::has_cuda() => {
                    onnxruntime.problem = Some("this build has no CUDA".into());
                    remedies.push(format!("to use an NVIDIA GPU, {}", ort::INSTALL_CUDA));
                }
                Err(e) => onnxruntime.problem = Some(ort::bare(e)),
            }
        }
        Err(e) => {
            onnxruntime.problem = Some(ort::bare(e));
            remedies.push(format!("to use ONNX Runtime, {}", ort::INSTALL));
        }
    }
    let tract = EngineReport {
        name: tract::NAME,
        version: Some(tract::VERSION.into()),
        library: None,
        devices: vec![Device::Cpu.to_string()],
        problem: None,
    };
    let looked_at = search.attempts.into_iter().map(|attempt| LookedAt {
        source: attempt.source,
        path: attempt.path,
        outcome: attempt.outcome,
    });
    Doctor { engines: vec![onnxruntime, tract], looked_at: looked_at.collect(), remedies }
}

impl fmt::Display for Doctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Engines")?;
        for engine in &self.engines {
            let version = engine.version.as_deref().unwrap_or("not available");
            write!(f, "  {:<12} {version}", engine.name)?;
            if !engine.devices.is_empty() {
                write!(f, ", {}", engine.devices.join(", "))?;
            }
            match &engine.library {
                Some(library) => writeln!(f, ", {}", library.display())?,
                None if engine.version.is_some() => writeln!(f, ", built in")?,
                None => writeln!(f)?,
            }
            if let Some(problem) = &engine.problem {
                writeln!(f, "  {:<12} {problem}", "")?;
            }
        }
        writeln!(f, "\nWhere ONNX Runtime was looked for")?;
        for place in &self.looked_at {
            let path = place.path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default();
            writeln!(f, "  {}{path}: {}", place.source, place.outcome)?;
        }
        if !self.remedies.is_empty() {
            writeln!(f, "\nWhat can be done")?;
        }
        for remedy in &self.remedies {
            writeln!(f, "  {remedy}")?;
        }
        Ok(())
    }
}
