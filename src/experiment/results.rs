//! What an experiment found.

use serde::Serialize;

use super::evaluate::{Agreement, MeanRank, agreements, mean_ranks};
use super::plan::{Benchmark, Plan, Statistics, Variant};
use super::run::{Networks, Notes};
use super::scores::{Column, aggregated};
use crate::score::{Run, Tool};
use crate::space::Architecture;

/// What an experiment found. In JSON it is `tables.json`, which `docs/experiments.md` describes.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// What the experiment is called.
    pub name: String,
    /// The program.
    pub tool: Tool,
    /// How scores were compared with accuracies.
    pub statistics: Statistics,
    /// For each benchmark and variant, what was found.
    pub benchmarks: Vec<Benched>,
    /// The mean ranks of the scores, for each variant, where there are several benchmarks.
    pub mean_ranks: Vec<MeanRanks>,
}

/// What was found on a benchmark in a variant.
#[derive(Clone, Debug, Serialize)]
pub struct Benched {
    /// The benchmark.
    pub benchmark: String,
    /// The variant; empty where nothing is varied.
    pub variant: String,
    /// The search space.
    pub space: &'static str,
    /// How the networks were built.
    pub build: Build,
    /// All that the scores depend on, one for each seed.
    pub runs: Vec<Run>,
    /// The median of the seconds that a network took, when it was computed.
    pub seconds: Option<f64>,
    /// Why networks failed, with how many.
    pub failures: Vec<(String, usize)>,
    /// For each column of the truth, how the scores agree with it.
    pub truths: Vec<Comparison>,
    /// The columns of the truth.
    #[serde(skip)]
    pub values: Vec<String>,
    /// The networks that were scored.
    #[serde(skip)]
    pub networks: Vec<Network>,
    /// Their scores.
    #[serde(skip)]
    pub columns: Vec<Column>,
}

/// How networks were built.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Build {
    pub classes: usize,
    pub image_size: usize,
    pub stem: Option<usize>,
    pub seed: u64,
}

/// A network that was scored.
#[derive(Clone, Debug)]
pub struct Network {
    /// What it is called.
    pub name: String,
    /// Its architecture.
    pub notation: String,
    /// Its accuracies, one for each column of the truth.
    pub accuracies: Vec<Option<f64>>,
}

/// How scores agree with accuracies.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The column of the truth.
    pub truth: String,
    /// How many networks have an accuracy.
    pub networks: usize,
    /// The highest accuracy.
    pub best: f64,
    /// The mean of the accuracies.
    pub mean: f64,
    /// The scores, in the order asked for; aggregates and baselines after them.
    pub scores: Vec<Agreement>,
}

/// The mean ranks of scores over benchmarks.
#[derive(Clone, Debug, Serialize)]
pub struct MeanRanks {
    /// The variant; empty where nothing is varied.
    pub variant: String,
    /// The benchmarks: of each, the first column of the truth.
    pub benchmarks: Vec<String>,
    /// The scores that all of them have, the best first.
    pub scores: Vec<MeanRank>,
}

impl Benched {
    pub(super) fn new(
        plan: &Plan,
        benchmark: &Benchmark,
        variant: &Variant,
        networks: &Networks,
        runs: Vec<Run>,
        mut columns: Vec<Column>,
        mut notes: Notes,
    ) -> Self {
        let made = plan.aggregates.iter().map(|a| aggregated(a, &columns, &variant.asked));
        let made: Vec<Column> = made.collect();
        // The baselines come last.
        columns.extend(made);
        columns.sort_by_key(|column| ["params", "flops"].contains(&column.name.as_str()));
        let network = |architecture: &dyn Architecture| {
            let notation = architecture.notation();
            let accuracies = networks.truth.of(&notation).unwrap_or_default().to_vec();
            Network { name: architecture.name(), notation, accuracies }
        };
        let scored: Vec<Network> =
            networks.architectures.iter().map(|architecture| network(&**architecture)).collect();
        let truths = networks.truth.values.iter().enumerate();
        let truths = truths
            .filter_map(|(at, name)| Comparison::of(name, at, &scored, &columns, &plan.statistics));
        let build = &variant.build;
        Benched {
            benchmark: benchmark.name.clone(),
            variant: variant.name.clone(),
            space: benchmark.space.name(),
            build: Build {
                classes: build.classes,
                image_size: build.image_size,
                stem: build.stem,
                seed: build.seed,
            },
            runs,
            seconds: median(&mut notes.seconds),
            failures: notes.failures,
            truths: truths.collect(),
            values: networks.truth.values.clone(),
            networks: scored,
            columns,
        }
    }

    /// What it is called: the benchmark and the variant.
    pub fn title(&self) -> String {
        match self.variant.as_str() {
            "" => self.benchmark.clone(),
            variant => format!("{}, {variant}", self.benchmark),
        }
    }
}

impl Comparison {
    /// With the accuracies at place `at`; `None` where no network has one.
    fn of(
        truth: &str,
        at: usize,
        networks: &[Network],
        columns: &[Column],
        by: &Statistics,
    ) -> Option<Self> {
        let known: Vec<(usize, f64)> = networks
            .iter()
            .enumerate()
            .filter_map(|(i, network)| Some((i, network.accuracies.get(at).copied().flatten()?)))
            .collect();
        let accuracies: Vec<f64> = known.iter().map(|(_, accuracy)| *accuracy).collect();
        let of_known = |values: &Vec<Option<f64>>| known.iter().map(|(i, _)| values[*i]).collect();
        let columns: Vec<Column> = columns
            .iter()
            .map(|column| Column {
                name: column.name.clone(),
                values: of_known(&column.values),
                draws: column.draws.iter().map(of_known).collect(),
            })
            .collect();
        let best = accuracies.iter().copied().reduce(f64::max)?;
        Some(Comparison {
            truth: truth.to_owned(),
            networks: known.len(),
            best,
            mean: accuracies.iter().sum::<f64>() / known.len() as f64,
            scores: agreements(&columns, &accuracies, by),
        })
    }
}

impl Results {
    pub(super) fn new(plan: &Plan, benchmarks: Vec<Benched>) -> Self {
        let mut variants: Vec<&str> = Vec::new();
        for benched in &benchmarks {
            if !variants.contains(&benched.variant.as_str()) {
                variants.push(&benched.variant);
            }
        }
        let ranks = variants.iter().filter_map(|variant| {
            let of: Vec<&Benched> = benchmarks.iter().filter(|b| b.variant == *variant).collect();
            let rows: Vec<&[Agreement]> =
                of.iter().filter_map(|b| Some(b.truths.first()?.scores.as_slice())).collect();
            (rows.len() > 1).then(|| MeanRanks {
                variant: (*variant).to_owned(),
                benchmarks: of.iter().map(|b| b.benchmark.clone()).collect(),
                scores: mean_ranks(&rows),
            })
        });
        let mean_ranks = ranks.collect();
        Results {
            name: plan.name.clone(),
            tool: Tool::this(),
            statistics: plan.statistics.clone(),
            benchmarks,
            mean_ranks,
        }
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    Some(match values.len() % 2 {
        1 => *upper,
        _ => (values[middle - 1] + upper) / 2.0,
    })
}
