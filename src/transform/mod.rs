//! Pure functions from graph to graph: differentiation, vectorisation, batch normalisation, loss.

mod batch_norm;
mod grad;
mod vmap;

pub use batch_norm::batch_norm;
pub use grad::grad;
pub use vmap::vmap;
