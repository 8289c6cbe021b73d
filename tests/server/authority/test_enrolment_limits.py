"""An address may try so often, guesses lock it out, and success costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import OverloadedError
from fedserver.enrolment_limits import EnrolmentLimits

MINUTE = 60_000


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def waits(limits: EnrolmentLimits, address: str = "a") -> int:
    """0 if the address may try (and does), else how long it is told to wait."""
    try:
        with limits.attempt(address):
            return 0
    except OverloadedError as refused:
        assert refused.retry is not None and refused.retry[0] <= refused.retry[1]
        return refused.retry[0]


def guess(limits: EnrolmentLimits, address: str = "a") -> None:
    with limits.attempt(address) as attempt:
        attempt.failed()


@given(st.lists(st.integers(0, 2 * MINUTE), max_size=60), st.integers(1, 10))
def test_no_minute_has_more_tries_than_allowed(pauses: list[int], per_minute: int) -> None:
    clock = Clock()
    limits = EnrolmentLimits(clock, per_minute=per_minute, failures=10**6)
    times = []
    for pause in pauses:
        clock.now += pause
        if not waits(limits):
            times.append(clock.now)
    for start in times:
        # A full bucket, and what flows in during the minute.
        assert sum(start <= at < start + MINUTE for at in times) <= 2 * per_minute


@given(st.integers(1, 10))
def test_whoever_waits_as_long_as_told_may_try(per_minute: int) -> None:
    clock = Clock()
    limits = EnrolmentLimits(clock, per_minute=per_minute)
    for _ in range(per_minute):
        assert waits(limits) == 0
    for _ in range(5):
        clock.now += waits(limits)
        assert waits(limits) == 0


def test_ten_wrong_guesses_lock_an_address_for_fifteen_minutes() -> None:
    clock = Clock()
    limits = EnrolmentLimits(clock)
    for _ in range(10):
        clock.now += MINUTE
        guess(limits)
    assert waits(limits) == 15 * MINUTE
    clock.now += 15 * MINUTE - 1
    assert waits(limits) == 1
    assert waits(limits, "b") == 0
    clock.now += 1
    assert waits(limits) == 0


def test_nine_wrong_guesses_before_a_right_one_lock_nobody() -> None:
    clock = Clock()
    limits = EnrolmentLimits(clock)
    for _ in range(3):
        for _ in range(9):
            clock.now += MINUTE
            guess(limits)
        with limits.attempt("a") as attempt:
            attempt.succeeded()
        assert waits(limits) == 0


def test_what_succeeds_is_given_back() -> None:
    limits = EnrolmentLimits(Clock())
    for _ in range(100):
        with limits.attempt("a") as attempt:
            attempt.succeeded()
    assert waits(limits) == 0


def test_an_error_on_the_way_counts_as_a_try() -> None:
    limits = EnrolmentLimits(Clock(), per_minute=1)
    with pytest.raises(KeyError), limits.attempt("a"):
        raise KeyError
    assert waits(limits) > 0


def test_a_clock_that_runs_backwards_gives_nothing_away() -> None:
    clock = Clock()
    limits = EnrolmentLimits(clock, per_minute=1)
    assert waits(limits) == 0
    clock.now -= 10 * MINUTE
    assert waits(limits) > 0


def test_memory_is_bounded_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedserver.enrolment_limits._ADDRESSES", 10)
    limits = EnrolmentLimits(Clock())
    for number in range(100):
        waits(limits, str(number))
    assert len(limits._records) == 10


def test_all_addresses_of_an_ipv6_network_are_one() -> None:
    limits = EnrolmentLimits(Clock(), per_minute=3)
    assert [waits(limits, f"ipv6:[2001:db8::{i}]") for i in range(3)] == [0] * 3
    assert waits(limits, "ipv6:[2001:db8::ffff]") > 0
    assert waits(limits, "ipv6:[2001:db8:0:1::1]") == 0
