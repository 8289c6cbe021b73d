"""A cohort's sum has the same bits whoever computes which part of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.models import initial_theta
from fedcore.federated.reference import train_in_process
from fedcore.federated.update import Mean, UpdateLayout
from fedsim.engine import Engine, Facts, Plan, Summed
from fedsim.engine.engine import Kind
from tests.sim.tasks import population_of, task_of
from tests.variants import mostly_slow

SIZES = (5, 12, 12, 3, 12, 1, 12, 33, 12, 12, 7, 8, 4, 4, 4, 21, 12, 9, 2, 2)
BATCH = 12  # of one batch or less, but for the clients of two and three: few programs are recorded
COHORT = [0, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 19, 1, 2]


@cache
def summed(way: str, kind: Kind, workers: int, lanes: int | None = None) -> Summed:
    task = task_of(goal=20, batch_size=BATCH, optimizer='name = "sgd", momentum = 0.5')
    people = population_of(SIZES)
    plan = Plan(task=task, way=way, lanes=lanes)  # type: ignore[arg-type]
    with Engine(plan, people, workers=workers, kind=kind) as engine:
        engine.sum(COHORT[:3], initial_theta(task), Facts(0))
        return engine.sum(COHORT, initial_theta(task), Facts(1))


@pytest.mark.parametrize(
    ("way", "kind", "workers", "lanes"),
    [
        ("grid", "threads", 1, 1),
        ("words", "threads", 3, 4),
        *mostly_slow([(way, "threads", 3, 4) for way in ("floats", "grid")]),
        # A start of processes takes a second; the quick one is that of a study.
        pytest.param("grid", "processes", 2, None, marks=pytest.mark.slow),
        pytest.param("floats", "processes", 4, 2, marks=pytest.mark.slow),
        pytest.param("words", "processes", 2, None, marks=pytest.mark.slow),
    ],
)
def test_sums_are_the_same_to_the_bit(way: str, kind: Kind, workers: int, lanes: int) -> None:
    alone, together = summed(way, "threads", 1), summed(way, kind, workers, lanes)
    assert alone.vector is not None and together.vector is not None
    assert alone.vector.tobytes() == together.vector.tobytes()
    assert alone.reports == together.reports
    assert [report.index for report in alone.reports] == sorted(COHORT)


def test_the_grid_gives_the_models_of_a_whole_task_in_one_process() -> None:
    task, people = task_of(goal=20, batch_size=BATCH), population_of(SIZES)
    expected = train_in_process(task, {client.name: client.dataset for client in people})
    layout, algorithm, theta = UpdateLayout.of(task), algorithm_of(task), initial_theta(task)
    with Engine(Plan(task=task, way="grid"), people, workers=2, kind="threads") as engine:
        for round, wanted in enumerate(expected):
            found = engine.sum(range(len(people)), theta, Facts(round))
            assert found.vector is not None
            weight = sum(report.weight for report in found.reports)
            factor = float(layout.step * layout.largest_weight / weight)
            mean = (found.vector * factor).astype(np.float32)
            facts = Mean(mean, weight / layout.largest_weight, len(people), {})
            theta, _ = algorithm.apply(theta, facts, {}, round=round)
            assert theta.tobytes() == wanted.tobytes()
