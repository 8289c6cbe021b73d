"""Who has which rows: one array of row numbers, and where each client's begin in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcore.errors import ArgumentError

__all__ = ["Partition"]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The rows of each client, which has at least one.

    Shapes: rows (N,) int64; offsets (P + 1,) int64, rising from 0 to N: client p has
    `rows[offsets[p]:offsets[p + 1]]`. `names`: one a client, by default "client-0", … of equal
    width. `columns`: of a vertical partition the features of each client; else None.
    Raises: ArgumentError for a client without rows, a negative row, offsets of another form, or
    names or columns that are not one a client.

    >>> parts = Partition.of([[0, 1], [2]])
    >>> len(parts), parts[0].tolist(), parts.sizes().tolist()
    (2, [0, 1], [2, 1])
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    names: tuple[str, ...] = ()
    columns: tuple[NDArray[np.int64], ...] | None = field(default=None)

    def __post_init__(self) -> None:
        sizes = np.diff(np.atleast_1d(self.offsets))
        whole = self.offsets.ndim == 1 and len(self.offsets) > 1 and self.offsets[0] == 0
        if not whole or self.offsets[-1] != len(self.rows) or sizes.min(initial=1) < 1:
            raise ArgumentError(
                f"a partition of {len(self.rows)} rows among {max(len(sizes), 0)} clients",
                why="each client has at least one row, and each row of it a client",
                fix="take fewer clients, a larger minimum, or more data",
            )
        if self.rows.min() < 0:
            raise ArgumentError(
                f"a partition names row {self.rows.min()}",
                why="rows are counted from 0",
                fix="pass row numbers, not a mask or places from the end",
            )
        for what, given in (("names", self.names), ("lists of columns", self.columns)):
            if given and len(given) != len(self):
                raise ArgumentError(
                    f"{len(given)} {what} for {len(self)} clients",
                    why="each client has one",
                    fix=f"pass {len(self)} {what}, or none",
                )
        if not self.names:
            width = len(str(len(self) - 1))
            names = tuple(f"client-{place:0{width}d}" for place in range(len(self)))
            object.__setattr__(self, "names", names)

    @classmethod
    def of(cls, parts: Sequence[ArrayLike], *, names: Sequence[str] = ()) -> Partition:
        """The partition in which client p has the rows `parts[p]`, in their order."""
        lists = [np.asarray(part, np.int64).reshape(-1) for part in parts]
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        rows = np.concatenate(lists) if lists else np.empty(0, np.int64)
        return cls(rows, offsets, tuple(names))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> NDArray[np.int64]:
        place = range(len(self))[client]
        return self.rows[self.offsets[place] : self.offsets[place + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[place] for place in range(len(self)))

    def sizes(self) -> NDArray[np.int64]:
        """How many rows each client has, (P,)."""
        return np.diff(self.offsets)
