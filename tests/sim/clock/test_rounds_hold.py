"""What holds of every round, whatever the devices: nobody counts twice, and time goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import TaskError
from fedcore.rounds import CLIENT_PHASES, Phase, replay
from fedcore.rounds.state import RoundState
from fedcore.secagg.loopback import LostAt
from fedsim.clock import ClockState, RoundTimeline, SynchronousClock, Terms, Traffic, Work, attempt
from fedsim.devices import Stage
from tests.random_examples import thorough
from tests.sim.clock.hands import Device, Hands, terms, work

INF = float("inf")
RARELY = st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.0])
WINDOWS = st.lists(st.integers(0, 60), min_size=2, max_size=6, unique=True).map(sorted)


@st.composite
def some_devices(draw: st.DrawFn) -> list[Device]:
    found = []
    for _ in range(draw(st.integers(3, 9))):
        cuts = draw(WINDOWS)
        pairs = [(2.0 * b, 2.0 * e) for b, e in zip(cuts[::2], cuts[1::2], strict=False)]
        found.append(
            Device(
                compute=draw(st.sampled_from([INF, 2.0, 10.0])),
                download=draw(st.sampled_from([INF, 77.0, 1000.0])),
                upload=draw(st.sampled_from([INF, 50.0, 500.0])),
                latency_s=draw(st.sampled_from([0.0, 0.25, 3.0])),
                dropout={draw(st.sampled_from(Stage)): draw(RARELY)},
                there=draw(st.sampled_from([((0.0, INF),), ((0.0, INF),), pairs])),
            )
        )
    return found


@st.composite
def some_rounds(draw: st.DrawFn) -> tuple[Terms, list[Device], Work, int, frozenset[int]]:
    devices = draw(some_devices())
    select = draw(st.integers(1, len(devices)))
    goal = draw(st.integers(1, select))
    secure = draw(st.booleans())
    rules = terms(
        goal=goal,
        minimum=draw(st.integers(1, 1 + goal // 2)) if goal > 1 else 1,
        select=select,
        seconds={phase: draw(st.sampled_from([1, 20, 60, 90])) for phase in CLIENT_PHASES},
        secure=secure,
        confirming=secure and draw(st.booleans()),
        max_attempts=3,
        silence_s=draw(st.sampled_from([0, 5, 40])),
        compute_s=draw(st.sampled_from([5, 30, 100])),
    )
    sizes = draw(st.lists(st.integers(1, 50), min_size=len(devices), max_size=len(devices)))
    exchanged = {Phase.KEYS: Traffic(3, 50), Phase.UNMASKING: Traffic(7, 9)}
    failing = draw(st.frozensets(st.integers(0, len(devices) - 1), max_size=2))
    return rules, devices, work(*sizes, exchanged=exchanged), draw(st.integers(0, 9)), failing


Case = tuple[Terms, list[Device], Work, int, frozenset[int]]


def held(case: Case, *, names: Sequence[str] | None = None) -> RoundTimeline | str:
    """The round, or why there is none."""
    rules, devices, what, number, failing = case
    try:
        clock = SynchronousClock(rules, Hands(devices, names=names))
        return clock.round(number, ClockState(at=4000), what, failing=failing)
    except TaskError as error:
        return str(error)


@given(some_rounds())
@settings(max_examples=thorough(60))
def test_every_selected_client_has_reported_or_is_lost(case: Case) -> None:
    rules, failing = case[0], case[4]
    timeline = held(case)
    if isinstance(timeline, str):
        return
    for one in timeline.attempts:
        before = {client for client, loss in one.lost.items() if loss.phase in CLIENT_PHASES[:3]}
        after = {client for client, loss in one.lost.items() if loss.phase in CLIENT_PHASES[3:]}
        left = {client for client, loss in one.lost.items() if loss.phase is Phase.SELECTING}
        assert set(one.cohort) == (before | after if not one.reported else before) | set(
            one.reported
        )
        assert not before & set(one.reported) and not left & set(one.cohort)
        assert len(set(one.cohort)) == len(one.cohort) <= rules.policy.select
        assert not one.completed or len(one.reported) >= rules.policy.minimum
        assert not failing & set(one.reported)
        assert sum(one.funnel.values()) == len(one.lost)
        assert set(one.silent_from) <= set(one.cohort)
        assert all(
            (client in one.reported) == (where >= LostAt.CONFIRMATION)
            for client, where in one.silent_from.items()
        )


@given(some_rounds())
@settings(max_examples=thorough(60))
def test_time_never_runs_backwards_and_the_transitions_lead_where_the_machine_is(
    case: Case,
) -> None:
    timeline = held(case)
    if isinstance(timeline, str):
        return
    at = 4000
    for number, one in enumerate(timeline.attempts, 1):
        assert at <= one.begin <= one.end
        at = one.begin
        for transition in one.transitions:
            assert transition.at >= at
            at = transition.at
        assert one.end == at
        for client, moment in one.reported.items():
            assert one.begin <= moment <= one.end and client in one.cohort
        for loss in one.lost.values():
            assert loss.at <= one.end
        opened = RoundState.opened("simulated", round=one.state.round, attempt=number, at=one.begin)
        assert replay(opened, one.transitions).lost == one.state.lost
        assert one.completed == (one is timeline.last and timeline.completed)
    assert timeline.after.at == at == timeline.end


@given(some_rounds())
@settings(max_examples=thorough(30))
def test_bytes_are_those_of_whole_models_and_of_answers_in_time(case: Case) -> None:
    _, _, what, _, _ = case
    timeline = held(case)
    if isinstance(timeline, str):
        return
    for one in timeline.attempts:
        assert one.bytes_down == sum(each.down for each in one.traffic.values())
        assert one.bytes_up == sum(each.up for each in one.traffic.values())
        down, up = one.traffic.get(Phase.COLLECTING, Traffic())
        assert down % what.model_bytes == 0 and up % what.update_bytes == 0
        models, updates = down // what.model_bytes, up // what.update_bytes
        assert len(one.reported) <= updates <= models <= len(one.cohort)
        if one.completed:
            assert updates == len(one.reported)


def outline(timeline: RoundTimeline | str, names: Sequence[str]) -> object:
    """All that was decided, by the clients' names."""
    if isinstance(timeline, str):
        return timeline
    return [
        (
            [names[client] for client in one.cohort],
            {names[client]: at for client, at in one.reported.items()},
            {names[client]: loss for client, loss in one.lost.items()},
            {names[client]: where for client, where in one.silent_from.items()},
            one.traffic,
            one.spans,
            one.state.reason,
        )
        for one in timeline.attempts
    ]


