"""Handwritten digits: MNIST and its family from IDX files, and those that scikit-learn brings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.data import load_digits, load_mnist, load_qmnist_labels
from fedcore.errors import DatasetError
from fedsim.sources.features import standardized
from fedsim.sources.files import file_of, place_of
from fedsim.sources.held_out import Measured
from fedsim.sources.source import Reader, Source

__all__ = ["Digits", "Mnist"]

_OFFICIAL: Final = (
    "the four files of MNIST from Yann LeCun's site or a mirror of it, such as torchvision's; of "
    "Fashion-MNIST or KMNIST from their authors' repositories"
)
_STEMS: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_WRITERS: Final = "qmnist-train-labels-idx2-int"


@dataclass(frozen=True, kw_only=True)
class Mnist(Reader):
    """MNIST, or a data set of the same four files, with the writer of each image where known.

    The official test set. ids: the writers, 539 of MNIST, if QMNIST's label file for the training
    images, `qmnist-train-labels-idx2-int`, lies beside the images; else None. No writer of the
    test images is one of them, so they have no ids. `standardize`: by the mean and the deviation
    of all training pixels, which a federation would have to agree on.
    Shapes: x (N, 28, 28, 1) float32 in [0, 1] unless standardised, y (N,) int64.
    """

    path: str
    standardize: bool = False

    def load(self, base: Path) -> Source:
        """The images in the folder `path`."""
        place = place_of(base, self.path)
        for stem in _STEMS:
            file_of(place, (stem, stem.replace("-idx", ".idx")), official=_OFFICIAL)
        train, test = load_mnist(place), load_mnist(place, split="test")
        classes = int(max(train.y.max(), test.y.max())) + 1
        source = Source(train, test, _writers(place, train.y), classes=classes)
        return standardized(source) if self.standardize else source


def _writers(place: Path, digits: NDArray[Any]) -> NDArray[np.int64] | None:
    found = [path for end in ("", ".gz") if (path := place / f"{_WRITERS}{end}").exists()]
    if not found:
        return None
    labels = load_qmnist_labels(found[0])
    if not np.array_equal(labels.digit, digits):
        raise DatasetError(
            f"{found[0].name} is not about these images",
            where=str(found[0]),
            why=f"it has {len(labels.digit)} rows, and its digits are not the labels of the "
            f"{len(digits)} training images",
            fix="take it out of the folder, or put it beside the images of MNIST itself",
        )
    return labels.writer


@dataclass(frozen=True, kw_only=True)
class Digits(Measured):
    """Scikit-learn's 1,797 digits, which need no file; ids: 14 writer blocks, a hypothesis.

    Shapes: x (N, 8, 8, 1) float32 in [0, 1] unless standardised, y (N,) int64.
    """

    def load(self, base: Path) -> Source:
        """The images of the package. Raises: InstallError if scikit-learn is not installed."""
        found = load_digits()
        return self.finished(Source(found.dataset, ids=found.block, classes=10))
