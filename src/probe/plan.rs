//! Which samples run together: samples of one class must meet, and memory bounds how many can.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::error::{Error, Result};

/// What a gradient takes, in comparisons of two gradients: about, as all of these.
const GRADIENT: usize = 256;

/// What it takes to get the memory of a sample from the system.
const MEMORY: usize = 28;

/// What a run takes beside its samples and reading parameters, such as bringing kernels into another
/// form: about as much as a sample, however many threads share it.
const RUN: usize = 256;

/// What reading a parameter takes, in multiply-adds of a sample: once a run, from a memory that
/// threads wait for together.
const READING: u64 = 24;

/// One part in so many of a run is lost with each thread that shares it beside the first: at the
/// end of every operator all of them wait for the last.
const WAITING: usize = 12;

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
    /// How many runs are computed at the same time, each on its share of the threads; at least 1.
    pub side_by_side: usize,
}

/// What a run takes beside its samples, in comparisons of two gradients, by the number of parameters and
/// of multiply-adds of a sample.
pub(crate) fn beside_samples(parameters: u64, flops: u64) -> usize {
    let reading = GRADIENT as u64 * READING * parameters / flops.max(1);
    RUN.saturating_add(usize::try_from(reading).unwrap_or(usize::MAX)).min(1 << 20)
}

/// What runs share: threads, by sessions that compute side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// What each takes beside its samples: [`beside_samples`].
    pub run: usize,
    /// The threads of all of them together, at least 1.
    pub threads: usize,
    /// The most sessions that there may be, at least 1.
    pub sessions: usize,
}

impl Shares {
    /// All the ways to give runs side by side equally many threads, where these have `most` samples
    /// together: by the number of runs.
    fn ways(self, most: usize) -> Vec<usize> {
        let sessions = self.sessions.min(self.threads).min(most).max(1);
        (1..=sessions).filter(|&runs| self.threads.is_multiple_of(runs)).collect()
    }
}

impl Plan {
    /// Batch in a run.
    pub fn lanes(&self) -> usize {
        self.groups * self.size
    }

    /// For each run, for each lane, whether it is the first of all runs that holds its sample.
    pub fn first_lanes(&self, samples: usize) -> Vec<Vec<bool>> {
        let mut seen = vec![false; samples];
        let of_run = |run: &Vec<Vec<usize>>| {
            let mut first = vec![false; self.lanes()];
            for (g, group) in run.iter().enumerate() {
                for (i, &sample) in group.iter().enumerate() {
                    first[g * self.size + i] = !std::mem::replace(&mut seen[sample], true);
                }
            }
            first
        };
        self.runs.iter().map(of_run).collect()
    }

    /// The samples of a run, one for each lane; free lanes repeat the first.
    pub fn slots(&self, run: &[Vec<usize>]) -> Vec<usize> {
        let first = run.first().and_then(|group| group.first()).copied().unwrap_or(0);
        let mut slots = vec![first; self.lanes()];
        for (g, group) in run.iter().enumerate() {
            slots[g * self.size..][..group.len()].copy_from_slice(group);
        }
        slots
    }
}

/// What so many runs of `lanes` samples in groups of `size` take, `side_by_side` of them at a time:
/// the time of all threads together, in comparisons of two gradients.
fn cost(runs: usize, lanes: usize, size: usize, side_by_side: usize, shares: Shares) -> usize {
    let sharing = (shares.threads / side_by_side).max(1);
    // Samples are shared out between the threads of a run.
    let run = lanes.next_multiple_of(sharing) * (GRADIENT + size) + shares.run;
    let waiting = run * (sharing - 1) / WAITING;
    // A place that no run takes in the last round costs as much as one that is taken.
    let places = runs.next_multiple_of(side_by_side);
    places * (run + waiting) + side_by_side * lanes * MEMORY
}

/// The members of each class, by class.
pub(crate) fn members(classes: &[i64]) -> BTreeMap<i64, Vec<usize>> {
    let mut members: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (i, &class) in classes.iter().enumerate() {
        members.entry(class).or_default().push(i);
    }
    members
}

