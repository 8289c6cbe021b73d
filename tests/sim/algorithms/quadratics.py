"""Clients whose losses are quadratics, trained by NumPy: their rounds can be worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedsim.algorithms import Algorithm, State, Trained, Turnout, Vector


@dataclass(frozen=True, kw_only=True)
class Client:
    """F(θ) = 1/2 Σ a (θ - b)², `examples` times over, in `steps` full steps a round."""

    a: Any
    b: Any
    steps: int = 1
    examples: int = 1

    def loss(self, theta: Any) -> float:
        return float(0.5 * np.sum(self.a * (theta - self.b) ** 2))

    def gradient(self, theta: Any) -> Any:
        return self.a * (theta - self.b)


@dataclass
class QuadraticLocal:
    """A `Local` whose every step is one of gradient descent on the whole loss."""

    own: Client
    theta: Vector
    lr: float
    sent: State = field(default_factory=dict)
    state: State = field(default_factory=dict)
    purposes: list[str] = field(default_factory=list)

    @property
    def examples(self) -> int:
        return self.own.examples

    def train(
        self,
        start: Vector,
        *,
        correction: Vector | None = None,
        anchor: Vector | None = None,
        pull: float = 0.0,
        frozen: Any = None,
        purpose: str = "",
    ) -> Trained:
        self.purposes.append(purpose)
        theta = start.copy()
        for _ in range(self.own.steps):
            gradient = self.own.gradient(theta)
            if correction is not None:
                gradient = gradient + correction
            if anchor is not None:
                gradient = gradient + np.float32(pull) * (theta - anchor)
            moved = theta - np.float32(self.lr) * gradient
            theta = (moved if frozen is None else np.where(frozen, theta, moved)).astype(np.float32)
        return Trained(theta, self.own.steps, self.loss(theta) * self.examples)

    def loss(self, theta: Vector) -> float:
        return self.own.loss(theta)


def simulate(
    algorithm: Algorithm,
    clients: Sequence[Client],
    cohorts: Sequence[Sequence[int]],
    *,
    lr: float = 0.1,
    dimension: int | None = None,
) -> tuple[list[Vector], State, dict[int, State]]:
    """The models after each round, what the server keeps, and what each client does.

    Everything that is given to the algorithm is read-only.
    """
    theta = np.zeros(dimension or np.size(clients[0].b), np.float32)
    state: State = algorithm.start(theta.size)
    states: dict[int, State] = {}
    models = []
    for round, cohort in enumerate(cohorts):
        theta.setflags(write=False)
        sent = [
            algorithm.client(
                QuadraticLocal(
                    clients[i], theta, lr, algorithm.sent(theta, state), states.get(i, {})
                )
            )
            for i in cohort
        ]
        assert {s.vector.shape for s in sent} == {(algorithm.length(theta.size),)}
        assert {s.vector.dtype for s in sent} == {np.dtype(np.float32)}
        assert all(v.dtype == np.float32 for s in sent for v in s.state.values())
        weights = [clients[i].examples if algorithm.weighted else 1 for i in cohort]
        mean = np.average([s.vector for s in sent], axis=0, weights=weights).astype(np.float32)
        for array in (mean, *state.values(), *(v for s in sent for v in s.state.values())):
            array.setflags(write=False)
        turnout = Turnout(round, len(cohort), len(clients))
        theta, state = algorithm.apply(theta, mean, state, turnout)
        assert theta.dtype == np.float32
        assert all(value.dtype == np.float32 for value in state.values())
        states |= {i: s.state for i, s in zip(cohort, sent, strict=True)}
        models.append(theta)
    return models, state, states


def population(seed: int = 3, *, count: int = 5, dimension: int = 4) -> list[Client]:
    """Clients that differ in curvature, minimum, steps and size."""
    draw = np.random.default_rng(seed)
    return [
        Client(
            a=draw.uniform(0.5, 2.0, dimension).astype(np.float32),
            b=draw.standard_normal(dimension).astype(np.float32),
            steps=int(draw.integers(1, 6)),
            examples=int(draw.integers(1, 50)),
        )
        for _ in range(count)
    ]


COHORTS = [(0, 1, 2), (2, 4), (0, 3, 4), (1,), (0, 1, 2, 3, 4), (2, 3)]
"""Who takes part in each round: never all that could, but once."""
