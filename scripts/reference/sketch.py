"""A gradient's fingerprint: its projections on pseudo-random vectors of ±1.

Projection k of g is Σ_i s(k, i) g_i over the row-major elements i, where s(k, i) is +1 if the top bit
of splitmix64(k · 2³² + i) is clear and −1 if it is set. For two gradients with sketches p and q,
√(mean_k (p_k − q_k)²) estimates the norm of their difference.
"""

from functools import cache

import numpy as np

PROJECTIONS = 16


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64, modulo 2^64."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@cache
def signs(size: int) -> np.ndarray:
    """`[PROJECTIONS, size]` of ±1."""
    counter = (np.arange(PROJECTIONS, dtype=np.uint64)[:, None] << np.uint64(32)) + np.arange(size, dtype=np.uint64)
    return 1.0 - 2.0 * (splitmix64(counter) >> np.uint64(63)).astype(np.float64)


def sketch(gradient: np.ndarray) -> list[float]:
    return (signs(gradient.size) @ gradient.ravel()).tolist()
