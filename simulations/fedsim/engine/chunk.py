"""Clients side by side on fixed memory: their models, and the programs that move them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import local
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.lanes import vmap
from fedcore.autograd.replay import Compiled, compile
from fedcore.step import Step
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["Batches", "Chunk"]

Vector = NDArray[np.float32]
Batches: TypeAlias = tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], NDArray[np.float32]]
"""x and y of all data; of these the rows in each batch (P, steps, B), and what each counts."""


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """So many steps in one replay, and the memory of what they are given, which is all its own."""

    run: Compiled
    x: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float32]
    words: NDArray[np.uint64]
    rate: NDArray[np.float32]
    here: local = field(default_factory=local)  # a replay belongs to its thread


class Chunk:
    """`lanes` clients that are trained together by `step`, always in the same memory."""

    def __init__(self, step: Step, lanes: int) -> None:
        self._step = step
        # One client alone has no lane axis: products of one lane need no stacking.
        self._lead = (lanes,) if lanes > 1 else ()
        self._programs: dict[int, _Program] = {}
        self._theta = self._state = Tensor(np.empty(0, np.float32))
        self._moments: tuple[Tensor, ...] | None = None

    def begin(self, theta: Vector, state: Vector, moments: Sequence[NDArray[Any]]) -> None:
        """Sets every lane to this model, and to this state of the optimiser."""
        if self._moments is None:
            self._theta, self._state = self._like(theta), self._like(state)
            self._moments = tuple(map(self._like, moments))
        for memory, value in zip(
            (self._theta, self._state, *self._moments), (theta, state, *moments), strict=True
        ):
            memory.data[...] = value

    def place(self, lane: int, start: Vector | None, extras: Sequence[NDArray[Any]]) -> None:
        """Sets one lane to parameters of its own, and the last parts of the optimiser's state."""
        assert self._moments is not None
        own = self._moments[len(self._moments) - len(extras) :]
        for memory, value in zip(own, extras, strict=True):
            self._lane(memory, lane)[...] = value
        if start is not None:
            self._lane(self._theta, lane)[...] = start

    def run(
        self, batches: Batches, words: Sequence[Sequence[NDArray[np.uint64]]] | None, rate: float
    ) -> NDArray[np.float32]:
        """Takes the steps of `batches`: the loss of each, (P, steps).

        `words`: of the key of each lane's steps, where the model draws.
        """
        x, y, rows, weight = batches
        count = rows.shape[1]
        program = self._programs.get(count)
        if program is None:
            program = self._programs[count] = self._record(x, y, rows.shape[1:])
        rows = rows.reshape(program.weight.shape)
        np.take(x, rows, axis=0, out=program.x, mode="clip")  # "raise" would copy twice
        np.take(y, rows, axis=0, out=program.y, mode="clip")
        program.weight[...] = weight.reshape(rows.shape)
        if words is not None:
            program.words[...] = np.reshape(words, program.words.shape)
        program.rate[...] = rate
        if getattr(program.here, "ran", False):
            losses, *_ = program.run.again()
        else:
            given = (program.x, program.y, program.weight, program.words, program.rate)
            assert self._moments is not None
            losses, *_ = program.run(self._theta, self._state, *given, *self._moments)
            program.here.ran = True
        found: NDArray[np.float32] = losses.numpy().reshape(-1, count)
        return found

    def vector(self, lane: int) -> Vector:
        """A lane's parameters and state (D,), valid until the lanes are set or moved again."""
        theta, state = self._lane(self._theta, lane), self._lane(self._state, lane)
        return np.concatenate([theta, state]) if state.size else theta

    def _lane(self, memory: Tensor, lane: int) -> NDArray[Any]:
        view: NDArray[Any] = memory.data[lane, ...] if self._lead else memory.data
        return view

    def _like(self, value: NDArray[Any]) -> Tensor:
        return Tensor(np.empty((*self._lead, *value.shape), value.dtype))

    def _record(self, x: NDArray[Any], y: NDArray[Any], batches: tuple[int, ...]) -> _Program:
        step, count = self._step, batches[0]

        def several(
            theta: Any, state: Any, x: Any, y: Any, weight: Any, key: Any, lr: Any, *moments: Any
        ) -> tuple[Any, ...]:
            losses = []
            for now in range(count):
                batch = (x[now], y[now], weight[now], key[now])
                theta, state, moments, loss, _ = step(theta, state, moments, *batch, lr)
                losses.append(loss)
            return operations.stack(losses), theta, state, *moments

        # Arguments without containers: a replay spends 20 µs less on them.
        own = len(self._moments or ())
        axes = (*(0,) * 6, None, *(0,) * own)
        mapped = vmap(several, axes) if self._lead else several
        whole = (*self._lead, *batches)
        return _Program(
            compile(mapped, donate=range(7 + own)),
            np.empty((*whole, *x.shape[1:]), x.dtype),
            np.empty((*whole, *y.shape[1:]), y.dtype),
            np.empty(whole, np.float32),
            np.zeros((*self._lead, count, 2), np.uint64),
            np.zeros((), np.float32),
        )
