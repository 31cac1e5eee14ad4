//! A score of one's own, beside those of the library: `cargo run --release --example own_metric`.
//!
//! Gradient diversity, `Σᵢ ‖gᵢ‖² / ‖Σᵢ gᵢ‖²` over the samples `i`: 1/N where the gradients of all N
//! samples are equal, 1 where they are orthogonal. Large batches speed up training as far as it goes
//! (Yin et al., "Gradient Diversity: a Key Ingredient for Scalable Distributed Learning", AISTATS
//! 2018).

#![allow(clippy::print_stdout)]

use gradalign::data::{Dataset, Options as DataOptions};
use gradalign::engine::{EngineChoice, EngineOptions, open};
use gradalign::metric::{Info, Metric, Options, Value, select};
use gradalign::ops::BatchNormMode;
use gradalign::probe::{Differentiated, Probe, SampleView, Selection, Sum};
use gradalign::score::{Resolved, score_file};

#[derive(Debug)]
struct GradientDiversity;

impl Metric for GradientDiversity {
    fn info(&self) -> Info {
        Info {
            name: "gradient-diversity",
            formula: "Σ_i ‖g_i‖² / ‖Σ_i g_i‖²",
            needs: "inputs, labels, per-sample gradients of all parameters",
            direction: "higher is better",
            source: "Yin et al., AISTATS 2018, Definition 2",
        }
    }

    fn probe(&self, options: &Options) -> gradalign::Result<Probe<Value>> {
        // The statistics stored in the file, unless the user asks for others.
        let batch_norm = options.batch_norm.unwrap_or(BatchNormMode::Running);
        let view = SampleView::new(Differentiated::Loss, batch_norm);
        Ok(Probe::of_samples(view, |gradients| {
            // [1, lanes]: 1 for each sample once. A lane may repeat a sample to fill a run.
            let (lanes, counted) = (gradients.lanes(), gradients.counted());
            let counted = gradients.builder().reshape(counted, &[1, lanes])?;
            let mut parts = Vec::new();
            for gradient in gradients.gradients(Selection::All)? {
                let b = gradients.builder();
                let rows = gradient.rows(b)?; // [lanes, size]
                let squares = b.mul(rows, rows)?;
                let (sum, square) = (b.matmul(counted, rows)?, b.matmul(counted, squares)?);
                // Runs of the graph hold some of the samples each: their results are added.
                parts.push((
                    gradients.watch(sum, Sum::default()),
                    gradients.watch(square, Sum::default()),
                ));
            }
            Ok(Box::new(move |results| {
                let (mut of_sum, mut of_samples) = (0.0, 0.0);
                for &(sum, square) in &parts {
                    of_sum += results.get(sum)?.iter().map(|v| v * v).sum::<f64>();
                    of_samples += results.get(square)?.iter().sum::<f64>();
                }
                Ok((of_samples / of_sum).into())
            }))
        }))
    }
}

fn main() -> gradalign::Result<()> {
    let engine = open(EngineChoice::Auto, &EngineOptions::default())?;
    let digits = Dataset::open("fixtures/digits.npz", &DataOptions::default())?;
    let mut metrics = select(&["gradalign-1"])?;
    metrics.push(&GradientDiversity);
    let settings = Resolved { metrics, ..Resolved::default() };
    for model in ["models/mlp.onnx", "models/resnet20.onnx", "models/vit.onnx"] {
        let scored = score_file(model.as_ref(), &digits, &settings, &*engine)?;
        let values = scored.scores.iter().map(|score| format!("{} {:.4}", score.name, score.value));
        println!("{model}: {}", values.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gradalign::graph::{Builder, Fact};
    use gradalign::probe::Batch;
    use gradalign::score::score;
    use gradalign::tensor::{DType, Tensor};
    use gradalign::transform::Loss;

    use super::*;

    /// The score of `y = x·w` with inputs `x` `[n, 2]` and targets 0: the gradient is `2·y·x`.
    fn diversity(x: Vec<f32>) -> f64 {
        let n = x.len() / 2;
        let mut b = Builder::default();
        let input = b.input("x", Fact::new(DType::F32, [1, 2]));
        let w = b.parameter("w", Tensor::f32(&[2, 1], vec![1.0, 1.0]).unwrap());
        let y = b.matmul(input, w).unwrap();
        b.output("y", y);
        let inputs = vec![Tensor::f32(&[n, 2], x).unwrap()];
        let targets = Tensor::f32(&[n, 1], vec![0.0; n]).unwrap();
        let batch = Batch { inputs, targets, classes: vec![0; n] };
        let settings = Resolved { metrics: vec![&GradientDiversity], ..Resolved::default() };
        let engine = open(EngineChoice::Tract, &EngineOptions::default()).unwrap();
        let loss = Loss::MeanSquaredError;
        score(&b.finish(), &batch, loss, &settings, &*engine).unwrap().scores[0].value
    }

    #[test]
    fn equal_gradients_have_the_least_and_orthogonal_ones_one() {
        // 50 samples take several runs.
        assert!((diversity([1.0, 0.0].repeat(50)) - 1.0 / 50.0).abs() < 1e-6);
        assert!((diversity(vec![1.0, 0.0, 0.0, 3.0]) - 1.0).abs() < 1e-6);
        // 2·(1, 0) and 4·(1, 1): (4 + 32) / (36 + 16).
        assert!((diversity(vec![1.0, 0.0, 1.0, 1.0]) - 36.0 / 52.0).abs() < 1e-6);
    }
}
