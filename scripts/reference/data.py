"""The probe sets in the layouts of the models."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .paths import FIXTURES

DIGITS = FIXTURES / "digits.npz"
DIGITS_30 = FIXTURES / "digits-30.npz"


@dataclass(frozen=True)
class Digits:
    """Labelled images: `images` is uint8 `[N, 16, 16, 1]`, `labels` int64 `[N]`."""

    images: np.ndarray
    labels: np.ndarray

    def inputs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Float32 images in [0, 1] in a model's layout, `[N, *shape]`.

        With one channel, NCHW, NHWC and flat layouts differ only in shape.
        """
        scaled = self.images.astype(np.float32) / np.float32(255)
        return scaled.reshape(len(scaled), *shape)


def load_digits(path: Path = DIGITS_30) -> Digits:
    """Reads a probe set."""
    with np.load(path) as arrays:
        return Digits(arrays["images"], arrays["labels"])
