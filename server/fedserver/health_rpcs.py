"""`grpc.health.v1` for balancers: no certificate is looked at, and no address keeps much of it.

A check is answered also where a server is too busy for work, or a balancer would take it for dead.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from fedcore.errors import FedcoreError
from fedcore.wire.failures import failure_of, metadata_of, status_of
from fedserver.admission import Admission
from fedserver.authorisation import ANYONE, Permission
from fedserver.calls import Context, Methods, message_of, peer_address
from fedserver.networks import network_of

__all__ = ["health_methods"]

_WATCHED = Permission(ANYONE, waits=True)


def health_methods(servicer: aio.HealthServicer, *, admission: Admission) -> Methods:
    """The RPCs of `servicer`.

    Of one address at most as many are read, and watch, as `admission` says.
    """
    calls = _Calls(servicer, admission)
    codec: dict[str, Any] = {
        "request_deserializer": health_pb2.HealthCheckRequest.FromString,
        "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
    }
    return {
        "Check": grpc.stream_unary_rpc_method_handler(calls.check, **codec),
        "Watch": grpc.stream_stream_rpc_method_handler(calls.watch, **codec),
    }


class _Calls:
    def __init__(self, servicer: aio.HealthServicer, admission: Admission) -> None:
        self._servicer, self._admission = servicer, admission

    async def check(self, _: object, context: Context) -> Any:
        try:
            request = await self._request(context)
        except FedcoreError as error:
            await _refuse(error, context)
        return await self._servicer.Check(request, context)

    async def watch(self, _: object, context: Context) -> None:
        try:
            request = await self._request(context)
            async with self._admission.slot(_WATCHED):
                with self._admission.held(_WATCHED, _who(context)):
                    await self._servicer.Watch(request, context)
        except FedcoreError as error:
            await _refuse(error, context)

    async def _request(self, context: Context) -> Any:
        with self._admission.reading(_who(context)):
            return await message_of(context)


def _who(context: Context) -> str:
    return network_of(peer_address(context))


async def _refuse(error: FedcoreError, context: Context) -> NoReturn:
    await context.abort(status_of(error), failure_of(error).what, metadata_of(error))
