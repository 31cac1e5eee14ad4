//! Expected values are scipy 1.17's:
//! ```python
//! from scipy.stats import kendalltau, spearmanr
//! print(kendalltau(x, y).statistic, spearmanr(x, y).statistic)
//! ```

use super::*;

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

fn check(x: &[Option<f64>], y: &[Option<f64>], tau: f64, rho: f64) {
    let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-12;
    assert!(close(kendall_tau(x, y), tau), "{:?} != {tau}", kendall_tau(x, y));
    assert!(close(spearman(x, y), rho), "{:?} != {rho}", spearman(x, y));
}

#[test]
fn agree_with_scipy_with_and_without_ties() {
    let x = some(&[12.5, 3.0, 3.0, 8.25, -1.0, 8.25, 8.25, 40.0, 0.5, 3.0]);
    let y = some(&[91.2, 88.0, 86.5, 90.1, 70.0, 90.1, 85.0, 93.4, 71.3, 88.0]);
    check(&x, &y, 0.8058373793340822, 0.8689027502380595);
    let (x, y) = (some(&[1.0, 2.0, 3.0, 4.0, 5.0]), some(&[5.0, 3.0, 4.0, 1.0, 2.0]));
    check(&x, &y, -0.6, -0.7999999999999999);
}

#[test]
fn missing_scores_are_tied_and_lowest() {
    // x = [-inf, 2, -inf, 1, 4, 3], y = [10, 30, 40, 20, 60, 50]
    let y = some(&[10.0, 30.0, 40.0, 20.0, 60.0, 50.0]);
    let x = [None, Some(2.0), Some(f64::NAN), Some(1.0), Some(4.0), Some(3.0)];
    check(&x, &y, 0.6900655593423541, 0.753702346348183);
    assert_eq!(ranks(&x), [5, 3, 5, 4, 1, 2]);
    assert_eq!(compare(None, Some(f64::NEG_INFINITY)), Ordering::Less);
}

/// ```python
/// s, x, y = 1, [], []
/// def draw():
///     global s
///     s = (s * 1103515245 + 12345) % 2**31
///     return s >> 16
/// for _ in range(15625):
///     a, b = draw(), draw()
///     x.append(a % 2000); y.append(a % 2000 + b % 1500)
/// ```
#[test]
fn agree_with_scipy_on_a_whole_search_space() {
    let mut state = 1u64;
    let mut draw = || {
        state = (state * 1103515245 + 12345) % (1 << 31);
        state >> 16
    };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for _ in 0..15625 {
        let (a, b) = (draw(), draw());
        x.push(Some((a % 2000) as f64));
        y.push(Some((a % 2000 + b % 1500) as f64));
    }
    check(&x, &y, 0.5978560088532492, 0.8062207409416586);
}

#[test]
fn undefined_correlations_are_none() {
    let one = some(&[1.0]);
    let constant = some(&[2.0, 2.0, 2.0]);
    let varied = some(&[1.0, 2.0, 3.0]);
    for (x, y) in [(&one, &one), (&constant, &varied), (&varied, &constant), (&one, &varied)] {
        assert_eq!(kendall_tau(x, y), None);
        assert_eq!(spearman(x, y), None);
    }
    assert_eq!(kendall_tau(&[], &[]), None);
}

#[test]
fn equal_scores_share_a_rank() {
    assert_eq!(ranks(&some(&[5.0, 7.0, 5.0, 1.0])), [2, 1, 2, 4]);
    assert_eq!(average_ranks(&some(&[5.0, 7.0, 5.0, 1.0])), [2.5, 4.0, 2.5, 1.0]);
    assert_eq!(ranks(&[None, None]), [1, 1]);
}

#[derive(serde::Deserialize)]
struct Fixture {
    top: usize,
    cases: Vec<Case>,
    bootstrap: Bootstrap,
}

#[derive(serde::Deserialize)]
struct Case {
    scores: Vec<Option<f64>>,
    accuracies: Vec<f64>,
    last: [f64; 5],
    dropped: [f64; 5],
}

#[derive(serde::Deserialize)]
struct Bootstrap {
    scores: Vec<f64>,
    accuracies: Vec<f64>,
    resamples: Vec<Vec<usize>>,
    low: [f64; 5],
    high: [f64; 5],
}

/// What `scripts/make_statistics.py` writes, by scipy and by trying all orders that ties allow.
fn fixture() -> Fixture {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/statistics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn all(scores: &[Option<f64>], accuracies: &[f64], top: usize) -> [f64; 5] {
    let truth = some(accuracies);
    [
        kendall_tau(scores, &truth),
        spearman(scores, &truth),
        best_of_first(scores, accuracies, 1),
        best_of_first(scores, accuracies, top),
        regret(scores, accuracies),
    ]
    .map(Option::unwrap)
}

#[track_caller]
fn assert_close(found: [f64; 5], expected: [f64; 5]) {
    let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12 * b.abs().max(1.0));
    assert!(close, "{found:?} {expected:?}");
}

#[test]
fn what_the_first_are_worth_is_the_mean_over_all_orders() {
    let Fixture { top, cases, .. } = fixture();
    for Case { scores, accuracies, last, dropped } in cases {
        assert_close(all(&scores, &accuracies, top), last);
        let kept = scores.iter().zip(&accuracies).filter(|(score, _)| score.is_some());
        let (scores, accuracies): (Vec<_>, Vec<f64>) = kept.map(|(s, a)| (*s, *a)).unzip();
        assert_close(all(&scores, &accuracies, top), dropped);
    }
    assert_eq!(best_of_first(&[], &[], 1), None);
    assert_eq!(best_of_first(&[None], &[3.0], 0), None);
    assert_eq!(best_of_first(&[None, None], &[3.0, 5.0], 7), Some(5.0));
    assert_eq!(regret(&some(&[2.0, 1.0]), &[3.0, 5.0]), Some(2.0));
}

#[test]
fn intervals_are_percentiles_over_resamples() {
    let Fixture { top, bootstrap: Bootstrap { scores, accuracies, resamples, low, high }, .. } =
        fixture();
    let values: Vec<[f64; 5]> = resamples
        .iter()
        .map(|at| {
            let scores: Vec<_> = at.iter().map(|&i| Some(scores[i])).collect();
            all(&scores, &at.iter().map(|&i| accuracies[i]).collect::<Vec<_>>(), top)
        })
        .collect();
    let interval = |i: usize| Interval::of(values.iter().map(|v| Some(v[i]))).unwrap();
    let intervals: [Interval; 5] = std::array::from_fn(interval);
    assert_close(intervals.map(|interval| interval.low), low);
    assert_close(intervals.map(|interval| interval.high), high);
}