/// Plans runs of at most `most` samples, of all together that are computed at the same time. Classes
/// that fit into a run are packed, several to a group where that fills the runs better; a class larger
/// than `most` is cut into half-groups, and every two halves meet in one group.
///
/// # Errors
/// When two samples of a class would have to meet and `most` is less than two.
pub(crate) fn plan(classes: &[i64], most: usize, shares: Shares) -> Result<Plan> {
    let mut members: Vec<Vec<usize>> = members(classes).into_values().collect();
    let largest = members.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 || (most < 2 && largest > 1) {
        return Err(Error::Memory(
            "the memory limit does not allow two samples at once, which comparing their gradients \
             needs: raise `memory`"
                .into(),
        ));
    }
    members.sort_by_key(|class| Reverse(class.len()));
    if largest > most {
        return Ok(schedule(&halved(&members, most), most, 1));
    }
    let ways = shares.ways(most);
    // Groups of each size that fits, and every class by itself.
    let total: usize = members.iter().map(Vec::len).sum();
    let counts = (largest.max(1)..=most).map(|size| total.div_ceil(size));
    let counts: BTreeSet<usize> = counts.chain([members.len()]).filter(|&n| n > 0).collect();
    let groupings = counts.into_iter().map(|count| balanced(&members, count));
    let candidates = groupings.filter_map(|groups| {
        let size = groups.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let candidates = ways.iter().flat_map(|&side_by_side| {
            let groups = groups.len();
            (1..=most / side_by_side / size).map(move |in_run| {
                let (runs, lanes) = (groups.div_ceil(in_run), in_run * size);
                (cost(runs, lanes, size, side_by_side, shares), lanes, side_by_side)
            })
        });
        Some((candidates.min()?, groups))
    });
    let cheapest = candidates.min_by_key(|(cheapest, _)| *cheapest);
    Ok(match cheapest {
        Some(((_, lanes, side_by_side), groups)) => schedule(&groups, lanes, side_by_side),
        None => schedule(&[], most, 1),
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

/// Runs of at most `most` samples each that hold these groups, as many in each run as balance the
/// runs.
fn schedule(groups: &[Vec<usize>], most: usize, side_by_side: usize) -> Plan {
    let size = groups.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let in_run = (most / size).clamp(1, groups.len().max(1));
    let runs = groups.len().div_ceil(in_run).max(1);
    let in_run = groups.len().div_ceil(runs).max(1);
    let runs: Vec<_> = groups.chunks(in_run).map(<[_]>::to_vec).collect();
    let side_by_side = side_by_side.min(runs.len()).max(1);
    Plan { groups: in_run, size, runs, side_by_side }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Shares = Shares { run: RUN, threads: 1, sessions: 1 };

    const UNEVEN: [usize; 10] = [4, 4, 3, 3, 3, 3, 3, 3, 3, 3];

    fn shares(threads: usize) -> Shares {
        Shares { run: RUN, threads, sessions: threads }
    }

    /// Samples of classes that have so many each.
    fn of_sizes(sizes: &[usize]) -> Vec<i64> {
        let classes = (0..).zip(sizes);
        classes.flat_map(|(class, &n)| std::iter::repeat_n(class, n)).collect()
    }

    #[test]
    fn balanced_classes_fill_their_groups() {
        let classes: Vec<i64> = (0..12).map(|i| i % 4).collect();
        let plan = plan(&classes, 6, ONE).unwrap();
        assert_eq!((plan.groups, plan.size, plan.runs.len()), (2, 3, 2));
    }

    #[test]
    fn uneven_classes_leave_no_place_free() {
        let plan = plan(&of_sizes(&UNEVEN), 16, ONE).unwrap();
        assert_eq!((plan.groups, plan.size, plan.runs.len()), (1, 16, 2));
    }

    #[test]
    fn two_threads_take_a_run_each() {
        let two = plan(&of_sizes(&UNEVEN), 32, shares(2)).unwrap();
        assert_eq!((two.groups, two.size, two.runs.len(), two.side_by_side), (1, 16, 2, 2));
        let alone = plan(&of_sizes(&UNEVEN), 32, ONE).unwrap();
        assert_eq!(alone.side_by_side, 1);
        let one_session = Shares { sessions: 1, ..shares(2) };
        assert_eq!(plan(&of_sizes(&UNEVEN), 32, one_session).unwrap().side_by_side, 1);
    }

    #[test]
    fn runs_side_by_side_leave_no_thread_without_one() {
        let classes = of_sizes(&[12, 12, 12, 13, 13, 13, 13, 13, 13, 14]);
        let plan = plan(&classes, 32, shares(2)).unwrap();
        assert!(plan.side_by_side == 2 && plan.runs.len().is_multiple_of(2), "{plan:?}");
        assert!(plan.lanes() <= 16);
    }

    #[test]
    fn classes_of_more_than_a_share_run_one_after_the_other() {
        let classes = of_sizes(&[17, 3, 3, 3, 3, 3]);
        for threads in [1, 2, 16] {
            let plan = plan(&classes, 32, shares(threads)).unwrap();
            assert_eq!(plan.side_by_side, 1, "{threads} threads");
        }
    }

    #[test]
    fn many_threads_share_few_runs() {
        let plan = plan(&of_sizes(&UNEVEN), 32, shares(16)).unwrap();
        assert!((2..16).contains(&plan.side_by_side), "{plan:?}");
    }

    /// Layers on one row read as many parameters in a run as a sample has multiply-adds.
    #[test]
    fn where_reading_parameters_is_most_of_the_work_few_runs_do_it() {
        let classes: Vec<i64> = (0..64).map(|i| i % 10).collect();
        let dense = Shares { run: beside_samples(10_000_000, 10_000_000), ..shares(2) };
        let (dense, other) = (plan(&classes, 32, dense), plan(&classes, 32, shares(2)));
        let (dense, other) = (dense.unwrap(), other.unwrap());
        assert_eq!((dense.side_by_side, other.side_by_side), (1, 2));
        assert!(dense.runs.len() < other.runs.len());
    }

    /// The time of a search that tries all numbers of groups would show here.
    #[test]
    fn many_lone_samples_are_planned_at_once() {
        let classes: Vec<i64> = (0..100_000).collect();
        let plan = plan(&classes, 32, ONE).unwrap();
        assert_eq!((plan.lanes(), plan.size, plan.runs.len()), (32, 1, 3125));
    }

    #[test]
    fn one_lane_is_enough_only_for_lone_samples() {
        for shares in [ONE, shares(2)] {
            assert!(plan(&[0, 1, 2], 1, shares).is_ok());
            assert!(matches!(plan(&[0, 0], 1, shares), Err(Error::Memory(_))));
        }
    }

    proptest! {
        #[test]
        fn every_pair_of_a_class_meets(
            classes in prop::collection::vec(0i64..5, 1..40),
            most in 2usize..20,
            threads in 1usize..9,
        ) {
            let plan = plan(&classes, most, shares(threads)).unwrap();
            prop_assert!(plan.side_by_side * plan.lanes() <= most);
            prop_assert!((1..=threads).contains(&plan.side_by_side));
            prop_assert!(plan.side_by_side <= plan.runs.len());
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
