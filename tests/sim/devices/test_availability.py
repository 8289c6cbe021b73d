"""Who is there when: windows by hand, and the crowd against a count of every moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedsim.devices import NEVER, Availability, crowd
from fedsim.devices.availability import Always, DutyCycle, Places
from fedsim.devices.trace import Record, Trace


def there(availability: Availability, client: int, at: int) -> bool:
    begins, ends = availability.window(np.array([client]), at)
    return bool(begins[0] <= at < ends[0])


def trace(*clients: list[tuple[int, int]], period: int = 0) -> Trace:
    windows = [window for client in clients for window in client]
    record = Record(
        begins=np.array([begin for begin, _ in windows], np.int64),
        ends=np.array([end for _, end in windows], np.int64),
        offsets=np.cumsum([0, *map(len, clients)]),
        names=tuple(map(str, range(len(clients)))),
    )
    return Trace(record, rows=np.arange(len(clients)), period=period)


def test_who_is_always_there_never_leaves() -> None:
    begins, ends = Always().window(np.arange(3), 10**9)
    assert begins.tolist() == [0, 0, 0] and ends.tolist() == [NEVER] * 3


def test_a_clock_that_is_ahead_begins_and_ends_its_window_earlier() -> None:
    halves = DutyCycle(np.array([0, 30]).take, period=100, length=50)
    both = np.arange(2)
    assert [part.tolist() for part in halves.window(both, 0)] == [[0, -30], [50, 20]]
    assert [part.tolist() for part in halves.window(both, 20)] == [[0, 70], [50, 120]]
    assert [part.tolist() for part in halves.window(both, 50)] == [[100, 70], [150, 120]]


def test_a_cycle_without_a_pause_is_never_over() -> None:
    _, ends = DutyCycle(np.array([3]).take, period=10, length=10).window(np.arange(1), 7)
    assert ends.tolist() == [NEVER]


def test_a_recorded_client_is_there_in_its_windows_alone() -> None:
    recorded = trace([(10, 20), (30, 40)], [(0, 5)], [])
    moments = (0, 4, 5, 10, 19, 20, 30, 39, 40, 100)
    assert [at for at in moments if there(recorded, 0, at)] == [10, 19, 30, 39]
    assert [at for at in moments if there(recorded, 1, at)] == [0, 4]
    assert [at for at in moments if there(recorded, 2, at)] == []
    assert [part.tolist() for part in recorded.window(np.arange(3), 20)] == [
        [30, NEVER, NEVER],
        [40, NEVER, NEVER],
    ]


def test_how_long_a_client_stays_at_most_is_that_of_its_longest_window() -> None:
    three = np.arange(3)
    assert Always().longest(three).tolist() == [NEVER] * 3
    cycle = DutyCycle(np.array([0, 3, 5]).take, period=10, length=4)
    assert cycle.longest(three).tolist() == [4] * 3
    assert DutyCycle(np.array([0]).take, period=4, length=4).longest(three[:1]).tolist() == [NEVER]
    windows = [(0, 20), (30, 60), (90, 100)], [(10, 40)], []
    assert trace(*windows).longest(three).tolist() == [30, 30, 0]
    # What ends with the period goes on with the next.
    assert trace(*windows, period=100).longest(three).tolist() == [30, 30, 0]
    assert trace([(0, 25), (90, 100)], [(0, 100)], period=100).longest(three[:2]).tolist() == [
        35,
        NEVER,
    ]


def test_a_record_repeats_after_its_period() -> None:
    recorded = trace([(10, 20)], [(0, 5), (90, 100)], period=100)
    assert [part.tolist() for part in recorded.window(np.array([0, 0, 0]), 220)] == [
        [310] * 3,
        [320] * 3,
    ]
    assert there(recorded, 0, 1015) and not there(recorded, 0, 1020)
    # There until the end of a period and from the begin of the next: one window.
    assert [part.tolist() for part in recorded.window(np.array([1]), 195)] == [[190], [205]]


@st.composite
def populations(draw: st.DrawFn) -> tuple[Availability, Places]:
    count = draw(st.integers(1, 5))
    if draw(st.booleans()):
        phases = np.array(draw(st.lists(st.integers(0, 19), min_size=count, max_size=count)))
        return DutyCycle(phases.take, period=20, length=draw(st.integers(1, 20))), np.arange(count)
    edges = st.lists(st.integers(0, 24), max_size=6, unique=True).map(sorted)
    lists = [draw(edges) for _ in range(count)]
    windows = [list(zip(cut[::2], cut[1::2], strict=False)) for cut in lists]
    return trace(*windows, period=draw(st.sampled_from([0, 24, 30]))), np.arange(count)


@given(populations(), st.integers(0, 100))
def test_the_window_is_the_present_one_or_the_next(
    population: tuple[Availability, Places], at: int
) -> None:
    availability, clients = population
    begins, ends = availability.window(clients, at)
    assert ((ends > at) & (begins < ends) | (begins == NEVER)).all()
    for client, begin, end in zip(clients.tolist(), begins.tolist(), ends.tolist(), strict=True):
        present = [moment for moment in range(at, at + 70) if there(availability, client, moment)]
        assert present[:1] == ([max(at, begin)] if begin < NEVER else [])
        assert set(range(max(at, begin), min(end, at + 70))) <= set(present)
        # What ends there has ended, unless it is a whole period that another follows.
        assert end == NEVER or end - begin >= 24 or not there(availability, client, end)


@given(populations(), st.integers(0, 100))
def test_the_crowd_is_the_count_of_every_moment(
    population: tuple[Availability, Places], at: int
) -> None:
    availability, clients = population
    seen = crowd(availability, clients, at)
    counted = [
        sum(there(availability, client, moment) for client in clients.tolist())
        for moment in range(at, at + 70)
    ]
    assert seen.most == max(counted)
    for count in range(len(clients) + 2):
        moments = [at + place for place, here in enumerate(counted) if here >= count]
        assert seen.first(count) == (moments[0] if moments else NEVER)


@pytest.mark.parametrize("at", [0, 5])
def test_of_nobody_nobody_is_ever_there(at: int) -> None:
    seen = crowd(Always(), np.arange(0), at)
    assert seen.most == 0 and seen.first(0) == at and seen.first(1) == NEVER
