"""Who of a cohort counts as silent."""

from __future__ import annotations

from fedserver.federation.cohort import Cohort


class Clock:
    """Seconds that only a test moves on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_client_is_silent_when_it_was_not_heard_for_so_long() -> None:
    clock = Clock()
    cohort = Cohort(clock)
    cohort.hear(b"a")
    clock.now += 3
    cohort.hear(b"b")
    assert cohort.silent([b"a", b"b"], longer_than_s=3) == [b"a"]


def test_seconds_in_which_the_server_did_not_listen_are_no_silence() -> None:
    clock = Clock()
    cohort = Cohort(clock)
    cohort.hear(b"a")
    clock.now += 60
    cohort.excuse(59)
    assert cohort.silent([b"a"], longer_than_s=2) == []
    clock.now += 1
    assert cohort.silent([b"a"], longer_than_s=2) == [b"a"]


def test_nobody_is_heard_in_the_future() -> None:
    clock = Clock()
    cohort = Cohort(clock)
    cohort.hear(b"a")
    cohort.excuse(60)
    clock.now += 2
    assert cohort.silent([b"a"], longer_than_s=2) == [b"a"]


async def test_a_check_in_that_is_said_twice_waits_once_and_until_its_last_call_ends() -> None:
    cohort = Cohort()
    first, again = cohort.enter(b"a", b"one"), cohort.enter(b"a", b"one")
    assert again is first and cohort.waiting == 1
    assert not cohort.leave(b"a", first)
    assert cohort.waits(b"a", b"one") and not first.answer.done()
    assert cohort.leave(b"a", again)
    assert not cohort.waits(b"a", b"one") and cohort.waiting == 0


async def test_another_check_in_of_a_client_takes_the_place_of_the_one_before() -> None:
    cohort = Cohort()
    first, other = cohort.enter(b"a", b"one"), cohort.enter(b"a", b"two")
    assert first.answer.result() is None and not other.answer.done()
    assert not cohort.leave(b"a", first)
    assert cohort.waits(b"a", b"two") and not cohort.waits(b"a", b"one")
