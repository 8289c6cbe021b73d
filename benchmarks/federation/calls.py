"""Calls that are timed and, where the server puts them off, repeated after the wait it asks for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from fedcore.errors import RefusedError, UnreachableError
from fedcore.wire.failures import error_from

__all__ = ["Calls"]

_CALL_S = 120.0
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass
class Calls:
    """The calls of any number of clients. `seconds`: of each answered one, by the RPC's name.

    `sent`, `received`: bytes of messages. `refused`: answers that put off, `bare` those of them
    that did not say until when.
    """

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sent: int = 0
    received: int = 0
    refused: int = 0
    bare: int = 0

    async def __call__(
        self, call: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request
    ) -> _Response:
        """The answer. Raises: what the server refused with for good."""
        name = type(request).__name__.removesuffix("Request")
        while True:
            begin = time.perf_counter()
            try:
                response = await call(request, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(self._wait_s(error))
                continue
            self.seconds[name].append(time.perf_counter() - begin)
            self.sent += request.ByteSize()
            self.received += response.ByteSize()
            return response

    def _wait_s(self, error: grpc.aio.AioRpcError) -> float:
        """How long a refusal asks to wait. Raises: what it says if no wait would help."""
        found = error_from(error)
        window = found.retry if isinstance(found, RefusedError) else None
        if window is None:
            self.bare += isinstance(found, UnreachableError)
            raise found
        self.refused += 1
        return random.uniform(*window) / 1000
