//! Which samples run together: samples of one class must meet, and memory bounds how many can.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::error::{Error, Result};

/// What a gradient takes, in comparisons of two gradients: about, as all of these.
const GRADIENT: usize = 256;

/// What it takes to get the memory of a sample from the system.
const MEMORY: usize = 28;

/// What a run takes beside its samples.
const RUN: usize = 128;

/// A schedule of runs of `groups × size` samples each. The Gram matrix is computed inside each
/// group, so every two samples of a class stand in one group together at least once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Groups in a run.
    pub groups: usize,
    /// Batch in a group.
    pub size: usize,
    /// For each run, for each group, the samples in it; a short group has free places.
    pub runs: Vec<Vec<Vec<usize>>>,
}

impl Plan {
    /// Batch in a run.
    pub fn lanes(&self) -> usize {
        self.groups * self.size
    }
}

/// What so many runs of `groups` groups of `size` samples take, in comparisons of two gradients.
fn cost(runs: usize, groups: usize, size: usize) -> usize {
    let lanes = groups * size;
    // Samples are shared out between threads.
    let shared = lanes.next_multiple_of(2);
    runs * (shared * (GRADIENT + size) + RUN) + lanes * MEMORY
}

/// The members of each class, by class.
pub(crate) fn members(classes: &[i64]) -> BTreeMap<i64, Vec<usize>> {
    let mut members: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (i, &class) in classes.iter().enumerate() {
        members.entry(class).or_default().push(i);
    }
    members
}

/// Plans runs of at most `most` samples. Classes that fit into a run are packed, several to a group
/// where that fills the runs better; a larger class is cut into half-groups, and every two halves meet
/// in one group.
///
/// # Errors
/// When two samples of a class would have to meet and `most` is less than two.
pub(crate) fn plan(classes: &[i64], most: usize) -> Result<Plan> {
    let mut members: Vec<Vec<usize>> = members(classes).into_values().collect();
    let largest = members.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 || (most < 2 && largest > 1) {
        return Err(Error::Memory(
            "the memory limit does not allow two samples at once, which comparing their gradients \
             needs: raise --memory"
                .into(),
        ));
    }
    members.sort_by_key(|class| Reverse(class.len()));
    if largest > most {
        return Ok(schedule(&halved(&members, most), most));
    }
    // Groups of each size that fits, and every class by itself.
    let total: usize = members.iter().map(Vec::len).sum();
    let counts = (largest.max(1)..=most).map(|size| total.div_ceil(size));
    let counts: BTreeSet<usize> = counts.chain([members.len()]).filter(|&n| n > 0).collect();
    let groupings = counts.into_iter().map(|count| balanced(&members, count));
    let candidates = groupings.filter_map(|groups| {
        let size = groups.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let cheapest = (1..=most / size)
            .map(|in_run| (cost(groups.len().div_ceil(in_run), in_run, size), in_run * size))
            .min()?;
        Some((cheapest, groups))
    });
    let cheapest = candidates.min_by_key(|(cheapest, _)| *cheapest);
    Ok(match cheapest {
        Some(((_, lanes), groups)) => schedule(&groups, lanes),
        None => schedule(&[], most),
    })
}

/// Whole classes, the largest first, in so many groups of nearly equal size.
fn balanced(classes: &[Vec<usize>], count: usize) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new(); count];
    let mut smallest: BinaryHeap<_> = (0..count).map(|i| Reverse((0, i))).collect();
    for class in classes {
        if let Some(mut top) = smallest.peek_mut() {
            let Reverse((len, i)) = &mut *top;
            groups[*i].extend(class);
            *len += class.len();
        }
    }
    groups
}

/// Groups of at most `size` samples in which every two of a class meet.
fn halved(classes: &[Vec<usize>], size: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for class in classes {
        if class.len() <= size {
            match groups.iter_mut().find(|group| group.len() + class.len() <= size) {
                Some(group) => group.extend(class),
                None => groups.push(class.clone()),
            }
            continue;
        }
        let halves: Vec<&[usize]> = class.chunks((size / 2).max(1)).collect();
        for (i, first) in halves.iter().enumerate() {
            for second in &halves[i + 1..] {
                groups.push([*first, *second].concat());
            }
        }
    }
    groups
}

/// Runs of at most `most` samples that hold these groups, as many in each run as balance the runs.
fn schedule(groups: &[Vec<usize>], most: usize) -> Plan {
    let size = groups.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let in_run = (most / size).clamp(1, groups.len().max(1));
    let runs = groups.len().div_ceil(in_run).max(1);
    let in_run = groups.len().div_ceil(runs).max(1);
    Plan { groups: in_run, size, runs: groups.chunks(in_run).map(<[_]>::to_vec).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn balanced_classes_fill_their_groups() {
        let classes: Vec<i64> = (0..12).map(|i| i % 4).collect();
        let plan = plan(&classes, 6).unwrap();
        assert_eq!((plan.groups, plan.size, plan.runs.len()), (2, 3, 2));
    }

    #[test]
    fn uneven_classes_leave_no_place_free() {
        let sizes = [4, 4, 3, 3, 3, 3, 3, 3, 3, 3];
        let classes: Vec<i64> =
            (0..).zip(sizes).flat_map(|(class, n)| std::iter::repeat_n(class, n)).collect();
        let plan = plan(&classes, 16).unwrap();
        assert_eq!((plan.groups, plan.size, plan.runs.len()), (1, 16, 2));
    }

    /// The time of a search that tries all numbers of groups would show here.
    #[test]
    fn many_lone_samples_are_planned_at_once() {
        let classes: Vec<i64> = (0..100_000).collect();
        let plan = plan(&classes, 32).unwrap();
        assert_eq!((plan.lanes(), plan.size, plan.runs.len()), (32, 1, 3125));
    }

    #[test]
    fn one_lane_is_enough_only_for_lone_samples() {
        assert!(plan(&[0, 1, 2], 1).is_ok());
        assert!(matches!(plan(&[0, 0], 1), Err(Error::Memory(_))));
    }

    proptest! {
        #[test]
        fn every_pair_of_a_class_meets(
            classes in prop::collection::vec(0i64..5, 1..40),
            most in 2usize..20,
        ) {
            let plan = plan(&classes, most).unwrap();
            prop_assert!(plan.lanes() <= most);
            for (i, a) in classes.iter().enumerate() {
                for (j, b) in classes.iter().enumerate() {
                    let meet = |group: &Vec<usize>| group.contains(&i) && group.contains(&j);
                    prop_assert!(a != b || plan.runs.iter().flatten().any(meet), "{i} and {j}");
                }
            }
            for group in plan.runs.iter().flatten() {
                prop_assert!(group.len() <= plan.size);
            }
            prop_assert!(plan.runs.iter().all(|run| run.len() <= plan.groups));
        }
    }
}
