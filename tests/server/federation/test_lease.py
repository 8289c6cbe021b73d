"""The right to drive a task is renewed as long as it can be, and given back in the end."""

from __future__ import annotations

import asyncio

import pytest

from fedcore.errors import LeaseLostError, StoreError
from fedserver.federation.lease import held
from fedserver.store.records import Lease

LEASE = Lease("task-1", "here", 1, 0, 1)


class Leases:
    """A store of one lease, whose renewals end as they are told to, and then well."""

    def __init__(self, *renewals: Exception) -> None:
        self._renewals, self.asked = list(renewals), 0
        self.renewed, self.refused = asyncio.Event(), asyncio.Event()
        self.given_back, self.free, self.counted = False, True, 0

    async def acquire_lease(self, task_id: str, owner: str, ttl_ms: int) -> Lease | None:
        return LEASE if self.free else None

    async def renew_lease(self, lease: Lease, ttl_ms: int) -> Lease:
        self.asked += 1
        if self._renewals:
            self.refused.set()
            raise self._renewals.pop(0)
        self.renewed.set()
        return lease

    async def release_lease(self, lease: Lease, *, attempts: int = 0) -> None:
        self.given_back, self.counted = True, attempts


def ignored() -> None:
    raise AssertionError("it was not lost")


async def test_a_store_that_fails_once_does_not_end_the_renewals() -> None:
    store = Leases(StoreError("the disk is full"), StoreError("the disk is full"))
    async with held(store, "task-1", "here", ttl_ms=3, lost=ignored) as lease:  # type: ignore[arg-type]
        await asyncio.wait_for(store.renewed.wait(), 10)
        assert lease() == LEASE
    assert store.asked >= 3 and store.given_back


@pytest.mark.parametrize(
    ("error", "counted"), [(ValueError("a mistake"), 1), (StoreError("the disk is full"), 0)]
)
async def test_what_ends_in_vain_is_counted_unless_it_may_pass(
    error: Exception, counted: int
) -> None:
    store = Leases()
    with pytest.raises(type(error)):
        async with held(store, "task-1", "here", ttl_ms=3000, lost=ignored):  # type: ignore[arg-type]
            raise error
    assert store.given_back and store.counted == counted


async def test_a_lease_that_was_lost_is_neither_renewed_nor_given_back() -> None:
    store = Leases(LeaseLostError("another has it"))
    lost = asyncio.Event()
    async with held(store, "task-1", "here", ttl_ms=3, lost=lost.set) as lease:  # type: ignore[arg-type]
        await asyncio.wait_for(lost.wait(), 10)
        with pytest.raises(LeaseLostError):
            lease()
    assert store.asked == 1 and not store.given_back


async def test_a_lease_that_another_has_is_not_waited_for() -> None:
    store = Leases()
    store.free = False
    with pytest.raises(LeaseLostError):
        async with held(store, "task-1", "here", ttl_ms=3, lost=ignored):  # type: ignore[arg-type]
            raise AssertionError("entered")
    assert not store.given_back


@pytest.mark.parametrize(
    ("renewal", "raised"),
    [
        (None, FileNotFoundError),
        (StoreError("the disk is full"), FileNotFoundError),
        (LeaseLostError("another has it"), LeaseLostError),
    ],
    ids=["held", "unknown", "lost"],
)
async def test_what_goes_wrong_because_another_has_the_lease_is_told_as_that(
    renewal: Exception | None, raised: type[Exception]
) -> None:
    store = Leases(*([] if renewal is None else [renewal]))
    gone = FileNotFoundError("an update that another server has added up")
    with pytest.raises(raised) as found:
        async with held(store, "task-1", "here", ttl_ms=60_000, lost=ignored):  # type: ignore[arg-type]
            raise gone
    assert gone in (found.value, found.value.__cause__)
