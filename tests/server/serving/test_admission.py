"""Admission: rates and slots as properties, and the order in which callers are refused."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import OverloadedError
from fedserver.admission import Admission, LoopLag, Rates, Slots, TokenBucket
from fedserver.authorisation import PERMISSIONS, Permission

CHECK_IN = PERMISSIONS["/fedcore.v1.ClientService/CheckIn"]
HEARTBEAT = PERMISSIONS["/fedcore.v1.ClientService/Heartbeat"]
PUT_CHUNK = PERMISSIONS["/fedcore.v1.UploadService/PutChunk"]
NEXT = PERMISSIONS["/fedcore.v1.RoundService/Next"]
GET_CHUNK = PERMISSIONS["/fedcore.v1.ModelService/GetChunk"]

WAITS = st.lists(st.floats(0, 3), max_size=60)


def an_admission(*, lag: LoopLag | None = None, free: float = 1.0, **limits: float) -> Admission:
    return Admission(now_s=lambda: 0.0, lag=lag or LoopLag(), disk_free=lambda: free, **limits)  # type: ignore[arg-type]


@given(WAITS, st.floats(0.5, 50), st.integers(1, 30))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(
    waits: list[float], rate: float, burst: int
) -> None:
    bucket, now, given_out = TokenBucket(rate=rate, burst=burst, now_s=0), 0.0, 0
    for wait in waits:
        now += wait
        given_out += bucket.take(now_s=now) == 0
        assert given_out <= burst + rate * now + 1e-6


@given(WAITS, st.floats(0.5, 50), st.integers(1, 30))
def test_who_waits_as_long_as_a_bucket_says_is_served(
    waits: list[float], rate: float, burst: int
) -> None:
    bucket, now = TokenBucket(rate=rate, burst=burst, now_s=0), 0.0
    for wait in waits:
        now += wait
        if (missing := bucket.take(now_s=now)) > 0:
            now += missing + 1e-9
            assert bucket.take(now_s=now) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now_s=100)
    assert bucket.take(now_s=100) == 0
    assert bucket.take(now_s=0) > 0
    assert bucket.take(now_s=100.5) > 0


def test_one_callers_calls_do_not_count_against_another() -> None:
    rates = Rates(rate=1, burst=2)
    rates.check("a", now_s=0)
    rates.check("a", now_s=0)
    with pytest.raises(OverloadedError) as refusal:
        rates.check("a", now_s=0)
    assert refusal.value.retry is not None and refusal.value.retry[0] >= 1000
    rates.check("b", now_s=0)


def test_only_the_latest_callers_are_remembered() -> None:
    rates = Rates(rate=1, burst=1, most=10)
    for number in range(1000):
        rates.check(str(number), now_s=0)
    assert len(rates) == 10
    with pytest.raises(OverloadedError):
        rates.check("999", now_s=0)


async def test_the_newest_of_those_who_queue_is_served_first() -> None:
    slots, order = Slots(limit=1, queue=10, wait_s=60), []

    async def work(name: str) -> None:
        async with slots.one():
            order.append(name)

    async with slots.one():
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(work(name)))
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["c", "b", "a"]
    assert slots.taken == slots.waiting == 0


async def test_when_the_queue_is_full_the_oldest_is_refused() -> None:
    slots = Slots(limit=1, queue=2, wait_s=60)
    async with slots.one():
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(_enter(slots)))
            await asyncio.sleep(0)
        await asyncio.wait({tasks[0]})
        assert isinstance(tasks[0].exception(), OverloadedError)
        assert slots.waiting == 2
    await asyncio.gather(*tasks[1:])
    assert slots.taken == 0


async def test_nobody_queues_longer_than_the_limit() -> None:
    slots = Slots(limit=1, queue=2, wait_s=0.01)
    async with slots.one():
        with pytest.raises(OverloadedError) as refusal:
            await _enter(slots)
        assert refusal.value.retry is not None
        assert slots.waiting == 0


@given(st.lists(st.tuples(st.sampled_from("arcx"), st.integers(0, 7)), max_size=40))
def test_slots_are_never_lost_nor_made_whoever_goes_away(acts: list[tuple[str, int]]) -> None:
    """Arrive, run the loop, cancel, exit: at most `limit` are inside, and all slots come back."""

    async def story() -> None:
        slots, inside, peak = Slots(limit=2, queue=3, wait_s=60), 0, 0
        tasks: list[asyncio.Task[None]] = []
        gates: list[asyncio.Event] = []

        async def work(gate: asyncio.Event) -> None:
            nonlocal inside, peak
            async with slots.one():
                inside += 1
                peak = max(peak, inside)
                try:
                    await gate.wait()
                finally:
                    inside -= 1

        for act, which in acts:
            if act == "a":
                gates.append(asyncio.Event())
                tasks.append(asyncio.create_task(work(gates[-1])))
            elif act == "r":
                await asyncio.sleep(0)
            elif tasks and act == "c":
                tasks[which % len(tasks)].cancel()
            elif tasks:
                gates[which % len(tasks)].set()
        for gate in gates:
            gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert peak <= 2
        assert slots.taken == 0 and slots.waiting == 0

    asyncio.run(story())


def test_the_loop_is_overloaded_after_a_second_of_lag_and_at_once_no_more() -> None:
    lag = LoopLag(threshold_s=0.25, for_s=1.0)
    lag.sample(0.3, now_s=0.3)
    assert not lag.overloaded
    lag.sample(0.3, now_s=1.0)
    assert lag.overloaded
    lag.sample(0.1, now_s=1.1)
    assert not lag.overloaded
    lag.sample(2.0, now_s=4.0)  # one stop of two seconds is a second of lag, too
    assert lag.overloaded


async def test_the_watch_measures_how_late_its_timer_is() -> None:
    lag, now = LoopLag(), [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds + 0.4
        if now[0] > 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await lag.watch(now_s=lambda: now[0], every_s=0.1, sleep=sleep)
    assert lag.overloaded and lag.lag_s == pytest.approx(0.4)


def test_new_work_is_refused_under_lag_and_begun_work_is_not() -> None:
    lag = LoopLag()
    lag.sample(2.0, now_s=2.0)
    admission = an_admission(lag=lag)
    for permission in PERMISSIONS.values():
        if permission.begun:
            admission.check_server(permission)
        else:
            with pytest.raises(OverloadedError) as refusal:
                admission.check_server(permission)
            assert refusal.value.retry is not None


def test_a_full_disk_refuses_what_fills_it_and_nothing_else() -> None:
    admission = an_admission(free=0.0999)
    for permission in (CHECK_IN, PUT_CHUNK):
        with pytest.raises(OverloadedError):
            admission.check_server(permission)
    for permission in (HEARTBEAT, NEXT, GET_CHUNK):
        admission.check_server(permission)
    an_admission(free=0.1).check_server(PUT_CHUNK)


def test_chunks_do_not_count_for_the_rate() -> None:
    admission = an_admission(rate=1, burst=1)
    for _ in range(100):
        admission.check_caller(PUT_CHUNK, "a")
    admission.check_caller(HEARTBEAT, "a")
    with pytest.raises(OverloadedError):
        admission.check_caller(HEARTBEAT, "a")


async def test_who_waits_for_an_instruction_takes_no_slot_of_those_who_work() -> None:
    admission = an_admission(concurrent=1, queue=0, waiting=2, bulk_bytes=1 << 20)
    async with contextlib.AsyncExitStack() as held:
        for permission in (NEXT, NEXT, HEARTBEAT, PUT_CHUNK):
            await held.enter_async_context(admission.slot(permission))
        for permission in (NEXT, HEARTBEAT, PUT_CHUNK):
            with pytest.raises(OverloadedError):
                await _hold(admission, permission)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 12))
def test_chunks_that_are_worked_on_or_queue_are_never_more_than_fit(
    fit: int, queue: int, come: int
) -> None:
    async def story() -> None:
        admission = an_admission(bulk_bytes=fit << 20, queue=queue, queue_wait_s=60)
        gate, inside = asyncio.Event(), 0

        async def work() -> None:
            nonlocal inside
            async with admission.slot(PUT_CHUNK):
                inside += 1
                await gate.wait()

        tasks = [asyncio.create_task(work()) for _ in range(come)]
        for _ in range(3):
            await asyncio.sleep(0)
        held = sum(not task.done() for task in tasks)
        assert held == inside + admission.queued <= fit
        assert come == 0 or inside > 0
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [one for one in found if one is not None]
        assert len(refused) == come - held
        assert all(isinstance(one, OverloadedError) and one.retry for one in refused)

    asyncio.run(story())


async def _enter(slots: Slots) -> None:
    async with slots.one():
        pass


async def _hold(admission: Admission, permission: Permission) -> None:
    async with admission.slot(permission):
        pass
