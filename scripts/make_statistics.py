"""Writes `fixtures/statistics.json`: how scores agree with accuracies, by scipy and by trying all orders.

    pip install -r scripts/requirements/statistics.txt
    python3 scripts/make_statistics.py

Scores of small sets have ties and gaps; what the first networks are worth is the mean over all orders that
the ties allow, each of which is tried. For the intervals, the fixture holds the resamples themselves, so that
no generator of random numbers has to be shared.
"""

import itertools
import json
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "statistics.json"
TOP = 3


def lowest(scores: list) -> np.ndarray:
    """Missing scores as equal and lower than all others."""
    return np.array([-np.inf if score is None else score for score in scores])


def orders(scores: np.ndarray) -> list[list[int]]:
    """All orders from the best down that the scores allow."""
    groups = [np.flatnonzero(scores == value).tolist() for value in sorted(set(scores.tolist()), reverse=True)]
    choices = itertools.product(*(itertools.permutations(group) for group in groups))
    return [list(itertools.chain(*choice)) for choice in choices]


def statistics(scores: np.ndarray, accuracies: np.ndarray) -> list[float]:
    """Tau-b, Spearman's rho, the accuracy of the first, the best of the first three, the regret."""
    allowed = orders(scores)
    first = np.mean([accuracies[order[0]] for order in allowed])
    best = np.mean([accuracies[order[:TOP]].max() for order in allowed])
    # Of infinite values, scipy takes the ranks.
    ranks = np.unique(scores, return_inverse=True)[1]
    tau, rho = kendalltau(ranks, accuracies).statistic, spearmanr(ranks, accuracies).statistic
    return [float(v) for v in (tau, rho, first, best, accuracies.max() - first)]


def case(scores: list, accuracies: list) -> dict:
    kept = [(s, a) for s, a in zip(scores, accuracies, strict=True) if s is not None]
    dropped = statistics(np.array([s for s, _ in kept]), np.array([a for _, a in kept]))
    last = statistics(lowest(scores), np.array(accuracies))
    return {"scores": scores, "accuracies": accuracies, "last": last, "dropped": dropped}


def intervals(rng: np.random.Generator) -> dict:
    """The 2.5 and 97.5 percentiles over resamples, of scores without ties."""
    n, count = 40, 60
    scores = rng.normal(size=n).round(6)
    accuracies = (scores + rng.normal(size=n)).round(3)
    # Copies of a network are equal in score and accuracy, so that their order does not matter.
    resamples = rng.integers(n, size=(count, n))
    values = []
    for at in resamples:
        s, a = scores[at], accuracies[at]
        order = np.argsort(-s, kind="stable")
        tau, rho = kendalltau(s, a).statistic, spearmanr(s, a).statistic
        values.append([tau, rho, a[order[0]], a[order[:TOP]].max(), a.max() - a[order[0]]])
    low, high = np.percentile(values, (2.5, 97.5), axis=0)
    return {
        "scores": scores.tolist(), "accuracies": accuracies.tolist(), "resamples": resamples.tolist(),
        "low": low.tolist(), "high": high.tolist(),
    }


def main() -> None:
    rng = np.random.default_rng(7)
    cases = [case([3.0, 7.0, 7.0, None, 1.0, None, 3.0], [93.0, 90.0, 91.5, 94.0, 10.0, 89.0, 92.0])]
    for n in (5, 8, 8, 9):
        scores = [None if rng.random() < 0.25 else float(rng.integers(5)) for _ in range(n)]
        cases.append(case(scores, rng.integers(80, 95, size=n).astype(float).tolist()))
    FILE.write_text(json.dumps({"top": TOP, "cases": cases, "bootstrap": intervals(rng)}) + "\n")


if __name__ == "__main__":
    main()
