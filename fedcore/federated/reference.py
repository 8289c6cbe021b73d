"""A whole task in one process, without network or masks: what a deployment has to agree with.

Clients do what they do on their devices, their words are added up as a server adds them, and the
sums are opened by the mechanisms and the ledger that a server uses. Masks cancel, so without noise
a deployment with the same clients in every round finds the same models to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.entropy import Entropy, SystemEntropy
from fedcore.errors import PlanError
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.clipping import encode_clipping
from fedcore.federated.contribution import Contributor
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import Program, TrainingRequest
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.federated.update import Mean, UpdateLayout
from fedcore.privacy import (
    Adaptive,
    CentralMechanism,
    CentralNoise,
    CompactMechanism,
    CompactShares,
    IntSum,
    Ledger,
    NoiseShares,
    NoisySum,
    PrivacyPlan,
    PrivateMean,
    QuantileState,
    Reservation,
    SharedMechanism,
    Uncontrolled,
    Unit,
)
from fedcore.secagg import Layout, new_accumulator, total_of
from fedcore.secagg.packing import pack

__all__ = ["train_in_process"]

Vector = NDArray[np.float32]
Blocks = Sequence[NDArray[np.int64]]


def _say_nothing(round: int, theta: Vector, mean: Mean | PrivateMean) -> None:
    """What nobody follows."""


def _pass_over(name: str, error: Exception) -> None:
    """A failure that nobody asks for."""


def train_in_process(
    task: Task,
    clients: Mapping[str, Dataset],
    *,
    rounds: int | None = None,
    theta: Vector | None = None,
    ledger: Path | None = None,
    programs: Mapping[str, Mapping[str, Program]] | None = None,
    entropy: Entropy | None = None,
    on_round: Callable[[int, Vector, Mean | PrivateMean], None] = _say_nothing,
    on_failure: Callable[[str, Exception], None] = _pass_over,
) -> list[Vector]:
    """The model (D,) after each round of a resolved task.

    `clients`: data by the name that a client has chosen. All take part in every round, but where
    the plan samples clients, those that the ledger draws. `rounds`: the first so many of the
    task's. `theta`: the first model, by default the task's. `ledger`: a new folder for the ledger
    of a task with privacy. `programs`: by client, what its owner installed. `entropy`: a seam for
    tests. `on_round` is told of each round, counted from 0, `on_failure` of each client whose
    program failed under privacy, and counted as zeros as on a device.
    Raises: PlanError for privacy without a folder; what contributions, mechanisms, the ledger and
    the algorithm raise.
    """
    own = programs or {}
    workers = {name: Contributor(task, programs=own.get(name), entropy=entropy) for name in clients}
    algorithm = algorithm_of(task)
    state, found = algorithm.start(), initial_theta(task) if theta is None else theta
    models: list[Vector] = []
    with ExitStack() as stack:
        opener = _opener(task, ledger, entropy, stack)
        for index in range(task.rounds.count if rounds is None else rounds):
            cohort = opener.begin(index, list(clients))
            sent, accumulator = algorithm.sent(found, state), new_accumulator(task.layout)
            for name in cohort:
                request = TrainingRequest(
                    task=task,
                    theta=sent,
                    dataset=clients[name],
                    round=index,
                    stream=stream_of(name),
                    evaluate=task.evaluation.is_due(index),
                    clipping=opener.clipping,
                    failed=partial(on_failure, name),
                )
                _add(accumulator, task.layout, workers[name].contribute(request))
            mean = opener.open(total_of(accumulator, task.layout), len(cohort))
            found, state = algorithm.apply(found, mean, state, round=index)
            models.append(found)
            on_round(index, found, mean)
    return models


def _add(accumulator: NDArray[np.uint64], layout: Layout, values: Blocks) -> None:
    """Adds a contribution as it is packed and summed on its way, modulo 2^64."""
    start = 0
    for block, part in zip(layout.blocks, values, strict=True):
        accumulator[start : start + block.words] += pack(block, part, 0, block.words)
        start += block.words


class _Plain:
    """Sums that anybody may see."""

    clipping = b""

    def __init__(self, task: Task) -> None:
        self._layout = UpdateLayout.of(task)

    def begin(self, index: int, names: Sequence[str]) -> Sequence[str]:
        return names

    def open(self, totals: Blocks, reports: int) -> Mean:
        return self._layout.mean(totals, reports)


class _Private:
    """Sums that a mechanism opens, each for a reservation."""

    def __init__(self, plan: PrivacyPlan, ledger: Ledger, entropy: Entropy | None) -> None:
        self._plan, self._ledger, self._entropy = plan, ledger, entropy
        self._state: QuantileState | None = None
        if isinstance(plan.clipping, Adaptive):
            self._state = plan.clipping.start(
                noise_multiplier=plan.noise_multiplier, grid_steps=plan.grid
            )
        self._central = self._shared = self._compact = None
        match plan.noise:
            case CentralNoise():
                self._central = CentralMechanism(plan, entropy=entropy)
            case NoiseShares():
                self._shared = SharedMechanism(plan, entropy=entropy)
            case CompactShares():
                self._compact = CompactMechanism(plan, entropy=entropy)
            case _:
                raise PlanError(
                    f"a task with {type(plan.noise).__name__}",
                    why="its noise does not outlive a process",
                    fix='take noise = "central", "shares" or "compact"',
                )

    @property
    def clipping(self) -> bytes:
        return encode_clipping(self._state)

    def begin(self, index: int, names: Sequence[str]) -> Sequence[str]:
        """Reserves the round, and says who takes part."""
        self._reservation = self._ledger.reserve(index)
        cohort = self._cohort(self._reservation, sorted(names))
        noise, shared = self._plan.noise, self._shared or self._compact
        if shared is not None and isinstance(noise, NoiseShares | CompactShares):
            shared.begin(self._reservation, minimum_survivors=len(cohort), corrupt=noise.corrupt)
        return cohort

    def _cohort(self, reservation: Reservation, names: Sequence[str]) -> Sequence[str]:
        if self._plan.unit is Unit.RECORD:
            return names
        if isinstance(self._plan.sampling, Uncontrolled):
            reservation.participate(name.encode() for name in names)
            return names
        drawn = reservation.select(entropy=self._entropy)
        return [names[place] for place in drawn if place < len(names)]

    def open(self, totals: Blocks, reports: int) -> PrivateMean:
        (total,) = totals
        reservation, state = self._reservation, self._state
        if self._central is not None:
            exact = IntSum(total, self._plan.contribution_norm)
            mean = self._central.release(exact, reservation, clipping=state)
        elif self._shared is not None:
            noisy = NoisySum(total, shares=reports)
            mean = self._shared.release(noisy, reservation, clipping=state)
        else:
            assert self._compact is not None
            mean = self._compact.release(NoisySum(total, shares=reports), reservation)
        self._state = mean.clipping
        return mean


def _opener(
    task: Task, folder: Path | None, entropy: Entropy | None, stack: ExitStack
) -> _Plain | _Private:
    if task.plan is None:
        return _Plain(task)
    if folder is None:
        raise PlanError(
            f"task {task.name!r} has privacy, and there is no folder for a ledger",
            why="what its rounds cost has to outlive this process",
            fix="pass ledger=Path of a folder that holds none yet",
        )
    bounded = isinstance(task.plan.sampling, Uncontrolled)
    key = SystemEntropy().token(32) if bounded else None
    ledger = stack.enter_context(Ledger.create(folder, task.plan, participation_key=key))
    return _Private(task.plan, ledger, entropy)
