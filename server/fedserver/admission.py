"""Which requests are let in: a server that is asked too much refuses early and says when to return.

Work that was begun goes before new work: under overload a check-in is refused, the upload of a
round is not. The newest of those who queue goes first, because the oldest will have given up by
then. Nothing here reads a clock; `now_s` is any clock that never goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fedcore.errors import OverloadedError
from fedserver.authorisation import Permission

__all__ = ["Admission", "LoopLag", "Rates", "Slots", "TokenBucket", "refused"]

# Calls that have been read and are not yet told that there is no place. Above that gRPC itself
# refuses, and says neither why nor for how long.
_BEING_REFUSED: Final = 1000


class TokenBucket:
    """`burst` calls at once, `rate` a second in the long run; it begins full.

    >>> bucket = TokenBucket(rate=10, burst=1, now_s=0)
    >>> bucket.take(now_s=0), bucket.take(now_s=0), bucket.take(now_s=0.1)
    (0.0, 0.1, 0.0)
    """

    __slots__ = ("_burst", "_rate", "_since", "_tokens")

    def __init__(self, *, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._since = float(burst), now_s

    def take(self, *, now_s: float) -> float:
        """Takes one, and returns 0; or takes none, and returns the seconds until there is one."""
        elapsed = max(0.0, now_s - self._since)
        self._tokens = min(self._burst, self._tokens + elapsed * self._rate)
        self._since = max(self._since, now_s)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Rates:
    """A bucket for every caller, of whom the `most` latest are remembered."""

    def __init__(self, *, rate: float, burst: float, most: int = 20_000) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, who: str, *, now_s: float) -> float:
        """Counts a call, and returns 0; or counts none, and returns the seconds until the next."""
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = TokenBucket(rate=self._rate, burst=self._burst, now_s=now_s)
            self._buckets[who] = bucket
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(who)
        return bucket.take(now_s=now_s)

    def check(self, who: str, *, now_s: float) -> None:
        """Counts a call. Raises: OverloadedError with the time until the next is free."""
        if (wait_s := self.take(who, now_s=now_s)) > 0:
            raise refused(
                "too many calls of one caller",
                why=f"{self._rate:g} a second are served, {self._burst:g} at once",
                least_ms=int(wait_s * 1000) + 1,
            )

    def __len__(self) -> int:
        return len(self._buckets)


class Slots:
    """At most `limit` at once; `queue` more wait, the newest first, none longer than `wait_s`."""

    def __init__(self, *, limit: int, queue: int, wait_s: float) -> None:
        self._limit, self._queue, self._wait_s = limit, queue, wait_s
        self._waiting: list[asyncio.Future[None]] = []
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many queue."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A slot for the length of the block. Raises: OverloadedError if none becomes free."""
        if self.taken < self._limit:
            self.taken += 1
        else:
            await self._turn()
        try:
            yield
        finally:
            self._release()

    async def _turn(self) -> None:
        """Waits until a slot is handed over; `taken` stays as it is."""
        if self._queue < 1:
            raise self._full()
        if len(self._waiting) >= self._queue:
            # The oldest has the least chance of being served in time.
            self._give_up(self._waiting[0])
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        timer = asyncio.get_running_loop().call_later(self._wait_s, self._give_up, mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.cancelled() and mine.exception() is None:
                self._release()  # it was handed over while its owner went away
            raise
        finally:
            timer.cancel()

    def _give_up(self, mine: asyncio.Future[None]) -> None:
        if mine in self._waiting:
            self._waiting.remove(mine)
            if not mine.done():
                mine.set_exception(self._full())

    def _release(self) -> None:
        while self._waiting:
            newest = self._waiting.pop()
            if not newest.done():  # else its owner went away, and has not yet run to say so
                newest.set_result(None)
                return
        self.taken -= 1

    def _full(self) -> OverloadedError:
        return refused(
            "the server is busy",
            why=f"{self._limit} requests are served at once, and none ended in time",
        )


class LoopLag:
    """How late the event loop is; `overloaded` when it was late for `for_s` seconds on end."""

    def __init__(self, *, threshold_s: float = 0.25, for_s: float = 1.0) -> None:
        self._threshold_s, self._for_s = threshold_s, for_s
        self._late_since: float | None = None
        self.lag_s = 0.0
        self.overloaded = False

    def sample(self, lag_s: float, *, now_s: float) -> None:
        """Notes that a timer came `lag_s` late."""
        self.lag_s = lag_s
        if lag_s <= self._threshold_s:
            self._late_since, self.overloaded = None, False
            return
        if self._late_since is None:
            # The loop was late since the timer should have come.
            self._late_since = now_s - lag_s
        self.overloaded = now_s - self._late_since >= self._for_s

    async def watch(
        self,
        *,
        now_s: Callable[[], float],
        every_s: float = 0.1,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Samples until it is cancelled."""
        while True:
            start_s = now_s()
            await sleep(every_s)
            self.sample(max(0.0, now_s() - start_s - every_s), now_s=now_s())


@dataclass(frozen=True, slots=True)
class _Pools:
    control: Slots
    bulk: Slots
    waits: Slots


class Admission:
    """Lets requests in, or refuses them with the time to come back.

    `concurrent`: calls that work at once; `queue`, `queue_wait_s`: behind them. `waiting`: calls
    that are held until something happens, which cost memory and no work. `bulk_bytes`: of chunks of
    `chunk_bytes` that are worked on at once. `rate`, `burst`: of one caller, a second; chunks are
    exempt. Of one caller `waiting_each` calls are held, and `reading_each` messages read, at once.
    `disk_free`: the free share of the disk, of which `least_free` is kept.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float],
        lag: LoopLag,
        disk_free: Callable[[], float],
        concurrent: int = 1000,
        queue: int = 1000,
        queue_wait_s: float = 2.0,
        waiting: int = 12_000,
        waiting_each: int = 8,
        reading_each: int = 16,
        bulk_bytes: int = 512 << 20,
        chunk_bytes: int = 1 << 20,
        rate: float = 10.0,
        burst: float = 20.0,
        least_free: float = 0.1,
    ) -> None:
        self._now_s, self._lag = now_s, lag
        self._disk_free, self._least_free = disk_free, least_free
        self._rates = Rates(rate=rate, burst=burst)
        # A chunk that queues is in memory as well: both together are within the bound.
        most_bulk = max(1, bulk_bytes // chunk_bytes)
        bulk_queue = min(queue, most_bulk // 2)
        self._pools = _Pools(
            control=Slots(limit=concurrent, queue=queue, wait_s=queue_wait_s),
            bulk=Slots(limit=most_bulk - bulk_queue, queue=bulk_queue, wait_s=queue_wait_s),
            waits=Slots(limit=waiting, queue=0, wait_s=0),
        )
        self._held: Counter[str] = Counter()
        self._read: Counter[str] = Counter()
        self._waiting_each, self._reading_each = waiting_each, reading_each
        self.rpcs = concurrent + queue + waiting + most_bulk + _BEING_REFUSED

    def check_server(self, permission: Permission) -> None:
        """Raises OverloadedError for a call that the server as a whole has no room for."""
        if self._lag.overloaded and not permission.begun:
            raise refused(
                "the server is overloaded",
                why=f"its event loop is {self._lag.lag_s * 1000:.0f} ms late",
                least_ms=2_000,
            )
        if permission.fills and not self.has_room():
            raise refused(
                "the server's disk is nearly full",
                why=f"less than {self._least_free:.0%} of it are free",
                least_ms=30_000,
            )

    def check_caller(self, permission: Permission, who: str) -> None:
        """Counts a call of `who`. Raises: OverloadedError for one too many."""
        if not permission.bulk:
            self._rates.check(who, now_s=self._now_s())

    @contextlib.contextmanager
    def held(self, permission: Permission, who: str) -> Iterator[None]:
        """Counts a call of `who` that is held. Raises: OverloadedError for one too many.

        Few callers could else keep all others from being held.
        """
        if permission.waits and self._held[who] >= self._waiting_each:
            raise refused(
                "too many calls of one caller wait",
                why=f"{self._waiting_each} are held at once",
            )
        self._held[who] += permission.waits
        try:
            yield
        finally:
            self._held[who] -= permission.waits
            if not self._held[who]:
                del self._held[who]

    @contextlib.contextmanager
    def reading(self, who: str) -> Iterator[None]:
        """Counts a message of `who` that is not whole. Raises: OverloadedError for one too many.

        One caller could else fill the memory, and every slot, with messages that never end.
        """
        if self._read[who] >= self._reading_each:
            raise refused(
                "too many messages of one caller are on their way",
                why=f"{self._reading_each} are read at once",
            )
        self._read[who] += 1
        try:
            yield
        finally:
            self._read[who] -= 1
            if not self._read[who]:
                del self._read[who]

    def slot(self, permission: Permission) -> contextlib.AbstractAsyncContextManager[None]:
        """A place for one call. Raises: OverloadedError on entry where none becomes free."""
        if permission.waits:
            return self._pools.waits.one()
        return (self._pools.bulk if permission.bulk else self._pools.control).one()

    @property
    def queued(self) -> int:
        """How many calls wait for others to end."""
        return self._pools.control.waiting + self._pools.bulk.waiting

    def has_room(self) -> bool:
        """Whether the disk takes more."""
        return self._disk_free() >= self._least_free


def refused(what: str, *, why: str, least_ms: int = 500) -> OverloadedError:
    """A refusal that passes: the caller comes back after `least_ms` to four times as long."""
    return OverloadedError(
        what,
        why=why,
        fix="wait as long as the answer says, then try again",
        retry=(least_ms, 4 * least_ms),
    )
