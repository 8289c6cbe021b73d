"""Federated averaging as its paper has it: in how many rounds, beside FedSGD and beside the paper.

The figures are those of the runs that were recorded (`science/mcmahan_runs.py` repeats them, in
hours); one cell is simulated anew, and has to take about as many rounds as it was noted with. They
are the same where versions are; another order of sums changes last bits, and so the round.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from benchmarks.dp_tasks import MNIST
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.science.curves import curve_of, rounds_to
from benchmarks.science.mcmahan import MODELS, PARTITIONS, Cell, best, read_runs, table_of
from benchmarks.science.mcmahan_runs import PLANS, scenario_of
from benchmarks.science.scenarios import records_until
from fedsim.world import World

__all__ = ["recorded_figures", "sim_mcmahan"]

# Rounds of E = 5, B = 10 over FedSGD's: the paper has 0.03, and 0.47 where clients are unlike.
_BOUNDS: Final = {"iid": 0.1, "shards": 0.8}


@benchmark("sim-mcmahan", "How many fewer rounds does FedAvg take on MNIST than FedSGD?")
def sim_mcmahan(_peers: Peers) -> Iterator[Figure]:
    """Rounds to 99 % by the paper's CNN and to 98 % by a small one."""
    runs = read_runs()
    for model, target in MODELS.items():
        said = f"rounds of the {model} CNN to {target:.0%}"
        print(f"benchmarks: sim-mcmahan: {said}\n{table_of(runs, model)}", file=sys.stderr)
        yield from recorded_figures(model)
    if not MNIST.exists():
        print(f"benchmarks: sim-mcmahan: no data in {MNIST}", file=sys.stderr)
        return
    plan = next(plan for plan in PLANS["small"] if plan.cell == Cell("iid", 5, 10))
    noted = best(runs, "small")[plan.cell]
    scenario = scenario_of("small", plan, noted.rate)
    curve = curve_of(records_until(scenario, World.of(scenario), accuracy=MODELS["small"]))
    now, then = rounds_to(curve, MODELS["small"]), noted.rounds
    assert now is not None and then is not None
    yield Figure(
        "sim-mcmahan.again",
        now,
        "rounds",
        ratio=now / then,
        against="the recorded run",
        target=Target("ratio", "<=", 1.3),
    )


def recorded_figures(model: str) -> Iterator[Figure]:
    """Of a model, five epochs of batches of ten beside FedSGD, where both reached the target."""
    found = best(read_runs(), model)
    for partition in PARTITIONS:
        ours, sgd = found.get(Cell(partition, 5, 10)), found.get(Cell(partition, 1, 600))
        if ours is None or ours.rounds is None:
            continue
        base = None if sgd is None else sgd.rounds
        yield Figure(
            f"sim-mcmahan.{model}-{partition}",
            ours.rounds,
            f"rounds to {MODELS[model]:.0%}",
            ratio=None if base is None else ours.rounds / base,
            against="FedSGD",
            target=Target("ratio", "<=", _BOUNDS[partition]),
        )
