"""A client's work in a round: one compiled step, replayed over its own batches, and the difference.

What it computes depends on the task, the model, the data, the round and the client's stream alone:
a client that was restarted, and a simulation of it, find the same bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.replay import compile
from fedcore.autograd.tape import value_and_grad
from fedcore.data.batching import Batch
from fedcore.errors import CancelledError, DivergenceError
from fedcore.federated.algorithms import rule_of
from fedcore.federated.evaluation import measure
from fedcore.federated.flat import FlatModel
from fedcore.federated.programs import Progress, TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from fedcore.nn.context import Context
from fedcore.step import train_step
from fedcore.tensor import blas
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["LocalTraining", "require_wanted", "stream_of"]

_ROWS = 256  # of a gradient over all data, at once


def stream_of(name: str) -> int:
    """The number of a client's random streams, by the name that it chose: 64 bits of BLAKE2b.

    >>> stream_of("writer-03") == stream_of("writer-03") != stream_of("writer-04")
    True
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"fedcore.stream.1").digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """The state after it, and sums over the last pass of the data."""

    state: NDArray[np.float32]
    examples: int
    loss: float


class LocalTraining:
    """The built-in program "local"; keeps what it compiled for the last task.

    A call from another thread waits for the one that is under way.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._prepared: tuple[bytes, FlatModel, _Steps | _Gradient] | None = None

    @blas.one_thread()
    def train(self, request: TrainingRequest, /) -> TrainingResult:
        """Trains for the task's epochs or steps; under fedsgd finds one gradient, downhill.

        Of a model with batch statistics, the result holds how they changed, too. The loss is that
        of the last pass over the data. Raises: CancelledError; DivergenceError; ProgramError for a
        model that is not here; what layers and loss raise for data that do not fit.
        """
        with self._turn:
            return self._train(request)

    def _train(self, request: TrainingRequest) -> TrainingResult:
        flat, work = self._prepare(request.task)
        measured = measure(flat, request) if request.evaluate else {}
        theta, state = flat.split(request.theta)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            # Zeros of the system, which no memory stands behind before they are written to.
            delta = np.zeros(request.theta.shape, np.float32)
            found = work.run(request, theta, state, delta[: flat.trained])
            np.subtract(found.state, state, out=delta[flat.trained :])
        if not np.isfinite(delta).all():
            raise _diverged("what was trained is not finite", request)
        return TrainingResult(delta, found.examples, {"loss": found.loss} | measured)

    def _prepare(self, task: Task) -> tuple[FlatModel, _Steps | _Gradient]:
        if self._prepared is None or self._prepared[0] != task.digest:
            flat = FlatModel(task)
            by_server = task.algorithm.name == "fedsgd"
            work = _Gradient(flat) if by_server else _Steps(task, flat)
            self._prepared = task.digest, flat, work
        return self._prepared[1:]


class _Steps:
    """Steps of the task's optimiser over shuffled batches; their sum goes into zeros, `change`."""

    def __init__(self, task: Task, flat: FlatModel) -> None:
        self._task = task
        assert task.training.optimizer is not None
        self._optimizer = rule_of(task).local(task.training.optimizer.make())
        step = train_step(flat.rebuild, loss=flat.loss, optimizer=self._optimizer)
        self._step = compile(step, donate=(0, 2))

    def run(
        self,
        request: TrainingRequest,
        before: NDArray[np.float32],
        state: NDArray[np.float32],
        change: NDArray[np.float32],
    ) -> _Trained:
        try:
            theta, found = self._walk(request, before, state)
        finally:
            self._step.release()  # before what follows takes memory, and while a device waits
        np.subtract(theta.numpy(), before, out=change)
        return found

    def _walk(
        self, request: TrainingRequest, before: NDArray[np.float32], state: NDArray[np.float32]
    ) -> tuple[Tensor, _Trained]:
        terms, data = self._task.training, request.dataset
        assert terms.batch_size is not None
        rate, forward = self._task.rate(request.round), _key(request, "forward")
        a_pass = data.steps_per_epoch(terms.batch_size)
        steps = terms.steps or a_pass * (terms.epochs or 1)
        theta, kept = tensor(before.copy()), tensor(state.copy())
        moments = self._optimizer.init(theta)
        examples, total = 0.0, 0.0
        for now, batch in enumerate(islice(_batches(request, terms.batch_size), steps)):
            require_wanted(request)
            inputs = (*_singles(batch), forward.fold(now).words())
            theta, kept, moments, value, _ = self._step(theta, kept, moments, *inputs, rate)
            loss = value.item()
            if not math.isfinite(loss):
                raise _diverged(f"the loss is {loss} at step {now + 1}", request)
            if now >= steps - a_pass:
                weight = float(batch.weight.sum())
                examples, total = examples + weight, total + loss * weight
            request.progress(Progress(now + 1, steps, loss))
        return theta, _Trained(kept.numpy(), int(examples), total)


