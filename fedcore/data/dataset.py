"""A dataset is two arrays with the same first axis, checked once and never changed.

Everything that trains or evaluates reads examples from a `Dataset`; everything that loads files
makes one. Rows are taken by view where they can be and copied where they must be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data.batching import Batch, batch_plan, steps_per_epoch
from fedcore.errors import ArgumentError, AxisError, DatasetError, DtypeError
from fedcore.tensor.random import Key, stream

__all__ = ["Dataset", "concat"]

_SUM_TOLERANCE = 1e-9  # fractions such as 0.7 + 0.2 + 0.1 miss 1 by rounding alone


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Examples `x` with their targets `y`, as read-only views of the arrays given.

    Shapes: x (N, ...), y (N, ...), N at least 1. `name` says whose or which data they are.
    Raises: DatasetError if the first axes differ or are empty; DtypeError for object arrays.

    >>> data = Dataset(np.arange(10.0).reshape(5, 2), np.arange(5))
    >>> len(data), data[1:3].y.tolist(), data[data.y > 3].x.tolist()
    (5, [1, 2], [[8.0, 9.0]])
    """

    x: NDArray[Any]
    y: NDArray[Any]
    name: str = ""

    def __post_init__(self) -> None:
        x, y = _read_only(self.x, "x"), _read_only(self.y, "y")
        if len(x) != len(y):
            raise DatasetError(
                f"dataset {self.name!r}: {len(x)} examples, {len(y)} targets",
                why="row i of y is the target of row i of x",
                fix="pass arrays with the same first axis",
            )
        if len(x) == 0:
            raise DatasetError(
                f"dataset {self.name!r} is empty",
                why="nothing can be trained or measured on no rows",
                fix="leave this client or part out, or choose its rows otherwise",
            )
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        return f"Dataset({name}x {self.x.dtype} {self.x.shape}, y {self.y.dtype} {self.y.shape})"

    def __getitem__(self, rows: slice | NDArray[Any] | Sequence[int]) -> Dataset:
        """The chosen rows: a view for a slice, a copy for integers or a mask.

        Raises: AxisError if a row is out of range; DatasetError if a mask has another length or no
        row is chosen; ArgumentError if `rows` is neither a slice nor a list of integers or bools.
        """
        if not isinstance(rows, slice):
            rows = self._checked_rows(np.asarray(rows))
        return Dataset(self.x[rows], self.y[rows], self.name)

    def _checked_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        if rows.size == 0 and rows.ndim == 1:
            return rows.astype(np.intp)
        if rows.ndim != 1 or rows.dtype.kind not in "iub":
            raise ArgumentError(
                f"dataset: indexed with {rows.dtype} of shape {rows.shape}",
                why="a selection of rows is again a dataset",
                fix="pass a slice, a list of integers or a mask; one row is data[i : i + 1]",
            )
        if rows.dtype.kind == "b" and len(rows) != len(self):
            raise DatasetError(
                f"dataset: a mask of {len(rows)} for {len(self)} rows",
                why="a mask says yes or no to every row",
                fix=f"pass {len(self)} bools",
            )
        if rows.dtype.kind != "b" and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise AxisError(
                f"dataset: rows {rows.min()} to {rows.max()} asked of {len(self)}",
                why="there are no such rows",
                fix=f"pass integers from {-len(self)} to {len(self) - 1}",
            )
        return rows

    def split(self, fractions: float | Sequence[float], *, seed: int) -> tuple[Dataset, ...]:
        """Disjoint parts that together hold every row, drawn at random from `seed` alone.

        One fraction f gives (f, 1 - f); several must sum to 1. Part sizes are the differences of
        the rounded cumulative counts, so each is within one row of its share.
        Raises: ArgumentError if fractions are not in (0, 1) or do not sum to 1; DatasetError if a
        part would be empty.
        """
        shares = (fractions, 1 - fractions) if isinstance(fractions, float | int) else fractions
        try:
            table = np.asarray(shares, dtype=np.float64)
        except (TypeError, ValueError):
            table = np.empty(0)
        inside = table.ndim == 1 and len(table) > 0 and bool(np.all((table > 0) & (table <= 1)))
        if not inside or abs(table.sum() - 1) > _SUM_TOLERANCE:
            raise ArgumentError(
                f"split: fractions are {fractions!r:.80}",
                why="the parts share all rows between them",
                fix="pass one number in (0, 1), or several that sum to 1",
            )
        counts = np.cumsum(table)[:-1] * len(self)
        bounds = np.rint(counts).astype(np.intp)
        if not np.all(np.diff(bounds, prepend=0, append=len(self))):
            # Halves to even may leave a share of one row without any, halves up do not.
            bounds = np.floor(counts + 0.5 + _SUM_TOLERANCE).astype(np.intp)
        order = stream(seed, "split").permutation(len(self))
        return tuple(self[rows] for rows in np.split(order, bounds))

    def steps_per_epoch(self, size: int, *, drop_last: bool = False) -> int:
        """The number of batches that `batches` with the same arguments yields."""
        return steps_per_epoch(len(self), size, drop_last=drop_last)

    def batches(
        self,
        size: int,
        *,
        key: Key | int | None = None,
        epoch: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One epoch for training, in batches that all have `size` rows.

        The order depends on `(key, epoch)` alone; an integer key is a seed. The last batch is
        padded with rows of weight 0, or left out with `drop_last`.
        Raises: ArgumentError if `size` is less than 1 or `shuffle` has no key; DatasetError if
        `drop_last` leaves no batch.

        >>> data = Dataset(np.arange(5), np.arange(5))
        >>> [(b.x.tolist(), b.weight.tolist()) for b in data.batches(3, shuffle=False)]
        [([0, 1, 2], [1.0, 1.0, 1.0]), ([3, 4, 0], [1.0, 1.0, 0.0])]
        """
        plan = batch_plan(
            len(self), size, key=key, epoch=epoch, shuffle=shuffle, drop_last=drop_last
        )
        # Checked above, at the call: a generator would raise only when first asked for a batch.
        return (
            Batch(self.x[rows], self.y[rows], weight) for rows, weight in zip(*plan, strict=True)
        )

    def evaluation_batches(self, size: int) -> Iterator[Batch]:
        """All rows in order as views, the last batch with as many rows as are left.

        Raises: ArgumentError if `size` is less than 1.
        """
        starts = [step * size for step in range(self.steps_per_epoch(size))]
        parts = (self[start : start + size] for start in starts)
        return (Batch(part.x, part.y, np.ones(len(part), np.float32)) for part in parts)


def concat(datasets: Sequence[Dataset], *, name: str = "") -> Dataset:
    """The rows of several datasets, in their order.

    Raises: DatasetError if there are none, or if shapes of one row or dtypes differ.
    """
    rows = {(d.x.shape[1:], d.x.dtype, d.y.shape[1:], d.y.dtype) for d in datasets}
    if len(rows) != 1:
        found = "; ".join(sorted(f"x {a} {b}, y {c} {d}" for a, b, c, d in rows)) or "no dataset"
        raise DatasetError(
            f"concat: {found}",
            why="rows of one dataset have one shape and one dtype",
            fix="bring all parts to the same features and dtypes first",
        )
    x, y = (np.concatenate(parts) for parts in ([d.x for d in datasets], [d.y for d in datasets]))
    return Dataset(x, y, name)


def _read_only(array: NDArray[Any], what: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DtypeError(
            f"dataset: {what} is {found}",
            why="a dataset holds NumPy arrays of numbers, bools or fixed-width text",
            fix="convert with numpy.asarray(values, dtype=numpy.float32) or the like",
        )
    if array.ndim == 0:
        raise DatasetError(
            f"dataset: {what} is a single value",
            why="the first axis counts the examples",
            fix="pass an array with at least one axis",
        )
    view = array.view()
    view.flags.writeable = False
    return view
