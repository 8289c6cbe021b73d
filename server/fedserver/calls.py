"""What is taken of a call: whence it comes, and its one message, when it is asked for.

To gRPC each call is a stream of one message, because of a stream nothing is read before it is asked
for: whoever is refused has sent 64 KiB, and no message is in memory for which nobody has a place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc

from fedcore.errors import InvalidRequestError
from fedcore.wire.channels import LONGEST_MESSAGE_S

__all__ = ["Context", "Methods", "message_of", "peer_address"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Methods: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
"""The RPCs of a service, by their names."""

_CANCELLED_WITHIN_S = 0.2


def peer_address(context: Context) -> str:
    """Whence a call comes, without the port: "ipv4:127.0.0.1"."""
    return context.peer().rpartition(":")[0]


async def message_of(context: Context) -> Any:
    """The message of a call. Raises: InvalidRequestError if it does not come."""
    try:
        async with asyncio.timeout(LONGEST_MESSAGE_S):
            found = await context.read()
        if found is not grpc.aio.EOF:
            return found
        # Of whoever went away gRPC says first that nothing comes, and then that it is cancelled.
        await asyncio.sleep(_CANCELLED_WITHIN_S)
        why = "it ended before its message was whole"
    except TimeoutError:
        why = f"its message was not whole after {LONGEST_MESSAGE_S} s"
    raise InvalidRequestError(
        "the call has no message", why=why, fix="send one message, on a slow line a shorter one"
    )
