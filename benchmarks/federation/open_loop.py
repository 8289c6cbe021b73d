"""Calls begin at moments fixed in advance, however late the server is.

A generator that waits for an answer before its next call slows down together with the server, and
so never measures the wait of those who came meanwhile ("coordinated omission"). Here a call's time
counts from the moment at which it should have begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

__all__ = ["Latencies", "offered"]

Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of all calls of a run, sorted; how many failed; and how long the run took."""

    seconds: tuple[float, ...]
    failed: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.elapsed_s

    def at(self, share: float) -> float:
        """The seconds within which this share of the calls was answered; infinite if they failed.

        >>> Latencies((0.1, 0.2, 0.3, 0.4), 0, 1.0).at(0.5)
        0.2
        """
        place = -int(-share * (len(self.seconds) + self.failed) // 1) - 1
        return self.seconds[place] if place < len(self.seconds) else float("inf")


async def offered(call: Call, *, rate: float, seconds: float) -> Latencies:
    """`rate` calls a second for so long, evenly; `call` gets the number of each."""
    begin, count = time.perf_counter() + 0.01, int(rate * seconds)
    found: list[float] = []
    failures: list[BaseException] = []

    async def one(index: int) -> None:
        try:
            await call(index)
        except Exception as error:
            failures.append(error)
        else:
            found.append(time.perf_counter() - begin - index / rate)

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            if (early := begin + index / rate - time.perf_counter()) > 0.001:
                await asyncio.sleep(early)
            elif index % 16 == 0:  # never more calls begun than answers are taken
                await asyncio.sleep(0)
            group.create_task(one(index))
    return Latencies(tuple(sorted(found)), len(failures), time.perf_counter() - begin)
