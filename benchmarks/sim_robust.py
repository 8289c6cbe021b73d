"""Seven of 36 people who are wrong, and what is left of the model under each robust rule.

Wrong people say of each movement that it is another one; loud ones have features 30 times as large
besides, so that their updates drown the others'. Only the others are measured.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.science.people import DATA, SCENARIO, served
from benchmarks.science.scenarios import changed, models_after
from fedcore.data import Dataset
from fedsim.population import Population
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["ATTACKS", "RULES", "WRONG", "attacked", "sim_robust", "table_of"]

WRONG: Final = tuple(range(2, 36, 5))
"""Places of the people who are wrong."""

RULES: Final[Mapping[str, tuple[dict[str, Any] | None, str]]] = {
    "mean": (None, "McMahan et al. 2017"),
    "median": ({"name": "median"}, "Yin et al. 2018"),
    "trimmed_mean": ({"name": "trimmed_mean", "beta": 0.2}, "Yin et al. 2018"),
    "geometric_median": ({"name": "geometric_median"}, "Pillutla et al. 2022"),
    "krum": ({"name": "krum", "f": len(WRONG)}, "Blanchard et al. 2017"),
    "multi_krum": ({"name": "multi_krum", "f": len(WRONG)}, "Blanchard et al. 2017"),
    "bulyan": ({"name": "bulyan", "f": len(WRONG)}, "El Mhamdi et al. 2018"),
}
"""Options and source of each rule by its name."""

ATTACKS: Final[Mapping[str, float | None]] = {"none": None, "mislabelled": 1.0, "loud": 30.0}
"""By how much wrong people's features are stretched, None if nobody is wrong."""

_SEEDS: Final = (1, 2, 3)


@benchmark("sim-robust", "What is left of a model if 7 of 36 people are wrong, by robust rule?")
def sim_robust(_peers: Peers) -> Iterator[Figure]:
    """WISDM after 80 rounds of all people; the figures are those of the loudest attack."""
    if not DATA.exists():
        print(f"benchmarks: sim-robust: no data in {DATA}", file=sys.stderr)
        return
    found = {
        (rule, attack): [_accuracy(rule, attack, seed) for seed in _SEEDS]
        for rule in RULES
        for attack in ATTACKS
    }
    print(table_of(found), file=sys.stderr)
    unharmed = statistics.mean(found["mean", "none"])
    for rule in RULES:
        mean = statistics.mean(found[rule, "loud"])
        bound = None if rule in ("mean", "krum") else Target("ratio", ">=", 0.9)
        yield Figure(
            f"sim-robust.{rule}",
            mean,
            "%",
            ratio=mean / unharmed,
            against="the mean unharmed",
            target=bound,
        )


def table_of(found: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """In Markdown: of each rule and attack the mean over seeds, in per cent."""
    lines = [
        f"| rule | {' | '.join(ATTACKS)} | source |",
        "| --- |" + " --- |" * (len(ATTACKS) + 1),
    ]
    for rule, (_, source) in RULES.items():
        cells = [f"{statistics.mean(found[rule, attack]):.1f}" for attack in ATTACKS]
        lines.append(f"| {rule} | {' | '.join(cells)} | {source} |")
    return "\n".join(lines)


def attacked(world: World, stretch: float) -> World:
    """The same people, some of whom are wrong."""
    people, classes = world.population, world.source.classes
    assert classes is not None
    x, y = people.data.x.copy(), people.data.y.copy()
    rows = np.concatenate([people.partition[place] for place in WRONG])
    y[rows] = (y[rows] + 1) % classes
    x[rows] *= np.float32(stretch)
    return replace(world, population=Population(Dataset(x, y), people.partition))


def _accuracy(rule: str, attack: str, seed: int) -> float:
    scenario, stretch = _scenario(rule, seed), ATTACKS[attack]
    world = World.of(scenario)
    if stretch is not None:
        world = attacked(world, stretch)
    models = models_after(scenario, world)
    wrong = {world.population.names[place] for place in WRONG}
    honest = {name: theta for name, theta in models.items() if name not in wrong}
    return served(scenario, world, honest).all


def _scenario(rule: str, seed: int) -> Scenario:
    changes: dict[str, Any] = {
        "cohort.goal": 36,
        "cohort.minimum": 36,
        "rounds.count": 80,
        "task.seed": seed,
        "population.source.seed": seed,
    }
    options, _ = RULES[rule]
    return changed(SCENARIO, changes if options is None else {**changes, "study.robust": options})
