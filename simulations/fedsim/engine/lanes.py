"""Local training of many clients: what `LocalTraining` computes, several steps and clients a call.

A device replays one step at a time. Here one replay takes a client through several steps, and of
small models several clients side by side, one lane each, so that Python's share of the time stays
small. Kernels are the same and see the same operands, so every client's bits are those of a device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.replay import compile
from fedcore.data import Dataset
from fedcore.data.batching import BatchPlan, batch_plan, steps_per_epoch
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedcore.optim import Optimizer
from fedcore.step import train_step
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import tensor
from fedsim.engine.chunk import Chunk

__all__ = ["Lanes", "Pupil", "Trained"]

Vector = NDArray[np.float32]

_MOST_LANES: Final = 64
_CACHE: Final = 1 << 20  # bytes: what the lanes of a chunk work on stays in a core's own cache
_PLANNED: Final = 1 << 14  # rows whose order is drawn at once
_CALL_S: Final = 1.2e-6  # what Python and NumPy take for a kernel call on next to nothing
_STEPS: Final = (8, 4, 3, 2, 1)  # in one replay: few programs serve clients of all sizes


@dataclass(frozen=True, slots=True, eq=False)
class Pupil:
    """A client to be trained: its place, its `rows` of the data, the number of its streams.

    `start`: its own parameters (T,), if it begins elsewhere than others. `extras`: what its
    optimiser's state ends with, if not with what it is made with.
    """

    index: int
    rows: NDArray[np.int64]
    stream: int
    start: Vector | None = None
    extras: Sequence[NDArray[Any]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What came of a client: `vector` (D,), parameters and state, valid until the next is asked.

    `examples` and `loss`: weights, and weighted losses, summed over the last pass of its data.
    `finite`: whether every step's loss was.
    """

    pupil: Pupil
    vector: Vector
    steps: int
    examples: int
    loss: float
    finite: bool