class _Gradient:
    """The mean gradient over all of a client's data at the model that it was sent, downhill."""

    def __init__(self, flat: FlatModel) -> None:
        def slope(
            theta: Tensor, state: Tensor, x: Any, y: Any, weight: Any, key: Any
        ) -> tuple[Tensor, Tensor, Tensor]:
            def objective(theta: Tensor) -> tuple[Tensor, Tensor]:
                model = flat.rebuild(theta)
                ctx = Context(model, training=True, key=key, state=state)
                return flat.loss(model(x, ctx=ctx), y, weight=weight), ctx.state

            (value, after), gradient = value_and_grad(objective, has_aux=True)(theta)
            return gradient, after, value

        self._slope = compile(slope)

    def run(
        self,
        request: TrainingRequest,
        before: NDArray[np.float32],
        state: NDArray[np.float32],
        change: NDArray[np.float32],
    ) -> _Trained:
        try:
            return self._walk(request, before, state, change)
        finally:
            self._slope.release()

    def _walk(
        self,
        request: TrainingRequest,
        before: NDArray[np.float32],
        state: NDArray[np.float32],
        change: NDArray[np.float32],
    ) -> _Trained:
        data, forward = request.dataset, _key(request, "forward")
        size = min(_ROWS, len(data))
        steps = data.steps_per_epoch(size)
        total, kept = 0.0, tensor(state.copy())
        for now, batch in enumerate(data.batches(size, shuffle=False)):
            require_wanted(request)
            inputs = (*_singles(batch), forward.fold(now).words())
            gradient, kept, value = self._slope(before, kept, *inputs)
            loss, weight = value.item(), float(batch.weight.sum())
            if not math.isfinite(loss):
                raise _diverged(f"the loss is {loss} at the model that was sent", request)
            change -= gradient.numpy() * np.float32(weight / len(data))
            total += loss * weight
            request.progress(Progress(now + 1, steps, loss))
        return _Trained(kept.numpy(), len(data), total)


def _key(request: TrainingRequest, purpose: str) -> Key:
    return Key(request.task.seed, purpose, round=request.round, client=request.stream)


def _batches(request: TrainingRequest, size: int) -> Iterator[Batch]:
    """Epoch after epoch, each shuffled anew."""
    key = _key(request, "shuffle")
    for epoch in count():
        yield from request.dataset.batches(size, key=key, epoch=epoch)


def _singles(batch: Batch) -> list[NDArray[Any]]:
    """Floating data in the precision of the parameters."""
    return [a.astype(np.float32, copy=False) if a.dtype.kind == "f" else a for a in batch]


def require_wanted(request: TrainingRequest) -> None:
    """Raises: CancelledError once the request was cancelled."""
    if request.cancelled():
        raise CancelledError(
            f"training for round {request.round + 1} was cancelled",
            why="its owner or the server asked for it",
            fix="nothing is lost: the next round begins from the model that the server has",
        )


def _diverged(what: str, request: TrainingRequest) -> DivergenceError:
    return DivergenceError(
        f"round {request.round + 1}: {what}",
        why="the steps left the region where the loss is finite, or the data hold NaN or infinity",
        fix="lower the task's learning rate, and check the data with numpy.isfinite",
    )
