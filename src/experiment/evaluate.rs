//! How the scores of networks agree with their accuracies.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::Serialize;

use super::plan::{Nulls, Statistics};
use super::scores::Column;
use crate::stats::{
    Interval, Resamples, average_ranks, best_of_first, kendall_tau, regret, spearman,
};

/// A number, and how far it might be another with other networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The number; `None` where it is not defined.
    pub value: Option<f64>,
    /// Its 95 % interval, by the bootstrap over networks; `None` where there is none.
    pub interval: Option<Interval>,
}

/// How a score agrees with the accuracies of networks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The name of the score.
    pub score: String,
    /// How many networks it is over.
    pub networks: usize,
    /// How many networks have no score: ranked last, or left out.
    pub without_score: usize,
    /// Kendall's tau-b.
    pub kendall_tau: Estimate,
    /// Spearman's rank correlation.
    pub spearman: Estimate,
    /// The accuracy of the network that is ranked first.
    pub first: Estimate,
    /// The best accuracy among the first networks, as many as a short list has.
    pub best_of_top: Estimate,
    /// How much the best network is above the one that is ranked first.
    pub regret: Estimate,
    /// Kendall's tau-b of single draws, where there are several.
    pub draws: Option<Draws>,
    /// Kendall's tau-b of each resample, which ranks of scores are made of.
    #[serde(skip)]
    pub(super) resampled: Vec<Option<f64>>,
}

/// Kendall's tau-b of single draws of samples and parameters, where the score is the mean over them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draws {
    /// One value a draw.
    pub kendall_tau: Vec<Option<f64>>,
    /// Their mean; `None` where one is not defined.
    pub mean: Option<f64>,
    /// Their standard deviation.
    pub std: Option<f64>,
}

/// What is computed of a score and accuracies.
const STATISTICS: usize = 5;

/// How `columns` agree with `accuracies`, which are of the same networks.
pub(super) fn agreements(
    columns: &[Column],
    accuracies: &[f64],
    by: &Statistics,
) -> Vec<Agreement> {
    in_parallel(columns, |column| agreement(column, accuracies, by))
}

fn agreement(column: &Column, accuracies: &[f64], by: &Statistics) -> Agreement {
    let without_score = column.values.iter().filter(|value| value.is_none()).count();
    let (scores, kept) = match by.nulls {
        Nulls::Last => (column.values.clone(), accuracies.to_vec()),
        Nulls::Drop => {
            let pairs = column.values.iter().zip(accuracies);
            pairs.filter(|(score, _)| score.is_some()).map(|(score, a)| (*score, *a)).unzip()
        }
    };
    let [tau, rho, first, best, lost] = statistics(&scores, &kept, by.top);
    let mut resampled: [Vec<Option<f64>>; STATISTICS] = Default::default();
    for resample in Resamples::new(scores.len(), by.resamples, by.seed) {
        let scores: Vec<_> = resample.iter().map(|&i| scores[i]).collect();
        let accuracies: Vec<_> = resample.iter().map(|&i| kept[i]).collect();
        let found = statistics(&scores, &accuracies, by.top);
        resampled.iter_mut().zip(found).for_each(|(all, one)| all.push(one));
    }
    let estimate = |value, which: usize| {
        let interval = Interval::of(resampled[which].iter().copied());
        Estimate { value, interval: interval.filter(|_| value.is_some()) }
    };
    Agreement {
        score: column.name.clone(),
        networks: scores.len(),
        without_score,
        kendall_tau: estimate(tau, 0),
        spearman: estimate(rho, 1),
        first: estimate(first, 2),
        best_of_top: estimate(best, 3),
        regret: estimate(lost, 4),
        draws: Draws::of(column, accuracies),
        resampled: std::mem::take(&mut resampled[0]),
    }
}

