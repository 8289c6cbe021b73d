"""Clients as a lazy sequence: each is made when somebody asks for it, and nobody keeps it.

A population holds its data once, and for each client the numbers of its rows. So ten thousand
clients that sleep cost what their rows' numbers cost, and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import ArgumentError, AxisError
from fedcore.federated.training import stream_of
from fedsim.partition import HeldOutRows, Partition
from fedsim.records import OwnRows

__all__ = ["Client", "Population", "Shift"]


class Shift(Protocol):
    """What makes one client's features unlike another's, though their labels are alike."""

    def __call__(self, x: NDArray[np.generic], *, client: int) -> NDArray[np.generic]:
        """A client's features (n, ...) as it sees them, of the same shape and dtype."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """One client, awake: its place in the population, its name, its own rows."""

    index: int
    name: str
    dataset: Dataset

    @property
    def stream(self) -> int:
        """The number of its streams of random numbers, the same as on a device of that name."""
        return stream_of(self.name)


class Population(Sequence[Client]):
    """The clients of one dataset.

    `partition`: which rows each client has. `names`: one a client, as devices of a deployment
    would be called; by default the partition's. `shift`: how each client sees its features.
    `held_out`: rows of each client's that it does not train on; by default nobody has any.
    Raises: ArgumentError for names that are not one a client, or not distinct, or rows that are
    held out of other clients; AxisError for a partition of more rows than there are.

    >>> from fedsim.partition import Partition
    >>> data = Dataset(np.arange(6.0), np.arange(6))
    >>> people = Population(data, Partition.of([[0, 1], [2, 3, 4, 5]]))
    >>> len(people), people[1].name, people[1].dataset.y.tolist()
    (2, 'client-1', [2, 3, 4, 5])
    """

    def __init__(
        self,
        data: Dataset,
        partition: Partition,
        *,
        names: Sequence[str] | None = None,
        shift: Shift | None = None,
        held_out: HeldOutRows | None = None,
    ) -> None:
        self.data, self.partition, self.shift = data, partition, shift
        self.held_out = HeldOutRows.none(len(partition)) if held_out is None else held_out
        self.names = tuple(partition.names if names is None else names)
        if len(self.names) != len(partition) or len(set(self.names)) != len(self.names):
            raise ArgumentError(
                f"{len(set(self.names))} distinct names for {len(partition)} clients",
                why="a client's name is its own: its random numbers follow from it",
                fix="pass one name a client, none of them twice",
            )
        if len(self.held_out) != len(partition):
            raise ArgumentError(
                f"rows of {len(self.held_out)} clients are held out, of {len(partition)}",
                why="each holds out rows of its own, or none",
                fix="hold out rows of this very partition",
            )
        named = max(partition.rows.max(initial=0), self.held_out.rows.max(initial=0))
        if named >= len(data):
            raise AxisError(
                f"a partition names row {named} of {len(data)}",
                why="it was made for more data",
                fix="partition the labels of this very dataset",
            )

    def __len__(self) -> int:
        return len(self.partition)

    @overload
    def __getitem__(self, index: int) -> Client: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Client]: ...
    def __getitem__(self, index: int | slice) -> Client | Sequence[Client]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        rows = self.partition[place]
        x, y = self.data.x[rows], self.data.y[rows]
        if self.shift is not None:
            x = self.shift(x, client=place)
        return Client(place, self.names[place], Dataset(x, y, self.names[place]))

    def __iter__(self) -> Iterator[Client]:
        return (self[place] for place in range(len(self)))

    @property
    def own_rows(self) -> OwnRows:
        """On which of its rows each client's model is measured."""
        return OwnRows.HELD_OUT if self.held_out.rows.size else OwnRows.TRAINING

    @property
    def measured(self) -> NDArray[np.int64]:
        """The places of those who have such rows, rising."""
        if self.own_rows is OwnRows.HELD_OUT:
            return self.held_out.clients
        return np.arange(len(self))

    def measured_rows(self, place: int) -> NDArray[np.int64]:
        """The rows on which this client's model is measured, numbers in `data`."""
        rows = self.held_out if self.own_rows is OwnRows.HELD_OUT else self.partition
        return rows[place]

    def settled(self) -> Population:
        """These clients with their features as they see them, all written down: no shift is left.

        Memory: the features once more, if there is a shift.
        """
        if self.shift is None:
            return self
        x = self.data.x.copy()
        for place in range(len(self)):
            # Those of training first: a shift that draws draws the same for them as without others.
            rows = np.concatenate([self.partition[place], self.held_out[place]])
            x[rows] = self.shift(self.data.x[rows], client=place)
        data = Dataset(x, self.data.y, self.data.name)
        return Population(data, self.partition, names=self.names, held_out=self.held_out)

    def sizes(self) -> NDArray[np.int64]:
        """How many rows each client has, (P,)."""
        return self.partition.sizes()
