"""Scikit-learn's handwritten digits, 1,797 images that come with the package, and their blocks.

The images fall into 14 contiguous blocks whose handwriting is alike, natural clients for a demo
that needs no download. That a block is one writer is a hypothesis; hence "writer blocks".

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998), test
set; block bounds found by comparing the handwriting of successive images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.errors import InstallError

__all__ = ["Digits", "load_digits"]

_BOUNDS = (0, 130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
_LARGEST_PIXEL = 16


class Digits(NamedTuple):
    """The images with their digits, and the writer block (1797,) int64, 0 to 13, of each."""

    dataset: Dataset
    block: NDArray[np.int64]


def load_digits() -> Digits:
    """All digits: x (1797, 8, 8, 1) float32 in [0, 1], y (1797,) int64.

    `group_by(dataset, block)` gives 14 clients.
    Raises: InstallError if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InstallError(
            "load_digits: scikit-learn is not installed",
            why="the images are part of that package",
            fix="pip install scikit-learn, or in a checkout: pip install -e '.[demo]'",
        ) from error
    bunch = datasets.load_digits()
    x = (bunch.images / _LARGEST_PIXEL).astype(np.float32)[..., np.newaxis]
    block = np.repeat(np.arange(len(_BOUNDS) - 1), np.diff(_BOUNDS))
    return Digits(Dataset(x, bunch.target.astype(np.int64), "digits"), block)
