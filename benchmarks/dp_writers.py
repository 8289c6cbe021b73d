"""Writers protected whole: a model of digits that tells nobody whether a person took part."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from tempfile import TemporaryDirectory

import numpy as np

import fedcore as fc
from benchmarks.dp_tasks import (
    CLASSES,
    DELTA,
    DIMENSION,
    MNIST,
    RUNS,
    Floats,
    accuracy_figure,
    features,
    linear,
)
from benchmarks.drawings import strokes
from benchmarks.figure import Figure
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore import nn, optim
from fedcore.data import Dataset, group_by, load_mnist, load_qmnist_labels
from fedcore.privacy import (
    Adjacency,
    CentralMechanism,
    CentralNoise,
    Flat,
    IntSum,
    Ledger,
    PrivacyPlan,
    Uncontrolled,
    Unit,
    quantise,
)
from fedcore.training import evaluate

__all__ = ["WriterTerms", "dp_writers", "train_writers", "writers"]

_MOST_IMAGES = 144
"""Of one writer that count: the rest of whoever has more is left out."""

_WRITER_LABELS = MNIST / "qmnist-train-labels-idx2-int.gz"


@dataclass(frozen=True)
class WriterTerms:
    """Every writer in every round, with one clipped gradient over all of the writer's images."""

    epsilon: float = 2.0
    rounds: int = 40
    rate: float = 200.0
    clipping_norm: Fraction = Fraction(1, 50)
    average: float = 0.8

    def plan(self, writers: int) -> PrivacyPlan:
        """No amplification, and nothing to keep secret: everybody takes part in every round."""
        return PrivacyPlan(
            unit=Unit.CLIENT,
            adjacency=Adjacency.ZERO_OUT,
            population=writers,
            sampling=Uncontrolled(minimum_separation=1, maximum_participations=self.rounds),
            clipping=Flat(self.clipping_norm),
            noise=CentralNoise(),
            noise_multiplier=Fraction(1),
            denominator=writers,
            dimension=DIMENSION * CLASSES,
            rounds=self.rounds,
            epsilon=self.epsilon,
            delta=DELTA,
        ).calibrated(accountant="pld")


def writers(train: Dataset) -> list[Dataset]:
    """MNIST's training images by who wrote them: 539 people."""
    return group_by(train, load_qmnist_labels(_WRITER_LABELS).writer)


def train_writers(people: Sequence[Dataset], test: Dataset, terms: WriterTerms) -> float:
    """The share of `test` told apart by a model of a run of its own, in per cent."""
    plan, clipping = terms.plan(len(people)), Flat(terms.clipping_norm)
    theta, rebuild = fc.ravel(linear())
    optimizer = optim.SGD(lr=terms.rate)
    moments, mean = optimizer.init(theta), theta
    mechanism = CentralMechanism(plan)
    gradient = _gradient(rebuild)
    padded = _padded(people)
    names = [f"writer {index}".encode() for index in range(len(people))]
    with (
        TemporaryDirectory() as folder,
        Ledger.create(folder, plan, accountant="pld", participation_key=os.urandom(32)) as ledger,
    ):
        for index in range(plan.rounds):
            reservation = ledger.reserve(index)
            reservation.participate(names)
            updates = (
                quantise(gradient(theta, *person).numpy(), clipping=clipping, grid_steps=plan.grid)
                for person in padded
            )
            total = IntSum.of(updates, dimension=plan.dimension, grid_steps=plan.grid)
            noisy = fc.tensor(mechanism.release(total, reservation).vector)
            theta, moments = optimizer.step(theta, noisy, moments)
            decay = min(terms.average, (1 + index) / (10 + index))
            mean = mean * decay + theta * (1 - decay)
        assert ledger.epsilon() <= terms.epsilon
    return 100 * evaluate(rebuild(mean), test)["accuracy"]


@benchmark("dp-writers", "How well are digits read if each of 539 writers is protected whole?")
def dp_writers(_peers: Peers) -> Iterator[Figure]:
    """MNIST by its real writers at (2, 1e-5), without any assumption on sampling."""
    if not _WRITER_LABELS.exists():
        print(f"benchmarks: dp-writers: no data in {MNIST}", file=sys.stderr)
        return
    of = features(strokes)
    people, test = writers(of(load_mnist(MNIST))), of(load_mnist(MNIST, split="test"))
    runs = [train_writers(people, test, WriterTerms()) for _ in range(RUNS)]
    yield accuracy_figure("dp-writers", runs, 94.0)


def _gradient(rebuild: Callable[[fc.Tensor], nn.Module]) -> Callable[..., fc.Tensor]:
    def loss(theta: fc.Tensor, x: Floats, y: Floats, weight: Floats) -> fc.Tensor:
        prediction = rebuild(theta)(fc.tensor(x))
        return nn.cross_entropy(prediction, fc.tensor(y), weight=fc.tensor(weight))

    return fc.compile(fc.grad(loss))


def _padded(people: Sequence[Dataset]) -> list[tuple[Floats, np.ndarray, Floats]]:
    """Images, digits and weights of each, as many rows for all: one program computes them.

    How many is public: taken from the data, it would let one writer round all others' sums anew.
    """
    found = []
    for person in (whole[:_MOST_IMAGES] for whole in people):
        missing = _MOST_IMAGES - len(person)
        weight = (np.arange(_MOST_IMAGES) < len(person)).astype(np.float32)
        x, y = np.pad(person.x, ((0, missing), (0, 0))), np.pad(person.y, (0, missing))
        found.append((x, y, weight))
    return found
