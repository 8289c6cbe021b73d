"""From what a client trained to the numbers that are added up: one class a way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedcore.entropy import Entropy
from fedcore.federated.contribution import Contributor
from fedcore.federated.programs import Program, TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from fedcore.federated.update import UpdateLayout
from fedcore.secagg.packing import pack
from fedcore.tensor import blas
from fedsim.engine.jobs import ClientReport, Round, described
from fedsim.engine.training import Outcome, Training, request_of
from fedsim.population import Population

__all__ = ["Floats", "Grid", "Way", "Words"]

Vector: TypeAlias = NDArray[np.float32]

_PIECE: Final = 32_768  # coordinates in float64 that stay in the cache


class Way(Protocol):
    """How a worker treats its clients: one after another is prepared, and added.

    `dtype` and `length`: of what a client gives, and of sums of it.
    """

    @property
    def dtype(self) -> DTypeLike: ...
    @property
    def length(self) -> int: ...

    def prepare(self, members: Sequence[int], round: Round) -> Iterator[ClientReport]:
        """Works for each client in turn; its vector can be had until the next is asked for."""
        ...

    def add(self, into: NDArray[Any]) -> None:
        """Adds the vector of the client that was prepared last, if it did not fail."""
        ...

    def write(self, into: NDArray[Any]) -> None:
        """Writes it, of floats before they are weighted, if the client did not fail."""
        ...


class Floats:
    """Updates in floating numbers, each times its weight: no integers, no noise, no privacy."""

    dtype = np.float32

    def __init__(self, task: Task, training: Training, *, length: int, weighted: bool) -> None:
        self.length, self._counts = length, weighted
        self._largest, self._training = task.update.largest_weight, training
        self._delta: Vector | None = None
        self._weight = 0

    def prepare(self, members: Sequence[int], round: Round) -> Iterator[ClientReport]:
        for found in self._training.train(members, round):
            self._weight = min(found.examples, self._largest) if self._counts else 1
            self._delta = found.delta
            yield _report(found, self._weight)

    def add(self, into: NDArray[Any]) -> None:
        if self._delta is not None:
            delta = np.ascontiguousarray(self._delta, np.float32)
            blas.add_scaled(into, delta, self._weight)

    def write(self, into: NDArray[Any]) -> None:
        if self._delta is not None:
            into[...] = self._delta


class Grid:
    """The integers of `UpdateLayout`, exact in float64: what a device sends beside its statistics.

    Sums of them stay below 2^48, so that no order of addition changes them.
    """

    dtype = np.float64

    def __init__(self, task: Task, training: Training, *, length: int, weighted: bool) -> None:
        self.length, self._training = length, training
        self._layout = replace(UpdateLayout.of(task), dimension=length, weighted=weighted)
        self._piece = np.empty(min(_PIECE, self.length), np.float64)
        self._delta: Vector | None = None
        self._scale, self._cut = 0.0, False

    def prepare(self, members: Sequence[int], round: Round) -> Iterator[ClientReport]:
        layout, largest = self._layout, self._layout.largest_weight
        for found in self._training.train(members, round):
            self._delta = found.delta
            counted = min(found.examples, largest) if layout.weighted else largest
            saturated = 0
            if found.delta is not None:
                self._scale = float(Fraction(counted, largest) / layout.step)
                self._cut = found.peak > layout.range
                if self._cut:
                    saturated = int(np.count_nonzero(np.abs(found.delta) > layout.range))
            yield replace(_report(found, counted), saturated=saturated)

    def add(self, into: NDArray[Any]) -> None:
        if self._delta is None:
            return
        for start in range(0, self.length, _PIECE):
            given = self._delta[start : start + _PIECE]
            piece = self._piece[: len(given)]
            np.copyto(piece, given)
            if self._cut:
                np.clip(piece, -self._layout.range, self._layout.range, out=piece)
            piece *= self._scale
            np.rint(piece, out=piece)
            into[start : start + len(given)] += piece

    def write(self, into: NDArray[Any]) -> None:
        into.fill(0)
        self.add(into)


class Words:
    """What a device sends, whatever its task: blocks of integers with all noise, packed, unmasked.

    `entropy`: a seam for tests; noise and samples come from the operating system.
    """

    dtype = np.uint64

    def __init__(
        self,
        task: Task,
        population: Population,
        training: Training,
        *,
        entropy: Entropy | None = None,
    ) -> None:
        self.length = sum(block.words for block in task.layout.blocks)
        self._task, self._population = task, population
        self._trained = _Trained(training)
        programs: Mapping[str, Program] = {task.training.program: self._trained}
        self._contributor = Contributor(task, programs=programs, entropy=entropy)
        self.blocks: tuple[NDArray[np.int64], ...] | None = None

    def prepare(self, members: Sequence[int], round: Round) -> Iterator[ClientReport]:
        for member in members:
            self._trained.begin(member, round)
            request = request_of(self._task, self._population, member, round)
            self.blocks, failure = None, ""
            try:
                self.blocks = self._contributor.contribute(request)
            except Exception as error:
                failure = described(error)
            yield replace(_report(self._trained.last(member), 1), failure=failure)

    def add(self, into: NDArray[Any]) -> None:
        if self.blocks is None:
            return
        start = 0
        for block, part in zip(self._task.layout.blocks, self.blocks, strict=True):
            into[start : start + block.words] += pack(block, part, 0, block.words)
            start += block.words

    def write(self, into: NDArray[Any]) -> None:
        into.fill(0)
        self.add(into)


class _Trained:
    """The program that a `Contributor` asks: a client's training, as the engine does it."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._now: tuple[int, Round] | None = None
        self._last: Outcome | None = None

    def begin(self, member: int, round: Round) -> None:
        self._now, self._last = (member, round), None

    def last(self, member: int) -> Outcome:
        """What came of the training; nothing where records were drawn instead."""
        return self._last or Outcome(member, None)

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        assert self._now is not None
        member, round = self._now
        [found] = self._training.train([member], round)
        self._last = found
        if found.delta is None:
            assert found.error is not None
            raise found.error
        return TrainingResult(found.delta, found.examples, found.statistics)


def _report(found: Outcome, weight: int) -> ClientReport:
    if found.error is not None:
        return ClientReport(found.index, failure=described(found.error))
    statistics = dict(found.statistics)
    loss = statistics.pop("loss", 0.0)
    return ClientReport(found.index, weight, found.examples, found.steps, loss, measured=statistics)
