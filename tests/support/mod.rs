//! What the tests against PyTorch have in common.

use std::path::Path;

use gradalign::data::{Dataset, Options, Samples};
use gradalign::graph::Graph;
use gradalign::probe::Batch;
use gradalign::score::{Resolved, prepare};
use gradalign::transform::Loss;

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A model's graph and all samples of a data file, by their paths in the project.
pub fn load(model: &Path, data: &Path) -> (Graph, Batch, Loss) {
    let options = Options { samples: Samples::All, ..Options::default() };
    let dataset = Dataset::open(root().join(data).to_str().unwrap(), &options).unwrap();
    let file = gradalign::onnx::load(root().join(model)).unwrap();
    let (imported, batch, loss, _) = prepare(&file, &dataset, &Resolved::default())
        .unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    (imported.graph, batch, loss)
}

/// The numbers that `scripts/reference/sketch.py` draws.
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
