"""Labelled images drawn with a seed, so that no benchmark needs a data set."""

from pathlib import Path

import numpy as np

CLASSES = 10
CHANNELS = 3


def smooth(rng: np.random.Generator, count: int, size: int, waves: int) -> np.ndarray:
    """Random low-frequency images `[count, channels, size, size]` with unit variance on average."""
    frequency = np.arange(waves)
    position = (np.arange(size) + 0.5) / size
    basis = np.cos(np.pi * frequency[:, None] * position)
    weight = rng.standard_normal((count, CHANNELS, waves, waves)) / np.hypot(1 + frequency, 1 + frequency[:, None])
    images = basis.T @ weight @ basis
    return images / images.std()


def draw(size: int, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 images and int64 labels, sorted by class.

    Each image is a pattern of its class, a smooth image of its own, and a little noise: no two pixels
    and no two activations are equal, so that no gradient depends on how ties are broken.
    """
    rng = np.random.default_rng(seed)
    labels = np.sort(np.arange(samples) % CLASSES).astype(np.int64)
    patterns = smooth(rng, CLASSES, size, 4)
    images = patterns[labels] + smooth(rng, samples, size, 8)
    images += 0.1 * rng.standard_normal(images.shape)
    return (images / images.std()).astype(np.float32), labels


def data_file(folder: Path, size: int, samples: int) -> Path:
    """The `.npz` file of such images for `gradalign --data`. Written if it does not exist."""
    path = folder / f"images-{size}-{samples}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, labels = draw(size, samples)
        np.savez(path, images=images, labels=labels)
    return path
