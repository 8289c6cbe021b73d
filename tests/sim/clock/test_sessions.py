"""What a clock counts is what a session of secure aggregation does, and what a server learns."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import SecAggError
from fedcore.federated.spec import CohortSpec
from fedcore.rounds import CLIENT_PHASES, DropoutEstimate, Phase, overselection, seen_in
from fedcore.secagg import Profile, SessionConfig, default_layout, run_session
from fedcore.secagg.loopback import LostAt
from fedsim.clock import ClockState, CountedSession, SynchronousClock, Terms, Work
from fedsim.devices import Devices, DevicesSpec, Stage
from tests.random_examples import thorough
from tests.sim.clock.hands import Device, Hands, terms, work
from tests.sim.tasks import task_of
from tests.variants import mostly_slow


def config(n: int, profile: Profile, delta: Fraction) -> SessionConfig:
    return SessionConfig(
        task=bytes(32),
        layout=default_layout(3, n),
        profile=profile,
        gamma=Fraction(0),
        delta=delta,
        sigma=100,
        eta=30,
    )


def counted(rules: SessionConfig, n: int, lost: dict[int, LostAt]) -> bool:
    """Whether a session of these counts comes to its end."""
    session, everyone = CountedSession(rules), frozenset(range(n))

    def until(stage: LostAt) -> frozenset[int]:
        return frozenset(i for i in everyone if lost.get(i, 9) > stage)

    try:
        session.close(Phase.KEYS, everyone)
        session.close(Phase.SHARES, until(LostAt.SHARES))
        session.close(Phase.COLLECTING, until(LostAt.UPLOADING))
        if rules.profile is Profile.MALICIOUS:
            assert session.close(Phase.CONFIRMING, until(LostAt.CONFIRMATION)) == until(
                LostAt.UPLOADING
            )
        session.close(Phase.UNMASKING, until(LostAt.ANSWER))
    except SecAggError:
        return False
    return True


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("where", LostAt)
@pytest.mark.parametrize("count", mostly_slow([2, 3, 0, 1, 4, 5], quick=2))
def test_a_session_is_counted_as_it_comes_out(profile: Profile, where: LostAt, count: int) -> None:
    n = 7
    rules = config(n, profile, Fraction(2, 7))
    lost = dict.fromkeys(range(count), where)
    try:
        run_session(np.ones((n, 3), np.int64), config=rules, dropouts=lost)
        came = True
    except SecAggError:
        came = False
    assert counted(rules, n, lost) == came


def test_on_a_ring_as_many_must_answer_as_are_planned_for() -> None:
    n = 400
    rules = config(n, Profile.SEMI_HONEST, Fraction(1, 10))
    parameters = rules.parameters(n)
    assert not parameters.complete
    enough = {i: LostAt.ANSWER for i in range(parameters.dropouts)}
    assert counted(rules, n, enough)
    assert not counted(rules, n, enough | {n - 1: LostAt.ANSWER})


CHANCE = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0])


@given(
    st.sampled_from(Profile),
    st.lists(st.tuples(st.sampled_from(Stage), CHANCE), min_size=5, max_size=8),
    st.sampled_from([0.0, 0.2, 2.0]),
)
@settings(max_examples=thorough(25))
def test_the_real_session_with_the_same_losses_has_the_same_survivors(
    profile: Profile, chances: list[tuple[Stage, float]], slow: float
) -> None:
    devices = [
        Device(compute=1, upload=50, latency_s=slow * i, dropout={stage: chance})
        for i, (stage, chance) in enumerate(chances)
    ]
    n = len(devices)
    rules = config(n, profile, Fraction(2, 5))
    confirming = profile is Profile.MALICIOUS
    clock = SynchronousClock(
        terms(goal=n, minimum=2, secure=True, confirming=confirming, session=rules),
        Hands(devices),
    )
    found = clock.round(0, ClockState(), work(*range(1, n + 1))).last
    if not found.completed:
        return
    vectors = np.array([[1, client, client**2] for client in found.roster])
    places = {client: place for place, client in enumerate(found.roster)}
    lost = {places[client]: where for client, where in found.silent_from.items()}
    result = run_session(vectors, config=rules, dropouts=lost)
    assert tuple(found.roster[place] for place in result.survivors) == found.survivors
    assert result.totals[0].tolist() == vectors[list(result.survivors)].sum(axis=0).tolist()


def test_the_terms_of_a_task_are_those_of_its_server() -> None:
    task = task_of(goal=5, minimum=5, secure='profile = "malicious"')
    rules = Terms.of(task)
    assert rules.policy == task.policy() and rules.policy.phases == CLIENT_PHASES
    assert rules.session == task.session_config() and rules.task is None
    assert (rules.silence_ms, rules.compute_ms) == (60_000, 600_000)


def test_work_is_counted_in_passes_of_rows_through_the_model() -> None:
    sizes = np.array([4, 5, 9])
    by_epochs = Work.of(task_of(work="epochs = 2"), sizes)
    assert by_epochs.examples.tolist() == [8, 10, 18]
    # Batches of 4: one, two and three a pass. Seven steps: 7 · 4; 3 · 5 + 4; 2 · 9 + 4.
    by_steps = Work.of(task_of(work="steps = 7"), sizes)
    assert by_steps.examples.tolist() == [28, 19, 22]
    task = task_of(algorithm='name = "fedsgd", lr = 0.1', work="")
    assert Work.of(task, sizes).examples.tolist() == [4, 5, 9]
    assert by_epochs.model_bytes == 4 * task.dimension
    assert by_epochs.update_bytes == task_of().layout.upload_bytes


def test_how_many_to_select_is_learnt_as_on_a_server() -> None:
    cohort = CohortSpec(goal=20, minimum=5, overselection=Fraction(2))
    task = replace(task_of(), cohort=cohort)
    rules = Terms.of(task)
    clock = SynchronousClock(rules, Hands([Device(dropout={Stage.UPLOAD: 0.2}, latency_s=1)] * 100))
    state, estimate, selected = ClockState(), DropoutEstimate.expecting(2), []
    for number in range(30):
        timeline = clock.round(number, state, work(*[1] * 100))
        for attempt in timeline.attempts:
            selected.append(len(attempt.cohort))
            assert selected[-1] == estimate.selection(20)
            estimate = overselection(estimate, seen_in(attempt.state))
        state = timeline.after
        if len(selected) >= 19:
            break
    assert selected[0] == 40 and 22 <= selected[-1] <= 30  # 20 / 0.8 = 25


def test_with_a_privacy_plan_nothing_is_learnt() -> None:
    promise = "unit = 'client', epsilon = 8.0, population = 100, clipping_norm = 1"
    task = task_of(goal=4, minimum=2, privacy=f"{promise}, noise = 'central'")
    several = replace(task, cohort=replace(task.cohort, overselection=Fraction(2)), plan=None)
    assert several.resolved().plan is not None
    assert Terms.of(several.resolved()).task is None


@pytest.mark.parametrize("secure", [False, True])
def test_a_round_of_a_thousand_of_ten_thousand_takes_a_fraction_of_a_second(secure: bool) -> None:
    spec = DevicesSpec.read(
        {
            "compute": {"kind": "lognormal", "median": 100.0, "sigma": 0.5},
            "upload": {"kind": "uniform", "least": 1e5, "most": 1e6},
            "dropout": {"training": 0.05, "checked_in": 0.01},
            "availability": {"kind": "cycle", "share": 0.3},
        },
        "devices",
    )
    devices = Devices(spec, seed=7, names=[f"{place}" for place in range(10_000)])
    clock = SynchronousClock(
        terms(goal=1000, minimum=500, secure=secure, confirming=secure), devices
    )
    what = work(*[60] * 10_000, model=10**5, update=10**5)
    spent = []
    for number in range(3):
        begun = time.process_time()
        assert clock.round(number, ClockState(), what).completed
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.2
