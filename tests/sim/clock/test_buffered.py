"""FedBuff's schedule: by hand, against synchronous rounds, and what holds of every one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import TaskError
from fedcore.rounds import Phase
from fedsim.clock import (
    BufferedClock,
    BufferedSchedule,
    Cause,
    ClockSpec,
    ClockState,
    ServerStep,
    StalenessSpec,
    Start,
    SynchronousClock,
    Terms,
    Traffic,
    Work,
)
from fedsim.devices import Stage
from tests.random_examples import thorough
from tests.sim.clock.hands import INF, Device, Hands, terms, work
from tests.sim.clock.test_rounds_hold import some_devices

RULES = terms(goal=1)
ABC = [Device(compute=10), Device(compute=5), Device(compute=2)]  # 1 s, 2 s and 5 s for 10 examples


def spec(concurrency: int, buffer: int, **more: Any) -> ClockSpec:
    return ClockSpec(schedule="buffered", concurrency=concurrency, buffer=buffer, **more)


def schedule(
    terms_of: ClockSpec, devices: Hands | list[Device], what: Work, *, steps: int, **more: Any
) -> list[ServerStep]:
    hands = devices if isinstance(devices, Hands) else Hands(devices)
    rules: Terms = more.pop("rules", RULES)
    return list(islice(BufferedClock(terms_of, rules, hands).steps(what, **more), steps))


def used(steps: Sequence[ServerStep], version: int) -> list[Start]:
    """Whose updates of a version these steps take."""
    return [u.start for step in steps for u in step.updates if u.start.version == version]


def seen(found: Sequence[ServerStep]) -> list[tuple[int, list[tuple[int, int, int, int]]]]:
    """Of each step its time, and of each update client, version, staleness and arrival."""
    return [
        (step.at, [(u.start.client, u.start.version, u.staleness, u.at) for u in step.updates])
        for step in found
    ]


def named(
    found: Sequence[ServerStep], names: list[str]
) -> list[tuple[int, list[tuple[object, ...]]]]:
    """The same by the clients' names."""
    return [
        (at, [(names[client], *rest) for client, *rest in updates]) for at, updates in seen(found)
    ]


def test_staleness_is_the_steps_that_were_made_since_a_client_started() -> None:
    found = schedule(spec(3, 2), ABC, work(10, 10, 10), steps=4)
    assert seen(found) == [
        (2000, [(0, 0, 0, 1000), (1, 0, 0, 2000)]),
        # The first had started again at 1 s, when there was no newer model yet.
        (3000, [(0, 0, 1, 2000), (0, 1, 0, 3000)]),
        (4000, [(1, 1, 1, 4000), (0, 2, 0, 4000)]),
        (5000, [(2, 0, 3, 5000), (0, 3, 0, 5000)]),
    ]
    weights = [[update.weight for update in step.updates] for step in found]
    assert weights == [[1, 1], [2**-0.5, 1], [2**-0.5, 1], [0.5, 1]]


def test_whom_to_train_from_a_version_is_known_before_its_updates_arrive() -> None:
    found = BufferedClock(spec(3, 2), RULES, Hands(ABC)).schedule(work(10, 10, 10), count=4)
    by_name = []
    for number in range(4):
        found.step(number)
        by_name.append([(start.client, start.turn, start.at) for start in found.starts(number)])
    assert sorted(by_name[0]) == [(0, 1, 0), (0, 2, 1000), (1, 1, 0), (2, 1, 0)]
    assert by_name[1:] == [[(0, 1, 2000), (1, 1, 2000)], [(0, 1, 3000)], [(0, 1, 4000)]]


def test_of_a_million_steps_no_more_are_found_than_those_that_the_next_one_needs() -> None:
    found = 0

    def counted(steps: Iterator[ServerStep]) -> Iterator[ServerStep]:
        nonlocal found
        for step in steps:
            found += 1
            yield step

    walk = BufferedClock(spec(3, 2), RULES, Hands(ABC)).steps(work(10, 10, 10))
    lazy = BufferedSchedule(counted(walk), count=10**6)
    # The slowest of them takes as long as five steps.
    for number in range(50):
        assert lazy.step(number).version == number
        assert number < found <= number + 6


def test_an_update_of_too_old_a_model_is_not_used() -> None:
    found = schedule(spec(3, 2, largest_staleness=2), ABC, work(10, 10, 10), steps=5)
    step = found[3]
    assert [(u.start.client, u.at) for u in step.updates] == [(0, 5000), (1, 6000)]
    ((start, cause, at),) = step.wasted
    assert (start.client, start.version, cause, at) == (2, 0, Cause.STALE, 5000)
    # Its bytes were sent all the same, and it starts anew.
    assert step.traffic == Traffic(3000, 1500)


