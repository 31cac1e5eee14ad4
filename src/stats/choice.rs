//! What it is worth to take the first networks of a ranking.

use super::groups;

/// The highest of the `accuracies` of the `k` networks with the highest scores; for `k = 1`, the
/// accuracy of the network that is ranked first.
///
/// Where equal scores leave open which networks these are, it is the mean over all choices, as if ties
/// were broken at random. Missing scores are equal and lowest. `None` for lists of different lengths,
/// or where there are no networks, or `k` is 0.
///
/// ```
/// use gradalign::stats::best_of_first;
///
/// let scores = [Some(3.0), Some(7.0), Some(7.0), None];
/// let accuracies = [93.0, 90.0, 91.0, 94.0];
/// assert_eq!(best_of_first(&scores, &accuracies, 1), Some(90.5));
/// assert_eq!(best_of_first(&scores, &accuracies, 3), Some(93.0));
/// ```
pub fn best_of_first(scores: &[Option<f64>], accuracies: &[f64], k: usize) -> Option<f64> {
    if scores.len() != accuracies.len() || scores.is_empty() || k == 0 {
        return None;
    }
    let mut best = f64::NEG_INFINITY;
    let mut left = k.min(scores.len());
    for group in groups(scores).iter().rev() {
        let mut tied: Vec<f64> = group.iter().map(|&i| accuracies[i]).collect();
        tied.sort_by(f64::total_cmp);
        if tied.len() > left {
            return Some(mean_of_best(&tied, left, best));
        }
        best = tied.last().map_or(best, |&highest| best.max(highest));
        left -= tied.len();
        if left == 0 {
            break;
        }
    }
    Some(best)
}

/// The mean over all choices of `k` of `sorted` of the highest one, or of `floor` where that is higher.
fn mean_of_best(sorted: &[f64], k: usize, floor: f64) -> f64 {
    // The last of n is chosen, and so the highest, in k/n of the cases; else the choice is of the rest.
    let (mut mean, mut rest) = (0.0, 1.0);
    for (i, &value) in sorted.iter().enumerate().rev() {
        let chosen = (k as f64 / (i + 1) as f64).min(1.0);
        mean += rest * chosen * value.max(floor);
        rest *= 1.0 - chosen;
    }
    mean
}

/// How much the best of the `accuracies` is above that of the network that is ranked first.
/// Ties and missing scores are as for [`best_of_first`].
pub fn regret(scores: &[Option<f64>], accuracies: &[f64]) -> Option<f64> {
    let first = best_of_first(scores, accuracies, 1)?;
    let best = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(best - first)
}
