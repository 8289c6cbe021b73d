"""Calls at a steady pace, of which some are given up before they are answered, and begun again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from benchmarks.federation.calls import Calls

__all__ = ["UnsteadyCalls"]

_GIVEN_UP_S = 0.05  # the longest that a call lives which is given up
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass
class UnsteadyCalls(Calls):
    """`rate` calls a second by all clients together, and the share `given_up` of them cancelled.

    `begun`, `cancelled`: how many there were so far.
    """

    rate: float = 50.0
    given_up: float = 0.05
    begun: int = 0
    cancelled: int = 0
    _next_s: float = 0.0

    async def __call__(
        self, call: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        """The answer. Raises: what the server refused with for good."""
        while True:
            await self._turn()
            self.begun += 1
            if random.random() >= self.given_up:
                return await super().__call__(call, request)
            self.cancelled += 1
            begun = call(request, timeout=_GIVEN_UP_S)
            await asyncio.sleep(random.uniform(0.0, _GIVEN_UP_S))
            begun.cancel()

    async def _turn(self) -> None:
        """Waits for the next moment at which a call is due; none is made up for."""
        now_s = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s + 1 / self.rate, now_s)
        await asyncio.sleep(self._next_s - now_s)
