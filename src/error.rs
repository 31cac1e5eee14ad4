//! The library's error type: every message names what failed and what to do about it.

use std::path::PathBuf;

/// What went wrong, by kind; [`Error::kind`] gives the stable name used in reports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not a usable ONNX model.
    #[error("{0}")]
    InvalidModel(String),
    /// An operator, or a form of it, that cannot be imported or differentiated.
    #[error("node '{node}' ({op}, opset {opset}): {reason}")]
    UnsupportedOp {
        /// The node's name, or its first output where it has none.
        node: String,
        /// The operator, with its domain where it is not `ai.onnx`.
        op: String,
        /// The opset version the model declares for the operator's domain.
        opset: i64,
        /// Why, and what the user can do.
        reason: String,
    },
    /// A model that is quantised or has no floating-point parameters.
    #[error("{0}")]
    UnsupportedModel(String),
    /// Shapes or dtypes that do not fit together inside a graph.
    #[error("{0}")]
    Shape(String),
    /// A value that the requested derivative cannot be taken through.
    #[error("{0}")]
    NotDifferentiable(String),
    /// Data that cannot be read or does not fit the model.
    #[error("{0}")]
    Data(String),
    /// An engine that is missing, refused a graph, failed, or panicked.
    #[error("{engine}: {message}")]
    Engine {
        /// The engine's name.
        engine: &'static str,
        /// What it said, with a remedy where there is one.
        message: String,
    },
    /// A run that takes more memory than it may have.
    #[error("{0}")]
    Memory(String),
    /// A score that is not defined for this model and data.
    #[error("{0}")]
    Score(String),
    /// A server that does not answer, refuses, or answers what cannot be understood.
    #[error("{0}")]
    Remote(String),
    /// An option or combination of options that makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kind of [`Error::Memory`].
    pub const MEMORY: &str = "memory";

    /// A stable, kebab-case name of the kind of error, as reports carry it.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::InvalidModel(_) => "invalid-model",
            Error::UnsupportedOp { .. } => "unsupported-op",
            Error::UnsupportedModel(_) => "unsupported-model",
            Error::Shape(_) => "shape",
            Error::NotDifferentiable(_) => "not-differentiable",
            Error::Data(_) => "data",
            Error::Engine { .. } => "engine",
            Error::Memory(_) => Error::MEMORY,
            Error::Score(_) => "score",
            Error::Remote(_) => "remote",
            Error::Usage(_) => "usage",
        }
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}

/// `return Err(Error::Shape(format!(…)))`.
macro_rules! bail_shape {
    ($($arg:tt)*) => { return Err($crate::error::Error::Shape(format!($($arg)*))) };
}
pub(crate) use bail_shape;