@pytest.mark.parametrize(
    ("kind", "options", "weights"),
    [
        ("constant", {}, [1.0, 1.0, 1.0]),
        ("polynomial", {}, [1.0, 2**-0.5, 0.5]),
        ("polynomial", {"exponent": 1.0}, [1.0, 0.5, 0.25]),
    ],
)
def test_weights_fall_with_staleness(
    kind: str, options: dict[str, float], weights: list[float]
) -> None:
    staleness = StalenessSpec(name=kind, options=tuple(options.items()))
    assert [staleness.weight(age) for age in (0, 1, 3)] == pytest.approx(weights)


@pytest.mark.parametrize("device", [Device(), Device(compute=2, download=500, upload=50)])
def test_where_all_are_alike_it_is_a_synchronous_round_after_the_other(device: Device) -> None:
    devices, what = Hands([device] * 30), work(*[10] * 30)
    found = schedule(spec(6, 6), devices, what, steps=5)
    clock, state = SynchronousClock(terms(goal=6), devices), ClockState()
    for step in found:
        one = clock.round(step.version, state, what)
        assert step.at == one.end and step.wasted == ()
        assert [update.start.client for update in step.updates] == list(one.last.cohort)
        assert {update.staleness for update in step.updates} == {0}
        assert step.traffic == one.last.traffic[Phase.COLLECTING]
        state = one.after


def test_more_at_a_time_than_make_a_step_are_stale_even_if_they_take_no_time() -> None:
    found = schedule(spec(4, 2), [Device()] * 4, work(1, 1, 1, 1), steps=4)
    assert [[update.staleness for update in step.updates] for step in found] == [
        [0, 0],
        [1, 1],
        [0, 0],
        [1, 1],
    ]


def test_a_device_that_is_lost_holds_its_place_until_it_is_missed() -> None:
    lost = Device(compute=1, dropout={Stage.TRAINING: 1.0})
    devices = [lost, Device(compute=2)]
    found = schedule(spec(2, 1), devices, work(10, 10), steps=10, rules=terms(goal=1, silence_s=20))
    wasted = [waste for step in found for waste in step.wasted]
    assert [update.start.client for step in found for update in step.updates] == [1] * 10
    assert {(waste.start.client, waste.cause) for waste in wasted} == {(0, Cause.DROPPED)}
    assert all(20_000 <= waste.at - waste.start.at < 30_000 for waste in wasted)


def test_who_leaves_goes_away_or_fails_is_lost_for_that_reason() -> None:
    devices = [
        Device(compute=1),
        Device(dropout={Stage.CHECKED_IN: 1.0}),
        Device(compute=1, there=[(0, 5)]),
        Device(compute=1),
        Device(compute=0.01),
        Device(upload=1),
    ]
    rules = terms(goal=1, silence_s=1, compute_s=50, seconds={Phase.COLLECTING: 80})
    found = schedule(
        spec(6, 9), devices, work(*[10] * 6, update=500), steps=1, rules=rules, failing={3}
    )
    (step,) = found
    causes = {(waste.start.client, waste.cause, waste.at - waste.start.at) for waste in step.wasted}
    assert causes == {
        (1, Cause.DROPPED, 1000),
        (2, Cause.AWAY, 6000),
        (3, Cause.FAILED, 10_000),
        (4, Cause.SLOW, 50_000),
        (5, Cause.SLOW, 80_000),
    }
    assert {update.start.client for update in step.updates} == {0} and step.at == 90_000


def test_a_place_waits_for_the_next_who_comes() -> None:
    devices = [Device(there=[(0, 1), (40, 50)]), Device(there=[(10, 20)])]
    found = schedule(spec(2, 1), devices, work(1, 1), steps=1)
    assert [step.at for step in found] == [0]
    slow = [
        Device(compute=1, there=[(0, 4), (40, 70)]),
        Device(compute=1, there=[(10, 16)]),
    ]
    found = schedule(spec(2, 1), slow, work(3, 3), steps=4)
    assert [(step.at, step.updates[0].start.client) for step in found] == [
        (3000, 0),
        (13_000, 1),
        (16_000 + 27_000, 0),
        (46_000, 0),
    ]


def test_if_nobody_ever_comes_again_it_says_since_when() -> None:
    devices = [Device(compute=1, there=[(0, 4)]), Device(compute=1, there=[(90, 99)])]
    with pytest.raises(TaskError, match="version 2 of the model waits in vain") as caught:
        schedule(spec(1, 1), devices, work(3, 6), steps=3)
    assert "nobody is there ever" in str(caught.value)
    with pytest.raises(TaskError, match="before 90 s"):
        schedule(spec(1, 1, patience_s=60), devices, work(3, 6), steps=3)


