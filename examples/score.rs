//! Scores one ONNX model from a program: `cargo run --release --example score -- MODEL DATA`.
//!
//! Without arguments it scores a model of this repository on its digits.

#![allow(clippy::print_stdout)]

use std::path::Path;

use gradalign::data::{Dataset, Options};
use gradalign::engine::{EngineChoice, EngineOptions, open};
use gradalign::score::{Resolved, score_file};

fn main() -> gradalign::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "models/nasbench201-cell.onnx".into());
    let data = arguments.next().unwrap_or_else(|| "fixtures/digits.npz".into());

    let engine = open(EngineChoice::Auto, &EngineOptions::default())?;
    let dataset = Dataset::open(&data, &Options::default())?;
    let scored = score_file(Path::new(&model), &dataset, &Resolved::default(), &*engine)?;

    println!("{model}: {} parameters", scored.size.parameters);
    for score in scored.scores {
        println!("{:<12} {:.6}", score.name, score.value);
    }
    for warning in scored.warnings {
        println!("warning: {warning}");
    }
    Ok(())
}
