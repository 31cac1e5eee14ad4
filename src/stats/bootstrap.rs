//! Intervals by the bootstrap: a statistic of many samples, drawn from the observations with
//! replacement.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The range that holds the middle 95 % of the values of a statistic over resamples: its 2.5 and 97.5
/// percentiles, interpolated between neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How much of the values lies below an interval, and how much above it.
const TAIL: f64 = 0.025;

impl Interval {
    /// The interval of these values; `None` where there are none. Resamples for which the statistic is
    /// not defined are left out.
    pub fn of(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().flatten().filter(|v| !v.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        Some(Interval { low: quantile(&values, TAIL)?, high: quantile(&values, 1.0 - TAIL)? })
    }
}

/// The quantile `q` of sorted values, linear between neighbours.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Of equal neighbours the difference is 0, infinite ones included.
    Some(if below == above { below } else { below + (above - below) * place.fract() })
}

/// Resamples of observations: lists of as many indices, drawn with replacement. The same seed gives the
/// same, so that statistics of several scores are compared on equal resamples.
#[derive(Clone, Debug)]
pub struct Resamples {
    observations: usize,
    left: usize,
    rng: ChaCha8Rng,
}

impl Resamples {
    /// `count` resamples of `observations` observations.
    pub fn new(observations: usize, count: usize, seed: u64) -> Self {
        Resamples { observations, left: count, rng: ChaCha8Rng::seed_from_u64(seed) }
    }
}

impl Iterator for Resamples {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        self.left = self.left.checked_sub(1)?;
        let n = self.observations as u128;
        // The high half of a 64×64-bit product is below n.
        let index = |rng: &mut ChaCha8Rng| ((u128::from(rng.next_u64()) * n) >> 64) as usize;
        Some((0..self.observations).map(|_| index(&mut self.rng)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.percentile(values, (2.5, 97.5))
        let interval = |values: &[f64]| Interval::of(values.iter().copied().map(Some));
        let found = interval(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert!(
            (found.low - 1.075).abs() < 1e-12 && (found.high - 9.475).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(interval(&[5.0]), Some(Interval { low: 5.0, high: 5.0 }));
        assert_eq!(interval(&[]), None);
        assert_eq!(Interval::of([None, Some(2.0), Some(f64::NAN)]).unwrap().low, 2.0);
    }

    #[test]
    fn resamples_are_seeded_and_even() {
        let all: Vec<Vec<usize>> = Resamples::new(5, 1000, 7).collect();
        assert_eq!(all, Resamples::new(5, 1000, 7).collect::<Vec<_>>());
        assert_ne!(all, Resamples::new(5, 1000, 8).collect::<Vec<_>>());
        assert_eq!((all.len(), all[0].len()), (1000, 5));
        let mut counts = [0; 5];
        all.iter().flatten().for_each(|&i| counts[i] += 1);
        // 1000 each, with a standard deviation of 28.
        assert!(counts.iter().all(|&n| (880..1120).contains(&n)), "{counts:?}");
        assert!(Resamples::new(0, 2, 0).all(|resample| resample.is_empty()));
    }
}