@given(some_rounds(), st.randoms(use_true_random=False))
@settings(max_examples=thorough(60))
def test_the_order_of_the_clients_does_not_matter(case: Case, random: object) -> None:
    rules, devices, what, number, failing = case
    names = [f"client {place}" for place in range(len(devices))]
    order = list(range(len(devices)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = Work(
        what.model_bytes, what.update_bytes, what.examples[order], exchanged=what.exchanged
    )
    failing_there = frozenset(order.index(client) for client in failing)
    other: Case = rules, [devices[place] for place in order], moved, number, failing_there
    mixed = [names[place] for place in order]
    assert outline(held(case, names=names), names) == outline(held(other, names=mixed), mixed)


@given(some_rounds())
@settings(max_examples=thorough(60))
def test_messages_taken_together_lead_where_each_alone_does(case: Case) -> None:
    names = [str(place) for place in range(len(case[1]))]
    together = outline(held(case), names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "_undecided", lambda state, policy: 0)
        assert outline(held(case), names) == together


@given(some_rounds())
@settings(max_examples=thorough(30))
def test_the_same_seed_holds_the_same_round_and_a_record_of_the_state_is_enough(
    case: Case,
) -> None:
    names = [str(place) for place in range(len(case[1]))]
    first, again = held(case), held(case)
    assert outline(first, names) == outline(again, names)
    if not isinstance(first, str):
        assert ClockState.from_record(first.after.to_record()) == first.after


def test_a_clients_fate_does_not_depend_on_who_else_takes_part() -> None:
    chance = Device(compute=1, dropout={Stage.TRAINING: 0.3, Stage.UPLOAD: 0.1}, upload=100)
    devices = Hands([chance] * 60)
    what = work(*[10] * 60)

    def fates(among: set[int]) -> dict[int, object]:
        rules = terms(goal=len(among), minimum=1)
        one = (
            SynchronousClock(rules, devices)
            .round(2, ClockState(), what, among=lambda _: among)
            .last
        )
        return {client: one.lost.get(client) or one.reported[client] for client in one.cohort}

    everyone, few = fates(set(range(60))), fates({3, 8, 11, 40, 41, 42})
    assert few == {client: everyone[client] for client in few}
    lost = sum(not isinstance(fate, int) for fate in everyone.values())
    assert 10 <= lost <= 35  # 22 ± 3.5 standard deviations


def test_attempts_and_rounds_draw_other_cohorts() -> None:
    clock = SynchronousClock(terms(goal=5), Hands([Device()] * 200))
    cohorts = [
        clock.round(number, ClockState(), work(*[1] * 200)).last.cohort for number in range(4)
    ]
    assert len({frozenset(cohort) for cohort in cohorts}) == 4


@pytest.mark.slow
def test_every_client_is_drawn_as_often() -> None:
    clock = SynchronousClock(terms(goal=5), Hands([Device()] * 200))
    counts = np.bincount(
        [
            client
            for number in range(400)
            for client in clock.round(number, ClockState(), work(*[1] * 200)).last.cohort
        ],
        minlength=200,
    )
    assert counts.sum() == 2000 and counts.max() <= 25  # each 10 in the mean
