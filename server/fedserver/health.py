"""Whether the server takes work, told in one voice to balancers, probes and operators.

Alive is who answers at all. Ready is who has no reason against it: the reasons are gathered here,
and from here go to `grpc.health.v1` on the service port and to `/readyz` on the ops port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from fedserver.metrics import Metrics

__all__ = ["Health"]


class Health:
    """Gathers the reasons against taking work.

    `services`: the full names for which balancers may ask, beside the server as a whole.
    `checks`: each gives a reason, or "" while all is well.
    """

    def __init__(
        self, services: Iterable[str], *, checks: Iterable[Callable[[], str]], metrics: Metrics
    ) -> None:
        self._names = ("", *services)
        self._checks, self._metrics = tuple(checks), metrics
        self._starting, self._stopping = True, False
        self.servicer = aio.HealthServicer()

    def reasons(self) -> list[str]:
        """Why no new work is taken; empty: it is."""
        if self._starting:
            return ["the server is starting"]
        if self._stopping:
            return ["the server is stopping"]
        return [reason for check in self._checks if (reason := check())]

    async def started(self) -> None:
        """From now on the checks decide."""
        self._starting = False
        await self.tell()

    async def stopping(self) -> None:
        """From now on the server is not ready, for good."""
        self._stopping = True
        await self.tell()

    async def tell(self) -> None:
        """Lets those who watch `grpc.health.v1` know."""
        ready = not self.reasons()
        self._metrics.ready.set(ready)
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in self._names:
            await self.servicer.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def watch(
        self, *, every_s: float = 1.0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Tells what the checks say until it is cancelled."""
        while True:
            await sleep(every_s)
            await self.tell()
