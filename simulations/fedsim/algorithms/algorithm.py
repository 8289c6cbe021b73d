"""What an algorithm of a study is: who sends which numbers, and what becomes of their mean.

Everything a client sends is one vector, and the server sees nothing but the (weighted) mean of all
clients' vectors. So whatever is written this way works under secure aggregation as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Algorithm", "Local", "Sent", "State", "Trained", "Turnout", "Vector"]

Vector: TypeAlias = NDArray[np.float32]
State: TypeAlias = Mapping[str, Vector]
"""Vectors by name, that a server or a client keeps from round to round; nobody writes into them."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Where training led: `theta` (D,) after `steps` steps, and the sum of losses over examples."""

    theta: Vector
    steps: int
    loss: float


class Local(Protocol):
    """One client in one round, as its algorithm sees it.

    `theta` (D,): the model as sent. `sent`: what was sent beside it. `state`: what this client
    kept from the last round in which it took part; empty at its first. `examples`: its rows.
    `lr`: its learning rate in this round.
    """

    @property
    def theta(self) -> Vector: ...
    @property
    def sent(self) -> State: ...
    @property
    def state(self) -> State: ...
    @property
    def examples(self) -> int: ...
    @property
    def lr(self) -> float: ...

    def train(
        self,
        start: Vector,
        *,
        correction: Vector | None = None,
        anchor: Vector | None = None,
        pull: float = 0.0,
        frozen: NDArray[np.bool_] | None = None,
        purpose: str = "",
    ) -> Trained:
        """Trains from `start` for the task's epochs or steps, on the client's own batches.

        Every gradient has `correction` (D,) added, and `pull`·(θ - `anchor`). Parameters that are
        `frozen` stay as they are. `purpose`: a second training in a round draws streams of its own.
        """
        ...

    def loss(self, theta: Vector) -> float:
        """The mean loss of a model over the client's rows."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What a client gives: `vector` (M,) enters the mean; `state` stays with the client.

    `loss`: the sum over `examples` examples that is reported.
    """

    vector: Vector
    loss: float
    state: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turnout:
    """A round beside its mean: its number from 0, how many clients reported, of how many."""

    round: int
    reports: int
    population: int


class Algorithm(Protocol):
    """An algorithm, as four functions of flat vectors.

    `weighted`: clients count by their examples in the mean; else all count alike. `stateful`:
    clients keep state, so that who comes again has to be known. `needs_sgd`: its formulas take a
    client's change for lr times the sum of its gradients, so that they hold under SGD without
    momentum alone. `scalars`: so many of the M numbers, the last, belong to no parameter, and
    nothing may be left out of them. `trainings`: how often a client trains in a round, and
    `measures`: whether it measures a model on its rows as well, which takes its device time.
    """

    @property
    def weighted(self) -> bool: ...
    @property
    def stateful(self) -> bool: ...
    @property
    def needs_sgd(self) -> bool: ...
    @property
    def scalars(self) -> int: ...
    @property
    def trainings(self) -> int: ...
    @property
    def measures(self) -> bool: ...

    def length(self, dimension: int) -> int:
        """M, how many numbers a client sends of a model of D numbers."""
        ...

    def start(self, dimension: int) -> State:
        """What the server keeps before the first round."""
        ...

    def sent(self, theta: Vector, state: State) -> State:
        """What clients are sent beside the model."""
        ...

    def client(self, local: Local) -> Sent:
        """A client's work in a round."""
        ...

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        """The next model (D,) and the server's state, from the mean (M,) of what clients sent."""
        ...

    def personal(self, theta: Vector, state: State) -> Vector:
        """The model (D,) that a client with this state uses itself, given the global one."""
        ...
