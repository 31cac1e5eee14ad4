//! Pure functions from graph to graph: differentiation, vectorisation, batch normalisation, loss.
//!
//! ```
//! use gradalign::graph::{Builder, Fact, Output, eval};
//! use gradalign::tensor::{DType, Tensor};
//! use gradalign::transform::{grad, vmap};
//!
//! # fn main() -> gradalign::Result<()> {
//! // f(x) = x³, and its derivative for three values of x at once.
//! let mut b = Builder::default();
//! let x = b.input("x", Fact::new(DType::F64, []));
//! let square = b.mul(x, x)?;
//! let cube = b.mul(square, x)?;
//! let (graph, cotangents) = grad(&b.finish(), cube, &[x])?;
//! let slope = Output { name: "slope".into(), value: cotangents[0].expect("f depends on x") };
//! let slopes = vmap(&graph.with_outputs(vec![slope]), 3, &[x])?.graph;
//!
//! let points = Tensor::f64(&[3], vec![0.0, 1.0, 2.0])?;
//! assert_eq!(eval(&slopes, &[points])?[0], Tensor::f64(&[3], vec![0.0, 3.0, 12.0])?);
//! # Ok(())
//! # }
//! ```

mod batch_norm;
mod grad;
mod initialise;
mod landmarks;
mod linearise;
mod live;
mod loss;
#[cfg(test)]
mod maps;
mod means;
mod roles;
mod shifts;
mod training;
mod vmap;
mod widen;

pub use batch_norm::batch_norm;
pub use grad::grad;
pub use initialise::{Init, initialise};
pub(crate) use initialise::{normal, uniform};
pub use landmarks::{Layer, features, layers, normalised};
pub use linearise::{Linearised, linearise};
pub use live::live;
pub use loss::{LABELS, Loss, loss, target_name};
pub use roles::{Role, roles};
pub(crate) use training::first_output;
pub use training::{Objective, Reduction, TrainingGraph, training_graph};
pub use vmap::vmap;
pub use widen::widen;
