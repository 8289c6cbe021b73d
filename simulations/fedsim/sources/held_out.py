"""What is kept from training: rows of every client, or whole clients that nobody trains on.

The first measures how well a model serves those who trained it, the second how well it serves
people whom it has never met. Both are drawn from the seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.settings import Bounds
from fedcore.tensor.random import Key
from fedsim.sources.features import imputed, missing, standardized
from fedsim.sources.source import Reader, Source

__all__ = ["HeldOut", "Measured"]

_USUAL: Final = 0.2
_Share = Annotated[float, Bounds(least=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class HeldOut(Reader):
    """How rows without an official test set are divided.

    `held_out`: the share of each client's rows to test on, rounded, but so that one stays to train
    on; without ids the share of all rows. 0: no test set. `held_out_clients`: instead the share of
    clients, at least one, all of whose rows are tested on. `seed`: what both are drawn from.
    Raises: TaskError for both at once.
    """

    held_out: _Share = _USUAL
    held_out_clients: _Share = 0.0
    seed: Annotated[int, Bounds(least=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out_clients and self.held_out not in (_USUAL, 0):
            raise TaskError(
                f"held_out = {self.held_out} and held_out_clients = {self.held_out_clients}",
                why="either rows of every client are tested on, or all rows of some clients",
                fix="set one of both",
                where="held_out",
            )

    def divided(self, whole: Source, groups: NDArray[Any] | None = None) -> Source:
        """A source whose `train` holds all rows, as one with a test set, rows in their order.

        `groups` (N,): rows of one client with the same group are alike, such as windows of one
        recording, and stay together.
        Raises: TaskError if clients are to be held out of data without ids, or of one client.
        """
        tested = self._tested_rows(whole, groups)
        if not tested.any():
            return whole
        data, ids = whole.train, whole.ids
        return replace(
            whole,
            train=data[~tested],
            test=data[tested],
            ids=None if ids is None else ids[~tested],
            test_ids=None if ids is None else ids[tested],
        )

    def _tested_rows(self, whole: Source, groups: NDArray[Any] | None) -> NDArray[np.bool_]:
        if self.held_out_clients:
            return self.tested_clients(whole.ids, whole.train.name)
        if not self.held_out:
            return np.zeros(len(whole.train), np.bool_)
        rows = len(whole.train)
        owner = np.zeros(rows, np.int64) if whole.ids is None else _numbers(whole.ids)
        group = np.arange(rows) if groups is None else _numbers(groups)
        span = int(group.max()) + 1
        units, unit_of_row = np.unique(owner * span + group, return_inverse=True)
        owner_of_unit = units // span
        sizes = np.bincount(owner_of_unit)
        tested = np.minimum(np.floor(self.held_out * sizes + 0.5), sizes - 1)
        draws = Key(self.seed, "held out").generator().random(len(units))
        order = np.lexsort((draws, owner_of_unit))
        rank = np.arange(len(units)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = np.empty(len(units), np.bool_)
        chosen[order] = rank < np.repeat(tested, sizes)
        return chosen[unit_of_row]

    def tested_clients(self, ids: NDArray[Any] | None, name: str) -> NDArray[np.bool_]:
        """Which rows (N,) are those of clients that are held out.

        Raises: TaskError for data without ids, or of one client.
        """
        owner = np.zeros(1, np.int64) if ids is None else _numbers(ids)
        clients = int(owner.max()) + 1
        if clients < 2:
            raise TaskError(
                f"held_out_clients = {self.held_out_clients} of {name!r}",
                why="the data say of no row whose it is" if ids is None else "there is one client",
                fix="set held_out, the share of rows to test on",
                where="held_out_clients",
            )
        count = min(max(1, round(self.held_out_clients * clients)), clients - 1)
        order = Key(self.seed, "held out clients").generator().permutation(clients)
        return np.isin(owner, order[:count])


@dataclass(frozen=True, kw_only=True)
class Measured(HeldOut):
    """A source of numbers, such as a table's or a sensor's, of which some may be missing.

    `standardize`: features with mean 0 and standard deviation 1 over the training rows. Either
    way a missing feature becomes its mean over the training rows. In a real federation nobody has
    these rows together: the statistics would have to be agreed on, as bounds that are known
    beforehand or as a sum of their own, with noise of its own.
    """

    standardize: bool = False

    def finished(self, whole: Source, groups: NDArray[Any] | None = None) -> Source:
        """`divided`, then with all features present, and standardised if asked."""
        return self.completed(self.divided(whole, groups))

    def completed(self, source: Source) -> Source:
        """A divided source with all features present, and standardised if asked."""
        complete = standardized(source) if self.standardize else imputed(source)
        return replace(complete, filled=missing(source))


def _numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].astype(np.int64, copy=False)
