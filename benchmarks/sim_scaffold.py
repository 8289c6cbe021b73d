"""SCAFFOLD and federated averaging on clients that have one digit each: rounds to a target.

Rates were searched for each algorithm and setting with seed 1, among 0.03, 0.1 and 0.3: rounds to
88 % of SCAFFOLD, then of federated averaging,

| | 0.03 | 0.1 | 0.3 |
| --- | --- | --- | --- |
| 20 of 100 clients | 37, – | 30, 89 | 26, 70 |
| all of 10 clients | | 14, – | 14, – |

where – means not in 100 rounds, of all clients not in 60. What is reported takes 0.3 for both.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.dp_tasks import MNIST
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.science.curves import curve_of, rounds_to
from benchmarks.science.scenarios import HERE, changed, records_until
from fedsim.world import World

__all__ = ["SETTINGS", "Setting", "figure_of", "sim_scaffold", "table_of"]

TARGET = 0.88
SEEDS = (1, 2, 3, 4, 5)
"""Each deals the shards, starts the model, selects clients and orders their images anew."""


Rounds = tuple[Sequence[float], Sequence[float]]
"""By seed, of SCAFFOLD and of federated averaging."""


@dataclass(frozen=True)
class Setting:
    """Who takes part, and for how many rounds at most. `name`: of its figure."""

    name: str
    words: str
    settings: Mapping[str, Any]
    rounds: int


SETTINGS = (
    Setting("sim-scaffold", "20 of 100 clients, 5 epochs", {}, 150),
    Setting(
        "sim-scaffold.all",
        "all of 10 clients, 1 epoch",
        {
            "population.clients": 10,
            "cohort.goal": 10,
            "cohort.minimum": 10,
            "training.epochs": 1,
        },
        100,
    ),
)


@benchmark("sim-scaffold", "In how many rounds does SCAFFOLD learn from clients of one digit each?")
def sim_scaffold(_peers: Peers) -> Iterator[Figure]:
    """MNIST to 88 % by a linear model: 20 of 100 clients a round, and all of 10."""
    if not MNIST.exists():
        print(f"benchmarks: sim-scaffold: no data in {MNIST}", file=sys.stderr)
        return
    found: dict[str, Rounds] = {}
    for setting in SETTINGS:
        scaffold = [_rounds(setting, "scaffold", seed) for seed in SEEDS]
        averaging = [_rounds(setting, "fedavg", seed) for seed in SEEDS]
        found[setting.name] = scaffold, averaging
        yield figure_of(setting.name, found[setting.name])
    print(table_of(found), file=sys.stderr)


def table_of(found: Mapping[str, Rounds]) -> str:
    """In Markdown: of each setting the means and ranges, and the slowest over the fastest."""
    lines = [
        "| | SCAFFOLD | FedAvg | slowest over fastest |",
        "| --- | --- | --- | --- |",
    ]
    for setting in SETTINGS:
        both = found[setting.name]
        cells = [setting.words]
        for rounds in both:
            more = "over " if max(rounds) >= setting.rounds else ""
            mean, low, high = statistics.mean(rounds), min(rounds), max(rounds)
            cells.append(f"{more}{mean:.1f} ({low:.1f} to {more}{high:.1f})")
        cells.append(f"{max(both[0]) / min(both[1]):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_of(name: str, rounds: Rounds) -> Figure:
    """The mean over seeds, beside that of federated averaging."""
    scaffold, averaging = (statistics.mean(each) for each in rounds)
    return Figure(
        name,
        scaffold,
        f"rounds to {TARGET:.0%}",
        ratio=scaffold / averaging,
        against="FedAvg",
        target=Target("ratio", "<=", 0.6),
    )


def _rounds(setting: Setting, algorithm: str, seed: int) -> float:
    """To the target; at least as many as there were, where it was not reached."""
    changes = {
        **setting.settings,
        "algorithm.name": algorithm,
        "training.optimizer.lr": 0.3,
        "task.seed": seed,
        "rounds.count": setting.rounds,
    }
    scenario = changed(HERE / "scaffold.toml", changes)
    found = records_until(scenario, World.of(scenario), accuracy=TARGET)
    return rounds_to(curve_of(found), TARGET) or float(setting.rounds)
