//! What an experiment is, read from a TOML file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::choose::Choice;
use super::truth::TruthFile;
use crate::error::{Error, Result};
use crate::file;
use crate::probe::Memory;
use crate::rank::Aggregate;
use crate::score::ScoreSettings;
use crate::space::{self, BuildOptions, Space};

/// An experiment: what is scored, and what the scores are compared with.
#[derive(Clone)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// The benchmarks, at least one, with names of their own.
    pub benchmarks: Vec<Benchmark>,
    /// Rankings that are made of those by several scores.
    pub aggregates: Vec<Aggregate>,
    /// The architectures of each benchmark.
    pub architectures: Choice,
    /// How scores are compared with accuracies.
    pub statistics: Statistics,
}

/// A search space with images and accuracies.
#[derive(Clone)]
pub struct Benchmark {
    /// What it is called.
    pub name: String,
    /// The space.
    pub space: &'static dyn Space,
    /// Where the images are; `None` where it has not been said.
    pub data: Option<String>,
    /// The accuracies.
    pub truth: TruthFile,
    /// What is varied, at least one; a single one has an empty name.
    pub variants: Vec<Variant>,
}

/// How the networks of a benchmark are built and scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// What it is called.
    pub name: String,
    /// How networks are built.
    pub build: BuildOptions,
    /// How they are scored, the scores of aggregates and the baselines among them. The seed is that of
    /// each run.
    pub settings: ScoreSettings,
    /// The scores that were asked for themselves: those that an aggregate of all is made of.
    pub asked: Vec<String>,
    /// The seeds of the draws of samples and parameters: each is a run.
    pub seeds: Vec<u64>,
}

/// How scores are compared with accuracies.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Statistics {
    /// What becomes of networks without a score.
    pub nulls: Nulls,
    /// How many networks the short list has.
    pub top: usize,
    /// How many resamples an interval is made of; 0 for no intervals.
    pub resamples: usize,
    /// The seed that they are drawn from.
    pub seed: u64,
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics { nulls: Nulls::Last, top: 10, resamples: 1000, seed: 0 }
    }
}

