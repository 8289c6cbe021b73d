"""Four hospitals, each with what it gains over training alone: by one model for all, or by its own.

Rate and rounds are those at which training alone was best in the mean of ten splits, of rates 0.02,
0.05 and 0.1 and of 15, 30 and 60 rounds (82.6 to 83.4 %): who stands alone is not held
back. The algorithms have the options that are their defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.dp_tasks import MNIST
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.science.scenarios import HERE, changed, models_after
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["ALONE", "HOSPITALS", "figures_of", "sim_personalisation", "table_of"]

ALONE: Final = "alone"
HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")

_ALGORITHMS: Final = {
    "fedavg": {"name": "fedavg"},
    "fedper": {"name": "fedper", "layers": 1},
    "ditto": {"name": "ditto", "lam": 0.1},
}
_SPLITS: Final = 20
"""Ways to hold 30 % of each hospital's patients out; each starts another model, too."""
_DATA: Final = MNIST.with_name("heart_disease")

Floats = NDArray[np.float64]
Models = Mapping[str, NDArray[np.float32]]


@benchmark("sim-personalisation", "What does each of four hospitals gain over training alone?")
def sim_personalisation(_peers: Peers) -> Iterator[Figure]:
    """Heart disease: points of accuracy on held-out patients beyond those of each one alone."""
    if not _DATA.exists():
        print(f"benchmarks: sim-personalisation: no data in {_DATA}", file=sys.stderr)
        return
    splits = [_split(seed) for seed in range(_SPLITS)]
    found = {name: np.array([split[name] for split in splits]) for name in (ALONE, *_ALGORITHMS)}
    print(table_of(found), file=sys.stderr)
    yield from figures_of(found)


def table_of(found: Mapping[str, Floats]) -> str:
    """In Markdown, of accuracies (splits, hospitals): means, gains and their standard errors."""
    lines = [f"| % | {' | '.join(HOSPITALS)} |", "| --- |" + " --- |" * len(HOSPITALS)]
    for name, shares in found.items():
        means, (gains, errors) = 100 * shares.mean(axis=0), _gains(shares, found)
        cells = [f"{mean:.1f}" for mean in means]
        if name != ALONE:
            beyond = zip(cells, gains, errors, strict=True)
            cells = [f"{mean} ({gain:+.1f} ± {error:.1f})" for mean, gain, error in beyond]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures_of(found: Mapping[str, Floats]) -> Iterator[Figure]:
    """Of each algorithm what the hospital gains that it serves worst: the least of the means."""
    for name in _ALGORITHMS:
        gains, _ = _gains(found[name], found)
        # A model of one's own may cost nobody more than a point, twice the error of a mean.
        bound = None if name == "fedavg" else Target("value", ">=", -1.0)
        unit = f"points over alone, {HOSPITALS[gains.argmin()]}"
        yield Figure(f"sim-personalisation.{name}", float(gains.min()), unit, target=bound)


def _gains(shares: Floats, found: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """The mean over splits of what each hospital gains, in points, and its standard error."""
    gains = 100 * (shares - found[ALONE])
    return gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(len(gains))


def _split(seed: int) -> dict[str, list[float]]:
    """By algorithm, what each hospital reaches on the patients held out by this seed."""
    found = {}
    for name, algorithm in _ALGORITHMS.items():
        changes = {
            "algorithm": algorithm,
            "population.source.seed": seed,
            "task.seed": seed + 1,
        }
        scenario = changed(HERE / "heart-disease.toml", changes)
        world = World.of(scenario)
        found[name] = _accuracies(scenario, world, models_after(scenario, world))
    alone = {
        one.name: train_in_process(scenario.task, {one.name: one.dataset})[-1]
        for one in world.population
    }
    return {ALONE: _accuracies(scenario, world, alone), **found}


def _accuracies(scenario: Scenario, world: World, models: Models) -> list[float]:
    test, whose = world.source.test, world.source.test_ids
    assert test is not None and whose is not None
    model = FlatModel(scenario.task).model
    return [
        evaluate(model(models[name]), test[whose == name], metrics=[accuracy])["accuracy"]
        for name in HOSPITALS
    ]
