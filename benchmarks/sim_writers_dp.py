"""Writers protected whole, by the whole pipeline: gradients, clipping, noise, masks and ledger.

`dp-writers` trains the same model in a loop, under noise that a server adds. Here each of 539
clients adds a share, so that no sum is seen without noise while no more than a tenth of them tell
the server theirs, and no more than a tenth are lost: for that, there is more noise than it takes
when all are honest and there. The mode `exact` makes every mask and every share; `fast` leaves out
the masks, which cancel.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.dp_tasks import MNIST, RUNS, accuracy_figure, features
from benchmarks.drawings import strokes
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.science.scenarios import HERE, changed
from fedcore.federated.flat import FlatModel
from fedcore.training import accuracy, evaluate
from fedsim import RoundRecord, Scenario, Source, World, read_run, simulate
from fedsim.run.reading import read_state

__all__ = ["SCENARIO", "Outcome", "sim_writers_dp", "trained"]

SCENARIO: Final = HERE / "writers.toml"

_AVERAGE: Final = 0.8
"""Decay of the running mean of the released models, as in `dp-writers`: it costs no privacy."""


@dataclass(frozen=True)
class Outcome:
    """`accuracy` on the test set, in per cent, of the mean of models that cost `epsilon` in all."""

    accuracy: float
    epsilon: float


@benchmark(
    "sim-writers-dp", "How well are digits read if 539 writers add noise and masks themselves?"
)
def sim_writers_dp(_peers: Peers) -> Iterator[Figure]:
    """MNIST by its writers at (2, 1e-5): once with every mask, and without masks, which cancel."""
    if not MNIST.exists():
        print(f"benchmarks: sim-writers-dp: no data in {MNIST}", file=sys.stderr)
        return
    scenario = changed(SCENARIO, {})
    world = World.of(scenario, source=_featured(scenario.population.source.load(scenario.base)))
    exact = trained(scenario, world)
    yield Figure("sim-writers-dp", exact.accuracy, "%", target=Target("value", ">=", 94.0))
    spent = Target("value", "<=", 2.0)
    yield Figure("sim-writers-dp.epsilon", exact.epsilon, "epsilon", target=spent)
    without = changed(SCENARIO, {"scenario.mode": "fast"})
    runs = [trained(without, world).accuracy for _ in range(RUNS)]
    yield accuracy_figure("sim-writers-dp.fast", runs, 94.0)


def trained(scenario: Scenario, world: World) -> Outcome:
    """Runs a scenario, and measures the running mean of its models."""
    test, epsilon = world.source.test, 0.0
    assert test is not None
    mean: NDArray[Any] | None = None

    with TemporaryDirectory() as root:
        path = Path(root) / "run"

        def follow(record: RoundRecord) -> None:
            nonlocal mean, epsilon
            state = read_state(read_run(path))
            assert state is not None and record.privacy is not None
            before = np.zeros_like(state.theta) if mean is None else mean
            decay = min(_AVERAGE, (1 + record.round) / (10 + record.round))
            mean = before * np.float32(decay) + state.theta * np.float32(1 - decay)
            epsilon = record.privacy.epsilon

        simulate(scenario, folder=path, world=world, on_round=follow)
    assert mean is not None
    model = FlatModel(scenario.task).model(mean)
    return Outcome(100 * evaluate(model, test, metrics=[accuracy])["accuracy"], epsilon)


def _featured(source: Source) -> Source:
    """The same rows, with features in place of their images."""
    of = features(strokes)
    assert source.test is not None
    return replace(source, train=of(source.train), test=of(source.test))
