//! Drawing samples: seeded, without replacement, balanced over the classes.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Labels, Samples};

/// Draws from `len` samples. Returns their indices in the order drawn.
pub(super) fn draw(labels: &Labels, len: usize, samples: Samples, seed: u64) -> Vec<usize> {
    let Samples::Count(count) = samples else { return (0..len).collect() };
    let mut groups: Vec<Vec<usize>> = match labels {
        Labels::Classes(classes) => {
            let mut by_class = BTreeMap::<i64, Vec<usize>>::new();
            for (sample, &class) in classes.iter().enumerate() {
                by_class.entry(class).or_default().push(sample);
            }
            by_class.into_values().collect()
        }
        Labels::Values(_) | Labels::Synthetic => vec![(0..len).collect()],
    };

    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    shuffle(&mut groups, &mut rng);
    for group in &mut groups {
        shuffle(group, &mut rng);
    }
    let longest = groups.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest)
        .flat_map(|turn| groups.iter().filter_map(move |group| group.get(turn).copied()))
        .take(count.get())
        .collect()
}

/// Fisher–Yates from the end. Not that of a library, which may change between versions.
fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last as u64 + 1) as usize);
    }
}

/// A random number in `0..bound`: the high half of a 64×64-bit product.
pub(super) fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::tensor::Tensor;

    fn count(n: usize) -> Samples {
        Samples::Count(NonZeroUsize::new(n).unwrap())
    }

    #[test]
    fn draws_are_balanced_seeded_and_without_replacement() {
        let classes: Vec<i64> = (0..100).map(|i| if i < 80 { 0 } else { i % 4 }).collect();
        let labels = Labels::Classes(classes.clone());
        let drawn = draw(&labels, 100, count(20), 0);
        for class in 0..4 {
            assert_eq!(drawn.iter().filter(|&&i| classes[i] == class).count(), 5);
        }
        let mut unique = drawn.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 20);
        assert_eq!(drawn, draw(&labels, 100, count(20), 0));
        assert_ne!(drawn, draw(&labels, 100, count(20), 1));
    }

    #[test]
    fn classes_that_run_out_leave_their_turn_to_the_others() {
        let labels = Labels::Classes(vec![0, 0, 0, 0, 0, 0, 1]);
        let drawn = draw(&labels, 7, count(4), 3);
        assert_eq!(drawn.len(), 4);
        assert!(drawn.contains(&6));
        assert_eq!(draw(&labels, 7, count(50), 3).len(), 7);
    }

    #[test]
    fn the_draw_of_a_seed_never_changes() {
        let labels = Labels::Classes((0..12).map(|i| i % 3).collect());
        assert_eq!(draw(&labels, 12, count(6), 0), [10, 0, 8, 4, 3, 5]);
    }

    #[test]
    fn all_keeps_the_order_and_values_form_one_group() {
        let labels = Labels::Values(Tensor::f32(&[4, 1], vec![0.5; 4]).unwrap());
        assert_eq!(draw(&labels, 4, Samples::All, 9), [0, 1, 2, 3]);
        assert_eq!(draw(&labels, 4, count(3), 9).len(), 3);
    }
}