class Lanes:
    """The task's local training on rows of `data`, by the steps of `optimizer`.

    `lanes`: how many clients are trained side by side at most; None: as many as pay.
    """

    def __init__(
        self, task: Task, flat: FlatModel, optimizer: Optimizer, data: Dataset, *, lanes: int | None
    ) -> None:
        self._task, self._flat, self._optimizer = task, flat, optimizer
        self._x, self._y = _single(data.x), _single(data.y)
        self._step = train_step(flat.rebuild, loss=flat.loss, optimizer=optimizer)
        self._most, self._draws, self._looked = lanes, True, False
        self._chunks: dict[int, Chunk] = {}
        assert task.training.batch_size is not None
        self._size = task.training.batch_size

    def steps(self, rows: int) -> int:
        """How many steps a client with so many rows takes."""
        terms = self._task.training
        return terms.steps or steps_per_epoch(rows, self._size) * (terms.epochs or 1)

    def width(self, start: Vector) -> int:
        """How many are trained side by side at most, from a model like `start` (D,)."""
        if not self._looked:
            self._look_at_a_step(start)
            self._looked = True
        assert self._most is not None
        return self._most

    def train(
        self, pupils: Sequence[Pupil], start: Vector, *, round: int, purpose: str = ""
    ) -> Iterator[Trained]:
        """Each pupil in its order, from the model `start` (D,).

        `purpose`: a second training in a round draws streams of its own.
        """
        width = self.width(start)
        theta, state = self._flat.split(start)
        moments = tuple(part.numpy() for part in self._optimizer.init(tensor(theta)))
        planned, place = self._planned(pupils, round, purpose), 0
        while place < len(pupils):
            rest = pupils[place : place + width]
            steps, alike = next(groupby(self.steps(len(pupil.rows)) for pupil in rest))
            lanes = 1 << (len(list(alike)).bit_length() - 1)
            chunk = self._chunk(lanes)
            chunk.begin(theta, state, moments)
            for lane, pupil in enumerate(rest[:lanes]):
                chunk.place(lane, pupil.start, pupil.extras)
            plans = list(islice(planned, lanes))
            yield from self._train(chunk, rest[:lanes], plans, steps, round, purpose)
            place += lanes

    def attempt(
        self, pupils: Sequence[Pupil], start: Vector, *, round: int, purpose: str = ""
    ) -> Iterator[Trained | Exception]:
        """As `train`; of a pupil whose training raises, the error, and nobody else notices."""
        done = 0
        while done < len(pupils):
            try:
                for found in self.train(pupils[done:], start, round=round, purpose=purpose):
                    yield found
                    done += 1
            except Exception:
                # Nobody knows whose data it was among those side by side: each by itself.
                for pupil in pupils[done : done + (self._most or 1)]:
                    yield self._alone(pupil, start, round, purpose)
                    done += 1

    def _alone(self, pupil: Pupil, start: Vector, round: int, purpose: str) -> Trained | Exception:
        try:
            [found] = self.train([pupil], start, round=round, purpose=purpose)
        except Exception as error:
            return error
        return found

    def _train(
        self,
        chunk: Chunk,
        pupils: Sequence[Pupil],
        plans: Sequence[BatchPlan],
        steps: int,
        round: int,
        purpose: str,
    ) -> Iterator[Trained]:
        rows, weights = (np.array(part) for part in zip(*plans, strict=True))
        losses = np.empty((len(pupils), steps), np.float32)
        drawing = pupils if self._draws else ()
        keys = [self._key(pupil, f"{purpose}forward", round) for pupil in drawing]
        rate, done = self._task.rate(round), 0
        for count in _pieces(steps):
            part = slice(done, done + count)
            batch = (self._x, self._y, rows[:, part], weights[:, part])
            words = [[key.fold(now).words() for now in range(steps)[part]] for key in keys]
            losses[:, part] = chunk.run(batch, words or None, rate)
            done += count
        for lane, pupil in enumerate(pupils):
            a_pass = steps_per_epoch(len(pupil.rows), self._size)
            values, counted = losses[lane].tolist(), weights[lane].sum(axis=1).tolist()
            examples, total = 0.0, 0.0
            for at in range(max(0, steps - a_pass), steps):
                examples, total = examples + counted[at], total + values[at] * counted[at]
            finite = math.isfinite(sum(values))
            yield Trained(pupil, chunk.vector(lane), steps, int(examples), total, finite)

    def _planned(self, pupils: Sequence[Pupil], round: int, purpose: str) -> Iterator[BatchPlan]:
        """Of each pupil the rows of the data in its batches (steps, B), and what each counts.

        Some at once: a plan takes 25 µs after another, and 70 after a training, which leaves
        nothing of it in the cache.
        """
        place = 0
        while place < len(pupils):
            block: list[BatchPlan] = []
            size = 0
            while place < len(pupils) and size < _PLANNED:
                block.append(self._plan(pupils[place], round, purpose))
                size += block[-1].rows.size
                place += 1
            yield from block

    def _plan(self, pupil: Pupil, round: int, purpose: str) -> BatchPlan:
        """Epoch after epoch, each shuffled anew, up to the last of the pupil's steps."""
        steps, key = self.steps(len(pupil.rows)), self._key(pupil, f"{purpose}shuffle", round)
        epochs = -(-steps // steps_per_epoch(len(pupil.rows), self._size))
        plans = [
            batch_plan(len(pupil.rows), self._size, key=key, epoch=epoch) for epoch in range(epochs)
        ]
        if epochs == 1:
            [plan] = plans
            return BatchPlan(pupil.rows[plan.rows[:steps]], plan.weight[:steps])
        rows, weights = (np.concatenate(part)[:steps] for part in zip(*plans, strict=True))
        return BatchPlan(pupil.rows[rows], weights)

    def _key(self, pupil: Pupil, purpose: str, round: int) -> Key:
        return Key(self._task.seed, purpose, round=round, client=pupil.stream)

    def _chunk(self, lanes: int) -> Chunk:
        found = self._chunks.get(lanes)
        if found is None:
            found = self._chunks[lanes] = Chunk(self._step, lanes)
        return found

    def _look_at_a_step(self, start: Vector) -> None:
        """Finds whether it draws, and how many lanes make Python's share of it small.

        Time decides nothing but time: a client's bits do not depend on who stands beside it.
        """
        step = compile(self._step)
        theta, state = self._flat.split(start)
        moments = self._optimizer.init(tensor(theta))
        own = theta.nbytes + sum(part.numpy().nbytes for part in moments)
        # No row of anybody's: what a client has wrong is its own failure.
        shapes = [(self._size, *data.shape[1:]) for data in (self._x, self._y)]
        x, y = np.zeros(shapes[0], self._x.dtype), np.zeros(shapes[1], self._y.dtype)
        batch = (x, y, np.ones(self._size, np.float32), np.zeros(2, np.uint64))
        with np.errstate(all="ignore"):
            for _ in range(3):
                begun = time.perf_counter()
                step(theta, state, moments, *batch, self._task.rate(0))
                took = time.perf_counter() - begun
        [program] = step.programs
        read = {value for call in program.calls for value in call.inputs}
        self._draws = program.inputs[-2] in read
        if self._most is None:
            alone = took > 10 * len(program.calls) * _CALL_S
            fits = _CACHE // (step.arena_bytes[0] + own)
            self._most = 1 if alone else max(1, min(_MOST_LANES, fits))


def _pieces(steps: int) -> Iterator[int]:
    """Lengths of replays that add up to `steps`.

    >>> list(_pieces(21))
    [8, 8, 4, 1]
    """
    while steps:
        count = next(length for length in _STEPS if length <= steps)
        yield count
        steps -= count


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Floating data in the precision of the parameters."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
