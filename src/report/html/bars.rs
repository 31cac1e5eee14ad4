//! How long the bars of a score are, relative to each other.

/// The factor between the values of a score beyond which bars follow the ranks: most would be too
/// short to see.
const WIDE: f64 = 1e3;

/// What the length of a bar follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// The value, from zero to the highest.
    FromZero { highest: f64 },
    /// The value, from the lowest to the highest: some are negative.
    FromLowest { lowest: f64, highest: f64 },
    /// The rank: the values are too far apart.
    ByRank { models: usize },
}

impl Scale {
    /// The scale for these values, which are finite.
    pub(super) fn of(values: &[f64]) -> Scale {
        let mut sizes: Vec<f64> = values.iter().map(|v| v.abs()).filter(|v| *v > 0.0).collect();
        sizes.sort_by(f64::total_cmp);
        let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let Some(largest) = sizes.last() else { return Scale::FromZero { highest: 0.0 } };
        // Values on both sides of zero may well come near it.
        let small = if lowest < 0.0 && highest > 0.0 { sizes[sizes.len() / 2] } else { sizes[0] };
        if largest / small > WIDE {
            Scale::ByRank { models: values.len() }
        } else if lowest < 0.0 {
            Scale::FromLowest { lowest, highest }
        } else {
            Scale::FromZero { highest }
        }
    }

    /// How long the bar of a value is, from 0 to 1. `rank` counts from 1, the best.
    pub(super) fn length(self, value: f64, rank: usize) -> f64 {
        let length = match self {
            Scale::FromZero { highest } => value / highest,
            // Halves, as the difference of two large numbers may not be finite.
            Scale::FromLowest { lowest, highest } => {
                (value / 2.0 - lowest / 2.0) / (highest / 2.0 - lowest / 2.0)
            }
            Scale::ByRank { models } => {
                (models + 1).saturating_sub(rank) as f64 / models.max(1) as f64
            }
        };
        if length.is_finite() { length.clamp(0.0, 1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(values: &[f64]) -> Vec<f64> {
        let scale = Scale::of(values);
        let rank = |v: f64| 1 + values.iter().filter(|other| **other > v).count();
        values.iter().map(|v| scale.length(*v, rank(*v))).collect()
    }

    #[test]
    fn bars_follow_values_from_zero_where_none_is_negative() {
        assert_eq!(lengths(&[4.0, 1.0, 0.0, 2.0]), [1.0, 0.25, 0.0, 0.5]);
        assert_eq!(lengths(&[3.0]), [1.0]);
        assert_eq!(lengths(&[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(lengths(&[]), [0.0; 0]);
    }

    #[test]
    fn bars_begin_at_the_lowest_value_where_some_are_negative() {
        assert_eq!(lengths(&[-3.0, 1.0, -1.0]), [0.0, 1.0, 0.5]);
        assert_eq!(lengths(&[-200.0, -100.0, -150.0]), [0.0, 1.0, 0.5]);
        assert_eq!(lengths(&[-5.0, -5.0]), [0.0, 0.0]);
        // One that is nearly zero does not make the others far apart.
        assert_eq!(lengths(&[-1.0, 1.0, 1e-9])[..2], [0.0, 1.0]);
        assert_eq!(lengths(&[f64::MIN, f64::MAX, 0.0]), [0.0, 1.0, 0.5]);
    }

    #[test]
    fn bars_follow_ranks_where_values_are_far_apart() {
        assert_eq!(lengths(&[1e300, 1.0, 1e-300, 2.0]), [1.0, 0.5, 0.25, 0.75]);
        assert_eq!(lengths(&[-1e9, -1.0]), [0.5, 1.0]);
        assert_eq!(lengths(&[f64::MAX, f64::MIN_POSITIVE]), [1.0, 0.5]);
    }
}
