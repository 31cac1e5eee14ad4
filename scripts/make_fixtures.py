"""Writes the probe sets `fixtures/digits.npz` and `fixtures/digits-30.npz`.

The images are scikit-learn's copy of the test part of the UCI "Optical Recognition of Handwritten
Digits" set: 8x8 pixels with values 0 to 16. Each pixel becomes a 2x2 block with value
round(v * 255 / 16).
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from reference.data import DIGITS, DIGITS_30

SEED = 20240


def upscale(images: np.ndarray) -> np.ndarray:
    """`[N, 8, 8]` with values 0 to 16 → uint8 `[N, 16, 16, 1]`."""
    blocks = np.kron(images, np.ones((1, 2, 2)))
    return np.round(blocks * 255 / 16).astype(np.uint8)[..., None]


def balanced(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `per_class` samples of every class, in random order."""
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in np.unique(labels)]
    return rng.permutation(np.concatenate(chosen))


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez_compressed(path, images=images, labels=labels.astype(np.int64))
    print(f"{path.name}: {images.shape} {np.bincount(labels)}, {path.stat().st_size} bytes")


def main() -> None:
    digits = load_digits()
    images, labels = upscale(digits.images), digits.target
    rng = np.random.default_rng(SEED)
    for path, per_class in ((DIGITS, 50), (DIGITS_30, 3)):
        rows = balanced(labels, per_class, rng)
        write(path, images[rows], labels[rows])


if __name__ == "__main__":
    main()
