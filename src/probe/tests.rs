//! Evaluating probes together.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::engine::{Compiled, Description, Engine, Session, all_for_tests};
use crate::error::{Error, Result};
use crate::graph::{Builder, Fact, Graph, eval};
use crate::ops::BatchNormMode;
use crate::tensor::{DType, Tensor};
use crate::transform::{Loss, Reduction, training_graph};

const SAMPLES: usize = 40;
const FEATURES: usize = 3;
const CLASSES: usize = 4;

fn noise(shape: &[usize], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 613 + 13) % 101) as f32 / 50.0 - 1.0;
    Tensor::f32(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

/// Two linear layers: on one row, whose gradients are outer products, and on two rows.
fn model() -> Graph {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F32, [1, 2 * FEATURES]));
    let (w, v) = (noise(&[FEATURES, 2], 1), noise(&[4, CLASSES], 2));
    let (w, v) = (b.parameter("w", w), b.parameter("v", v));
    let y = b.reshape(x, &[2, FEATURES]).unwrap();
    let y = b.matmul(y, w).unwrap();
    let y = b.relu(y).unwrap();
    let y = b.reshape(y, &[1, 4]).unwrap();
    let y = b.matmul(y, v).unwrap();
    b.output("logits", y);
    b.finish()
}

/// More samples than a run has.
fn batch() -> Batch {
    let classes: Vec<i64> = (0..SAMPLES as i64).map(|i| i % CLASSES as i64).collect();
    Batch {
        inputs: vec![noise(&[SAMPLES, 2 * FEATURES], 5)],
        targets: Tensor::index(classes.iter().copied()),
        classes,
    }
}

fn view() -> SampleView {
    SampleView::new(Differentiated::Loss, BatchNormMode::Running)
}

fn evaluated<T>(probes: &[&Probe<T>], engine: &dyn Engine) -> Vec<Result<T>> {
    let (model, samples) = (model(), batch());
    let (roles, memory) = (Roles::of(&model), Memory::default());
    let (model, roles, samples, loss) = (&model, &roles, &samples, Loss::CrossEntropy);
    let subject = Subject { model, roles, samples, loss, seed: 0, memory, engine };
    evaluate(probes, &subject, &mut Vec::new())
}

/// The gradients of each sample with respect to a parameter, by the interpreter.
fn gradients(name: &str) -> Vec<Vec<f64>> {
    let training =
        training_graph(&model(), Loss::CrossEntropy, SAMPLES, Reduction::PerSample).unwrap();
    let all: Vec<usize> = (0..SAMPLES).collect();
    let tensors = eval(&training.graph, &batch().rows(&all).unwrap()).unwrap();
    let at = training.parameters.iter().position(|(known, _)| known == name).unwrap();
    let rows = tensors[1 + at].to_f64();
    rows.outer_iter().map(|row| row.iter().copied().collect()).collect()
}

/// Sums, rows and moments of each gradient are those of all samples, each once, however they stand in
/// runs.
#[test]
fn combined_results_are_those_of_all_samples() {
    type All = Vec<(String, Vec<f64>, Vec<Vec<f64>>, Moments)>;
    let probe = |pairs: Pairs| -> Probe<All> {
        Probe::of_pairs(view(), pairs, |gradients| {
            let mut asked = Vec::new();
            let counted = gradients.counted();
            for gradient in gradients.gradients(Selection::All)? {
                let b = gradients.builder();
                let rows = gradient.rows(b)?;
                let shape = b.shape(rows);
                let weights = b.reshape(counted, &[shape[0], 1])?;
                let weighted = b.mul(rows, weights)?;
                let sum = b.reduce_sum(weighted, &[0])?;
                let sum = gradients.watch(sum, Sum::default());
                let rows = gradients.watch(rows, PerSample::default());
                asked.push((gradient.name.clone(), sum, rows, gradients.moments(&gradient)?));
            }
            Ok(Box::new(move |results| {
                let mut all = All::new();
                for (name, sum, rows, moments) in asked {
                    let (sum, rows) = (results.get(sum)?.clone(), results.get(rows)?.clone());
                    all.push((name, sum, rows, results.get(moments)?.clone()));
                }
                Ok(all)
            }))
        })
    };
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-4, "{got} for {want}");
    for engine in all_for_tests() {
        for pairs in [Pairs::None, Pairs::OfClasses, Pairs::All] {
            let all = evaluated(&[&probe(pairs)], &*engine).remove(0).unwrap();
            assert_eq!(all.len(), 2);
            for (name, sum, rows, moments) in all {
                let expected = gradients(&name);
                assert_eq!((rows.len(), moments.count), (SAMPLES, SAMPLES));
                let deviation = moments.deviation();
                for p in 0..sum.len() {
                    let column: Vec<f64> = expected.iter().map(|row| row[p]).collect();
                    let n = SAMPLES as f64;
                    let mean = column.iter().sum::<f64>() / n;
                    let spread = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
                    close(sum[p], mean * n);
                    close(moments.mean[p], mean);
                    close(
                        moments.mean_magnitude[p],
                        column.iter().map(|v| v.abs()).sum::<f64>() / n,
                    );
                    close(deviation[p], spread.sqrt());
                }
                for (row, expected) in rows.iter().zip(&expected) {
                    row.iter().zip(expected).for_each(|(&got, &want)| close(got, want));
                }
            }
        }
    }
}

