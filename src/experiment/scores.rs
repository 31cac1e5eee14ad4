//! The scores of networks, as columns of numbers: what is kept of their records.

use crate::rank::{Aggregate, Ranking};
use crate::score::{ModelResult, Run};

/// A score of networks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// For each network its value; `None` where it has none.
    pub values: Vec<Option<f64>>,
    /// The same for each draw of samples and parameters, where they are several.
    pub draws: Vec<Vec<Option<f64>>>,
}

/// The columns of the scores of `models`, which are of one run. A score that is a sum of others is the
/// sum of the ranks by them among these models, and has no single draws.
pub(super) fn columns(run: &Run, models: Vec<ModelResult>) -> Vec<Column> {
    let mut ranking = Ranking::new(run.clone(), models);
    ranking.sum_ranks();
    let column = |name: &String| {
        let scores = || ranking.models.iter().map(|model| model.scores.get(name));
        let is_sum = scores().flatten().any(|score| !score.parts.is_empty());
        let draws = scores().flatten().map(|score| score.values.len()).max().unwrap_or(0);
        let draw = |i: usize| {
            // One that does not change with the draws has one value for all.
            let of = |s: &crate::score::ScoreEntry| s.values.get(i).or(s.values.first()).copied();
            scores().map(|score| score.and_then(of).flatten()).collect()
        };
        Column {
            name: name.clone(),
            values: ranking.models.iter().map(|model| model.value(name)).collect(),
            draws: if is_sum || draws < 2 { Vec::new() } else { (0..draws).map(draw).collect() },
        }
    };
    run.settings.metrics.iter().map(column).collect()
}

/// The mean of the columns of several runs on the same networks, whose draws are put together. A
/// network without a value in one run has none.
pub(super) fn mean(runs: Vec<Vec<Column>>) -> Vec<Column> {
    let count = runs.len();
    let mut runs = runs.into_iter();
    let Some(mut mean) = runs.next() else { return Vec::new() };
    if count == 1 {
        return mean;
    }
    let single = |column: &Column| match column.draws.as_slice() {
        [] => vec![column.values.clone()],
        draws => draws.to_vec(),
    };
    for column in &mut mean {
        column.draws = single(column);
    }
    for run in runs {
        for (sum, column) in mean.iter_mut().zip(run) {
            sum.draws.extend(single(&column));
            for (sum, value) in sum.values.iter_mut().zip(column.values) {
                *sum = sum.zip(value).map(|(sum, value)| sum + value);
            }
        }
    }
    for value in mean.iter_mut().flat_map(|column| &mut column.values) {
        *value = value.map(|sum| sum / count as f64);
    }
    for column in &mut mean {
        // What does not change with the draws has none.
        if column.draws.windows(2).all(|pair| pair[0] == pair[1]) {
            column.draws.clear();
        }
    }
    mean
}

/// The column that `aggregate` makes of others.
pub(super) fn aggregated(aggregate: &Aggregate, columns: &[Column], asked: &[String]) -> Column {
    let takes = |column: &&Column| match aggregate.scores() {
        [] => asked.contains(&column.name),
        scores => scores.contains(&column.name),
    };
    let values: Vec<_> = columns.iter().filter(takes).map(|c| c.values.clone()).collect();
    let values = aggregate.of(&values).into_iter().map(Some).collect();
    Column { name: aggregate.to_string(), values, draws: Vec::new() }
}
