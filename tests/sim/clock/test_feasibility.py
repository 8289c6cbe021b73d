"""What can never be is refused before the first round, and nothing else; what is said would do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import TaskError
from fedcore.rounds import Phase
from fedsim.clock import ClockState, SynchronousClock, Terms, Work, require_reports
from fedsim.devices import Stage
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
from fedsim.scenario import Scenario
from tests.random_examples import thorough
from tests.sim.clock.hands import Device, Hands, terms, work
from tests.sim.clock.test_rounds_hold import Case, held, some_rounds
from tests.sim.scenarios import scenario_of


def refusal(rules: Terms, devices: list[Device], what: Work, *, needed: int) -> TaskError | None:
    try:
        require_reports(rules, Hands(devices), what, needed=needed)
    except TaskError as error:
        return error
    return None


@given(some_rounds())
@settings(max_examples=thorough(60))
def test_what_is_refused_never_comes_to_an_end(case: Case) -> None:
    rules, devices, what, _, _ = case
    if refusal(rules, devices, what, needed=rules.policy.minimum):
        found = held(case)
        assert isinstance(found, str) or not found.completed


RULES = terms(goal=3, minimum=2, compute_s=50, seconds={Phase.COLLECTING: 80})
TIMES = st.sampled_from([1.0, 2.0, 20.0, 40.0])


@given(st.lists(st.tuples(TIMES, TIMES), min_size=3, max_size=5))
def test_of_devices_that_nothing_befalls_exactly_those_are_refused_that_do_not_make_it(
    speeds: list[tuple[float, float]],
) -> None:
    """Each has 1,000 examples and sends 500 bytes; all are selected."""
    rules = terms(
        goal=len(speeds),
        minimum=2,
        compute_s=50,
        seconds={Phase.COLLECTING: 80, Phase.SELECTING: 10},
    )
    devices = [Device(compute=compute, upload=upload) for compute, upload in speeds]
    what = work(*[1000] * len(devices))
    clock = SynchronousClock(rules, Hands(devices))
    completed = clock.round(0, ClockState(), what).completed
    assert completed == (refusal(rules, devices, what, needed=2) is None)


@pytest.mark.parametrize(
    ("slow", "why", "fix"),
    [
        (
            Device(compute=10),
            "has trained after 100 s, and reported after 100 s: 50 s and 80 s are given",
            "set deadlines.compute_s = 100 and upload_s = 30",
        ),
        (
            Device(upload=5),
            "has trained after 10 s, and reported after 100 s: 50 s and 80 s are given",
            "set deadlines.compute_s = 50 and upload_s = 50",
        ),
        (
            Device(compute=40, there=((0, 20), (90, 110))),
            "25 s are needed, and who is there stays 20 s",
            "let them be there for more than 25 s",
        ),
        (Device(compute=1e-6), "has trained after 1e+09 s", "simulate faster devices"),
    ],
)
def test_it_is_said_what_the_devices_need_and_what_would_do(
    slow: Device, why: str, fix: str
) -> None:
    one = Device(compute=100)
    error = refusal(RULES, [slow, one, slow], work(*[1000] * 3), needed=2)
    assert error is not None and error.what.startswith("1 of 3 devices can ever report in time")
    assert why in error.why and error.fix.startswith(fix)
    assert refusal(RULES, [slow, one, one], work(*[1000] * 3), needed=2) is None


def test_under_secure_aggregation_a_device_trains_while_keys_and_shares_are_exchanged() -> None:
    lasts = {Phase.COLLECTING: 80, Phase.KEYS: 20, Phase.SHARES: 30}
    what = work(1000, 1000)
    secure = terms(goal=2, compute_s=50, seconds=lasts, secure=True)
    assert refusal(secure, [Device(compute=10)] * 2, what, needed=2) is None
    assert refusal(secure, [Device(compute=9)] * 2, what, needed=2) is not None


OPEN = {Stage.CHECKED_IN, Stage.TRAINING, Stage.UPLOAD}
SECURE = OPEN | {Stage.KEYS, Stage.SHARES, Stage.UNMASKING}


@pytest.mark.parametrize("stage", Stage)
def test_who_is_lost_for_certain_at_a_stage_that_there_is_does_not_count(stage: Stage) -> None:
    lossy, most = Device(dropout={stage: 1.0}), Device(dropout={stage: 0.99})
    what = work(*[1000] * 3)
    for rules, stages in (
        (terms(goal=2), OPEN),
        (terms(goal=2, secure=True), SECURE),
        (terms(goal=2, secure=True, confirming=True), set(Stage)),
    ):
        error = refusal(rules, [lossy] * 3, what, needed=2)
        assert (error is not None) == (stage in stages)
        assert error is None or f"dropout.{stage.value} = 0" in error.fix
        assert refusal(rules, [most] * 3, what, needed=2) is None
        # All report where some are lost only when they are to open the sum: one of them is enough.
        later = stage in (Stage.CONFIRMING, Stage.UNMASKING)
        enough = [lossy, lossy, Device()] if later else [lossy, Device(), Device()]
        assert refusal(rules, enough, what, needed=2) is None


def test_a_device_that_is_not_lost_but_slow_makes_up_for_no_fast_one_that_is() -> None:
    lossy, slow = Device(dropout={Stage.UPLOAD: 1.0}), Device(compute=10)
    error = refusal(RULES, [lossy, slow], work(1000, 1000), needed=2)
    assert error is not None and error.what.startswith("none of 2 devices")
    assert "compute_s = 100" in error.fix and "dropout.upload" in error.fix


def test_a_few_in_a_large_population_are_enough() -> None:
    devices = [Device(compute=1)] * 1500 + [Device(compute=1000)] * 2
    what = work(*[1000] * len(devices))
    assert refusal(RULES, devices, what, needed=2) is None
    assert refusal(RULES, devices, what, needed=3) is not None


SLOW = """
[devices]
compute = { kind = "uniform", least = 0.002, most = 0.004 }
upload = { kind = "fixed", value = 1.0 }
"""
SHORT = """
[devices]
compute = { kind = "fixed", value = 5.0 }
availability = { kind = "cycle", period_s = 1000, share = 0.002 }
"""


def run(scenario: Scenario, root: Path) -> int:
    with RunFolder.create(root, plan_of(scenario)) as folder:
        return simulate_in_folder(scenario, folder).totals.rounds


@pytest.mark.parametrize("schedule", ["synchronous", "buffered"])
def test_a_scenario_of_devices_that_are_too_slow_runs_with_the_deadlines_that_it_is_told(
    tmp_path: Path, schedule: str
) -> None:
    options = {"mode": "plain", "rounds": 1, "goal": 12, "minimum": 8}
    clock = ""
    if schedule == "buffered":
        options |= {"algorithm": 'name = "fedbuff"'}
        clock = 'clock = { schedule = "buffered", concurrency = 6, buffer = 2 }\n'
    with pytest.raises(TaskError, match="can ever report in time") as caught:
        run(scenario_of(more=clock + SLOW, **options), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("checkpoint*"))
    found = re.search(r"compute_s = (\S+) and upload_s = (\S+),", caught.value.fix)
    assert found is not None
    told = f"deadlines = {{ compute_s = {found[1]}, upload_s = {found[2]} }}\n"
    assert run(scenario_of(more=told + clock + SLOW, **options), tmp_path) == 1  # type: ignore[arg-type]


def test_a_scenario_of_devices_that_leave_too_soon_runs_with_the_share_that_it_is_told(
    tmp_path: Path,
) -> None:
    options = {"rounds": 1, "goal": 2, "minimum": 1, "partition": 'name = "iid"'}
    with pytest.raises(TaskError, match="none of 12 devices") as caught:
        run(scenario_of(more=SHORT, **options), tmp_path)  # type: ignore[arg-type]
    found = re.search(r"availability.share = (\S+),", caught.value.fix)
    assert found is not None
    longer = SHORT.replace("0.002", found[1])
    run(scenario_of(more=longer, **options), tmp_path)  # type: ignore[arg-type]
