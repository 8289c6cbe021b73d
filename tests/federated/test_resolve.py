"""Resolving finds the sizes of a model and the least noise that keeps a promise."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import PlanError, TaskError
from fedcore.federated.privacy_terms import plan_of, require_plan
from fedcore.federated.task import Task
from fedcore.federated.task_json import read_document
from fedcore.privacy import (
    Adaptive,
    Adjacency,
    CentralNoise,
    CompactShares,
    Flat,
    NoiseShares,
    PerLayer,
    Poisson,
    Uncontrolled,
    Unit,
)
from fedcore.privacy.accounting import account
from fedcore.secagg import new_accumulator

EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"

DOCUMENT: dict[str, Any] = {
    "task": {"name": "small", "seed": 1},
    "model": {"layers": [{"kind": "linear", "inputs": 6, "outputs": 4}]},
    "data": {"dataset": "small"},
    "training": {
        "loss": "cross_entropy",
        "epochs": 1,
        "batch_size": 4,
        "optimizer": {"name": "sgd", "lr": 0.1},
    },
    "algorithm": {"name": "fedavg"},
    "rounds": {"count": 30},
    "cohort": {"goal": 50, "minimum": 45},
}
PROMISE: dict[str, Any] = {
    "unit": "client",
    "epsilon": 8.0,
    "delta": 1e-5,
    "population": 1000,
    "clipping_norm": 0.5,
}
OF_RECORDS: dict[str, Any] = {
    "privacy": PROMISE | {"unit": "record", "sampling_rate": 0.1},
    "training": {"loss": "cross_entropy"},
    "algorithm": {"name": "fedsgd", "lr": 1.0},
}
OFF = {"profile": "off"}


def resolve(**tables: Any) -> Task:
    return Task(**read_document(DOCUMENT | tables)).resolved()


def spent(task: Task) -> float:
    plan = task.plan
    assert plan is not None
    return account(
        plan.spend(plan.reservations),
        adjacency=plan.adjacency,
        delta=plan.failure,
        accountant="rdp",
    ).value


CASES: dict[str, dict[str, Any]] = {
    "clients, shares": {"privacy": PROMISE},
    "clients, compact": {"privacy": PROMISE | {"noise": "compact"}},
    "clients, central": {"privacy": PROMISE | {"noise": "central"}},
    "clients, central in the open": {
        "privacy": PROMISE | {"noise": "central"},
        "secure_aggregation": OFF,
    },
    "clients, weighted": {"privacy": PROMISE | {"largest_weight": 100}},
    "clients, adaptive": {"privacy": PROMISE | {"clipping": "adaptive", "quantile": 0.7}},
    "clients, by layer": {"privacy": PROMISE | {"clipping": "per_layer"}},
    "clients, few visits": {
        "privacy": PROMISE | {"maximum_participations": 3, "minimum_separation": 5}
    },
    "clients, drawn": {
        "privacy": PROMISE | {"noise": "central", "sampling_rate": 0.1},
        "cohort": {"goal": 190, "minimum": 20},
        "secure_aggregation": OFF,
    },
    "records, shares": OF_RECORDS,
    "records, central": OF_RECORDS
    | {"privacy": OF_RECORDS["privacy"] | {"noise": "central"}, "secure_aggregation": OFF},
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_keeps_the_promise_with_little_to_spare(name: str) -> None:
    task = resolve(**CASES[name])
    assert task.plan is not None
    assert 0.95 * 8 <= spent(task) <= 8
    require_plan(task, task.plan)
    assert Task.from_canonical(task.canonical) == task


@pytest.mark.parametrize("name", CASES)
def test_a_plan_with_less_noise_than_promised_is_refused(name: str) -> None:
    task = resolve(**CASES[name])
    assert task.plan is not None
    less = plan_of(task, task.plan.noise_multiplier * Fraction(3, 4))
    with pytest.raises(TaskError, match="cost epsilon"):
        require_plan(task, less)


def test_terms_of_a_plan_follow_from_the_task() -> None:
    task = resolve(privacy=PROMISE | {"noise": "shares", "largest_weight": 20})
    plan = task.plan
    assert plan is not None
    assert (plan.unit, plan.adjacency) == (Unit.CLIENT, Adjacency.ZERO_OUT)
    assert plan.sampling == Uncontrolled(minimum_separation=1, maximum_participations=30)
    assert plan.clipping == Flat(Fraction(1, 2))
    assert (plan.denominator, plan.dimension, plan.rounds) == (50, 28, 30)
    assert plan.largest_weight == 20
    # The smallest round that may begin has 45 clients, of which 4 may be lost; of the largest 5 may
    # collude. Whoever opens a sum sees the noise of at least this many.
    assert plan.noise == NoiseShares(clients=50, survivors=41, corrupt=5)


def test_records_are_drawn_by_coins_and_counted_in_the_mean() -> None:
    plan = resolve(**OF_RECORDS).plan
    assert plan is not None
    assert (plan.unit, plan.adjacency) == (Unit.RECORD, Adjacency.ADD_REMOVE)
    assert isinstance(plan.sampling, Poisson)
    assert plan.denominator == 100
    assert isinstance(plan.noise, NoiseShares)
    assert plan.noise.limit == 2**24  # 50 of them fill at most half of the slot's range


def test_adaptive_clipping_counts_in_one_more_coordinate() -> None:
    task = resolve(**CASES["clients, adaptive"])
    assert task.plan is not None
    assert isinstance(task.plan.clipping, Adaptive)
    assert task.plan.clipping.target_quantile == Fraction(7, 10)
    assert (task.dimension, task.plan.dimension) == (28, 29)
    assert task.layout.blocks[0].length == 29


def test_layers_share_the_square_of_the_norm() -> None:
    plan = resolve(**CASES["clients, by layer"]).plan
    assert plan is not None
    assert isinstance(plan.clipping, PerLayer)
    assert plan.clipping.sizes == (24, 4)
    assert float(plan.clipping_norm) == pytest.approx(0.5, rel=1e-6)
    assert plan.clipping.norms[0] <= Fraction(1, 2) / Fraction(math.sqrt(2))


@pytest.mark.parametrize("name", CASES)
def test_the_layout_holds_the_sum_of_the_largest_cohort(name: str) -> None:
    task = resolve(**CASES[name])
    plan, [block] = task.plan, task.layout.blocks
    assert plan is not None
    task.layout.check_budget(task.cohort.select)
    if isinstance(plan.noise, CompactShares):
        assert (block.length, block.slot_bits) == (plan.wire_dimension, plan.noise.slot_bits)
    else:
        assert block.length == plan.dimension
    if isinstance(plan.noise, CentralNoise):
        most = plan.contribution_norm
        clients = plan.population if plan.unit is Unit.RECORD else task.cohort.select
        assert clients * most < 2 ** (block.slot_bits - 1)
        assert block.wraps is (plan.unit is Unit.RECORD)
    else:
        assert block.wraps
    assert new_accumulator(task.layout).size == task.layout.words


def test_what_is_resolved_keeps_its_plan() -> None:
    task = resolve(privacy=PROMISE)
    assert task.resolved().plan is task.plan


def test_a_promise_that_needs_more_room_than_there_is_is_refused() -> None:
    with pytest.raises(PlanError):
        resolve(privacy=PROMISE | {"epsilon": 1e-4, "slot_bits": 16})


def test_a_promise_to_more_than_its_delta_allows_is_refused() -> None:
    with pytest.raises(PlanError, match="delta"):
        resolve(privacy=PROMISE | {"delta": 0.01})


def test_statistics_of_batches_are_refused_under_privacy_also_in_installed_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedcore.federated.task.sizes_of", lambda spec, seed: ((4, 2), 2))
    with pytest.raises(TaskError, match="statistics of batches"):
        resolve(model={"name": "normed"}, privacy=PROMISE)


@pytest.mark.parametrize("name", ["digits", "digits-plain", "har"])
def test_the_examples_resolve(name: str) -> None:
    task = Task.from_toml(EXAMPLES / f"{name}.toml").resolved()
    assert task.name == name
    assert task.dimension == {"digits": 4810, "digits-plain": 4810, "har": 2821}[name]
    config = task.session_config()
    for clients in range(task.cohort.minimum, task.cohort.select + 1):
        terms = config.parameters(clients)
        noise = None if task.plan is None else task.plan.noise
        if isinstance(noise, NoiseShares):
            assert terms.minimum_survivors >= noise.survivors
            assert terms.corrupt <= noise.corrupt