/// An engine that counts the sessions it makes.
struct Counting {
    inner: Box<dyn Engine>,
    sessions: AtomicUsize,
}

impl Engine for Counting {
    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn load(&self, model: &Compiled) -> Result<Box<dyn Session>> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.inner.load(model)
    }
}

fn grams(pairs: Pairs) -> Probe<usize> {
    Probe::of_pairs(view(), pairs, |gradients| {
        let grams = gradients.grams(GramKind::Sign, Selection::All)?;
        Ok(Box::new(move |results| Ok(results.get(grams)?.len())))
    })
}

fn alone() -> Probe<usize> {
    Probe::of_samples(view(), |gradients| {
        let signs = gradients.sign_sums(Selection::All)?;
        Ok(Box::new(move |results| Ok(*results.get(signs)? as usize)))
    })
}

#[test]
fn probes_share_runs_where_the_same_samples_meet() {
    for inner in all_for_tests() {
        let engine = Counting { inner, sessions: AtomicUsize::new(0) };
        let count = |probes: &[&Probe<usize>]| {
            engine.sessions.store(0, Ordering::Relaxed);
            let results = evaluated(probes, &engine);
            (results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), {
                engine.sessions.load(Ordering::Relaxed)
            })
        };
        let (classes, all) = (grams(Pairs::OfClasses), grams(Pairs::All));
        let (signs, _) = count(&[&alone()]);
        assert_eq!(count(&[&classes, &alone()]), (vec![CLASSES, signs[0]], 1));
        assert_eq!(count(&[&alone(), &classes]), (vec![signs[0], CLASSES], 1));
        // The Gram matrix of all samples is not those of the classes.
        assert_eq!(count(&[&classes, &all, &alone()]), (vec![CLASSES, 1, signs[0]], 2));
    }
}

#[test]
fn a_probe_that_fails_costs_its_own_result() {
    let refused = || {
        Probe::of_samples(view(), |gradients| {
            // What it has asked for by then is dropped.
            gradients.sign_sums(Selection::Weights)?;
            Err(Error::Score("no".into()))
        })
    };
    let unreadable = Probe::of_samples(view(), |_| {
        Ok(Box::new(|_: &Results| Err::<usize, _>(Error::Score("not this".into()))))
    });
    for engine in all_for_tests() {
        let expected = evaluated(&[&alone()], &*engine).remove(0).unwrap();
        let results = evaluated(&[&refused(), &alone(), &unreadable], &*engine);
        let [first, second, third] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(first.as_ref().unwrap_err().to_string(), "no");
        assert_eq!(*second.as_ref().unwrap(), expected);
        assert_eq!(third.as_ref().unwrap_err().to_string(), "not this");
    }
}

#[test]
fn a_value_that_is_not_finite_fails_the_run() {
    let probe = Probe::of_samples(view(), |gradients| {
        let gradient = gradients.gradients(Selection::All)?.remove(0);
        let b = gradients.builder();
        let rows = gradient.rows(b)?;
        let square = b.mul(rows, rows)?;
        let negative = b.scale(square, -1.0)?;
        let negative = b.shift(negative, -1.0)?;
        let undefined = b.sqrt(negative)?;
        let watched = gradients.watch(undefined, PerSample::default());
        Ok(Box::new(move |results| Ok(results.get(watched)?.len())))
    });
    for engine in all_for_tests() {
        let error = evaluated(&[&probe], &*engine).remove(0).unwrap_err();
        assert!(error.to_string().contains("not finite"), "{error}");
    }
}