def test_if_all_are_lost_it_says_of_what() -> None:
    with pytest.raises(TaskError, match="0 of 1 updates") as caught:
        schedule(spec(2, 1), [Device(dropout={Stage.UPLOAD: 1.0})] * 2, work(1, 1), steps=1)
    assert "dropped out" in caught.value.why


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schedule": "buffered", "buffer": 3}, "concurrency is missing"),
        ({"schedule": "buffered", "concurrency": 3}, "buffer is missing"),
        ({"buffer": 3}, "buffer is set for a synchronous"),
        ({"schedule": "asynchronous"}, "asynchronous"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError, match=says):
        ClockSpec.read(values, "clock")


def test_more_at_a_time_than_there_are_clients_are_refused() -> None:
    with pytest.raises(TaskError, match="concurrency = 4 of 3") as caught:
        BufferedClock(spec(4, 2), RULES, Hands(ABC))
    assert "3 at most" in caught.value.fix
    with pytest.raises(TaskError, match="synchronous"):
        BufferedClock(ClockSpec(), RULES, Hands(ABC))


Case = tuple[ClockSpec, list[Device], Work]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    devices = draw(some_devices())
    found = spec(
        draw(st.integers(1, len(devices))),
        draw(st.integers(1, 4)),
        largest_staleness=draw(st.sampled_from([None, 0, 2])),
    )
    sizes = draw(st.lists(st.integers(1, 50), min_size=len(devices), max_size=len(devices)))
    # Somebody is always there, so that the schedule goes on.
    return found, [*devices, Device(compute=7.0, there=((0.0, INF),))], work(*sizes, 10)


@given(cases())
@settings(max_examples=thorough(40))
def test_every_schedule_is_one_that_clients_could_have_followed(case: Case) -> None:
    terms_of, devices, what = case
    found = schedule(terms_of, devices, what, steps=6)
    assert [step.version for step in found] == list(range(6))
    times = [step.at for step in found]
    assert times == sorted(times)
    spans = []
    for step in found:
        assert len(step.updates) == terms_of.buffer
        assert step.updates[-1].at == step.at
        for update in step.updates:
            made = times[update.start.version - 1] if update.start.version else 0
            assert made <= update.start.at <= update.at <= step.at
            assert update.staleness == step.version - update.start.version
            assert terms_of.largest_staleness is None or update.staleness <= (
                terms_of.largest_staleness
            )
            spans.append((update.start.client, update.start.at, update.at))
        for waste in step.wasted:
            assert waste.start.at <= waste.at <= step.at
            spans.append((waste.start.client, waste.start.at, waste.at))
        sent = [waste for waste in step.wasted if waste.cause is Cause.STALE]
        assert step.traffic.up == what.update_bytes * (len(step.updates) + len(sent))
        assert step.traffic.down >= what.model_bytes * (len(step.updates) + len(sent))
    for client in range(len(devices)):
        mine = sorted((begin, end) for owner, begin, end in spans if owner == client)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(mine))
    for moment in {begin for _, begin, _ in spans}:
        busy = sum(begin <= moment < end for _, begin, end in spans)
        assert busy <= (terms_of.concurrency or 0)
    taken = [update.start for step in found for update in step.updates]
    assert len({(one.client, one.version, one.turn) for one in taken}) == len(taken)


@given(cases(), st.integers(0, 5))
@settings(max_examples=thorough(25))
def test_followed_step_by_step_it_says_of_each_version_all_that_the_whole_walk_does(
    case: Case, first: int
) -> None:
    terms_of, devices, what = case
    whole = schedule(terms_of, devices, what, steps=6)
    lazy = BufferedClock(terms_of, RULES, Hands(devices)).schedule(what, count=6, first=first)
    for number in range(first, 6):
        assert lazy.step(number) == whole[number]
        for version in range(number + 1):
            assert set(lazy.starts(version)) == set(used(whole[number:], version))
            assert lazy.is_needed(version) == bool(used(whole[number + 1 :], version))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=thorough(25))
def test_the_order_of_the_clients_does_not_matter(case: Case, random: Any) -> None:
    terms_of, devices, what = case
    names = [f"client {place}" for place in range(len(devices))]
    order = list(range(len(devices)))
    random.shuffle(order)
    mixed = [names[place] for place in order]
    there = Work(what.model_bytes, what.update_bytes, what.examples[order])
    one = schedule(terms_of, Hands(devices, names=names), what, steps=4)
    other = schedule(terms_of, Hands([devices[i] for i in order], names=mixed), there, steps=4)
    assert named(one, names) == named(other, mixed)
