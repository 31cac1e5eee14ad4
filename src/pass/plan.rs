//! Which samples run together: samples of one class must meet, and memory bounds how many can.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

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

/// The members of each class, by class.
pub(crate) fn members(classes: &[i64]) -> BTreeMap<i64, Vec<usize>> {
    let mut members: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (i, &class) in classes.iter().enumerate() {
        members.entry(class).or_default().push(i);
    }
    members
}

/// Plans runs of at most `most` samples. Classes that fit into a group are packed, the largest
/// first; a larger class is cut into half-groups, and every two halves meet in one group.
///
/// # Errors
/// When two samples of a class would have to meet and `most` is less than two.
pub(crate) fn plan(classes: &[i64], most: usize) -> Result<Plan> {
    let mut members: Vec<Vec<usize>> = members(classes).into_values().collect();
    let largest = members.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 || (most < 2 && largest > 1) {
        return Err(Error::Usage(
            "the memory limit does not allow two samples at once, which comparing their gradients \
             needs: raise --memory"
                .into(),
        ));
    }
    let size = largest.min(most).max(1);
    members.sort_by_key(|class| std::cmp::Reverse(class.len()));
    let mut packed: Vec<Vec<usize>> = Vec::new();
    for class in members {
        if class.len() <= size {
            match packed.iter_mut().find(|group| group.len() + class.len() <= size) {
                Some(group) => group.extend(class),
                None => packed.push(class),
            }
            continue;
        }
        let halves: Vec<&[usize]> = class.chunks((size / 2).max(1)).collect();
        for (i, first) in halves.iter().enumerate() {
            for second in &halves[i + 1..] {
                packed.push([*first, *second].concat());
            }
        }
    }
    let groups = (most / size).clamp(1, packed.len().max(1));
    // As many groups in each run as balance the runs.
    let runs = packed.len().div_ceil(groups).max(1);
    let groups = packed.len().div_ceil(runs).max(1);
    Ok(Plan { groups, size, runs: packed.chunks(groups).map(<[_]>::to_vec).collect() })
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
    fn one_lane_is_enough_only_for_lone_samples() {
        assert!(plan(&[0, 1, 2], 1).is_ok());
        assert!(matches!(plan(&[0, 0], 1), Err(Error::Usage(_))));
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