/// Tau-b, Spearman's correlation, and what the first networks are worth.
fn statistics(scores: &[Option<f64>], accuracies: &[f64], top: usize) -> [Option<f64>; STATISTICS] {
    let truth: Vec<Option<f64>> = accuracies.iter().copied().map(Some).collect();
    [
        kendall_tau(scores, &truth),
        spearman(scores, &truth),
        best_of_first(scores, accuracies, 1),
        best_of_first(scores, accuracies, top),
        regret(scores, accuracies),
    ]
}

impl Draws {
    /// Those of a column that is the mean of several.
    fn of(column: &Column, accuracies: &[f64]) -> Option<Self> {
        if column.draws.len() < 2 {
            return None;
        }
        let truth: Vec<Option<f64>> = accuracies.iter().copied().map(Some).collect();
        let taus: Vec<Option<f64>> =
            column.draws.iter().map(|draw| kendall_tau(draw, &truth)).collect();
        let all: Option<Vec<f64>> = taus.iter().copied().collect();
        let (mean, std) = all.map_or((None, None), |all| {
            let (mean, std) = crate::score::mean_and_deviation(&all);
            (Some(mean), std)
        });
        Some(Draws { kendall_tau: taus, mean, std })
    }
}

/// The mean rank of a score over several benchmarks; 1 is the best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeanRank {
    /// The name of the score.
    pub score: String,
    /// By Kendall's tau-b.
    pub by_kendall_tau: Estimate,
    /// By the accuracy of the network that is ranked first.
    pub by_first: Option<f64>,
}

/// The mean ranks of the scores that all `benchmarks` have, from the best by tau-b. The intervals are
/// over resamples of the networks of all benchmarks at once.
pub(super) fn mean_ranks(benchmarks: &[&[Agreement]]) -> Vec<MeanRank> {
    let of = |name: &str| -> Option<Vec<&Agreement>> {
        let find = |rows: &&'_ [Agreement]| rows.iter().position(|row| row.score == name);
        benchmarks.iter().map(|rows| find(rows).map(|at| &rows[at])).collect()
    };
    let names = benchmarks.first().map_or(&[][..], |rows| rows).iter().map(|row| &row.score);
    let common: Vec<Vec<&Agreement>> = names.filter_map(|name| of(name)).collect();
    // For each score, the mean over the benchmarks of its rank by `value`.
    let ranks = |value: &dyn Fn(&Agreement) -> Option<f64>| -> Vec<f64> {
        let mut sums = vec![0.0; common.len()];
        for benchmark in 0..benchmarks.len() {
            let values: Vec<_> = common.iter().map(|rows| value(rows[benchmark])).collect();
            // From the best down.
            let ranks = average_ranks(&values).into_iter().map(|r| common.len() as f64 + 1.0 - r);
            sums.iter_mut().zip(ranks).for_each(|(sum, rank)| *sum += rank);
        }
        sums.into_iter().map(|sum| sum / benchmarks.len() as f64).collect()
    };
    let by_tau = ranks(&|row| row.kendall_tau.value);
    let by_first = ranks(&|row| row.first.value);
    let resamples = common.iter().flatten().map(|row| row.resampled.len()).min().unwrap_or(0);
    let resampled: Vec<Vec<f64>> = (0..resamples).map(|i| ranks(&|row| row.resampled[i])).collect();
    let rank = |(i, rows): (usize, &Vec<&Agreement>)| MeanRank {
        score: rows.first().map(|row| row.score.clone()).unwrap_or_default(),
        by_kendall_tau: Estimate {
            value: Some(by_tau[i]),
            interval: Interval::of(resampled.iter().map(|ranks| Some(ranks[i]))),
        },
        by_first: Some(by_first[i]),
    };
    let mut found: Vec<MeanRank> = common.iter().enumerate().map(rank).collect();
    let key = |rank: &MeanRank| rank.by_kendall_tau.value.unwrap_or(f64::INFINITY);
    found.sort_by(|a, b| key(a).total_cmp(&key(b)));
    found
}

/// What `work` gives for each of `items`, in order, by as many threads as there are cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let run = || {
        while let Some((at, item)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            items.get(at).map(|item| (at, item))
        } {
            let result = work(item);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(items.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
