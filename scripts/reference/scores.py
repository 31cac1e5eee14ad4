"""GradAlign-I and GradAlign-II of a matrix of per-sample gradients."""

import numpy as np


def class_signs(gradients: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The signs of the gradients, `[samples of the class, parameters]` for each class."""
    signs = np.sign(gradients).astype(np.int8)
    return [signs[labels == label] for label in np.unique(labels)]


def gram(signs: np.ndarray) -> np.ndarray:
    """Exact inner products of rows of signs (sums of ±1 stay far below 2^53)."""
    rows = signs.astype(np.float64)
    return rows @ rows.T


def gradalign_1(gradients: np.ndarray, labels: np.ndarray) -> float:
    """(1/C) Σ_c ‖mean of the class's sign gradients‖²."""
    return float(np.mean([gram(signs).sum() / len(signs) ** 2 for signs in class_signs(gradients, labels)]))


def gradalign_2(gradients: np.ndarray, labels: np.ndarray) -> float | None:
    """(1/C) Σ_c log det(S_c S_cᵀ), or nothing if one of the matrices is singular."""
    values = [np.linalg.slogdet(gram(signs)) for signs in class_signs(gradients, labels)]
    if any(sign <= 0 for sign, _ in values):
        return None
    return float(np.mean([logarithm for _, logarithm in values]))
