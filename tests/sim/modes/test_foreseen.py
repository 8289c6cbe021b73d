"""What a run would refuse before its first round is refused before there is a run."""

from __future__ import annotations

import re

import pytest

from fedcore.errors import TaskError
from fedsim import simulate
from fedsim.devices import Stage
from fedsim.modes.foreseen import require_possible
from fedsim.scenario import Scenario
from fedsim.world import World
from tests.sim.scenarios import scenario_of
from tests.variants import mostly_slow

BUFFERED = '[clock]\nschedule = "buffered"\nconcurrency = {concurrency}\nbuffer = 2\n'


def buffered(concurrency: int) -> Scenario:
    return scenario_of(
        mode="plain",
        rounds=1,
        algorithm='name = "fedbuff"',
        more=BUFFERED.format(concurrency=concurrency),
    )


def robust(rule: str, value: int) -> Scenario:
    more = f"study = {{ robust = {{ {rule.format(value)} }} }}"
    return scenario_of(mode="plain", rounds=1, goal=9, minimum=7, more=more)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (buffered, 50),
        (lambda value: robust('name = "krum", f = {}', value), 4),
        pytest.param(
            lambda value: robust('name = "multi_krum", m = {}', value), 40, marks=pytest.mark.slow
        ),
        pytest.param(
            lambda value: robust('name = "bulyan", f = {}', value), 3, marks=pytest.mark.slow
        ),
        (lambda value: robust('name = "median", groups = {}', value), 20),
    ],
    ids=["concurrency", "krum", "multi_krum", "bulyan", "groups"],
)
def test_it_is_foreseen_and_runs_by_the_number_that_is_said_to_do(make: object, value: int) -> None:
    assert callable(make)
    scenario = make(value)
    with pytest.raises(TaskError) as caught:
        require_possible(scenario, World.of(scenario))
    found = re.search(r"to (\d+)", caught.value.fix)
    assert found is not None and int(found[1]) < value
    assert len(simulate(make(int(found[1]))).rounds) == 1


def lossy(schedule: str, dropout: str) -> Scenario:
    if schedule == "classes":
        device = 'name = "phone", share = 1.0, '
        more = f"[devices]\nclasses = [{{ {device}dropout = {{ {dropout} }} }}]\n"
        return scenario_of(rounds=2, more=more)
    more = f"devices = {{ dropout = {{ {dropout} }} }}\n"
    if schedule == "buffered":
        more += BUFFERED.format(concurrency=6)
        return scenario_of(mode="plain", rounds=2, algorithm='name = "fedbuff"', more=more)
    secure = 'profile = "malicious", gamma = 0.0, delta = 0.3'
    return scenario_of(secure=secure, rounds=2, goal=12, minimum=9, more=more)


@pytest.mark.parametrize(
    ("schedule", "stages"),
    mostly_slow(
        [
            ("synchronous", ["training", "upload"]),
            ("buffered", ["upload"]),
            ("classes", ["training"]),
            *(("synchronous", [stage.value]) for stage in Stage),
            *(("buffered", [stage]) for stage in ("checked_in", "training")),
        ],
        quick=3,
    ),
)
def test_that_all_are_lost_for_certain_is_foreseen_and_the_drop_out_that_is_said_to_do_does(
    schedule: str, stages: list[str]
) -> None:
    scenario = lossy(schedule, ", ".join(f"{stage} = 1.0" for stage in stages))
    with pytest.raises(TaskError, match="none of 12 devices") as caught:
        require_possible(scenario, World.of(scenario))
    found = re.findall(r"dropout\.(\w+) = (\S+?)[ ,]", caught.value.fix)
    assert [stage for stage, _ in found] == stages
    assert all(float(share) > 0 for _, share in found)
    told = lossy(schedule, ", ".join(f"{stage} = {share}" for stage, share in found))
    assert len(simulate(told).rounds) == 2


def test_of_stages_that_there_are_not_nobody_is_lost() -> None:
    lost = "keys = 1.0, shares = 1.0, confirming = 1.0, unmasking = 1.0"
    found = simulate(lossy("buffered", lost)).rounds
    assert len(found) == 2 and not any(record.lost for record in found)


@pytest.mark.parametrize(
    "study", ['robust = { name = "median" }', 'compression = { name = "random_k" }']
)
def test_what_a_buffered_schedule_would_not_heed_is_refused(study: str) -> None:
    more = BUFFERED.format(concurrency=4) + f"[study]\n{study}"
    with pytest.raises(TaskError, match="buffered schedule"):
        scenario_of(mode="plain", algorithm='name = "fedbuff"', more=more)
