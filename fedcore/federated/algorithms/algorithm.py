"""A task's algorithm as its server runs it: a rule, with what it may be given checked.

Here it is made sure that under privacy nothing moves the model but what a mechanism released.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from fedcore.errors import DivergenceError, PlanError, UpdateError
from fedcore.federated.algorithms.fedadagrad import FedAdagrad
from fedcore.federated.algorithms.fedadam import FedAdam
from fedcore.federated.algorithms.fedavg import FedAvg
from fedcore.federated.algorithms.fedavgm import FedAvgM
from fedcore.federated.algorithms.fedprox import FedProx
from fedcore.federated.algorithms.fedsgd import FedSGD
from fedcore.federated.algorithms.fedyogi import FedYogi
from fedcore.federated.algorithms.rule import Rule, ServerState, Vector
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedcore.federated.update import Mean
from fedcore.privacy import PrivateMean

__all__ = ["RULES", "Algorithm", "algorithm_of", "rule_of"]

_PIECE: Final = 1 << 18  # coordinates of a step that is taken at once

RULES: Final[Mapping[str, type[Rule]]] = {
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedsgd": FedSGD,
    "fedyogi": FedYogi,
}
"""Every algorithm by the name that a task gives."""


class Algorithm:
    """The algorithm of a resolved task.

    Rules act on parameters; the state of a model that has one, which stands after them, moves by
    the mean change. Raises: ProgramError for a model that is not installed.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.rule = rule_of(task)
        self._trained = task.dimension if task.model.arrays else FlatModel(task).trained

    def start(self) -> ServerState:
        """The server's state before the first round, to be kept beside the model."""
        return self.rule.start(self._trained)

    def sent(self, theta: Vector, state: ServerState) -> Vector:
        """What clients start from: float32 (D,)."""
        head = self.rule.sent(theta[: self._trained], state)
        return np.concatenate([head, theta[self._trained :]])

    def apply(
        self, theta: Vector, mean: Mean | PrivateMean, state: ServerState, *, round: int
    ) -> tuple[Vector, ServerState]:
        """The model (D,) and the state after `round`; what is given stays as it is.

        Raises: PlanError for a mean that no mechanism released, where the task has privacy, and
        for one that was, where it has none; UpdateError for other shapes; DivergenceError.
        """
        _require_kind(self.task, mean)
        self._require_shapes(theta, mean.vector, state)
        rule, sign = self.rule, -1 if self._sends_gradients else 1
        if isinstance(rule, FedSGD):
            rule = replace(rule, lr=self.task.rate(round))
        result = np.empty_like(theta)
        after = {name: np.empty_like(kept) for name, kept in state.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            # A rule moves each coordinate by itself: in pieces its intermediates stay small.
            for begin in range(0, self._trained, _PIECE):
                part = slice(begin, min(begin + _PIECE, self._trained))
                kept = {name: value[part] for name, value in state.items()}
                result[part], moved = rule.apply(theta[part], sign * mean.vector[part], kept)
                for name, value in moved.items():
                    after[name][part] = value
            cut = slice(self._trained, None)
            result[cut] = theta[cut] + sign * mean.vector[cut]
        if not np.isfinite(result).all():
            raise DivergenceError(
                f"the model is not finite after round {round + 1}",
                why="the server's step left the region of numbers",
                fix="lower the algorithm's lr, or the clients' learning rate",
            )
        return result, after

    @property
    def _sends_gradients(self) -> bool:
        """Sums of per-example gradients point uphill; what is trained points downhill already."""
        return self.task.privacy is not None and self.task.privacy.unit == "record"

    def _require_shapes(self, theta: Vector, delta: Vector, state: ServerState) -> None:
        whole, part = (self.task.dimension,), (self._trained,)
        fits = theta.shape == delta.shape == whole and theta.dtype == delta.dtype == np.float32
        kept = {name: (value.shape, value.dtype) for name, value in state.items()}
        if not fits or kept != dict.fromkeys(self.rule.keeps, (part, np.dtype(np.float32))):
            raise UpdateError(
                f"a step of {self.task.algorithm.name} from a model {theta.shape} with a mean of "
                f"{delta.shape} and the state {', '.join(sorted(state)) or 'of nothing'}",
                why=f"the task has {whole[0]} numbers in float32, and its algorithm keeps "
                f"{', '.join(self.rule.keeps) or 'nothing'}",
                fix="pass the model and the state that came of the last round, or start()",
            )


def algorithm_of(task: Task) -> Algorithm:
    """The algorithm that a resolved task names, for its server."""
    return Algorithm(task)


def rule_of(task: Task) -> Rule:
    """The rule of the algorithm that a task names; a client trains with what its `local` makes."""
    return RULES[task.algorithm.name](**dict(task.algorithm.options))


def _require_kind(task: Task, mean: Mean | PrivateMean) -> None:
    """Raises: PlanError unless the mean was released as the task promises."""
    private = type(mean) is PrivateMean
    if task.privacy is not None and not private:
        raise PlanError(
            f"a {type(mean).__name__} is to move the model of a task with privacy",
            why="only what a mechanism has released, and a ledger was charged for, may leave a "
            "round",
            fix="pass what the release method of the plan's mechanism returned",
        )
    if task.privacy is None and private:
        raise PlanError(
            "a private mean is to move the model of a task without privacy",
            why="it was released under the plan of another task",
            fix="pass what UpdateLayout.mean returned",
        )
