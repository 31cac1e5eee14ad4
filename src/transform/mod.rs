//! Pure functions from graph to graph: differentiation, vectorisation, batch normalisation, loss.

mod batch_norm;
mod grad;
mod initialise;
mod loss;
mod roles;
mod vmap;

pub use batch_norm::batch_norm;
pub use grad::grad;
pub use initialise::{Init, initialise};
pub use loss::{LABELS, Loss, loss};
pub use roles::{Role, roles};
pub use vmap::vmap;
