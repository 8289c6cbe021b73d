"""Data that are drawn: Gaussian classes of any shape, for tests, benchmarks and first tries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import TaskError
from fedcore.settings import Bounds
from fedcore.tensor.random import Key
from fedsim.sources.source import Reader, Source

__all__ = ["Synthetic"]

_BLOCK_NUMBERS: Final = 1 << 20  # 4 MiB: what is drawn is still in the cache when it is shifted
_MOST_NUMBERS: Final = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Synthetic(Reader):
    """Rows of a drawn class, each feature normal about the class's own mean, deviation 1.

    Two classes' means lie about `separation` deviations apart, whatever the shape; labels are drawn
    alike. Rows are drawn in blocks, each from its own key: more rows leave those before as they
    are. `test_rows`: as many others of the same classes.
    Shapes: x (rows, *shape) float32, y (rows,) int64. No ids.
    Raises: TaskError for more than 2^31 numbers, 8 GiB.
    """

    rows: Annotated[int, Bounds(least=1)]
    shape: Annotated[tuple[int, ...], Bounds(length=(1, 8), least=1)]
    classes: Annotated[int, Bounds(least=2, most=1_000_000)]
    test_rows: Annotated[int, Bounds(least=0)] = 0
    separation: Annotated[float, Bounds(least=0, most=1e6)] = 4.0
    seed: Annotated[int, Bounds(least=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.rows + self.test_rows + self.classes
        if rows * math.prod(self.shape) > _MOST_NUMBERS:
            raise TaskError(
                f"{self.rows} + {self.test_rows} rows and {self.classes} classes of shape "
                f"{self.shape}",
                why=f"they are more than {_MOST_NUMBERS} numbers, and all are held in memory",
                fix="draw fewer rows, or of fewer features",
                where="rows",
            )

    def load(self, base: Path) -> Source:
        """The rows that the options stand for; nothing is read."""
        size = math.prod(self.shape)
        means = self._key("means").generator().standard_normal((self.classes, size), np.float32)
        # The difference of two has the length √(2 · size) about.
        means *= np.float32(self.separation / math.sqrt(2 * size))
        train = self._drawn(self.rows, means, "train")
        test = self._drawn(self.test_rows, means, "test") if self.test_rows else None
        return Source(train, test, classes=self.classes)

    def _key(self, part: str) -> Key:
        return Key(self.seed, "synthetic").fold(part)

    def _drawn(self, rows: int, means: NDArray[np.float32], part: str) -> Dataset:
        size = means.shape[1]
        x, y = np.empty((rows, size), np.float32), np.empty(rows, np.int64)
        each = max(1, _BLOCK_NUMBERS // size)
        for block, begin in enumerate(range(0, rows, each)):
            generator = self._key(part).fold(block).generator()
            end = min(begin + each, rows)
            y[begin:end] = generator.integers(self.classes, size=each)[: end - begin]
            generator.standard_normal(out=x[begin:end], dtype=np.float32)
            x[begin:end] += means[y[begin:end]]
        return Dataset(x.reshape(rows, *self.shape), y, "synthetic")
