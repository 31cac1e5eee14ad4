//! Ranks and rank correlation, what the first of a ranking are worth, and intervals.
//!
//! Scores are optional. A missing score or NaN is lower than any other and equal to other missing scores,
//! so that a network without a score is ranked last and never dropped.

mod bootstrap;
mod choice;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

pub use bootstrap::{Interval, Resamples};
pub use choice::{best_of_first, regret};

/// Kendall's tau-b of two lists of the same length, in O(n log n) (Knight's algorithm).
///
/// Ties are handled as in scipy's `kendalltau`. `None` if it is not defined: for lists of different
/// lengths, with fewer than two entries, or with all entries equal.
pub fn kendall_tau(x: &[Option<f64>], y: &[Option<f64>]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let mut pairs: Vec<(usize, usize)> = dense_ranks(x).into_iter().zip(dense_ranks(y)).collect();
    pairs.sort_unstable();
    let tied_x = tied_pairs(pairs.chunk_by(|a, b| a.0 == b.0));
    let tied_both = tied_pairs(pairs.chunk_by(|a, b| a == b));
    // Sorted by x, then y: each exchange needed to sort by y is a discordant pair.
    let mut ys: Vec<usize> = pairs.iter().map(|pair| pair.1).collect();
    let discordant = sort_counting_exchanges(&mut ys);
    let tied_y = tied_pairs(ys.chunk_by(|a, b| a == b));

    let n = x.len() as u64;
    let all = n * n.saturating_sub(1) / 2;
    let (untied_x, untied_y) = (all - tied_x, all - tied_y);
    if untied_x == 0 || untied_y == 0 {
        return None;
    }
    // Concordant minus discordant, by inclusion and exclusion.
    let difference = (all + tied_both) as f64 - (tied_x + tied_y) as f64 - 2.0 * discordant as f64;
    let tau = difference / (untied_x as f64).sqrt() / (untied_y as f64).sqrt();
    Some(tau.clamp(-1.0, 1.0))
}

/// Spearman's rank correlation of two lists of the same length: Pearson's correlation of their
/// average ranks. `None` if it is not defined, as for [`kendall_tau`].
pub fn spearman(x: &[Option<f64>], y: &[Option<f64>]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 2 {
        return None;
    }
    let (x, y) = (average_ranks(x), average_ranks(y));
    // Ties do not change the mean of the ranks.
    let mean = (x.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let norm = (product(&x, &x) * product(&y, &y)).sqrt();
    (norm > 0.0).then(|| (product(&x, &y) / norm).clamp(-1.0, 1.0))
}

/// Ranks from the best score (1) down, where higher is better. Equal scores share the better rank, and
/// the following ranks are skipped (1, 2, 2, 4).
pub fn ranks(scores: &[Option<f64>]) -> Vec<usize> {
    let mut ranks = vec![0; scores.len()];
    let mut better = 0;
    for group in groups(scores).iter().rev() {
        for &index in group {
            ranks[index] = better + 1;
        }
        better += group.len();
    }
    ranks
}

/// Ranks from the lowest score (1) up. Equal scores share the average of their ranks.
pub fn average_ranks(scores: &[Option<f64>]) -> Vec<f64> {
    let mut ranks = vec![0.0; scores.len()];
    let mut lower = 0;
    for group in groups(scores) {
        let rank = lower as f64 + (group.len() as f64 + 1.0) / 2.0;
        for &index in &group {
            ranks[index] = rank;
        }
        lower += group.len();
    }
    ranks
}

/// Orders scores from the lowest up. Missing scores and NaN come first and are equal.
pub fn compare(a: Option<f64>, b: Option<f64>) -> Ordering {
    let present = |score: Option<f64>| score.filter(|score| !score.is_nan());
    // `None` cannot occur: NaN was replaced.
    present(a).partial_cmp(&present(b)).unwrap_or(Ordering::Equal)
}

/// The indices of the scores, grouped by equal scores, from the lowest up.
fn groups(scores: &[Option<f64>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| compare(scores[a], scores[b]));
    let equal = |a: &usize, b: &usize| compare(scores[*a], scores[*b]).is_eq();
    order.chunk_by(equal).map(<[usize]>::to_vec).collect()
}

/// Ranks from the lowest score (0) up, without gaps.
fn dense_ranks(scores: &[Option<f64>]) -> Vec<usize> {
    let mut ranks = vec![0; scores.len()];
    for (rank, group) in groups(scores).iter().enumerate() {
        for &index in group {
            ranks[index] = rank;
        }
    }
    ranks
}

/// The number of pairs inside chunks of tied entries.
fn tied_pairs<'a, T: 'a>(chunks: impl Iterator<Item = &'a [T]>) -> u64 {
    chunks.map(|chunk| chunk.len() as u64 * (chunk.len() as u64 - 1) / 2).sum()
}

/// Merge sort. Returns the number of pairs that were out of order.
fn sort_counting_exchanges(values: &mut [usize]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut exchanges = sort_counting_exchanges(left) + sort_counting_exchanges(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut l, mut r) = (0, 0);
    while l < left.len() && r < right.len() {
        if right[r] < left[l] {
            merged.push(right[r]);
            r += 1;
            exchanges += (left.len() - l) as u64;
        } else {
            merged.push(left[l]);
            l += 1;
        }
    }
    merged.extend_from_slice(&left[l..]);
    merged.extend_from_slice(&right[r..]);
    values.copy_from_slice(&merged);
    exchanges
}