/// What becomes of networks without a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nulls {
    /// They are ranked last.
    Last,
    /// They are left out, score by score, as publications do.
    Drop,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PlanFile {
    name: String,
    #[serde(default)]
    scoring: Table,
    #[serde(default)]
    seeds: Vec<u64>,
    #[serde(default)]
    aggregates: Vec<String>,
    #[serde(default)]
    architectures: Choice,
    #[serde(default)]
    statistics: Statistics,
    benchmark: Vec<BenchmarkFile>,
    #[serde(default)]
    variant: Vec<VariantFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct BenchmarkFile {
    name: String,
    space: Table,
    data: Option<String>,
    truth: TruthFile,
    #[serde(default)]
    scoring: Table,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct VariantFile {
    name: String,
    #[serde(default)]
    space: Table,
    #[serde(default)]
    scoring: Table,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SpaceFile {
    name: String,
    classes: Option<usize>,
    image_size: Option<usize>,
    stem: Option<usize>,
    seed: Option<u64>,
}

impl Plan {
    /// Reads the plan in the TOML file at `path`. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// When it cannot be read, has keys or values that are not known, or asks for what cannot be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = String::from_utf8(file::read(path)?)
            .map_err(|_| Error::Usage(format!("{}: no text in UTF-8", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Plan::parse(&text, folder)
            .map_err(|error| Error::Usage(format!("{}: {}", path.display(), error)))
    }

    /// The plan that `text` is, with paths relative to `folder`.
    ///
    /// # Errors
    /// As [`Plan::read`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let file: PlanFile = toml::from_str(text).map_err(|e| Error::Usage(e.to_string()))?;
        let PlanFile { name, scoring, seeds, aggregates, architectures, .. } = &file;
        let aggregates: Vec<Aggregate> =
            aggregates.iter().map(|text| text.parse()).collect::<Result<_>>()?;
        let unvaried = [VariantFile::default()];
        let variants = if file.variant.is_empty() { &unvaried } else { &*file.variant };
        distinct("benchmark", file.benchmark.iter().map(|benchmark| &benchmark.name))?;
        distinct("variant", file.variant.iter().map(|variant| &variant.name))?;
        distinct("seed", seeds)?;
        if file.benchmark.is_empty() {
            return Err(Error::Usage("there is no [[benchmark]] in it".into()));
        }
        let benchmark = |of: &BenchmarkFile| -> Result<Benchmark> {
            let made = variants.iter().map(|variant| {
                let at = |error: Error| {
                    let variant = match variant.name.as_str() {
                        "" => String::new(),
                        name => format!(", variant '{name}'"),
                    };
                    Error::Usage(format!("benchmark '{}'{variant}: {error}", of.name))
                };
                let (space, build) = build(&[&of.space, &variant.space]).map_err(at)?;
                let scoring = [scoring, &of.scoring, &variant.scoring];
                let (settings, asked) = settings(&scoring, &aggregates).map_err(at)?;
                let seeds = match seeds.as_slice() {
                    [] => vec![settings.seed],
                    several => several.to_vec(),
                };
                let name = variant.name.clone();
                Ok((space, Variant { name, build, settings, asked, seeds }))
            });
            let made = made.collect::<Result<Vec<_>>>()?;
            let Some(&(space, _)) = made.first() else {
                return Err(Error::Usage("there is no variant".into()));
            };
            if let Some((_, other)) = made.iter().find(|(of, _)| of.name() != space.name()) {
                return Err(Error::Usage(format!(
                    "the variant '{}' is of another space: give that a benchmark of its own",
                    other.name
                )));
            }
            Ok(Benchmark {
                name: of.name.clone(),
                space,
                data: of.data.clone().map(|data| located(folder, data)),
                truth: of.truth.clone().located(folder),
                variants: made.into_iter().map(|(_, variant)| variant).collect(),
            })
        };
        let benchmarks = file.benchmark.iter().map(benchmark).collect::<Result<_>>()?;
        let architectures = architectures.clone().located(folder);
        let statistics = file.statistics.clone().check()?;
        Ok(Plan { name: name.clone(), benchmarks, aggregates, architectures, statistics })
    }

    /// The benchmark called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn benchmark_mut(&mut self, name: &str) -> Result<&mut Benchmark> {
        let names: Vec<_> = self.benchmarks.iter().map(|b| format!("'{}'", b.name)).collect();
        self.benchmarks.iter_mut().find(|benchmark| benchmark.name == name).ok_or_else(|| {
            let names = names.join(", ");
            Error::Usage(format!("there is no benchmark '{name}': there are {names}"))
        })
    }
}

impl Statistics {
    fn check(self) -> Result<Self> {
        match self.top {
            0 => Err(Error::Usage("statistics: a short list needs a network: raise top".into())),
            _ => Ok(self),
        }
    }
}

/// `tables` in one: what a later one has replaces what an earlier one has.
fn merged(tables: &[&Table]) -> Table {
    tables.iter().flat_map(|table| table.iter()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn build(tables: &[&Table]) -> Result<(&'static dyn Space, BuildOptions)> {
    let read = |e: toml::de::Error| Error::Usage(format!("space: {}", e.message()));
    let SpaceFile { name, classes, image_size, stem, seed } =
        merged(tables).try_into().map_err(read)?;
    let default = BuildOptions::default();
    let build = BuildOptions {
        classes: classes.unwrap_or(default.classes),
        image_size: image_size.unwrap_or(default.image_size),
        stem,
        seed: seed.unwrap_or(default.seed),
    };
    Ok((space::named(&name)?, build))
}

/// The settings that the tables make together, with the scores of `aggregates` and the baselines; and the
/// scores without these.
fn settings(tables: &[&Table], aggregates: &[Aggregate]) -> Result<(ScoreSettings, Vec<String>)> {
    let read = |e: toml::de::Error| Error::Usage(format!("scoring: {}", e.message()));
    let mut settings: ScoreSettings = merged(tables).try_into().map_err(read)?;
    let asked = settings.spelt_out()?.metrics;
    settings.metrics.extend(aggregates.iter().flat_map(Aggregate::scores).cloned());
    settings.metrics.extend(["params", "flops"].map(String::from));
    let settings = settings.spelt_out()?;
    settings.resolve(Memory::default())?;
    Ok((settings, asked))
}

/// Errs where two of `names` are the same.
fn distinct<T: PartialEq + ToString>(what: &str, names: impl IntoIterator<Item = T>) -> Result<()> {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Err(Error::Usage(format!("the {what} '{}' is there twice", name.to_string())));
        }
        seen.push(name);
    }
    Ok(())
}

/// Where a path of a plan leads. Data may be no path.
fn located(folder: &Path, data: String) -> String {
    if data == "synthetic" {
        return data;
    }
    match folder.join(&data).into_os_string().into_string() {
        Ok(path) => path,
        Err(_) => data,
    }
}
