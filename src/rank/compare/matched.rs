//! Which models of two results are the same.

use std::collections::{HashMap, HashSet};

use crate::score::ModelResult;

/// Which model of the first result is which of the second.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Positions in both, in the order of the first.
    pub pairs: Vec<(usize, usize)>,
    pub only_a: Vec<usize>,
    pub only_b: Vec<usize>,
    pub ambiguous: Vec<String>,
}

impl Matched {
    pub fn of(a: &[ModelResult], b: &[ModelResult]) -> Matched {
        let mut matched = Matched::default();
        let (mut left_a, mut left_b) = ((0..a.len()).collect(), (0..b.len()).collect());
        matched.by(|model| Some(&model.name), a, b, &mut left_a, &mut left_b);
        matched.by(|model| model.key.as_deref(), a, b, &mut left_a, &mut left_b);
        matched.pairs.sort_unstable();
        (matched.only_a, matched.only_b) = (left_a, left_b);
        matched
    }

    /// Takes the pairs that agree in `identity` out of what is left. Where several do, all of them
    /// are ambiguous.
    fn by<'a>(
        &mut self,
        identity: impl Fn(&'a ModelResult) -> Option<&'a str>,
        a: &'a [ModelResult],
        b: &'a [ModelResult],
        left_a: &mut Vec<usize>,
        left_b: &mut Vec<usize>,
    ) {
        let positions = |models: &'a [ModelResult], left: &[usize]| {
            let mut found = HashMap::<&str, Vec<usize>>::new();
            for &i in left {
                if let Some(identity) = identity(&models[i]) {
                    found.entry(identity).or_default().push(i);
                }
            }
            found
        };
        let (of_a, of_b) = (positions(a, left_a), positions(b, left_b));
        let (mut done_a, mut done_b) = (HashSet::new(), HashSet::new());
        for (i, identity) in left_a.iter().filter_map(|&i| Some((i, identity(&a[i])?))) {
            let (Some(in_a), Some(in_b)) = (of_a.get(identity), of_b.get(identity)) else {
                continue;
            };
            match (in_a.as_slice(), in_b.as_slice()) {
                ([_], [j]) => self.pairs.push((i, *j)),
                _ => {
                    let names = in_a.iter().map(|&i| &a[i].name);
                    for name in names.chain(in_b.iter().map(|&j| &b[j].name)) {
                        if !self.ambiguous.contains(name) {
                            self.ambiguous.push(name.clone());
                        }
                    }
                }
            }
            done_a.extend(in_a.iter().copied());
            done_b.extend(in_b.iter().copied());
        }
        left_a.retain(|i| !done_a.contains(i));
        left_b.retain(|i| !done_b.contains(i));
    }
}
